"""Jinja filter heroku_schedule: when a job of app.json runs, as an entry's schedule says it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

DOCUMENTATION = r"""
name: heroku_schedule
short_description: When a job of app.json runs, as an entry's schedule says it
description:
  - Turns the five fields of cron into C(every) or C(at) of an app's C(schedule), several of them where there are
    several times of day.
  - What C(schedule) has no word for, such as a day of the month, gives an empty list.
options:
  _input:
    description: Five fields as crontab has them, or one of C(@hourly), C(@daily), C(@midnight) and C(@weekly).
    type: str
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ '30 3 * * 1-5' | heroku_schedule }}"
"""

RETURN = r"""
_value:
  description: Mappings with either C(every) or C(at).
  type: list
  elements: dict
"""

NAMED = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0"}
DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
# More times a day than these would be many jobs where one is meant.
MOST_TIMES = 6


def numbers(field: str, names: tuple[str, ...], most: int) -> list[int] | None:
    """Return what a field of cron lists, or nothing where it is written in another way."""
    found: set[int] = set()
    for part in field.lower().split(","):
        first, dash, last = part.partition("-")
        ends = [_number(text, names) for text in ((first, last) if dash else (first,))]
        if None in ends or max(ends) > most or ends[0] > ends[-1]:
            return None
        found.update(range(ends[0], ends[-1] + 1))
    return sorted(found)


def _number(text: str, names: tuple[str, ...]) -> int | None:
    short = [name.lower() for name in names]
    return short.index(text) if text in short else int(text) if re.fullmatch(r"[0-9]{1,2}", text) else None


def _step(field: str, whole: int) -> int | None:
    """Return n of */n where that comes out even."""
    found = re.fullmatch(r"\*/([1-9][0-9]?)", field)
    return int(found[1]) if found and whole % int(found[1]) == 0 else None


def heroku_schedule(cron: str) -> list[dict[str, str]]:
    """Return the times at which a job of app.json runs."""
    fields = NAMED.get(cron.strip(), cron).split()
    if len(fields) != 5 or fields[2:4] != ["*", "*"]:
        return []
    minute, hour, weekday = fields[0], fields[1], fields[4]
    if weekday == "*":
        minutes, hours = (1 if minute == "*" else _step(minute, 60)), _step(hour, 24)
        if minutes and hour == "*":
            return [{"every": "1h" if minutes == 60 else f"{minutes}m"}]
        if minute == "0" and hours:
            return [{"every": f"{hours}h"}]
    minutes_at = numbers(minute, (), 59)
    hours_at = [None] if hour == "*" else numbers(hour, (), 23)
    days = [] if weekday == "*" else numbers(weekday, DAYS, 7)
    if minutes_at is None or hours_at is None or days is None or len(minutes_at) * len(hours_at) > MOST_TIMES:
        return []
    # Sunday is both 0 and 7, and comes last.
    named = [DAYS[day % 7] for day in sorted({day or 7 for day in days})]
    before = f"{','.join(named)} " if named else ""
    return [
        {"at": f"{before}{'' if one is None else f'{one:02}'}:{other:02}"} for one in hours_at for other in minutes_at
    ]


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"heroku_schedule": heroku_schedule}
