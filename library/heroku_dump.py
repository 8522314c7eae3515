#!/usr/bin/python3
"""Restore a dump from Heroku into an app's empty database, as a whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pg_archive import (
    HEROKU_EXTENSIONS,
    HEROKU_OWN,
    ArchiveError,
    Plan,
    archive_format,
    count_rows,
    parse_extensions,
    plan,
    server_version,
)

try:
    import psycopg2
    from psycopg2 import sql

    HAS_PSYCOPG2 = True
except ImportError:
    HAS_PSYCOPG2 = False

DOCUMENTATION = r"""
module: heroku_dump
short_description: Restores a dump from Heroku into an app's empty database, as a whole or not at all
description:
  - Takes a dump in PostgreSQL's custom format, of the server's major version or an older one.
  - Restores into a fresh database beside the app's. The extensions that the dump names come first, in the schemas that
    it names. Heroku's own schema and event triggers, owners, rights and remarks on extensions are left out; all objects
    belong to the owner of the app's database.
  - Counts the rows of every table in the dump, and in the restored database, and goes on only where they are equal.
    Runs ANALYZE. Only then does the new database take the place of the empty one, in one transaction.
  - Refuses a database that is not empty, a dump that is damaged, truncated or too new, and extensions that the server
    lacks. Whatever fails, the app's database is what it was.
  - Notes on the database which dump it holds, so that a second run with the same dump does nothing.
options:
  database:
    description: The app's database.
    type: str
    required: true
  file:
    description: The dump, on this host. Without it the database is looked at, and nothing else is done.
    type: path
  checksum:
    description: SHA-256 of the dump.
    type: str
    required: true
  replace:
    description:
      - Put the dump in the place of a database that is not empty. What was there is kept beside it under the name with
        C(.before) behind, in place of one that was kept so earlier.
    type: bool
    default: false
  jobs:
    description: Processes that restore at the same time; 0 is one for each CPU of the host.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Restore the dump
  heroku_dump:
    database: shop
    file: /var/lib/offramp/latest.dump
    checksum: "{{ found.stat.checksum }}"
"""

RETURN = r"""
restored:
  description: Whether the database holds this dump already.
  type: bool
  returned: always
report:
  description: What was restored and what was left out, as text.
  type: str
  returned: when a dump was restored
rows:
  description: Rows of each table.
  type: dict
  returned: when a dump was restored
"""

PG_RESTORE = "/usr/bin/pg_restore"
SOCKETS = "/var/run/postgresql"
ADMINISTRATOR = "postgres"
NOTE = "Restored from the dump with SHA-256 "
# An app's database has no dot in its name, so that none is in the way of another app's.
FRESH = ".import"
KEPT = ".before"
EMPTY = ".empty"
PACKAGES = {
    "hll": "postgresql-{version}-hll",
    "pg_cron": "postgresql-{version}-cron",
    "pg_partman": "postgresql-{version}-partman",
    "pgrouting": "postgresql-{version}-pgrouting",
    "plperl": "postgresql-plperl-{version}",
    "plpython3u": "postgresql-plpython3-{version}",
    "postgis": "postgresql-{version}-postgis-3",
    "vector": "postgresql-{version}-pgvector",
}
USER_OBJECTS = """
SELECT format('%s.%s', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE (d.classid, d.objid, d.deptype) = ('pg_class'::regclass, c.oid, 'e'))
UNION ALL
SELECT format('%s.%s()', n.nspname, p.proname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE (d.classid, d.objid, d.deptype) = ('pg_proc'::regclass, p.oid, 'e'))
UNION ALL
SELECT format('large object %s', oid) FROM pg_largeobject_metadata
ORDER BY 1
"""


class DumpError(Exception):
    """What stands in the way, in words for a person."""


def connection(database: str) -> Any:
    opened = psycopg2.connect(dbname=database, user=ADMINISTRATOR, host=SOCKETS)
    opened.autocommit = True
    return opened


class Restore:
    """One dump on its way into one database."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.database: str = module.params["database"]
        self.fresh, self.kept, self.empty = (self.database + suffix for suffix in (FRESH, KEPT, EMPTY))
        self.file = Path(module.params["file"] or "/nonexistent")
        self.note = NOTE + module.params["checksum"]
        self.postgres = connection("postgres")
        self.version = self.postgres.server_version // 10000
        self.extensions: list[tuple[str, str]] = []
        self.schemas: set[str] = set()
        self.rows: dict[str, int] = {}
        self.fills = 0
        self.problem = ""

    # What is there

    def ask(self, query: Any, *values: Any, on: Any = None) -> list[tuple[Any, ...]]:
        with (on or self.postgres).cursor() as cursor:
            cursor.execute(query, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def exists(self, database: str) -> bool:
        return bool(self.ask("SELECT 1 FROM pg_database WHERE datname = %s", database))

    def look(self) -> bool:
        """Refuse what cannot take the dump; return whether the database holds it already."""
        if not self.exists(self.database):
            raise DumpError(
                f"there is no database {self.database} here yet.\n"
                "   To mend: set the servers up first, with the app in the inventory:  ansible-playbook -i <the site> "
                "site.yml --skip-tags app"
            )
        found = self.ask(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", self.database
        )
        if (found[0][0] or "").startswith(self.note) and not self.module.params["replace"]:
            return True
        self.refuse_content()
        return False

    def refuse_content(self) -> None:
        if self.module.params["replace"]:
            return
        with contextlib.closing(connection(self.database)) as target:
            objects = [row[0] for row in self.ask(USER_OBJECTS, on=target)]
        if objects:
            shown = ", ".join(objects[:4]) + (f" and {len(objects) - 4} more" if len(objects) > 4 else "")
            raise DumpError(
                f"database {self.database} is not empty: it holds {shown}. Nothing was changed.\n"
                "   To mend: a dump goes in before the first deploy. To put it in the place of what is there, stop the "
                f"app and add  -e replace=true ; what is there is kept as {self.kept}"
            )

    # The dump

    def output(self, *words: str) -> str:
        done = subprocess.run([PG_RESTORE, *words], capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise DumpError(self.damaged(done.stderr))
        return done.stdout

    def damaged(self, said: str) -> str:
        if "unsupported version" in said:
            return (
                f"the dump is of a newer PostgreSQL than this server's {self.version}, which cannot read it.\n"
                "   To mend: put the database on a release of Debian with that version or a newer one"
            )
        lines = said.strip().splitlines()
        reason = lines[-1].removeprefix("pg_restore: ") if lines else "no reason given"
        return (
            f"the dump is truncated or damaged: {reason}. It has {self.file.stat().st_size} bytes.\n"
            "   To mend: fetch it again:  heroku pg:backups:download"
        )

    def read(self) -> Plan:
        with self.file.open("rb") as file:
            try:
                archive_format(file.read(16))
            except ArchiveError as problem:
                raise DumpError(f"the file {problem}") from None
        self.check_sum()
        listing = self.output("--list", str(self.file))
        version = server_version(listing)
        if version > self.version:
            raise DumpError(
                f"the dump is of PostgreSQL {version}, which is newer than this server's {self.version}.\n"
                "   To mend: put the database on a release of Debian with that version or a newer one"
            )
        found = plan(listing)
        if found.extensions:
            with self.listed(found.extensions) as chosen:
                self.extensions = parse_extensions(self.output("--use-list", chosen, "--file=-", str(self.file)))
            if len(self.extensions) != len(found.extensions):
                raise DumpError("the dump names extensions in a way that is not understood")
        self.refuse_missing_extensions()
        return plan(listing, {schema for _name, schema in self.extensions})

    def check_sum(self) -> None:
        with self.file.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.module.params["checksum"]:
            raise DumpError("the file is another one than was announced: its SHA-256 differs")

    def refuse_missing_extensions(self) -> None:
        available = {row[0] for row in self.ask("SELECT name FROM pg_available_extensions")}
        missing = sorted(name for name, _schema in self.extensions if name not in available)
        if missing:
            packages = sorted({PACKAGES[name].format(version=self.version) for name in missing if name in PACKAGES})
            mend = (
                f"run  apt-get install {' '.join(packages)}  on every database host"
                if packages
                else "look for it with  apt-cache search postgresql , or drop it on Heroku and make the dump again"
            )
            raise DumpError(
                f"this server lacks the extension {', '.join(missing)}, which the dump needs.\n   To mend: {mend}"
            )

    @contextlib.contextmanager
    def listed(self, lines: list[str]) -> Iterator[str]:
        with tempfile.NamedTemporaryFile("w", suffix=".list") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            yield file.name

    # The fresh database

    def make_fresh(self) -> str:
        self.drop(self.fresh)
        row = self.ask(
            "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database "
            "WHERE datname = %s",
            self.database,
        )[0]
        owner, encoding, collate, ctype = row
        self.ask(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
                sql.Identifier(self.fresh),
                sql.Identifier(owner),
                *(sql.Literal(value) for value in (encoding, collate, ctype)),
            )
        )
        # Nobody but us until it is whole.
        self.ask(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(self.fresh)))
        return str(owner)

    def drop(self, database: str) -> None:
        self.ask(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))

    def make_extensions(self, found: Plan, owner: str) -> None:
        role = sql.Identifier(owner)
        trusted = {row[0] for row in self.ask("SELECT name FROM pg_available_extension_versions WHERE trusted")}
        with contextlib.closing(connection(self.fresh)) as fresh:
            self.schemas = {schema for _name, schema in self.extensions} | found.schemas
            for schema in sorted(self.schemas - {"public", "pg_catalog"}):
                self.ask(
                    sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(sql.Identifier(schema), role),
                    on=fresh,
                )
            for name, schema in self.extensions:
                # As on Heroku the app owns the extensions that it may make, and can drop them again.
                self.ask(sql.SQL("SET ROLE {}").format(role if name in trusted else sql.SQL("NONE")), on=fresh)
                self.ask(
                    sql.SQL("CREATE EXTENSION IF NOT EXISTS {} WITH SCHEMA {} CASCADE").format(
                        sql.Identifier(name), sql.Identifier(schema)
                    ),
                    on=fresh,
                )

    def restore(self, found: Plan, owner: str) -> None:
        """Restore while another thread counts the dump's rows, since reading a big one takes a while."""
        counting = threading.Thread(target=self.count, daemon=True)
        counting.start()
        with self.listed(found.restored) as chosen:
            words = (
                f"--host={SOCKETS}",
                f"--username={ADMINISTRATOR}",
                f"--dbname={self.fresh}",
                f"--role={owner}",
                "--no-owner",
                "--no-privileges",
                "--no-security-labels",
                "--no-tablespaces",
                "--exit-on-error",
                f"--jobs={self.module.params['jobs'] or len(os.sched_getaffinity(0))}",
                f"--use-list={chosen}",
                str(self.file),
            )
            # What is not yet in place may be lost in a crash, and is then made anew.
            environment = {**os.environ, "PGOPTIONS": "-c synchronous_commit=off", "LC_ALL": "C.UTF-8"}
            done = subprocess.run(
                [PG_RESTORE, *words], env=environment, capture_output=True, text=True, errors="replace", check=False
            )
        counting.join()
        if self.problem:
            raise DumpError(self.problem)
        if done.returncode:
            raise DumpError(f"pg_restore stopped:\n{done.stderr.strip()[-2000:]}")

    def count(self) -> None:
        """Read the dump to its end: also what is not restored shows whether it is whole."""
        words = [PG_RESTORE, "--data-only", "--file=-", str(self.file)]
        try:
            with (
                tempfile.TemporaryFile() as errors,
                subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, bufsize=1 << 20) as reading,
            ):
                rows, self.fills = count_rows(reading.stdout)
                self.rows = {table: number for table, number in rows.items() if not table.startswith(f"{HEROKU_OWN}.")}
                if reading.wait():
                    errors.seek(0)
                    self.problem = self.damaged(errors.read().decode(errors="replace"))
        except ArchiveError as problem:
            self.problem = self.damaged(str(problem))

    def compare(self, found: Plan) -> None:
        if self.fills != found.tables:
            raise DumpError("the dump's rows cannot be counted (pg_dump --inserts?): make it without that")
        with contextlib.closing(connection(self.fresh)) as fresh:
            restored = {table: self.rows_of(table, fresh) for table in self.rows}
        differing = [
            f"{table}: {rows} in the dump, {restored[table]} restored"
            for table, rows in self.rows.items()
            if rows != restored[table]
        ]
        if differing:
            raise DumpError("the rows differ, and nothing was changed:\n   " + "\n   ".join(differing))

    def rows_of(self, table: str, fresh: Any) -> int:
        kind = self.ask("SELECT relkind FROM pg_class WHERE oid = %s::regclass", table, on=fresh)[0][0]
        # The rows of a table's children are counted as theirs.
        only = "" if kind == "p" else "ONLY "
        # The name is quoted already, as pg_dump wrote it.
        return int(self.ask(sql.SQL("SELECT count(*) FROM {}{}").format(sql.SQL(only), sql.SQL(table)), on=fresh)[0][0])

    def analyze(self) -> None:
        with contextlib.closing(connection(self.fresh)) as fresh:
            self.ask("ANALYZE", on=fresh)

    # The switch

    def switch(self) -> None:
        """Put the fresh database in the place of the other, which nobody has changed since it was looked at."""
        self.take_over_settings()
        old = self.kept if self.module.params["replace"] else self.empty
        self.drop(old)
        # Of a run that was killed below, the limit would be 0 still.
        limit = self.ask("SELECT datconnlimit FROM pg_database WHERE datname = %s", self.database)[0][0] or -1
        self.limit(limit, self.fresh)
        self.limit(0, self.database)
        try:
            self.ask("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", self.database)
            self.refuse_content()
            self.rename(old)
        except BaseException:
            # What the connection had begun is undone by its end.
            self.postgres.close()
            self.postgres = connection("postgres")
            self.limit(limit, self.database)
            raise
        if old == self.empty:
            self.drop(old)
        else:
            self.limit(limit, old)

    def rename(self, old: str) -> None:
        note = f"{self.note} on {time.strftime('%Y-%m-%d')}"
        path = 'ALTER DATABASE {0} SET search_path = "$user", public, {4};' if HEROKU_EXTENSIONS in self.schemas else ""
        self.ask(
            sql.SQL(
                "BEGIN; ALTER DATABASE {0} RENAME TO {1}; ALTER DATABASE {2} RENAME TO {0}; "
                f"{path} COMMENT ON DATABASE {{0}} IS {{3}}; COMMIT"
            ).format(
                *(sql.Identifier(name) for name in (self.database, old, self.fresh)),
                sql.Literal(note),
                sql.Identifier(HEROKU_EXTENSIONS),
            )
        )

    def limit(self, connections: int, database: str) -> None:
        self.ask(
            sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(sql.Identifier(database), sql.Literal(connections))
        )

    def take_over_settings(self) -> None:
        """Give the fresh database the rights and settings that the other has."""
        fresh = sql.Identifier(self.fresh)
        rights = self.ask(
            "SELECT privilege_type, rolname FROM pg_database, aclexplode(datacl) LEFT JOIN pg_roles ON oid = grantee "
            "WHERE datname = %s AND grantee <> datdba",
            self.database,
        )
        for right, role in rights:
            who = sql.Identifier(role) if role else sql.SQL("PUBLIC")
            self.ask(sql.SQL("GRANT {} ON DATABASE {} TO {}").format(sql.SQL(right), fresh, who))
        settings = self.ask(
            "SELECT split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1) "
            "FROM pg_db_role_setting, unnest(setconfig) setting "
            "WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = %s)",
            self.database,
        )
        # In a session of its own, which these settings may change.
        with contextlib.closing(connection("postgres")) as session:
            for name, value in settings:
                self.ask("SELECT set_config(%s, %s, false)", name, value, on=session)
                self.ask(
                    sql.SQL("ALTER DATABASE {} SET {} FROM CURRENT").format(fresh, sql.Identifier(name)), on=session
                )

    # All of it

    def run(self) -> dict[str, Any]:
        begin = time.monotonic()
        found = self.read()
        try:
            owner = self.make_fresh()
            self.make_extensions(found, owner)
            self.restore(found, owner)
            self.compare(found)
            self.analyze()
            self.switch()
        except BaseException:
            self.drop(self.fresh)
            raise
        return {"restored": True, "rows": self.rows, "report": self.report(found, time.monotonic() - begin)}

    def report(self, found: Plan, seconds: float) -> str:
        size = self.file.stat().st_size / 1e6
        total = f"{sum(self.rows.values())} rows in {len(self.rows)} tables"
        lines = [
            f"{total} restored in {seconds:.0f} s from {size:.1f} MB; each table has as many as the dump:",
            *(f"  {table}: {rows}" for table, rows in sorted(self.rows.items())),
        ]
        if self.extensions:
            lines.append("extensions: " + ", ".join(f"{name} in {schema}" for name, schema in self.extensions))
        if HEROKU_EXTENSIONS in self.schemas:
            lines.append(f"search_path of the database, as on Heroku: public, then {HEROKU_EXTENSIONS}")
        if found.left_out:
            lines.append(f"left out: {', '.join(found.left_out)}")
        if self.module.params["replace"] and self.exists(self.kept):
            lines.append(f'what was there is kept: DROP DATABASE "{self.kept}"  removes it')
        return "\n".join(lines)


def alone(restore: Restore) -> None:
    """Keep a second run off, for as long as this one's connection lasts."""
    if not restore.ask("SELECT pg_try_advisory_lock(hashtext(%s))", restore.fresh)[0][0]:
        raise DumpError(f"another run restores into {restore.database} at this moment")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "str", "required": True},
            "file": {"type": "path"},
            "checksum": {"type": "str", "required": True},
            "replace": {"type": "bool", "default": False},
            "jobs": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    if not HAS_PSYCOPG2:
        module.fail_json(msg="python3-psycopg2 is not installed on this host: set the servers up first, with site.yml")
    try:
        restore = Restore(module)
        if restore.look():
            module.exit_json(changed=False, restored=True)
        if module.check_mode or not module.params["file"]:
            module.exit_json(changed=bool(module.params["file"]), restored=False)
        alone(restore)
        module.exit_json(changed=True, **restore.run())
    except (DumpError, ArchiveError, OSError) as problem:
        module.fail_json(msg=f"{module.params['database']}: {problem}")
    except psycopg2.Error as problem:
        module.fail_json(msg=f"{module.params['database']}: PostgreSQL said: {str(problem).strip()}")


if __name__ == "__main__":
    main()
