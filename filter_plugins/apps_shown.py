"""Jinja filter apps_shown: the file of a site's apps, fit to be shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

DOCUMENTATION = r"""
name: apps_shown
short_description: The file of a site's apps, fit to be shown
description:
  - Returns the text with each config var that P(heroku_secret#filter) takes for a secret covered, and with each
    password in the URL of a source. What refers to the vault stays.
options:
  _input:
    description: Text of the file that holds C(apps), or nothing yet.
    type: str
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('ansible.builtin.file', 'apps.yml') | apps_shown }}"
"""

RETURN = r"""
_value:
  description: The text, with C((secret)) in place of each.
  type: str
"""

# Ansible loads a filter by its path under a name of its own: the one beside it is found by the directory.
sys.path.append(str(Path(__file__).parent))
_yaml = import_module("yaml_put")
_heroku_secret = import_module("heroku_secret").heroku_secret
_without_password = import_module("heroku_app").without_password
COVER = "(secret)"


def apps_shown(text: str) -> str:
    """Return the text without what is secret in it."""
    root = yaml.compose(text, Loader=_yaml.AnyTag)
    for node in sorted(_secrets(root), key=lambda node: -node.start_mark.index):
        start, end = node.start_mark.index, node.end_mark.index
        # A block of lines ends where the next key begins.
        text = text[:start] + COVER + text[start + len(text[start:end].rstrip()) :]
    return str(_without_password(text))


def _secrets(root: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    apps = next((value for key, value in _pairs(root) if key == "apps"), None)
    for app in apps.value if isinstance(apps, yaml.SequenceNode) else ():
        config = next((value for key, value in _pairs(app) if key == "config"), None)
        for name, value in _pairs(config):
            if isinstance(value, yaml.ScalarNode) and "{{" not in value.value and _heroku_secret(name, value.value):
                yield value


def _pairs(node: Any) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        yield str(key.value), value


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"apps_shown": apps_shown}
