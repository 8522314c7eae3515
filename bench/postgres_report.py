"""What the benchmark of PostgreSQL's settings says: tables, the rows that fall short, and charts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

from bench.chart import bars, number

CLIENTS = {"tpcb": 200, "select": 200, "analytic": 2}
WORKS = {"tpcb": "tpcb", "select": "select-only", "analytic": "analytic"}
SIZES = {"fits": "fits", "exceeds": "does not fit"}
WAYS = {"direct": "direct", "pooled": "pgbouncer"}
CONFIGURATIONS = {"default": "Debian's default", "pgtune": "pgtune's", "ours": "ours"}
# A median down to this is level: so far apart are the medians of one configuration measured twice.
LEVEL = 0.97
# Which part of the CPUs others may take before it is said.
BUSY = 0.1
CHARTS = {"rate": "benchmark-postgres-rate.svg", "wal": "benchmark-postgres-wal.svg"}
PICTURES = f"""\
![The rate of each row, as a multiple of Debian's default]({CHARTS["rate"]})

![Bytes of WAL a transaction, by configuration]({CHARTS["wal"]})
"""


class Row(NamedTuple):
    """One thing that is measured. The query that reads a whole table comes first, so that all rows find one cache."""

    way: str
    size: str
    work: str

    @property
    def name(self) -> str:
        return f"{self.work}-{self.size}-{self.way}"

    @property
    def label(self) -> str:
        return f"{WORKS[self.work]}, {SIZES[self.size]}, {WAYS[self.way]}"


class Result(NamedTuple):
    """Transactions a second, analytic queries a minute; and of each transaction bytes and full-page images of WAL, CPU
    milliseconds of server and clients; and which part of the machine's CPUs was taken by others."""

    rate: float
    wal: float
    images: float
    cpu: float
    others: float

    def __str__(self) -> str:
        text = f"{number(self.rate)}, {number(self.wal)} bytes of WAL"
        return text if self.others < BUSY else f"{text}; others took {self.others:.0%} of the CPUs"


class Spread(NamedTuple):
    middle: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


ROWS = [Row(way, size, work) for way, size, work in product(WAYS, SIZES, ("analytic", "select", "tpcb"))]


class Results:
    """What was measured, as it is kept, asked by configuration and row."""

    def __init__(self, kept: Iterable[dict[str, Any]]) -> None:
        self.kept = list(kept)
        self.configurations = list(CONFIGURATIONS)
        self.configurations += sorted({each["configuration"] for each in self.kept} - set(CONFIGURATIONS))

    @property
    def rounds(self) -> int:
        return max(each["round"] for each in self.kept)

    def rows(self, *works: str) -> list[Row]:
        measured = {each["row"] for each in self.kept}
        return [row for work in works for row in ROWS if row.work == work and row.name in measured]

    def of(self, configuration: str, row: Row, what: str) -> Spread:
        return spread(self._by_round(configuration, row, what).values())

    def ratio(self, configuration: str, base: str, row: Row, what: str) -> Spread:
        """Return the spread of the ratios, each taken within one round."""
        own, other = self._by_round(configuration, row, what), self._by_round(base, row, what)
        return spread(own[number] / other[number] for number in own)

    def _by_round(self, configuration: str, row: Row, what: str) -> dict[int, float]:
        picked = (each for each in self.kept if (each["configuration"], each["row"]) == (configuration, row.name))
        return {each["round"]: each[what] for each in picked}


def spread(values: Iterable[float]) -> Spread:
    known = list(values)
    return Spread(statistics.median(known), min(known), max(known))


def median(results: Results, configuration: str, row: Row, what: str) -> str:
    text = number(results.of(configuration, row, what).middle)
    return f"{text} ({number(results.of(configuration, row, 'images').middle)})" if what == "wal" else text


def table(results: Results, head: str, rows: Sequence[Row], what: str) -> str:
    """Return the medians of all configurations, and what those that are not a peer's are to the peers."""
    names = [CONFIGURATIONS.get(name, name) for name in results.configurations]
    pairs = [(name, base) for name in results.configurations[2:] for base in ("pgtune", "default")]
    heads = [head, *names, *(f"{CONFIGURATIONS.get(name, name)} to {CONFIGURATIONS[base]}" for name, base in pairs)]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        medians = [median(results, name, row, what) for name in results.configurations]
        lines.append([row.label, *medians, *(str(results.ratio(*pair, row, what)) for pair in pairs)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def short(results: Results, base: str, rows: Sequence[Row], what: str, least: float) -> list[str]:
    """Return the rows in which ours reaches less, by its median, or by however little in each of many rounds."""
    found = []
    for row in rows:
        ratio = results.ratio("ours", base, row, what)
        # Of WAL less is better.
        gain = ratio if what == "rate" else spread(1 / each for each in ratio)
        if gain.middle < least or (results.rounds >= 5 and gain.highest < 1):
            found.append(f"{row.label} ({ratio})")
    return found


def verdict(results: Results) -> str:
    """Say where ours falls short of what is promised."""
    every, writes = results.rows(*WORKS), results.rows("tpcb")
    claims = {
        "level with pgtune's or ahead": short(results, "pgtune", every, "rate", LEVEL),
        "level with pgtune's or below in WAL": short(results, "pgtune", writes, "wal", LEVEL),
        "ahead of Debian's default in writes": short(results, "default", writes, "rate", 1),
        "below Debian's default in WAL": short(results, "default", writes, "wal", 1),
    }
    lines = []
    for claim, rows in claims.items():
        where = f"but for: {'; '.join(rows)}" if rows else "in every row"
        lines.append(f"- Ours is {claim} {where}.")
    return "\n".join(lines)


def page(heading: str, results: Results) -> str:
    kind = f"Medians of {results.rounds} interleaved rounds" if results.rounds > 1 else "One round"
    others = spread(each["others"] for each in results.kept)
    noise = (
        f"Other processes took {others.middle:.0%} of the CPUs in the median row, {others.highest:.0%} in the worst."
    )
    parts = [f"{heading} {kind}; of the ratios the lowest and the highest too. {noise}"]
    if rows := results.rows("tpcb", "select"):
        parts.append(table(results, "transactions a second, 200 clients", rows, "rate"))
    if rows := results.rows("analytic"):
        parts.append(table(results, "queries a minute, 2 clients", rows, "rate"))
    if rows := results.rows("tpcb"):
        parts.append(table(results, "bytes (and full-page images) of WAL a transaction", rows, "wal"))
    if results.configurations[3:]:
        parts.append(table(results, "CPU milliseconds a transaction", results.rows(*WORKS), "cpu"))
    return "\n\n".join([*parts, verdict(results)])


def charts(heading: str, results: Results) -> dict[str, str]:
    """Return the charts by the name of their file."""
    peers = [name for name in results.configurations if name != "default"]
    ratios = {
        row.label: {name: results.ratio(name, "default", row, "rate") for name in peers} for row in results.rows(*WORKS)
    }
    wal = {
        row.label: {name: results.of(name, row, "wal") for name in results.configurations}
        for row in results.rows("tpcb")
    }
    return {
        CHARTS["rate"]: bars("Rate, as a multiple of Debian's default", heading, CONFIGURATIONS, ratios, line=1.0),
        CHARTS["wal"]: bars("Bytes of WAL a transaction", heading, CONFIGURATIONS, wal),
    }
