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
  - Returns one database for each app that has the service C(postgresql), with the verifier of its owner's password.
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
"""

EXAMPLES = r"""
postgresql_databases: "{{ apps | site_apps | site_databases(vault_database_passwords) }}"
"""

RETURN = r"""
_value:
  description: Databases with C(name), which is also the owner's name, and C(verifier) of the owner's password.
  type: list
  elements: dict
"""


# Ansible loads a filter by its path under a name of its own: the one beside it is found by the directory.
sys.path.append(str(Path(__file__).parent))
_scram_sha_256 = import_module("scram_sha_256").scram_sha_256


def site_databases(apps: list[dict[str, Any]], passwords: dict[str, str]) -> list[dict[str, str]]:
    """Return name and verifier of each database."""
    users = [app for app in apps if "postgresql" in app["services"]]
    for app in users:
        if app["name"] not in passwords:
            raise AnsibleFilterError(f"vault_database_passwords has no entry for the app {app['name']}")
    return [
        {"name": app["database"], "verifier": _scram_sha_256(passwords[app["name"]], app["database"])} for app in users
    ]


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"site_databases": site_databases}
