"""Filter sandboxed: a unit's own lines, after those that keep it in the sandbox of all services."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: sandboxed
short_description: A unit's own lines, after those that keep it in the sandbox of all services
description:
  - Returns the lines that the module C(unit) gives every service, and after them the given ones, which win.
  - For a unit that a timer starts. One that is kept up has them from the module.
options:
  _input:
    description: Lines of a unit's Service section, by which it opens what it needs.
    type: str
    required: true
"""

EXAMPLES = r"""
- content: "[Service]\nType=oneshot\nExecStart=/usr/local/sbin/look\n{{ 'ReadWritePaths=/var/lib/look' | sandboxed }}"
  path: /etc/systemd/system/look.service
"""

RETURN = r"""
_value:
  description: Lines of the Service section.
  type: str
"""

# Ansible loads a filter by its path under a name of its own: what it shares with the modules is found by the directory.
sys.path.append(str(Path(__file__).parents[1] / "module_utils"))
_SANDBOX = import_module("sandbox").SANDBOX


def sandboxed(opened: str) -> str:
    """Return the sandbox, and after it what a unit opens of it."""
    if not isinstance(opened, str):
        raise AnsibleFilterError(f"sandboxed: lines of a unit are a text, and not {opened!r}")
    return f"{_SANDBOX}{opened.strip()}\n"


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"sandboxed": sandboxed}
