"""Jinja filters redis_users, redis_passwords and redis_password: who may log in to redis, and what each may do."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: redis_users
short_description: The users of redis
description:
  - Returns the lines of redis's configuration that make its users, C(offramp) for what administers it, one for each app
    that has the service C(redis), with the app's name, and C(default).
  - An app may do everything with data, and nothing with the server, as C(CONFIG), C(ACL), C(MONITOR), C(SHUTDOWN) and
    C(FLUSHALL). One that has C(redis_keys) gets at the keys and channels of these patterns alone.
  - C(default) is for clients so old that they send a password without a name. It takes the password of each app that
    gets at all keys.
  - The result has hashes of passwords, and no password.
positional: password, other
options:
  _input:
    description: Complete apps, as the filter C(site_apps) returns them.
    type: list
    elements: dict
    required: true
  password:
    description: The site's password of redis, which is that of the administrator. Those of the apps are made of it.
    type: str
    required: true
  other:
    description: Another one that is good too, while the password is rotated; empty for none.
    type: str
    default: ""
"""

EXAMPLES = r"""
redis_users: "{{ apps | site_apps | redis_users(vault_redis_password) }}"
"""

RETURN = r"""
_value:
  description: The rules of each user, as redis's C(ACL SETUSER) takes them, by the user's name.
  type: dict
"""

ADMINISTRATOR = "offramp"
# Of what redis counts as dangerous, what a program does with its own data: queues ask INFO, a cache is emptied.
COMMANDS = "+@all -@admin -@dangerous +info +keys +role +sort +sort_ro +restore +flushdb"


def redis_password(secret: str, app: str) -> str:
    """Return an app's password, of which the site's cannot be told."""
    if not secret:
        raise AnsibleFilterError("the password of redis is empty")
    return hmac.new(secret.encode(), f"redis {app}".encode(), sha256).hexdigest()


def redis_passwords(apps: list[dict[str, Any]], secret: str) -> dict[str, str]:
    """Return the password of each app that has redis, by its name."""
    return {app["name"]: redis_password(secret, app["name"]) for app in apps if _has_redis(app)}


def redis_users(apps: list[dict[str, Any]], password: str, other: str = "") -> dict[str, str]:
    """Return each user's rules, by the user's name."""
    secrets = [one for one in (password, other) if one]
    own = {app["name"]: [redis_password(one, app["name"]) for one in secrets] for app in apps if _has_redis(app)}
    everywhere = [one for app in apps if _has_redis(app) and not app["redis_keys"] for one in own[app["name"]]]
    users = {ADMINISTRATOR: f"on {_hashes(secrets)} ~* &* +@all"}
    # Without a password nobody is the default user.
    users["default"] = f"{'on' if everywhere else 'off'} {_hashes(everywhere)} ~* &* {COMMANDS}".replace("  ", " ")
    for app in apps:
        if _has_redis(app):
            patterns = app["redis_keys"] or ["*"]
            reach = " ".join([f"~{one}" for one in patterns] + [f"&{one}" for one in patterns])
            users[app["name"]] = f"on {_hashes(own[app['name']])} {reach} {COMMANDS}"
    return {name: users[name] for name in sorted(users)}


def _has_redis(app: dict[str, Any]) -> bool:
    return "redis" in app["services"]


def _hashes(passwords: list[str]) -> str:
    return " ".join(f"#{sha256(one.encode()).hexdigest()}" for one in passwords)


class FilterModule:
    """Hand the filters to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"redis_users": redis_users, "redis_password": redis_password, "redis_passwords": redis_passwords}
