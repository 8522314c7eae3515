#!/usr/bin/python3
"""Say what of a host is older than it could be: packages, running services, the kernel. Change nothing."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils import app_store
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_patches
short_description: Says what of a host is older than it could be, and changes nothing
description:
  - A service is stale when a process of it has a program or library mapped that was replaced on the disk, or when it
    started before its package was unpacked, as a program in Python shows no other way.
  - A reboot is due when F(/run/reboot-required) is there, or a newer kernel of the running flavour is installed.
options: {}
author: [Offramp]
"""

EXAMPLES = r"""
- name: Ask what is to be done
  host_patches:
  register: patches
"""

RETURN = r"""
packages:
  description: What C(apt-get upgrade) would install, each with its versions.
  returned: always
  type: list
  elements: str
  sample: [openssl 3.5.1-1 to 3.5.1-1+deb13u1]
stale:
  description: Units that run on what was replaced.
  returned: always
  type: list
  elements: str
  sample: [nginx.service]
away:
  description: Whether M(web_service) has taken the host out of service, as a run does that was broken off.
  returned: always
  type: bool
held:
  description: Whether the clients of pgbouncer wait, as they do when a run was killed that had them wait.
  returned: always
  type: bool
busy:
  description: What runs here that no restart may cut off, or empty.
  returned: always
  type: str
  sample: a backup (offramp-backup@nightly.service)
reboot:
  description: Why a reboot is due, or empty.
  returned: always
  type: str
"""

PROC, INFO, BOOT = Path("/proc"), Path("/var/lib/dpkg/info"), Path("/boot")
REBOOT_REQUIRED = Path("/run/reboot-required")
AWAY, HELD = Path("/var/lib/offramp/away"), Path("/run/offramp/pgbouncer-held")
LONG_JOBS = ("offramp-backup@nightly.service", "offramp-backup@rehearse.service", "apt-daily-upgrade.service")
INSTALLED = re.compile(r"^Inst (\S+) (?:\[(\S+)\] )?\((\S+) ", re.MULTILINE)
REPLACED = re.compile(r"^\S+ ..x. .* (/(?:usr|lib|lib64|bin|sbin)/.*) \(deleted\)$", re.MULTILINE)
UNIT = re.compile(r"/([^/\n]+\.service)(?:/|$)", re.MULTILINE)
KERNEL = re.compile(r"(?P<version>.*\d[^-]*)-(?P<flavour>[a-z].*)")


def upgrades(simulated: str) -> list[str]:
    """Return what a simulated upgrade would install, a line each."""
    return sorted(f"{name} {old or '(new)'} to {new}" for name, old, new in INSTALLED.findall(simulated))


def replaced_below(proc: Path) -> set[str]:
    """Return the units with a process that maps a program or library that is gone from the disk."""
    units = set()
    for process in proc.glob("[0-9]*"):
        try:
            if REPLACED.search((process / "maps").read_text(errors="replace")):
                units |= set(UNIT.findall((process / "cgroup").read_text())[-1:])
        except OSError:
            # It has ended meanwhile.
            continue
    return units


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key by which 6.12.9 comes before 6.12.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def newer_kernel(running: str, installed: list[str]) -> str:
    """Return the newest installed kernel of the running one's flavour where it is another, else nothing."""
    match = KERNEL.fullmatch(running)
    if not match:
        return ""
    alike = [name for name in installed if (other := KERNEL.fullmatch(name)) and other["flavour"] == match["flavour"]]
    newest = max(alike, key=natural, default=running)
    return newest if natural(newest) > natural(running) else ""


class Host:
    """What this host says of itself."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def tell(self, *words: str) -> str:
        return self.module.run_command([*words], check_rc=True)[1]

    def packages(self) -> list[str]:
        return upgrades(self.tell("apt-get", "--simulate", "--with-new-pkgs", "upgrade"))

    def stale(self) -> list[str]:
        return sorted(replaced_below(PROC) | self.older_than_their_package())

    def older_than_their_package(self) -> set[str]:
        listed = self.tell("systemctl", "list-units", "--type=service", "--state=running", "--plain", "--no-legend")
        units = [line.split()[0] for line in listed.splitlines()]
        properties = "--property=Id,FragmentPath,ExecMainStartTimestamp"
        shown = self.tell("systemctl", "show", "--timestamp=unix", properties, *units).split("\n\n")
        seen = [dict(line.split("=", 1) for line in one.splitlines() if "=" in line) for one in shown]
        files = sorted({one["FragmentPath"] for one in seen if one["FragmentPath"].startswith(("/usr/", "/lib/"))})
        # Where one file is of no package, the others are told all the same.
        owned = self.module.run_command(["dpkg-query", "--search", *files, *self.unmerged(files)])[1]
        package = {
            path.removeprefix("/usr"): name
            for name, path in re.findall(r"^(\S+?)(?::\w+)?: (.+)$", owned, re.MULTILINE)
        }
        return {
            one["Id"]
            for one in seen
            if (name := package.get(one["FragmentPath"].removeprefix("/usr")))
            and one["ExecMainStartTimestamp"].startswith("@")
            and int(one["ExecMainStartTimestamp"][1:]) < self.unpacked(name)
        }

    @staticmethod
    def unmerged(files: list[str]) -> list[str]:
        """Return the names under which Debian 12's packages know their units."""
        return [name.removeprefix("/usr") for name in files if name.startswith("/usr/lib/")]

    @staticmethod
    def unpacked(package: str) -> int:
        """Return when a package was unpacked last."""
        return max(
            (int(path.stat().st_mtime) for path in [*INFO.glob(f"{package}.list"), *INFO.glob(f"{package}:*.list")]),
            default=0,
        )

    def busy(self) -> str:
        listed = self.tell("systemctl", "list-units", "--state=activating,active", "--plain", "--no-legend", *LONG_JOBS)
        if units := [line.split()[0] for line in listed.splitlines()]:
            return f"a job that must not be cut off ({', '.join(units)})"
        for path in app_store.RUN.glob(".*.lock"):
            app = path.name.removeprefix(".").removesuffix(".lock")
            if holder := app_store.Lock(app, token="").holder:
                return f"a deploy of {app} by {holder['who']} since {holder['since']}"
        return ""

    def reboot(self) -> str:
        if REBOOT_REQUIRED.exists():
            return "a package asks for it (/run/reboot-required)"
        running = self.tell("uname", "-r").strip()
        newer = newer_kernel(running, [path.name.removeprefix("vmlinuz-") for path in BOOT.glob("vmlinuz-*")])
        return f"the kernel {newer} is installed, and {running} runs" if newer else ""


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    host = Host(module)
    module.run_command_environ_update = {"LC_ALL": "C.UTF-8"}
    found = {"packages": host.packages(), "stale": host.stale(), "reboot": host.reboot(), "busy": host.busy()}
    module.exit_json(changed=False, away=AWAY.exists(), held=HELD.exists(), **found)


if __name__ == "__main__":
    main()
