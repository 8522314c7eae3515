"""Rotate a secret of the site's vault, on the controller, in steps of which each leaves the vault whole."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("app", "backup", "ca", "database", "redis", "replication")
# What is the site's, and not rotated by one command.
BY_HAND = {
    "bucket": "the bucket's key is made by your provider, and is changed by hand",
    "pgbouncer": "pgbouncer has no secret of its own: it passes on those of the databases, -e secret=database -e app=…",
}
LENGTH = 50
FORMER = ["vault_backup_former_cipher_keys"]


def _module(folder: str, name: str) -> Any:
    """Return a plugin's module, which Ansible loads by path and not by import."""
    spec = importlib.util.spec_from_file_location(f"offramp_{name}", ROOT / folder / f"{name}.py")
    if spec is None or spec.loader is None:
        raise AnsibleError(f"{name} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


vaults = _module("action_plugins", "heroku_import")
yaml_put = vaults.yaml_put


# The text of the vault


def current_path(rotation: dict[str, str]) -> list[str]:
    """Return where the secret stands that everybody uses."""
    return {
        "app": [rotation.get("variable", "")],
        "backup": ["vault_backup_cipher_key"],
        "ca": ["vault_ca_secret"],
        "database": ["vault_database_passwords", rotation.get("app", "")],
        "redis": ["vault_redis_password"],
        "replication": ["vault_replication_password"],
    }[rotation["kind"]]


def found(text: str, path: list[str]) -> Any:
    value = vaults.found_at(vaults.values_of(text), path)
    # A value with a tag of Ansible's, such as !unsafe
    return vaults.heroku_app.literal(value[1]) if isinstance(value, tuple) else value


def put(text: str, path: list[str], value: str | list[str]) -> str:
    return yaml_put.yaml_put(text, path, value)


def begun(text: str, rotation: dict[str, str], new: str) -> str:
    """Return the vault with a new secret beside the one that everybody uses: both are good from now on."""
    wanted = {name: value for name, value in rotation.items() if value} | {"stage": "begun", "other": new}
    return yaml_put.yaml_put(without(text), ["vault_rotation"], wanted)


def switched(text: str) -> str:
    """Return the vault with the two changed over, so that everybody uses the other one."""
    rotation = found(text, ["vault_rotation"])
    path = current_path(rotation)
    before, after = found(text, path), found(text, ["vault_rotation", "other"])
    text = put(put(text, path, after), ["vault_rotation", "other"], before)
    if rotation["kind"] == "database":
        login = ["vault_database_logins", rotation["app"]]
        used = found(text, login) or database(rotation["app"])
        text = put(put(text, login, rotation["login"]), ["vault_rotation", "login"], used)
    if rotation["kind"] == "backup":
        # What was made with it stays as it is, and is opened by it.
        former = found(text, FORMER) or []
        text = put(text, FORMER, former[:-1] if rotation["stage"] == "switched" else [*former, before])
    return put(text, ["vault_rotation", "stage"], "begun" if rotation["stage"] == "switched" else "switched")


def without(text: str) -> str:
    """Return the vault without what a rotation keeps there."""
    lines = text.splitlines(keepends=True)
    root = yaml_put.yaml.compose(text, Loader=yaml_put.AnyTag)
    for key, value in root.value if root else ():
        if key.value == "vault_rotation":
            del lines[key.start_mark.line : max(key.end_mark.line, yaml_put.last_line(lines, value)) + 1]
    return "".join(lines)


def database(app: str) -> str:
    return app.replace("-", "_")


def other_login(text: str, app: str) -> str:
    """Return the login that is not used: the database's owner, or the second one, whose name no app can have."""
    owner = database(app)
    used = found(text, ["vault_database_logins", app]) or owner
    return f"{owner}-2" if used == owner else owner


# What is asked for


def variable_of(app: dict[str, Any], key: str) -> str:
    """Return the variable of the vault that a config var is, or nothing."""
    match = re.fullmatch(r"\s*\{\{\s*(vault_\w+)\s*\}\}\s*", str((app.get("config") or {}).get(key)))
    return match[1] if match else ""


class Wish:
    """A rotation that somebody asked for."""

    def __init__(self, arguments: dict[str, Any], apps: Any, overlay: Any) -> None:
        self.kind, self.app, self.key = (str(arguments.get(name) or "") for name in ("kind", "app", "key"))
        self.site_apps, self.databases = arguments["apps"], arguments["databases"]
        self.redis_apps, self.servers = arguments["redis_apps"], int(arguments["servers"])
        self.backed_up = bool(arguments["backed_up"])
        written = [one for one in apps if isinstance(one, dict)] if isinstance(apps, list) else []
        self.written = {str(one.get("name")): one for one in written}
        self.overlay = overlay if isinstance(overlay, dict) else {}
        self.variable = variable_of(self.written.get(self.app, {}), self.key) if self.kind == "app" else ""

    def rotation(self) -> dict[str, str]:
        """Return what the vault keeps of it."""
        wanted = {"kind": self.kind}
        if self.kind in ("app", "database"):
            wanted["app"] = self.app
        if self.variable:
            wanted["variable"] = self.variable
        return wanted

    def apps(self) -> list[str]:
        """Return the apps that have the secret, and are restarted on the new one."""
        if self.kind == "app":
            return [name for name in self.site_apps if self.has_it(self.written.get(name, {}))]
        return {"database": [self.app], "redis": self.redis_apps}.get(self.kind, [])

    def has_it(self, app: dict[str, Any]) -> bool:
        return any(variable_of(app, key) == self.variable for key in app.get("config") or ())

    def mistakes(self) -> Iterator[str]:
        if self.kind in BY_HAND:
            yield f"{BY_HAND[self.kind]}: docs/rotating.md says how"
        elif self.kind not in KINDS:
            said = f'there is no secret "{self.kind}" to rotate' if self.kind else "say which secret"
            yield f"{said}:  -e secret=…  with one of {', '.join(KINDS)}"
        elif self.kind == "replication" and self.servers < 2:
            yield "the site has one database server, and so no password of replication"
        elif self.kind == "backup" and not self.backed_up:
            yield "the site names no bucket, and so has no backups"
        if self.kind in ("app", "database"):
            yield from self.app_mistakes()

    def app_mistakes(self) -> Iterator[str]:
        known = self.databases if self.kind == "database" else self.site_apps
        if self.app not in known:
            said = f"no app {self.app}" if self.app and self.app not in self.site_apps else f"no database of {self.app}"
            begin = f"this site has {said}" if self.app else "say which app"
            yield f"{begin}:  -e app=…  with one of {', '.join(known) or 'none'}"
        if self.kind == "app":
            yield from self.key_mistakes()

    def key_mistakes(self) -> Iterator[str]:
        config = self.written.get(self.app, {}).get("config") or {}
        ours = [key for key in config if variable_of(self.written[self.app], key)]
        names = f"  -e key=…  with one of {', '.join(ours)}" if ours else ""
        if not self.key:
            yield f"say which config var:{names or '  -e key=SECRET_KEY'}"
        elif self.app not in self.written:
            return
        elif self.key in (self.overlay.get(self.app) or {}):
            yield f"{self.key} of {self.app} was set by playbooks/config.yml, which sets another value as well"
        elif self.key not in config:
            yield f"{self.app} has no config var {self.key}:{names or '  it has none that stands in the vault'}"
        elif not self.variable:
            yield (
                f"{self.key} of {self.app} is no secret of the vault's alone, and not made here. "
                f"Set it:  playbooks/config.yml -e app={self.app} -e @values.json"
            )


def same(kept: dict[str, Any], wanted: dict[str, str]) -> bool:
    return all(kept.get(name) == wanted.get(name) for name in ("kind", "app", "variable"))


def command(kept: dict[str, Any], apps: dict[str, Any]) -> str:
    """Return the command that goes on with a rotation."""
    words = [f"-e secret={kept['kind']}"] + ([f"-e app={kept['app']}"] if kept.get("app") else [])
    if kept.get("variable"):
        app = apps.get(kept["app"], {})
        key = next((key for key in app.get("config") or () if variable_of(app, key) == kept["variable"]), "…")
        words.append(f"-e key={key}")
    return f"playbooks/rotate.yml {' '.join(words)}"


class ActionModule(ActionBase):
    """The secret_rotation action: no part of it runs on a server."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = self._task.args
        # As they are written: which variable of the vault a config var is, its value does not tell.
        wish = Wish(arguments["what"], task_vars.get("apps"), task_vars.get("config_vars"))
        site = vaults.site_directory(task_vars["ansible_inventory_sources"])
        path = site / "group_vars/all/vault.yml"
        problems = list(wish.mistakes())
        vault = self._open(path, problems)
        kept = (found(vault.text, ["vault_rotation"]) or {}) if vault else {}
        if not problems and kept and not same(kept, wish.rotation()):
            problems.append(f"another secret's rotation is under way; finish it first:  {command(kept, wish.written)}")
        if not problems and found(vault.text, current_path(wish.rotation())) is None:
            name = ".".join(current_path(wish.rotation()))
            problems.append(f"{name} is not in {vaults.short(path)}; script/secrets {vaults.short(site)} makes it")
        if problems:
            listed = "\n".join(f"{number}. {text}" for number, text in enumerate(problems, 1))
            count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
            raise AnsibleActionFail(f"{count}, and nothing was changed.\n{listed}")
        self._take_step(arguments.get("state", "checked"), vault, wish, kept)
        if vault.changed and not task_vars["ansible_check_mode"]:
            vault.save()
        shown = {"vault": str(path.resolve()), "apps": wish.apps(), "stage": kept.get("stage", "")}
        if wish.kind == "database":
            shown["login"] = kept["login"] if kept else other_login(vault.text, wish.app)
        return result | shown | {"changed": vault.changed}

    def _open(self, path: Path, problems: list[str]) -> Any:
        library = self._loader._vault
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if text.startswith("$ANSIBLE_VAULT") and library and library.secrets:
            return vaults.EncryptedVault(path, library)
        why = "is not encrypted as a whole" if text else "does not exist"
        problems.append(
            f"{vaults.short(path)} {why}, and no secret is written in clear. (Of the lab, whose secrets are files, "
            f"none is rotated.) Run  script/secrets {vaults.short(path.parents[2])}  or  ansible-vault encrypt "
            f"{vaults.short(path)}"
        )
        return None

    @staticmethod
    def _take_step(step: str, vault: Any, wish: Wish, kept: dict[str, Any]) -> None:
        if step == "begun" and not kept:
            login = other_login(vault.text, wish.app) if wish.kind == "database" else ""
            vault.text = begun(vault.text, wish.rotation() | {"login": login}, vaults.new_secret(LENGTH))
        elif step == "switched" and kept.get("stage") == "begun":
            vault.text = switched(vault.text)
        elif step == "undone" and kept:
            vault.text = without(switched(vault.text) if kept["stage"] == "switched" else vault.text)
        elif step == "ended":
            vault.text = without(vault.text)
