"""A roll restarts what runs on something else, one instance at a time, and goes back when one stays down."""

import configparser
import hashlib
import http.server
import json
import socket
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


NUMBERS = {"v1": "b1", "v2": "b2", "v3": "bad", "v4": "b1"}


class Host:
    """A host with one app on it: supervisord, the files and the processes, all of them pretended."""

    def __init__(self, tmp_path, monkeypatch):
        self.home = tmp_path / "www/shop"
        self.run, self.upstream = tmp_path / "run", tmp_path / "upstream"
        monkeypatch.setattr(app_roll, "RUN", self.run)
        monkeypatch.setattr(app_roll, "UPSTREAM", self.upstream)
        monkeypatch.setattr(app_roll, "PROGRAMS", tmp_path)
        monkeypatch.setattr(app_roll, "LOGS", tmp_path / "log")
        monkeypatch.setattr(app_roll, "is_healthy", self.is_healthy)
        monkeypatch.setattr(app_roll, "connections", self.connections)
        monkeypatch.setattr(app_roll.time, "sleep", lambda _seconds: None)
        for name, build in NUMBERS.items():
            release = self.home / "releases" / name
            release.mkdir(parents=True)
            (release / "release.json").write_text(json.dumps({"number": int(name[1:]), "build": build}))
            self.set_env(name, "A='1'\n")
        self.programs = PROGRAMS
        self.loaded, self.changed, self.running, self.events = set(), set(), {}, []
        self.requests = {}
        self.next_pid = 100

    def set_env(self, name, text):
        (self.home / "releases" / name / "env").write_text(text)

    def env(self, name):
        return hashlib.sha256((self.home / "releases" / name / "env").read_bytes()).hexdigest()

    @property
    def wanted(self):
        return {program["name"] for program in self.programs}

    @property
    def serves(self):
        return {name: process["build"] for name, process in self.running.items()}

    @property
    def out(self):
        return sorted(path.name for path in self.upstream.rglob("without-*"))

    def point(self, link, name):
        (self.home / link).unlink(missing_ok=True)
        (self.home / link).symlink_to(f"releases/{name}")

    def roll(self, name, check_mode=False, timeout=0.05, back=False):
        params = {"app": "shop", "home": str(self.home), "number": int(name[1:]), "programs": self.programs}
        params |= {"web_stop_seconds": 30, "worker_stop_seconds": 60}
        params |= {"health_path": "/health", "health_host": "shop.example", "health_timeout": timeout}
        module = type("Module", (), {"params": params, "check_mode": check_mode, "run_command": self.state})()
        self.events.clear()
        roll = Roll(module, self)
        roll.leave() if back else roll.roll()
        return [action for action in roll.actions if not action.endswith(".conf")]

    def served(self, name):
        """Roll, on every host of the site."""
        self.roll(name)
        self.point(".served", name)

    def state(self, command):
        name = command[command.index("--release") + 1]
        state = {"build": NUMBERS[name], "env": self.env(name), "commands": COMMANDS}
        return 0, json.dumps(state), ""

    def connections(self, port):
        """A request more has ended each time that one looks."""
        left = self.requests.get(port, 0)
        self.requests[port] = max(left - 1, 0)
        if left:
            self.events.append(f"request on {port}")
        return left

    def is_healthy(self, port, _path, _host):
        name = next(program["name"] for program in self.programs if program["port"] == port)
        process = self.running.get(name)
        if process is None:
            return False, "gives no answer"
        if process.get("sick") or process["build"] == "bad" or "BAD" in process["text"]:
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
        process = {"pid": self.next_pid, "build": NUMBERS[release], "env": self.env(release)}
        program = next(program for program in self.programs if program["name"] == name)
        directory = self.run / "shop" / f"{program['type']}.{program['index']}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "loaded.json").write_text(json.dumps({**process, "command": COMMANDS[program["type"]]}))
        text = (self.home / "releases" / release / "env").read_text()
        self.running[name] = {**process, "text": text}
        self.events[-1] += f" while nginx is {self.out}" if self.out else ""

    def learn(self, name):
        self.loaded.add(name)
        self.changed.discard(name)
        program = next(program for program in self.programs if program["name"] == name)
        if not program.get("spare"):
            self.start(name)

    def forget(self, name):
        self.loaded.discard(name)


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


def test_the_first_roll_starts_everything(host):
    host.roll("v1")
    assert host.serves == dict.fromkeys(host.wanted, "b1")


def test_a_second_roll_does_nothing(host):
    host.served("v1")
    assert host.roll("v1") == []
    assert host.events == []


def test_web_instances_are_restarted_one_after_the_other_out_of_nginx_and_before_the_workers(host):
    host.served("v1")
    actions = host.roll("v2")
    assert actions == ["current: v2", *(f"{name}: restarted, ran on build b1" for name in sorted(host.wanted))]
    assert host.events == [
        "stop shop-web-1",
        "start shop-web-1 while nginx is ['without-1']",
        "stop shop-web-2",
        "start shop-web-2 while nginx is ['without-2']",
        "stop shop-worker-1",
        "start shop-worker-1",
    ]
    assert host.out == []


def test_an_instance_ends_the_requests_that_it_has_before_it_is_stopped(host):
    host.served("v1")
    host.requests = {8000: 3}
    host.roll("v2")
    assert host.events[:4] == ["request on 8000"] * 3 + ["stop shop-web-1"]


def test_a_request_that_does_not_end_is_waited_for_no_longer_than_its_time(host, monkeypatch):
    host.served("v1")
    host.programs = [{**program, "stop_seconds": 1} for program in PROGRAMS]
    monkeypatch.setattr(app_roll, "connections", lambda port: port == 8000)
    host.roll("v2")
    assert host.serves["shop-web-1"] == "b2"


ONE = [PROGRAMS[0], {"name": "shop-web-2", "type": "web", "index": 2, "port": 8001, "spare": True}]


def test_a_single_instance_is_restarted_while_a_spare_one_serves(host):
    host.programs = ONE
    host.served("v1")
    assert host.serves == {"shop-web-1": "b1"}
    host.roll("v2")
    assert host.events == [
        "stop shop-web-2",
        "start shop-web-2",
        "stop shop-web-1",
        "start shop-web-1 while nginx is ['without-1']",
        "stop shop-web-2",
    ]
    assert (host.serves, host.out) == ({"shop-web-1": "b2"}, [])


def test_a_single_instance_is_not_touched_when_the_spare_one_does_not_come_up(host):
    host.programs = ONE
    host.served("v1")
    before = host.running["shop-web-1"]["pid"]
    with pytest.raises(RollError, match="shop-web-2 answers /health with 500"):
        host.roll("v3")
    assert host.running["shop-web-1"]["pid"] == before
    assert (host.serves, host.out) == ({"shop-web-1": "b1"}, [])


def test_a_changed_config_restarts_everything_on_the_same_build(host):
    host.served("v1")
    host.set_env("v4", "A='2'\n")
    expected = [f"{name}: restarted, ran on an older config" for name in sorted(host.wanted)]
    assert host.roll("v4") == ["current: v4", *expected]


def test_a_release_that_equals_the_one_before_restarts_nothing(host):
    host.served("v1")
    assert host.roll("v4") == ["current: v4"]
    assert host.events == []


def test_a_changed_command_line_restarts_the_program_alone(host):
    host.served("v1")
    host.changed.add("shop-worker-1")
    assert host.roll("v1") == ["shop-worker-1: restarted, has a new configuration"]


def test_what_supervisor_is_told_follows_from_the_programs(host, tmp_path):
    host.programs = [*ONE, {**PROGRAMS[2], "stop_seconds": 120}]
    host.roll("v1")
    told = configparser.RawConfigParser()
    told.read(tmp_path / "shop.conf")
    seen = {name: (told[name]["command"].split(" ", 2)[2], told[name]["stopwaitsecs"]) for name in told.sections()}
    assert seen == {
        "program:shop-web-1": ("--process web --index 1 --port 8000", "30"),
        "program:shop-web-2": ("--process web --index 2 --port 8001", "30"),
        "program:shop-worker-1": ("--process worker --index 1", "120"),
    }
    assert [told[name]["autostart"] for name in told.sections()] == ["true", "false", "true"]


def test_an_interrupted_roll_is_completed(host):
    host.served("v1")
    host.roll("v2")
    host.point("current", "v1")
    host.start("shop-web-2")
    host.point("current", "v2")
    (host.upstream / "shop").mkdir(exist_ok=True)
    (host.upstream / "shop/without-1").touch()
    assert host.roll("v2") == ["shop-web-2: restarted, ran on build b1", "shop-web-1: serves again"]
    assert host.out == []


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda host: host.running.pop("shop-web-1"), "was stopped"),
        (lambda host: host.running["shop-web-1"].update(pid=7), "had no record of what it runs on"),
        (lambda host: host.running["shop-web-1"].update(sick=True), "answers /health with 500"),
    ],
)
def test_an_instance_that_is_down_unknown_or_sick_is_restarted_alone(host, harm, why):
    host.served("v1")
    harm(host)
    assert host.roll("v1") == [f"shop-web-1: restarted, {why}"]
    assert host.roll("v1") == []


def test_a_program_that_is_wanted_no_more_is_stopped(host):
    host.served("v1")
    host.programs = PROGRAMS[:2]
    assert host.roll("v1") == ["shop-worker-1: removed"]
    assert set(host.running) == {"shop-web-1", "shop-web-2"}


def test_a_process_type_that_the_release_lacks_is_not_run(host):
    host.programs = [*PROGRAMS, {"name": "shop-beat-1", "type": "beat", "index": 1, "port": None}]
    state = host.differences
    host.differences = lambda: tuple(names - {"shop-beat-1"} for names in state())
    host.roll("v1")
    assert "shop-beat-1" not in host.running


def test_a_release_that_does_not_come_up_leaves_the_old_one_serving(host):
    host.served("v1")
    untouched = host.running["shop-web-2"]["pid"]
    with pytest.raises(RollError) as failure:
        host.roll("v3")
    assert failure.value.outcome == (
        "v3 of shop does not work on this host: shop-web-1 answers /health with 500, 0.05 s after its start; v1 serves"
    )
    assert (host.serves, host.out) == (dict.fromkeys(host.wanted, "b1"), [])
    assert host.running["shop-web-2"]["pid"] == untouched
    assert host.roll("v1") == []


def test_a_release_that_fails_on_another_host_is_left_on_this_one_too(host):
    host.served("v1")
    host.roll("v2")
    host.roll("v2", back=True)
    assert host.serves == dict.fromkeys(host.wanted, "b1")
    assert (host.home / "current").resolve().name == "v1"


def test_there_is_nothing_to_leave_where_nothing_was_switched(host):
    host.served("v1")
    host.roll("v2", back=True)
    assert host.events == []


def test_going_back_restores_the_programs_that_the_old_release_had(host, tmp_path):
    host.served("v1")
    before = (tmp_path / "shop.conf").read_text()
    host.programs = [*PROGRAMS, {**PROGRAMS[2], "name": "shop-worker-2", "index": 2}]
    with pytest.raises(RollError):
        host.roll("v3")
    assert (tmp_path / "shop.conf").read_text() == before


def test_a_release_on_which_a_roll_was_interrupted_is_none_to_go_back_to(host):
    host.served("v1")
    host.point("current", "v3")
    with pytest.raises(RollError, match="v1 serves"):
        host.roll("v3")
    assert host.serves == dict.fromkeys(host.wanted, "b1")


def test_a_config_that_does_not_work_leaves_the_old_one_serving(host):
    host.served("v1")
    host.set_env("v4", "BAD='1'\n")
    with pytest.raises(RollError, match="v1 serves"):
        host.roll("v4")
    assert {process["text"] for process in host.running.values()} == {"A='1'\n"}


def test_a_first_release_that_does_not_come_up_says_that_there_is_none_before(host):
    with pytest.raises(RollError, match="there is no earlier release to go back to"):
        host.roll("v3")


def test_a_dry_run_says_what_would_be_done_and_touches_nothing(host):
    host.served("v1")
    before = dict(host.running)
    assert host.roll("v2", check_mode=True)[0] == "current: v2"
    assert (host.running, host.events, (host.home / "current").resolve().name) == (before, [], "v1")


def test_the_log_that_is_shown_begins_where_the_failed_start_began(host, tmp_path):
    host.served("v1")
    log = tmp_path / "log/shop/web-1.log"
    log.parent.mkdir(parents=True)
    log.write_text("of the old release\n")
    start = host.start

    def start_and_log(name):
        start(name)
        with log.open("a") as file:
            file.write(f"of {host.running[name]['build']}\n")

    host.start = start_and_log
    with pytest.raises(RollError) as failure:
        host.roll("v3")
    assert "of bad" in str(failure.value)
    assert "of the old release" not in str(failure.value)


def test_connections_are_counted_by_the_port_that_they_came_to():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert app_roll.connections(port) == 0
        with socket.create_connection(("127.0.0.1", port)):
            assert app_roll.connections(port) == 1


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
