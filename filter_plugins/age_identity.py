"""Filter age_identity: the key of age that follows from a site's secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from hmac import digest
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: age_identity
short_description: The key of age that follows from a secret
description:
  - Returns an X25519 identity as C(age) takes it, in Bech32 (BIP 173), always the same of one secret.
  - So a site's vault needs one secret of random letters for all its backups, made as its others are.
options:
  _input:
    description: The secret; 32 random letters and digits or more.
    type: str
    required: true
"""

EXAMPLES = r"""
backup_age_identity: "{{ backup_cipher_key | age_identity }}"
"""

RETURN = r"""
_value:
  description: C(AGE-SECRET-KEY-1) and the rest of the key.
  type: str
"""

PREFIX = "age-secret-key-"
ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def age_identity(secret: str) -> str:
    """Return the identity in the form of age's key files."""
    if not isinstance(secret, str) or len(secret) < 32:
        raise AnsibleFilterError("age_identity: the secret has to be a text of 32 characters or more")
    groups = list(_groups_of_five(digest(secret.encode(), b"offramp backup age identity", sha256)))
    return (PREFIX + "1" + "".join(ALPHABET[group] for group in groups + _checksum(groups))).upper()


def _groups_of_five(data: bytes) -> Iterator[int]:
    bits = "".join(f"{byte:08b}" for byte in data)
    for start in range(0, len(bits), 5):
        yield int(bits[start : start + 5].ljust(5, "0"), 2)


def _checksum(groups: list[int]) -> list[int]:
    expanded = [ord(letter) >> 5 for letter in PREFIX] + [0] + [ord(letter) & 31 for letter in PREFIX]
    state = 1
    for value in [*expanded, *groups, 0, 0, 0, 0, 0, 0]:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(GENERATORS):
            state ^= generator if top >> bit & 1 else 0
    return [(state ^ 1) >> 5 * (5 - place) & 31 for place in range(6)]


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"age_identity": age_identity}
