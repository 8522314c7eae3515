"""A release command reaches PostgreSQL itself, and waits for no lock for long."""

import pytest

from filter_plugins.app_release_env import app_release_env
from filter_plugins.site_apps import site_apps


def app(**keys):
    return site_apps([{"name": "my-shop", "source": "x", **keys}])[0]


def test_it_goes_around_the_pool_and_has_a_limit_for_locks():
    assert app_release_env(app(), "p/w", "192.0.2.21", 5433, 7) == {
        "DATABASE_URL": "postgres://my_shop:p%2Fw@192.0.2.21:5433/my_shop",
        "PGOPTIONS": "-c lock_timeout=7s",
    }


def test_an_address_of_ipv6_is_bracketed():
    assert "@[2001:db8::1]:5432/" in app_release_env(app(), "x", "2001:db8::1")["DATABASE_URL"]


def test_options_of_the_app_itself_stay():
    found = app_release_env(app(config={"PGOPTIONS": "-c search_path=a"}), "x", "192.0.2.21")
    assert found["PGOPTIONS"] == "-c search_path=a -c lock_timeout=5s"


AUTHORITY = "/etc/authority.crt"


def test_it_checks_whom_it_talks_to():
    found = app_release_env(app(), "x", "192.0.2.21", authority=AUTHORITY)
    assert (found["PGSSLMODE"], found["PGSSLROOTCERT"]) == ("verify-full", AUTHORITY)


@pytest.mark.parametrize(
    "config",
    [
        {"PGSSLMODE": "require"},
        {"PGSSLROOTCERT": "system"},
        {"REPORTS_URL": "postgres://else.example/reports"},
        {"REPORTS_URL": "postgresql+psycopg://else.example/reports"},
    ],
)
def test_an_app_that_talks_to_another_database_too_has_its_own_word_on_certificates(config):
    found = app_release_env(app(config=config), "x", "192.0.2.21", authority=AUTHORITY)
    assert AUTHORITY not in found.values()
    assert "192.0.2.21" in found["DATABASE_URL"]


@pytest.mark.parametrize("keys", [{"services": ["redis"]}, {"config": {"DATABASE_URL": "postgres://own"}}])
def test_an_app_with_another_database_is_given_nothing(keys):
    assert app_release_env(app(**keys), "x", "192.0.2.21") == {}


def test_without_an_address_the_pool_stays():
    assert app_release_env(app(), "x", "") == {}
