"""Write the inventory of a new site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import filter_loader

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "inventory" / "example"
NO_APPS = """\
# The apps of this site. One that is on Heroku writes its own entry:
#   ansible-playbook -i {site} playbooks/import_heroku.yml -e app=shop -e source=<directory or git URL>
# An entry by hand, and each key that it takes: inventory/example/group_vars/all/apps.yml, roles/app/README.md
apps: []
"""
SERVER = re.compile(
    r"(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)(?::(?P<port>\d{1,5}))?(?:=(?P<private>[0-9.]+))?"
)
KEY = re.compile(r"(sk-)?(ssh|ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?")


def site_directory(name: str) -> Path:
    """Return where a site's inventory is: a plain name means a folder below inventory/."""
    return Path(name).expanduser().resolve() if "/" in name else ROOT / "inventory" / name


def shown(path: Path) -> str:
    """Return a path as it is written from the repository's root."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def is_ours(directory: Path) -> bool:
    return directory in (EXAMPLE, EXAMPLE.with_name("lab"))


def servers(text: str, prefix: str) -> dict[str, dict[str, Any]]:
    """Return the hosts of a group by name, from 'host[:port][=private address]' with commas between them."""
    hosts = {}
    for number, word in enumerate(filter(None, re.split(r"[,\s]+", text)), 1):
        found = SERVER.fullmatch(word)
        if not found:
            raise ValueError(word)
        values: dict[str, Any] = {"ansible_host": found["host"].strip("[]")}
        if found["port"]:
            values["ansible_port"] = int(found["port"])
        if found["private"]:
            values["address"] = found["private"]
        hosts[f"{prefix}{number}"] = values
    return hosts


def mistakes(arguments: dict[str, str]) -> Iterator[str]:
    """Everything that is wrong with the answers, each with what mends it."""
    site = arguments["site"]
    if not site:
        yield "the site has no name. Give it one:  -e site=mysite"
    elif "/" not in site and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", site):
        yield f'"{site}" is no name for a site: letters, digits, hyphens and underscores. Write  -e site=mysite'
    elif is_ours(site_directory(site)):
        yield f"{site} is the project's own; its next version would be in the way. Write  -e site=mysite"
    for group, purpose in (("web", "that runs the app"), ("db", "for the database")):
        try:
            found = servers(arguments[group], group)
        except ValueError as error:
            yield (
                f'"{error}" is no server: write  -e {group}=203.0.113.11 , with :2222 behind it for another ssh port, '
                "with =10.0.0.11 for its private address, and a comma before the next"
            )
            continue
        if not found and group == "web":
            yield f"there is no server {purpose}. Write  -e {group}=203.0.113.11"
    key = Path(arguments["key"]).expanduser()
    if not key.is_file():
        yield f"there is no file {key}. Make a key with  ssh-keygen -t ed25519  or name another with  -e key=<file>"
    elif "PRIVATE KEY" in key.read_text(errors="replace"):
        yield f"{key} is a private key, which never leaves your machine. Write  -e key={key}.pub"
    elif not KEY.fullmatch(key.read_text(errors="replace").strip()):
        yield f"{key} is no public key of ssh. Write  -e key=~/.ssh/id_ed25519.pub"


def texts(arguments: dict[str, str], directory: str) -> dict[str, str]:
    """Return the files of the new inventory, made from the example's, by their path in it."""
    yaml_put = filter_loader.get("yaml_put").j2_function
    web = servers(arguments["web"], "web")
    # Without a server of its own the database is on the first web server, under that one's name.
    database = servers(arguments["db"], "db") or {"web1": {}}
    hosts = re.match(r"(?:#.*\n)*", (EXAMPLE / "hosts.yml").read_text())
    text = hosts.group() if hosts else ""
    for group, found in (("web", web), ("db", database)):
        for name, values in found.items():
            text = yaml_put(text, [group, "hosts", name], values)
    site = (EXAMPLE / "group_vars/all/site.yml").read_text()
    site = yaml_put(site, ["ansible_user"], arguments["user"])
    key = Path(arguments["key"]).expanduser().read_text().strip()
    return {
        "hosts.yml": text,
        "group_vars/all/site.yml": yaml_put(site, ["ssh_operator_keys"], [key]),
        "group_vars/all/apps.yml": NO_APPS.format(site=directory),
    }


class ActionModule(ActionBase):
    """Write the files of a new site; files that are there are left as they are."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = {name: str(self._task.args.get(name) or "") for name in ("site", "web", "db", "key", "user")}
        directory = site_directory(arguments["site"])
        made = {"changed": False, "directory": shown(directory)}
        if (directory / "hosts.yml").exists() and not is_ours(directory):
            return result | made | {"targets": targets(self._loader.load_from_file(str(directory / "hosts.yml")))}
        if found := list(mistakes(arguments)):
            listed = "\n".join(f"{number}. {text}" for number, text in enumerate(found, 1))
            count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
            raise AnsibleActionFail(f"{count}, and nothing was written.\n{listed}")
        written = texts(arguments, shown(directory))
        for name, text in written.items():
            path = directory / name
            if not self._task.check_mode and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        made["targets"] = targets(self._loader.load(written["hosts.yml"]))
        made["diff"] = [
            {"before": "", "after": text, "after_header": shown(directory / name)} for name, text in written.items()
        ]
        return result | made | {"changed": True}


def targets(hosts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return where ssh goes for each host of an inventory: name, host and port."""
    values: dict[str, dict[str, Any]] = {}
    for group in (hosts or {}).values():
        for name, own in (group.get("hosts") or {}).items():
            values.setdefault(name, {}).update(own or {})
    return [
        {"name": name, "host": own.get("ansible_host", name), "port": own.get("ansible_port", 22)}
        for name, own in values.items()
    ]
