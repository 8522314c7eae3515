"""What app_env writes, app-run and a shell read back unharmed; app-run runs commands as Heroku does."""

import importlib.machinery
import importlib.util
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filter_plugins.app_env import app_env
from filter_plugins.site_apps import site_apps

SCRIPT = Path(__file__).parents[2] / "roles/app/files/app-run"
ME = pwd.getpwuid(os.getuid()).pw_name


def load():
    loader = importlib.machinery.SourceFileLoader("app_run", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("app_run", loader))
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = writes
    return module


app_run = load()


def app(services=(), **config):
    return site_apps([{"name": "shop", "source": "x", "services": list(services), "config": config}])[0]


def written(config):
    return app_env(app(**config), web_concurrency=2)


REDIS = {"redis_password": "x"}
HARD = "100% $HOME ${x} `id` \"double\" 'single' \\ back\\'slash # ! ~ é ☃ \t\r\n\nline='x'\n'"
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,10}", fullmatch=True)


@given(st.dictionaries(NAMES, TEXT))
@example({"A": HARD, "B": ""})
@example({"LONG": HARD * 500})
def test_every_value_comes_back_byte_for_byte(config):
    found = app_run.parse_env(written(config).encode())
    assert found == {b"WEB_CONCURRENCY": b"2", **{key.encode(): value.encode() for key, value in config.items()}}


@given(st.dictionaries(NAMES.filter(lambda name: name not in ("_", "PS4")), TEXT, max_size=3))
@settings(max_examples=20, deadline=None)
@example({"A": HARD})
def test_a_shell_reads_the_same(config):
    names = [f"X{name}" for name in config]
    text = written({f"X{name}": value for name, value in config.items()})
    script = "".join(f'printf "%s\\0" "${name}"\n' for name in names)
    shell = subprocess.run(["/bin/bash"], input=(text + script).encode(), capture_output=True, check=True)
    assert shell.stdout.split(b"\0")[:-1] == [value.encode() for value in config.values()]


@pytest.mark.parametrize(
    ("text", "line"),
    [("A=1\n", 1), ("A='1'\nB='2\n", 2), ("A='1'", 1), ("A='a\nb'\n\n# x\nexport B='2'\n", 5), ("A='1'x\n", 1)],
)
def test_a_broken_file_is_refused_by_line_without_its_text(text, line):
    with pytest.raises(app_run.Refused) as refusal:
        app_run.parse_env(text.encode())
    assert str(refusal.value) == f"line {line} is no NAME='value'"


def test_services_are_handed_to_the_app_that_uses_them():
    passwords = {"database_password": "p/w", "redis_password": "r@w"}
    text = app_env(
        app(services=["postgresql", "redis", "memcached"]),
        web_concurrency=3,
        **passwords,
        memcached_servers=["192.0.2.11:11211", "192.0.2.12:11211"],
    )
    assert {key.decode(): value.decode() for key, value in app_run.parse_env(text.encode()).items()} == {
        "WEB_CONCURRENCY": "3",
        "DATABASE_URL": "postgres://shop:p%2Fw@127.0.0.1:6432/shop",
        "REDIS_URL": "redis://shop:r%40w@127.0.0.1:7379/0",
        "MEMCACHE_SERVERS": "192.0.2.11:11211,192.0.2.12:11211",
    }


def test_an_app_has_the_database_of_redis_that_its_entry_names():
    text = app_env(app(services=["redis"]) | {"redis_database": 3}, 2, **REDIS)
    assert "redis://shop:x@127.0.0.1:7379/3" in text


def test_an_app_that_uses_no_service_is_told_of_none():
    assert set(app_run.parse_env(written({}).encode())) == {b"WEB_CONCURRENCY"}


def test_what_the_app_defines_itself_stands():
    text = app_env(
        app(services=["redis"], REDIS_URL="redis://own", WEB_CONCURRENCY="9"),
        web_concurrency=2,
        **REDIS,
    )
    assert app_run.parse_env(text.encode()) == {b"REDIS_URL": b"redis://own", b"WEB_CONCURRENCY": b"9"}


def test_an_address_of_ipv6_is_bracketed():
    text = app_env(app(services=["redis"]), 2, **{**REDIS, "redis_address": "2001:db8::1"})
    assert "redis://shop:x@[2001:db8::1]:7379/0" in text


@pytest.mark.parametrize(
    ("services", "given", "message"),
    [
        (["postgresql"], {}, "shop uses postgresql, and database_password is not given"),
        (["redis"], {}, "shop uses redis, and redis_password is not given"),
    ],
)
def test_a_service_that_is_not_there_is_named(services, given, message):
    with pytest.raises(AnsibleFilterError, match=message):
        app_env(app(services=services), 2, **given)


def test_a_name_that_fits_into_no_environment_is_refused_without_its_value():
    with pytest.raises(AnsibleFilterError) as refusal:
        app_env({**app(), "config": {"A B": "s3cret"}}, 2)
    assert "'A B'" in str(refusal.value)
    assert "s3cret" not in str(refusal.value)


def test_a_procfile_is_read_as_heroku_reads_it():
    text = "web: gunicorn shop.wsgi --bind :$PORT  \r\n# no: comment\nurgent-worker:\tpython work.py: x\n\nodd line\n"
    assert app_run.parse_procfile(text) == {
        "web": "gunicorn shop.wsgi --bind :$PORT",
        "urgent-worker": "python work.py: x",
    }


@pytest.mark.parametrize(
    ("command", "stays"),
    [
        ("gunicorn shop.wsgi", False),
        ("A=1 gunicorn shop.wsgi", False),
        ("cd src && gunicorn shop.wsgi", False),
        ("gunicorn -w $(nproc) -b :${PORT:-80} shop.wsgi 2>&1", False),
        ("gunicorn 'a | b & (c)'", False),
        ("gunicorn shop.wsgi | tee log", True),
        ("nginx & gunicorn shop.wsgi", True),
        ("(cd src; gunicorn shop.wsgi)", True),
        ("while true; do work; done", True),
        ("echo 'unclosed", True),
    ],
)
def test_it_knows_when_the_shell_stays_between(command, stays):
    assert app_run.shell_stays(command) is stays


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Run a command"),
        (["shop"], "give a command"),
        (["shop", "--process"], "unknown or incomplete option --process"),
        (["shop", "--proces", "web"], "unknown or incomplete option --proces"),
        (["shop", "--process", "web", "ls"], "give a command"),
        (["Shop", "ls"], "there is no app 'Shop'"),
        (["../etc", "ls"], "there is no app '../etc'"),
    ],
)
def test_a_wrong_call_is_refused(words, message):
    with pytest.raises(app_run.Refused, match=message):
        app_run.main(words)


class Place:
    """An app of the user who runs the tests, below a directory of the test's own."""

    def __init__(self, root, procfile, env):
        self.root = root
        self.home = root / "srv" / ME
        code = self.home / "builds/b1"
        self.release = self.home / "releases/v1"
        for directory in (code, self.release):
            directory.mkdir(parents=True)
        (code / "Procfile").write_text(procfile)
        (self.release / "code").symlink_to("../../builds/b1")
        (self.release / "env").write_text(env)
        (self.home / "current").symlink_to("releases/v1")
        driver = (
            f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
            "import importlib.machinery as m, importlib.util as u, os, pathlib\n"
            "sys.dont_write_bytecode = True\n"
            f"loader = m.SourceFileLoader('app_run', {str(SCRIPT)!r})\n"
            "module = u.module_from_spec(u.spec_from_loader('app_run', loader)); loader.exec_module(module)\n"
            f"module.HOMES = pathlib.Path({str(root / 'srv')!r}); module.RUN = pathlib.Path({str(root / 'run')!r})\n"
            "module.App.become = lambda app: os.chdir(app.code)\n"
            "try: sys.exit(module.main(sys.argv[1:]))\n"
            "except module.Refused as problem: sys.exit(f'app-run: {problem}')\n"
        )
        self.argv = [sys.executable, "-c", driver, ME]

    def run(self, *words, **extra):
        return subprocess.run([*self.argv, *words], capture_output=True, text=True, timeout=20, check=False, **extra)

    def start(self, *words):
        return subprocess.Popen([*self.argv, *words], start_new_session=True, stdout=subprocess.DEVNULL)

    def record(self, process="web.1"):
        return json.loads((self.root / "run" / ME / process / "loaded.json").read_text())


PROCFILE = """
web: sleep 100
show: env
pipe: trap 'echo ended >>log; exit' TERM; sleep 100 | cat
leaves: sleep 100 & sleep 100 & wait
"""


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, PROCFILE, written({"GREETING": "it's 100% $HOME"}))


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def variables(output):
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def test_nothing_of_the_callers_environment_reaches_the_app(place):
    seen = variables(place.run("env", env={**os.environ, "STRAY": "1", "PYTHONPATH": "/x"}).stdout)
    assert not {"STRAY", "PYTHONPATH"} & set(seen)
    assert seen["GREETING"] == "it's 100% $HOME"
    assert seen["HOME"] == str(place.home / "builds/b1")
    assert seen["PATH"].startswith(f"{place.home}/builds/b1/.venv/bin:")


def test_a_variable_is_taken_over_when_it_is_named(place):
    seen = variables(place.run("--keep", "STRAY,OTHER", "env", env={**os.environ, "STRAY": "1"}).stdout)
    assert seen["STRAY"] == "1"
    assert "OTHER" not in seen


def test_one_off_web_and_worker_read_the_same_values(place):
    once = variables(place.run("env").stdout)
    process = variables(place.run("--process", "show", "--index", "2", "--port", "8001").stdout)
    assert (process.pop("DYNO"), process.pop("PORT")) == ("show.2", "8001")
    assert process.pop("XDG_RUNTIME_DIR").endswith("/show.2")
    assert once.pop("DYNO").startswith("run.")
    for seen in (once, process):
        seen.pop("TERM", None)
    assert process == once


def test_one_word_is_a_line_for_the_shell_and_several_are_a_command(place):
    assert place.run("echo $GREETING | tr a-z A-Z").stdout == "IT'S 100% $HOME\n"
    assert place.run("printf", "%s.", "$GREETING", "a b").stdout == "$GREETING.a b."


def test_the_exit_code_is_the_commands(place):
    assert place.run("exit 7").returncode == 7


def test_an_unknown_process_type_is_refused_with_those_there_are(place):
    refused = place.run("--process", "wbe")
    assert "no process type 'wbe'; it has web, show, pipe, leaves" in refused.stderr
    assert refused.returncode == 1


def test_a_missing_release_is_named(place):
    (place.home / "current").unlink()
    assert "has no current release yet" in place.run("env").stderr
    assert "has no release v9" in place.run("--release", "v9", "env").stderr


def test_a_process_becomes_its_command_and_records_what_it_loaded(place):
    process = place.start("--process", "web")
    try:
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        state = json.loads(place.run("--state").stdout)
        assert place.record() == {
            "pid": process.pid,
            "build": "b1",
            "env": state["env"],
            "command": state["commands"]["web"],
        }
    finally:
        process.kill()
        process.wait()


def test_the_state_changes_with_a_value(place):
    before = json.loads(place.run("--state").stdout)
    (place.release / "env").write_text(written({"GREETING": "other"}))
    after = json.loads(place.run("--state").stdout)
    assert before["env"] != after["env"]
    assert before["build"] == after["build"]


@pytest.mark.parametrize("process_type", ["pipe", "leaves"])
def test_a_command_whose_shell_stays_ends_as_a_whole_on_term(place, process_type):
    process = place.start("--process", process_type)
    eventually(lambda: len(app_run.group_members(process.pid)) >= 4)
    process.send_signal(signal.SIGTERM)
    process.wait(10)
    assert app_run.group_members(process.pid) == []


def test_what_a_killed_process_left_behind_is_ended_at_the_next_start(place):
    first = place.start("--process", "leaves")
    eventually(lambda: len(app_run.group_members(first.pid)) >= 4)
    first.kill()
    first.wait()
    assert app_run.group_members(first.pid)
    second = place.start("--process", "leaves")
    try:
        eventually(lambda: place.record("leaves.1")["pid"] == second.pid)
        assert app_run.group_members(first.pid) == []
    finally:
        second.terminate()
        second.wait(10)
