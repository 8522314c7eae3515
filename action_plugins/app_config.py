"""Set and unset config vars of an app in the site's inventory, on the controller."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HEADER = """# Written by playbooks/config.yml: config vars by app, which go before those of the list apps.
# One without a value takes one away.
---
"""


class RefusedError(Exception):
    """A wish that cannot be fulfilled, in words for a person, without the value."""


class Plain(str):
    """A text that Ansible shall not take for a template."""

    __slots__ = ()


class Dumper(yaml.SafeDumper):
    """Writes a Plain text so that Ansible reads it back byte for byte."""


def represented(dumper: yaml.SafeDumper, text: Plain) -> yaml.Node:
    # Ansible takes the quotes of what it is to leave alone for nothing, so that "007" would become a number.
    tag = "!unsafe" if re.search(r"\{[{%#]", text) else "tag:yaml.org,2002:str"
    return dumper.represent_scalar(tag, str(text), style='"')


Dumper.add_representer(Plain, represented)


def site_directory(sources: list[str]) -> Path:
    """Return the folder of the site's inventory, the last one where there are several."""
    places = [Path(source) for source in sources if "," not in source]
    folders = [path if path.is_dir() else path.parent for path in places]
    found = [path for path in folders if (path / "group_vars/all").is_dir()]
    if not found:
        raise RefusedError("the inventory has no folder group_vars/all to write to")
    return found[-1]


def checked(app: str, config: Mapping[str, Any], wished: Mapping[str, Any], unset: list[str]) -> dict[str, str]:
    """Return the values to set, as text, or refuse by name."""
    if not isinstance(wished, Mapping) or not isinstance(unset, list) or not (wished or unset):
        raise RefusedError('say what to set or unset:  -e \'{"set": {"COLOR": "blue"}, "unset": ["SIZE"]}\'')
    values = {}
    for name, value in wished.items():
        if not NAME.fullmatch(str(name)):
            raise RefusedError(f"{name!r} is no name of a config var: letters, digits and _")
        if name == "PORT":
            raise RefusedError("PORT is given to each web process by itself")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RefusedError(f"the value of {name} is a {type(value).__name__}, and has to be text: quote it")
        if "\0" in str(value):
            raise RefusedError(f"the value of {name} holds a zero byte, which no environment can hold")
        values[str(name)] = str(value)
    for name in unset:
        if name in values:
            raise RefusedError(f"{name} is to be set and unset")
        if config.get(name) is None:
            known = ", ".join(sorted(key for key, value in config.items() if value is not None)) or "none"
            raise RefusedError(f"{app} has no config var {name}; it has {known}")
    return values


def changed_vars(
    before: Mapping[str, Any], app: str, own: Mapping[str, Any], values: Mapping[str, str], unset: list[str]
) -> dict[str, Any]:
    """Return what the file is to hold. An entry without a value takes away what the list of apps says."""
    overlay = {**before.get(app, {}), **values}
    for name in unset:
        overlay.pop(name, None)
        if name in own:
            overlay[name] = None
    after = {**before, app: overlay}
    return {name: config for name, config in after.items() if config}


def note(values: Mapping[str, str], unset: list[str]) -> str:
    parts = [f"{what} {', '.join(sorted(names))}" for what, names in (("set", values), ("unset", unset)) if names]
    return f"config: {', '.join(parts)}"


def dumped(config_vars: Mapping[str, Any]) -> str:
    content = {
        str(app): {str(name): None if value is None else Plain(value) for name, value in config.items()}
        for app, config in config_vars.items()
    }
    return HEADER + yaml.dump({"config_vars": content}, Dumper=Dumper, allow_unicode=True, width=10_000)


def write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    temporary.rename(path)


class ActionModule(ActionBase):
    """The app_config action: no part of it runs on a server."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        try:
            path = site_directory(task_vars["ansible_inventory_sources"]) / "group_vars/all/config_vars.yml"
            if self._task.args.get("state") == "restored":
                return self._restore(path, self._task.args.get("previous"), task_vars["ansible_check_mode"])
            return self._change(path, task_vars)
        except (RefusedError, OSError) as problem:
            return {"failed": True, "msg": str(problem)}

    def _change(self, path: Path, task_vars: dict[str, Any]) -> dict[str, Any]:
        arguments = self._task.args
        # As they were given: a value that looks like a template is none.
        app, wished, unset = arguments["app"], task_vars.get("set") or {}, task_vars.get("unset") or []
        own = next((one.get("config") or {} for one in arguments["apps"] if one["name"] == app), None)
        if own is None:
            names = ", ".join(one["name"] for one in arguments["apps"])
            raise RefusedError(f"say which app:  -e app=…  (this site has {names})")
        before = self._read(path)
        values = checked(app, {**own, **before.get(app, {})}, wished, unset)
        result = {"changed": False, "note": note(values, unset)}
        if arguments.get("state") == "checked":
            return result
        after = changed_vars(before, app, own, values, unset)
        previous = path.read_text(encoding="utf-8") if path.exists() else ""
        if after != before and not task_vars["ansible_check_mode"]:
            write(path, self._sealed(dumped(after)))
        return {**result, "changed": after != before, "config_vars": after, "previous": previous}

    def _read(self, path: Path) -> dict[str, dict[str, str | None]]:
        if not path.exists():
            return {}
        content = self._loader.load_from_file(str(path), cache="none", unsafe=True) or {}
        return {
            str(app): {str(name): None if value is None else str(value) for name, value in config.items()}
            for app, config in (content.get("config_vars") or {}).items()
        }

    def _sealed(self, text: str) -> str:
        """Encrypt it as the site's other secrets are, where the run has a password."""
        vault = self._loader._vault
        return vault.encrypt(text).decode() if vault.secrets else text

    @staticmethod
    def _restore(path: Path, previous: str | None, check_mode: bool) -> dict[str, Any]:
        now = path.read_text(encoding="utf-8") if path.exists() else ""
        if previous is None or previous == now or check_mode:
            return {"changed": False}
        write(path, previous) if previous else path.unlink()
        return {"changed": True}
