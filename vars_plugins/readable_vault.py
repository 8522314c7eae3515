"""Say which encrypted file cannot be opened; Ansible's own message names none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.parsing.vault import AnsibleVaultError
from ansible.plugins.vars import BaseVarsPlugin

DOCUMENTATION = r"""
name: readable_vault
short_description: Names the encrypted files that the given vault password does not open
version_added: "1"
description:
  - Sets no values. It runs before M(ansible.builtin.host_group_vars), opens every encrypted file below C(group_vars)
    and C(host_vars), and refuses to go on with a list of those that stay closed, before any connection is made.
  - Has to stand before C(host_group_vars) in C(vars_plugins_enabled).
options: {}
"""

CHECKED: set[str] = set()


class VarsModule(BaseVarsPlugin):
    """Open each encrypted file once a run."""

    REQUIRES_ENABLED = True
    is_stateless = True

    def get_vars(self, loader: Any, path: str, entities: Any) -> dict[str, Any]:
        super().get_vars(loader, path, entities)
        if path not in CHECKED:
            CHECKED.add(path)
            start = Path(path) if Path(path).is_dir() else Path(path).parent
            files = (file for kind in ("group_vars", "host_vars") for file in sorted((start / kind).rglob("*")))
            closed = [str(file) for file in files if is_encrypted(file) and not opens(loader, file)]
            if closed:
                raise AnsibleParserError(message(closed))
        return {}


def is_encrypted(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(14) == b"$ANSIBLE_VAULT"


def opens(loader: Any, file: Path) -> bool:
    try:
        loader.load_from_file(str(file), cache="none", unsafe=True)
    except AnsibleVaultError:
        return False
    except AnsibleError as error:
        # A file that opens and is no YAML is for Ansible to refuse, with its line.
        return "ecrypt" not in str(error) and "vault" not in str(error).lower()
    return True


def message(closed: list[str]) -> str:
    return (
        f"{', '.join(map(short, closed))} cannot be opened: the vault password is missing or wrong, or the file is "
        "damaged. Nothing was changed and no server was contacted."
        "\nTo mend: add  --ask-vault-pass  to the command, or write the password to a file that only you can read"
        " and add  --vault-password-file <that file>  (or set ANSIBLE_VAULT_PASSWORD_FILE)."
        f"\nTo try a password: ansible-vault view {short(closed[0])}"
    )


def short(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
