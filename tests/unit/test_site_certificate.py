"""The filter site_certificate, and that OpenSSL, which the services and their clients use, agrees with it."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from filter_plugins.site_certificate import site_certificate

SECRET = "what all of it is made of"  # noqa: S105
NOW = datetime(2026, 11, 28, tzinfo=UTC).timestamp()
DAY = 86400.0


def made(now: float = NOW, **changes: Any) -> dict[str, str]:
    given = {"authority": "redis", "host": "redis db1", "names": ["db1", "192.0.2.21", "2001:db8::21"]} | changes
    secret = given.pop("secret", SECRET)
    return site_certificate(secret, now=now, **given)


def leaf(found: dict[str, str]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(found["certificate"].encode())


def verified(directory: Path, found: dict[str, str], authority: str, *options: str) -> bool:
    """Whether openssl takes a certificate by an authority, as at the moment of these tests."""
    (directory / "authority.pem").write_text(authority)
    (directory / "certificate.pem").write_text(found["certificate"])
    moment = "-attime", f"{NOW:.0f}", "-x509_strict", "-purpose", "sslserver"
    files = "-CAfile", str(directory / "authority.pem"), str(directory / "certificate.pem")
    done = subprocess.run(["openssl", "verify", *moment, *options, *files], capture_output=True, text=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("name", ["db1", "192.0.2.21", "2001:db8::21"])
def test_a_client_finds_each_name_in_it_and_no_other(tmp_path: Path, name: str) -> None:
    found = made()
    kind = "-verify_hostname" if name == "db1" else "-verify_ip"
    assert verified(tmp_path, found, found["authority"], kind, name)
    other = "db2" if name == "db1" else "192.0.2.22"
    assert not verified(tmp_path, found, found["authority"], kind, other)


def test_the_key_is_the_certificates() -> None:
    found = made()
    key = load_pem_private_key(found["key"].encode(), None)
    assert key.public_key() == leaf(found).public_key()


def test_every_host_and_run_comes_to_the_same() -> None:
    assert made() == made(NOW + 1)
    assert made()["authority"] == made(host="redis db2", names=["db2"])["authority"]


@pytest.mark.parametrize("changes", [{"secret": SECRET + "x"}, {"authority": "postgresql"}])
def test_of_another_secret_or_authority_nothing_is_known(tmp_path: Path, changes: dict[str, str]) -> None:
    own, other = made(), made(**changes)
    assert verified(tmp_path, own, own["authority"])
    assert not verified(tmp_path, other, own["authority"])
    assert own["key"] != other["key"]


def test_while_the_secret_changes_either_ones_certificate_is_taken(tmp_path: Path) -> None:
    other = SECRET + "x"
    trusted = made(also_trusted=other)["authority"]
    assert verified(tmp_path, made(), trusted)
    assert verified(tmp_path, made(secret=other), trusted)
    assert not verified(tmp_path, made(secret=SECRET + "y"), trusted)


def test_each_host_has_a_key_of_its_own() -> None:
    assert made()["key"] != made(host="redis db2")["key"]


@given(st.integers(0, 20 * 365))
def test_what_any_run_puts_in_place_is_good_for_eleven_months_and_for_a_year_at_most(days: int) -> None:
    now = datetime.fromtimestamp(NOW + days * DAY + 1, UTC)
    found = made(now.timestamp())
    certificate, authority = leaf(found), x509.load_pem_x509_certificate(found["authority"].encode())
    for one, least in ((certificate, 333), (authority, 9 * 365 - 2)):
        # A clock that is a day behind takes it as well.
        assert one.not_valid_before_utc <= now - timedelta(days=1)
        assert one.not_valid_after_utc >= now + timedelta(days=least)
    # What Mozilla's profile takes.
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= timedelta(days=366)


def test_a_new_one_and_the_authority_of_last_year_go_together(tmp_path: Path) -> None:
    """While a run renews them, one host after the other."""
    old, new = made(NOW - 340 * DAY), made()
    assert old["authority"] != new["authority"]
    assert old["certificate"] != new["certificate"]
    assert old["key"] == new["key"]
    assert verified(tmp_path, new, old["authority"])
    assert verified(tmp_path, old, new["authority"])


def test_two_that_say_something_different_have_different_numbers() -> None:
    certificates = [leaf(made()), leaf(made(NOW + 40 * DAY)), leaf(made(names=["db1"])), leaf(made(host="redis db2"))]
    assert len({certificate.serial_number for certificate in certificates}) == len(certificates)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"secret": ""}, "secret"),
        ({"secret": None}, "secret"),
        ({"host": ""}, "host"),
        ({"names": []}, "names"),
        ({"names": "db1"}, "names"),
        ({"names": ["dé"]}, "names"),
    ],
)
def test_what_makes_no_certificate_is_refused_and_no_secret_shown(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(AnsibleFilterError) as refused:
        made(**changes)
    assert what in str(refused.value)
    assert SECRET not in str(refused.value)
