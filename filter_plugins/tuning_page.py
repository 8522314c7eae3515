from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from html import escape
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

DOCUMENTATION = r"""
name: tuning_page
short_description: A database host's settings and memory as a page to look at
description:
  - Shows what P(tuning_table#filter) shows as one HTML page, with a picture of the host's memory and below it the
    server's part opened up. All that the picture shows stands in a table too.
  - The page loads nothing and runs no script. It follows the reader's choice of light or dark, fits a phone and prints.
  - Colours are those of Okabe and Ito, which colour-blind people can tell apart, and each part has a number as well.
positional: _input
options:
  _input:
    description:
      - What is known of the host, as for P(tuning_table#filter).
    type: dict
    required: true
seealso:
  - plugin: tuning_table
    plugin_type: filter
    description: The same for a terminal, and what the input is made of.
"""

EXAMPLES = r"""
- name: Write the page
  ansible.builtin.copy:
    content: "{{ tuning | tuning_page }}"
    dest: "{{ inventory_hostname }}.html"
    mode: "0644"
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description:
    - The page, which is well-formed XML too.
  type: str
"""


# Ansible loads a filter by its path under a name of its own: the one beside it is found by the directory.
sys.path.append(str(Path(__file__).parent))
_table = import_module("tuning_table")

# Colour, and whether white can be read on it.
COLOURS = {
    "system": ("#c6c6c6", False),
    "PostgreSQL": ("#0072b2", True),
    "redis": ("#d55e00", False),
    "haproxy": ("#772200", True),
    "memcached": ("#e69f00", False),
    "nginx": ("#009e73", False),
    "pgbouncer": ("#56b4e9", False),
    "supervisor": ("#cc79a7", False),
    "huge pages": ("#4d4d4d", True),
    "free": ("#f5f5f2", False),
}
APPS = "apps"
APPS_COLOUR = ("#f0e442", False)
USE_COLOURS = {
    "shared memory": ("#0072b2", True),
    "page tables": ("#cc79a7", False),
    "processes": ("#c6c6c6", False),
    "queries": ("#e69f00", False),
    "autovacuum": ("#009e73", False),
    "maintenance": ("#d55e00", False),
    "page cache": ("#f5f5f2", False),
}

# Pixels, at the narrowest phone and from where the style says wide.
NARROW = 300
WIDE = 640
LETTER = 8
# Longer ones may be broken.
LONGEST_NAME = 36
LONGEST_VALUE = 16
KEY = 24
TOP = 36
BAR = 56
GAP = 44
BOTTOM = 36

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2024; --soft: #57606a; --line: #d0d7de; --panel: #f6f8fa;
  --waits: #8a4600; --differs: #0550ae; --own: #5a2d82; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181d; --ink: #e6e9ec; --soft: #9ba5b0; --line: #3a434d; --panel: #1d232a;
    --waits: #ffb366; --differs: #80bfff; --own: #d3aef0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 75rem; padding: 1.5rem 1rem 3rem; background: var(--page); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.8rem; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; }
p { margin: .3rem 0 .6rem; max-width: 60rem; }
.soft { color: var(--soft); }
.notes { margin: 1rem 0; padding: 0; list-style: none; }
.notes li { margin: .4rem 0; padding: .5rem .8rem; border-left: 4px solid var(--line); background: var(--panel);
  overflow-wrap: anywhere; }
.notes .waits, .notes .warning { border-color: var(--waits); }
.notes .differs { border-color: var(--differs); }
.notes .own { border-color: var(--own); }
svg.memory { display: block; width: 100%; overflow: visible; font: 600 14px system-ui, sans-serif; }
.key { text-anchor: middle; font-size: 13px; fill: var(--ink); }
.name { text-anchor: middle; }
.lead { stroke: var(--soft); }
.frame { fill: none; stroke: var(--soft); }
.cut { stroke: var(--page); stroke-width: 2; }
.opened { fill: #0072b2; fill-opacity: .25; }
.limit { stroke: var(--ink); stroke-width: 3; stroke-dasharray: 5 3; }
table { width: 100%; border-collapse: collapse; font-size: .93rem; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  font-weight: 400; }
thead th { color: var(--soft); border-bottom: 2px solid var(--line); }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.both { display: grid; gap: 0 2.5rem; align-items: start; }
@media (min-width: 60rem) { .both { grid-template-columns: 5fr 6fr; } }
.both section { min-width: 0; }
.swatch { display: inline-block; min-width: 1.6rem; margin-right: .5rem; border: 1px solid var(--soft);
  border-radius: .2rem; text-align: center; font-size: .8rem; font-weight: 600; }
code { font: .9em ui-monospace, monospace; white-space: nowrap; }
code.long { display: inline-block; min-width: 9rem; max-width: 15rem; white-space: normal; overflow-wrap: anywhere; }
.parts th { white-space: nowrap; }
.narrow { display: none; }
.ours code { font-weight: 700; }
.mark { display: inline-block; margin: .1rem .4rem .1rem 0; padding: 0 .45rem; border: 1px solid; border-radius: .8rem;
  font-size: .8rem; white-space: nowrap; }
.mark.waits { color: var(--waits); }
.mark.differs { color: var(--differs); }
.mark.own { color: var(--own); }
@media (max-width: 639px) {
  .wide { display: none; }
  .narrow { display: inline; }
  .settings thead { display: none; }
  .settings tr { display: grid; grid-template-columns: 1fr 1fr; padding: .7rem 0;
    border-bottom: 1px solid var(--line); }
  .settings th, .settings td { padding: .1rem 0; border: 0; }
  .settings th, .settings .why { grid-column: 1 / -1; }
  .settings th code { font-weight: 700; font-size: 1rem; }
  .settings td[data-label]::before { content: attr(data-label) ' '; color: var(--soft); }
  .parts tr { display: grid; grid-template-columns: 1fr auto 3.7rem; border-bottom: 1px solid var(--line); }
  .parts th, .parts td { padding: .25rem 0; border: 0; white-space: normal; overflow-wrap: anywhere; }
  .parts .why { grid-column: 1 / -1; padding: 0 0 .4rem 2.1rem; color: var(--soft); }
  .parts thead .why { display: none; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --panel: #fff; --waits: #8a4600;
    --differs: #0550ae; --own: #5a2d82; }
  html { font-size: 11px; }
  body { padding: 0; }
  svg, .swatch { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  tr, svg, .notes li { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""


class Segment(NamedTuple):
    """A part of a bar. Positions are per cent of the picture's width."""

    name: str
    key: str
    left: float
    right: float
    colour: tuple[str, bool]

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2


def tuning_page(tuning: Mapping[str, Any]) -> str:
    """Return a page on a host's settings and memory."""
    shown = _table.report(tuning)
    promised = shown.busy_mib / shown.server_mib
    host = _segments([(_in_picture(part.name), part.share, _colour(part.name)) for part in shown.parts], "1")
    server = _segments([(use.name, use.share / promised, _use_colour(use.name)) for use in shown.uses], "a")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>{escape(shown.host)}: memory and settings of PostgreSQL</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(shown.host)}</h1>
<p class="soft">{escape(_table.headline(shown))}.</p>
{_notes(shown)}
<h2>Who has the memory of {escape(shown.host)}</h2>
<p class="soft">Above the whole host, below it PostgreSQL's part opened up: where it goes when all is busy at
once.{" It would take more than its part, which ends at the dashed line." if promised > 1 else ""}</p>
{_picture(host, server, 1 / promised, shown)}
<div class="both">
<section>
<h2>The host's {_table.size_in_words(shown.total_mib)}</h2>
{_parts_table(shown.parts, host, _in_picture, _colour)}
</section>
<section>
<h2>PostgreSQL's {_table.size_in_words(shown.server_mib)} when all is busy</h2>
{_parts_table(shown.uses, server, str, _use_colour)}
</section>
</div>
<h2>Settings</h2>
{_settings_table(shown)}
</body>
</html>
"""


def _in_picture(name: str) -> str:
    return name if name in COLOURS else APPS


def _colour(name: str) -> tuple[str, bool]:
    return COLOURS.get(name, APPS_COLOUR)


def _use_colour(name: str) -> tuple[str, bool]:
    return USE_COLOURS.get(name, APPS_COLOUR)


def _segments(shares: Sequence[tuple[str, float, tuple[str, bool]]], first_key: str) -> list[Segment]:
    """Return the parts that can be seen, side by side, each with a key that also stands in the table."""
    summed: dict[str, float] = {}
    colours = {}
    for name, share, colour in shares:
        summed[name] = summed.get(name, 0) + share
        colours[name] = colour
    whole = sum(summed.values())
    segments: list[Segment] = []
    left = 0.0
    for name, share in summed.items():
        if share > 0:
            key = chr(ord(first_key) + len(segments)) if first_key.isalpha() else str(int(first_key) + len(segments))
            right = left + share / whole * 100
            segments.append(Segment(name, key, left, right, colours[name]))
            left = right
    return segments


def _notes(shown: Any) -> str:
    kinds = {"*": "own", "!": "waits", "~": "differs"}
    items = [("warning", "Warning", warning) for warning in shown.warnings]
    items += [(kinds[mark], meaning, names) for mark, meaning, names in _table.remarks(shown)]
    if shown.huge_pages:
        items.append(("pages", "Huge pages", shown.huge_pages))
    lines = [f'<li class="{kind}"><b>{_capital(title)}:</b> {escape(text)}</li>' for kind, title, text in items]
    if not shown.runs:
        lines.append(f"<li>{_table.NO_SERVER}</li>")
    return f'<ul class="notes">\n{"".join(lines)}\n</ul>' if lines else ""


def _capital(text: str) -> str:
    return escape(text[:1].upper() + text[1:])


def _picture(host: Sequence[Segment], server: Sequence[Segment], limit: float, shown: Any) -> str:
    opened = next(segment for segment in host if segment.name == "PostgreSQL")
    below = TOP + BAR + GAP
    height = below + BAR + BOTTOM
    funnel = (
        f'<svg x="0" y="{TOP + BAR}" width="100%" height="{GAP}" viewBox="0 0 100 1" preserveAspectRatio="none">'
        f'<polygon class="opened" points="{opened.left:.4f},0 {opened.right:.4f},0 {limit * 100:.4f},1 0,1"/></svg>'
    )
    beyond = (
        f'<line class="limit" x1="{limit * 100:.4f}%" x2="{limit * 100:.4f}%" y1="{below - 8}" y2="{below + BAR + 8}"/>'
        if limit < 1
        else ""
    )
    words = "; ".join(
        f"{title}: " + ", ".join(f"{part.name} {_table.size_in_words(part.mib)}" for part in parts)
        for title, parts in ((shown.host, shown.parts), ("PostgreSQL", shown.uses))
    )
    return (
        f'<svg class="memory" xmlns="http://www.w3.org/2000/svg" height="{height}" role="img" aria-label="'
        f'{escape(words)}">\n{funnel}\n{_bar(host, TOP, TOP - 10, TOP - 14)}\n'
        f"{_bar(server, below, below + BAR + 10, below + BAR + 24)}\n{beyond}</svg>"
    )


def _bar(segments: Sequence[Segment], top: int, elbow: int, keys: int) -> str:
    """Return a bar with names where they fit, and a key for each part on that side where elbow and keys are."""
    above = keys < top
    near = top if above else top + BAR
    lines = []
    for segment in segments:
        fill, white = segment.colour
        lines.append(
            f'<rect class="part" x="{segment.left:.4f}%" y="{top}" width="{segment.width:.4f}%" height="{BAR}" '
            f'fill="{fill}"><title>{escape(segment.name)}</title></rect>'
        )
        shown = _label_class(segment)
        if shown:
            lines.append(
                f'<text class="{shown}" x="{segment.middle:.4f}%" y="{top + BAR // 2 + 5}" '
                f'fill="{"#fff" if white else "#000"}">{escape(segment.name)}</text>'
            )
    for before, after in pairwise(segments):
        if min(before.width, after.width) > 1:
            lines.append(
                f'<line class="cut" x1="{after.left:.4f}%" x2="{after.left:.4f}%" y1="{top}" y2="{top + BAR}"/>'
            )
    lines.append(f'<rect class="frame" x="0" y="{top}" width="100%" height="{BAR}"/>')
    for screen, pixels in (("narrow", NARROW), ("wide", WIDE)):
        places = _spread([segment.middle for segment in segments], KEY / pixels * 100)
        keyed = "".join(
            f'<line class="lead" x1="{segment.middle:.4f}%" y1="{near}" x2="{x:.4f}%" y2="{elbow}"/>'
            f'<text class="key" x="{x:.4f}%" y="{keys}">{segment.key}</text>'
            for segment, x in zip(segments, places, strict=True)
        )
        lines.append(f'<g class="{screen}">{keyed}</g>')
    return "\n".join(lines)


def _label_class(segment: Segment) -> str:
    """Return how a name that has room in its part is shown: always, on a wide screen, or not at all."""
    needed = LETTER * len(segment.name) + 12
    if needed <= segment.width / 100 * NARROW:
        return "name"
    return "name wide" if needed <= segment.width / 100 * WIDE else ""


def _spread(middles: Sequence[float], apart: float) -> list[float]:
    """Return places for keys near these, in order, and so far apart that none touches another."""
    apart = min(apart, 100 / len(middles))
    # Keys that would touch stand as a group around the mean of where they would be.
    groups: list[list[float]] = []
    for middle in middles:
        groups.append([middle])
        while len(groups) > 1 and _first(groups[-1], apart) < _first(groups[-2], apart) + len(groups[-2]) * apart:
            last = groups.pop()
            groups[-1] += last
    places = [_first(group, apart) + index * apart for group in groups for index in range(len(group))]
    count = len(places)
    for index in range(count):
        places[index] = max(places[index], apart / 2 + index * apart)
        places[index] = min(places[index], 100 - apart / 2 - (count - 1 - index) * apart)
    return places


def _first(group: Sequence[float], apart: float) -> float:
    return sum(group) / len(group) - (len(group) - 1) * apart / 2


def _parts_table(parts: Sequence[Any], segments: Sequence[Segment], in_picture: Any, colour: Any) -> str:
    keys = {segment.name: segment.key for segment in segments}
    rows = []
    for part in parts:
        fill, white = colour(part.name)
        rows.append(
            f'<tr><th scope="row"><span class="swatch" style="background:{fill};color:{"#fff" if white else "#000"}">'
            f"{keys.get(in_picture(part.name), '-') if part.mib else '-'}</span>{escape(part.name)}</th>"
            f'<td class="number">{_table.size_in_words(part.mib)}</td>'
            f'<td class="number">{escape(_table.percent(part.share))}</td>'
            f'<td class="why">{_mark("own", "your own") if part.own else ""}{escape(part.reason)}</td></tr>'
        )
    body = "\n".join(rows)
    return f"""<table class="parts">
<thead>
<tr><th>who</th><th class="number">memory</th><th class="number">share</th><th class="why">for what</th></tr>
</thead>
<tbody>
{body}
</tbody>
</table>"""


def _mark(kind: str, words: str) -> str:
    return f'<span class="mark {kind}">{escape(words)}</span>'


def _settings_table(shown: Any) -> str:
    names = ["default", "pgtune", "ours", "now"] if shown.runs else ["pgtune", "ours"]
    rows = "\n".join(_setting(row, names) for row in shown.rows)
    header = "".join(f"<th>{name}</th>" for name in ("setting", *names, "why"))
    return f"""<table class="settings">
<thead><tr>{header}</tr></thead>
<tbody>
{rows}
</tbody>
</table>"""


def _setting(row: Any, names: Sequence[str]) -> str:
    values = {"default": row.default, "pgtune": row.pgtune, "ours": row.ours, "now": row.now}
    cells = "".join(f'<td class="{name}" data-label="{name}">{_code(values[name])}</td>' for name in names)
    marks = _mark("own", "your own") if row.own else ""
    # The mark says it already.
    reason = row.reason.removeprefix("your own").removeprefix("; ") if row.own else row.reason
    if row.waits:
        marks += _mark("waits", "waits for a restart")
    if row.differs:
        marks += _mark("differs", f"not in force ({row.source})" if row.source else "not in force")
    name = f'<th scope="row">{_code(row.name, LONGEST_NAME)}</th>'
    return f'<tr>{name}{cells}<td class="why">{marks}{escape(reason)}</td></tr>'


def _code(text: str, longest: int = LONGEST_VALUE) -> str:
    long = ' class="long"' if len(text) > longest else ""
    return f"<code{long}>{escape(text)}</code>"


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"tuning_page": tuning_page}
