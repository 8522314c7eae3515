#!/usr/bin/python3
"""Ask a database server what it is: primary, standby, or nothing yet. Change nothing."""

from __future__ import annotations

import shutil
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_admin import Administrator, peer_conninfo
from ansible.module_utils.postgresql_cluster import Cluster

DOCUMENTATION = r"""
module: postgresql_state
short_description: Asks a database server what it is, and changes nothing
description:
  - Asks the running server where it runs, and reads its data where it does not. P(postgresql_servers#filter) decides
    from all answers which server is primary.
options:
  port:
    description: The server's TCP port.
    type: int
    default: 5432
  peer:
    description: Address of the other database server, which is then asked too, from here.
    type: str
    default: ""
author: [Offramp]
"""

EXAMPLES = r"""
- name: Ask what the server is
  postgresql_state:
  register: state
"""

RETURN = r"""
state:
  description: >-
    C(initialised), C(version), C(has_databases), C(standby) (follows another when it starts), C(running),
    C(recovering) (takes no writes now), C(system_identifier), C(timeline), C(standbys) (of a primary, with C(state)
    and C(lag_bytes)), C(received_lsn), C(behind_seconds) and C(wal_bytes_a_second) (of a standby), and C(peer):
    C(primary), C(standby) or C(silent).
  returned: always
  type: dict
"""

RUNNING = """
SELECT pg_is_in_recovery(),
  (SELECT system_identifier FROM pg_control_system()),
  CASE WHEN pg_is_in_recovery() THEN (SELECT max(received_tli) FROM pg_stat_wal_receiver) END,
  coalesce((SELECT status FROM pg_stat_wal_receiver), ''),
  coalesce(pg_last_wal_receive_lsn()::text, ''),
  ceil(extract(epoch FROM now() - coalesce(pg_last_xact_replay_timestamp(),
    (SELECT checkpoint_time FROM pg_control_checkpoint()))))::bigint,
  (SELECT ceil(CASE WHEN pg_is_in_recovery() AND pg_last_xact_replay_timestamp() > checkpoint_time
     THEN (pg_last_wal_receive_lsn() - redo_lsn) / greatest(extract(epoch FROM
       pg_last_xact_replay_timestamp() - checkpoint_time), 1) ELSE 0 END) FROM pg_control_checkpoint()),
  current_setting('synchronous_standby_names') <> ''
"""
STANDBYS = """
SELECT state, pg_current_wal_lsn() - coalesce(replay_lsn, '0/0'), sync_state
FROM pg_stat_replication WHERE usename = 'replication' AND application_name = 'standby'
"""


def state_of(module: AnsibleModule) -> dict[str, Any]:
    cluster = Cluster.found()
    state: dict[str, Any] = {
        "initialised": cluster is not None,
        "version": cluster.version if cluster else 0,
        "has_databases": False,
        "standby": False,
        "running": False,
        "recovering": False,
        "system_identifier": "",
        "timeline": 0,
        "standbys": [],
        "receiving": "",
        "received_lsn": "",
        "behind_seconds": -1,
        "wal_bytes_a_second": 0,
        "synchronous": False,
        "peer": "",
    }
    if cluster is None:
        return state
    administrator = Administrator(module, cluster, module.params["port"])
    control = administrator.control()
    state |= {
        "has_databases": cluster.has_databases,
        "standby": cluster.is_standby,
        "system_identifier": control["Database system identifier"],
        "timeline": max(cluster.timeline, int(control["Latest checkpoint's TimeLineID"])),
        "recovering": cluster.is_standby,
    }
    answer = administrator.ask(RUNNING) if cluster.postmaster else None
    if answer:
        recovering, identifier, timeline, receiving, received, behind, pace, synchronous = answer
        state |= {
            "running": True,
            "recovering": recovering == "t",
            "system_identifier": identifier,
            "timeline": max(state["timeline"], int(timeline or 0)),
            "receiving": receiving,
            "received_lsn": received,
            "behind_seconds": int(behind),
            "wal_bytes_a_second": int(pace),
            "synchronous": synchronous == "t",
        }
        if not state["recovering"]:
            follower = administrator.ask(STANDBYS)
            state["standbys"] = [dict(zip(("state", "lag_bytes", "sync"), follower, strict=True))] if follower else []
    if module.params["peer"]:
        peer = administrator.ask(
            "SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END",
            peer_conninfo(module.params["peer"], module.params["port"]),
            seconds=5,
        )
        state["peer"] = peer[0] if peer else "silent"
    return state


def main() -> None:
    module = AnsibleModule(
        argument_spec={"port": {"type": "int", "default": 5432}, "peer": {"type": "str", "default": ""}},
        supports_check_mode=True,
    )
    module.exit_json(changed=False, state=state_of(module) if shutil.which("runuser") else {"initialised": False})


if __name__ == "__main__":
    main()
