"""Jinja filter apps_text: the list of apps with one entry more, as text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: apps_text
short_description: The list of apps with one entry more, as text
description:
  - Adds an entry at the end of the list C(apps), or sets the keys of the one that has the same name.
  - Comments, order and all that the entry does not say stay as they are.
positional: entry
options:
  _input:
    description: Text of the file that holds C(apps), or nothing yet.
    type: str
    required: true
  entry:
    description: The entry.
    type: dict
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('ansible.builtin.file', 'apps.yml') | apps_text({'name': 'shop', 'source': '/srv/shop'}) }}"
"""

RETURN = r"""
_value:
  description: The new text.
  type: str
"""


# Ansible loads a filter by its path under a name of its own: the one beside it is found by the directory.
sys.path.append(str(Path(__file__).parent))
_yaml = import_module("yaml_put")


def apps_text(text: str, entry: Mapping[str, Any]) -> str:
    """Return the text with the entry in its list of apps."""
    apps = _apps(text)
    names = [item.get("name") if isinstance(item, dict) else None for item in apps]
    if entry["name"] not in names:
        return str(_yaml.yaml_put(text, ["apps", len(apps)], dict(entry)))
    index = names.index(entry["name"])
    for key, value in entry.items():
        if key == "config" and isinstance(apps[index].get("config"), dict):
            for name, setting in value.items():
                text = _yaml.yaml_put(text, ["apps", index, key, name], setting)
        else:
            text = _yaml.yaml_put(text, ["apps", index, key], value)
    return text


def _apps(text: str) -> list[Any]:
    found = _yaml.AnyTag(text).get_single_data() or {}
    apps = found.get("apps") if isinstance(found, dict) else None
    if not isinstance(apps or [], list):
        raise AnsibleFilterError("apps is no list: write each app as an item of its own, - name: shop")
    return apps or []


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"apps_text": apps_text}
