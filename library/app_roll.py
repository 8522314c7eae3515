#!/usr/bin/python3
"""Bring the processes of an app onto its release, one web instance after the other."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import socket
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: app_roll
short_description: Brings an app's processes onto its release and config, one after the other
description:
  - Points C(current) at the release, then restarts what runs on something else. Each web instance has to answer its
    health check before the next one is touched; then come the other process types, all at once. The first release of an
    app starts all at once.
  - What a process runs on is what it recorded when it started (release, environment, command) and what supervisor has
    loaded for it, never what a file says now. So an interrupted run is completed by the next one, and a run that finds
    nothing to do restarts nothing.
  - When a process does not come up, C(current) and the environment are put back as they last worked, the processes
    that were touched are restarted on them, and the module fails with the end of the log.
  - A web instance that runs on the right release and does not answer is restarted too.
options:
  app:
    description: Name of the app.
    type: str
    required: true
  home:
    description: Directory of the app on the host.
    type: path
    required: true
  release:
    description: Name of the release, which app_build has built.
    type: str
    required: true
  programs:
    description: What is to run, as C(programs) of the filter site_apps (C(name), C(type), C(index), C(port)).
    type: list
    elements: dict
    required: true
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
    release: 0a1b2c3d4e
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
  sample: ["current: 0a1b2c3d4e", "shop-web-1: restarted, ran on release 9f8e7d6c5b"]
"""

SUPERVISOR = "/run/supervisor.sock"
RUN = Path("/run/offramp/apps")
LOGS = Path("/var/log")
APP_RUN = "/usr/local/bin/app-run"
# A process that dies this often while it is waited for will not come up.
DEATHS = 4
# Supervisor kills what has not ended by itself in its stopwaitsecs; this is for supervisor.
PATIENCE = 900
STOPPED = ("STOPPED", "EXITED", "FATAL")


class RollError(Exception):
    """A roll that went wrong, in words for a person, and the program by which it did."""

    def __init__(self, message: str, program: dict[str, Any] | None = None):
        super().__init__(message)
        self.program = program


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


class Roll:
    """One app on this host, on its way to one release."""

    def __init__(self, module: AnsibleModule, supervisor: Supervisor):
        self.module = module
        self.supervisor = supervisor
        self.app: str = module.params["app"]
        self.home = Path(module.params["home"])
        self.release: str = module.params["release"]
        self.programs: list[dict[str, Any]] = module.params["programs"]
        self.actions: list[str] = []
        self.touched: list[dict[str, Any]] = []
        self.added: set[str] = set()
        self.changed: set[str] = set()
        self.removed: set[str] = set()
        self.log_starts: dict[str, int] = {}

    def at(self, link: str) -> str | None:
        """Return the release that a link points at."""
        path = self.home / link
        return path.resolve().name if path.is_dir() else None

    def point(self, link: str, release: str) -> None:
        temporary = self.home / ".link"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"releases/{release}")
        temporary.rename(self.home / link)

    def wanted(self) -> dict[str, Any]:
        code, out, said = self.module.run_command([APP_RUN, self.app, "--release", self.release, "--state"])
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
        if record["release"] != wanted["release"]:
            return f"ran on release {record['release']}"
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

    def restart(self, programs: list[dict[str, Any]]) -> None:
        names = [program["name"] for program in programs]
        self.supervisor.stop([name for name in names if name not in self.added])
        for program in programs:
            log = self.log(program)
            self.log_starts[program["name"]] = log.stat().st_size if log.exists() else 0
        for name in names:
            if name in self.changed:
                self.supervisor.forget(name)
            if name in self.added | self.changed:
                self.supervisor.learn(name)
            else:
                self.supervisor.start(name)
            self.added.discard(name)
            self.changed.discard(name)
        for program in programs:
            self.wait_until_up(program)

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
                said = f"is {info['statename'].lower()}"
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
        self.added, self.changed, self.removed = self.supervisor.differences()
        if self.at("current") != self.release:
            self.actions.append(f"current: {self.release}")
            if not self.module.check_mode:
                self.point("current", self.release)
        wanted = self.wanted()
        webs = [program for program in self.programs if program["type"] == "web"]
        others = [program for program in self.programs if program["type"] != "web"]
        # Before the first release has served there is nothing that must go on serving.
        groups = [*([web] for web in webs), others] if self.at(".served") else [self.programs]
        try:
            for group in groups:
                self.renew(group, wanted)
        except RollError as problem:
            raise RollError(self.go_back(problem)) from None
        for name in sorted(self.removed):
            self.actions.append(f"{name}: removed")
        if not self.module.check_mode:
            self.supervisor.stop(sorted(self.removed))
            for name in self.removed:
                self.supervisor.forget(name)
            self.remember()

    def renew(self, group: list[dict[str, Any]], wanted: dict[str, Any]) -> None:
        stale = []
        for program in group:
            why = self.why_stale(program, wanted) or self.why_sick(program)
            if why:
                stale.append(program)
                self.actions.append(f"{program['name']}: restarted, {why}")
        if stale and not self.module.check_mode:
            self.touched += stale
            self.restart(stale)

    def remember(self) -> None:
        """Keep the release and the environment that the app was last seen to work with."""
        if not self.env_is_as_served:
            self.copy_env("env", ".env.served")
        if self.at(".served") != self.release:
            self.point(".served", self.release)

    @property
    def env_is_as_served(self) -> bool:
        kept = self.home / ".env.served"
        return kept.exists() and kept.read_bytes() == (self.home / "env").read_bytes()

    def copy_env(self, source: str, target: str) -> None:
        temporary = self.home / ".env.new"
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with os.fdopen(descriptor, "wb") as file:
            file.write((self.home / source).read_bytes())
            file.flush()
            os.fsync(file.fileno())
        shutil.chown(temporary, "root", self.app)
        temporary.rename(self.home / target)

    def go_back(self, problem: RollError) -> str:
        """Go back to what was last seen to work, and return the whole story."""
        before = self.at(".served")
        story = [f"{self.app}: release {self.release} does not work on this host: {problem}."]
        log = self.log_end(problem.program) if problem.program else f"See {LOGS / self.app}."
        if before is None:
            story.append("There is no earlier release to go back to.")
        elif before == self.release and self.env_is_as_served:
            story.append("It is the release, with the config, that served before: there is nothing to go back to.")
        else:
            try:
                self.point("current", before)
                if not self.env_is_as_served:
                    self.copy_env(".env.served", "env")
                self.restart_each(self.touched)
                story.append(f"Release {before} serves again, with the config that it had.")
            except (RollError, OSError) as second:
                story.append(f"Going back to release {before} failed as well: {second}.")
        return "\n".join([*story, log])

    def restart_each(self, programs: list[dict[str, Any]]) -> None:
        for program in programs:
            if program["type"] == "web":
                self.restart([program])
        self.restart([program for program in programs if program["type"] != "web"])

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for a roll that goes on, although the run that began it was killed."""
        with os.fdopen(os.open(self.home / ".lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def foresee(self) -> None:
        """Say what a first roll would do, on a host that lacks what would be asked."""
        self.actions.append(f"current: {self.release}")
        self.actions += [f"{program['name']}: restarted, is new" for program in self.programs]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "programs": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "type": {"type": "str", "required": True},
                    "index": {"type": "int", "required": True},
                    "port": {"type": "int"},
                },
            },
            "health_path": {"type": "str", "default": "/"},
            "health_host": {"type": "str", "default": "localhost"},
            "health_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    roll = Roll(module, Supervisor())
    try:
        if module.check_mode and not (Path(SUPERVISOR).exists() and (roll.home / "releases" / roll.release).is_dir()):
            roll.foresee()
        elif module.check_mode:
            roll.roll()
        else:
            with roll.alone():
                roll.roll()
    except (RollError, OSError) as problem:
        module.fail_json(msg=str(problem), actions=roll.actions)
    module.exit_json(changed=bool(roll.actions), actions=roll.actions)


if __name__ == "__main__":
    main()
