"""A site in a directory of its own, and real runs of ansible-playbook against it."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SECRETS = {
    "vault_ca_secret": "Zr5NvKq8WbTx3LmYcH2d",
    "vault_redis_password": "w9FhJk2LmNpQr5StVxYz",
    "vault_shop_secret_key": "A1s2D3f4G5h6J7k8L9z0XcVbNm",
}
FILES = {
    "hosts.yml": """\
web:
  hosts:
    web1: {ansible_host: 203.0.113.11, address: 192.0.2.11}
db:
  hosts:
    db1: {ansible_host: 203.0.113.21, address: 192.0.2.21}
""",
    "group_vars/all/site.yml": """\
base_operator_name: operator
ssh_operator_keys:
  - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ1dHRlcmZseWJ1dHRlcmZseWJ1dHRlcmZseWJ1dHQ you@laptop
base_timezone: Etc/UTC
""",
    "group_vars/all/apps.yml": """\
apps:
  - name: shop
    source: examples/errorlog
    domains: [shop.example]
    processes: {web: 2, worker: 1}
    config:
      SECRET_KEY: "{{ vault_shop_secret_key }}"
""",
    "group_vars/all/vault.yml": "".join(
        [f"{name}: {value}\n" for name, value in SECRETS.items()]
        + ["vault_database_passwords:\n", "  shop: k7NwqVb2mXz9LpRt4sYc\n"]
    ),
}


@dataclass
class Run:
    """What a run said, how it ended and how long it took."""

    code: int
    text: str
    seconds: float
    connections: str
    problems: list[str] = field(default_factory=list)


class Site:
    """An inventory in a directory, with an ssh that notes its use and never connects."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "site"
        self.calls = directory / "ssh-calls"
        self.ssh = directory / "ssh"
        self.ssh.write_text(
            f'#!/bin/sh\necho "$@" >> {self.calls}\necho "${{SSH_SAYS:-Connection refused}}" >&2\nexit 255\n'
        )
        self.ssh.chmod(0o755)
        for name, content in FILES.items():
            (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
            (self.directory / name).write_text(content)

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def edit(self, name: str, old: str, new: str) -> None:
        file = self.directory / name
        content = file.read_text()
        assert old in content
        file.write_text(content.replace(old, new))

    def encrypt(self, password: str) -> Path:
        file = self.directory.parent / "password"
        file.write_text(password)
        vault = self.path("group_vars/all/vault.yml")
        command = [BIN / "ansible-vault", "encrypt", "--vault-password-file", file, vault]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        return file

    def play(self, *arguments: object, playbook: str = "playbooks/preflight.yml", **environment: str) -> Run:
        command = [BIN / "ansible-playbook", "-i", self.directory, *arguments, playbook]
        plain = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        settings = {
            "ANSIBLE_SSH_EXECUTABLE": str(self.ssh),
            "ANSIBLE_NOCOLOR": "1",
            **environment,
        }
        start = time.monotonic()
        done = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env={**plain, **settings},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        seconds, text = time.monotonic() - start, done.stdout + done.stderr
        calls = self.calls.read_text() if self.calls.exists() else ""
        entries = re.findall(r"^ {4,8}(\d+\. .*\n.*To mend: .*)$", text, re.MULTILINE)
        return Run(done.returncode, text, seconds, calls, entries)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)
