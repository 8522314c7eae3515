#!/usr/bin/python3
"""Look at a PostgreSQL server and its host, and change nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.huge_pages import HugePages
from ansible.module_utils.postgresql_cluster import Cluster

DOCUMENTATION = r"""
module: postgresql_probe
short_description: Looks at a PostgreSQL server and its host, and changes nothing
description:
  - Returns what P(postgresql_settings#filter) has to know about the server, running or not. Looks at Debian's cluster
    C(main) of the version.
options:
  version:
    description: Major version of PostgreSQL.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Look at the server
  postgresql_probe:
    version: 17
  register: probe
"""

RETURN = r"""
installed:
  description: Whether the version is installed, with its cluster; without it, the rest says what a new one would have.
  type: bool
  returned: always
has_databases:
  description: Whether there is a database of anybody's.
  type: bool
  returned: always
recovering:
  description: Whether the server is a standby or restores a backup.
  type: bool
  returned: always
features:
  description: Of C(lz4), C(zstd) and C(liburing), what the server was built with and the kernel lets it use.
  type: list
  elements: str
  returned: always
floors:
  description: >-
    Settings of the control file below which a server that follows or restores this one does not start. Empty before the
    first database.
  type: dict
  returned: always
disk_mib:
  description: Size of the volume that holds the data.
  type: int
  returned: always
running:
  description: Whether the server runs.
  type: bool
  returned: always
huge_pages_forbidden:
  description: Why huge pages cannot be set aside on this host, empty where they can.
  type: str
  returned: always
huge_pages_reserved:
  description: How many huge pages are set aside for the server.
  type: int
  returned: always
huge_pages_used_mib:
  description: What the running server has in huge pages.
  type: int
  returned: always
"""

BUILT_WITH = {"lz4": "--with-lz4", "zstd": "--with-zstd", "liburing": "--with-liburing"}
FLOORS = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}
IO_URING_DISABLED = Path("/proc/sys/kernel/io_uring_disabled")


def features(configure: str) -> list[str]:
    """Return what a build can, from what pg_config says of it."""
    found = [name for name, option in BUILT_WITH.items() if option in configure]
    forbidden = IO_URING_DISABLED.exists() and IO_URING_DISABLED.read_text().strip() != "0"
    return [name for name in found if not (name == "liburing" and forbidden)]


def floors(control: str) -> dict[str, int]:
    """Read the settings that a standby compares from what pg_controldata prints."""
    printed = dict(re.findall(r"^([^:\n]+):\s+(\S+)$", control, re.MULTILINE))
    return {name: int(printed[label]) for name, label in FLOORS.items() if label in printed}


def disk_mib(path: Path) -> int:
    """Return the size of the volume that a path is on, or will be."""
    while not path.exists():
        path = path.parent
    status = os.statvfs(path)
    return status.f_blocks * status.f_frsize // 1024**2


def huge_pages_used_mib(process: int | None) -> int:
    text = Path(f"/proc/{process}/status").read_text() if process else ""
    found = re.search(r"^HugetlbPages:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def probe(module: AnsibleModule) -> dict[str, Any]:
    cluster = Cluster(module.params["version"])
    configure = control = ""
    pages = HugePages()
    if cluster.is_installed:
        _, configure, _ = module.run_command([str(cluster.programs / "pg_config"), "--configure"], check_rc=True)
    if cluster.has_databases or cluster.is_recovering:
        command = [str(cluster.programs / "pg_controldata"), str(cluster.data)]
        # It translates its labels.
        _, control, _ = module.run_command(command, check_rc=True, environ_update={"LC_ALL": "C"})
    return {
        "installed": cluster.is_installed,
        "has_databases": cluster.has_databases,
        "recovering": cluster.is_recovering,
        "features": features(configure),
        "floors": floors(control),
        "disk_mib": disk_mib(cluster.data),
        "running": cluster.postmaster is not None,
        "huge_pages_forbidden": pages.forbidden,
        "huge_pages_reserved": pages.ours,
        "huge_pages_used_mib": huge_pages_used_mib(cluster.postmaster),
    }


def main() -> None:
    module = AnsibleModule(argument_spec={"version": {"type": "int", "required": True}}, supports_check_mode=True)
    module.exit_json(changed=False, **probe(module))


if __name__ == "__main__":
    main()
