"""Jinja filter site_certificate: a service's certificate from the site's own authority."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.errors import AnsibleFilterError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOCUMENTATION = r"""
name: site_certificate
short_description: A service's certificate from the site's own authority
description:
  - Returns the certificate and the key with which a service of one host speaks TLS, and the authority by which its
    clients check it.
  - All is derived from one secret (HKDF, RFC 5869, and signatures after RFC 6979), so that every host and every run
    comes to the same, and nothing but the secret has to be kept. Without the secret nothing of it can be made.
  - An authority is made for each I(authority), so that who holds a certificate of the one is nobody to the clients of
    the other, also to those that check no name.
  - A certificate is good for a year. Every thirty days the filter comes to a new one for the same key, so that one that
    is put in place by any run is good for eleven months. The authority's own is good for ten years and new each year.
  - While the secret is changed, the authority of the other one is trusted as well, so that what one host has already
    and another has not goes together.
positional: authority, host, names
options:
  _input:
    description: The site's secret.
    type: str
    required: true
  authority:
    description: Which of the site's authorities.
    type: str
    required: true
  host:
    description: The service and its host, which no other certificate of the authority has.
    type: str
    required: true
  names:
    description: Names and addresses by which clients reach the service.
    type: list
    elements: str
    required: true
  also_trusted:
    description: Another secret whose authority is trusted too; empty for none.
    type: str
    default: ""
"""

EXAMPLES = r"""
redis_certificate: "{{ vault_ca_secret | site_certificate('redis', 'redis db1', ['db1', '192.0.2.21']) }}"
"""

RETURN = r"""
_value:
  description: C(authority), C(certificate) and C(key), each PEM.
  type: dict
"""

CURVE = ec.SECP256R1()
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# A clock that is behind takes what is new today.
SLACK = timedelta(days=1)
# What Mozilla's profile takes at most is 366 days.
DAYS = 365
PERIOD_DAYS = 30
AUTHORITY_YEARS = 10


def derived(secret: str, *about: str, length: int) -> bytes:
    information = b"\0".join([b"offramp certificate", *(word.encode() for word in about)])
    return HKDF(hashes.SHA256(), length, salt=None, info=information).derive(secret.encode())


def derived_key(secret: str, *about: str) -> ec.EllipticCurvePrivateKey:
    # Sixteen bytes more than a key has, so that none is likelier than another (FIPS 186-5, A.2.1).
    number = int.from_bytes(derived(secret, "key", *about, length=48))
    return ec.derive_private_key(number % (ORDER - 1) + 1, CURVE)


def serial(secret: str, *about: str) -> int:
    return int.from_bytes(derived(secret, "serial", *about, length=16)) | 1


def signed(
    secret: str,
    about: list[str],
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey],
    begin: datetime,
    end: datetime,
    extensions: list[tuple[x509.ExtensionType, bool]],
) -> str:
    name, authority = issuer
    identity = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    extensions = [*extensions, (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False), (identity, False)]
    words = [*about, begin.isoformat(), end.isoformat(), *(str(extension) for extension, _ in extensions)]
    builder = x509.CertificateBuilder(name, subject, key.public_key(), serial(secret, *words), begin, end)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(authority, hashes.SHA256(), ecdsa_deterministic=True)
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def usage(**true: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: true.get(name, False) for name in names})


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def root(secret: str, authority: str, today: datetime) -> tuple[x509.Name, ec.EllipticCurvePrivateKey, str]:
    """Return an authority's name, its key and its certificate, which it signs itself."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Offramp, this site's {authority}")])
    key = derived_key(secret, authority)
    begin = datetime(today.year, 1, 1, tzinfo=UTC) - SLACK
    end = begin.replace(year=begin.year + AUTHORITY_YEARS)
    own = x509.BasicConstraints(ca=True, path_length=0), True
    certifies = usage(key_cert_sign=True, crl_sign=True), True
    return name, key, signed(secret, [authority], name, key, (name, key), begin, end, [own, certifies])


def site_certificate(
    secret: str,
    authority: str,
    host: str,
    names: Sequence[str],
    also_trusted: str = "",
    now: float | None = None,
) -> dict[str, str]:
    """Return what a service of one host is, and by what its clients know it."""
    for what, text in {"secret": secret, "authority": authority, "host": host}.items():
        if not isinstance(text, str) or not text:
            raise AnsibleFilterError(f"site_certificate: the {what} has to be a text that is not empty")
    if isinstance(names, str) or not names or not all(isinstance(name, str) and name.isascii() for name in names):
        raise AnsibleFilterError(f"site_certificate: the names of {host} have to be a list of texts, and are {names!r}")

    today = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    day = int(today.timestamp()) // 86400
    begin = datetime.fromtimestamp((day - day % PERIOD_DAYS) * 86400, UTC) - SLACK
    issuer, issuer_key, trusted = root(secret, authority, today)
    if also_trusted:
        trusted += root(also_trusted, authority, today)[2]

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    key = derived_key(secret, authority, host)
    alternatives = x509.SubjectAlternativeName([general_name(name) for name in dict.fromkeys(names)])
    extensions = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (alternatives, False),
    ]
    end = begin + timedelta(days=DAYS)
    leaf = signed(secret, [authority, host], subject, key, (issuer, issuer_key), begin, end, extensions)

    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(encoding, form, serialization.NoEncryption()).decode()
    return {"authority": trusted, "certificate": leaf, "key": pem}


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"site_certificate": site_certificate}
