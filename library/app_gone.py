#!/usr/bin/python3
"""Take down the processes of apps that the site has no more."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: app_gone
short_description: Takes down the processes of apps that are no more in the list
description:
  - Stops and removes the programs and scheduled jobs of every app on the host that is not among I(known), and what they
    leave in C(/run). The app's files, logs, user and database stay.
options:
  known:
    description: Names of the apps that the site has.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Take down what the site has no more
  app_gone:
    known: [shop, blog]
"""

RETURN = r"""
gone:
  description: Names of the apps that were taken down, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

PROGRAMS = Path("/etc/supervisor/conf.d")
OURS = re.compile(r"^; app: (\S+)$", re.MULTILINE)
PROGRAM = re.compile(r"^\[program:(\S+)\]$", re.MULTILINE)
LEFT = (
    "/etc/tmpfiles.d/offramp-{app}.conf",
    "/etc/logrotate.d/offramp-{app}",
    "/run/offramp/apps/{app}",
    "/run/offramp/upstream/{app}",
)


def apps_here(directory: Path) -> dict[str, Path]:
    """Return the configuration of each app that supervisor is told of."""
    found = {}
    for path in sorted(directory.glob("*.conf")):
        match = OURS.search(path.read_text())
        if match:
            found[match[1]] = path
    return found


def take_down(module: AnsibleModule, app: str, programs: Path) -> None:
    names = PROGRAM.findall(programs.read_text())
    # Programs that supervisor has not loaded are as good as stopped.
    module.run_command(["supervisorctl", "stop", *names])
    module.run_command(["supervisorctl", "remove", *names])
    units = sorted(Path("/etc/systemd/system").glob(f"offramp-job.{app}.*"))
    timers = [unit.name for unit in units if unit.suffix == ".timer"]
    if timers:
        module.run_command(["systemctl", "disable", "--now", *timers])
    for path in [*units, *Path("/etc/offramp/jobs").glob(f"{app}.*"), *(Path(name.format(app=app)) for name in LEFT)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    # Last, so that a run that is cut off is completed by the next.
    programs.unlink()


def main() -> None:
    module = AnsibleModule(
        argument_spec={"known": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )
    here = apps_here(PROGRAMS)
    gone = [app for app in here if app not in module.params["known"]]
    if not module.check_mode:
        for app in gone:
            take_down(module, app, here[app])
    module.exit_json(changed=bool(gone), gone=gone)


if __name__ == "__main__":
    main()
