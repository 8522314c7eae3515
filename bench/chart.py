"""Bars with their spread, as an SVG that reads well on a light page and on a dark one."""

from __future__ import annotations

import html

# By label and name of the bar: middle, lowest and highest value.
Rows = dict[str, dict[str, tuple[float, float, float]]]

STYLE = """\
    text { fill: #24292f; }
    .page { fill: #ffffff; }
    .note { fill: #57606a; font-size: 13px; }
    .line { stroke: #24292f; fill: none; }
    .default { fill: #8c959f; } .pgtune { fill: #d4a72c; } .ours { fill: #0969da; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .page { fill: #0d1117; }
      .note { fill: #9198a1; }
      .line { stroke: #e6edf3; }
      .ours { fill: #4493f8; }
    }"""
LEFT, WIDTH, BAR = 270, 490, 14


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def text(plain: str) -> str:
    return html.escape(plain, quote=False)


def bars(title: str, note: str, names: dict[str, str], rows: Rows, line: float | None = None) -> str:
    """Draw a bar for each configuration of each row, its end the median and a thin line the spread."""
    longest = max(highest for row in rows.values() for _middle, _lowest, highest in row.values())
    shown = [name for name in names if any(name in row for row in rows.values())]
    drawn, top = [], 96

    def x(value: float) -> float:
        return round(LEFT + WIDTH * value / longest, 1)

    for at, name in enumerate(shown):
        left = LEFT + 160 * at
        drawn.append(f'<rect class="{name}" x="{left}" y="58" width="14" height="14" rx="2"/>')
        drawn.append(f'<text x="{left + 20}" y="70">{text(names[name])}</text>')
    for label, row in rows.items():
        drawn.append(
            f'<text x="{LEFT - 12}" y="{top + BAR * len(row) / 2 + 4:g}" text-anchor="end">{text(label)}</text>'
        )
        for name, (middle, lowest, highest) in row.items():
            drawn.append(
                f'<rect class="{name}" x="{LEFT}" y="{top}" width="{x(middle) - LEFT:.1f}" height="{BAR - 2}"/>'
            )
            drawn.append(f'<path class="line" d="M{x(lowest)} {top + BAR / 2 - 1:g}H{x(highest)}"/>')
            drawn.append(f'<text class="note" x="{x(highest) + 6:.1f}" y="{top + 11}">{number(middle)}</text>')
            top += BAR
        top += 12
    if line:
        drawn.append(f'<path class="line" stroke-dasharray="4 3" d="M{x(line)} 84V{top - 4}"/>')
    body = "\n".join(f"  {each}" for each in drawn)
    height = top + 8
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {height}" font-family="system-ui, sans-serif" font-size="15" \
role="img" aria-labelledby="title">
  <title id="title">{text(title)}</title>
  <style>
{STYLE}
  </style>
  <rect class="page" width="860" height="{height}"/>
  <text x="22" y="30" font-weight="600">{text(title)}</text>
  <text x="22" y="50" class="note">{text(note)}</text>
{body}
</svg>
"""
