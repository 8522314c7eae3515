#!/usr/bin/python3
"""Configure sshd and the operator's keys so that nobody is locked out."""

from __future__ import annotations

import pwd
import re
import shlex
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.guard import Guard
from ansible.module_utils.placing import place_file
from ansible.module_utils.ssh_connection import ssh_connection

DOCUMENTATION = r"""
module: sshd
short_description: Configures sshd and the operator's keys so that nobody is locked out
description:
  - Before anything is changed a timer is armed on the host that brings all of it back. Then the keys are written, and
    the controller opens a new connection as the operator, who becomes root by sudo. Only then is sshd's configuration
    written, tested (C(sshd -t), and C(sshd -T) for what comes into force), and loaded, and the new connections are made
    again. When they get in, the timer is stopped; when one does not, or the controller is killed, the host is as it
    was.
  - What sshd has loaded is compared, and not only the file. A run that changes nothing is one look.
options:
  configuration:
    description: What stands before all other configuration. C(CONTROLLER) in it is the address of this run.
    type: str
    required: true
  in_force:
    description: Options in lower case, and what C(sshd -T) has to say of them.
    type: dict
    default: {}
  operator:
    description: The operator's account.
    type: str
    required: true
  operator_keys:
    description: Public keys that may log in as the operator; no other key may.
    type: list
    elements: str
    required: true
  rsa_bits:
    description: Least length of the host's RSA key, which is made anew where it is shorter; 0 leaves it alone.
    type: int
    default: 0
  moduli_bits:
    description: Least length of a group for the Diffie-Hellman exchange, shorter ones go; 0 leaves the file alone.
    type: int
    default: 0
  guard_seconds:
    description: Seconds after which all of it goes back unless the operator has got in.
    type: int
    default: 40
  step:
    description: What to do of it; the controller's half of this module gives all but the first.
    type: str
    choices: [keys, sshd, keep, undo]
    default: keys
  run:
    description: Name of this run, which the controller's half gives, so that no other run keeps or undoes its change.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Configure | Let keys in and nothing else
  sshd:
    configuration: |
      PasswordAuthentication no
    in_force: {passwordauthentication: "no"}
    operator: operator
    operator_keys: "{{ ssh_operator_keys }}"
"""

RETURN = r"""
changed_paths:
  description: Files that were changed, or would be in check mode.
  type: list
  elements: str
  returned: always
reloaded:
  description: Whether sshd is reloaded, or would be.
  type: bool
  returned: always
armed:
  description: Whether all of it goes back unless it is kept.
  type: bool
  returned: always
rest:
  description: Whether the step C(sshd) has something to do.
  type: bool
  returned: always
"""

UNIT = "ssh.service"
SSH = Path("/etc/ssh")
# Before all other files, because of each option sshd takes the first that it finds.
CONFIGURATION = SSH / "sshd_config.d" / "00-offramp.conf"
RSA_KEY = SSH / "ssh_host_rsa_key"
MODULI = SSH / "moduli"
# A host that loses power in between starts sshd as it was; the last drop-in, so that no other takes it out.
AT_BOOT = Path(f"/etc/systemd/system/{UNIT}.d/zz-offramp-undo.conf")


class RefusedError(Exception):
    """What can't be done, in words for a person."""


@dataclass
class File:
    """A file that should have this content."""

    path: Path
    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0

    @property
    def present(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""

    @property
    def differs(self) -> bool:
        if not self.path.exists():
            return True
        status = self.path.lstat()
        seen = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        return seen != (self.mode, self.uid, self.gid) or self.present != self.content

    def place(self) -> None:
        place_file(self.path, self.content, self.mode, self.uid, self.gid)

    def diff(self) -> dict[str, str]:
        return {
            "before_header": str(self.path),
            "after_header": str(self.path),
            "before": self.present.decode(errors="replace"),
            "after": self.content.decode(errors="replace"),
        }


def kept_groups(moduli: str, bits: int) -> str:
    """Return the groups that are long enough; of the columns the fifth is the length, less one."""
    return "".join(
        line
        for line in moduli.splitlines(keepends=True)
        if line.startswith("#") or (len(line.split()) > 4 and int(line.split()[4]) >= bits - 1)
    )


def undoing(paths: list[Path], directory: Path) -> list[str]:
    """Return shell lines that bring the files back which are here now, and have sshd load them."""
    lines = [f"mkdir -p {directory}"]
    for number, path in enumerate(paths):
        target = shlex.quote(str(path))
        if path.exists():
            # Under another name first, so that sshd never meets half a file.
            lines.append(f"cp -a {directory}/{number} {target}.undo && mv -f {target}.undo {target}")
        else:
            lines.append(f"rm -f {target}")
    return [
        *lines,
        f"rm -f {AT_BOOT}",
        f'[ "$1" = boot ] || {{ systemctl reset-failed {UNIT}; systemctl reload-or-restart {UNIT}; }}',
    ]


class Sshd:
    """sshd's configuration, the host's keys and the operator's keys on this host."""

    def __init__(self, module: AnsibleModule):
        self.module = module
        self.guard = Guard(module, "ssh", module.params["run"])
        connection = ssh_connection()
        text = module.params["configuration"].replace("CONTROLLER", connection.source if connection else "127.0.0.1")
        self.configuration = File(CONFIGURATION, text.encode())
        self.keys = self.operator_keys()
        bits = module.params["moduli_bits"]
        present = MODULI.read_text() if bits and MODULI.exists() else ""
        self.moduli = File(MODULI, kept_groups(present, bits).encode()) if present else None

    def operator_keys(self) -> File:
        name = self.module.params["operator"]
        content = "".join(f"{key}\n" for key in sorted({key.strip() for key in self.module.params["operator_keys"]}))
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            # In check mode on a fresh host role base has not made the account.
            if not self.module.check_mode:
                self.module.fail_json(msg=f"this host has no user {name!r}: run role base first")
            return File(Path(f"/home/{name}/.ssh/authorized_keys"), content.encode(), 0o600)
        return File(Path(user.pw_dir, ".ssh", "authorized_keys"), content.encode(), 0o600, user.pw_uid, user.pw_gid)

    def run(self, *command: str) -> tuple[int, str, str]:
        return self.module.run_command(list(command))

    @property
    def rsa_is_short(self) -> bool:
        if not self.module.params["rsa_bits"]:
            return False
        code, out, _error = self.run("ssh-keygen", "-l", "-f", str(RSA_KEY))
        return code != 0 or int(out.split()[0]) < self.module.params["rsa_bits"]

    @property
    def is_stale(self) -> bool:
        """Whether sshd runs on older files than those that are here, whoever changed them."""
        properties = "ActiveState,StateChangeTimestampMonotonic"
        _code, out, _error = self.run("systemctl", "show", UNIT, f"--property={properties}")
        shown = dict(line.split("=", 1) for line in out.splitlines())
        since = int(shown.get("StateChangeTimestampMonotonic") or 0) / 1e6 + time.time() - time.monotonic()
        files = [
            SSH / "sshd_config",
            CONFIGURATION.parent,
            *CONFIGURATION.parent.glob("*.conf"),
            *SSH.glob("ssh_host_*"),
        ]
        # A time that is yet to come is of a clock that was wrong.
        changed = (path.stat().st_ctime for path in files if path.exists())
        return shown.get("ActiveState") != "active" or any(since < when < time.time() for when in changed)

    @property
    def fresh(self) -> str:
        """Where the new RSA key waits."""
        return str(self.guard.directory / "rsa")

    def look(self) -> None:
        self.short = self.rsa_is_short
        files = (self.keys, self.configuration, self.moduli)
        self.differing = [file for file in files if file is not None and file.differs]
        self.reloads = self.short or self.configuration.differs or self.is_stale
        self.rest = self.reloads or any(file is not self.keys for file in self.differing)

    @property
    def paths(self) -> list[Path]:
        """Every file that changes."""
        return [file.path for file in self.differing] + ([RSA_KEY, RSA_KEY.with_suffix(".pub")] if self.short else [])

    def arm(self) -> None:
        # What a run left that was killed before it had armed anything.
        shutil.rmtree(self.guard.directory, ignore_errors=True)
        self.guard.directory.mkdir(mode=0o700, parents=True)
        if self.short:
            # Which takes a while on a small machine.
            self.must(
                "ssh-keygen", "-q", "-t", "rsa", "-b", str(self.module.params["rsa_bits"]), "-N", "", "-f", self.fresh
            )
        for number, path in enumerate(self.paths):
            if path.exists():
                self.must("cp", "-a", str(path), str(self.guard.directory / str(number)))
        lines = undoing(self.paths, self.guard.directory)
        start = f"ExecStartPre=\nExecStartPre=-/bin/sh {self.guard.script} boot\nExecStartPre=/usr/sbin/sshd -t\n"
        place_file(AT_BOOT, f"[Service]\n{start}".encode(), 0o644)
        self.guard.arm(lines, self.module.params["guard_seconds"])

    @property
    def gone(self) -> str:
        return self.guard.gone("all of it", self.module.params["guard_seconds"])

    def must(self, *command: str) -> None:
        code, out, error = self.run(*command)
        if code != 0:
            raise RefusedError(f"{' '.join(command)}: {(error or out).strip()}")

    def change_keys(self) -> None:
        if self.keys.differs:
            directory = self.keys.path.parent
            directory.mkdir(exist_ok=True)
            self.must("chown", f"{self.keys.uid}:{self.keys.gid}", str(directory))
            directory.chmod(0o700)
            self.keys.place()

    def change_sshd(self) -> None:
        for file in self.differing:
            if file is not self.keys:
                file.place()
        if self.short:
            for suffix, mode in (("", 0o600), (".pub", 0o644)):
                File(Path(f"{RSA_KEY}{suffix}"), Path(f"{self.fresh}{suffix}").read_bytes(), mode).place()
        code, out, error = self.run("/usr/sbin/sshd", "-t")
        if code != 0:
            raise RefusedError(
                f"sshd refuses the configuration: {'; '.join((error or out).splitlines())}. "
                "To mend it, correct ssh_settings."
            )
        _code, out, _error = self.run("/usr/sbin/sshd", "-T")
        for name, wanted in self.module.params["in_force"].items():
            found = re.search(rf"^{re.escape(name)} (.*)$", out, re.MULTILINE)
            if not found or found[1] != wanted:
                raise RefusedError(
                    f"{CONFIGURATION} says {name} {wanted}, and in force is {found[1] if found else 'nothing'}. To "
                    f"mend it, take it out of ssh_settings, or begin {SSH}/sshd_config with the line  "
                    f"Include {CONFIGURATION.parent}/*.conf"
                )
        if self.reloads:
            self.must("systemctl", "reload-or-restart", UNIT)

    def change(self, step: str) -> None:
        """Do one of the two steps that change something; what is refused leaves the host as it was."""
        try:
            # The timer may be sooner, and then waits until this has been written, or has it all back already.
            with self.guard.lock():
                if step == "keys" and not self.guard.pending:
                    self.arm()
                if not self.guard.ours:
                    raise RefusedError(self.gone)
                if step == "keys":
                    self.change_keys()
                else:
                    self.change_sshd()
        except (RefusedError, OSError) as problem:
            self.guard.undo()
            self.module.fail_json(msg=f"{problem}\nThe host is as it was.")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "configuration": {"type": "str", "required": True},
            "in_force": {"type": "dict", "default": {}},
            "operator": {"type": "str", "required": True},
            "operator_keys": {"type": "list", "elements": "str", "required": True, "no_log": False},
            "rsa_bits": {"type": "int", "default": 0},
            "moduli_bits": {"type": "int", "default": 0},
            "guard_seconds": {"type": "int", "default": 40},
            "step": {"type": "str", "choices": ["keys", "sshd", "keep", "undo"], "default": "keys"},
            "run": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    sshd = Sshd(module)
    step = module.params["step"]
    if step == "undo":
        sshd.guard.undo()
        module.exit_json(changed=False)
    if step == "keep":
        if not sshd.guard.keep():
            module.fail_json(msg=sshd.gone)
        AT_BOOT.unlink(missing_ok=True)
        module.exit_json(changed=False)
    if step == "keys" and not module.check_mode:
        sshd.guard.undo_left()
    sshd.look()
    changed = bool(sshd.paths) or sshd.reloads
    # Half a megabyte of groups is nothing to read.
    diff = [file.diff() for file in sshd.differing if file is not sshd.moduli] if module._diff else []
    if changed and not module.check_mode:
        sshd.change(step)
    module.exit_json(
        changed=changed,
        changed_paths=[str(path) for path in sshd.paths],
        reloaded=sshd.reloads,
        armed=changed and not module.check_mode,
        rest=sshd.rest,
        diff=diff,
    )


if __name__ == "__main__":
    main()
