"""Jinja filter heroku_app: a Heroku app as an entry of the site's inventory."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError
from packaging.specifiers import InvalidSpecifier, SpecifierSet

DOCUMENTATION = r"""
name: heroku_app
short_description: A Heroku app as an entry of the site's inventory
description:
  - Reads the files of an app's source and its config vars, and returns its entry in C(apps), the secrets that the entry
    refers to, and a report.
  - Does no I/O. What is a secret is decided by the filter C(heroku_secret), what replaces an add-on by
    C(heroku_addons), when a job runs by C(heroku_schedule), what needs a look by C(heroku_findings).
options:
  _input:
    description:
      - C(name) and C(source) of the app, and C(files), the text of its source by path.
      - Where known C(version), C(config) (as of C(heroku config --json)), C(domains), C(formation) (as
        C(heroku ps:scale) prints it), C(vault) (names of the secrets that the vault has), C(default_domain) and
        C(redis_database), the number that no other app has.
    type: dict
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ {'name': 'shop', 'source': '/srv/shop', 'files': {'Procfile': 'web: gunicorn shop.wsgi'}} | heroku_app }}"
"""

RETURN = r"""
_value:
  description:
    - C(entry) is the entry, whose values are ready to be written, secrets as references. C(secrets) maps the names in
      the vault to values, null where one is to be made. C(missing) names the config vars that need a value.
    - C(report) holds lists of lines under C(taken over), C(changed), C(add-ons), C(to look at) and C(missing).
  type: dict
"""


# Ansible loads a filter by its path under a name of its own: the one beside it is found by the directory.
sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "module_utils"))
_common_range = import_module("python_range").common_range
_heroku_addons = import_module("heroku_addons").heroku_addons
_heroku_findings = import_module("heroku_findings").heroku_findings
_heroku_schedule = import_module("heroku_schedule").heroku_schedule
_heroku_secret = import_module("heroku_secret").heroku_secret

# In the order in which an entry reads well.
KEYS = (
    *("name", "source", "version", "domains", "processes", "single", "schedule", "python", "services"),
    *("redis_database", "config"),
)
SECTIONS = ("taken over", "changed", "add-ons", "to look at", "missing")
SERVICES = ("postgresql", "redis", "memcached")
OURS = {"DATABASE_URL": "postgresql", "REDIS_URL": "redis", "MEMCACHE_SERVERS": "memcached"}
MOST = 20
LEAST_WEB = 2
# Process types that are a command to give, and not kept running.
ONE_OFF = re.compile(r"console|shell|bash|migrate|setup|seed|rake|debug|test", re.IGNORECASE)
SINGLE = re.compile(r"beat|clock|scheduler|cron", re.IGNORECASE)
# Debian 13 has this one.
SYSTEM_PYTHON = "3.13"
PYTHONS = [f"3.{minor}" for minor in range(15, 7, -1)]
NO_CONFIG = {
    "BUILDPACK_URL": "there are no buildpacks here",
    "DYNO": "each process is given its own",
    "PORT": "each web process is given its own",
}
DATABASE = (
    "postgres://{role}:{{{{ vault_database_passwords['{app}'] | urlencode | replace('/', '%2F') }}}}"
    "@127.0.0.1:{{{{ pgbouncer_port }}}}/{role}"
)
REDIS = (
    "redis://{app}:{{{{ vault_redis_password | redis_password('{app}') }}}}@127.0.0.1"
    ":{{{{ haproxy_redis_port }}}}/{number}"
)
MEMCACHED = "{{ topology_memcached_servers | join(',') }}"
# Other names under which add-ons hand out what the site has, with the service and the value.
ALIASES = (
    (r"DATABASE_CONNECTION_POOL_URL|HEROKU_POSTGRESQL_\w+_URL", "postgresql", DATABASE),
    (r"(REDISCLOUD|REDISTOGO|OPENREDIS|REDISGREEN)(_\w+)?_URL|REDIS_TLS_URL|HEROKU_REDIS_\w+_URL", "redis", REDIS),
    (r"(MEMCACHIER|MEMCACHEDCLOUD)(_\w+)?_SERVERS", "memcached", MEMCACHED),
    (r"(MEMCACHIER|MEMCACHEDCLOUD)(_\w+)?_(USERNAME|PASSWORD)", "memcached", ""),
)
PACKAGE_FILES = {"Pipfile.lock": "Pipenv", "requirements.txt": "pip", "poetry.lock": "Poetry", "uv.lock": "uv"}
BUILD_FILES = {
    "Aptfile": "Aptfile asks for Debian packages, which nothing installs here: install them on each web host",
    "heroku.yml": "heroku.yml describes a container; here the app is built from its Python packages and run as it is",
    "bin/pre_compile": "bin/pre_compile is a hook of the buildpack, and not run here",
    "bin/post_compile": "bin/post_compile is a hook of the buildpack, and not run here",
    "nltk.txt": "nltk.txt names data that the buildpack fetches, and nothing does here",
    "Dockerfile": "Dockerfile is not used: the app is built from its Python packages",
}


class Import:
    """One app on its way from there to here."""

    def __init__(self, app: Mapping[str, Any]) -> None:
        self.name: str = app["name"]
        self.files: Mapping[str, str] = app["files"]
        self.config: Mapping[str, str] | None = app.get("config")
        self.vault = set(app.get("vault") or ())
        self.redis_database = int(app.get("redis_database") or 0)
        self.report: dict[str, list[str]] = {section: [] for section in SECTIONS}
        self.secrets: dict[str, str | None] = {}
        self.missing: list[str] = []
        self.manifest = self._manifest()
        self.findings = _heroku_findings(self.files)
        self.entry: dict[str, Any] = {"name": self.name, "source": self.source(app["source"])}
        if app.get("version"):
            self.entry["version"] = app["version"]

    def say(self, section: str, text: str) -> None:
        self.report[section].append(text)

    def look(self, text: str, where: list[str] | None = None) -> None:
        self.say("to look at", f"{', '.join(where)}: {text}" if where else text)

    def _manifest(self) -> dict[str, Any]:
        try:
            found = json.loads(self.files.get("app.json") or "{}")
        except ValueError as error:
            raise AnsibleFilterError(f"app.json of {self.name} is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise AnsibleFilterError(f"app.json of {self.name} is no mapping")
        return found

    def section(self, name: str) -> dict[str, Any]:
        """Return a mapping of app.json, in whatever shape that has."""
        found = self.manifest.get(name)
        return found if isinstance(found, dict) else {}

    def source(self, source: str) -> str:
        if not re.search(r"//[^/@\s]*:[^/@\s]+@|//[^/@\s]{16,}@", source):
            return source
        name = self.vault_name("source")
        self.secrets[name] = source
        self.say("changed", f"source holds a password and is kept in the vault, as {name}")
        return f"{{{{ {name} }}}}"

    def vault_name(self, name: str) -> str:
        return f"vault_{self.name.replace('-', '_')}_{name.lower()}"

    # Processes

    def processes(self, formation: str) -> None:
        types = procfile_types(self.files.get("Procfile", ""))
        wanted, origin = self.counts(formation)
        if "release" in types:
            self.say("taken over", f"release command, once before each new release: {types['release']}")
        kept = [name for name in types if name != "release"]
        if not types:
            self.look("there is no Procfile: gunicorn serves the WSGI module that the source has")
            kept = ["web"]
        counts = {name: self.count(name, wanted, origin) for name in kept}
        self.entry["processes"] = {name: count for name, count in counts.items() if count}
        single = [name for name in self.entry["processes"] if SINGLE.search(name)]
        if single:
            self.entry["single"] = single
            self.say("changed", f"once on the whole site, however many web hosts: {', '.join(single)}")
        idle = [name for name, count in counts.items() if not count]
        shown = ", ".join(f"{name} {count}" for name, count in self.entry["processes"].items())
        self.say("taken over", f"processes on each web host, from {origin}: {shown or 'none'}")
        if idle:
            self.say("changed", f"not kept running: {', '.join(idle)}; add a count to processes where that is wrong")

    def counts(self, formation: str) -> tuple[dict[str, int] | None, str]:
        if formation:
            pairs = [part.split(":")[0].partition("=") for part in re.split(r"[\s,]+", formation.strip())]
            wrong = [name for name, _equals, count in pairs if not count.isdecimal()]
            if wrong:
                raise AnsibleFilterError(
                    f"formation has {wrong[0]!r}, which is no count: write it as heroku ps:scale prints it, "
                    "web=1:Basic worker=2:Basic"
                )
            return {name: int(count) for name, _equals, count in pairs}, "heroku ps:scale"
        listed = self.section("formation")
        if listed:
            found = {name: about.get("quantity", 1) for name, about in listed.items() if isinstance(about, dict)}
            return {name: int(count) for name, count in found.items() if str(count).isdecimal()}, "app.json"
        return None, "the Procfile"

    def count(self, name: str, wanted: dict[str, int] | None, origin: str) -> int:
        if wanted is None:
            count = LEAST_WEB if name == "web" else int(not ONE_OFF.search(name))
            if name != "web" and count:
                self.look(f"how many of {name} ran on Heroku stands in no file: one is taken; heroku ps:scale tells")
        else:
            count = wanted.get(name, int(name == "web"))
        if name == "web" and count == 1:
            self.say("changed", "web: 2 in place of 1, so that one answers while the other restarts")
            count = LEAST_WEB
        if count > MOST:
            self.say("changed", f"{name}: {MOST} in place of {count}, the most that a host takes; {origin} has {count}")
            count = MOST
        return count

    # Python

    def python(self) -> None:
        asked, origin = self.asked_python()
        if asked:
            self.entry["python"] = asked
            self.say("taken over", f"python {asked}, from {origin}")
            return
        spec, origin = self.python_range()
        if spec is None:
            self.say("changed", "python is the system's: no file names a version")
            return
        fitting = [
            version for version in (SYSTEM_PYTHON, *PYTHONS) if f"{version}.99" in spec or f"{version}.0" in spec
        ]
        if not fitting:
            self.look(f"{origin} asks for Python {spec}, which is none that is known here: set python in the entry")
        elif fitting[0] == SYSTEM_PYTHON:
            self.say("changed", f"python is the system's, which {origin} ({spec}) allows on Debian 13")
        else:
            self.entry["python"] = fitting[0]
            self.say("taken over", f"python {fitting[0]}, the newest that {origin} ({spec}) allows")

    def asked_python(self) -> tuple[str, str]:
        for path, pattern in (
            (".python-version", r"(?:python-|cpython-)?(3(?:\.\d+){1,2})"),
            ("runtime.txt", r"python-(3(?:\.\d+){1,2})"),
        ):
            lines = [line.strip() for line in self.files.get(path, "").splitlines() if not line.startswith("#")]
            text = next(filter(None, lines), "")
            found = re.fullmatch(pattern, text)
            if found:
                return found[1], path
            if text:
                self.look(f"{path} says {text[:40]!r}, which is no version that is known here: set python in the entry")
        lock = json_of(self.files.get("Pipfile.lock", ""))
        requires = lock.get("_meta", {}).get("requires", {}) if isinstance(lock.get("_meta"), dict) else {}
        version = str(requires.get("python_full_version") or requires.get("python_version") or "")
        return (version, "Pipfile.lock") if re.fullmatch(r"3(\.\d+){1,2}", version) else ("", "")

    def python_range(self) -> tuple[SpecifierSet | None, str]:
        project, lock = toml_of(self.files.get("pyproject.toml", "")), toml_of(self.files.get("uv.lock", ""))
        poetry = project.get("tool", {}).get("poetry", {}).get("dependencies", {})
        for text, origin in (
            (project.get("project", {}).get("requires-python"), "requires-python of pyproject.toml"),
            (lock.get("requires-python"), "uv.lock"),
            (poetry.get("python") if isinstance(poetry, dict) else None, "pyproject.toml"),
        ):
            if isinstance(text, str):
                try:
                    return SpecifierSet(_common_range(text)), origin
                except InvalidSpecifier:
                    self.look(f"{origin} says {text!r}, which is read by no rule known here: set python in the entry")
        return None, ""

    def packages(self) -> None:
        found = [name for name in PACKAGE_FILES if name in self.files]
        if len(found) == 1:
            self.say("taken over", f"packages from {found[0]}, as {PACKAGE_FILES[found[0]]} installs them")
        elif found:
            self.look(
                f"the source has {' and '.join(found)}, of which Heroku takes exactly one, and so does the build here: "
                "remove what the app does not use"
            )
        elif "Pipfile" in self.files:
            self.look("the source has a Pipfile without Pipfile.lock: add what  pipenv lock  makes")
        else:
            self.look(f"the source names no packages: it needs one of {', '.join(PACKAGE_FILES)}")
        for path, text in BUILD_FILES.items():
            if path in self.files:
                self.look(text)
        scripts = json_of(self.files.get("package.json", "")).get("scripts")
        if isinstance(scripts, dict) and scripts.keys() & {"build", "heroku-postbuild", "heroku-prebuild"}:
            self.look("package.json has a build script, and no Node runs here: commit what it makes, or keep it out")

    def other_manifest(self) -> None:
        for buildpack in self.manifest.get("buildpacks") or []:
            url = str(buildpack.get("url", "") if isinstance(buildpack, dict) else buildpack)
            if url and not re.search(r"heroku/python|heroku-buildpack-python", url):
                self.look(f"app.json has the buildpack {without_password(url)}, and nothing does here what it does")
        scripts = self.section("scripts")
        if scripts.get("postdeploy"):
            self.look(
                f"app.json has a postdeploy script, which runs once after the first deploy. By hand: "
                f"app-run {self.name} {scripts['postdeploy']}"
            )
        if self.manifest.get("stack") == "container":
            self.look("app.json asks for the stack container, which there is none of here")
        self.schedule()

    def schedule(self) -> None:
        """Take over the jobs of app.json, as far as an entry has words for their times."""
        listed = self.manifest.get("cron")
        for job in listed if isinstance(listed, list) else []:
            about = job if isinstance(job, dict) else {}
            command, when = (str(about.get(key) or "") for key in ("command", "schedule"))
            times = _heroku_schedule(when) if command.strip() else []
            for time in times:
                self.entry.setdefault("schedule", []).append({**time, "command": literal(command)})
            shown = f"scheduled job {command!r} at {when!r}"
            if times:
                said = ", ".join(f"{key} {value}" for time in times for key, value in time.items())
                self.say("taken over", f"{shown}: {said}, by the servers' clock (base_timezone), on Heroku by UTC")
            elif job:
                self.look(
                    f"app.json has the {shown}, for which schedule has no words: it takes times of day, with days of "
                    "the week, and even periods (docs/deploying.md)"
                )

    # Config vars and services

    def services(self) -> None:
        """Find out which of the site's services the app wants, and what is to be said of its add-ons."""
        config = dict(self.config or {})
        listed = [addon_name(item) for item in self.manifest.get("addons") or []]
        names = (
            set(config) if is_postgres(config.get("DATABASE_URL", "postgres://")) else set(config) - {"DATABASE_URL"}
        )
        self.addons = _heroku_addons([name for name in listed if name], sorted(names))
        wanted = {addon["service"] for addon in self.addons} | {
            service for name, service in OURS.items() if name in self.findings["reads"] or name in names
        }
        packages = "".join(self.files.get(name, "") for name in PACKAGE_FILES)
        if re.search(r"dj[-_]database[-_]url|django[-_](on[-_])?heroku", packages):
            wanted.add("postgresql")
        if not is_postgres(config.get("DATABASE_URL", "postgres://")):
            wanted.discard("postgresql")
            self.look("DATABASE_URL leads to no PostgreSQL: it stays as it is, in the vault")
        known = [service for service in SERVICES if service in wanted]
        if known != list(SERVICES):
            self.entry["services"] = known
        if "redis" in known and self.redis_database:
            self.entry["redis_database"] = self.redis_database
            self.say("changed", f"its database in redis is number {self.redis_database}: other apps have those below")
        self.say("taken over", f"services of the site: {', '.join(known) or 'none'}")
        for addon in self.addons:
            self.say("add-ons", f"{addon['name']}: {addon['text'].replace('<app>', self.name)}")
        for service in SERVICES:
            same = [addon["name"] for addon in self.addons if addon["service"] == service]
            urls = {value for name, value in config.items() if re.fullmatch(ALIASES[0][0], name)} - {
                config.get("DATABASE_URL")
            }
            if len(same) > 1:
                self.look(f"{' and '.join(same)} were separate on Heroku and are one {service} here")
            if service == "postgresql" and urls and "DATABASE_URL" in config:
                self.look(
                    "there is a second PostgreSQL (HEROKU_POSTGRESQL_…_URL), a follower or one of its own: only "
                    "that of DATABASE_URL has a place here"
                )

    def config_vars(self) -> dict[str, str]:
        """Return the config vars in question, with values; ask for those that have none."""
        declared = {
            name: about if isinstance(about, dict) else {"value": about} for name, about in self.section("env").items()
        }
        if self.config is not None:
            found = dict(self.config)
        else:
            found = {name: str(about["value"]) for name, about in declared.items() if about.get("value") is not None}
        for name, about in declared.items():
            if name in found or self.is_given(name) or name in NO_CONFIG:
                continue
            if about.get("generator") == "secret":
                self.make(name)
            elif about.get("required", True) is not False and about.get("value") is None:
                self.ask(name, str(about.get("description") or "app.json says that it is required"))
            elif self.config is not None:
                self.say("changed", f"config {name}: app.json knows it, Heroku has no value for it; left out")
        for name, where in self.findings["needs"].items():
            known = name in found or name in declared or self.is_given(name) or name.startswith("HEROKU_")
            if not known and not self.aliased(name):
                self.look(f"reads {name} without a default, and it is set nowhere", where)
        return found

    def make(self, name: str) -> None:
        vault = self.vault_name(name)
        self.secrets[vault] = None
        self.entry["config"][name] = f"{{{{ {vault} }}}}"
        kept = "kept as the vault has it" if vault in self.vault else "made, as app.json asks (generator: secret)"
        self.say("taken over", f"config {name}: {kept}, {vault}")

    def ask(self, name: str, why: str) -> None:
        vault = self.vault_name(name)
        self.entry["config"][name] = f"{{{{ {vault} }}}}"
        if vault in self.vault:
            self.say("taken over", f"config {name}: as the vault has it, {vault}")
            return
        self.missing.append(name)
        self.say("missing", f"config {name} has no value ({why}): add {vault} to the vault")

    def is_given(self, name: str) -> bool:
        services = self.entry.get("services", SERVICES)
        return OURS.get(name) in services or any(
            name in addon["left_out"] for addon in self.addons if not addon["service"]
        )

    def aliased(self, name: str) -> str | None:
        """Return the value by which a name that an add-on gave leads to the site's service."""
        for pattern, service, value in ALIASES:
            if re.fullmatch(pattern, name) and service in self.entry.get("services", SERVICES):
                if service == "memcached":
                    return value
                return value.format(app=self.name, role=self.name.replace("-", "_"), number=self.redis_database)
        return None

    def take_config(self) -> None:
        self.entry["config"] = {}
        found = self.config_vars()
        left = {variable: addon["name"] for addon in self.addons for variable in addon["left_out"]}
        for name in sorted(found):
            alias = self.aliased(name)
            if alias is not None:
                self.take_alias(name, alias, given=True)
            elif name.startswith("HEROKU_"):
                self.say("changed", f"config {name}: left out, it is Heroku's own")
            elif name in NO_CONFIG:
                self.say("changed", f"config {name}: left out, {NO_CONFIG[name]}")
            elif self.is_given(name) or (name in left and name not in self.findings["reads"]):
                reason = (
                    "the site gives its own"
                    if self.is_given(name) and name in OURS
                    else f"of no use without {left.get(name)}"
                )
                self.say("changed", f"config {name}: left out, {reason}")
            else:
                self.take(name, found[name])
        for name in sorted(set(self.findings["reads"]) - set(found)):
            alias = self.aliased(name)
            if alias is not None:
                self.take_alias(name, alias, given=False)
        if not self.entry["config"]:
            del self.entry["config"]

    def take_alias(self, name: str, alias: str, given: bool) -> None:
        reads, where = self.findings["reads"], self.findings["reads"].get(name)
        service = next(service for pattern, service, _value in ALIASES if re.fullmatch(pattern, name))
        ours = next(own for own, of in OURS.items() if of == service)
        if where and (ours not in reads or name in self.findings["needs"]):
            self.entry["config"][name] = alias
            value = f"leads to the site's {service} now" if alias else "is empty now: memcached has no accounts here"
            self.say("changed", f"config {name} {value}; read at {', '.join(where)}")
        elif given:
            reason = (
                f"the source reads {ours} as well" if where else f"nothing in the source reads it, and {ours} is there"
            )
            self.say("changed", f"config {name}: left out, {reason}")

    def take(self, name: str, value: str) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
            self.look(f"config {name!r}: left out, since no environment can hold it")
            return
        if not _heroku_secret(name, value):
            self.entry["config"][name] = literal(value)
            self.say("taken over", f"config {name}: plain")
            return
        same = next((key for key, other in self.secrets.items() if other == value), None)
        vault = same or self.vault_name(name)
        if vault in self.secrets and not same:
            vault = f"{vault}_2"
        self.secrets[vault] = value
        self.entry["config"][name] = f"{{{{ {vault} }}}}"
        self.say("taken over", f"config {name}: in the vault, {vault}")

    # Domains

    def domains(self, asked: list[str], default: str) -> None:
        found = asked or sorted(self.known_domains()) or ([default] if default else [])
        if found:
            self.entry["domains"] = found
            origin = "as asked" if asked else "named in its config vars" if found != [default] else "of the lab"
            self.say("taken over", f"domains {', '.join(found)}, {origin}")
            self.allow(found)
        else:
            self.say(
                "missing",
                "domains: no config var names one. Give them: -e domains=shop.example,www.shop.example; "
                "heroku domains  lists them",
            )

    def known_domains(self) -> Iterator[str]:
        for name, value in (self.config or {}).items():
            if re.search(r"HOSTS?$|DOMAINS?$|ORIGINS?$|SITE_URL|BASE_URL|APP_URL", name) and not _heroku_secret(
                name, value
            ):
                for part in re.split(r"[\s,]+", value):
                    host = re.sub(r"^https?://|[:/].*$", "", part).lower()
                    if re.fullmatch(r"(?:[a-z0-9][a-z0-9-]*\.)+[a-z]{2,}", host) and not host.endswith("herokuapp.com"):
                        yield host

    def allow(self, domains: list[str]) -> None:
        """Add the domains to a list of hosts that would refuse them."""
        for name, value in self.entry.get("config", {}).items():
            if not re.fullmatch(r"(\w+_)?ALLOWED_HOSTS?", name) or "{" in value:
                continue
            hosts = [host for host in re.split(r"\s*,\s*", value) if host]
            refused = [domain for domain in domains if not any(covers(host, domain) for host in hosts)]
            if refused:
                self.entry["config"][name] = ",".join(hosts + refused)
                self.say("changed", f"config {name}: {', '.join(refused)} added, which the app would refuse")


def addon_name(item: Any) -> str:
    return str(item.get("plan", "")) if isinstance(item, dict) else str(item)


def covers(host: str, domain: str) -> bool:
    return host in ("*", domain) or (host.startswith((".", "*.")) and f".{domain}".endswith(host.lstrip("*")))


def is_postgres(url: str) -> bool:
    return re.match(r"postg(res|resql|is)(\+\w+)?://", url) is not None


def without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//…@", text)


def procfile_types(text: str) -> dict[str, str]:
    return dict(
        re.findall(r"^([A-Za-z0-9][A-Za-z0-9_-]*):[ \t]*(\S.*?)[ \t]*$", text.replace("\r\n", "\n"), re.MULTILINE)
    )


def json_of(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def toml_of(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def literal(value: str) -> str:
    """Return a value so that the template engine takes it as it is."""
    return re.sub(r"\{(?=[{%#])", "{{ '{' }}", value)


def heroku_app(app: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of an app, its secrets and the report."""
    taken = Import(app)
    taken.processes(app.get("formation") or "")
    taken.python()
    taken.packages()
    taken.services()
    taken.take_config()
    taken.domains(list(app.get("domains") or []), app.get("default_domain") or "")
    taken.other_manifest()
    for finding in taken.findings["look"]:
        taken.look(finding["what"], finding["where"])
    return {
        "entry": {key: taken.entry[key] for key in KEYS if key in taken.entry},
        "secrets": taken.secrets,
        "missing": taken.missing,
        "report": {section: lines for section, lines in taken.report.items() if lines},
    }


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"heroku_app": heroku_app}
