"""A certificate that a site brings itself is looked at before any host is touched."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from filter_plugins.certificate_problems import certificate_problems

NOW = datetime(2026, 11, 24, tzinfo=UTC)
APP = {"name": "shop", "domains": ["shop.example", "www.shop.example"]}


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def pem(key, encryption=None):
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(*form, encryption or serialization.NoEncryption()).decode()


def issued(key, *names, begins=NOW - timedelta(days=1), ends=NOW + timedelta(days=90)):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.example")])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begins).not_valid_after(ends)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


KEY = new_key()
GOOD = {"certificate": issued(KEY, *APP["domains"]), "key": pem(KEY)}
LOCKED = pem(KEY, serialization.BestAvailableEncryption(b"password"))


def told(**changes):
    return certificate_problems([APP], {"shop": {**GOOD, **changes}}, NOW)


def test_a_good_one_is_served():
    assert told() == []


def test_a_wildcard_and_a_chain_are_fine():
    chain = issued(KEY, "shop.example", "*.shop.example") + issued(new_key(), "authority.example")
    assert told(certificate=chain) == []


def test_a_wildcard_is_good_for_one_level_alone():
    app = {"name": "shop", "domains": ["a.b.shop.example"]}
    own = {"shop": {"certificate": issued(KEY, "*.shop.example"), "key": pem(KEY)}}
    assert "a.b.shop.example" in certificate_problems([app], own, NOW)[0]["problem"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"key": pem(new_key())}, "does not belong to its certificate"),
        ({"key": LOCKED}, "locked with a password"),
        ({"key": "/etc/ssl/shop.key"}, "no private key in PEM"),
        ({"key": ""}, "no certificate and key"),
        ({"certificate": "shop.crt"}, "no PEM text"),
        ({"certificate": issued(KEY, "shop.example")}, "lacks the name www.shop.example; it has shop.example"),
        ({"certificate": issued(KEY)}, "it has none"),
        ({"certificate": issued(KEY, *APP["domains"], ends=NOW)}, "ended on 2026-11-24"),
        ({"certificate": issued(KEY, *APP["domains"], begins=NOW + timedelta(days=2))}, "begins on 2026-11-26"),
    ],
)
def test_what_could_not_be_served_is_told_without_the_key(changes, says):
    (found,) = told(**changes)
    assert says in found["problem"]
    assert found["path"][:2] == ["tls_certificates", "shop"]
    assert "PRIVATE KEY-----\n" not in str(found)


def test_an_app_without_one_and_one_without_an_app_are_told():
    apps = [APP, {"name": "quiet", "domains": []}]
    found = certificate_problems(apps, {"shpo": GOOD}, NOW)
    assert [entry["path"] for entry in found] == [["tls_certificates", "shop"], ["tls_certificates", "shpo"]]


def test_a_site_that_has_none_at_all_is_told():
    assert len(certificate_problems([APP], None, NOW)) == 1
