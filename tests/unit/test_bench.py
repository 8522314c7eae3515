"""What the benchmarks make of what they measured."""

import re

import pytest

from bench.postgres import steady_rate
from bench.postgres_report import CONFIGURATIONS, ROWS, Results, charts, page, verdict
from bench.recovery import lines_of


def measured(rounds=5, **factors):
    """Every row of every configuration; each round is half as fast again as the one before, as machines drift."""
    return Results(
        {
            "round": number,
            "configuration": name,
            "row": row.name,
            "rate": 1000 * 1.5**number * factors.get(f"{name}_rate", lambda _row, _number: 1)(row, number),
            "wal": 8000 * factors.get(f"{name}_wal", lambda _row, _number: 1)(row, number),
            "images": 1.5,
            "cpu": 0.5,
            "others": 0.02,
        }
        for number in range(1, rounds + 1)
        for name in CONFIGURATIONS
        for row in ROWS
    )


def good(**factors):
    return measured(
        **{
            "default_rate": lambda _row, _number: 0.8,
            "default_wal": lambda _row, _number: 4,
            **factors,
        }
    )


def test_a_ratio_is_taken_within_a_round():
    assert str(good().ratio("ours", "default", ROWS[0], "rate")) == "1.25 (1.25 to 1.25)"


def test_nothing_is_short_where_ours_keeps_up():
    assert verdict(good()).count("in every row.") == 4


@pytest.mark.parametrize(
    ("factor", "short"),
    [
        (lambda _row, number: 0.9 if number > 2 else 1.2, True),
        (lambda _row, number: 0.98 if number > 2 else 1.2, False),
        (lambda _row, _number: 0.99, True),
    ],
    ids=["a low median", "a level median and rounds on both sides", "a little less in every round"],
)
def test_a_row_is_short(factor, short):
    row = ROWS[4]
    found = verdict(good(ours_rate=lambda each, number: factor(each, number) if each == row else 1)).splitlines()[0]
    assert (row.label in found) is short
    assert not any(other.label in found for other in ROWS if other != row)


def test_more_wal_than_the_default_is_short():
    row = next(row for row in ROWS if row.work == "tpcb")
    lines = verdict(good(ours_wal=lambda each, _number: 5 if each == row else 1)).splitlines()
    assert [line.count(row.label) for line in lines] == [0, 1, 0, 1]


def test_one_round_in_which_ours_is_a_little_behind_says_nothing():
    results = measured(rounds=1, ours_rate=lambda _row, _number: 0.98)
    assert verdict(results).splitlines()[0] == "- Ours is level with pgtune's or ahead in every row."


def test_the_page_has_a_line_for_each_row():
    lines = page("Some machine.", good()).splitlines()
    for row in ROWS:
        assert sum(line.startswith(f"| {row.label} |") for line in lines) == (2 if row.work == "tpcb" else 1)


def test_the_charts_are_svg_with_each_row_as_text():
    for chart in charts("Some machine.", good()).values():
        words = re.findall(r"<text [^>]*>([^<]+)</text>", chart)
        assert all(row.label in words for row in ROWS if row.work == "tpcb")


def test_the_first_seconds_of_a_run_do_not_count():
    reports = [(1.0, 5.0), (2.1, 10.0), (3.0, 1000.0), (4.5, 2000.0)]
    output = "".join(f"progress: {at} s, {tps} tps, lat 1.0 ms stddev 0.5, 0 failed\n" for at, tps in reports)
    assert steady_rate(output) == pytest.approx((1000 * 0.9 + 2000 * 1.5) / 2.4)


def test_a_commit_counts_from_when_it_was_acknowledged_and_not_by_how_long_it_took():
    errors, times = lines_of("a-1 0.004 1764000000.5\nerror a-2 'no answer' 40.0 1764000041.0\nb-1 2.5 1764000042.5\n")
    assert times == {"a-1": 1764000000.5, "b-1": 1764000042.5}
    assert len(errors) == 1
