"""What is sent to the servers is packed once, and anew when anything that it is made of has changed."""

import os
import shutil
import subprocess
import sys
import time

import pytest

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - greet:
"""
MODULE = """#!/usr/bin/python3
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greeting import GREETING
AnsibleModule(argument_spec={}).exit_json(msg=GREETING)
"""


@pytest.fixture
def site(tmp_path):
    """Return a directory that has Offramp's callback and a module of its own."""
    for name in ("library", "module_utils", "callback_plugins", "tmp"):
        (tmp_path / name).mkdir()
    shutil.copy("callback_plugins/module_cache.py", tmp_path / "callback_plugins")
    shutil.copy("module_utils/kept_sources.py", tmp_path / "module_utils")
    (tmp_path / "ansible.cfg").write_text(
        "[defaults]\nlibrary = library\nmodule_utils = module_utils\ncallback_plugins = callback_plugins\n"
        "callbacks_enabled = module_cache\nlocal_tmp = tmp\n"
    )
    (tmp_path / "site.yml").write_text(PLAY)
    (tmp_path / "library/greet.py").write_text(MODULE)
    (tmp_path / "module_utils/greeting.py").write_text("GREETING = 'good day'\n")
    return tmp_path


def said(site):
    words = ["ansible-playbook", "-v", "--inventory=localhost,", "site.yml"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(words, cwd=site, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def packed(site):
    """Return when each module was packed."""
    kept = site.glob("tmp/offramp-modules-*/*greet*")
    return {path: path.stat().st_mtime_ns for path in kept if path.suffix != ".lock"}


def test_a_second_run_packs_nothing_anew(site):
    assert "good day" in said(site)
    first = packed(site)
    assert len(first) == 1
    assert "good day" in said(site)
    assert packed(site) == first


def test_a_change_of_what_a_module_imports_is_sent(site):
    said(site)
    (site / "module_utils/greeting.py").write_text("GREETING = 'good night'\n")
    assert "good night" in said(site)


def test_what_no_run_has_used_for_a_week_is_removed(site):
    old = site / "tmp/offramp-modules-0123456789abcdef"
    old.mkdir(mode=0o700)
    week = time.time() - 8 * 24 * 3600
    os.utime(old, (week, week))
    said(site)
    assert not old.exists()


def test_packages_that_others_could_have_changed_are_not_used(site):
    said(site)
    (kept,) = {path.parent for path in packed(site)}
    first = packed(site)
    for path in first:
        path.write_bytes(b"not a package")
    kept.chmod(0o770)
    assert "good day" in said(site)


COMMON = """
- hosts: localhost
  connection: local
  tasks:
    - ansible.builtin.command: "true"
    - ansible.builtin.copy:
        content: "{{ ansible_facts.system }}"
        dest: "{{ place }}/copied"
"""


def test_a_first_run_finds_what_was_packed_at_setup(tmp_path):
    environment = os.environ | {"ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp")}
    subprocess.run([sys.executable, "-m", "script.pack_modules"], env=environment, check=True)
    first = {path.name for path in tmp_path.glob("tmp/offramp-modules-*/*")}
    assert len(first) > 30
    play = tmp_path / "play.yml"
    play.write_text(COMMON)
    words = ["ansible-playbook", "--inventory=localhost,", f"--extra-vars=place={tmp_path}", str(play)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.glob("tmp/offramp-modules-*/*")} == first
