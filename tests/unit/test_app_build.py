"""How a release is built follows from its files, and what is missing is said in plain words."""

import json
import os
import pwd
from types import SimpleNamespace

import pytest

from library.app_build import Build, BuildError, asked_python, find_wsgi_module, in_one_line, make

ABOUT = {"version": "main", "who": "ann@laptop", "when": "2026-05-04 10:00:00 UTC", "what": "deploy"}
DEFAULTS = {
    "app": pwd.getpwuid(os.getuid()).pw_name,
    "number": 1,
    "build": "b1",
    "about": ABOUT,
    "env": "A='1'\n",
    "env_from": None,
    "python": "system",
    "processes": [],
    "static_url": "/static/",
    "static_path": "staticfiles",
    "index_url": "",
}


class Module(SimpleNamespace):
    """Stands in for AnsibleModule, and answers each command by its last word."""

    def run_command(self, command, **_options):
        self.commands.append(command[-1])
        for part, answer in self.answers.items():
            if part in command[-1]:
                return answer
        return 0, "", ""


@pytest.fixture
def build(tmp_path):
    def make(files=(), answers=None, **params):
        home = tmp_path / "shop"
        for name, text in dict(files).items():
            path = home / "builds/b1" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        module = Module(params={**DEFAULTS, "home": str(home), **params}, answers=answers or {}, commands=[])
        return Build(module)

    return make


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        ("no lock", "no lock"),
        ("could not install:\nresolving\n  no such package", "could not install: no such package"),
        (
            "could not unpack:\ntar: a: Cannot write: No space left on device\ntar: Exiting with failure status",
            "could not unpack: tar: a: Cannot write: No space left on device",
        ),
    ],
)
def test_one_line_says_what_could_not_be_done_and_why(problem, line):
    assert in_one_line(problem) == line


VERSION = {"sys.version_info": (0, "3.13.5\n", "")}


@pytest.mark.parametrize(
    ("files", "served"),
    [
        ({"shop/wsgi.py": ""}, "shop.wsgi"),
        ({"wsgi.py": "application = x"}, "wsgi:application"),
        ({"app.py": "app = Flask(__name__)"}, "app:app"),
        ({"main.py": "app: Flask = Flask(__name__)"}, "main:app"),
        ({"app.py": "def app(environ, start_response):\n    pass"}, "app:app"),
        ({"app.py": "happy = 1\napplication_name = 2"}, None),
        ({"README": ""}, None),
    ],
)
def test_the_wsgi_module_is_found(tmp_path, files, served):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert find_wsgi_module(tmp_path) == served


def test_requirements_are_installed_with_the_systems_python(build):
    made = build({"requirements.txt": "x"}, VERSION)
    made.install_packages()
    assert made.module.commands[1:] == [
        "/opt/uv/bin/uv venv --quiet --no-project --python /usr/bin/python3 .venv",
        "/opt/uv/bin/uv pip install --quiet -r requirements.txt",
    ]


def test_a_lock_of_uv_is_installed_as_it_is(build):
    made = build({"pyproject.toml": "x", "uv.lock": "x"}, VERSION)
    made.install_packages()
    assert made.module.commands[-1].startswith("/opt/uv/bin/uv sync --quiet --locked")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["Pipfile"], "the source has Pipfile, .*`pipenv lock`"),
        (["pyproject.toml"], "the source has pyproject.toml, .*`uv lock`"),
        (["app.py"], "an empty requirements.txt says that no package is needed"),
        (["Pipfile.lock", "requirements.txt"], r"Pipfile.lock \(Pipenv\) and requirements.txt \(pip\).*`git rm req"),
        (["requirements.txt", "uv.lock", "pyproject.toml"], r"requirements.txt \(pip\) and uv.lock \(uv\)"),
    ],
)
def test_another_way_to_name_packages_is_answered_with_the_way_out(build, files, words):
    with pytest.raises(BuildError, match=words):
        build(dict.fromkeys(files, "")).install_packages()


@pytest.mark.parametrize(
    ("lock", "manifest", "reads"),
    [
        ("poetry.lock", "pyproject.toml", ["poetry export --only main --with-credentials"]),
        ("Pipfile.lock", "Pipfile", ["pipenv verify", "pipenv requirements --hash"]),
    ],
)
def test_a_lock_is_read_by_its_own_tool_and_installed_by_uv_from_the_sites_index(build, lock, manifest, reads):
    index = "https://someone:secret-for-tests@index.example/simple"
    made = build({lock: "{}", manifest: ""}, VERSION, index_url=index)
    made.install_packages()
    *said, without_pypi, install, forget = made.module.commands[2:]
    hide = said.pop(-2)
    assert [part in line for part, line in zip(reads, said, strict=True)] == [True] * len(reads)
    assert "--mode=0600" in hide
    assert without_pypi.startswith("sed ")
    assert forget == "rm .venv/locked.txt"
    assert install == "/opt/uv/bin/uv pip install --quiet --no-deps -r .venv/locked.txt"
    assert made.environment["UV_DEFAULT_INDEX"] == index
    assert not any("secret-for-tests" in command for command in made.module.commands)


@pytest.mark.parametrize(
    ("project", "itself"),
    [
        ("[tool.poetry]\n[build-system]", True),
        ("[tool.poetry]\npackage-mode = false\n[build-system]", False),
        ("[tool.poetry]", False),
    ],
)
def test_an_app_that_is_a_package_of_poetry_is_installed_itself(build, project, itself):
    made = build({"poetry.lock": "", "pyproject.toml": project}, VERSION)
    made.install_packages()
    assert ("--editable ." in made.module.commands[-1]) is itself


def test_a_pipfile_lock_that_does_not_fit_is_refused_with_what_mends_it(build):
    answers = {**VERSION, "pipenv verify": (1, "Pipfile.lock is out-of-date. Run $ pipenv lock to update.", "")}
    with pytest.raises(BuildError, match="run `pipenv lock`"):
        build({"Pipfile": "", "Pipfile.lock": "{}"}, answers).install_packages()


@pytest.mark.parametrize("wanted", ["system", "3", "3.13", "3.13.5"])
def test_the_systems_python_serves_where_it_satisfies(build, wanted):
    assert build(answers=VERSION, python=wanted).interpreter() == "/usr/bin/python3"


@pytest.mark.parametrize("wanted", ["3.1", "3.12", "3.13.4"])
def test_another_python_is_fetched_by_uv(build, wanted):
    made = build(answers={**VERSION, "uv python find": (0, "/srv/www/shop/.python/bin/python\n", "")}, python=wanted)
    assert made.interpreter() == "/srv/www/shop/.python/bin/python"


@pytest.mark.parametrize(
    ("files", "asked"),
    [
        ({".python-version": "3.12\n", "runtime.txt": "python-3.11.4"}, "3.12"),
        ({".python-version": "# ours\n\n3.12.1 # exactly\n"}, "3.12.1"),
        ({"runtime.txt": "python-3.11.4\n"}, "3.11.4"),
        ({"pyproject.toml": '[project]\nrequires-python = ">=3.11, <4"'}, ">=3.11,<4"),
        ({"pyproject.toml": "[tool.x]"}, "system"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "^3.11"'}, ">=3.11,<4"),
        ({"Pipfile.lock": '{"_meta": {"requires": {"python_version": "3.12"}}}', "pyproject.toml": ""}, "3.12"),
        (
            {"Pipfile.lock": '{"_meta": {"requires": {"python_version": "3", "python_full_version": "3.12.4"}}}'},
            "3.12.4",
        ),
        ({"Pipfile.lock": '{"_meta": {"requires": {}}}'}, "system"),
        ({}, "system"),
    ],
)
def test_the_source_says_which_python_it_asks_for(tmp_path, files, asked):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert asked_python(tmp_path) == asked


def test_what_the_inventory_says_of_python_goes_before_what_the_source_asks_for(build):
    assert build({".python-version": "3.9"}, VERSION, python="system").interpreter() == "/usr/bin/python3"


def test_a_range_that_the_systems_python_is_in_takes_it(build):
    answers = {**VERSION, "--no-managed-python": (0, "/usr/bin/python3\n", "")}
    made = build({"pyproject.toml": '[project]\nrequires-python = ">=3.11"'}, answers, python="")
    assert made.interpreter() == "/usr/bin/python3"
    assert not any("uv python install" in command for command in made.module.commands)


def test_a_python_that_cannot_be_fetched_is_answered_with_both_ways_out(build):
    made = build(answers={**VERSION, "uv python install": (2, "", "error: a\n  connection refused\n")}, python="3.12")
    with pytest.raises(BuildError) as refusal:
        made.interpreter()
    for part in ("python3 is 3.13.5", "Python 3.12", "connection refused", "`python: system`", "UV_PYTHON_INSTALL_MIR"):
        assert part in str(refusal.value)


def test_a_process_type_that_the_procfile_lacks_is_refused(build):
    with pytest.raises(BuildError, match="the inventory asks for wroker, and the Procfile has web, worker"):
        build({"Procfile": "web: x\nworker: y\n"}, processes=["web", "wroker"]).check_processes()


DJANGO = {"manage.py": "", ".venv/lib/python3.13/site-packages/django/x": ""}


@pytest.mark.parametrize(
    ("files", "answers", "collects"),
    [
        (DJANGO, {}, True),
        ({"src/manage.py": "", ".venv/lib/python3.13/site-packages/django/x": ""}, {}, True),
        (DJANGO, {"DISABLE_COLLECTSTATIC": (0, "0", "")}, True),
        (DJANGO, {"DISABLE_COLLECTSTATIC": (0, "1", "")}, False),
        ({"manage.py": ""}, {}, False),
        ({"app.py": ""}, {}, False),
    ],
)
def test_static_files_of_a_django_app_are_collected_unless_its_config_forbids(build, files, answers, collects):
    made = build(files, answers)
    made.collect_static_files()
    assert any("collectstatic" in command for command in made.module.commands) is collects


def test_an_app_without_staticfiles_has_nothing_to_collect(build):
    build(DJANGO, {"collectstatic": (1, "", "Unknown command: 'collectstatic'")}).collect_static_files()


def test_static_files_that_cannot_be_collected_fail_the_build_with_the_way_out(build):
    with pytest.raises(BuildError, match=r"DISABLE_COLLECTSTATIC(.|\n)*no STATIC_ROOT"):
        build(DJANGO, {"collectstatic": (1, "", "no STATIC_ROOT")}).collect_static_files()


def test_a_release_without_a_note_is_not_built(build):
    assert not build({"Procfile": "web: x"}).is_built


def test_a_release_whose_interpreter_went_away_is_not_built(build):
    made = build({"Procfile": "web: x", ".venv/bin/python": ""})
    made.note.write_text(json.dumps({"python": str(made.directory / ".venv/bin/python")}))
    assert made.is_built
    (made.directory / ".venv/bin/python").unlink()
    assert not made.is_built


def test_a_release_is_written_with_its_config_and_what_is_known_of_it(build):
    made = build({"Procfile": "web: x"})
    made.prepare()
    release = made.home / "releases/v1"
    assert (release / "env").read_text() == "A='1'\n"
    assert (release / "env").stat().st_mode & 0o777 == 0o640
    assert (release / "code/Procfile").read_text() == "web: x"
    assert json.loads((release / "release.json").read_text()) == {
        **ABOUT,
        "number": 1,
        "build": "b1",
        "state": "building",
    }
    assert made.is_prepared


def test_a_rollback_takes_the_config_of_the_release_that_it_goes_back_to(build):
    build().prepare()
    build(number=2, env="A='2'\n", env_from=1).prepare()
    made = build(number=2)
    assert (made.home / "releases/v2/env").read_text() == "A='1'\n"


def test_a_release_that_is_there_keeps_its_config(build):
    build({"Procfile": "web: x"}).prepare()
    made = build(env="A='2'\n")
    made.note.write_text(json.dumps({"python": ""}))
    assert make(made, None) == (False, False)
    assert (made.home / "releases/v1/env").read_text() == "A='1'\n"


def test_a_second_release_shares_a_build_that_is_there(build):
    made = build({"Procfile": "web: x"}, number=2)
    made.note.write_text(json.dumps({"python": ""}))
    assert make(made, None) == (True, False)
    assert made.module.commands == []


def test_code_that_is_not_built_asks_for_its_archive(build):
    assert make(build(), None) == (True, True)


def test_a_password_of_the_index_is_in_no_command(build):
    made = build({"requirements.txt": "x"}, VERSION, index_url="https://user:s3cret@pypi.example/simple")
    made.install_packages()
    assert not any("s3cret" in command for command in made.module.commands)
    assert made.environment["UV_DEFAULT_INDEX"].endswith("@pypi.example/simple")
