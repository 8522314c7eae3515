#!/usr/bin/python3
"""Bring the processes of an app onto its release, one web instance after the other."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from ansible.module_utils.app_store import HeldError, Lock, Releases
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.connections import connections
from ansible.module_utils.placing import place_file

DOCUMENTATION = r"""
module: app_roll
short_description: Brings an app's processes onto a release, one after the other
description:
  - Points C(current) at the release, then restarts what runs on something else. A web instance is taken out of nginx,
    ends the requests that it has, is restarted, has to answer its health check and is put back before the next one is
    touched. Then come the other process types, all at once. The first release of an app starts all at once.
  - Where an app has one web instance, a spare one serves while it is restarted.
  - What a process runs on is what it recorded when it started (build, environment, command) and what supervisor has
    loaded for it, never what a file says now. So an interrupted run is completed by the next one, and a run that finds
    nothing to do restarts nothing.
  - When a process does not come up, everything goes back to the release that last worked on the whole site, and the
    module fails with the end of the log. C(state=back) does the same on the other hosts.
  - A web instance that runs on the right release and does not answer is restarted too.
  - A process type that the release's Procfile lacks is not run.
options:
  app:
    description: Name of the app.
    type: str
    required: true
  home:
    description: Directory of the app on the host.
    type: path
    required: true
  number:
    description: Number of the release, which app_build has built.
    type: int
    required: true
  token:
    description: Token of the lock that app_releases took.
    type: str
    required: true
  state:
    description: Whether to go to the release, or back to the one that last worked on the whole site.
    type: str
    choices: [rolled, back]
    default: rolled
  programs:
    description:
      - What is to run, as C(programs) of the filter site_apps (C(name), C(type), C(index), C(port), C(spare),
        C(stop_seconds)).
    type: list
    elements: dict
    required: true
  web_stop_seconds:
    description: Time in which a web process ends its requests, where the program does not say.
    type: int
    default: 30
  worker_stop_seconds:
    description: Time in which a process of another type ends its job, where the program does not say.
    type: int
    default: 60
  health_path:
    description: Path that a web instance has to answer with 2xx or 3xx.
    type: str
    default: /
  health_host:
    description: Host header of the health check.
    type: str
    default: localhost
  health_timeout:
    description: Seconds that a process has to come up.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Switch to the release
  app_roll:
    app: shop
    home: /srv/www/shop
    number: 12
    token: "{{ token }}"
    programs: [{name: shop-web-1, type: web, index: 1, port: 8000}]
    health_path: /health
    health_host: shop.example
  throttle: 1
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, and why.
  type: list
  elements: str
  returned: always
  sample: ["current: v12", "shop-web-1: restarted, ran on build 9f8e7d6c5b"]
outcome:
  description: What went wrong, in one line.
  type: str
  returned: failure
"""

SUPERVISOR = "/run/supervisor.sock"
PROGRAMS = Path("/etc/supervisor/conf.d")
RUN = Path("/run/offramp/apps")
# A file without-<index> in here takes a web instance out of nginx, which looks for it at every request.
UPSTREAM = Path("/run/offramp/upstream")
LOGS = Path("/var/log")
APP_RUN = "/usr/local/bin/app-run"
# A process that dies this often while it is waited for will not come up.
DEATHS = 4
# Supervisor kills what has not ended by itself in its stopwaitsecs; this is for supervisor.
PATIENCE = 4000
STOPPED = ("STOPPED", "EXITED", "FATAL")
# A request that nginx was about to hand over when it was told not to has arrived by then.
SETTLE_SECONDS = 0.3


class RollError(Exception):
    """A roll that went wrong, in words for a person, and the program by which it did."""

    def __init__(self, message: str, program: dict[str, Any] | None = None):
        super().__init__(message)
        self.program = program
        # One line, for the end of a run.
        self.outcome = message


class UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over the socket of supervisord."""

    def make_connection(self, _host: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE)
        connection.sock.connect(SUPERVISOR)
        return connection


class Supervisor:
    """The programs of this host's supervisord."""

    def __init__(self) -> None:
        self.call = xmlrpc.client.ServerProxy("http://localhost", transport=UnixTransport()).supervisor

    def wait(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                self.call.getState()
                return
            except (OSError, http.client.HTTPException) as problem:
                if time.monotonic() > deadline:
                    raise RollError(f"supervisor does not answer on this host: {problem}") from None
                time.sleep(0.2)

    def differences(self) -> tuple[set[str], set[str], set[str]]:
        """Return programs added, changed and removed between the files and what supervisord has loaded."""
        try:
            added, changed, removed = self.call.reloadConfig()[0]
        except xmlrpc.client.Fault as fault:
            raise RollError(f"supervisor refuses its configuration: {fault.faultString}") from None
        return set(added), set(changed), set(removed)

    def info(self, name: str) -> dict[str, Any]:
        try:
            return self.call.getProcessInfo(name)
        except xmlrpc.client.Fault:
            return {"statename": "ABSENT", "pid": 0, "spawnerr": "", "description": ""}

    def stop(self, names: list[str]) -> None:
        for name in names:
            # One that is not running is what we want.
            with contextlib.suppress(xmlrpc.client.Fault):
                self.call.stopProcess(name, False)
        for name in names:
            deadline = time.monotonic() + PATIENCE
            while self.info(name)["statename"] not in (*STOPPED, "ABSENT"):
                if time.monotonic() > deadline:
                    raise RollError(f"{name} does not end")
                time.sleep(0.1)

    def start(self, name: str) -> None:
        # One that is starting already is what we want.
        with contextlib.suppress(xmlrpc.client.Fault):
            self.call.startProcess(name, False)

    def forget(self, name: str) -> None:
        self.call.removeProcessGroup(name)

    def learn(self, name: str) -> None:
        """Load a program's configuration, which also starts it."""
        self.call.addProcessGroup(name)


def is_healthy(port: int, path: str, host: str, timeout: float = 10) -> tuple[bool, str]:
    """Ask a web instance as nginx would."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    headers = {"Host": host, "X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1", "User-Agent": "offramp"}
    try:
        connection.request("GET", path, headers=headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as problem:
        return False, f"gives no answer on port {port} ({problem or type(problem).__name__})"
    finally:
        connection.close()
    return 200 <= status < 400, f"answers {path} with {status}"


PROGRAM = """
[program:{name}]
command=/usr/local/bin/app-run {app} --process {type} --index {index}{port}
user={app}
directory=/
autostart={autostart}
autorestart=true
startsecs=1
startretries=1000000
stopsignal=TERM
stopwaitsecs={stop_seconds}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile={logs}/{app}/{type}-{index}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=5
"""
HEADER = """; Ansible managed
; app: {app}
; Nothing is ever given up: the time between two attempts to start grows by a second each. A stop reaches the first
; process, which passes it on as it sees fit; a kill, when stopwaitsecs are over, reaches all of them.
"""


class Roll:
    """One app on this host, on its way to one release."""

    def __init__(self, module: AnsibleModule, supervisor: Supervisor):
        self.module = module
        self.supervisor = supervisor
        self.app: str = module.params["app"]
        self.releases = Releases(Path(module.params["home"]))
        self.number: int = module.params["number"]
        self.actions: list[str] = []
        self.programs: list[dict[str, Any]] = []
        self.spare: dict[str, Any] | None = None
        self.added: set[str] = set()
        self.changed: set[str] = set()
        self.removed: set[str] = set()
        self.log_starts: dict[str, int] = {}

    def stop_seconds(self, program: dict[str, Any]) -> int:
        kind = "web" if program["type"] == "web" else "worker"
        return program.get("stop_seconds") or self.module.params[f"{kind}_stop_seconds"]

    def configuration(self, programs: list[dict[str, Any]]) -> str:
        """Return what supervisor is to know of the programs."""
        return HEADER.format(app=self.app) + "".join(map(self.section, programs))

    def section(self, program: dict[str, Any]) -> str:
        return PROGRAM.format(
            name=program["name"],
            app=self.app,
            type=program["type"],
            index=program["index"],
            port=f" --port {program['port']}" if program["type"] == "web" else "",
            autostart="false" if program.get("spare") else "true",
            stop_seconds=self.stop_seconds(program),
            logs=LOGS,
        )

    def remembered(self, number: int) -> list[dict[str, Any]]:
        """Return the programs that a release was run with."""
        try:
            return json.loads((self.releases.directory(number) / "programs.json").read_text())
        except (FileNotFoundError, ValueError):
            return self.module.params["programs"]

    def place(self, path: Path, text: str) -> bool:
        if path.exists() and path.read_text() == text:
            return False
        if not self.module.check_mode:
            place_file(path, text.encode(), 0o644, os.geteuid(), os.getegid())
        return True

    def wanted(self, number: int) -> dict[str, Any]:
        code, out, said = self.module.run_command([APP_RUN, self.app, "--release", f"v{number}", "--state"])
        if code != 0:
            raise RollError(said.strip())
        return json.loads(out)

    def record(self, program: dict[str, Any]) -> dict[str, Any]:
        path = RUN / self.app / f"{program['type']}.{program['index']}" / "loaded.json"
        try:
            return json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def why_stale(self, program: dict[str, Any], wanted: dict[str, Any]) -> str | None:
        """Return what is wrong with the process that runs, or None."""
        name = program["name"]
        if name in self.added:
            return "is new"
        if name in self.changed:
            return "has a new configuration"
        info, record = self.supervisor.info(name), self.record(program)
        if info["statename"] not in ("RUNNING", "STARTING"):
            return f"was {info['statename'].lower()}"
        if record.get("pid") != info["pid"]:
            return "had no record of what it runs on"
        if record.get("build") != wanted["build"]:
            return f"ran on build {record.get('build', record.get('release'))}"
        if record["env"] != wanted["env"]:
            return "ran on an older config"
        if record["command"] != wanted["commands"].get(program["type"]):
            return "ran another command"
        return None

    def why_sick(self, program: dict[str, Any]) -> str | None:
        if program["type"] != "web":
            return None
        said = ""
        for _attempt in range(3):
            healthy, said = self.ask(program)
            if healthy:
                return None
            time.sleep(0 if self.module.check_mode else 1)
        return said

    def ask(self, program: dict[str, Any]) -> tuple[bool, str]:
        return is_healthy(program["port"], self.module.params["health_path"], self.module.params["health_host"])

    def mark(self, program: dict[str, Any]) -> Path:
        return UPSTREAM / self.app / f"without-{program['index']}"

    def take_out(self, program: dict[str, Any]) -> None:
        """Have nginx hand it no more requests."""
        mark = self.mark(program)
        mark.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mark.touch()

    def drain(self, program: dict[str, Any]) -> None:
        """Wait until it has no request left, or its time is over."""
        deadline = time.monotonic() + self.stop_seconds(program)
        time.sleep(SETTLE_SECONDS)
        while connections(program["port"]) and time.monotonic() < deadline:
            time.sleep(0.05)

    def restart(self, programs: list[dict[str, Any]]) -> None:
        names = [program["name"] for program in programs]
        self.supervisor.stop([name for name in names if name not in self.added])
        for program in programs:
            log = self.log(program)
            self.log_starts[program["name"]] = log.stat().st_size if log.exists() else 0
        for name in names:
            if not self.load(name):
                self.supervisor.start(name)
        for program in programs:
            self.wait_until_up(program)

    def load(self, name: str) -> bool:
        """Have supervisor take up a program's configuration where it is new, which also starts it."""
        if name not in self.added | self.changed:
            return False
        if name in self.changed:
            self.supervisor.forget(name)
        self.supervisor.learn(name)
        self.added.discard(name)
        self.changed.discard(name)
        return True

    def restart_web(self, program: dict[str, Any]) -> None:
        """Restart a web instance that nginx asks nothing meanwhile."""
        runs = self.supervisor.info(program["name"])["statename"] == "RUNNING"
        if self.spare and runs:
            # The old one goes on while the new one shows what it can do.
            self.start_spare(self.spare)
        if runs:
            self.take_out(program)
            self.drain(program)
        self.restart([program])
        self.put_back(program)

    def start_spare(self, spare: dict[str, Any]) -> None:
        self.load(spare["name"])
        self.restart([spare])

    def put_back(self, program: dict[str, Any]) -> None:
        self.mark(program).unlink(missing_ok=True)
        if self.spare and self.spare_runs:
            self.drain(self.spare)
            self.supervisor.stop([self.spare["name"]])

    def wait_until_up(self, program: dict[str, Any]) -> None:
        name, pids = program["name"], set()
        deadline = time.monotonic() + self.module.params["health_timeout"]
        said = "did not start"
        while time.monotonic() < deadline:
            info = self.supervisor.info(name)
            pids.add(info["pid"])
            if len(pids - {0}) >= DEATHS or info["statename"] == "FATAL":
                raise RollError(f"{name} ends again and again ({info['spawnerr'] or info['description']})", program)
            if info["statename"] in ("RUNNING", "STARTING") and program["type"] == "web":
                healthy, said = self.ask(program)
                if healthy:
                    return
            elif info["statename"] == "RUNNING":
                return
            else:
                # On a slow host fewer deaths fit in.
                said = "ends again and again" if info["statename"] == "BACKOFF" else f"is {info['statename'].lower()}"
            time.sleep(0.1)
        raise RollError(f"{name} {said}, {self.module.params['health_timeout']} s after its start", program)

    def log(self, program: dict[str, Any]) -> Path:
        return LOGS / self.app / f"{program['type']}-{program['index']}.log"

    def log_end(self, program: dict[str, Any]) -> str:
        """Return the last lines that a process wrote since it was restarted."""
        path = self.log(program)
        start = self.log_starts.get(program["name"], 0)
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                # A log that was rotated since begins anew.
                file.seek(max(start if start <= size else 0, size - 20_000))
                lines = file.read().decode(errors="replace").splitlines()[-20:]
        except OSError:
            lines = []
        return "\n".join([f"The end of {path}:", *lines])

    def roll(self) -> None:
        self.supervisor.wait()
        try:
            self.converge(self.number, self.module.params["programs"])
        except RollError as problem:
            raise self.go_back(problem) from None

    def converge(self, number: int, programs: list[dict[str, Any]]) -> None:
        """Bring every process onto a release, and let none be that is not wanted."""
        wanted = self.wanted(number)
        known = [program for program in programs if program["type"] in wanted["commands"]]
        self.programs = [program for program in known if not program.get("spare")]
        self.spare = next((program for program in known if program.get("spare")), None)
        self.configure(number, known)
        if self.releases.at("current") != number:
            self.actions.append(f"current: v{number}")
            if not self.module.check_mode:
                self.releases.point("current", number)
        webs = [program for program in self.programs if program["type"] == "web"]
        others = [program for program in self.programs if program["type"] != "web"]
        # Before the first release has served there is nothing that must go on serving.
        groups = [*([web] for web in webs), others] if self.releases.at(".served") else [self.programs]
        for group in groups:
            self.renew(group, wanted)
        for name in sorted(self.removed):
            self.actions.append(f"{name}: removed")
        if not self.module.check_mode:
            self.tidy(webs)

    def configure(self, number: int, programs: list[dict[str, Any]]) -> None:
        if self.place(PROGRAMS / f"{self.app}.conf", self.configuration(programs)):
            self.actions.append(f"{PROGRAMS / self.app}.conf")
        if not self.module.check_mode:
            self.place(self.releases.directory(number) / "programs.json", json.dumps(programs))
        self.added, self.changed, self.removed = self.supervisor.differences()

    def tidy(self, webs: list[dict[str, Any]]) -> None:
        self.supervisor.stop(sorted(self.removed))
        for name in self.removed:
            self.supervisor.forget(name)
        # What an interrupted run left out of nginx works, or it would have been restarted.
        for web in webs:
            if self.mark(web).exists() or self.spare_runs:
                self.actions.append(f"{web['name']}: serves again")
                self.put_back(web)
        for mark in (UPSTREAM / self.app).glob("without-*"):
            mark.unlink()
        if self.spare:
            self.load(self.spare["name"])

    @property
    def spare_runs(self) -> bool:
        return self.spare is not None and self.supervisor.info(self.spare["name"])["statename"] in (
            "RUNNING",
            "STARTING",
            "BACKOFF",
        )

    def renew(self, group: list[dict[str, Any]], wanted: dict[str, Any]) -> None:
        stale = []
        for program in group:
            why = self.why_stale(program, wanted) or self.why_sick(program)
            if why:
                stale.append(program)
                self.actions.append(f"{program['name']}: restarted, {why}")
        if stale and not self.module.check_mode:
            if stale[0]["type"] == "web" and self.releases.at(".served"):
                self.restart_web(stale[0])
            else:
                self.restart(stale)

    def go_back(self, problem: RollError) -> RollError:
        """Go back to what last worked on the whole site, and return the whole story."""
        before = self.releases.at(".served")
        log = self.log_end(problem.program) if problem.program else f"See {LOGS / self.app}."
        if before is None:
            end = "there is no earlier release to go back to"
        elif before == self.number:
            end = "it is the release that served before: there is nothing to go back to"
        else:
            end = self.return_to(before)
        story = f"v{self.number} of {self.app} does not work on this host: {problem}; {end}"
        failed = RollError(f"{story}.\n{log}")
        failed.outcome = story
        return failed

    def return_to(self, before: int) -> str:
        try:
            self.converge(before, self.remembered(before))
        except (RollError, OSError) as second:
            return f"going back to v{before} failed as well: {second}"
        return f"v{before} serves"

    def leave(self) -> None:
        """Go back, because the release does not work on another host."""
        before = self.releases.at(".served")
        if before is not None and before != self.number:
            self.supervisor.wait()
            self.converge(before, self.remembered(before))

    def foresee(self) -> None:
        """Say what a first roll would do, on a host that lacks what would be asked."""
        self.actions.append(f"current: v{self.number}")
        self.actions += [
            f"{program['name']}: restarted, is new"
            for program in self.module.params["programs"]
            if not program.get("spare")
        ]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "number": {"type": "int", "required": True},
            "token": {"type": "str", "required": True, "no_log": False},
            "state": {"type": "str", "choices": ["rolled", "back"], "default": "rolled"},
            "programs": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "type": {"type": "str", "required": True},
                    "index": {"type": "int", "required": True},
                    "port": {"type": "int"},
                    "spare": {"type": "bool", "default": False},
                    "stop_seconds": {"type": "int"},
                },
            },
            "web_stop_seconds": {"type": "int", "default": 30},
            "worker_stop_seconds": {"type": "int", "default": 60},
            "health_path": {"type": "str", "default": "/"},
            "health_host": {"type": "str", "default": "localhost"},
            "health_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    roll = Roll(module, Supervisor())
    try:
        if module.check_mode and not (Path(SUPERVISOR).exists() and roll.releases.read(roll.number)):
            roll.foresee()
        elif module.check_mode:
            roll.roll()
        else:
            with Lock(roll.app, module.params["token"]).hold():
                roll.leave() if module.params["state"] == "back" else roll.roll()
    except (RollError, HeldError, OSError) as problem:
        # The end of an app's log may hold what it was given.
        module.no_log_values |= roll.releases.secrets(roll.number, roll.releases.at(".served"))
        module.fail_json(msg=str(problem), outcome=getattr(problem, "outcome", str(problem)), actions=roll.actions)
    module.exit_json(changed=bool(roll.actions), actions=roll.actions)


if __name__ == "__main__":
    main()
