"""Jinja filter scram_sha_256: a password as PostgreSQL stores it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from hashlib import pbkdf2_hmac, sha256
from hmac import digest

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: scram_sha_256
short_description: The SCRAM-SHA-256 verifier of a password
description:
  - Returns what PostgreSQL stores for a role's password, so that the password itself travels to no server.
  - The salt is derived from the role and the password, so that the same input gives the same verifier on every host and
    in every run. PostgreSQL and pgbouncer then hold the same verifier, which is what lets pgbouncer log in for a client
    without knowing the password.
positional: role
options:
  _input:
    description: Password, of printable ASCII characters.
    type: str
    required: true
  role:
    description: Name of the database role.
    type: str
    required: true
"""

EXAMPLES = r"""
password: "{{ vault_password | scram_sha_256('shop') }}"
"""

RETURN = r"""
_value:
  description: C(SCRAM-SHA-256$4096:salt$stored-key:server-key), RFC 5803.
  type: str
"""

ITERATIONS = 4096


def scram_sha_256(password: str, role: str) -> str:
    """Return the verifier of a role's password (RFC 5802, RFC 5803)."""
    for name, value in {"password": password, "role": role}.items():
        if not isinstance(value, str) or not value:
            raise AnsibleFilterError(f"scram_sha_256: the {name} has to be a text that is not empty")
    if not password.isascii() or not password.isprintable():
        raise AnsibleFilterError(f"scram_sha_256: the password of {role} has characters other than printable ASCII")
    secret = password.encode()
    # As costly to guess against as the verifier itself.
    salt = pbkdf2_hmac("sha256", secret, b"offramp salt " + role.encode(), ITERATIONS)[:16]
    salted = pbkdf2_hmac("sha256", secret, salt, ITERATIONS)
    stored_key = sha256(digest(salted, b"Client Key", "sha256")).digest()
    server_key = digest(salted, b"Server Key", "sha256")
    text = {name: b64encode(value).decode() for name, value in (("s", salt), ("k", stored_key), ("v", server_key))}
    return f"SCRAM-SHA-256${ITERATIONS}:{text['s']}${text['k']}:{text['v']}"


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"scram_sha_256": scram_sha_256}
