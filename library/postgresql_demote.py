#!/usr/bin/python3
"""Stop a primary, and have it start as a standby from then on; or undo that."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_admin import Administrator
from ansible.module_utils.postgresql_cluster import Cluster

DOCUMENTATION = r"""
module: postgresql_demote
short_description: Stops a primary, and has it start as a standby from then on
description:
  - Stops the server cleanly, and fails where it does not stop in time. A server that is marked so takes no writes,
    whatever starts it, a boot included.
  - Nothing is undone by itself. What was asked for by a run that is dead since may end late, when another run has
    stopped the server for good, or has it follow.
options:
  port:
    description: The server's TCP port.
    type: int
    default: 5432
  state:
    description: >-
      C(stopped) is for a planned change and refuses a standby that runs, C(fenced) for a server that is lost, which
      is killed when it does not stop, and C(undone) starts it as the primary that it was.
    type: str
    choices: [stopped, fenced, undone]
    default: stopped
  timeout:
    description: Seconds that it may take to stop.
    type: int
    default: 15
author: [Offramp]
"""

EXAMPLES = r"""
- name: Stop the primary
  postgresql_demote:
"""

RETURN = r"""
lsn:
  description: Where its WAL ended, when it stopped cleanly.
  returned: always
  type: str
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "port": {"type": "int", "default": 5432},
            "state": {"type": "str", "choices": ["stopped", "fenced", "undone"], "default": "stopped"},
            "timeout": {"type": "int", "default": 15},
        },
        supports_check_mode=True,
    )
    cluster = Cluster.found()
    if cluster is None:
        module.fail_json(msg="there is no PostgreSQL on this host")
    administrator = Administrator(module, cluster, module.params["port"])
    signal, wanted = cluster.standby_signal, module.params["state"]
    if wanted == "undone":
        changed = signal.exists() or cluster.postmaster is None
        if not module.check_mode:
            signal.unlink(missing_ok=True)
            code, error = administrator.systemctl("start", cluster.unit)
            if code:
                module.fail_json(msg=f"systemctl start {cluster.unit}: {error}\n{administrator.log}")
        module.exit_json(changed=changed, lsn="")
    marked, runs = signal.exists(), cluster.postmaster is not None
    if wanted == "stopped" and marked and runs:
        module.fail_json(msg="this server is a standby, and was not stopped")
    # One that has crashed is started again by systemd a second later.
    changed = runs or not marked
    if changed and not module.check_mode:
        stop(module, administrator, cluster)
    # Whatever its control file says.
    if wanted == "fenced":
        mark(module, signal)
    control = administrator.control()
    clean = control["Database cluster state"].startswith("shut down")
    if not clean and wanted == "stopped" and not module.check_mode:
        module.fail_json(msg="the primary did not stop cleanly")
    mark(module, signal)
    module.exit_json(changed=changed, lsn=control["Latest checkpoint location"] if clean else "")


def mark(module: AnsibleModule, signal: Path) -> None:
    if not signal.exists() and not module.check_mode:
        signal.touch()
        shutil.chown(signal, "postgres", "postgres")


def stop(module: AnsibleModule, administrator: Administrator, cluster: Cluster) -> None:
    seconds = module.params["timeout"]
    code, _error = administrator.systemctl("stop", cluster.unit, seconds=seconds)
    if code == 0:
        return
    if module.params["state"] == "stopped":
        module.fail_json(msg=f"the primary did not stop within {seconds} s\n{administrator.log}")
    administrator.systemctl("kill", "--kill-whom=all", "--signal=SIGKILL", cluster.unit)
    deadline = time.monotonic() + seconds
    while cluster.postmaster is not None:
        if time.monotonic() > deadline:
            module.fail_json(msg=f"the old primary cannot be stopped\n{administrator.log}")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
