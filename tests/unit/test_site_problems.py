"""The preflight's filters name every mistake of a site at once, and find none in a good one."""

import copy
import zoneinfo
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from filter_plugins.app_problems import FIRST_PORT, KEYS, PORTS_PER_APP, REQUIRED, SERVICES, app_problems
from filter_plugins.site_apps import APP_KEYS, PORTS_AN_APP
from filter_plugins.site_apps import FIRST_PORT as SITE_FIRST_PORT
from filter_plugins.site_apps import SERVICES as SITE_SERVICES
from filter_plugins.site_problems import CALENDARS, SITE_NAMES, is_calendar, site_problems

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ1dHRlcmZseWJ1dHRlcmZseWJ1dHRlcmZseWJ1dHQ you@laptop"
GOOD = {
    "groups": {"all": ["web1", "db1"], "ungrouped": [], "web": ["web1"], "db": ["db1"]},
    "hosts": {
        "web1": {"ansible_host": "203.0.113.11", "address": "192.0.2.11"},
        "db1": {"ansible_host": "203.0.113.21", "address": "192.0.2.21", "memory_mib": 2048, "cpus": 2},
    },
    "host_names": {"web1": ["ansible_host", "address"], "db1": ["ansible_host", "address", "memory_mib", "cpus"]},
    "names": [
        "ansible_user",
        "apps",
        "ssh_operator_keys",
        "base_timezone",
        "nginx_gzip_enabled",
        "site_motto",
        "vault_database_passwords",
        "vault_redis_password",
        "vault_shop_secret_key",
        "vault_ca_secret",
    ],
    "options": {
        "base_locale": {"type": "str"},
        "ssh_operator_keys": {"type": "list", "elements": "str", "required": True},
        "base_operator_name": {"type": "str"},
        "base_timezone": {"type": "str"},
        "backup_calendar": {"type": "str"},
        "backup_days_kept": {"type": "int"},
        "backup_rehearsal_calendar": {"type": "str"},
        "firewall_ssh_port": {"type": "int"},
        "firewall_ssh_sources": {"type": "list", "elements": "str"},
        "nginx_trusted_proxies": {"type": "list", "elements": "str"},
        "nginx_gzip_enabled": {"type": "bool"},
        "nginx_timeout_seconds": {"type": "int"},
        "redis_policy": {"type": "str", "choices": ["noeviction", "allkeys-lru"]},
    },
    "timezones": sorted(zoneinfo.available_timezones()),
    "values": {
        "apps": [
            {
                "name": "shop",
                "source": "https://git.example/shop.git",
                "version": "main",
                "domains": ["shop.example", "www.shop.example"],
                "processes": {"web": 2, "worker": 1},
                "config": {"SECRET_KEY": "quite-long-and-random", "DEBUG": "0", "WORKERS": 3},
                "services": ["postgresql", "redis"],
                "python": "3.13",
                "port": 8000,
                "health_path": "/health?full=1",
                "static_url": "/static/",
                "static_path": "var/static",
            },
            {"name": "blog-2", "source": "examples/blog", "processes": {"worker": 2}, "services": ["postgresql"]},
            {"name": "b", "source": "examples/blog", "domains": None, "services": [], "version": ""},
        ],
        "base_locale": "de_DE.UTF-8",
        "ssh_operator_keys": [PUBLIC_KEY],
        "base_operator_name": "operator",
        "base_timezone": "Europe/Berlin",
        "nginx_gzip_enabled": True,
        "nginx_timeout_seconds": 30,
        "redis_policy": "noeviction",
        "vault_database_passwords": {"shop": "k7NwqVb2mXz9LpRt4sYc", "blog-2": "Qm3ZxTn8vBw5KdLf7gHj"},
        "vault_ca_secret": "Zr5NvKq8WbTx3LmYcH2d",
        "vault_redis_password": "w9FhJk2LmNpQr5StVxYz",
        "vault_shop_secret_key": "A1s2D3f4G5h6J7k8L9z0XcVbNm",
        "vault_shop_mail_user": "shop",
    },
    "wired": ["topology_address", "memory_redis_mib"],
}
SOURCES = {
    "https://git.example/shop.git": {"refs": ["main", "v1.0"]},
    "examples/blog": {"processes": ["web", "worker", "release"]},
}
RESERVED = {"operator": "that is the operator's account"}


def changed(replace=(), remove=()):
    """Return a good site with some values replaced or removed."""
    site = copy.deepcopy({**GOOD, "sources": SOURCES})
    for path, value in dict(replace).items():
        place, last = place_of(site, path)
        if isinstance(place, list) and last == len(place):
            place.append(value)
        else:
            place[last] = value
    for path in remove:
        place, last = place_of(site, path)
        del place[last]
    return site


def place_of(site, path):
    *parents, last = (step.replace("~", "/") for step in path.split("/"))
    place = site
    for step in parents:
        place = place[int(step) if isinstance(place, list) else step]
    return place, int(last) if isinstance(place, list) else last


def problems(site):
    found = site_problems(site)
    return found + app_problems(site["values"].get("apps"), site["sources"], RESERVED)


def text(found):
    return [f"{item['problem']}\n{item['mend']}" for item in found]


CASES = yaml.safe_load((Path(__file__).parent / "data" / "site_problems.yml").read_text())


def made(*cases):
    return changed(
        {path: value for case in cases for path, value in case.get("set", {}).items()},
        [path for case in cases for path in case.get("remove", [])],
    )


def test_a_good_site_has_no_problems():
    assert problems(changed()) == []


@pytest.mark.parametrize("case", CASES, ids=[case["mistake"] for case in CASES])
def test_a_mistake_is_one_message_that_says_what_mends_it(case):
    found = text(problems(made(case)))
    assert len(found) == 1, found
    assert [part for part in case["says"] if part not in found[0]] == [], found


SINGLE = [case for case in CASES if len(case.get("set", {})) == 1 and "remove" not in case]


def topic(case):
    """Return what a case is about; two mistakes in one thing may be one problem."""
    first, second, *_ = next(iter(case["set"])).split("/")
    if second.startswith("vault_"):
        return "secrets"
    return {"host_names": "hosts", "groups": "hosts", "sources": "apps", "values": second}.get(first, first)


@given(st.sampled_from(SINGLE), st.sampled_from(SINGLE))
def test_two_mistakes_are_listed_at_once(one, other):
    assume(topic(one) != topic(other))
    found = text(problems(made(one, other)))
    assert len(found) == 2, found
    for case in (one, other):
        assert any(all(part in entry for part in case["says"]) for entry in found), found


def test_all_mistakes_of_all_kinds_are_listed_at_once():
    """One mistake of each topic."""
    topics = {topic(case): case for case in SINGLE}
    found = problems(made(*topics.values()))
    assert len(found) == len(topics)


def test_every_problem_leads_to_a_place():
    for case in CASES:
        site = made(case)
        for entry in problems(site):
            places = {"hosts", "groups", *GOOD["values"], *site["values"], *site["names"], *SITE_NAMES}
            assert entry["path"][0] in places, entry


SECRET = "-".join(["s3cr3t", "and", "not", "for", "any", "screen"])


@pytest.mark.parametrize("path", ["values/vault_redis_password", "values/apps/0/config/SECRET_KEY"])
@given(value=st.sampled_from([[SECRET], {"a": SECRET}, f"{SECRET} {SECRET}", f"{SECRET}\0", {"__unresolved__": "x"}]))
def test_no_message_shows_a_secret(path, value):
    assert SECRET not in "".join(text(problems(changed({path: value}))))


def test_a_password_in_an_address_is_not_shown():
    source = "https://you:s3cr3t@git.example/shop.git"
    app = {"name": "shop", "source": source, "version": "x"}
    for facts in ({"error": "gone", "mend": "wait"}, {"refs": ["main"]}):
        found = text(app_problems([app], {source: facts}))
        assert "s3cr3t" not in found[0]
        assert "https://…@git.example/shop.git" in found[0]


def test_the_preflight_and_site_apps_know_the_same_keys_and_defaults():
    assert set(KEYS) == set(APP_KEYS)
    assert set(REQUIRED) == {key for key, about in APP_KEYS.items() if about.get("required")}
    assert (FIRST_PORT, PORTS_PER_APP, SERVICES) == (SITE_FIRST_PORT, PORTS_AN_APP, SITE_SERVICES)


@given(st.lists(st.from_type(type).flatmap(st.from_type) | st.none() | st.text(), max_size=3))
def test_whatever_stands_in_apps_is_an_answer_and_no_crash(values):
    app_problems(values)
    app_problems([dict.fromkeys(KEYS, value) for value in values])


@pytest.mark.parametrize(
    "text",
    [
        *CALENDARS.values(),
        "daily",
        "02:30",
        "Mon..Fri 22:00",
        "Mon,Thu *-*-* 01:00:00",
        "Sat *-*-1..7 18:00:00",
        "*-*-* 00/6:00",
        "*-12-24 03:00 Europe/Berlin",
        "Thursday 03:00 UTC",
    ],
)
def test_a_time_that_systemd_knows_is_no_mistake(text):
    assert is_calendar(text)
