#!/usr/bin/python3
"""Bring a cluster to another major version beside the present one, which is kept; or go back to that."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_facts import release
from ansible.module_utils.placing import place_file
from ansible.module_utils.postgresql_admin import Administrator
from ansible.module_utils.postgresql_cluster import OF_RELEASE, Cluster

DOCUMENTATION = r"""
module: postgresql_upgrade
short_description: Brings a cluster to another major version beside the present one, which is kept
description:
  - Takes the steps of an upgrade with C(pg_upgrade), of which each may be repeated. Until C(upgraded) has succeeded,
    the present cluster is the one that serves and that the host starts; C(undone) starts it again wherever a run ended.
  - Which of the two serves is said by Debian's own C(start.conf) of each, and by nothing else. How far an upgrade is
    stands in C(/var/lib/postgresql/offramp-upgrade.json).
options:
  state:
    description:
      - C(asked) looks, and says what stands in the way. C(prepared) makes the new cluster, empty and not started.
      - C(checked) has C(pg_upgrade) compare the two, and pgBackRest read the new one.
      - C(upgraded) stops the present one, brings its data over, and makes the new one the host's, not started.
      - C(counted) compares the rows with those before, and gives the planner a first idea of the data.
      - C(undone) has the present one serve again. C(served) records that clients use the new one.
      - C(finished) brings statistics and extensions up to date.
      - C(retired) stops the standby of the older version, and makes the new, empty cluster the host's.
      - C(returned) leaves the new cluster, and has the kept one serve again.
    type: str
    choices: [asked, prepared, checked, upgraded, counted, undone, served, finished, retired, returned]
    required: true
  to:
    description: Major version to upgrade to; 0 for the one that this Debian has.
    type: int
    default: 0
  port:
    description: The server's TCP port.
    type: int
    default: 5432
  mode:
    description: >-
      How the data comes over. C(copy) takes its room once more. C(clone) shares the blocks until they change, on XFS
      and Btrfs. C(link) uses the files themselves, so that there is no way back.
    type: str
    choices: [copy, clone, link]
    default: copy
  jobs:
    description: Databases and tablespaces that are brought over at a time.
    type: int
    default: 1
  alone:
    description: Commits wait for no standby, until one of the new version follows.
    type: bool
    default: false
author: [Offramp]
"""

EXAMPLES = r"""
- name: Look what stands in the way of an upgrade
  postgresql_upgrade:
    state: asked
"""

RETURN = r"""
version:
  description: Major version of the cluster that serves.
  returned: with I(state=asked)
  type: int
to:
  description: Major version that was asked for.
  returned: with I(state=asked)
  type: int
stage:
  description: How far an upgrade to it came; empty where there was none.
  returned: with I(state=asked)
  type: str
kept:
  description: Major version of the cluster that is kept for a return, or 0.
  returned: with I(state=asked)
  type: int
written:
  description: Rows that were inserted, updated and deleted since the upgrade.
  returned: with I(state=asked)
  type: int
problem:
  description: Why it cannot be upgraded, in words, or empty.
  returned: with I(state=asked)
  type: str
return_problem:
  description: Why there is no return, in words, or empty.
  returned: with I(state=asked)
  type: str
seconds:
  description: How long the server stood still.
  returned: with I(state=upgraded)
  type: float
rows:
  description: How many rows there are, or -1 where the data is so large that only the tables were compared.
  returned: with I(state=counted)
  type: int
tables:
  description: How many tables were compared.
  returned: with I(state=counted)
  type: int
"""

STATES = ["asked", "prepared", "checked", "upgraded", "counted", "undone", "served", "finished", "retired", "returned"]
RECORD = Path("/var/lib/postgresql/offramp-upgrade.json")
WORK = Path("/var/lib/postgresql/offramp-upgrade")
BACKUP_LOCK = Path("/run/offramp/backup.lock")
KEPT = "offramp-kept.conf"
# Up to here each row is counted while the clients wait; above, that would be most of the wait.
COUNTED_MIB = 2048
STOP_SECONDS = 60
ROOM_MIB = 512
DATABASES = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1"
# Each table's rows, or whether it has any file's worth of them.
TABLES = """
SELECT format('%I.%I', nspname, relname), {what}
FROM pg_class AS t JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE relkind IN ('r', 'm') AND relpersistence = 'p' AND relispopulated
  AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' ORDER BY 1
"""
ROWS = """(xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM ONLY %I.%I', nspname, relname),
  false, true, '')))[1]::text::bigint"""
FILLED = "(pg_relation_size(t.oid) > 0)::int"
WRITTEN = "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables"
EXTENSIONS = "SELECT extname FROM pg_extension ORDER BY 1"
OUTDATED = """
SELECT format('ALTER EXTENSION %I UPDATE', e.extname) FROM pg_extension AS e
JOIN pg_available_extensions AS a ON a.name = e.extname WHERE a.default_version <> e.extversion ORDER BY 1
"""
# What the indexes were built with: the version of each collation as this cluster recorded it.
COLLATIONS = """
SELECT '', coalesce(datcollversion, '') FROM pg_database WHERE datname = current_database()
UNION ALL SELECT format('%I.%I', nspname, collname), collversion FROM pg_collation
JOIN pg_namespace AS n ON n.oid = collnamespace WHERE collversion IS NOT NULL
"""


class Upgrade:
    """This host's clusters: the one that serves, the one of the version that is asked for, and the one that is kept."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.own = OF_RELEASE.get(release().get("VERSION_ID", "").split(".")[0], 0)
        self.to: int = module.params["to"] or self.own
        found = Cluster.found()
        if found is None:
            module.fail_json(msg="there is no PostgreSQL cluster on this host")
        self.serving = found
        self.target = Cluster(self.to)
        self.record: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        self.local = Administrator(module, self.serving, module.params["port"])

    # What is

    @property
    def stage(self) -> str:
        if self.record.get("to") != self.to:
            return ""
        # A run may have been killed between the two files.
        return "switched" if self.record["stage"] == "prepared" and self.is_upgraded else self.record["stage"]

    @property
    def is_upgraded(self) -> bool:
        return self.serving.version == self.to

    @property
    def kept(self) -> Cluster | None:
        cluster = Cluster(self.record.get("from", 0))
        return cluster if cluster.version != self.serving.version and cluster.is_initialised else None

    @property
    def runs(self) -> bool:
        return self.is_active(self.serving)

    def is_active(self, cluster: Cluster) -> bool:
        """Whether the host runs it; a server that pg_upgrade left behind serves nobody."""
        return cluster.postmaster is not None and self.local.systemctl("is-active", "--quiet", cluster.unit)[0] == 0

    def rows(self, query: str, database: str = "postgres", cluster: Cluster | None = None) -> list[list[str]]:
        cluster = cluster or self.serving
        code, out, error = self.local.run(
            *(str(cluster.programs / "psql"), "--no-psqlrc", "--no-align", "--tuples-only", "--field-separator=\t"),
            *("--set=ON_ERROR_STOP=1", f"--port={self.module.params['port']}", f"--command={query}", database),
        )
        if code:
            self.module.fail_json(
                msg=f"PostgreSQL {cluster.version} does not answer: {error.strip()}\n{self.local.log}"
            )
        return [line.split("\t") for line in out.splitlines()]

    def everywhere(self, query: str) -> dict[str, list[list[str]]]:
        return {name: self.rows(query, name) for (name,) in self.rows(DATABASES)}

    @property
    def data_mib(self) -> int:
        return int(self.rows("SELECT sum(pg_database_size(oid))::bigint / 1048576 FROM pg_database")[0][0])

    @property
    def written(self) -> int:
        """Return how many rows were written since the upgrade, with which a cluster's counters begin."""
        return sum(int(rows[0][0]) for rows in self.everywhere(WRITTEN).values())

    def asked(self) -> dict[str, Any]:
        kept = self.kept
        return {
            "version": self.serving.version,
            "to": self.to,
            "stage": self.stage,
            "kept": kept.version if kept else 0,
            "written": self.written if kept and self.runs else 0,
            "problem": self.problem,
            "return_problem": self.return_problem,
        }

    @property
    def problem(self) -> str:
        present = self.serving.version
        if self.to == present:
            return ""
        if not self.to:
            return "this Debian has no PostgreSQL that Offramp knows; say which one with  -e to="
        if self.to < present:
            return (
                f"PostgreSQL {present} is newer than {self.to}. The way back to a cluster that was kept is  "
                "-e back=true"
            )
        if self.to != self.own and not self.target.programs.exists():
            return f"PostgreSQL {self.to} is not installed, and is not what this Debian has, which is {self.own}"
        if not self.runs:
            return ""
        room = (
            self.data_mib * 1.05 + ROOM_MIB
            if self.module.params["mode"] == "copy" or self.serving.is_standby
            else ROOM_MIB
        )
        free = shutil.disk_usage("/var/lib/postgresql").free / 2**20
        if free < room:
            return (
                f"the data beside its copy needs {room:.0f} MiB, and {free:.0f} are free in /var/lib/postgresql. Make "
                "room, or read in docs/upgrading.md what  -e mode=clone  and  -e mode=link  cost"
            )
        return ""

    @property
    def return_problem(self) -> str:
        kept = self.kept
        if kept is None:
            return "no cluster of an older version is kept here"
        if self.record.get("mode") == "link":
            return "the upgrade was made with mode=link, so that the old cluster has no files of its own any more"
        if kept.is_standby and not self.serving.is_standby:
            return (
                f"the cluster {kept.version}/main that is kept here was the standby. Make the other server primary "
                "first, with playbooks/switchover.yml"
            )
        return ""

    # What is done

    def note(self, **more: Any) -> None:
        self.record |= more
        place_file(RECORD, json.dumps(self.record, indent=1).encode(), 0o600)

    def own_start(self, cluster: Cluster, word: str) -> None:
        """Say in Debian's file whether the host starts a cluster, and have systemd read it."""
        file = cluster.configuration / "start.conf"
        if cluster.starts_by_itself != (word == "auto"):
            owner = file.stat()
            place_file(file, f"# Ansible managed\n{word}\n".encode(), 0o644, owner.st_uid, owner.st_gid)
        self.local.systemctl("daemon-reload")

    def stop(self, cluster: Cluster) -> None:
        code, error = self.local.systemctl("stop", cluster.unit, seconds=STOP_SECONDS)
        if cluster.postmaster is not None:
            # pg_upgrade starts servers of its own, and one that was killed leaves them.
            code, _out, error = self.local.run(
                *(str(cluster.programs / "pg_ctl"), f"--pgdata={cluster.data}", "--mode=fast"),
                *(f"--timeout={STOP_SECONDS}", "stop"),
            )
        if code or cluster.postmaster is not None:
            self.local.systemctl("start", "--no-block", cluster.unit)
            self.module.fail_json(msg=f"PostgreSQL {cluster.version} does not stop within {STOP_SECONDS} s: {error}")

    def start(self, cluster: Cluster) -> None:
        code, error = self.local.systemctl("start", cluster.unit)
        if code:
            log = Administrator(self.module, cluster, self.module.params["port"]).log
            self.module.fail_json(msg=f"systemctl start {cluster.unit}: {error}\n{log}")

    def forget(self, cluster: Cluster) -> None:
        """Remove a cluster's configuration, and what systemd has of it; not its data."""
        shutil.rmtree(cluster.configuration, ignore_errors=True)
        shutil.rmtree(f"/etc/systemd/system/{cluster.unit}.d", ignore_errors=True)
        self.local.systemctl("daemon-reload")

    def prepared(self) -> bool:
        """Make the new cluster, empty; one that Debian made, or that a run left half done, goes."""
        if self.is_upgraded:
            return False
        if self.module.check_mode:
            return True
        half_done = self.record.get("to") == self.to and self.record["stage"] == "prepared"
        if self.target.has_databases and not half_done:
            self.module.fail_json(
                msg=f"the cluster {self.to}/main on this host holds databases, and is not what this site uses. When "
                f"nothing in it is needed:  pg_dropcluster --stop {self.to} main"
            )
        self.note(
            **{"from": self.serving.version, "to": self.to, "mode": self.module.params["mode"], "stage": "prepared"}
        )
        if self.target.configuration.exists() or self.target.data.exists():
            self.stop(self.target)
            shutil.rmtree(self.target.data, ignore_errors=True)
            self.forget(self.target)
        sums = "on" if self.local.control()["Data page checksum version"] != "0" else "off"
        wanted = ["--data-checksums"] if sums == "on" else ["--no-data-checksums"] if self.to >= 18 else []
        code, out, error = self.module.run_command(
            [
                *("pg_createcluster", str(self.to), "main", "--start-conf=manual"),
                *("--", *wanted, "--encoding=UTF8", "--locale=C.UTF-8"),
            ],
            cwd="/",
        )
        if code:
            self.module.fail_json(msg=f"pg_createcluster {self.to} main: {(error or out).strip()}")
        # What an administrator set with ALTER SYSTEM.
        shutil.copy2(self.serving.data / "postgresql.auto.conf", self.target.data / "postgresql.auto.conf")
        shutil.chown(self.target.data / "postgresql.auto.conf", "postgres", "postgres")
        return True

    def pg_upgrade(self, *more: str) -> tuple[int, str]:
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir(mode=0o700)
        shutil.chown(WORK, "postgres", "postgres")
        # The new cluster's WAL of this moment is nothing that a backup could use.
        code, out, error = self.module.run_command(
            [
                *("runuser", "--user=postgres", "--", str(self.target.programs / "pg_upgrade")),
                *("--old-bindir", str(self.serving.programs), "--new-bindir", str(self.target.programs)),
                *("--old-datadir", str(self.serving.configuration), "--new-datadir", str(self.target.configuration)),
                *("--old-port", str(self.module.params["port"]), "--new-port", "50432"),
                *("--new-options", "-c archive_mode=off -c synchronous_standby_names=''"),
                *("--jobs", str(self.module.params["jobs"]), *more),
            ],
            cwd=str(WORK),
            environ_update={"LC_ALL": "C"},
        )
        return code, f"{out}\n{error}"

    def reports(self) -> str:
        """Return what pg_upgrade wrote about what it met, in files of its own."""
        output = self.target.data / "pg_upgrade_output.d"
        files = [path for path in sorted(output.rglob("*.txt")) if path.is_file()] if output.exists() else []
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace').strip()[:2000]}" for path in files)

    @staticmethod
    def failures(said: str) -> str:
        lines = [line.rstrip() for line in said.splitlines() if line.strip() and not line.rstrip().endswith(" ok")]
        return "\n".join(lines[-25:])

    def checked(self) -> None:
        missing = {
            name
            for rows in self.everywhere(EXTENSIONS).values()
            for (name,) in rows
            if not Path(f"/usr/share/postgresql/{self.to}/extension/{name}.control").exists()
        }
        if missing:
            self.module.fail_json(
                msg=f"Nothing was changed: PostgreSQL {self.to} lacks extensions of the databases: "
                f"{', '.join(sorted(missing))}. Debian's packages of them are named postgresql-{self.to}-...; install "
                "them, or DROP EXTENSION what is not needed"
            )
        code, said = self.pg_upgrade("--check")
        if code:
            self.module.fail_json(
                msg=f"Nothing was changed: pg_upgrade --check refuses:\n{self.failures(said)}\n{self.reports()}".strip()
            )
        if shutil.which("pgbackrest"):
            self.check_pgbackrest()

    def check_pgbackrest(self) -> None:
        """Have pgBackRest read the new, empty cluster: it knows a version or says that it does not."""
        with tempfile.TemporaryDirectory(prefix="offramp-") as place:
            shutil.chown(place, "postgres", "postgres")
            code, out, error = self.local.run(
                *("pgbackrest", "--no-config", "--stanza=check", f"--repo1-path={place}", "--repo1-type=posix"),
                *(f"--pg1-path={self.target.data}", f"--lock-path={place}", "--log-level-file=off", "--no-online"),
                "stanza-create",
            )
        if code:
            said = (error or out).strip().splitlines()
            self.module.fail_json(
                msg=f"Nothing was changed: the pgBackRest of this host does not read PostgreSQL {self.to}, so that "
                f"there would be no backup: {' / '.join(said[-3:])}"
            )

    def counts(self, exact: bool) -> dict[str, dict[str, int]]:
        query = TABLES.format(what=ROWS if exact else FILLED)
        return {name: {table: int(number) for table, number in rows} for name, rows in self.everywhere(query).items()}

    @contextlib.contextmanager
    def no_backup_at_work(self) -> Iterator[None]:
        BACKUP_LOCK.parent.mkdir(parents=True, exist_ok=True)
        with BACKUP_LOCK.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.module.fail_json(msg="a backup is at work on this host; run this again when it is done")
            yield

    def upgraded(self) -> dict[str, Any]:
        if self.is_upgraded or self.module.check_mode:
            return {"changed": not self.is_upgraded, "seconds": 0.0}
        old = self.serving
        with self.no_backup_at_work():
            begin = time.monotonic()
            exact = self.data_mib <= COUNTED_MIB
            collations = {name: dict(rows) for name, rows in self.everywhere(COLLATIONS).items()}
            self.note(exact=exact, counts=self.counts(exact), collations=collations)
            self.stop(old)
            mode = self.module.params["mode"]
            code, said = self.pg_upgrade(*([] if mode == "copy" else [f"--{mode}"]))
            if code:
                self.unlink_pg_control(old)
                self.start(old)
                self.module.fail_json(
                    msg=f"pg_upgrade failed, and PostgreSQL {old.version} was started again:\n{self.failures(said)}\n"
                    f"{self.reports()}"
                )
            if self.module.params["alone"]:
                with (self.target.data / "postgresql.auto.conf").open("a") as file:
                    file.write("synchronous_standby_names = ''\n")
            self.switch(old, self.target)
            self.note(stage="switched")
        shutil.rmtree(WORK, ignore_errors=True)
        return {"changed": True, "seconds": round(time.monotonic() - begin, 1)}

    def switch(self, old: Cluster, new: Cluster) -> None:
        """Have the host start the new one from now on, and the old one, for a look, on a port of its own."""
        port = self.module.params["port"] + 1
        place_file(
            old.configuration / "conf.d" / KEPT,
            f"# Kept by an upgrade: docs/upgrading.md\nport = {port}\nlisten_addresses = 'localhost'\n"
            "archive_mode = off\n".encode(),
            0o644,
        )
        self.own_start(new, "auto")
        self.own_start(old, "manual")

    @staticmethod
    def unlink_pg_control(cluster: Cluster) -> None:
        """pg_upgrade --link takes the old cluster's control file away, so that nobody starts it beside the new one."""
        control = cluster.data / "global/pg_control"
        if not control.exists() and control.with_suffix(".old").exists():
            control.with_suffix(".old").rename(control)

    def counted(self) -> dict[str, Any]:
        # A host that was started anew after a run was killed let its clients in.
        if self.stage != "switched" or self.written:
            return {"changed": False, "tables": 0, "rows": -1}
        before, exact = self.record["counts"], self.record["exact"]
        after = self.counts(exact)
        wrong = [
            f"{database}: {table} had {before.get(database, {}).get(table, 'no table')}, has "
            f"{after.get(database, {}).get(table, 'no table')}"
            for database in sorted(before.keys() | after.keys())
            for table in sorted(before.get(database, {}).keys() | after.get(database, {}).keys())
            if before.get(database, {}).get(table) != after.get(database, {}).get(table)
        ]
        if wrong:
            self.module.fail_json(msg=f"PostgreSQL {self.to} has other rows than before: {'; '.join(wrong[:5])}")
        # Without any statistics, the first queries would be planned as if each table were new.
        self.vacuumdb("--analyze-only", options="-c default_statistics_target=1")
        tables = [rows for database in after.values() for rows in database.values()]
        return {"changed": False, "tables": len(tables), "rows": sum(tables) if exact else -1}

    def vacuumdb(self, *words: str, options: str = "") -> None:
        code, _out, error = self.module.run_command(
            [
                *("runuser", "--user=postgres", "--", str(self.serving.programs / "vacuumdb"), "--all", "--quiet"),
                *(f"--port={self.module.params['port']}", f"--jobs={self.module.params['jobs']}", *words),
            ],
            environ_update={"LC_ALL": "C", "PGOPTIONS": options},
            cwd="/",
        )
        if code:
            self.module.fail_json(msg=f"vacuumdb: {error.strip()}")

    def undone(self) -> bool:
        """Have the cluster serve that served before, wherever a run ended; not once clients have used the new one."""
        if self.record.get("stage") not in ("prepared", "switched"):
            return False
        old, new = Cluster(self.record["from"]), Cluster(self.record["to"])
        needed = self.serving.version != old.version or not self.is_active(old)
        if not needed or self.module.check_mode:
            return needed
        if new.postmaster is not None:
            if self.is_upgraded and self.is_active(new) and self.written:
                self.module.fail_json(msg=f"clients have written to PostgreSQL {new.version}, so it stays")
            self.stop(new)
        if self.record["mode"] == "link" and self.record["stage"] == "switched":
            self.module.fail_json(
                msg=f"with mode=link the old cluster cannot serve once the new one was started. Mend what keeps "
                f"PostgreSQL {new.version} from starting, and run this again"
            )
        if old.postmaster is not None:
            self.stop(old)
        self.unlink_pg_control(old)
        self.back_to(old, new)
        self.note(stage="prepared")
        return True

    def back_to(self, old: Cluster, new: Cluster) -> None:
        (old.configuration / "conf.d" / KEPT).unlink(missing_ok=True)
        self.own_start(old, "auto")
        self.own_start(new, "manual")
        self.start(old)

    def served(self) -> bool:
        if self.stage != "switched" or self.module.check_mode:
            return self.stage == "switched"
        self.note(stage="served", counts={})
        return True

    def finished(self) -> bool:
        if self.stage != "served" or self.module.check_mode:
            return self.stage == "served"
        self.vacuumdb("--analyze-only")
        for database, statements in self.everywhere(OUTDATED).items():
            for (statement,) in statements:
                self.rows(statement, database)
        self.note(stage="finished")
        return True

    def retired(self) -> bool:
        if self.is_upgraded or self.module.check_mode:
            return not self.is_upgraded
        old = self.serving
        self.stop(old)
        self.switch(old, self.target)
        self.note(stage="finished")
        return True

    def returned(self) -> bool:
        kept, new = self.kept, self.serving
        if kept is None or self.module.check_mode:
            return kept is not None
        if self.return_problem:
            self.module.fail_json(msg=self.return_problem)
        with self.no_backup_at_work():
            self.stop(new)
            self.back_to(kept, new)
            self.record = {}
            RECORD.unlink()
            # A standby's data is the primary's; what was written since the upgrade is nowhere else.
            if new.is_standby:
                shutil.rmtree(new.data)
            else:
                new.data.rename(new.data.with_name(time.strftime("kept-%Y%m%d-%H%M%S", time.gmtime())))
            self.forget(new)
        return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": STATES, "required": True},
            "to": {"type": "int", "default": 0},
            "port": {"type": "int", "default": 5432},
            "mode": {"type": "str", "choices": ["copy", "clone", "link"], "default": "copy"},
            "jobs": {"type": "int", "default": 1},
            "alone": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    upgrade = Upgrade(module)
    result = getattr(upgrade, module.params["state"])()
    if module.params["state"] == "asked":
        module.exit_json(changed=False, **result)
    if isinstance(result, dict):
        module.exit_json(**result)
    module.exit_json(changed=bool(result))


if __name__ == "__main__":
    main()
