#!/usr/bin/python3
"""Have the scheduled jobs of an app run by timers of systemd, on this host or not."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.placing import place_file
from ansible.module_utils.sandbox import SANDBOX

DOCUMENTATION = r"""
module: app_jobs
short_description: Has the scheduled jobs of an app run by timers
description:
  - Makes a timer and a service of systemd for each job, which runs the command as a one-off command of the app, with
    the release that is current at that time. Output goes to C(/var/log/)I(app)C(/schedule.log).
  - Removes the timers of jobs that are no more. An empty list removes all, as on a host that is not the one for jobs.
  - A job that is under way is left to its end, and is not started a second time meanwhile.
options:
  app:
    description: Name of the app.
    type: str
    required: true
  jobs:
    description: The jobs, each with C(calendar) as systemd reads it and C(command), a line for the shell.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Clear sessions every night
  app_jobs:
    app: shop
    jobs: [{calendar: "*-*-* 03:30:00", command: python manage.py clearsessions}]
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

UNITS = Path("/etc/systemd/system")
COMMANDS = Path("/etc/offramp/jobs")
SERVICE = f"""# Ansible managed
[Unit]
Description={{app}}: a scheduled job
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
# In a file, since a unit would take a percent sign or a dollar for its own.
ExecStart=/bin/sh -c 'exec /usr/local/bin/app-run {{app}} "$$(cat {{command}})"'
StandardOutput=append:/var/log/{{app}}/schedule.log
StandardError=inherit
{SANDBOX}
# As role supervisor has it for the app's other processes.
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_SETGID CAP_SETUID
MemoryDenyWriteExecute=no
ProtectSystem=full
RestrictAddressFamilies=AF_NETLINK
"""
TIMER = """# Ansible managed
[Unit]
Description={app}: when a scheduled job runs

[Timer]
OnCalendar={calendar}
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
"""


def files_of(app: str, jobs: list[dict[str, str]]) -> dict[Path, str]:
    """Return the text of every file that is to be."""
    files = {}
    for job in jobs:
        # Another time or command is another job.
        name = hashlib.sha256(f"{job['calendar']}\0{job['command']}".encode()).hexdigest()[:10]
        command = COMMANDS / f"{app}.{name}"
        files[command] = f"{job['command']}\n"
        files[UNITS / f"offramp-job.{app}.{name}.service"] = SERVICE.format(app=app, command=command)
        files[UNITS / f"offramp-job.{app}.{name}.timer"] = TIMER.format(app=app, calendar=job["calendar"])
    return files


def present(app: str) -> set[Path]:
    return {*UNITS.glob(f"offramp-job.{app}.*"), *COMMANDS.glob(f"{app}.*")}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "jobs": {"type": "list", "elements": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    wanted, there = files_of(module.params["app"], module.params["jobs"]), present(module.params["app"])
    written = [path for path, text in wanted.items() if path not in there or path.read_text() != text]
    removed = sorted(there - set(wanted))
    timers = [path.name for path in wanted if path.suffix == ".timer"]

    def systemctl(*words: str) -> None:
        code, _out, said = module.run_command(["systemctl", "--no-ask-password", *words])
        if code != 0:
            module.fail_json(msg=f"systemctl {' '.join(words)}: {said.strip()}")

    idle = [name for name in timers if module.run_command(["systemctl", "is-active", "--quiet", name])[0] != 0]
    actions = [*(f"{path}: written" for path in written), *(f"{path}: removed" for path in removed)]
    actions += [f"{name}: started" for name in idle]
    if actions and not module.check_mode:
        gone = [path.name for path in removed if path.suffix == ".timer"]
        if gone:
            systemctl("disable", "--now", *gone)
        for path in removed:
            path.unlink()
        for path in written:
            place_file(path, wanted[path].encode(), 0o644)
        systemctl("daemon-reload")
        if timers:
            systemctl("enable", "--now", *timers)
    module.exit_json(changed=bool(actions), actions=actions)


if __name__ == "__main__":
    main()
