"""The lint of secrets knows what is secret by where it comes from, and says each way in which a task would show it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from script.lint_secrets import problems

SPECS = """
argument_specs:
  main:
    options:
      shop_token: {type: str, no_log: true}
"""
MODULE = """
AnsibleModule(
    argument_spec={"open": {"type": "str"}, "closed": {"type": "str", "no_log": True}, "not": {"no_log": False}}
)
"""


@pytest.fixture
def lint(tmp_path):
    """Return what is said of tasks in a repository with one role and one module."""
    role = tmp_path / "roles/shop"
    for folder in ("meta", "tasks", "templates", "vars"):
        (role / folder).mkdir(parents=True)
    (role / "meta/argument_specs.yml").write_text(SPECS)
    (role / "vars/main.yml").write_text(
        '__url: "https://{{ shop_token }}@shop.example"\n__names: "{{ shop_token | length }}"\n'
    )
    (role / "templates/closed.j2").write_text("{% for app in apps %}{{ app.config }}{% endfor %}")
    (role / "templates/open.j2").write_text("{% for app in apps %}{{ app.name }}{% endfor %}")
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "library").mkdir()
    (tmp_path / "library/shop_module.py").write_text(MODULE)
    (tmp_path / "library/controller_only.py").write_text("DOCUMENTATION = ''")
    shutil.copytree("filter_plugins", tmp_path / "filter_plugins")

    def run(task):
        (role / "tasks/main.yml").write_text(task)
        return [problem.partition("yml:")[2].partition(": ")[2] for problem in problems(tmp_path)]

    return run


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("- ansible.builtin.debug: {msg: '{{ vault_anything }}'}", "vault_anything is in the argument msg"),
        ("- ansible.builtin.debug: {msg: '{{ shop_token }}'}", "shop_token is in the argument msg"),
        ("- ansible.builtin.debug: {msg: '{{ __url }}'}", "__url is in the argument msg"),
        ("- ansible.builtin.debug: {msg: \"{{ shop_token if shop_token else '' }}\"}", "shop_token"),
        ("- ansible.builtin.debug: {msg: '{{ apps[0].config }}'}", "apps is in the argument msg"),
        ("- ansible.builtin.debug: {msg: x}\n  loop: '{{ apps }}'", "apps is in the items of a loop"),
        ("- shop_module: {open: '{{ shop_token }}'}", "shop_token is in the argument open of shop_module"),
        ("- shop_module: {not: '{{ shop_token }}'}", "shop_token is in the argument not of shop_module"),
        ("- shop_module: {}\n  environment: {A: '{{ shop_token }}'}\n  no_log: true", "is in the task's environment"),
        ("- ansible.builtin.command: {cmd: 'x {{ shop_token }}'}\n  no_log: true", "shop_token is on a command line"),
        ("- ansible.builtin.command: {argv: [x, '{{ shop_token }}']}\n  no_log: true", "is on a command line"),
        ("- ansible.builtin.template: {src: closed.j2, dest: /x}", "is in the template"),
        ("- config_files: {files: [{path: /x, content: '{{ shop_token }}'}]}", "shop_token is in /x"),
        ("- config_files: {files: [{path: /x, template: closed.j2}]}", "apps is in /x"),
        ("- shop_module: {}\n  vars: {mine: '{{ __url }}'}\n- ansible.builtin.debug: {msg: '{{ mine }}'}", "mine is"),
        (
            "- shop_module: {}\n  no_log: true\n  register: said\n- ansible.builtin.debug: {msg: '{{ said.stdout }}'}",
            "said is in the argument msg",
        ),
        ("- block:\n    - ansible.builtin.debug: {msg: '{{ shop_token }}'}", "shop_token is in the argument msg"),
        (
            "- include_tasks: x\n  loop: '{{ apps }}'\n  loop_control: {loop_var: one}\n- debug: {msg: '{{ one }}'}",
            "one is in the argument msg",
        ),
    ],
)
def test_a_task_that_shows_a_secret_is_refused(lint, task, says):
    assert [problem for problem in lint(task) if says in problem]


@pytest.mark.parametrize(
    "task",
    [
        "- ansible.builtin.debug: {msg: '{{ vault_anything }}'}\n  no_log: true",
        "- no_log: true\n  block:\n    - ansible.builtin.debug: {msg: '{{ shop_token }}'}",
        "- ansible.builtin.debug: {msg: '{{ __names }}'}",
        "- ansible.builtin.debug: {msg: \"{{ 'yes' if shop_token == 'x' else 'no' }}\"}",
        "- ansible.builtin.debug: {msg: \"{{ apps | map(attribute='name') | join(', ') }}\"}",
        "- ansible.builtin.debug: {msg: '{{ apps[0].name }}'}",
        "- ansible.builtin.debug: {msg: x}\n  loop: \"{{ apps | community.general.keep_keys(target=['name']) }}\"",
        "- shop_module: {closed: '{{ shop_token }}', for_the_controller: '{{ shop_token }}'}",
        "- controller_only: {apps: '{{ apps }}'}",
        "- ansible.builtin.command: {cmd: x, stdin: '{{ shop_token }}'}\n  no_log: true",
        "- config_files: {files: [{path: /x, content: '{{ shop_token }}', secret: true}]}",
        "- config_files: {files: [{path: /x, template: open.j2}]}",
        "- ansible.builtin.template: {src: open.j2, dest: /x}",
        "- ansible.builtin.include_tasks: x.yml\n  loop: '{{ apps }}'",
    ],
)
def test_a_task_that_shows_none_is_let_pass(lint, task):
    assert lint(task) == []


def test_this_repository_shows_none():
    assert list(problems(Path.cwd())) == []
