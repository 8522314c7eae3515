"""Write a Heroku app's entry, and its secrets, into the site's inventory."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import string
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

ROOT = Path(__file__).resolve().parent.parent
ALPHABET = string.ascii_letters + string.digits
SECRET_LENGTH = 50
PASSWORD_LENGTH = 40
LARGEST_FILE = 256 * 1024


def _module(folder: str, name: str) -> Any:
    """Return a plugin's module, which Ansible loads by path and not by import."""
    path = ROOT / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"offramp_{name}", path)
    if spec is None or spec.loader is None:
        raise AnsibleError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


app_source = _module("action_plugins", "app_source")
heroku_app = _module("filter_plugins", "heroku_app")
yaml_put = _module("filter_plugins", "yaml_put")
apps_shown = _module("filter_plugins", "apps_shown").apps_shown
apps_text = _module("filter_plugins", "apps_text").apps_text
app_problems = _module("filter_plugins", "app_problems").app_problems


class RefusedError(Exception):
    """What stands in the way, in words for a person and without a secret."""


# The site's files


def site_directory(sources: list[str]) -> Path:
    """Return the directory of the site: of several inventories the one with a list of apps, else the last."""
    paths = [Path(source) for source in sources if "," not in source and Path(source).exists()]
    directories = list(dict.fromkeys(path if path.is_dir() else path.parent for path in paths))
    if not directories:
        raise RefusedError("there is no inventory to write into: name the site's, -i inventory/mysite")
    with_apps = [directory for directory in directories if (directory / "group_vars/all/apps.yml").exists()]
    return (with_apps or directories)[-1]


def short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def write(path: Path, text: str, mode: int) -> None:
    """Replace a file as a whole, so that a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        else:
            Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def git_would_keep(path: Path) -> bool:
    """Say whether a file lies in a git work tree that does not ignore it."""
    existing = next(parent for parent in path.parents if parent.is_dir())
    command = ["git", "-c", "safe.directory=*", "-C", str(existing), "check-ignore", "--quiet", str(path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 1


def new_secret(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


# The vault, in the three ways in which a site may have one


class EncryptedVault:
    """A file that is encrypted as a whole, with the password that the run was given."""

    def __init__(self, path: Path, library: Any) -> None:
        self.path, self.library = path, library
        self.secret, self.vault_id = library.secrets[0][1], None
        self.text = self.old = ""
        if path.exists():
            plain, self.vault_id, self.secret = library.decrypt_and_get_vault_id(path.read_bytes())
            self.text = self.old = plain.decode()
        # The label that stands in the file's head, or none.
        self.vault_id = label(path) or None

    def names(self) -> set[str]:
        return set(values_of(self.text))

    def has(self, path: list[str]) -> bool:
        return found_at(values_of(self.text), path) is not None

    def put(self, path: list[str], value: str) -> None:
        self.text = yaml_put.yaml_put(self.text, path, heroku_app.literal(value))

    def make(self, path: list[str], length: int) -> None:
        self.put(path, new_secret(length))

    @property
    def changed(self) -> bool:
        return self.text != self.old

    def save(self) -> None:
        encrypted = self.library.encrypt(self.text, secret=self.secret, vault_id=self.vault_id)
        write(self.path, encrypted.decode(), 0o600)


class OpenVault(EncryptedVault):
    """A readable file in which each value that is added is encrypted by itself."""

    def __init__(self, path: Path, library: Any, loader: Any) -> None:
        self.path, self.library, self.loader = path, library, loader
        self.vault_id, self.secret = library.secrets[0]
        self.text = self.old = path.read_text(encoding="utf-8")

    def put(self, path: list[str], value: str) -> None:
        kept = found_at(self.loader.load(self.text, file_name=str(self.path)) or {}, path)
        if kept is not None and str(kept) == value:
            return
        vault_id = None if self.vault_id == "default" else self.vault_id
        # Unlike the others, such a value is no template.
        encrypted = self.library.encrypt(value, secret=self.secret, vault_id=vault_id).decode()
        self.text = yaml_put.yaml_put(self.text, path, f"!vault |\n{encrypted}", rendered=True)

    def save(self) -> None:
        write(self.path, self.text, 0o600)


class LabVault(OpenVault):
    """A readable file of expressions, which look the secrets up in a directory that git ignores."""

    def __init__(self, path: Path, directory: Path) -> None:
        self.path, self.directory = path, directory / "secrets"
        self.text = self.old = path.read_text(encoding="utf-8")
        self.files: dict[Path, str] = {}
        if git_would_keep(self.directory / "x"):
            raise RefusedError(f"{short(self.directory)} is not ignored by git, and no secret is written there")

    def put(self, path: list[str], value: str) -> None:
        file = self.file(path)
        if not (file.exists() and file.read_text(encoding="utf-8") == value):
            self.files[file] = value
        self.look_up(path, f"lookup('ansible.builtin.file', lab_directory ~ '/secrets/{file.name}', rstrip=False)")

    def make(self, path: list[str], length: int) -> None:
        place = f"lab_directory ~ '/secrets/{self.file(path).name}', length={length}"
        self.look_up(path, f"lookup('ansible.builtin.password', {place}, chars=['ascii_letters', 'digits'])")

    def file(self, path: list[str]) -> Path:
        # As the lab names its own: errorlog-secret-key, database-errorlog
        name = "-".join(path).removeprefix("vault_").replace("database_passwords", "database").replace("_", "-")
        return self.directory / name

    def look_up(self, path: list[str], expression: str) -> None:
        if found_at(values_of(self.text), path) != f"{{{{ {expression} }}}}":
            self.text = yaml_put.yaml_put(self.text, path, f">-\n{{{{ {expression} }}}}", rendered=True)

    @property
    def changed(self) -> bool:
        return self.text != self.old or bool(self.files)

    def save(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for file, value in self.files.items():
            write(file, value, 0o600)
        write(self.path, self.text, 0o644)


def label(path: Path) -> str:
    head = path.read_text(encoding="utf-8").splitlines()[0].split(";") if path.exists() else []
    return head[3] if len(head) > 3 else ""


def values_of(text: str) -> dict[str, Any]:
    found = yaml_put.AnyTag(text).get_single_data()
    return found if isinstance(found, dict) else {}


def found_at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values.get(key) if hasattr(values, "get") else None
    return values


def open_vault(path: Path, loader: Any, lab_directory: str) -> Any:
    """Return the site's vault as it is, or say what makes one."""
    # The loader has the passwords of the run, and no public way to encrypt with them.
    library = loader._vault
    opened = bool(library and library.secrets)
    if not path.exists():
        if opened:
            return EncryptedVault(path, library)
        raise RefusedError(
            f"the app has secrets, and {short(path)} does not exist.\n"
            f"   To mend: run  script/secrets {short(path.parents[2])}  and then the export that it prints"
        )
    text = path.read_text(encoding="utf-8")
    if text.startswith("$ANSIBLE_VAULT"):
        return EncryptedVault(path, library)
    if lab_directory and "lab_directory" in text:
        return LabVault(path, Path(lab_directory))
    if opened:
        return OpenVault(path, library, loader)
    raise RefusedError(
        f"the app has secrets, {short(path)} is not encrypted, and no vault password is given: nothing is written "
        f"there in clear.\n   To mend: write a password to a file that only you can read, run  export "
        f"ANSIBLE_VAULT_PASSWORD_FILE=<that file>  and  ansible-vault encrypt {short(path)}"
    )


# What is imported


def source_files(archive: Path) -> dict[str, str]:
    """Return the text files of an app."""
    files: dict[str, str] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            handle = tar.extractfile(member) if member.isfile() and member.size <= LARGEST_FILE else None
            content = handle.read() if handle else b"\0"
            if b"\0" not in content:
                files[member.name.removeprefix("./")] = content.decode(errors="replace")
    return files


def read_config(path: Path) -> dict[str, str]:
    """Return the config vars of a file; no message shows what is in it."""
    how = "heroku config --json --app <name> > config.json  writes it"
    file = next((base / path for base in (Path.cwd(), ROOT) if (base / path).is_file()), None)
    if file is None:
        raise RefusedError(f"config_json: there is no file {path}; {how}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise RefusedError(f"config_json: {path} is no JSON; {how}") from None
    if not isinstance(found, dict) or not all(isinstance(value, str | int | float) for value in found.values()):
        raise RefusedError(f"config_json: {path} is no mapping of names to text; {how}")
    return {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}


def base_of(source: str) -> tuple[str, Path]:
    """Return a directory as the entry names it: from the repository's top where it is there, else in full."""
    path = Path(source).expanduser()
    if app_source.is_url(source) or path.is_absolute() or (ROOT / path).exists() or not path.exists():
        return source, ROOT
    return str(path.resolve()), ROOT


def as_text(report: dict[str, list[str]]) -> str:
    return "\n".join(
        f"{section}:\n" + "\n".join(f"  {line}" for line in lines) for section, lines in report.items() if lines
    )


def listed(value: Any) -> list[str]:
    return (
        [part for part in str(value).replace(",", " ").split() if part] if isinstance(value, str) else list(value or [])
    )


class Importer:
    """One run."""

    def __init__(self, arguments: dict[str, Any], sources: list[str], loader: Any, lab_directory: str) -> None:
        self.arguments, self.loader, self.lab_directory = arguments, loader, lab_directory
        self.name = str(arguments["app"])
        self.site = site_directory(sources)
        self.apps_file = self.site / "group_vars/all/apps.yml"
        self.vault_file = self.site / "group_vars/all/vault.yml"
        self.text = self.apps_file.read_text(encoding="utf-8") if self.apps_file.exists() else ""
        apps = values_of(self.text).get("apps") or []
        self.others = [app for app in apps if isinstance(app, dict) and app.get("name") != self.name]
        self.present = next((app for app in apps if isinstance(app, dict) and app.get("name") == self.name), None)
        self.vault: Any = None
        self.no_vault: RefusedError | None = None

    def read(self) -> dict[str, Any]:
        present = self.present or {}
        source, base = base_of(str(self.arguments.get("source") or present.get("source") or ""))
        version = str(
            self.arguments.get("version") or ("" if self.arguments.get("source") else present.get("version") or "")
        )
        if not source or "{{" in source:
            raise RefusedError(
                "name the app's source, a directory or a git URL: -e source=https://git.example/shop.git"
            )
        cache = app_source.Cache(ROOT / ".cache/sources")
        try:
            found = app_source.resolve(source, version, base, cache)
        except (app_source.SourceError, OSError) as problem:
            raise RefusedError(heroku_app.without_password(f"source: {problem}")) from None
        config = self.arguments.get("config_json")
        return {
            "name": self.name,
            "source": source,
            "version": version,
            "files": source_files(Path(found["archive"])),
            "config": read_config(Path(config).expanduser()) if config else None,
            "domains": listed(self.arguments.get("domains")),
            "formation": str(self.arguments.get("formation") or ""),
            "default_domain": f"{self.name}.localhost" if self.lab_directory and not present.get("domains") else "",
            "vault": self.vault_names(),
            "redis_database": self.redis_database(present),
        }

    def redis_database(self, present: dict[str, Any]) -> int:
        """Return the app's number in redis, or the first that no other app has."""
        if isinstance(present.get("redis_database"), int):
            return present["redis_database"]
        having = [app for app in self.others if "redis" in (app.get("services") or heroku_app.SERVICES)]
        taken = {app.get("redis_database") or 0 for app in having}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def vault_names(self) -> list[str]:
        try:
            self.vault = open_vault(self.vault_file, self.loader, self.lab_directory)
        except RefusedError as problem:
            # Of no account to an app without secrets.
            self.no_vault = problem
            return []
        return sorted(self.vault.names())

    def check(self, entry: dict[str, Any]) -> None:
        found = [
            problem for problem in app_problems([*self.others, entry]) if problem["path"][1:2] == [len(self.others)]
        ]
        if found:
            lines = [
                f"{number}. {problem['problem']}\n   To mend: {problem['mend']}"
                for number, problem in enumerate(found, 1)
            ]
            raise RefusedError("the app cannot have such an entry:\n" + "\n".join(lines))

    def run(self, overwrite: bool, dry: bool) -> dict[str, Any]:
        result = heroku_app.heroku_app(self.read())
        entry, report = result["entry"], result["report"]
        self.check(entry)
        text = apps_text(self.text, entry)
        self.fill_vault(result["secrets"], "postgresql" in entry.get("services", heroku_app.SERVICES))
        changed = text != self.text or bool(self.vault and self.vault.changed)
        if self.present:
            report.setdefault("changed", []).extend(self.kept(entry))
        report["next"] = self.next_steps(result["missing"])
        if self.present and changed and not overwrite:
            return {"failed": True, "msg": self.refusal(entry), "report": as_text(report)}
        if changed and not dry:
            self.save(text)
        diff = {"before_header": short(self.apps_file), "after_header": short(self.apps_file)}
        return {
            "changed": changed,
            "report": as_text(report),
            "diff": {**diff, "before": apps_shown(self.text), "after": apps_shown(text)},
        }

    def save(self, text: str) -> None:
        # The entry last: it refers to what is in the vault.
        if self.vault and self.vault.changed:
            self.vault.save()
        if text != self.text:
            write(self.apps_file, text, 0o644)

    def kept(self, entry: dict[str, Any]) -> list[str]:
        present = self.present or {}
        keys = sorted(present.keys() - entry.keys())
        config = present.get("config") if isinstance(present.get("config"), dict) else {}
        names = sorted(config.keys() - entry.get("config", {}).keys())
        lines = {"keys": keys, "config vars": names}
        return [
            f"kept of the entry that was there, {what}: {', '.join(found)}" for what, found in lines.items() if found
        ]

    def fill_vault(self, found: dict[str, str | None], wants_database: bool) -> None:
        if self.no_vault and (found or wants_database):
            raise self.no_vault
        for name, value in found.items():
            if value is not None:
                self.vault.put([name], value)
            elif not self.vault.has([name]):
                self.vault.make([name], SECRET_LENGTH)
        password = ["vault_database_passwords", self.name]
        if wants_database and not self.vault.has(password):
            self.vault.make(password, PASSWORD_LENGTH)

    def refusal(self, entry: dict[str, Any]) -> str:
        present = self.present or {}
        differing = [key for key in entry if entry[key] != present.get(key)]
        what = f"differs in {', '.join(differing)}" if differing else "has other secrets in the vault"
        return (
            f"{short(self.apps_file)} has the app {self.name} already, and it {what}. Nothing was changed.\n"
            "   To mend: add  -e overwrite=true  to set these; what the import does not know stays as it is"
        )

    def next_steps(self, missing: list[str]) -> list[str]:
        site = short(self.site)
        play = f".venv/bin/ansible-playbook -i {site}"
        steps = [f"look at what was written: git diff {site}"]
        if missing:
            steps.append(f"add what is missing: ansible-vault edit {short(self.vault_file)}")
        if not self.lab_directory:
            steps.append(f"script/secrets {site}  makes what else the site needs")
        return [
            *steps,
            f"{play} site.yml --skip-tags app  sets the servers up and deploys nothing yet",
            f"{play} playbooks/import_dump.yml -e app={self.name} -e dump=latest.dump  takes its data over",
            f"{play} site.yml  deploys",
        ]


class ActionModule(ActionBase):
    """The heroku_import action: no part of it runs on a server."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = {name: value for name, value in self._task.args.items() if value not in (None, "")}
        if not arguments.get("app"):
            raise AnsibleActionFail("name the app: -e app=shop -e source=https://git.example/shop.git")
        sources = [str(source) for source in task_vars.get("ansible_inventory_sources") or ()]
        try:
            importer = Importer(arguments, sources, self._loader, self._lab_directory(task_vars))
            overwrite = boolean(arguments.get("overwrite", False))
            return importer.run(overwrite, self._task.check_mode)
        except (RefusedError, AnsibleError) as problem:
            return {"failed": True, "msg": str(problem)}

    def _lab_directory(self, task_vars: dict[str, Any]) -> str:
        hostvars = task_vars.get("hostvars") or {}
        return next(
            (str(hostvars[host]["lab_directory"]) for host in hostvars if "lab_directory" in hostvars[host]), ""
        )
