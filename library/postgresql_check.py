#!/usr/bin/python3
"""Have PostgreSQL's own binary read settings before they replace the present ones."""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.huge_pages import HugePages
from ansible.module_utils.postgresql_cluster import Cluster

DOCUMENTATION = r"""
module: postgresql_check
short_description: Has PostgreSQL's own binary read settings before they replace the present ones
description:
  - Reads the cluster's files, with I(settings) in place of C(conf.d/offramp.conf), against a data directory of its own.
    Nothing of the cluster is touched, whether its server runs or not, and no memory is allocated.
  - Fails with what the binary says where it would not start. What it does not see at this stage (a build without lz4, a
    kernel that forbids io_uring) is for P(postgresql_settings#filter) to refuse.
  - Does nothing where the version is not installed yet, as in check mode on a fresh host.
options:
  version:
    description: Major version of PostgreSQL.
    type: int
    required: true
  settings:
    description: Text of the file that is to be checked.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Have the server read its new settings
  postgresql_check:
    version: 17
    settings: "{{ lookup('ansible.builtin.template', 'settings.conf.j2') }}"
"""

RETURN = r"""
huge_pages:
  description: How many huge pages of the default size the shared memory takes; 0 where the kernel has none or
    nothing is installed.
  type: int
  returned: always
"""

OURS = "offramp.conf"
# The first version that says its own number.
SAYS_HUGE_PAGES = 15
ESTIMATED_FROM = ("shared_buffers", "max_connections", "max_worker_processes", "max_locks_per_transaction")


class Scratch:
    """A directory in which the binary finds a configuration and as much of the data as it looks at before it starts."""

    def __init__(self, cluster: Cluster, directory: Path, settings: str) -> None:
        self.cluster = cluster
        self.directory = directory
        shutil.copytree(cluster.configuration, directory / "configuration", copy_function=shutil.copyfile)
        included = directory / "configuration/conf.d"
        included.mkdir(exist_ok=True)
        (included / OURS).write_text(settings)
        data = directory / "data"
        (data / "global").mkdir(parents=True)
        for name in ("PG_VERSION", "global/pg_control", "postgresql.auto.conf"):
            if (cluster.data / name).exists():
                shutil.copyfile(cluster.data / name, data / name)
        for path in (directory, *directory.rglob("*")):
            shutil.chown(path, "postgres", "postgres")
            path.chmod(0o700 if path.is_dir() else 0o600)

    def command(self, setting: str) -> list[str]:
        files = self.directory / "configuration"
        return [
            *("runuser", "--user=postgres", "--", str(self.cluster.programs / "postgres")),
            *("-D", str(files), "-c", f"data_directory={self.directory / 'data'}"),
            *("-c", f"hba_file={files / 'pg_hba.conf'}", "-c", f"ident_file={files / 'pg_ident.conf'}"),
            # Its certificate may be written with these settings, and is not needed for what is asked.
            *("-c", "ssl=off"),
            *("-C", setting),
        ]

    def in_place(self, said: str) -> str:
        """Return what the binary said with the paths that a person knows, without what it says of every such read."""
        said = said.replace(str(self.directory / "configuration"), str(self.cluster.configuration))
        said = said.replace(str(self.directory / "data"), str(self.cluster.data))
        lines = [re.sub(r"^\S+ \S+ \S+ \[\d+\] *(?=[A-Z]+:)", "", line) for line in said.strip().splitlines()]
        return "\n".join(dict.fromkeys(line for line in lines if line.strip()))


def estimated_huge_pages(values: dict[str, int], page_kib: int) -> int:
    """Return a number that is never too small, as measured in 500 settings of versions 15 and 18."""
    slots = values["max_connections"] + values["max_worker_processes"] + 60
    buffers = values["shared_buffers"] * 8 / 1024
    mib = 1.025 * buffers + 64 + slots * (0.07 + 0.0004 * values["max_locks_per_transaction"])
    return math.ceil(mib * 1024 / page_kib)


def check(module: AnsibleModule, cluster: Cluster) -> int:
    """Return the number of huge pages that the settings take, or fail with what the binary says of them."""
    with tempfile.TemporaryDirectory(prefix="offramp-postgresql-") as directory:
        scratch = Scratch(cluster, Path(directory), module.params["settings"])

        def ask(setting: str) -> int:
            code, out, said = module.run_command(scratch.command(setting), environ_update={"LC_ALL": "C"}, cwd="/")
            if code != 0:
                module.fail_json(
                    msg=f"PostgreSQL {cluster.version} refuses its new settings, so nothing was changed:\n"
                    f"{scratch.in_place(said or out)}"
                )
            return int(out.split()[-1])

        if cluster.version >= SAYS_HUGE_PAGES:
            return max(ask("shared_memory_size_in_huge_pages"), 0)
        page_kib = HugePages().page_kib
        return estimated_huge_pages({name: ask(name) for name in ESTIMATED_FROM}, page_kib) if page_kib else 0


def main() -> None:
    module = AnsibleModule(
        argument_spec={"version": {"type": "int", "required": True}, "settings": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    cluster = Cluster(module.params["version"])
    module.exit_json(changed=False, huge_pages=check(module, cluster) if cluster.is_installed else 0)


if __name__ == "__main__":
    main()
