"""The filters scram_sha_256 and site_databases; that the servers accept a verifier is shown in the site scenario."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pytest
from ansible.errors import AnsibleFilterError

from filter_plugins.scram_sha_256 import scram_sha_256
from filter_plugins.site_databases import site_databases


def keys(password: str, salt: bytes, iterations: int) -> tuple[str, str]:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client = hmac.new(salted, b"Client Key", "sha256").digest()
    server = hmac.new(salted, b"Server Key", "sha256").digest()
    return base64.b64encode(hashlib.sha256(client).digest()).decode(), base64.b64encode(server).decode()


def test_a_verifier_proves_its_password() -> None:
    match = re.fullmatch(r"SCRAM-SHA-256\$(\d+):(.+)\$(.+):(.+)", scram_sha_256("correct horse", "shop"))
    assert match
    iterations, salt, stored, server = match.groups()
    assert (stored, server) == keys("correct horse", base64.b64decode(salt), int(iterations))
    assert (stored, server) != keys("wrong horse", base64.b64decode(salt), int(iterations))


def test_the_same_password_gives_the_same_verifier_everywhere() -> None:
    assert scram_sha_256("correct horse", "shop") == scram_sha_256("correct horse", "shop")


def test_the_same_password_of_two_roles_is_not_recognised() -> None:
    assert scram_sha_256("correct horse", "shop") != scram_sha_256("correct horse", "blog")


@pytest.mark.parametrize("password", ["", "caf\u00e9", "a\nb", None, 12345678])
def test_a_password_that_clients_would_read_differently_is_refused_and_not_shown(password: object) -> None:
    with pytest.raises(AnsibleFilterError) as refusal:
        scram_sha_256(password, "shop")  # type: ignore[arg-type]
    assert not password or str(password) not in str(refusal.value)


def test_only_apps_that_use_the_database_get_one() -> None:
    apps = [
        {"name": "shop", "database": "shop", "services": ["postgresql"]},
        {"name": "blog", "database": "blog", "services": ["redis"]},
    ]
    assert [database["name"] for database in site_databases(apps, {"shop": "secret"})] == ["shop"]


def test_an_app_without_a_password_is_named() -> None:
    apps = [{"name": "shop", "database": "shop", "services": ["postgresql"]}]
    with pytest.raises(AnsibleFilterError, match="no entry for the app shop"):
        site_databases(apps, {})


SHOP = [{"name": "my-shop", "database": "my_shop", "services": ["postgresql"]}]


def test_the_owner_alone_may_log_in_where_nothing_was_rotated() -> None:
    (database,) = site_databases(SHOP, {"my-shop": "secret"})
    assert (database["login"], database["others"]) == ("my_shop", [])
    assert database["verifier"] == scram_sha_256("secret", "my_shop")


@pytest.mark.parametrize(("login", "other"), [("my_shop", "my_shop-2"), ("my_shop-2", "my_shop")])
def test_while_a_password_is_rotated_both_logins_are_good(login: str, other: str) -> None:
    rotation = {"kind": "database", "app": "my-shop", "login": other, "other": "second"}
    (database,) = site_databases(SHOP, {"my-shop": "first"}, {"my-shop": login}, rotation)
    good = {one["name"]: one["verifier"] for one in [database, *database["others"]]}
    assert good == {login: scram_sha_256("first", login), other: scram_sha_256("second", other)}
    assert database["login"] == login


def test_an_owner_whose_second_login_is_used_may_not_log_in() -> None:
    (database,) = site_databases(SHOP, {"my-shop": "secret"}, {"my-shop": "my_shop-2"})
    assert database["verifier"] == ""
    assert [one["name"] for one in database["others"]] == ["my_shop-2"]


def test_the_rotation_of_another_secret_changes_no_login() -> None:
    for rotation in ({"kind": "redis", "other": "x"}, {"kind": "database", "app": "blog", "login": "b", "other": "x"}):
        (database,) = site_databases(SHOP, {"my-shop": "secret"}, {}, rotation)
        assert database["others"] == []
