"""Ask and tell a local PostgreSQL server as its administrator, with its own programs."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_cluster import Cluster

# Where the name and the password of the other server's role are kept, for its owner alone.
PASSFILE = "/etc/postgresql/offramp.pgpass"
# By which its certificate is checked.
AUTHORITY = "/etc/offramp/postgresql-ca.crt"
CONNECT_SECONDS = 3
SEPARATOR = "|"


class Administrator:
    """The administrator of one cluster, who can also ask the server of another host."""

    def __init__(self, module: AnsibleModule, cluster: Cluster, port: int) -> None:
        self.module = module
        self.cluster = cluster
        self.port = port

    def run(self, *words: str, seconds: int = 0) -> tuple[int, str, str]:
        """Run one of the server's programs as its owner, for so many seconds at most."""
        limit = ["timeout", "--kill-after=2", str(seconds)] if seconds else []
        command = [*limit, "runuser", "--user=postgres", "--", *words]
        return self.module.run_command(command, environ_update={"LC_ALL": "C"}, cwd="/")

    def control(self, data: Path | None = None) -> dict[str, str]:
        """Return what the control file of the cluster, or of other data, says, by the labels of pg_controldata."""
        code, out, error = self.run(str(self.cluster.programs / "pg_controldata"), str(data or self.cluster.data))
        if code:
            self.module.fail_json(msg=f"pg_controldata {data or self.cluster.data}: {error.strip()}")
        return dict(re.findall(r"^([^:\n]+):\s+(.+)$", out, re.MULTILINE))

    def ask(self, query: str, conninfo: str = "", seconds: int = 5) -> list[str] | None:
        """Return the first row's values, or nothing where the server does not answer in time."""
        where = conninfo or f"dbname=postgres user=postgres port={self.port} connect_timeout={CONNECT_SECONDS}"
        program = str(self.cluster.programs / "psql")
        code, out, self.said = self.run(
            *(program, "--no-psqlrc", "--no-align", "--tuples-only", f"--field-separator={SEPARATOR}"),
            *("--set=ON_ERROR_STOP=1", f"--command={query}", where),
            seconds=seconds,
        )
        lines = out.strip("\n").splitlines()
        return lines[0].split(SEPARATOR) if code == 0 and lines else ([] if code == 0 else None)

    def systemctl(self, *words: str, seconds: int = 0) -> tuple[int, str]:
        limit = ["timeout", str(seconds)] if seconds else []
        code, _out, error = self.module.run_command([*limit, "systemctl", "--no-ask-password", *words])
        return code, error.strip()

    @property
    def log(self) -> str:
        """Return the end of the server's own log."""
        path = f"/var/log/postgresql/postgresql-{self.cluster.version}-main.log"
        return self.module.run_command(["tail", "--lines=8", path])[1].strip()


def peer_conninfo(address: str, port: int, database: str = "postgres") -> str:
    """Return how the other server is reached, without a secret."""
    return (
        f"host={address} port={port} user=replication dbname={database} sslmode=verify-full "
        f"sslrootcert={AUTHORITY} passfile={PASSFILE} connect_timeout={CONNECT_SECONDS}"
    )


def lsn(text: str) -> int:
    """Return a place in the WAL as a number of bytes."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)
