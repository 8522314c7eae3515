"""The filter heroku_addons says of every add-on what replaces it, or that nothing does."""

import re

import pytest

from filter_plugins.heroku_addons import ADDONS, OTHER_NAMES, heroku_addons


def only(*addons, config=()):
    (found,) = heroku_addons(addons, config)
    return found


@pytest.mark.parametrize(
    ("addon", "service"),
    [
        ("heroku-postgresql:essential-0", "postgresql"),
        ("heroku-redis:mini", "redis"),
        ("heroku-key-value-store:mini", "redis"),
        ("rediscloud:30", "redis"),
        ("redistogo", "redis"),
        ("memcachier:dev", "memcached"),
        ("memcachedcloud:30", "memcached"),
        ("papertrail:choklad", ""),
        ("scheduler:standard", ""),
        ("sendgrid:starter", ""),
        ("bucketeer:hobbyist", ""),
        ("rollbar:trial-5k", ""),
    ],
)
def test_an_addon_and_the_service_that_replaces_it(addon, service):
    assert only(addon)["service"] == service


def test_an_unknown_addon_is_said_to_stay():
    assert only("some-thing:free")["text"].startswith("Nothing here replaces it")


def test_an_addon_is_known_by_its_config_vars():
    assert [addon["name"] for addon in heroku_addons([], ["SENTRY_DSN", "REDISCLOUD_URL", "DEBUG"])] == [
        "rediscloud",
        "sentry",
    ]


def test_the_vars_of_a_replaced_addon_are_left_out_and_the_others_stay():
    config = ["MEMCACHIER_SERVERS", "MEMCACHIER_GREEN_PASSWORD", "MAILGUN_API_KEY"]
    assert {addon["name"]: addon["left_out"] for addon in heroku_addons([], config)} == {
        "memcachier": ["MEMCACHIER_GREEN_PASSWORD", "MEMCACHIER_SERVERS"],
        "mailgun": [],
    }


def test_what_an_app_never_reads_is_left_out():
    assert only(config=["PAPERTRAIL_API_TOKEN"])["left_out"] == ["PAPERTRAIL_API_TOKEN"]


def test_an_addon_is_named_once():
    assert len(heroku_addons(["heroku-redis:mini", "keyvalue"], ["REDIS_URL", "REDIS_TLS_URL"])) == 1


@pytest.mark.parametrize("name", ADDONS)
def test_every_addon_has_a_pattern_that_is_one_and_words_for_a_person(name):
    pattern, service, text = ADDONS[name]
    re.compile(pattern)
    assert service in ("", "postgresql", "redis", "memcached")
    assert len(text) > 20


def test_every_other_name_is_of_a_known_addon():
    assert set(OTHER_NAMES.values()) <= set(ADDONS)
