"""The action secret_rotation: after each step the vault is whole, and holds both secrets until the end."""

from __future__ import annotations

import pytest
import yaml

from action_plugins.secret_rotation import Wish, begun, command, other_login, same, switched, without

VAULT = """---
# Written by hand
vault_database_passwords: {shop-eu: "old:database", blog: blogs}   # one an app
vault_redis_password: 'old redis'
vault_ca_secret: old-authority
vault_replication_password: old-replication
vault_backup_cipher_key: old-backups
vault_shop_secret_key: "{{ lookup('env', 'OLD') }}"
"""
APPS = [
    {
        "name": "shop-eu",
        "config": {"SECRET_KEY": "{{ vault_shop_secret_key }}", "COLOR": "blue", "MIXED": "x{{ vault_x }}"},
    },
    {"name": "blog", "config": {"SIGNING_KEY": "{{vault_shop_secret_key}}"}},
    {"name": "static"},
]


def wish(apps=APPS, overlay=None, servers=2, **words):
    site = {"apps": ["shop-eu", "blog", "static"], "databases": ["shop-eu", "blog"], "redis_apps": ["shop-eu"]}
    return Wish({**site, "servers": servers, "backed_up": True, **words}, apps, overlay)


KINDS = {
    "redis": (wish(kind="redis"), ["vault_redis_password"], "old redis"),
    "ca": (wish(kind="ca"), ["vault_ca_secret"], "old-authority"),
    "replication": (wish(kind="replication"), ["vault_replication_password"], "old-replication"),
    "backup": (wish(kind="backup"), ["vault_backup_cipher_key"], "old-backups"),
    "database": (wish(kind="database", app="shop-eu"), ["vault_database_passwords", "shop-eu"], "old:database"),
    "app": (wish(kind="app", app="shop-eu", key="SECRET_KEY"), ["vault_shop_secret_key"], "{{ lookup('env', 'OLD') }}"),
}


def at(text, path):
    values = yaml.safe_load(text)
    for key in path:
        values = values[key]
    return values


def started(kind):
    asked, path, old = KINDS[kind]
    login = other_login(VAULT, asked.app) if kind == "database" else ""
    return begun(VAULT, asked.rotation() | {"login": login}, "new"), path, old


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_secret_stays_in_use_until_the_two_are_changed_over(kind):
    text, path, old = started(kind)
    assert at(text, path) == old
    assert at(text, ["vault_rotation", "other"]) == "new"
    text = switched(text)
    assert at(text, path) == "new"
    assert at(text, ["vault_rotation", "other"]) == old
    assert at(text, ["vault_rotation", "stage"]) == "switched"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_ended_leaves_the_new_secret_and_nothing_of_the_old(kind):
    text, path, old = started(kind)
    text = without(switched(text))
    assert at(text, path) == "new"
    assert (old in text) == (kind == "backup")
    assert "vault_rotation" not in text
    assert "# Written by hand\n" in text
    assert "# one an app" in text


@pytest.mark.parametrize("kind", ["redis", "replication", "app", "ca"])
def test_what_is_undone_is_as_it_was(kind):
    text, *_ = started(kind)
    assert yaml.safe_load(without(switched(switched(text)))) == yaml.safe_load(VAULT)


def test_the_keys_of_older_backups_are_kept_in_their_order():
    former = ["vault_backup_former_cipher_keys"]
    text = switched(started("backup")[0])
    assert at(text, former) == ["old-backups"]
    assert at(switched(text), former) == []
    text = switched(begun(without(text), KINDS["backup"][0].rotation(), "newer"))
    assert at(text, former) == ["old-backups", "new"]
    assert at(text, KINDS["backup"][1]) == "newer"


def test_a_database_goes_from_its_owner_to_a_second_login_and_back():
    text, *_ = started("database")
    text = switched(text)
    assert at(text, ["vault_database_logins"]) == {"shop-eu": "shop_eu-2"}
    assert at(text, ["vault_rotation", "login"]) == "shop_eu"
    text = without(text)
    assert other_login(text, "shop-eu") == "shop_eu"
    again = switched(begun(text, KINDS["database"][0].rotation() | {"login": "shop_eu"}, "newer"))
    assert at(again, ["vault_database_logins"]) == {"shop-eu": "shop_eu"}
    assert at(again, ["vault_rotation", "login"]) == "shop_eu-2"


def test_every_app_that_has_the_secret_is_restarted():
    assert KINDS["app"][0].apps() == ["shop-eu", "blog"]
    assert KINDS["redis"][0].apps() == ["shop-eu"]
    assert KINDS["database"][0].apps() == ["shop-eu"]
    assert KINDS["replication"][0].apps() == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (wish(), ["say which secret:  -e secret=…  with one of app, backup, ca, database, redis, replication"]),
        (wish(kind="rediss"), ['no secret "rediss"']),
        (wish(kind="backup", backed_up=False), ["names no bucket"]),
        (wish(kind="bucket"), ["docs/rotating.md"]),
        (wish(kind="pgbouncer"), ["no secret of its own"]),
        (wish(kind="replication", servers=1), ["one database server"]),
        (wish(kind="database"), ["say which app:  -e app=…  with one of shop-eu, blog"]),
        (wish(kind="database", app="static"), ["no database of static"]),
        (wish(kind="app", app="nosuch"), ["no app nosuch", "say which config var"]),
        (wish(kind="app", app="shop-eu"), ["say which config var:  -e key=…  with one of SECRET_KEY"]),
        (wish(kind="app", app="shop-eu", key="NOSUCH"), ["has no config var NOSUCH"]),
        (wish(kind="app", app="shop-eu", key="COLOR"), ["no secret of the vault's alone"]),
        (wish(kind="app", app="shop-eu", key="MIXED"), ["no secret of the vault's alone"]),
        (
            wish(kind="app", app="shop-eu", key="SECRET_KEY", overlay={"shop-eu": {"SECRET_KEY": "x"}}),
            ["set by playbooks/config.yml"],
        ),
    ],
)
def test_mistakes_are_told_all_at_once_in_plain_words(asked, said):
    mistakes = list(asked.mistakes())
    assert len(mistakes) == len(said)
    assert all(part in mistake for part, mistake in zip(said, mistakes, strict=True)), mistakes


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_is_no_mistake(kind):
    assert list(KINDS[kind][0].mistakes()) == []


def test_a_rotation_that_is_under_way_is_known_again_and_no_other_is_begun():
    text, *_ = started("database")
    kept = yaml.safe_load(text)["vault_rotation"]
    assert same(kept, KINDS["database"][0].rotation())
    assert not same(kept, KINDS["redis"][0].rotation())
    assert not same(kept, wish(kind="database", app="blog").rotation())
    assert command(kept, {}) == "playbooks/rotate.yml -e secret=database -e app=shop-eu"
    kept = yaml.safe_load(started("app")[0])["vault_rotation"]
    written = {one["name"]: one for one in APPS}
    assert command(kept, written) == "playbooks/rotate.yml -e secret=app -e app=shop-eu -e key=SECRET_KEY"
