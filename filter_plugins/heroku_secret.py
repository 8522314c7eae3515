"""Jinja filter heroku_secret: whether a config var belongs into the vault."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

DOCUMENTATION = r"""
name: heroku_secret
short_description: Whether a config var belongs into the vault
description:
  - A config var is a secret when its name says so (SECRET, KEY, TOKEN, PASSWORD, CREDENTIAL, DSN, AUTH and the like),
    or unless its value is plainly none.
  - Plainly none is an empty value, a switch, a number of up to nine digits, a word, a name of a host or module, an
    address of mail, a URL without user, query and long parts, a path, or several of these with commas or spaces
    between. When in doubt it is a secret.
positional: value
options:
  _input:
    description: Name of the config var.
    type: str
    required: true
  value:
    description: Its value.
    type: str
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ 'SENTRY_DSN' | heroku_secret('https://0a1b@sentry.example/1') }}"
"""

RETURN = r"""
_value:
  description: Whether it is a secret.
  type: bool
"""

SECRET_NAME = re.compile(
    r"SECRET|KEY|TOKEN|PASS|PWD|CREDENTIAL|DSN|AUTH|PRIVATE|SALT|SIGN|CERT|HOOK|LICEN[CS]E|SESSION|COOKIE|ENCRYPT|NONCE|_PIN$",
    re.IGNORECASE,
)
# A part of a name: letters, few of them with a number behind, or a number. What mixes them otherwise may be random.
PART = r"[A-Z]?[a-z]{1,20}|[A-Z]{1,20}|(?:[A-Z][a-z]{1,15}){2,3}|(?:[a-z]{1,4}|[A-Z]{1,4})\d{1,3}|\d{1,8}"
WORD = rf"\.?(?:{PART})(?:[-_.]{{1,2}}(?:{PART})){{0,7}}"
PLAIN = re.compile(
    rf"(?:https?|wss?)://{WORD}(?::\d{{1,5}})?(?:/(?:{WORD})?)*"
    rf"|{WORD}(?:\+(?:{PART}))?@{WORD}"
    rf"|(?:\*\.)?{WORD}(?::\d{{1,5}})?"
    rf"|[./~]*/?{WORD}(?:/{WORD})*/?"
    r"|\d{1,9}(?:\.\d{1,6})?|-\d{1,9}|\*|/"
)
LONG = 120


def heroku_secret(name: str, value: str) -> bool:
    """Say whether the config var is a secret."""
    if not value:
        return False
    if SECRET_NAME.search(name):
        return not re.fullmatch(r"(?i)true|false|yes|no|on|off|[01]", value)
    if len(value) > LONG or value != value.strip():
        return True
    parts = re.split(r"\s*,\s*|\s+", value)
    return not all(PLAIN.fullmatch(part) for part in parts)


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"heroku_secret": heroku_secret}
