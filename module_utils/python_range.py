"""Ranges of Python versions as the several files of a source write them."""

from __future__ import annotations

import re


def common_range(text: str) -> str:
    """Return a range that may be in Poetry's way of writing (^3.11, ~3.11) in the common one."""
    # Of alternatives the last is the newest, as people write them.
    last = re.sub(r"([<>=!~^])\s+", r"\1", text.split("||")[-1].strip())
    return ",".join(filter(None, (_common_part(part) for part in re.split(r"[,\s]+", last))))


def _common_part(part: str) -> str:
    if part == "*":
        return ""
    if part.startswith("^3"):
        return f">={part[1:]},<4"
    if re.fullmatch(r"~3\.\d+", part):
        return f"~={part[1:]}.0"
    if re.fullmatch(r"~3\.\d+\.\d+", part):
        return f"~={part[1:]}"
    return f"=={part}" if re.fullmatch(r"3(\.(\d+|\*)){1,2}", part) else part
