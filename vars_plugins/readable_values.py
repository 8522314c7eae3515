"""Say which files of values cannot be read, and at which line; Ansible's own messages name neither."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.plugins.vars import BaseVarsPlugin

DOCUMENTATION = r"""
name: readable_values
short_description: Names the files below group_vars and host_vars that cannot be read
version_added: "1"
description:
  - Sets no values. It opens every file below C(group_vars) and C(host_vars) and refuses to go on with a list of those
    that the vault password does not open or that are no YAML, before any connection is made.
  - Has to stand before C(host_group_vars) in C(vars_plugins_enabled), which gives up at the first such file, without
    its name.
options: {}
"""

CHECKED: set[str] = set()


class VarsModule(BaseVarsPlugin):
    """Open each file once a run."""

    REQUIRES_ENABLED = True
    is_stateless = True

    def get_vars(self, loader: Any, path: str, entities: Any) -> dict[str, Any]:
        super().get_vars(loader, path, entities)
        if path not in CHECKED:
            CHECKED.add(path)
            start = Path(path) if Path(path).is_dir() else Path(path).parent
            files = [file for kind in ("group_vars", "host_vars") for file in sorted((start / kind).rglob("*"))]
            faults = [fault(loader, start, file) for file in files if file.suffix in ("", ".yml", ".yaml", ".json")]
            found = [text for text in faults if text]
            if found:
                count = "1 file" if len(found) == 1 else f"{len(found)} files"
                raise AnsibleParserError(f"{count} cannot be read. Nothing was changed.\n" + "\n".join(found))
        return {}


def fault(loader: Any, site: Path, file: Path) -> str | None:
    """Return why a file cannot be read, and what mends it."""
    if not file.is_file() or file.name.startswith("."):
        return None
    try:
        # Without the cache: what host_group_vars finds there it takes as its own, and it reads in another way.
        loader.load_from_file(str(file), cache="none", unsafe=True)
    except AnsibleError as error:
        with file.open("rb") as stream:
            encrypted = stream.read(14) == b"$ANSIBLE_VAULT"
        if encrypted and ("vault" in str(error).lower() or "decrypt" in str(error).lower()):
            return (
                f"{short(file)}: the vault password is missing or wrong, or the file is damaged\n"
                f"   To mend: {mending(site)}\n   To try a password: ansible-vault view {short(file)}"
            )
        line = getattr(getattr(error, "obj", None), "line_num", None)
        place = f"{short(file)}:{line}" if line else short(file)
        reason = str(getattr(error, "message", error)).removeprefix("YAML parsing failed: ").splitlines()[0]
        return f"{place}: {reason}\n   To mend: correct that line, or the one before it; YAML indents with spaces only"
    return None


def mending(site: Path) -> str:
    # Where script/secrets keeps the password that it makes.
    made = Path(f".vault-password-{site.resolve().name}")
    if made.is_file():
        return f"run  export ANSIBLE_VAULT_PASSWORD_FILE={made}"
    return (
        "add  --ask-vault-pass  to the command, or write the password to a file that only you can read"
        " and run  export ANSIBLE_VAULT_PASSWORD_FILE=<that file>"
    )


def short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
