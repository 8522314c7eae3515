"""Each app has a user of redis, whose password tells nothing of the site's."""

from hashlib import sha256

import pytest

from filter_plugins.redis_users import redis_password, redis_passwords, redis_users
from filter_plugins.site_apps import site_apps

SECRET, OTHER = "w9FhJk2LmNpQr5StVxYz", "k7NwqVb2mXz9LpRt4sYc"


def users(*apps, other=""):
    return redis_users(site_apps([{"source": "-", **app} for app in apps]), SECRET, other)


def hashed(secret, app=None):
    return "#" + sha256((redis_password(secret, app) if app else secret).encode()).hexdigest()


def test_an_app_has_a_user_of_its_own_and_one_without_redis_has_none():
    found = users({"name": "shop"}, {"name": "blog", "services": ["postgresql"]})
    assert sorted(found) == ["default", "offramp", "shop"]
    assert hashed(SECRET, "shop") in found["shop"].split()


def test_each_app_has_another_password_and_none_is_the_sites():
    apps = site_apps([{"name": name, "source": "-"} for name in ("shop", "blog")])
    made = redis_passwords(apps, SECRET)
    assert len({*made.values(), SECRET}) == 3
    assert redis_passwords(apps, OTHER)["shop"] != made["shop"]


def test_the_administrators_password_is_no_apps():
    found = users({"name": "shop"})
    assert [name for name, rules in found.items() if hashed(SECRET) in rules] == ["offramp"]


def test_while_it_is_rotated_both_are_good_for_everybody():
    found = users({"name": "shop"}, other=OTHER)
    assert {hashed(SECRET), hashed(OTHER)} <= set(found["offramp"].split())
    for name in ("shop", "default"):
        assert {hashed(SECRET, "shop"), hashed(OTHER, "shop")} <= set(found[name].split())


def test_a_client_without_a_name_gets_in_where_it_may_see_all_keys():
    found = users({"name": "shop"}, {"name": "blog", "redis_keys": ["blog:*"]})
    assert hashed(SECRET, "shop") in found["default"]
    assert hashed(SECRET, "blog") not in found["default"]


def test_nobody_is_let_in_without_a_name_where_no_app_may_see_all_keys():
    assert users({"name": "blog", "redis_keys": ["blog:*"]})["default"].split()[0] == "off"
    assert users()["default"].split()[0] == "off"


def test_patterns_are_those_of_keys_and_channels():
    assert {"~blog:*", "&blog:*", "~b2:*", "&b2:*"} == {
        word for word in users({"name": "blog", "redis_keys": ["blog:*", "b2:*"]})["blog"].split() if word[0] in "~&"
    }


def test_without_a_password_nothing_is_made():
    with pytest.raises(Exception, match="empty"):
        redis_password("", "shop")
