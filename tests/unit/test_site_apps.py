"""The filter site_apps fills in every default, and refuses what it cannot process without showing a secret."""

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from filter_plugins.site_apps import APP_KEYS, HEADERS, site_apps

LEAST = {"name": "shop", "source": "examples/shop"}
PLAIN = {"spare": False, "stop_seconds": None}


def only(**keys):
    return site_apps([{**LEAST, **keys}])[0]


def test_an_app_of_name_and_source_alone_gets_every_default():
    assert site_apps([LEAST]) == [
        {
            "name": "shop",
            "source": "examples/shop",
            "version": "",
            "domains": [],
            "processes": {"web": 2},
            "stop_seconds": {},
            "single": [],
            "schedule": [],
            "writable": [],
            "config": {},
            "services": ["postgresql", "redis", "memcached"],
            "redis_database": 0,
            "redis_keys": [],
            "python": "",
            "port": 8000,
            "health_path": "/",
            "backup_check": "",
            "static_url": "/static/",
            "static_path": "staticfiles",
            "headers": HEADERS,
            "process_mib": None,
            "user": "shop",
            "home": "/srv/www/shop",
            "database": "shop",
            "ports": [8000, 8001],
            "spare_port": None,
            "programs": [
                {"name": "shop-web-1", "type": "web", "index": 1, "port": 8000, **PLAIN},
                {"name": "shop-web-2", "type": "web", "index": 2, "port": 8001, **PLAIN},
            ],
        }
    ]


def test_every_known_key_is_in_the_result():
    assert set(APP_KEYS) <= set(site_apps([LEAST])[0])


def test_each_app_gets_a_range_of_ports_of_its_own():
    apps = site_apps([LEAST, {**LEAST, "name": "blog"}, {**LEAST, "name": "wiki", "port": 9000}])
    assert [app["ports"] for app in apps] == [[8000, 8001], [8020, 8021], [9000, 9001]]


def test_two_apps_share_no_default_that_one_could_change():
    first, second = site_apps([LEAST, {**LEAST, "name": "blog"}])
    first["processes"]["worker"] = 1
    first["services"].clear()
    assert (second["processes"], second["services"]) == ({"web": 2}, ["postgresql", "redis", "memcached"])


def test_programs_are_numbered_from_one_with_the_web_instances_first():
    programs = only(processes={"beat": 1, "worker": 2, "web": 2})["programs"]
    assert [(program["name"], program["port"]) for program in programs] == [
        ("shop-web-1", 8000),
        ("shop-web-2", 8001),
        ("shop-beat-1", None),
        ("shop-worker-1", None),
        ("shop-worker-2", None),
    ]


def test_a_single_web_instance_has_a_spare_one_on_the_next_port():
    app = only(processes={"web": 1, "worker": 1})
    assert (app["ports"], app["spare_port"]) == ([8000], 8001)
    assert [(program["name"], program["port"], program["spare"]) for program in app["programs"]] == [
        ("shop-web-1", 8000, False),
        ("shop-web-2", 8001, True),
        ("shop-worker-1", None, False),
    ]


def test_a_process_type_has_its_own_time_to_end():
    programs = only(processes={"web": 2, "worker": 1}, stop_seconds={"worker": 120})["programs"]
    assert [program["stop_seconds"] for program in programs] == [None, None, 120]


@pytest.mark.parametrize(
    ("when", "calendar"),
    [
        ({"every": "10m"}, "*-*-* *:0/10:00"),
        ({"every": "1h"}, "*-*-* 0/1:00:00"),
        ({"every": "1d"}, "*-*-* 00:00:00"),
        ({"at": "03:30"}, "*-*-* 03:30:00"),
        ({"at": ":15"}, "*-*-* *:15:00"),
        ({"at": "Mon,Thu 03:30"}, "Mon,Thu *-*-* 03:30:00"),
    ],
)
def test_a_job_has_a_calendar_as_systemd_reads_it(when, calendar):
    job = {"command": "python manage.py tidy", **when}
    assert only(schedule=[job])["schedule"] == [{"calendar": calendar, "command": "python manage.py tidy"}]


@pytest.mark.parametrize(
    "job",
    [
        {"command": "x"},
        {"every": "10m"},
        {"command": "x", "every": "7m"},
        {"command": "x", "every": "soon"},
        {"command": "x", "at": "25:00"},
        {"command": "x", "at": "03:30", "every": "1d"},
        {"command": " ", "at": "03:30"},
    ],
)
def test_a_job_that_has_no_time_or_no_command_is_refused(job):
    with pytest.raises(AnsibleFilterError, match="schedule\\[0\\]"):
        only(schedule=[job])


def test_an_app_without_web_processes_has_no_ports():
    app = only(processes={"worker": 1})
    assert app["ports"] == []
    assert [program["name"] for program in app["programs"]] == ["shop-worker-1"]


def test_a_database_name_has_underscores():
    assert only(name="my-shop")["database"] == "my_shop"


def test_numbers_that_arrive_as_text_are_numbers():
    app = only(port="9100", processes={"web": "1"})
    assert app["ports"] == [9100]


def test_a_number_among_the_config_becomes_the_text_that_it_was():
    assert only(config={"WORKERS": 4})["config"] == {"WORKERS": "4"}


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_config_value_is_kept_as_it_is(value):
    assert only(config={"VALUE": value})["config"] == {"VALUE": value}


@pytest.mark.parametrize(
    ("apps", "message"),
    [
        ("shop", "apps must be a list of mappings, not 'shop'"),
        (None, "apps must be a list of mappings, not None"),
        (["shop"], "apps[0] must be a mapping with name and source, not 'shop'"),
        ([{"name": "shop"}], "apps[0] lacks source"),
        ([{"name": "", "source": "x"}], "apps[0] lacks name"),
        ([{**LEAST, "domain": "x"}], "apps[0] has the unknown key 'domain'; did you mean domains?"),
        ([LEAST, {**LEAST, "qqq": 1}], "apps[1] has the unknown key 'qqq'; known are name, source, version,"),
        ([{**LEAST, "domains": "shop.example"}], "apps[0].domains must be a list of strings, not 'shop.example'"),
        ([{**LEAST, "port": 80.5}], "apps[0].port must be a whole number, not 80.5"),
        ([{**LEAST, "port": True}], "apps[0].port must be a whole number, not True"),
        ([{**LEAST, "python": 3.13}], "apps[0].python must be a string, not 3.13"),
        ([{**LEAST, "processes": ["web"]}], "apps[0].processes must be a mapping of process types"),
        ([{**LEAST, "processes": {"web": -1}}], "apps[0].processes.web must be a whole number from 0 to 20, not -1"),
        ([{**LEAST, "processes": {"web one": 1}}], "apps[0].processes has the key 'web one'"),
        ([{**LEAST, "stop_seconds": 60}], "apps[0].stop_seconds must be a mapping of process types to seconds"),
        (
            [{**LEAST, "stop_seconds": {"web": 0}}],
            "apps[0].stop_seconds.web must be a whole number from 1 to 3600, not",
        ),
        ([{**LEAST, "config": {"A-B": "x"}}], "apps[0].config has the key 'A-B'"),
        ([{**LEAST, "config": {"DEBUG": False}}], "apps[0].config.DEBUG is a boolean, and an environment holds text"),
        ([{**LEAST, "config": {"A": None}}], "apps[0].config.A is a NoneType, and an environment holds text"),
        ([{**LEAST, "config": {"A": "s3cret\0"}}], "apps[0].config.A holds a zero byte"),
    ],
)
def test_what_cannot_be_processed_is_refused_by_name(apps, message):
    with pytest.raises(AnsibleFilterError) as refusal:
        site_apps(apps)
    assert message in str(refusal.value)


@pytest.mark.parametrize("config", ["s3cret", ["s3cret"], {"KEY": ["s3cret"]}, {"KEY": {"a": "s3cret"}}])
def test_a_refused_config_does_not_show_its_values(config):
    with pytest.raises(AnsibleFilterError) as refusal:
        only(config=config)
    assert "s3cret" not in str(refusal.value)


def test_an_apps_headers_go_before_the_usual_ones_and_an_empty_one_takes_one_away():
    own = {"x-frame-options": "DENY", "Referrer-Policy": "", "Permissions-Policy": "geolocation=()"}
    (app,) = site_apps([{"name": "shop", "source": "x", "headers": own}])
    assert app["headers"] == {
        "Strict-Transport-Security": "max-age=63072000",
        "X-Content-Type-Options": "nosniff",
        "x-frame-options": "DENY",
        "Permissions-Policy": "geolocation=()",
    }


@pytest.mark.parametrize(
    "headers", [{"X Y": "a"}, {"X-Y": 'a" "b'}, {"X-Y": "$host"}, {"X-Y": "a\nb"}, {"X-Y": None}, ["X"]]
)
def test_a_header_that_nginx_could_not_hold_is_refused(headers):
    with pytest.raises(AnsibleFilterError, match="headers"):
        site_apps([{"name": "shop", "source": "x", "headers": headers}])
