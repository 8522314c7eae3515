"""Find every mistake in the inventory before any server is contacted."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import os
import re
import signal
import sys
import zoneinfo
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import filter_loader
from ansible.release import __version__ as core_version
from ansible.template import Templar
from ansible.utils.display import Display

display = Display()
ROOT = Path(__file__).resolve().parent.parent
# The versions of ansible-core that the tests run with: from the first up to, and without, the last.
CORE_RANGE = ((2, 19), (2, 22))
GIT_TIMEOUT_SECONDS = 6
HOST_VALUES = ("address", "ansible_connection", "ansible_host", "ansible_port", "cpus", "memory_mib")
# What a site says that is no role's option
SITE_VALUES = ("apps", "config_vars", "tls_certificates")
SUFFIXES = ("", ".yml", ".yaml", ".json")
# Ansible loads a plugin by its path: the one beside it is found by the directory.
sys.path.append(str(Path(__file__).parent))
git_login = import_module("app_source").git_login
YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class InventoryFiles:
    """Which file, at which line, says what."""

    def __init__(self, sources: list[Path], directories: list[Path] | None = None) -> None:
        self.sources = sources
        beside = (source if source.is_dir() else source.parent for source in sources)
        self.directories = directories or list(dict.fromkeys(beside))
        # One entry for each name set: the scope (group or host), the name, the file, the nodes of key and value.
        self.entries: list[tuple[tuple[str, str], str, Path, yaml.Node, yaml.Node]] = []
        self.groups: dict[str, tuple[Path, yaml.Node]] = {}
        self.hosts: dict[str, tuple[Path, yaml.Node]] = {}
        self.encrypted: list[Path] = []
        for source in sources:
            for path in sorted(source.iterdir()) if source.is_dir() else [source]:
                if path.is_file() and path.suffix in SUFFIXES:
                    self._read_groups(path, self._tree(path))
        for directory in self.directories:
            for kind in ("group", "host"):
                for path in sorted((directory / f"{kind}_vars").rglob("*")):
                    if path.is_file() and path.suffix in SUFFIXES:
                        relative = path.relative_to(directory / f"{kind}_vars")
                        self._read_values((kind, relative.parts[0].split(".")[0]), path, self._tree(path))

    def _tree(self, path: Path) -> yaml.Node | None:
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.startswith("$ANSIBLE_VAULT"):
            self.encrypted.append(path)
            return None
        # What is no YAML was read by another inventory plugin, or Ansible has refused it already.
        with contextlib.suppress(yaml.YAMLError):
            return yaml.compose(text, Loader=YamlLoader)
        return None

    def _read_values(self, scope: tuple[str, str], path: Path, tree: yaml.Node | None) -> None:
        for key, value in pairs(tree):
            self.entries.append((scope, key.value, path, key, value))

    def _read_groups(self, path: Path, tree: yaml.Node | None) -> None:
        for key, group in pairs(tree):
            self.groups.setdefault(key.value, (path, key))
            parts = {part.value: node for part, node in pairs(group)}
            self._read_values(("group", key.value), path, parts.get("vars"))
            self._read_groups(path, parts.get("children"))
            for host, values in pairs(parts.get("hosts")):
                self.hosts.setdefault(host.value, (path, host))
                self._read_values(("host", host.value), path, values)

    def names(self, kind: str = "group") -> set[str]:
        return {name for scope, name, *_ in self.entries if scope[0] == kind}

    def host_names(self) -> dict[str, list[str]]:
        return {host: sorted(n for scope, n, *_ in self.entries if scope == ("host", host)) for host in self.hosts}

    def place(self, path: list[Any]) -> str:
        """Return the file and line of a value, as precisely as they can be known."""
        if path[0] == "groups":
            return self._shown(*self.groups.get(path[1], (self._hosts_file(), None)))
        if path[0] == "hosts":
            entry = self._entry(path[2], path[1]) if len(path) > 2 else None
            return self._shown(*(entry[2:4] if entry else self.hosts.get(path[1], (self._hosts_file(), None))))
        entry = self._entry(path[0])
        if entry is None:
            return self._shown(self._likely_file(path[0]), None)
        node = entry[3]
        below: yaml.Node | None = entry[4]
        for part in path[1:]:
            step = next(((key, value) for key, value in pairs(below) if key.value == str(part)), None)
            if isinstance(part, int) and isinstance(below, yaml.SequenceNode) and part < len(below.value):
                step = (below.value[part], below.value[part])
            if step is None:
                break
            node, below = step
        return self._shown(entry[2], node)

    def _entry(self, name: str, host: str | None = None) -> Any:
        found = [entry for entry in self.entries if entry[1] == name]
        own = [entry for entry in found if entry[0] == ("host", host)]
        return (own or found or [None])[-1]

    def _hosts_file(self) -> Path:
        return next((path for path, _ in self.groups.values()), self.sources[0])

    def _likely_file(self, name: str) -> Path:
        """Where a value that no readable file holds stands, or is to be written."""
        prefix = name.split("_")[0] + "_"
        if prefix == "vault_" and self.encrypted:
            return self.encrypted[0]
        related = [path for _, other, path, *_ in self.entries if other.startswith(prefix)]
        usual = {"apps": "apps.yml", "vault_": "vault.yml"}.get(name if name == "apps" else prefix, "site.yml")
        return next(iter(related), self.directories[0] / "group_vars" / "all" / usual)

    def _shown(self, path: Path, node: yaml.Node | None) -> str:
        if path in self.encrypted:
            return f"{short(path)} (open it with  ansible-vault edit {short(path)})"
        return f"{short(path)}:{node.start_mark.line + 1}" if node is not None else short(path)


def pairs(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return [(key, value) for key, value in node.value] if isinstance(node, yaml.MappingNode) else []


def short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


class Values:
    """The values of one host, worked out leaf by leaf, so that one that fails does not hide the others."""

    def __init__(self, templar: Templar) -> None:
        self.templar = templar

    def resolve(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): self._item(value, key) for key in value}
        if isinstance(value, list | tuple):
            return [self._item(value, index) for index in range(len(value))]
        if value is None or isinstance(value, bool | int | float):
            return value
        try:
            result = self.templar.template(value)
        except Exception as error:
            return self._unresolved(error)
        if isinstance(result, Mapping | list | tuple):
            return self.resolve(result)
        return str(result) if isinstance(result, str) else result

    def _item(self, container: Any, key: Any) -> Any:
        # Reading an item of a template's result can work out a further template, and fail.
        try:
            item = container[key]
        except Exception as error:
            return self._unresolved(error)
        return self.resolve(item)

    @staticmethod
    def _unresolved(error: Exception) -> dict[str, str]:
        message = getattr(error, "message", None) or str(error) or type(error).__name__
        return {"__unresolved__": str(message).splitlines()[0][:200]}


def git_environment() -> dict[str, str]:
    """Return what keeps git from asking questions, and from another repository whose hook may be running us."""
    ssh = os.environ.get("GIT_SSH_COMMAND", "ssh") + f" -oBatchMode=yes -oConnectTimeout={GIT_TIMEOUT_SECONDS}"
    kept = {
        name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    }
    return {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": ssh, "LC_ALL": "C"}


async def git(*words: str) -> tuple[int, str, str]:
    """Run git for a few seconds; None in place of its exit code means that it took longer."""
    words, login = git_login(words)
    process = await asyncio.create_subprocess_exec(
        *("git", "-c", "safe.directory=*", *words),
        env=git_environment() | login,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), GIT_TIMEOUT_SECONDS)
    except TimeoutError:
        # Git's helpers hold the pipes open: the whole group has to go.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return 1, "", f"fatal: no answer within {GIT_TIMEOUT_SECONDS} seconds"
    return process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace")


async def git_facts(url: str) -> dict[str, Any]:
    """Return the branches and tags of a git source, or why it cannot be read."""
    command = f"git ls-remote {without_password(url)}"
    try:
        code, output, errors = await git("ls-remote", "--heads", "--tags", "--", url)
    except FileNotFoundError:
        return {"error": "git is not installed on this machine", "mend": "run  apt-get install git"}
    if code:
        said = [line.strip().removeprefix("fatal: ") for line in errors.splitlines() if not line.startswith("warning:")]
        reason = without_password(" ".join(said))[:200] or "git failed"
        mend = f"correct the address, or see that  {command}  works here without asking anything"
        return {"error": reason, "mend": mend}
    if not output.strip():
        return {"error": "it has no commits yet", "mend": "push the app to it"}
    return {"refs": reference_names(output)}


def reference_names(listed: str) -> list[str]:
    names = (re.sub(r"^\S+\s+refs/(heads|tags)/|\^\{\}$", "", line) for line in listed.splitlines())
    return list(dict.fromkeys(names))


def without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//…@", text)


async def directory_facts(source: str, versions: set[str]) -> dict[str, Any]:
    """Return the processes in a directory's Procfile, or why it is no source."""
    path = ROOT / Path(source).expanduser()
    if not path.exists():
        near = nearest_directory(path)
        mend = f"write  source: {near}" if near else "write the path of a directory, or the address of a git repository"
        return {"error": f"there is no directory {path}", "mend": mend}
    if not path.is_dir():
        return {"error": f"{path} is a file", "mend": "write the path of the directory that holds the app"}
    if not os.access(path, os.R_OK | os.X_OK):
        return {"error": f"{path} may not be read by you", "mend": f"run  chmod -R u+rX {path}"}
    procfile = path / "Procfile"
    lines = procfile.read_text(encoding="utf-8", errors="replace") if procfile.is_file() else ""
    facts: dict[str, Any] = {"processes": re.findall(r"^([A-Za-z0-9_-]+):", lines, re.MULTILINE)}
    if versions:
        facts |= {"versions": [], "refs": []}
        with contextlib.suppress(FileNotFoundError):
            code, output, _errors = await git("-C", str(path), "ls-remote", "--heads", "--tags", ".")
            facts["refs"] = None if code else reference_names(output)
        for version in sorted(versions) if facts["refs"] else []:
            code, *_ = await git("-C", str(path), "rev-parse", "--verify", "--quiet", f"{version}^{{commit}}")
            facts["versions"] += [] if code else [version]
    return facts


def nearest_directory(path: Path) -> str | None:
    if not path.parent.is_dir():
        return None
    names = [item.name for item in path.parent.iterdir() if item.is_dir()]
    match = difflib.get_close_matches(path.name, names, 1)
    return short(path.parent / match[0]) if match else None


def is_git(source: str) -> bool:
    return bool(re.match(r"[a-z][a-z0-9+.-]*://|[\w.-]+@[\w.-]+:", source))


def source_facts(apps: Any) -> dict[str, Any]:
    """Look at every source, at all of them at the same time."""
    versions: dict[str, set[str]] = {}
    for app in apps if isinstance(apps, list) else []:
        source = app.get("source") if isinstance(app, dict) else None
        if isinstance(source, str) and source.strip():
            version = app.get("version")
            versions.setdefault(source, set()).update({version} if isinstance(version, str) and version else set())

    async def look() -> list[dict[str, Any]]:
        each = (git_facts(url) if is_git(url) else directory_facts(url, wanted) for url, wanted in versions.items())
        return await asyncio.gather(*each)

    return dict(zip(versions, asyncio.run(look()), strict=True))


def role_options() -> dict[str, Any]:
    """Return what each role says about the types of its options."""
    options: dict[str, Any] = {}
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        specs = YamlLoader(path.read_text(encoding="utf-8")).get_single_data() or {}
        for entry in specs.get("argument_specs", {}).values():
            options |= entry.get("options") or {}
    return options


def budget_problems(host: str, templar: Templar, budget: Any) -> Iterator[dict[str, Any]]:
    """A host that promises more memory than it has, by the filter memory_budget."""
    try:
        templar.template(budget)
    except AnsibleError as error:
        # Ansible heads the filter's own words with where it met them.
        said = re.sub(r"^.*?plugin 'memory_budget' failed: ", "", str(error), flags=re.DOTALL)
        text, _, mend = said.partition("\nTo mend it, ")
        wrong = re.sub(r"^own\b", "memory_parts", text)
        yield {
            "path": ["memory_parts"] if wrong != text else ["hosts", host],
            "problem": wrong.replace("\n", "\n   ").rstrip(":"),
            "mend": mend or "correct the figure",
        }


def core_problem() -> dict[str, Any] | None:
    first, last = CORE_RANGE
    numbers = tuple(int(part) for part in re.findall(r"\d+", core_version)[:2])
    if first <= numbers < last:
        return None
    return {
        "path": [],
        "problem": f"this is ansible-core {core_version}; it takes {first[0]}.{first[1]} to {last[0]}.{last[1] - 1}",
        "mend": "run  script/setup  and then  .venv/bin/ansible-playbook  in place of  ansible-playbook",
    }


def shown(number: int, entry: dict[str, Any], files: InventoryFiles) -> str:
    """Return one problem as the lines that a person reads."""
    place = f"{files.place(entry['path'])}: " if entry["path"] else ""
    target = f"in {files.place(entry['mend_path'])} " if entry.get("mend_path") else ""
    more = f"\n   Or run: script/secrets {short(files.directories[0])}" if entry.get("generated") else ""
    return f"{number}. {place}{entry['problem']}\n   To mend: {target}{entry['mend']}{more}"


def filtered(name: str, *arguments: Any) -> list[dict[str, Any]]:
    return filter_loader.get(name).j2_function(*arguments)


class ActionModule(ActionBase):
    """Read the whole site, whatever --limit says, and fail with the list of its problems."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        sources = [Path(source) for source in task_vars.get("ansible_inventory_sources") or () if "," not in source]
        files = InventoryFiles([source for source in sources if source.exists()] or [Path.cwd()])
        label = ", ".join(short(source) for source in sources) or "the inventory"
        if self._task.args.get("servers"):
            problems = list(self._server_problems(task_vars))
        else:
            problems = list(self._site_problems(task_vars, files))
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            result.update(
                failed=True,
                msg=f"{count} in {label}. Nothing was changed. Each is listed below with what mends it.",
                problems=[shown(number, entry, files) for number, entry in enumerate(problems, 1)],
            )
        return result

    def _site_problems(self, task_vars: dict[str, Any], files: InventoryFiles) -> Iterator[dict[str, Any]]:
        outdated = core_problem()
        if outdated:
            yield outdated
            return
        hostvars, groups = task_vars["hostvars"], {name: list(hosts) for name, hosts in task_vars["groups"].items()}
        raw = {host: hostvars.raw_get(host) for host in hostvars}
        values = {host: Values(self._templar_of(task_vars, own)) for host, own in raw.items()}
        # Values for the whole site are judged as a web host sees them.
        order = sorted(raw, key=lambda host: host not in groups.get("web", []))
        names = files.names() | {name for own in raw.values() for name in own if name.startswith("vault_")}
        options = role_options()
        site_values = {}
        for name in sorted(names | {*SITE_VALUES}):
            holder = next((host for host in order if name in raw[host]), None)
            if holder is not None and (name in SITE_VALUES or name in options or name.startswith("vault_")):
                site_values[name] = values[holder].resolve(raw[holder][name])
        site = {
            "groups": groups,
            "host_names": files.host_names(),
            "hosts": {
                host: {key: values[host].resolve(own[key]) for key in HOST_VALUES if key in own}
                for host, own in raw.items()
            },
            "names": sorted(names),
            "options": options,
            "timezones": sorted(zoneinfo.available_timezones()),
            "values": site_values,
            "wired": sorted(InventoryFiles([], [ROOT]).names()),
        }
        if not site_values.get("backup_s3_bucket"):
            display.warning("Nothing is backed up: the inventory names no bucket (docs/first-day.md, step 6).")
        found = filtered("site_problems", site)
        if task_vars.get("site_is_new"):
            # Its first app is brought by a command of its own.
            found = [entry for entry in found if entry["path"] != ["apps"]]
        # Ansible reads the values of hosts: without one, nothing can be said of them.
        yield from found if raw else (entry for entry in found if entry["path"][0] == "groups")
        apps = site_values.get("apps") or []
        operator = site_values.get("base_operator_name", "operator")
        reserved = (
            {operator: "that is the operator's account (base_operator_name)"} if isinstance(operator, str) else {}
        )
        config_vars = site_values.get("config_vars") or {}
        if site_values.get("tls_source") == "own":
            yield from filtered("certificate_problems", apps, site_values.get("tls_certificates"), datetime.now(UTC))
        yield from filtered("app_problems", apps, source_facts(apps), reserved, config_vars)

    def _templar_of(self, task_vars: dict[str, Any], own: Mapping[str, Any]) -> Templar:
        return Templar(loader=self._loader, variables={**task_vars, **own})

    def _server_problems(self, task_vars: dict[str, Any]) -> Iterator[dict[str, Any]]:
        found = {entry["problem"]: entry for entry in self._each_server_problem(task_vars)}
        yield from found.values()

    def _each_server_problem(self, task_vars: dict[str, Any]) -> Iterator[dict[str, Any]]:
        hostvars = task_vars["hostvars"]
        for host in task_vars["ansible_play_hosts_all"]:
            own = hostvars.raw_get(host)
            yield from hostvars[host]["server_check"]["problems"]
            # Only a server that could be asked has memory to share out.
            if "memtotal_mb" in own["ansible_facts"]:
                # The host's own values and no other's, with what an app's config may refer to.
                templar = Templar(loader=self._loader, variables={**own, "hostvars": hostvars})
                yield from budget_problems(host, templar, own["memory_budget"])
