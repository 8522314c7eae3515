#!/usr/bin/python3
"""Keep a systemd unit up, and running on the files that it has on disk."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.placing import place_file
from ansible.module_utils.sandbox import SANDBOX

DOCUMENTATION = r"""
module: unit
short_description: Keeps a systemd unit enabled, started, restarting after a crash, and running on its present files
description:
  - Writes a drop-in that restarts the service a second after any crash, without a limit that gives up. Debian's units
    for nginx, postgresql and pgbouncer never restart, and supervisor waits 50 seconds.
  - The drop-in also makes the unit record, at each start and reload, a fingerprint of the files in I(loads). When the
    record differs from the files, the daemon runs on an older configuration, whoever changed the files and however the
    run that changed them ended; the unit is then reloaded or restarted. No handler can be lost.
  - The drop-in keeps the service in a sandbox as well. What it may do beyond that, the role says in I(drop_in).
  - A daemon that was started before it had the drop-in, as Debian's packages do, is restarted. A later change of the
    drop-in alone cuts nobody off; it holds from the next start.
  - Fails with the unit's last log lines when the unit does not become active.
options:
  name:
    description: Full name of the unit, such as C(nginx.service).
    type: str
    required: true
  loads:
    description: Files and directories that the daemon reads when it starts or reloads.
    type: list
    elements: path
    default: []
  reloads:
    description: Files that the daemon takes up by a reload, where those of I(loads) need a restart.
    type: list
    elements: path
    default: []
  on_change:
    description: How the daemon takes up changed files of I(loads).
    type: str
    choices: [reload, restart]
    default: restart
  drop_in:
    description: Further lines for the drop-in's Service section.
    type: str
    default: ""
  sandbox:
    description: Whether the drop-in keeps the service in the sandbox; one of systemd's own has its own.
    type: bool
    default: true
  timeout:
    description: Seconds to wait for the unit to become active.
    type: int
    default: 90
  watch:
    description:
      - A unit of ours that looks after this one, and is kept up in the same way, after it, in the sandbox and with the
        same I(timeout); it is restarted when its program changes.
    type: dict
    suboptions:
      name:
        description: Full name of the unit.
        type: str
        required: true
      loads:
        description: Its program, and what else it reads when it starts.
        type: list
        elements: path
        required: true
"""

EXAMPLES = r"""
- name: Run | Keep nginx up on its present configuration
  unit:
    name: nginx.service
    loads: [/etc/nginx]
    on_change: reload
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, in order, and of I(watch) with its name.
  type: list
  elements: str
  returned: always
  sample: [drop-in, enabled, reloaded]
active:
  description: Whether the unit in I(name) runs; false only in check mode, on a host where it would be started.
  type: bool
  returned: always
"""

STAMPS = "/run/offramp"
PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload", "FragmentPath")


def fingerprint_command(loads: list[str]) -> str:
    """Shell words that print one hash over the content and names of all files below the given paths."""
    paths = " ".join(shlex.quote(path) for path in sorted(loads))
    return f"find -L {paths} -type f -exec sha256sum {{}} + 2>/dev/null | sort | sha256sum"


def recorder(name: str, files: list[str]) -> str:
    """Return what records which files the daemon is about to read, so that a change in between is never missed."""
    script = f"mkdir -p {STAMPS}; {fingerprint_command(files)} >{STAMPS}/{name}"
    return f"-+/bin/sh -c {shlex.quote(script.replace('%', '%%'))}"


def drop_in_text(
    name: str, loads: list[str], on_change: str, extra: str, sandbox: bool = True, reloads: list[str] | None = None
) -> str:
    lines = [
        "# Ansible managed",
        "[Unit]",
        # A daemon that binds a private address at boot has to find it there.
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Restart=always",
        "RestartSec=1",
    ]
    if loads:
        lines.append(f"ExecStartPre={recorder(name, loads)}")
        if on_change == "reload":
            lines.append(f"ExecReload={recorder(name, loads)}")
    if reloads:
        lines += [f"{when}={recorder(f'{name}.reload', reloads)}" for when in ("ExecStartPre", "ExecReload")]
    if sandbox:
        lines += SANDBOX.splitlines()
    return "\n".join([*lines, *extra.strip().splitlines(), ""])


class Unit:
    """One unit on this host, asked and changed through systemctl."""

    def __init__(
        self,
        module: AnsibleModule,
        name: str,
        loads: list[str],
        on_change: str = "restart",
        drop_in: str = "",
        sandbox: bool = True,
        reloads: list[str] | None = None,
    ):
        self.module = module
        self.name = name
        self.loads = loads
        self.reloads = reloads or []
        self.on_change = on_change
        self.text = drop_in_text(name, loads, on_change, drop_in, sandbox, self.reloads)
        self.actions: list[str] = []
        self.active = False
        self.record = Path(STAMPS, self.name)
        self.drop_in = Path(f"/etc/systemd/system/{self.name}.d/offramp.conf")

    def systemctl(self, *words: str) -> tuple[int, str, str]:
        return self.module.run_command(["systemctl", "--no-ask-password", *words])

    def properties(self) -> dict[str, str]:
        code, out, error = self.systemctl("show", self.name, "--property", ",".join(PROPERTIES))
        if code != 0:
            self.module.fail_json(msg=f"systemctl show {self.name}: {error.strip()}")
        return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def write_drop_in(self) -> bool:
        if self.drop_in.exists() and self.drop_in.read_text() == self.text:
            return False
        self.actions.append("drop-in")
        if not self.module.check_mode:
            place_file(self.drop_in, self.text.encode(), 0o644)
        return True

    def runs_on_present(self, files: list[str], record: Path) -> bool:
        if not record.exists():
            return False
        return self.module.run_command(["/bin/sh", "-c", fingerprint_command(files)])[1] == record.read_text()

    def do(self, word: str, done: str) -> None:
        self.actions.append(done)
        if self.module.check_mode:
            return
        code, _out, error = self.systemctl(word, self.name)
        if code != 0:
            self.fail(f"systemctl {word} {self.name}: {error.strip()}")

    def wait_until_active(self) -> None:
        deadline = time.monotonic() + self.module.params["timeout"]
        while (state := self.properties()["ActiveState"]) != "active":
            if time.monotonic() > deadline:
                self.fail(f"{self.name} is {state}")
            time.sleep(0.2)

    def fail(self, problem: str) -> None:
        _code, log, _error = self.module.run_command(
            ["journalctl", "--no-pager", "--output=cat", "--lines=15", "--unit", self.name]
        )
        self.module.fail_json(msg=f"{problem}\nIts last log lines:\n{log.strip()}")

    def take_up_files(self) -> None:
        if self.loads and not self.record.exists():
            # It was started without the drop-in, and a reload would not put it into its sandbox.
            self.do("restart", "restarted")
        elif self.loads and not self.runs_on_present(self.loads, self.record):
            self.do(self.on_change, f"{self.on_change}ed")
        elif self.reloads and not self.runs_on_present(self.reloads, Path(f"{self.record}.reload")):
            self.do("reload", "reloaded")

    def keep(self) -> None:
        seen = self.properties()
        if seen["LoadState"] == "not-found":
            if not self.module.check_mode:
                self.module.fail_json(msg=f"{self.name} is not installed on this host")
            self.actions += ["drop-in", "enabled", "started"]
            return
        if (self.write_drop_in() or seen["NeedDaemonReload"] == "yes") and not self.module.check_mode:
            self.systemctl("daemon-reload")
        # Instances of a template and generated units are enabled by what generates them.
        if seen["UnitFileState"] == "disabled":
            self.do("enable", "enabled")
        elif seen["UnitFileState"] == "masked":
            self.fail(f"{self.name} is masked: systemctl unmask {self.name}")
        if seen["ActiveState"] not in ("active", "reloading"):
            self.do("start", "started")
        else:
            self.take_up_files()
        self.active = seen["ActiveState"] == "active"
        if not self.module.check_mode:
            self.wait_until_active()
            self.active = True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "loads": {"type": "list", "elements": "path", "default": []},
            "reloads": {"type": "list", "elements": "path", "default": []},
            "on_change": {"type": "str", "choices": ["reload", "restart"], "default": "restart"},
            "drop_in": {"type": "str", "default": ""},
            "sandbox": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 90},
            "watch": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "loads": {"type": "list", "elements": "path", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    wanted = module.params
    unit = Unit(module, *(wanted[name] for name in ("name", "loads", "on_change", "drop_in", "sandbox", "reloads")))
    unit.keep()
    actions = unit.actions
    if wanted["watch"]:
        watch = Unit(module, **wanted["watch"])
        watch.keep()
        actions += [f"{watch.name} {action}" for action in watch.actions]
    module.exit_json(changed=bool(actions), actions=actions, active=unit.active)


if __name__ == "__main__":
    main()
