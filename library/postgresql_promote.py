#!/usr/bin/python3
"""Make a standby the primary, once, whoever else tries to."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_admin import Administrator, lsn
from ansible.module_utils.postgresql_cluster import Cluster

DOCUMENTATION = r"""
module: postgresql_promote
short_description: Makes a standby the primary
description:
  - Waits until the standby has replayed the WAL up to I(lsn), promotes it, and waits until it takes writes. Of two runs
    at the same time one promotes, and the other finds a primary.
options:
  port:
    description: The server's TCP port.
    type: int
    default: 5432
  lsn:
    description: Where the old primary's WAL ended, when it was stopped. A standby that lacks it is not promoted.
    type: str
    default: ""
  slot:
    description: A replication slot to make for the server that follows from now on.
    type: bool
    default: false
  alone:
    description: Commits wait for no standby any more, until one has joined again.
    type: bool
    default: false
  timeout:
    description: Seconds for each of the two waits.
    type: int
    default: 10
author: [Offramp]
"""

EXAMPLES = r"""
- name: Promote the standby
  postgresql_promote:
"""

RETURN = r"""
timeline:
  description: The new primary's timeline.
  returned: always
  type: int
"""

LOCK = Path("/run/offramp/promote.lock")
ALONE = "ALTER SYSTEM SET synchronous_standby_names = ''"
# What the old primary will lack when it is back. It is no standby's slot: this server asks nobody when it starts.
KEEP = """
SELECT pg_create_physical_replication_slot('rejoin', true)
WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'rejoin')
"""
SLOT = """
SELECT pg_create_physical_replication_slot('standby', true)
WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'standby')
"""


def promote(module: AnsibleModule, administrator: Administrator) -> bool:
    def ask(query: str, seconds: int = 5) -> list[str]:
        answer = administrator.ask(query, seconds=seconds)
        if answer is None:
            module.fail_json(msg=f"this server does not answer: {administrator.said.strip()}\n{administrator.log}")
        return answer

    if ask("SELECT pg_is_in_recovery()") == ["f"]:
        return False
    if module.check_mode:
        return True
    wanted, deadline = module.params["lsn"], time.monotonic() + module.params["timeout"]
    while wanted:
        replayed = ask("SELECT pg_last_wal_replay_lsn()")[0] or "0/0"
        # The place is that of the last record's start.
        if lsn(replayed) > lsn(wanted):
            break
        if time.monotonic() > deadline:
            module.fail_json(msg=f"the standby has the WAL up to {replayed}, and the primary wrote up to {wanted}")
        time.sleep(0.1)
    if module.params["alone"]:
        ask(ALONE)
        ask(KEEP)
        ask("SELECT pg_reload_conf()")
    if ask(f"SELECT pg_promote(true, {module.params['timeout']})", module.params["timeout"] + 5) != ["t"]:
        module.fail_json(msg=f"the standby was told to be primary and is not so yet\n{administrator.log}")
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "port": {"type": "int", "default": 5432},
            "lsn": {"type": "str", "default": ""},
            "slot": {"type": "bool", "default": False},
            "alone": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    cluster = Cluster.found()
    if cluster is None:
        module.fail_json(msg="there is no PostgreSQL on this host")
    administrator = Administrator(module, cluster, module.params["port"])
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        changed = promote(module, administrator)
        if not module.check_mode and module.params["slot"]:
            administrator.ask(SLOT)
    module.exit_json(changed=changed, timeline=cluster.timeline)


if __name__ == "__main__":
    main()
