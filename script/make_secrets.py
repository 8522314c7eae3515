"""Make or complete a site's vault: a new random secret for each one that the site refers to and does not have yet.

The vault's password is read from the file that ANSIBLE_VAULT_PASSWORD_FILE names; where it names none, a password is
made in .vault-password-<site>, which git ignores.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import string
import subprocess
import sys
from pathlib import Path

import yaml

ALPHABET = string.ascii_letters + string.digits
# What can be made here. A key of somebody else's service can't, and is left for the person to add.
OURS = re.compile(
    r"vault_ca_secret|vault_redis_password|vault_replication_password|vault_backup_cipher_key|vault_\w*secret_key\w*"
)
ALWAYS = {"vault_ca_secret", "vault_redis_password", "vault_replication_password"}


def new_secret() -> str:
    """Return 40 letters and digits, 238 bits, which need no quoting in a URL or a configuration file."""
    return "".join(secrets.choice(ALPHABET) for _ in range(40))


def vault_command(*words: str, data: str | None = None) -> str:
    """Run ansible-vault with the site's password file and return what it prints."""
    done = subprocess.run(["ansible-vault", *words], input=data, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return done.stdout


def referenced(site: Path) -> set[str]:
    """Return the names of all vault_ variables in the site's inventory."""
    texts = (path.read_text() for path in site.rglob("*.yml") if path.name != "vault.yml")
    lines = (line for text in texts for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {name for line in lines for name in re.findall(r"\bvault_\w+", line)} | ALWAYS


def app_names(site: Path) -> list[str]:
    path = site / "group_vars/all/apps.yml"
    return [app["name"] for app in yaml.safe_load(path.read_text())["apps"]] if path.exists() else []


def password_file(site: Path) -> Path:
    """Return the vault password's file, made with a random password where there is none."""
    named = os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE")
    path = Path(named) if named else Path(f".vault-password-{site.name}")
    if not path.exists():
        if named:
            sys.exit(f"{path}, which ANSIBLE_VAULT_PASSWORD_FILE names, does not exist.")
        path.touch(mode=0o600)
        path.write_text(new_secret() + "\n")
        print(f"Made {path} with a new vault password. Keep a copy where the servers can't take it with them.")
    os.environ["ANSIBLE_VAULT_PASSWORD_FILE"] = str(path)
    return path


def completed(values: dict, site: Path) -> list[str]:
    """Add what is missing to values, and return the names of what was added."""
    added = []
    for name in sorted(name for name in referenced(site) if OURS.fullmatch(name) and name not in values):
        values[name] = new_secret()
        added.append(name)
    passwords = values.setdefault("vault_database_passwords", {})
    for app in app_names(site):
        if app not in passwords:
            passwords[app] = new_secret()
            added.append(f"vault_database_passwords.{app}")
    return added


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/secrets", description=__doc__.splitlines()[0])
    parser.add_argument("inventory", type=Path, help="the site's folder, such as inventory/mysite")
    site = parser.parse_args().inventory
    if not (site / "group_vars/all").is_dir():
        sys.exit(f"{site} is no site: it has no folder group_vars/all. Begin with: ansible-playbook playbooks/init.yml")
    password = password_file(site)
    vault = site / "group_vars/all/vault.yml"
    values = yaml.safe_load(vault_command("decrypt", "--output", "-", str(vault))) if vault.exists() else {}
    added = completed(values, site)
    if added:
        encrypted = vault_command("encrypt", "--output", "-", data="---\n" + yaml.safe_dump(values))
        vault.touch(mode=0o600)
        vault.write_text(encrypted)
    print(f"{vault}: {len(added)} secrets added{': ' + ', '.join(added) if added else ''}.")
    for name in sorted(referenced(site) - set(values)):
        print(f"{name} is somebody else's secret and not made here. Add it: ansible-vault edit {vault}")
    print(f"Before you run a playbook: export ANSIBLE_VAULT_PASSWORD_FILE={password}")


if __name__ == "__main__":
    main()
