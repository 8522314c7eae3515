#!/usr/bin/python3
"""Have a certificate and its key for each site, so that the web server can start."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.placing import place_file, place_link

DOCUMENTATION = r"""
module: tls_files
short_description: Has a certificate and its key for each site
description:
  - Leaves C(<name>.crt) and C(<name>.key) in I(directory) for each site, which the web server reads.
  - A self-signed certificate is made anew when a name was added or taken away, or when it is near its end. With
    I(source=acme) it is what the site begins with, and gives way to the one that certbot keeps, once that is there.
  - No module of the collections does this without a Python library on the host.
options:
  directory:
    description: Where the files are.
    type: path
    required: true
  source:
    description: Where certificates come from.
    type: str
    choices: [self-signed, acme, own]
    required: true
  domains:
    description: The domains of each site, by its name.
    type: dict
    required: true
  own:
    description: For I(source=own), by the site's name, a mapping with C(certificate) (and its chain) and C(key), PEM.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Configure | Have a certificate for each site
  tls_files:
    directory: /etc/ssl/private
    source: self-signed
    domains: {shop: [shop.example]}
"""

RETURN = r"""
changed_sites:
  description: Sites whose certificate was changed, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

LIVE = "/etc/letsencrypt/live"
# What browsers and Mozilla's profile take at most is 366 days.
DAYS = 365
RENEW_SECONDS = 30 * 86400


class Files:
    """The certificate and key of one site."""

    def __init__(self, module: AnsibleModule, name: str, domains: list[str]) -> None:
        self.module = module
        self.name = name
        self.domains = sorted(domains)
        directory = Path(module.params["directory"])
        self.certificate, self.key = directory / f"{self.name}.crt", directory / f"{self.name}.key"

    def keep_own(self, own: dict[str, str]) -> bool:
        # The key first: what a killed run leaves behind is a certificate that is still loaded with its old key.
        wished = {self.key: own["key"].strip() + "\n", self.certificate: own["certificate"].strip() + "\n"}
        differ = [path for path, text in wished.items() if path.is_symlink() or not holds(path, text)]
        for path in differ if not self.module.check_mode else []:
            place_file(path, wished[path].encode(), 0o600)
        return bool(differ)

    def keep_issued(self) -> bool:
        """Use what certbot keeps, or what was here before, or else begin with a self-signed one."""
        live = Path(LIVE, self.name)
        if not (live / "fullchain.pem").exists():
            return self.keep_self_signed() if self.is_self_signed() else False
        links = {self.key: f"{live}/privkey.pem", self.certificate: f"{live}/fullchain.pem"}
        differ = [path for path, target in links.items() if not path.is_symlink() or str(path.readlink()) != target]
        for path in differ if not self.module.check_mode else []:
            place_link(path, links[path])
        return bool(differ)

    def keep_self_signed(self) -> bool:
        if self.is_self_signed() and self.covers_its_names():
            return False
        if not self.module.check_mode:
            self._make()
        return True

    def is_self_signed(self) -> bool:
        """Whether the certificate is one of ours, or none at all."""
        if not self.certificate.exists() or not self.key.exists():
            return True
        subject, issuer = self._ask("-noout", "-subject"), self._ask("-noout", "-issuer")
        own = subject.removeprefix("subject=") == issuer.removeprefix("issuer=")
        return own and not self.certificate.is_symlink()

    def covers_its_names(self) -> bool:
        if not self.certificate.exists() or not self.key.exists():
            return False
        code, _out, _error = self.module.run_command(
            ["openssl", "x509", "-in", str(self.certificate), "-noout", "-checkend", str(RENEW_SECONDS)]
        )
        names = re.findall(r"DNS:([^,\s]+)", self._ask("-noout", "-ext", "subjectAltName"))
        return code == 0 and sorted(names) == self.domains

    def _ask(self, *words: str) -> str:
        return self.module.run_command(["openssl", "x509", "-in", str(self.certificate), *words])[1].strip()

    def _make(self) -> None:
        with tempfile.TemporaryDirectory(dir=self.module.tmpdir) as directory:
            key, certificate = Path(directory, "key"), Path(directory, "crt")
            names = ",".join(f"DNS:{domain}" for domain in self.domains)
            curve = "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"
            about = "-days", str(DAYS), "-subj", f"/CN={self.domains[0][:64]}", "-addext", f"subjectAltName={names}"
            files = "-keyout", str(key), "-out", str(certificate)
            self.module.run_command(["openssl", "req", "-x509", *curve, *about, *files], check_rc=True)
            place_file(self.key, key.read_bytes(), 0o600)
            place_file(self.certificate, certificate.read_bytes(), 0o644)


def holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text and path.stat().st_mode & 0o777 == 0o600


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "source": {"type": "str", "choices": ["self-signed", "acme", "own"], "required": True},
            "domains": {"type": "dict", "required": True},
            "own": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    source, own = module.params["source"], module.params["own"]
    changed = []
    for name, domains in sorted(module.params["domains"].items()):
        files = Files(module, name, domains)
        if source == "own":
            differs = files.keep_own(own[files.name])
        else:
            differs = files.keep_issued() if source == "acme" else files.keep_self_signed()
        if differs:
            changed.append(files.name)
    module.exit_json(changed=bool(changed), changed_sites=changed)


if __name__ == "__main__":
    main()
