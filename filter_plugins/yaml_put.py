"""Jinja filter yaml_put: one value of a YAML file set, and every other line of it left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: yaml_put
short_description: Set one value in the text of a YAML file, and leave every other line alone
description:
  - Comments, order and quoting of what is not touched stay as they are, which no dump of the whole file would keep.
  - A mapping that stands between braces takes only what fits on its line.
positional: path, value
options:
  _input:
    description: Text of a YAML file that holds a mapping, or nothing yet.
    type: str
    required: true
  path:
    description: Keys and positions that lead to the value. A key that is not there is added at the end of its mapping.
    type: list
    elements: raw
    required: true
  value:
    description: The value, of strings, numbers, lists and mappings. A list is written between brackets.
    type: raw
    required: true
  rendered:
    description: The value is YAML text already, such as an encrypted value.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the file with one app more
  ansible.builtin.debug:
    msg: "{{ lookup('ansible.builtin.file', 'apps.yml') | yaml_put(['apps', 1, 'version'], 'v2') }}"
"""

RETURN = r"""
_value:
  description: The new text.
  type: str
"""

PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./:-]*[A-Za-z0-9_/-]|[A-Za-z]")


class AnyTag(yaml.SafeLoader):
    """Reads a value whatever its tag: only whether two values are equal is asked."""


AnyTag.add_multi_constructor("!", lambda _loader, tag, node: (tag, str(node.value)))


def yaml_put(text: str, path: list[Any], value: Any, rendered: bool = False) -> str:
    """Return the text with the value set."""
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    root = yaml.compose("".join(lines), Loader=AnyTag)
    if root is None:
        return "".join(lines) + "".join(added(path, value, rendered, 0))
    return "".join(put(lines, root, path, value, rendered))


def put(lines: list[str], node: yaml.Node, path: list[Any], value: Any, rendered: bool) -> list[str]:
    key, rest = path[0], path[1:]
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int):
        return put_item(lines, node, key, rest, value, rendered)
    if not isinstance(node, yaml.MappingNode):
        raise AnsibleFilterError(f"line {node.start_mark.line + 1}: expected names with values, to set {path[0]} there")
    found = next((pair for pair in node.value if pair[0].value == str(key)), None)
    if node.flow_style:
        return put_in_braces(lines, node, found, path, value, rendered)
    column = node.start_mark.column
    if found is None:
        line = last_line(lines, node) + 1
        return lines[:line] + added(path, value, rendered, column) + lines[line:]
    if rest and not is_empty(found[1]):
        return put(lines, found[1], rest, value, rendered)
    if not rest and not rendered and same(found[1], value):
        return lines
    return replaced(lines, found, path, value, rendered, column)


def put_item(lines: list[str], node: yaml.Node, index: int, rest: list[Any], value: Any, rendered: bool) -> list[str]:
    if index < len(node.value):
        if not rest:
            raise AnsibleFilterError("an item of a list is set key by key")
        return put(lines, node.value[index], rest, value, rendered)
    if node.flow_style:
        raise AnsibleFilterError(
            f"line {node.start_mark.line + 1}: the list stands between brackets; write each item on lines of its own"
        )
    column = node.start_mark.column
    line = last_line(lines, node) + 1
    # What is indented below the last item is about that item.
    while line < len(lines) and re.match(r" *#", lines[line]) and indentation(lines[line]) > column:
        line += 1
    return lines[:line] + added([index, *rest], value, rendered, column) + lines[line:]


def put_in_braces(
    lines: list[str], node: yaml.Node, found: Any, path: list[Any], value: Any, rendered: bool
) -> list[str]:
    if found and path[1:] and not is_empty(found[1]):
        return put(lines, found[1], path[1:], value, rendered)
    if rendered and "\n" in str(value):
        raise AnsibleFilterError(
            f"line {node.start_mark.line + 1}: what stands between braces takes one line; write it on lines of its own"
        )
    for key in reversed(path[1:]):
        value = {key: value}
    shown = str(value) if rendered else inline(value)
    if found:
        begin, end = found[1].start_mark, found[1].end_mark
        return cut(lines, begin, end, shown)
    comma = ", " if node.value else ""
    last = node.value[-1][1].end_mark if node.value else node.start_mark
    column = last.column if node.value else last.column + 1
    line = lines[last.line]
    lines[last.line] = f"{line[:column]}{comma}{scalar(str(path[0]))}: {shown}{line[column:]}"
    return lines


def cut(lines: list[str], begin: Any, end: Any, shown: str) -> list[str]:
    whole = lines[begin.line][: begin.column] + shown + lines[end.line][end.column :]
    return [*lines[: begin.line], whole, *lines[end.line + 1 :]]


def replaced(lines: list[str], pair: Any, path: list[Any], value: Any, rendered: bool, column: int) -> list[str]:
    key, old = pair
    begin, end = key.start_mark.line, max(key.end_mark.line, last_line(lines, old))
    new = added(path, value, rendered, column)
    # The first key of an item stands behind its dash.
    new[0] = lines[begin][:column] + new[0][column:]
    remark = re.search(r"\s+#.*$", lines[end][old.end_mark.column :].rstrip("\n")) if begin == end else None
    if remark and len(new) == 1:
        new[0] = new[0].rstrip("\n") + remark.group() + "\n"
    return lines[:begin] + new + lines[end + 1 :]


def added(path: list[Any], value: Any, rendered: bool, column: int) -> list[str]:
    """Return the lines of one key, with the mappings that lead to it."""
    key, rest, gap = path[0], path[1:], " " * column
    if isinstance(key, int):
        inner = added(rest, value, rendered, column + 2) if rest else block(value, column + 2)
        return [f"{gap}- {inner[0].lstrip()}", *inner[1:]]
    if rest:
        deeper = column + 2 if isinstance(rest[0], str) or column == 0 else column
        return [f"{gap}{scalar(key)}:\n", *added(rest, value, rendered, deeper)]
    if rendered:
        first, *others = str(value).splitlines()
        return [f"{gap}{scalar(key)}: {first}\n", *(f"{gap}  {line.strip()}\n" for line in others)]
    if isinstance(value, dict) and value and not all(isinstance(item, int) for item in value.values()):
        return [f"{gap}{scalar(key)}:\n", *block(value, column + 2)]
    return [f"{gap}{scalar(key)}: {inline(value)}\n"]


def block(value: dict[str, Any], column: int) -> list[str]:
    return [line for key, item in value.items() for line in added([key], item, False, column)]


def inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(str(key))}: {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(inline(item) for item in value) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    if PLAIN.fullmatch(value) and ": " not in value and yaml.safe_load(value) == value:
        return value
    dumped = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf"))
    return dumped.removesuffix("\n").removesuffix("\n...")


def same(node: yaml.Node, value: Any) -> bool:
    return AnyTag("").construct_document(node) == value


def is_empty(node: yaml.Node) -> bool:
    return node.value in ("", "~", "null", [])


def last_line(lines: list[str], node: yaml.Node) -> int:
    """Return the last line that holds a part of a node; its own end mark may be behind comments that follow."""
    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        item = node.value[-1]
        parts = item if isinstance(item, tuple) else (item,)
        return max(last_line(lines, part) for part in parts)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return end_of_block(lines, node)
    return node.end_mark.line


def end_of_block(lines: list[str], node: yaml.Node) -> int:
    end = min(node.end_mark.line if node.end_mark.column == 0 else node.end_mark.line - 1, len(lines))
    inside = next((line for line in lines[node.start_mark.line + 1 :] if line.strip()), "")
    last = node.start_mark.line
    for number in range(last + 1, end + 1):
        if number < len(lines) and lines[number].strip() and indentation(lines[number]) >= indentation(inside):
            last = number
    return last


def indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"yaml_put": yaml_put}
