from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

DOCUMENTATION = r"""
name: app_release_env
short_description: What an app's release command is given in place of the app's own variables
description:
  - Has the release command, such as migrations, reach PostgreSQL itself and not through the connection pool, and wait
    for a lock no longer than some seconds. A pool that hands out a connection for each transaction keeps no such
    setting, and a migration that waits for a lock has every query behind it wait too.
  - What is built on libpq, and asyncpg, check by the environment whom they talk to. An app that has the URL of another
    PostgreSQL among its config vars is left without, for the other's certificate is of somebody else's authority; it
    is encrypted all the same.
  - Empty for an app that does not use the site's PostgreSQL. The result is secret.
positional: _input
options:
  _input:
    description: One app, complete, as from P(site_apps#filter).
    type: dict
    required: true
  password:
    description: Password of the app's database login.
    type: str
    required: true
  address:
    description: Address of PostgreSQL itself; empty leaves the release command with the pool.
    type: str
    required: true
  port:
    description: Port of PostgreSQL itself.
    type: int
    default: 5432
  lock_seconds:
    description: Seconds that a statement may wait for a lock.
    type: int
    default: 5
  authority:
    description: File with the authority by which PostgreSQL's certificate is checked; empty for no check.
    type: str
    default: ""
  login:
    description: That login, where it is not the database's owner.
    type: str
"""

EXAMPLES = r"""
- name: Run the release command
  app_release:
    app: shop
    environment: "{{ app | app_release_env(vault_database_passwords.shop, '192.0.2.21') }}"
"""

RETURN = r"""
_value:
  description: Variables by name.
  type: dict
"""


POSTGRESQL = re.compile(r"postgres(ql)?(\+\w+)?://")


def verified(config: Mapping[str, Any], authority: str) -> dict[str, str]:
    """Return what has a client check the server's certificate, unless the app has its own word on that."""
    elsewhere = any(POSTGRESQL.match(str(value)) for value in config.values())
    if not authority or elsewhere or {"PGSSLMODE", "PGSSLROOTCERT"} & config.keys():
        return {}
    return {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": authority}


def app_release_env(
    app: Mapping[str, Any],
    password: str | None,
    address: str,
    port: int = 5432,
    lock_seconds: int = 5,
    authority: str = "",
    login: str | None = None,
) -> dict[str, str]:
    """Return what the release command is given in place of the app's own variables."""
    if "postgresql" not in app["services"] or not address or not password or "DATABASE_URL" in app["config"]:
        return {}
    host, name = f"[{address}]" if ":" in address else address, app["database"]
    # Every client that is built on libpq reads it.
    options = f"{app['config'].get('PGOPTIONS', '')} -c lock_timeout={lock_seconds}s".strip()
    url = f"postgres://{login or name}:{quote(password, safe='')}@{host}:{port}/{name}"
    return {"DATABASE_URL": url, "PGOPTIONS": options, **verified(app["config"], authority)}


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"app_release_env": app_release_env}
