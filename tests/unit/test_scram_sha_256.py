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
