"""What keeps a site's own certificates from being served, before any host is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

DOCUMENTATION = r"""
name: certificate_problems
short_description: What keeps a site's own certificates from being served
description:
  - Looks at each app's own certificate and key, whether they can be read, belong together, cover the app's domains, and
    last. An empty list means that they are right. No message holds any of a key.
options:
  _input:
    description: The apps, each with C(name) and C(domains).
    type: list
    elements: dict
    required: true
  certificates:
    description: By the app's name, a mapping with C(certificate) (followed by its chain) and C(key), as PEM.
    type: dict
    required: true
  moment:
    description: The time at which they are to be valid, with its zone.
    type: raw
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ apps | certificate_problems(tls_certificates, now(utc=true)) }}"
"""

RETURN = r"""
_value:
  description: >-
    One mapping a problem. C(path) leads to the value, C(problem) says what is wrong, C(mend) the line that mends it.
  type: list
  elements: dict
"""

FILE = "{{ lookup('ansible.builtin.file', inventory_dir ~ '/tls/%s.crt') }}"
EXAMPLE = f'{{certificate: "{FILE}", key: "{{{{ vault_%s_tls_key }}}}"}}'


def problem(path: list[Any], text: str, mend: str) -> dict[str, Any]:
    return {"path": path, "problem": text, "mend": mend}


def unresolved(value: Any) -> bool:
    return isinstance(value, dict) and "__unresolved__" in value


def covers(names: list[str], domain: str) -> bool:
    """Whether one of the names is the domain, or a wildcard for it."""
    wildcard = f"*.{domain.partition('.')[2]}"
    return domain.lower() in names or wildcard.lower() in names


def own_problems(app: dict[str, Any], own: Any, moment: datetime) -> Iterator[dict[str, Any]]:
    """What is wrong with the certificate and key of one app."""
    name, path = app["name"], ["tls_certificates", app["name"]]
    if unresolved(own):
        return
    if not isinstance(own, dict) or not own.get("certificate") or not own.get("key"):
        example = EXAMPLE % (name, name.replace("-", "_"))
        yield problem(path, f"the app {name} has no certificate and key", f"write  {name}: {example}")
        return
    if unresolved(own["certificate"]) or unresolved(own["key"]):
        return
    certificate, key = first_certificate(own["certificate"]), private_key(own["key"])
    if certificate is None:
        yield problem(
            [*path, "certificate"],
            f"the certificate of {name} is no PEM text",
            "give what begins with  -----BEGIN CERTIFICATE-----, the server's own first and then its chain",
        )
    if key is None:
        yield problem(
            [*path, "key"],
            f"the key of {name}'s certificate is no private key in PEM, or is locked with a password",
            "give what begins with  -----BEGIN PRIVATE KEY-----  (openssl pkey -in <file> takes a password off)",
        )
    if certificate is not None and key is not None and public_bytes(certificate) != public_bytes(key):
        yield problem(
            path,
            f"the key of {name} does not belong to its certificate (the first one, if there are several)",
            "give the key that the certificate was asked for with, and the server's own certificate before its chain",
        )
    if certificate is not None:
        yield from validity_problems(app, certificate, moment)


def first_certificate(text: Any) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificates(str(text).encode())[0]
    except ValueError:
        return None


def private_key(text: Any) -> Any:
    try:
        return serialization.load_pem_private_key(str(text).strip().encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def public_bytes(holder: Any) -> bytes:
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return holder.public_key().public_bytes(*form)


def validity_problems(app: dict[str, Any], certificate: x509.Certificate, moment: datetime) -> Iterator[dict[str, Any]]:
    """A certificate that is not valid now, or not for all of the app's domains."""
    name, path = app["name"], ["tls_certificates", app["name"], "certificate"]
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if ends <= moment:
        yield problem(path, f"the certificate of {name} ended on {ends:%Y-%m-%d}", "give a new one")
    elif begins > moment:
        yield problem(path, f"the certificate of {name} begins on {begins:%Y-%m-%d}", "give one that is valid now")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        covered = [entry.lower() for entry in names.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        covered = []
    lacking = [str(domain) for domain in app["domains"] if not covers(covered, str(domain))]
    if lacking:
        has = f"it has {', '.join(covered)}" if covered else "it has none"
        yield problem(
            path,
            f"the certificate of {name} lacks the name {' and '.join(lacking)}; {has}",
            "give one that has all of the app's domains, or take the domain from the app",
        )


def certificate_problems(apps: Any, certificates: Any, moment: datetime) -> list[dict[str, Any]]:
    """Return every problem of the certificates that a site brings itself."""
    wanted = [
        app
        for app in (apps if isinstance(apps, list) else [])
        if isinstance(app, dict) and isinstance(app.get("name"), str) and isinstance(app.get("domains"), list)
        if app["domains"]
    ]
    if unresolved(certificates) or not isinstance(certificates, dict | None):
        return []
    given = certificates or {}
    found = [entry for app in wanted for entry in own_problems(app, given.get(app["name"]), moment)]
    strangers = sorted(given.keys() - {app["name"] for app in wanted})
    return found + [
        problem(
            ["tls_certificates", name],
            f'tls_certificates has one for "{name}", and there is no such app with a domain',
            f"remove  {name}  from tls_certificates",
        )
        for name in strangers
    ]


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"certificate_problems": certificate_problems}
