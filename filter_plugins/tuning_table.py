from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: tuning_table
short_description: A database host's settings and memory as a table for a terminal
description:
  - Sets side by side what each setting is by the server's default, by the calculator, by us and in the running server,
    with the reason, and says what is your own, what waits for a restart and what is otherwise not in force.
  - A value of the running server is written as a person writes it, C(128MB) and not C(16384) units of 8 kB.
  - Below stand the parts of the host's memory and those of the server's part.
positional: _input
options:
  _input:
    description:
      - What is known of the host.
    type: dict
    required: true
    suboptions:
      host:
        description: Name of the host.
        type: str
        required: true
      version:
        description: Major version of PostgreSQL.
        type: int
        required: true
      settings:
        description: The settings, as C(settings) of P(postgresql_settings#filter).
        type: list
        elements: dict
        required: true
      running:
        description:
          - Rows of C(pg_settings) of the running server with C(name), C(setting), C(unit), C(boot_val), C(source) and
            C(pending_restart). Those of settings that are not ours are left out. An empty list where no server runs.
        type: list
        elements: dict
        required: true
      memory:
        description: Where the server's part goes, as C(memory) of P(postgresql_settings#filter).
        type: list
        elements: dict
        required: true
      budget:
        description: The host's memory, as P(memory_budget#filter) returns it. C(parts) and C(total_mib) are read.
        type: dict
        required: true
      warnings:
        description: What to heed, one sentence each.
        type: list
        elements: str
        required: true
      huge_pages:
        description: A sentence on huge pages, or nothing.
        type: str
        required: true
  width:
    description:
      - Columns that no line passes, from 80 to 1000.
    type: int
    default: 112
seealso:
  - plugin: tuning_page
    plugin_type: filter
    description: The same to look at.
  - plugin: postgresql_settings
    plugin_type: filter
    description: The settings and their reasons.
"""

EXAMPLES = r"""
- name: Show the settings of a host of 4 GiB before there is a server
  vars:
    budget: "{{ 4096 | memory_budget(2, services=['postgresql', 'redis']) }}"
    tuned: "{{ budget.postgresql_mib | postgresql_settings(cpus=2, pools=40, host_mib=4096) }}"
    tuning:
      host: "{{ inventory_hostname }}"
      version: 17
      settings: "{{ tuned.settings }}"
      running: []
      memory: "{{ tuned.memory }}"
      budget: "{{ budget }}"
      warnings: "{{ tuned.warnings }}"
      huge_pages: ""
  ansible.builtin.debug:
    msg: "{{ tuning | tuning_table }}"
"""

RETURN = r"""
_value:
  description:
    - Lines of text without a blank at their ends. A mark before a setting is explained below the table.
  type: str
"""

# Powers of what PostgreSQL calls a unit, in bytes and in microseconds.
BYTES = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
TIMES = {"us": 1, "ms": 10**3, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
NUMBER = r"-?\d+(?:\.\d+)?"
ON = ("on", "true", "t", "yes", "y", "1")
OFF = ("off", "false", "f", "no", "n", "0")
# A server that reads wal_compression = on shows the method that it stands for.
SHOWN_FOR_ON = ("on", "pglz")
# The server chose these itself, all others somebody did.
CHOSEN_BY_SERVER = ("default", "override")
FILE = "configuration file"
NO_VALUE = "-"
NO_SERVER = "No server runs here yet, so that its defaults and running values are not known."

GAP = "  "
# By how many MiB a sum of rounded parts may be off.
ROUNDED = 1
WIDEST_NAME = 34
WIDEST_VALUE = 16
# A narrower reason goes below its setting.
REASON_BESIDE = 40
INDENTED = {"initial_indent": " " * 8, "subsequent_indent": " " * 8, "break_on_hyphens": False}
BAR = 32

Kinds = dict[str, tuple[str, Callable[[Any], bool]]]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**40


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


TEXT = ("text", _is_text)
TEXT_OR_NULL = ("text or null", lambda value: value is None or _is_text(value))
FLAG = ("true or false", lambda value: isinstance(value, bool))
LIST = ("a list", _is_list)
MIB = ("a number of MiB", _is_size)
UNIT = ("a unit such as 8kB, or null", lambda value: value is None or (_is_text(value) and _base(value) is not None))
VERSION = ("a whole number from 10", lambda value: _is_size(value) and isinstance(value, int) and value >= 10)

TUNING: Kinds = {
    "host": TEXT,
    "version": VERSION,
    "settings": LIST,
    "running": LIST,
    "memory": LIST,
    "budget": ("a mapping", lambda value: isinstance(value, Mapping)),
    "warnings": LIST,
    "huge_pages": TEXT,
}
SETTING: Kinds = {"name": TEXT, "value": TEXT, "pgtune": TEXT, "reason": TEXT, "own": FLAG}
RUNNING: Kinds = {
    "name": TEXT,
    "setting": TEXT_OR_NULL,
    "unit": UNIT,
    "boot_val": TEXT_OR_NULL,
    "source": TEXT,
    "pending_restart": FLAG,
}
BUDGET: Kinds = {"parts": LIST, "total_mib": MIB}
PART: Kinds = {"name": TEXT, "mib": MIB, "own": FLAG, "reason": TEXT}
USE: Kinds = {"name": TEXT, "mib": MIB, "reason": TEXT}


class Row(NamedTuple):
    """One setting, as a person reads it. A value that is not there is NO_VALUE."""

    name: str
    default: str
    pgtune: str
    ours: str
    now: str
    reason: str
    own: bool
    waits: bool
    # Neither in force nor waiting.
    differs: bool
    # Who set the running value, where it was neither the server nor a file.
    source: str


class Part(NamedTuple):
    """A part of the host's memory or of the server's."""

    name: str
    mib: float
    share: float
    reason: str
    own: bool


class Report(NamedTuple):
    """What both the table and the page show."""

    host: str
    version: int
    runs: bool
    rows: list[Row]
    total_mib: float
    parts: list[Part]
    server_mib: float
    uses: list[Part]
    warnings: list[str]
    huge_pages: str

    @property
    def busy_mib(self) -> float:
        """What the server takes when all is busy: its part, or more where the user's own values come to more."""
        used = sum(use.mib for use in self.uses)
        return used if used > self.server_mib + ROUNDED else self.server_mib


def report(tuning: Mapping[str, Any]) -> Report:
    """Return what there is to show, or refuse what cannot be shown."""
    given = _checked("tuning", tuning, TUNING)
    settings = _checked_list("settings", given["settings"], SETTING)
    running = {row["name"].lower(): row for row in _checked_list("running", given["running"], RUNNING)}
    budget = _checked("budget", given["budget"], BUDGET)
    total = budget["total_mib"]
    parts = [_part(part, total) for part in _checked_list("budget.parts", budget["parts"], PART)]
    server = sum(part.mib for part in parts if part.name == "PostgreSQL")
    uses = [_part(use, server) for use in _checked_list("memory", given["memory"], USE)]
    _check_sums(total, parts, server, uses)
    for index, warning in enumerate(given["warnings"]):
        if not _is_text(warning):
            raise AnsibleFilterError(f"warnings[{index}] must be text, not {warning!r}")
    return Report(
        host=visible(given["host"]),
        version=given["version"],
        runs=bool(running),
        rows=[_row(setting, running.get(setting["name"].lower()), bool(running)) for setting in settings],
        total_mib=total,
        parts=parts,
        server_mib=server,
        uses=uses,
        warnings=[visible(warning).strip() for warning in given["warnings"]],
        huge_pages=visible(given["huge_pages"]).strip(),
    )


def _checked(where: str, value: Any, kinds: Kinds) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise AnsibleFilterError(f"{where} must be a mapping with {', '.join(kinds)}, not {value!r}")
    for key, (words, holds) in kinds.items():
        place = key if where == "tuning" else f"{where}.{key}"
        if key not in value:
            raise AnsibleFilterError(f"{place} is missing")
        if not holds(value[key]):
            raise AnsibleFilterError(f"{place} must be {words}, not {value[key]!r}")
    return value


def _checked_list(where: str, values: Sequence[Any], kinds: Kinds) -> list[Mapping[str, Any]]:
    return [_checked(f"{where}[{index}]", value, kinds) for index, value in enumerate(values)]


def _check_sums(total: float, parts: Sequence[Part], server: float, uses: Sequence[Part]) -> None:
    promised, used = sum(part.mib for part in parts), sum(use.mib for use in uses)
    if total <= 0 or abs(promised - total) > ROUNDED:
        raise AnsibleFilterError(f"budget.parts must sum to budget.total_mib, {total:g}, and not to {promised:g}")
    if server <= 0:
        raise AnsibleFilterError("budget.parts must have a part of the name postgresql")
    # More than the part is what the user's own values can come to, and then a warning says so.
    if used < server - ROUNDED:
        raise AnsibleFilterError(f"memory must sum to the part of postgresql, {server:g}, and not to {used:g}")


def _part(part: Mapping[str, Any], whole: float) -> Part:
    name = "PostgreSQL" if part["name"] == "postgresql" else visible(part["name"])
    mib = part["mib"]
    return Part(name, mib, mib / whole if whole else 0, visible(part["reason"]), part.get("own", False))


def _row(setting: Mapping[str, Any], row: Mapping[str, Any] | None, runs: bool) -> Row:
    waits = row is not None and row["pending_restart"]
    in_force = row is not None and _in_force(setting["value"], row)
    return Row(
        name=visible(setting["name"]),
        default=_written(row["boot_val"], row["unit"]) if row else NO_VALUE,
        pgtune=visible(setting["pgtune"]) or NO_VALUE,
        ours=visible(setting["value"]) or "''",
        now=_written(row["setting"], row["unit"]) if row else NO_VALUE,
        reason=visible(setting["reason"]),
        own=setting["own"],
        waits=waits,
        differs=runs and not waits and not in_force,
        source=visible(row["source"]) if row and row["source"] not in (*CHOSEN_BY_SERVER, FILE) else "",
    )


def visible(text: str) -> str:
    """Return text on one line, with whatever could steer a terminal or turn its order written out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _base(unit: str) -> tuple[int, dict[str, int]] | None:
    """Return how much a unit of pg_settings is, and the units to write it in."""
    found = re.fullmatch(r"(\d{0,9})([A-Za-z]{1,3})", unit)
    for powers in (BYTES, TIMES):
        if found and found[2] in powers:
            return int(found[1] or 1) * powers[found[2]], powers
    return None


def _written(value: str | None, unit: str | None) -> str:
    """Return a value of pg_settings as a person writes it, in the largest unit that needs no fraction."""
    base = _base(unit) if unit else None
    if base and value and re.fullmatch(NUMBER, value) and Fraction(value) > 0:
        amount = Fraction(value) * base[0]
        for name, size in reversed(base[1].items()):
            if amount % size == 0:
                return f"{amount // size}{name}"
        return f"{value}{unit}"
    return visible(value or "") or "''"


def _in_force(ours: str, row: Mapping[str, Any]) -> bool:
    if _equal(ours, row["setting"] or "", row["unit"]):
        return True
    # Such as wal_buffers = -1: the running value is the server's choice.
    return row["source"] in CHOSEN_BY_SERVER and _equal(ours, row["boot_val"] or "", row["unit"])


def _equal(ours: str, setting: str, unit: str | None) -> bool:
    """Return whether the server, reading our value, shows this one."""
    if ours == setting:
        return True
    word = ours.strip().lower()
    if (setting in SHOWN_FOR_ON and word in ON) or (setting == "off" and word in OFF):
        return True
    if re.fullmatch(r"[a-z][a-z0-9_]*", setting):
        return word == setting
    mine, its = _amount(ours, unit), _amount(setting, unit)
    return mine is not None and its is not None and abs(mine - its) <= _rounding(mine, its, unit)


def _amount(value: str, unit: str | None) -> Fraction | None:
    """Return a number in a setting's base unit, which is also that of a number without a unit."""
    found = re.fullmatch(rf"\s*({NUMBER})\s*([A-Za-z]*)\s*", value)
    if not found or (found[2] and not unit):
        return None
    base, powers = (_base(unit) if unit else None) or (1, {})
    if found[2] and found[2] not in powers:
        return None
    return Fraction(found[1]) * (Fraction(powers[found[2]], base) if found[2] else 1)


def _rounding(mine: Fraction, its: Fraction, unit: str | None) -> Fraction:
    # What is counted in milliseconds or in nothing may be a fraction, of which the server shows six digits.
    if unit not in (None, "ms"):
        return Fraction(1) - Fraction(1, 10**9)
    return Fraction(0) if mine.denominator == its.denominator == 1 else abs(mine) / 10**5


def size_in_words(mib: float) -> str:
    """Return an amount of memory as a person writes it."""
    if mib >= 10 * 1024:
        return f"{mib / 1024:.1f}".removesuffix(".0") + " GiB"
    return f"{mib:.0f} MiB" if mib >= 10 or mib == int(mib) else f"{mib:.1f} MiB"


def percent(share: float) -> str:
    """Return a share in per cent, and never 0 for what is there."""
    return "< 1 %" if 0 < share < 0.01 else f"{share * 100:.0f} %"


def headline(shown: Report) -> str:
    """Return what the host is, in a line."""
    part, whole = size_in_words(shown.server_mib), size_in_words(shown.total_mib)
    return f"PostgreSQL {shown.version} has {part} of {whole} of memory"


def remarks(shown: Report) -> list[tuple[str, str, str]]:
    """Return mark, meaning and settings of whatever is remarkable."""
    own = [row.name for row in shown.rows if row.own]
    waiting = [row.name for row in shown.rows if row.waits]
    differing = [f"{row.name} ({row.source})" if row.source else row.name for row in shown.rows if row.differs]
    return [
        (mark, meaning, ", ".join(names))
        for mark, meaning, names in (
            ("*", "your own", own),
            ("!", "waits for a restart", waiting),
            ("~", "not in force: the server runs with another value", differing),
        )
        if names
    ]


def tuning_table(tuning: Mapping[str, Any], width: int = 112) -> str:
    """Return a host's settings and memory as text."""
    if not isinstance(width, int) or isinstance(width, bool) or not 80 <= width <= 1000:
        raise AnsibleFilterError(f"width must be a whole number from 80 to 1000, not {width!r}")
    shown = report(tuning)
    title = f"{shown.host}: {headline(shown)}"
    blocks = [
        _filled(title, width),
        _settings(shown, width),
        [line for mark, meaning, names in remarks(shown) for line in _filled(f"{mark} {meaning}: {names}", width)],
        _filled("" if shown.runs else NO_SERVER, width),
        _memory(f"The host's {size_in_words(shown.total_mib)}", shown.parts, width),
        _memory(f"PostgreSQL's {size_in_words(shown.server_mib)}, when all is busy at once", shown.uses, width),
        _filled(f"Huge pages: {shown.huge_pages}" if shown.huge_pages else "", width),
        [line for warning in shown.warnings for line in _filled(f"Warning: {warning}", width)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)


def _settings(shown: Report, width: int) -> list[str]:
    names = ["default", "pgtune", "ours", "now"] if shown.runs else ["pgtune", "ours"]
    header = ["", "setting", *names]
    rows = [header, _rule(header), *(_values(row, shown.runs) for row in shown.rows)]
    reasons = ["why", _rule(["", "why"])[1], *(row.reason for row in shown.rows)]
    widths, rest = _widths(rows, [2, WIDEST_NAME, *(WIDEST_VALUE for _ in names)], width)
    if rest >= REASON_BESIDE:
        return _grid([[*row, reason] for row, reason in zip(rows, reasons, strict=True)], [*widths, rest])
    reasons[:2] = ["", ""]
    return [
        line
        for row, reason in zip(rows, reasons, strict=True)
        for line in (*_grid([row], widths), *textwrap.wrap(reason, width, **INDENTED))
    ]


def _values(row: Row, runs: bool) -> list[str]:
    mark = ("*" if row.own else "") + ("!" if row.waits else "~" if row.differs else "")
    return [mark, row.name, *([row.default, row.pgtune, row.ours, row.now] if runs else [row.pgtune, row.ours])]


def _rule(header: Sequence[str]) -> list[str]:
    return ["-" * len(name) for name in header]


def _memory(title: str, parts: Sequence[Part], width: int) -> list[str]:
    whole = sum(part.share for part in parts)
    rows = [
        [
            part.name,
            size_in_words(part.mib).rjust(9),
            percent(part.share).rjust(6),
            "#" * max(round(part.share / whole * BAR), 1 if part.mib else 0),
            f"your own: {part.reason}" if part.own else part.reason,
        ]
        for part in parts
    ]
    widths, rest = _widths([row[:-1] for row in rows], [WIDEST_NAME, 9, 9, BAR], width)
    return [*_filled(title, width), *_grid(rows, [*widths, rest])]


def _widths(rows: Sequence[Sequence[str]], widest: Sequence[int], width: int) -> tuple[list[int], int]:
    """Return the widths of columns, and what they leave of a line for one more."""
    columns = zip(*rows, strict=True)
    widths = [min(max(1, *map(len, column)), most) for column, most in zip(columns, widest, strict=True)]
    while (rest := width - sum(widths) - len(GAP) * len(widths)) < 0:
        widths[widths.index(max(widths))] -= 1
    return widths, rest


def _grid(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Return rows, each cell on as many lines as it needs."""
    return [line for row in rows for line in _lines(row, widths)]


def _lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [textwrap.wrap(cell, wide, break_on_hyphens=False) or [""] for cell, wide in zip(row, widths, strict=True)]
    height = max(len(cell) for cell in cells)
    padded = [[*cell, *[""] * (height - len(cell))] for cell in cells]
    return [
        GAP.join(text.ljust(wide) for text, wide in zip(line, widths, strict=True)).rstrip()
        for line in zip(*padded, strict=True)
    ]


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"tuning_table": tuning_table}
