from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DOCUMENTATION = r"""
name: release_lines
short_description: An app's releases as a table for people
description:
  - Returns a line for each release, the newest first, with its number, state, version, who made it and when, what for,
    and why it failed where it did.
positional: _input
options:
  _input:
    description: The releases, as the module app_releases returns them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the releases
  ansible.builtin.debug:
    msg: "{{ found.releases | release_lines }}"
"""

RETURN = r"""
_value:
  description: The lines, with columns of equal width.
  type: list
  elements: str
"""


def release_lines(releases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each release, the newest first."""
    rows = [cells(release) for release in sorted(releases, key=lambda release: -release["number"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def cells(release: Mapping[str, Any]) -> list[str]:
    reason = f" ({release['reason']})" if release.get("reason") else ""
    parts = [release[key] for key in ("state", "version", "when", "who")]
    return [f"v{release['number']}", *parts, release["what"] + reason]


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"release_lines": release_lines}
