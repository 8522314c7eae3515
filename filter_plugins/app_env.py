from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: app_env
short_description: The environment file of an app
description:
  - Returns the text of the file that app-run reads, one C(NAME='value') a line, quoted so that a shell reads the same.
  - Holds the app's own config, and before it what the site provides. Where the app defines a name itself, its value
    stands.
  - The result is secret.
positional: _input
options:
  _input:
    description:
      - One app, complete, as from P(site_apps#filter).
    type: dict
    required: true
  web_concurrency:
    description:
      - Value of C(WEB_CONCURRENCY), the number of workers of each web process.
    type: int
    required: true
  database_address:
    description:
      - Address at which the app finds its connection pool.
    type: str
    default: 127.0.0.1
  database_port:
    description:
      - Port of the connection pool.
    type: int
    default: 6432
  database_password:
    description:
      - Password of the app's database login, for the service postgresql.
    type: str
  database_login:
    description:
      - That login, where it is not the database's owner.
    type: str
  redis_address:
    description:
      - Address at which the app finds redis.
    type: str
    default: 127.0.0.1
  redis_port:
    description:
      - Port of redis there.
    type: int
    default: 7379
  redis_password:
    description:
      - Password of the app's user of redis, for the service redis.
    type: str
  memcached_servers:
    description:
      - Memcached servers as C(address:port), for the service memcached.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Write the environment
  config_files:
    files:
      - path: /srv/www/shop/env
        content: "{{ app | app_env(web_concurrency=2, database_password=vault_database_passwords.shop) }}"
        secret: true
"""

RETURN = r"""
_value:
  description:
    - Text of the file.
  type: str
"""

HEADER = "# Written by Ansible from the site's inventory, read by app-run: a change here is lost at the next run.\n"


def app_env(
    app: Mapping[str, Any],
    web_concurrency: int,
    database_address: str = "127.0.0.1",
    database_port: int = 6432,
    database_password: str | None = None,
    database_login: str | None = None,
    redis_address: str = "127.0.0.1",
    redis_port: int = 7379,
    redis_password: str | None = None,
    memcached_servers: list[str] | None = None,
) -> str:
    """Return the text of an app's environment file."""
    name, services = app["name"], app["services"]
    variables = {"WEB_CONCURRENCY": str(web_concurrency)}
    if "postgresql" in services:
        password = _needed(name, "postgresql", "database_password", database_password)
        at = f"{_host(database_address)}:{database_port}"
        login = database_login or app["database"]
        variables["DATABASE_URL"] = f"postgres://{login}:{password}@{at}/{app['database']}"
    if "redis" in services:
        password = _needed(name, "redis", "redis_password", redis_password)
        number = app["redis_database"]
        variables["REDIS_URL"] = f"redis://{name}:{password}@{_host(redis_address)}:{redis_port}/{number}"
    if "memcached" in services:
        variables["MEMCACHE_SERVERS"] = ",".join(memcached_servers or [])
    variables.update(app["config"])
    return HEADER + "".join(f"{key}={_quoted(name, key, variables[key])}\n" for key in sorted(variables))


def _needed(app: str, service: str, option: str, value: str | None, quoted: bool = True) -> str:
    if not value:
        raise AnsibleFilterError(f"{app} uses {service}, and {option} is not given")
    return quote(value, safe="") if quoted else value


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _quoted(app: str, key: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) or "\0" in value:
        raise AnsibleFilterError(f"config {key!r} of {app} fits into no environment")
    return "'" + value.replace("'", r"'\''") + "'"


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"app_env": app_env}
