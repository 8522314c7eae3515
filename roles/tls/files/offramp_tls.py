#!/usr/bin/python3
"""Ask the certificate authority for what the sites need, and tell how long each certificate lasts.

  offramp-tls issue      ask for what is missing; what was done and what stands in the way, as JSON
  offramp-tls daily      the same, then fail where a certificate ends soon: run by offramp-tls.timer
  offramp-tls deployed   certbot's deploy hook: have nginx serve what was just issued or renewed
  offramp-tls status     a line for each site, of the certificate that nginx serves

certbot keeps the certificates and renews them by its own timer. Before it is asked for a name, that name is fetched
over port 80 as the authority would, since the authority allows few failures.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/offramp/tls.json")
LETSENCRYPT = Path("/etc/letsencrypt")
SERVED = Path("/etc/ssl/private")
TRUSTED = Path("/etc/nginx/trusted")
SITES = Path("/etc/nginx/conf.d/sites.conf")
CHALLENGES = ".well-known/acme-challenge"
TIMEOUT_SECONDS = 10


@dataclass
class Certificate:
    """What a certificate says of itself."""

    names: list[str]
    ends: datetime
    issuer: str
    self_signed: bool
    fingerprint: str

    @property
    def days(self) -> int:
        return (self.ends - datetime.now(UTC)).days


def read(pem: str) -> Certificate:
    words = "-noout", "-subject", "-issuer", "-enddate", "-fingerprint", "-sha256", "-ext", "subjectAltName"
    command = ["openssl", "x509", *words, "-nameopt", "sep_comma_plus,utf8"]
    said = subprocess.run(command, input=pem, check=True, capture_output=True, text=True).stdout
    field = dict(re.findall(r"^([\w ]+?)=(.*)$", said, re.MULTILINE))
    issuer = re.search(r"(?:^|,)\s*O=([^,]+)", field["issuer"]) or re.search(r"CN=([^,]+)", field["issuer"])
    return Certificate(
        names=sorted(re.findall(r"DNS:([^,\s]+)", said)),
        ends=datetime.strptime(field["notAfter"], "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC),
        issuer=issuer.group(1) if issuer else field["issuer"],
        self_signed=field["subject"] == field["issuer"],
        fingerprint=field["sha256 Fingerprint"],
    )


def on_disk(name: str) -> Certificate | None:
    path = SERVED / f"{name}.crt"
    return read(path.read_text()) if path.exists() else None


def in_service(domain: str) -> Certificate | None:
    """The certificate that nginx on this host gives for a name: what is on disk may not be loaded."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", 443), TIMEOUT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=domain) as encrypted,
        ):
            return read(ssl.DER_cert_to_PEM_cert(encrypted.getpeercert(binary_form=True)))
    except OSError:
        return None


class Reach:
    """Whether this site answers for a name on port 80, wherever the name leads."""

    def __init__(self, webroot: str) -> None:
        self.directory = Path(webroot, CHALLENGES)
        self.token = f"offramp-{secrets.token_hex(16)}"

    def __enter__(self) -> Reach:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / self.token).write_text(self.token)
        return self

    def __exit__(self, *_: object) -> None:
        (self.directory / self.token).unlink(missing_ok=True)

    def problem(self, domain: str) -> str | None:
        try:
            found = socket.getaddrinfo(domain, 80, type=socket.SOCK_STREAM)
        except socket.gaierror:
            return (
                f"{domain} does not resolve: make a DNS record for it that points to this web server, "
                "and wait until it has spread"
            )
        addresses = sorted({str(entry[4][0]) for entry in found})
        faults = {address: self._fault(domain, address) for address in addresses}
        wrong = next((address for address in addresses if faults[address]), None)
        return f"{domain} leads to {wrong}, which {faults[wrong]}" if wrong else None

    def _fault(self, domain: str, address: str) -> str | None:
        connection = http.client.HTTPConnection(address, 80, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", f"/{CHALLENGES}/{self.token}", headers={"Host": domain})
            answer = connection.getresponse()
            if answer.read(200) == self.token.encode():
                return None
        except OSError as error:
            if error.errno == errno.ENETUNREACH:
                # This host has no IPv6 of its own: others may reach it there through a proxy.
                return None
            reason = error.strerror or error
            return f"does not answer on port 80 ({reason}): point the DNS record to this web server, or open the port"
        except http.client.HTTPException:
            pass
        finally:
            connection.close()
        return "is not this site: point the DNS record (A, and AAAA where there is one) to this web server"


class Authority:
    """certbot, on behalf of this host's sites."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def lacks(self, name: str, domains: list[str]) -> list[str] | None:
        """What certbot has to be told beside the names, or None where the site has what it needs."""
        try:
            kept = read((LETSENCRYPT / "live" / name / "fullchain.pem").read_text())
            settings = (LETSENCRYPT / "renewal" / f"{name}.conf").read_text()
        except FileNotFoundError:
            return []
        if not re.search(rf"^server = {re.escape(self.config['directory_url'])}$", settings, re.MULTILINE):
            # From the staging authority to the real one: what is there looks valid, and is not.
            return ["--force-renewal"]
        if kept.names != sorted(domains):
            return ["--renew-with-new-domains"]
        return None

    def ask(self, name: str, domains: list[str], more: list[str]) -> str | None:
        """Have a certificate issued, or return what the authority says against it."""
        email = self.config["email"]
        named = [word for domain in sorted(domains) for word in ("--domain", domain)]
        command = [
            *("certbot", "certonly", "--non-interactive", "--agree-tos", "--keep-until-expiring"),
            *("--key-type", "ecdsa"),
            *(("--email", email, "--no-eff-email") if email else ("--register-unsafely-without-email",)),
            *("--server", self.config["directory_url"]),
            *("--webroot", "--webroot-path", self.config["webroot"], "--cert-name", name, *named),
            *("--deploy-hook", "/usr/local/sbin/offramp-tls deployed", *more),
        ]
        environment = dict(os.environ)
        if self.config["ca_file"]:
            environment["REQUESTS_CA_BUNDLE"] = self.config["ca_file"]
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        return None if done.returncode == 0 else refusal(done.stdout + done.stderr)

    def forget(self) -> Iterator[str]:
        """Stop renewing what no site uses any more, of those that were asked for here."""
        in_use = SITES.read_text()
        for settings in sorted((LETSENCRYPT / "renewal").glob("*.conf")):
            name = settings.stem
            ours = "offramp-tls deployed" in settings.read_text()
            if ours and name not in self.config["domains"] and f"{SERVED}/{name}.crt" not in in_use:
                command = ["certbot", "delete", "--non-interactive", "--cert-name", name]
                subprocess.run(command, check=True, capture_output=True)
                for path in (SERVED / f"{name}.crt", SERVED / f"{name}.key", TRUSTED / f"{name}.conf"):
                    path.unlink(missing_ok=True)
                yield name


def refusal(text: str) -> str:
    """The lines of certbot's output that say why."""
    details = re.findall(r"^\s*(?:Domain|Type|Detail):\s*(.+)$", text, re.MULTILINE)
    if details:
        return ": ".join(details)
    ignored = ("Saving debug log", "Ask for help", "See the logfile", "Requesting a certificate", "Some challenges")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(ignored)]
    return " ".join(lines)[-300:] or "certbot failed: /var/log/letsencrypt/letsencrypt.log"


def issue(config: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"issued": [], "waiting": [], "refused": []}
    if config["source"] != "acme":
        return result
    authority = Authority(config)
    if gone := [f"{name} (given up)" for name in authority.forget()]:
        result["issued"] += gone
        reload_nginx()
    for name, domains in sorted(config["domains"].items()):
        more = authority.lacks(name, domains)
        if more is None:
            continue
        with Reach(config["webroot"]) as reach:
            problems = [found for domain in sorted(domains) if (found := reach.problem(domain))]
        if problems:
            result["waiting"] += problems
        elif said := authority.ask(name, domains, more):
            result["refused"].append(f"{name} ({', '.join(sorted(domains))}): {said}")
        else:
            result["issued"].append(name)
    return result


def link(path: Path, target: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.rename(path)


def deployed(config: dict[str, Any]) -> None:
    lineage = Path(os.environ["RENEWED_LINEAGE"])
    name = lineage.name
    link(SERVED / f"{name}.key", f"{lineage}/privkey.pem")
    link(SERVED / f"{name}.crt", f"{lineage}/fullchain.pem")
    mark = TRUSTED / f"{name}.conf"
    if config["staging"]:
        mark.unlink(missing_ok=True)
    else:
        TRUSTED.mkdir(exist_ok=True)
        mark.write_text("set $trusted yes;\n")
    reload_nginx()


def reload_nginx() -> None:
    subprocess.run(["systemctl", "reload", "nginx.service"], check=True)


def states(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each site with its line, and with what is wrong or an empty text."""
    for name, domains in sorted(config["domains"].items()):
        served, kept = in_service(domains[0]), on_disk(name)
        head = f"{name:<16}"
        if served is None:
            yield f"{head} nginx serves no certificate for it", "is not served"
            continue
        lacking = sorted(set(domains) - set(served.names))
        fault = ""
        if served.days < config["warning_days"]:
            fault = f"ends in {served.days} days"
        elif lacking:
            fault = f"lacks {', '.join(lacking)}"
        elif kept is None or kept.fingerprint != served.fingerprint:
            fault = "is older than the one on disk: systemctl reload nginx"
        elif served.self_signed:
            fault = "is self-signed"
        issuer = "self-signed" if served.self_signed else served.issuer
        line = f"{head} {served.days:>4} days, until {served.ends:%Y-%m-%d}  {issuer}  {' '.join(served.names)}"
        yield line + (f"  <- {fault}" if fault else ""), fault


def status(config: dict[str, Any]) -> bool:
    good = True
    for line, fault in states(config):
        print(line)
        good = good and not fault
    return good


def older(config: dict[str, Any]) -> bool:
    return any(fault.startswith("is older") for _line, fault in states(config))


def daily(config: dict[str, Any]) -> bool:
    result = issue(config)
    for kind in ("issued", "waiting", "refused"):
        for line in result[kind]:
            print(f"{kind}: {line}")
    if older(config):
        reload_nginx()
        # The signal is sent, and a busy server takes a while to act on it.
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while older(config) and time.monotonic() < deadline:
            time.sleep(0.2)
    return status(config) and not result["refused"]


def main() -> int:
    config = json.loads(CONFIG.read_text())
    match sys.argv[1:]:
        case ["issue"]:
            print(json.dumps(issue(config)))
        case ["daily"]:
            return 0 if daily(config) else 1
        case ["deployed"]:
            deployed(config)
        case ["status"]:
            return 0 if status(config) else 1
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
