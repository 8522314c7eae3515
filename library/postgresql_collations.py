#!/usr/bin/python3
"""Find the indexes whose order another version of libc or ICU made, and build them anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_admin import Administrator
from ansible.module_utils.postgresql_cluster import Cluster

DOCUMENTATION = r"""
module: postgresql_collations
short_description: Finds the indexes whose order another version of libc or ICU made, and builds them anew
description:
  - How the letters of a language are ordered is said by the system's libc or by ICU. After an upgrade of one of them an
    index may no longer be in order, so that a row is not found, or a second one like it is let in.
  - Compares the version of each collation that an index uses, as the database recorded it, with that of the library.
  - After an upgrade with M(postgresql_upgrade), what the old cluster recorded counts. The new one says of a collation
    that comes with PostgreSQL that it is of the new version, though the indexes were copied.
  - C(C), C(POSIX) and C(C.UTF-8), which the role's databases have, compare bytes, and have no version.
options:
  state:
    description: C(asked) looks. C(reindexed) builds the indexes anew, beside the present ones, while clients go on.
    type: str
    choices: [asked, reindexed]
    default: asked
  port:
    description: The server's TCP port.
    type: int
    default: 5432
author: [Offramp]
"""

EXAMPLES = r"""
- name: Build the indexes anew that another libc ordered
  postgresql_collations:
    state: reindexed
"""

RETURN = r"""
stale:
  description: What another version ordered, one line a collation, with its indexes.
  returned: always
  type: list
  elements: str
indexes:
  description: How many indexes those are.
  returned: always
  type: int
"""

# What the cluster before an upgrade recorded.
RECORD = Path("/var/lib/postgresql/offramp-upgrade.json")
DATABASES = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1"
COLLATIONS = """
SELECT 'DATABASE', quote_ident(datname), '', coalesce(datcollversion, ''),
  coalesce(pg_database_collation_actual_version(oid), ''), 'pg_catalog."default"'::regcollation::oid
FROM pg_database WHERE datname = current_database()
UNION ALL
SELECT 'COLLATION', name, name, coalesce(collversion, ''), coalesce(pg_collation_actual_version(oid), ''), oid
FROM (SELECT c.oid, collversion, format('%I.%I', nspname, collname) AS name, collprovider, collencoding
      FROM pg_collation AS c JOIN pg_namespace AS n ON n.oid = collnamespace) AS c
WHERE collprovider IN ('c', 'i') AND (collversion IS NOT NULL OR collprovider = 'i')
  AND collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database()))
"""
INDEXES = """
SELECT i.indexrelid::regclass, x.number, i.indisexclusion::int
FROM pg_index AS i JOIN pg_class AS k ON k.oid = i.indexrelid
CROSS JOIN LATERAL (SELECT DISTINCT unnest(i.indcollation::oid[])) AS x(number)
WHERE k.relkind = 'i' AND k.relpersistence <> 't' AND x.number <> 0 AND i.indisvalid ORDER BY 1
"""
# What a run that was cut off left: an index beside the one that it was to replace.
HALF_DONE = r"""
SELECT i.indexrelid::regclass FROM pg_index AS i JOIN pg_class AS k ON k.oid = i.indexrelid
WHERE NOT i.indisvalid AND k.relname ~ '_ccnew\d*$'
"""


class Collations:
    """The collations of every database of this host's cluster."""

    def __init__(self, module: AnsibleModule, cluster: Cluster) -> None:
        self.module = module
        self.cluster = cluster
        self.local = Administrator(module, cluster, module.params["port"])
        self.record: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        upgraded = self.record.get("to") == cluster.version
        self.carried: dict[str, dict[str, str]] = self.record.get("collations", {}) if upgraded else {}
        self.refused: list[str] = []

    def tell(self, statement: str, database: str) -> tuple[list[list[str]], str]:
        """Return the rows, and what the server says where it refuses."""
        code, out, error = self.local.run(
            *(str(self.cluster.programs / "psql"), "--no-psqlrc", "--no-align", "--tuples-only"),
            *("--field-separator=\t", "--set=ON_ERROR_STOP=1", f"--port={self.module.params['port']}"),
            *(f"--command={statement}", database),
        )
        return [line.split("\t") for line in out.splitlines()], error.strip() if code else ""

    def ask(self, query: str, database: str) -> list[list[str]]:
        rows, error = self.tell(query, database)
        if error:
            self.module.fail_json(msg=f"PostgreSQL does not answer: {error}")
        return rows

    def stale(self, database: str) -> list[dict[str, Any]]:
        """Return the collations of which the database's indexes may be in another order, with those indexes."""
        carried = self.carried.get(database)
        indexes = self.ask(INDEXES, database)
        found = []
        for kind, name, key, recorded, actual, number in self.ask(COLLATIONS, database):
            # A collation that the old cluster did not record is one that no index of it used.
            built_with = recorded if carried is None else carried.get(key, recorded)
            if not actual or not built_with or built_with == actual:
                continue
            own = [(index, exclusion == "1") for index, collation, exclusion in indexes if collation == number]
            outdated = recorded != actual
            # There are hundreds that come with PostgreSQL, and hardly any is used.
            if own or (outdated and not name.startswith("pg_catalog.")):
                found.append(
                    {
                        "kind": kind,
                        "name": name,
                        "database": database,
                        "built_with": built_with,
                        "actual": actual,
                        "indexes": own,
                        "outdated": outdated,
                    }
                )
        return found

    def line(self, one: dict[str, Any]) -> str:
        names = [index for index, _ in one["indexes"]]
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "no index"
        what = "its own collation" if one["kind"] == "DATABASE" else f"collation {one['name']}"
        return f"database {one['database']}, {what}: version {one['built_with']}, now {one['actual']}: {shown}"

    def reindex(self, found: list[dict[str, Any]]) -> None:
        for database in sorted({one["database"] for one in found}):
            for (index,) in self.ask(HALF_DONE, database):
                self.tell(f"DROP INDEX CONCURRENTLY {index}", database)
        done: set[tuple[str, str]] = set()
        for one in found:
            before = len(self.refused)
            for index, exclusion in one["indexes"]:
                if (one["database"], index) not in done:
                    how = "" if exclusion else "CONCURRENTLY "
                    error = self.tell(f"REINDEX INDEX {how}{index}", one["database"])[1]
                    if error:
                        self.refused.append(f"database {one['database']}, index {index}: {error}")
                    done.add((one["database"], index))
            if one["outdated"] and len(self.refused) == before:
                word = "REFRESH COLLATION VERSION" if one["kind"] == "DATABASE" else "REFRESH VERSION"
                error = self.tell(f"ALTER {one['kind']} {one['name']} {word}", one["database"])[1]
                if error:
                    self.refused.append(f"{one['kind'].lower()} {one['name']}: {error}")

    def run(self) -> dict[str, Any]:
        found = [one for (name,) in self.ask(DATABASES, "postgres") for one in self.stale(name)]
        wanted = self.module.params["state"] == "reindexed" and not self.module.check_mode
        if wanted:
            self.reindex(found)
            if self.refused:
                self.module.fail_json(
                    msg="these indexes cannot be built anew. One that is unique has rows in it that it should have "
                    "refused; remove or change one of each, and run this again:\n" + "\n".join(self.refused)
                )
            if self.carried:
                RECORD.write_text(json.dumps({**self.record, "collations": {}}, indent=1))
        return {
            "changed": bool(found) and self.module.params["state"] == "reindexed",
            "stale": [self.line(one) for one in found],
            "indexes": len({(one["database"], index) for one in found for index, _ in one["indexes"]}),
        }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["asked", "reindexed"], "default": "asked"},
            "port": {"type": "int", "default": 5432},
        },
        supports_check_mode=True,
    )
    cluster = Cluster.found()
    if cluster is None or cluster.postmaster is None:
        module.exit_json(changed=False, stale=[], indexes=0)
    module.exit_json(**Collations(module, cluster).run())


if __name__ == "__main__":
    main()
