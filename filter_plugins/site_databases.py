"""Jinja filter site_databases: the databases that a site's apps need."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: site_databases
short_description: The databases that a site's apps need
description:
  - Returns one database for each app that has the service C(postgresql), with the logins that may use it and the
    verifiers of their passwords.
  - An app logs in as the database's owner, or, every other time that its password was rotated, by a second login that
    acts as the owner. PostgreSQL knows one password of a login, so that it takes two of them for both to be good.
positional: passwords
options:
  _input:
    description: Complete apps, as the filter C(site_apps) returns them.
    type: list
    elements: dict
    required: true
  passwords:
    description: Password of each app's database role, by the app's name.
    type: dict
    required: true
  logins:
    description: The login of each app that has another one than the owner.
    type: dict
    default: {}
  rotation:
    description: The rotation that is under way, as C(vault_rotation) has it. Of a database, its login is good too.
    type: dict
    default: {}
"""

EXAMPLES = r"""
postgresql_databases: "{{ apps | site_apps | site_databases(vault_database_passwords) }}"
"""

RETURN = r"""
_value:
  description:
    - Databases with C(name), which is also the owner's name, C(login), the one that the app uses, C(verifier) of the
      owner's password, empty where the owner may not log in, and C(others), the second login with C(name) and
      C(verifier), if any.
  type: list
  elements: dict
"""


# Ansible loads a filter by its path under a name of its own: the one beside it is found by the directory.
sys.path.append(str(Path(__file__).parent))
_scram_sha_256 = import_module("scram_sha_256").scram_sha_256


def site_databases(
    apps: list[dict[str, Any]],
    passwords: dict[str, str],
    logins: dict[str, str] | None = None,
    rotation: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return each database, and the logins that may use it."""
    users = [app for app in apps if "postgresql" in app["services"]]
    for app in users:
        if app["name"] not in passwords:
            raise AnsibleFilterError(f"vault_database_passwords has no entry for the app {app['name']}")
    return [_database(app, passwords[app["name"]], logins or {}, rotation or {}) for app in users]


def _database(app: dict[str, Any], password: str, logins: dict[str, str], rotation: dict[str, str]) -> dict[str, Any]:
    name, login = app["database"], logins.get(app["name"], app["database"])
    good = {login: password}
    if (rotation.get("kind"), rotation.get("app")) == ("database", app["name"]):
        good[rotation["login"]] = rotation["other"]
    verifiers = {one: _scram_sha_256(secret, one) for one, secret in good.items()}
    others = [{"name": one, "verifier": verifier} for one, verifier in verifiers.items() if one != name]
    return {"name": name, "login": login, "verifier": verifiers.get(name, ""), "others": others}


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"site_databases": site_databases}
