"""A time of cron's is said as the schedule of an entry says it, or not at all."""

import pytest

from filter_plugins.heroku_schedule import heroku_schedule
from filter_plugins.site_apps import at, every


@pytest.mark.parametrize(
    ("cron", "times"),
    [
        ("30 3 * * *", ["03:30"]),
        ("5 * * * *", [":05"]),
        ("30 3 * * 1,4", ["Mon,Thu 03:30"]),
        ("0 6 * * mon-fri", ["Mon,Tue,Wed,Thu,Fri 06:00"]),
        ("0 6 * * 0", ["Sun 06:00"]),
        ("0 6 * * 6-7", ["Sat,Sun 06:00"]),
        ("15 8,20 * * *", ["08:15", "20:15"]),
        ("0,30 * * * 1", ["Mon :00", "Mon :30"]),
        ("@daily", ["00:00"]),
        ("@weekly", ["Sun 00:00"]),
        ("@hourly", [":00"]),
    ],
)
def test_a_time_of_day_is_taken_over(cron, times):
    assert heroku_schedule(cron) == [{"at": time} for time in times]
    assert all(at(time) for time in times)


@pytest.mark.parametrize(
    ("cron", "period"),
    [
        ("*/10 * * * *", "10m"),
        ("* * * * *", "1m"),
        ("0 */6 * * *", "6h"),
        ("0 */1 * * *", "1h"),
        ("*/60 * * * *", "1h"),
    ],
)
def test_an_even_period_is_taken_over(cron, period):
    assert heroku_schedule(cron) == [{"every": period}]
    assert every(period)


@pytest.mark.parametrize(
    "cron",
    [
        "0 3 1 * *",
        "0 3 * 6 *",
        "*/7 * * * *",
        "*/10 3 * * *",
        "*/10 * * * 1",
        "5 */6 * * *",
        "0 9-17 * * *",
        "61 3 * * *",
        "0 24 * * *",
        "0 3 * * 8",
        "0 5-3 * * *",
        "0 3 * *",
        "@reboot",
        "",
        "x",
    ],
)
def test_what_the_schedule_has_no_words_for_is_left_to_a_person(cron):
    assert heroku_schedule(cron) == []
