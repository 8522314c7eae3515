"""A roll restarts what runs on something else, one instance at a time, and goes back when one stays down."""

import hashlib
import http.server
import json
import threading
import xmlrpc.client
from types import SimpleNamespace

import pytest

from library import app_roll
from library.app_roll import Roll, RollError, is_healthy

PROGRAMS = [
    {"name": "shop-web-1", "type": "web", "index": 1, "port": 8000},
    {"name": "shop-web-2", "type": "web", "index": 2, "port": 8001},
    {"name": "shop-worker-1", "type": "worker", "index": 1, "port": None},
]
COMMANDS = {"web": "serve", "worker": "work"}


class Host:
    """A host with one app on it: supervisord, the files and the processes, all of them pretended."""

    def __init__(self, tmp_path, monkeypatch):
        self.home = tmp_path / "www/shop"
        self.run = tmp_path / "run"
        monkeypatch.setattr(app_roll, "RUN", self.run)
        monkeypatch.setattr(app_roll, "LOGS", tmp_path / "log")
        monkeypatch.setattr(app_roll, "is_healthy", self.is_healthy)
        monkeypatch.setattr(app_roll.time, "sleep", lambda _seconds: None)
        monkeypatch.setattr(app_roll.shutil, "chown", lambda *_: None)
        for name in ("r1", "r2", "bad"):
            (self.home / "releases" / name).mkdir(parents=True)
        self.set_env("A='1'\n")
        self.loaded, self.wanted = set(), {program["name"] for program in PROGRAMS}
        self.changed, self.running, self.events = set(), {}, []
        self.next_pid = 100

    def set_env(self, text):
        (self.home / "env").write_text(text)

    @property
    def env(self):
        return hashlib.sha256((self.home / "env").read_bytes()).hexdigest()

    @property
    def serves(self):
        return {name: (process["release"], process["env"]) for name, process in self.running.items()}

    def roll(self, release, check_mode=False, timeout=0.05, programs=PROGRAMS):
        params = {"app": "shop", "home": str(self.home), "release": release, "programs": programs}
        params |= {"health_path": "/health", "health_host": "shop.example", "health_timeout": timeout}
        module = type("Module", (), {"params": params, "check_mode": check_mode, "run_command": self.state})()
        self.events.clear()
        roll = Roll(module, self)
        roll.roll()
        return roll.actions

    def state(self, command):
        state = {"release": command[command.index("--release") + 1], "env": self.env, "commands": COMMANDS}
        return 0, json.dumps(state), ""

    def is_healthy(self, port, _path, _host):
        name = next(program["name"] for program in PROGRAMS if program["port"] == port)
        process = self.running.get(name)
        if process is None:
            return False, "gives no answer"
        if process.get("sick") or process["release"] == "bad" or "BAD" in process["text"]:
            return False, "answers /health with 500"
        return True, ""

    # What the class Supervisor offers.
    def wait(self):
        pass

    def differences(self):
        return self.wanted - self.loaded, set(self.changed), self.loaded - self.wanted

    def info(self, name):
        process = self.running.get(name)
        found = {"statename": "RUNNING" if process else "STOPPED", "spawnerr": "", "description": ""}
        return {**found, "pid": process["pid"] if process else 0}

    def stop(self, names):
        for name in names:
            self.events.append(f"stop {name}")
            self.running.pop(name, None)

    def start(self, name):
        self.events.append(f"start {name}")
        self.next_pid += 1
        release = (self.home / "current").resolve().name
        process = {"pid": self.next_pid, "release": release, "env": self.env}
        program = next(program for program in PROGRAMS if program["name"] == name)
        directory = self.run / "shop" / f"{program['type']}.{program['index']}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "loaded.json").write_text(json.dumps({**process, "command": COMMANDS[program["type"]]}))
        self.running[name] = {**process, "text": (self.home / "env").read_text()}

    def learn(self, name):
        self.loaded.add(name)
        self.changed.discard(name)
        self.start(name)

    def forget(self, name):
        self.loaded.discard(name)


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


def test_the_first_roll_starts_everything(host):
    host.roll("r1")
    assert host.serves == dict.fromkeys(host.wanted, ("r1", host.env))


def test_a_second_roll_does_nothing(host):
    host.roll("r1")
    assert host.roll("r1") == []
    assert host.events == []


def test_web_instances_are_restarted_one_after_the_other_and_before_the_workers(host):
    host.roll("r1")
    actions = host.roll("r2")
    assert actions[0] == "current: r2"
    assert actions[1:] == [f"{program['name']}: restarted, ran on release r1" for program in PROGRAMS]
    assert host.events == [f"{what} {program['name']}" for program in PROGRAMS for what in ("stop", "start")]


def test_a_changed_config_restarts_everything_on_the_same_release(host):
    host.roll("r1")
    host.set_env("A='2'\n")
    assert host.roll("r1") == [f"{program['name']}: restarted, ran on an older config" for program in PROGRAMS]
    assert host.serves == dict.fromkeys(host.wanted, ("r1", host.env))


def test_a_changed_command_line_restarts_the_program_alone(host):
    host.roll("r1")
    host.changed.add("shop-worker-1")
    assert host.roll("r1") == ["shop-worker-1: restarted, has a new configuration"]


def test_an_interrupted_roll_is_completed(host):
    host.roll("r1")
    host.roll("r2")
    (host.home / "current").unlink()
    (host.home / "current").symlink_to("releases/r1")
    host.start("shop-web-2")
    (host.home / "current").unlink()
    (host.home / "current").symlink_to("releases/r2")
    assert host.roll("r2") == ["shop-web-2: restarted, ran on release r1"]


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda host: host.running.pop("shop-web-1"), "was stopped"),
        (lambda host: host.running["shop-web-1"].update(pid=7), "had no record of what it runs on"),
        (lambda host: host.running["shop-web-1"].update(sick=True), "answers /health with 500"),
    ],
)
def test_an_instance_that_is_down_unknown_or_sick_is_restarted_alone(host, harm, why):
    host.roll("r1")
    harm(host)
    assert host.roll("r1") == [f"shop-web-1: restarted, {why}"]
    assert host.roll("r1") == []


def test_a_program_that_is_wanted_no_more_is_stopped(host):
    host.roll("r1")
    host.wanted.discard("shop-worker-1")
    assert host.roll("r1", programs=PROGRAMS[:2]) == ["shop-worker-1: removed"]
    assert set(host.running) == {"shop-web-1", "shop-web-2"}


def test_a_release_that_does_not_come_up_leaves_the_old_one_serving(host):
    host.roll("r1")
    untouched = host.running["shop-web-2"]["pid"]
    with pytest.raises(RollError) as failure:
        host.roll("bad")
    assert "release bad does not work on this host: shop-web-1 answers /health with 500" in str(failure.value)
    assert "Release r1 serves again" in str(failure.value)
    assert host.serves == dict.fromkeys(host.wanted, ("r1", host.env))
    assert host.running["shop-web-2"]["pid"] == untouched
    assert host.roll("r1") == []


def test_a_release_on_which_a_roll_was_interrupted_is_none_to_go_back_to(host):
    host.roll("r1")
    (host.home / "current").unlink()
    (host.home / "current").symlink_to("releases/bad")
    with pytest.raises(RollError, match="Release r1 serves again"):
        host.roll("bad")
    assert host.serves == dict.fromkeys(host.wanted, ("r1", host.env))


def test_a_config_that_does_not_work_leaves_the_old_one_serving(host):
    host.roll("r1")
    host.set_env("BAD='1'\n")
    with pytest.raises(RollError, match="Release r1 serves again, with the config that it had"):
        host.roll("r2")
    assert (host.home / "env").read_text() == "A='1'\n"
    assert host.serves == dict.fromkeys(host.wanted, ("r1", host.env))


def test_a_first_release_that_does_not_come_up_says_that_there_is_none_before(host):
    with pytest.raises(RollError, match="There is no earlier release to go back to"):
        host.roll("bad")


def test_a_dry_run_says_what_would_be_done_and_touches_nothing(host):
    host.roll("r1")
    before = dict(host.running)
    assert host.roll("r2", check_mode=True)[0] == "current: r2"
    assert (host.running, host.events, (host.home / "current").resolve().name) == (before, [], "r1")


def test_the_log_that_is_shown_begins_where_the_failed_start_began(host, tmp_path):
    host.roll("r1")
    log = tmp_path / "log/shop/web-1.log"
    log.parent.mkdir(parents=True)
    log.write_text("of the old release\n")
    start = host.start

    def start_and_log(name):
        start(name)
        with log.open("a") as file:
            file.write(f"of {host.running[name]['release']}\n")

    host.start = start_and_log
    with pytest.raises(RollError) as failure:
        host.roll("bad")
    assert "of bad" in str(failure.value)
    assert "of the old release" not in str(failure.value)


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers with the status that the path names, if it was asked as nginx asks."""

    def do_GET(self):
        asked_as_nginx = (self.headers["Host"], self.headers["X-Forwarded-Proto"]) == ("shop.example", "https")
        self.send_response(int(self.path[1:]) if asked_as_nginx else 400)
        self.end_headers()

    def log_message(self, *_words):
        pass


@pytest.fixture(scope="module")
def port():
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "healthy"), [(200, True), (204, True), (302, True), (400, False), (404, False), (500, False)]
)
def test_healthy_is_what_answers_with_success_or_a_redirect(port, status, healthy):
    assert is_healthy(port, f"/{status}", "shop.example")[0] is healthy


def test_a_port_that_nothing_listens_on_is_not_healthy():
    healthy, said = is_healthy(1, "/", "shop.example")
    assert not healthy
    assert said.startswith("gives no answer on port 1")


def test_a_fault_of_supervisor_is_told_in_its_own_words(monkeypatch):
    supervisor = app_roll.Supervisor()

    def refuse():
        raise xmlrpc.client.Fault(92, "CANT_REREAD: line 3")

    monkeypatch.setattr(supervisor, "call", SimpleNamespace(reloadConfig=refuse))
    with pytest.raises(RollError, match="supervisor refuses its configuration: CANT_REREAD: line 3"):
        supervisor.differences()
