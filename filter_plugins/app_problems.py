"""Every mistake in the list of apps at once, in plain words."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any

DOCUMENTATION = r"""
name: app_problems
short_description: Every mistake in the list of apps at once
description:
  - Looks at the list C(apps) of a site and returns what is wrong with it. An empty list means that it is right.
  - Does no I/O. What is known about the sources is handed in.
options:
  _input:
    description: >-
      The list of apps. A value that could not be worked out is a mapping with C(__unresolved__); it is passed over.
    type: list
    elements: dict
    required: true
  sources:
    description: >-
      What was found at each source. C(error) says why it cannot be read and C(mend) what mends it; C(refs) lists the
      branches and tags of a git source and is null for a plain directory, C(versions) those of the versions asked for
      that a directory has, C(processes) the names in the Procfile of a directory.
    type: dict
    default: {}
  reserved:
    description: User names that the site uses for other purposes, with the purpose.
    type: dict
    default: {}
  config_vars:
    description: Config vars by app that stand beside the list, where one without a value takes one away.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ [{'name': 'shop', 'source': '/srv/shop', 'domain': 'shop.example'}] | app_problems }}"
"""

RETURN = r"""
_value:
  description: >-
    One mapping a problem. C(path) leads to the value, C(problem) says what is wrong, C(mend) the line that mends it.
  type: list
  elements: dict
"""

# Each key of an app (those of the filter site_apps) with the line that an error message offers.
KEYS = {
    "name": "name: shop",
    "source": "source: https://git.example/shop.git",
    "version": "version: main",
    "domains": "domains: [shop.example]",
    "processes": "processes: {web: 2, worker: 1}",
    "stop_seconds": "stop_seconds: {worker: 120}",
    "single": "single: [beat]",
    "schedule": "schedule: [{at: '03:30', command: python manage.py clearsessions}]",
    "writable": "writable: [uploads]",
    "config": 'config: {DEBUG: "0"}',
    "services": "services: [postgresql, redis, memcached]",
    "redis_database": "redis_database: 1",
    "redis_keys": 'redis_keys: ["shop:*"]',
    "python": 'python: "3.13"',
    "port": "port: 8000",
    "health_path": "health_path: /health",
    "backup_check": "backup_check: SELECT count(*) > 0 FROM users",
    "static_url": "static_url: /static/",
    "static_path": "static_path: staticfiles",
    "headers": "headers: {X-Frame-Options: DENY}",
    "process_mib": "process_mib: 96",
}
REQUIRED = ("name", "source")
TEXT = ("name", "source", "version", "python", "health_path", "backup_check", "static_url", "static_path")
SERVICES = ("postgresql", "redis", "memcached")
# As redis has by itself.
REDIS_DATABASES = 16
REDIS_PATTERN = r"[^\s\"'#~&%|]+"
# What people coming from other tools write.
SYNONYMS = {
    "addons": "services",
    "branch": "version",
    "config_vars": "config",
    "domain_names": "domains",
    "env": "config",
    "environment": "config",
    "formation": "processes",
    "git": "source",
    "healthcheck": "health_path",
    "hostname": "domains",
    "http_headers": "headers",
    "security_headers": "headers",
    "hosts": "domains",
    "procfile": "processes",
    "ref": "version",
    "repo": "source",
    "repository": "source",
    "revision": "version",
    "scale": "processes",
    "tag": "version",
    "url": "source",
    "workers": "processes",
    "stopwaitsecs": "stop_seconds",
    "cron": "schedule",
    "jobs": "schedule",
    "scheduler": "schedule",
    "volumes": "writable",
    "singleton": "single",
    "grace": "stop_seconds",
    "postgres": "postgresql",
    "pg": "postgresql",
    "database": "postgresql",
    "memcache": "memcached",
    "cache": "memcached",
    "queue": "redis",
}
# An app's name becomes a system user and group, a database and a database role.
RESERVED = {
    **dict.fromkeys(
        [
            "root",
            "daemon",
            "bin",
            "sys",
            "sync",
            "games",
            "man",
            "lp",
            "mail",
            "news",
            "uucp",
            "proxy",
            "www-data",
            "backup",
            "list",
            "irc",
            "nobody",
            "nogroup",
            "messagebus",
            "sshd",
            "systemd-network",
            "systemd-resolve",
            "systemd-timesync",
            "systemd-journal",
            "polkitd",
            "syslog",
            "tss",
            "ntp",
            "chrony",
            "uuidd",
            "postgres",
            "redis",
            "memcache",
            "memcached",
            "pgbouncer",
            "nginx",
            "supervisor",
        ],
        "a user that Debian or one of the services keeps for itself",
    ),
    **dict.fromkeys(
        [
            "adm",
            "tty",
            "disk",
            "dialout",
            "fax",
            "voice",
            "cdrom",
            "floppy",
            "tape",
            "sudo",
            "audio",
            "dip",
            "operator",
            "src",
            "shadow",
            "utmp",
            "video",
            "sasl",
            "plugdev",
            "staff",
            "users",
            "input",
            "sgx",
            "clock",
            "kvm",
            "render",
            "crontab",
            "netdev",
            "ssl-cert",
            "docker",
            "wheel",
        ],
        "a group that Debian keeps for itself",
    ),
    **dict.fromkeys(
        [
            "all",
            "sameuser",
            "samerole",
            "samegroup",
            "replication",
            "public",
            "none",
            "template0",
            "template1",
            "user",
            "current-user",
            "session-user",
        ],
        "a word with a meaning of its own to PostgreSQL",
    ),
}
SITE_PORTS = {
    22: "ssh",
    80: "nginx",
    443: "nginx",
    5432: "PostgreSQL",
    6379: "redis",
    6432: "pgbouncer",
    7379: "haproxy",
    11211: "memcached",
}
PROVIDED = {"DATABASE_URL": "postgresql", "REDIS_URL": "redis", "MEMCACHE_SERVERS": "memcached"}
FIRST_PORT, PORTS_PER_APP = 8000, 20
MOST_STOP_SECONDS = 3600

Problem = dict[str, Any]
Check = Callable[[list[Any], str, Any], Iterator[Problem]]


def problem(path: list[Any], text: str, mend: str) -> Problem:
    return {"path": path, "problem": text, "mend": mend}


def unresolved(value: Any) -> bool:
    return isinstance(value, dict) and "__unresolved__" in value


def nearest(word: Any, known: Any, cutoff: float = 0.6) -> str | None:
    """The known word that was most likely meant."""
    text = str(word).lower().replace("-", "_")
    if text in SYNONYMS and SYNONYMS[text] in known:
        return SYNONYMS[text]
    return next(iter(difflib.get_close_matches(text, [str(item) for item in known], 1, cutoff)), None)


def did_you_mean(word: Any, known: Any) -> str:
    match = nearest(word, known)
    return f' Did you mean "{match}"?' if match else f" The known ones are {', '.join(known)}."


def kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"{str(value).lower()} (yes or no)"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the text "{value}"'
    return "a list" if isinstance(value, list) else "a mapping"


def without_password(source: str) -> str:
    return re.sub(r"//[^/@]+@", "//…@", source)


def number(value: Any) -> int | None:
    """A whole number, which a template may have made text of."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def label(app: dict[str, Any], index: int) -> str:
    name = app.get("name")
    return f'app "{name}"' if isinstance(name, str) else f"app number {index + 1}"


def web_count(app: dict[str, Any]) -> int:
    processes = app.get("processes")
    if not isinstance(processes, dict) or unresolved(processes):
        return 2
    return max(number(processes.get("web", 0)) or 0, 0)


def first_port(app: dict[str, Any], index: int) -> int | None:
    port = number(app["port"]) if app.get("port") is not None else FIRST_PORT + PORTS_PER_APP * index
    return port if port is not None and 1024 <= port <= 65535 else None


def check_name(path: list[Any], _app: str, value: str) -> Iterator[Problem]:
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?", value):
        better = re.sub(r"^[^a-z]+|-+$", "", re.sub(r"[^a-z0-9]+", "-", value.lower()))[:31] or "shop"
        yield problem(
            path,
            f'the app name "{value}" cannot name a system user and a database: it takes 1 to 31 small letters, digits '
            "and hyphens, starts with a letter and ends with a letter or digit",
            f"write  name: {better}",
        )
    elif value in RESERVED or value.startswith(("pg-", "systemd-")):
        why = RESERVED.get(value, "a name that begins as those of the system do")
        yield problem(path, f'an app cannot be named "{value}": that is {why}', f"write  name: {value}-app")


def check_domains(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, list):
        name = value if isinstance(value, str) else "shop.example"
        yield problem(path, f"domains of {app} is {kind(value)}, not a list", f"write  domains: [{name}]")
        return
    for index, domain in enumerate(value):
        if unresolved(domain):
            continue
        better = better_domain(domain)
        if better != domain:
            yield problem(
                [*path, index],
                f"{app} has the domain {kind(domain).removeprefix('the text ')}, which is no domain name",
                f"write a name as a browser's address line shows it, without http:// or a path:  {better}",
            )


def better_domain(value: Any) -> str:
    """The value itself when it is a legal domain or IPv4 address, else the likeliest one that is."""
    if not isinstance(value, str):
        return "shop.example"
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        pass
    if is_domain(value):
        return value
    text = re.sub(r"^[a-z]+://", "", value.strip().lower()).split("/")[0].split(":")[0].strip(".")
    try:
        text = text.encode("idna").decode("ascii")
    except UnicodeError:
        return "shop.example"
    text = text.replace("_", "-").removeprefix("*.")
    return text if is_domain(text) else "shop.example"


def is_domain(value: str) -> bool:
    labels = value.split(".")
    shape = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    return len(value) <= 253 and all(re.fullmatch(shape, item) for item in labels) and not labels[-1].isdigit()


def check_processes(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield problem(
            path, f"processes of {app} is {kind(value)}, not names with counts", f"write  {KEYS['processes']}"
        )
        return
    for name, count in value.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)):
            yield problem(
                [*path, name], f'{app} has a process named "{name}", which no Procfile can hold', "write  worker: 1"
            )
        elif name == "release":
            yield problem(
                [*path, name],
                f"{app} asks for the process release, which runs once a deployment and is not kept running",
                "remove  release  from processes",
            )
        elif not unresolved(count):
            yield from count_problems([*path, name], app, name, count)


def count_problems(path: list[Any], app: str, name: str, value: Any) -> Iterator[Problem]:
    count, example = number(value), 2 if name == "web" else 1
    if count is None or count < 0 or count > PORTS_PER_APP:
        yield problem(
            path,
            f"{app} asks for {kind(value)} of the process {name}; it takes a whole number up to {PORTS_PER_APP}",
            f"write  {name}: {example}",
        )
    elif name == "web" and count == 0:
        yield problem(
            path,
            f"{app} asks for no process web, so nothing would answer its visitors",
            "write  web: 2  or, for an app that has no pages, remove web from processes and leave out domains",
        )


def check_stop_seconds(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield problem(
            path, f"stop_seconds of {app} is {kind(value)}, not names with seconds", f"write  {KEYS['stop_seconds']}"
        )
        return
    for name, seconds in value.items():
        if not unresolved(seconds) and not 1 <= (number(seconds) or 0) <= MOST_STOP_SECONDS:
            yield problem(
                [*path, name],
                f"{app} gives the process {name} {kind(seconds)} to end in; it takes seconds from 1 to "
                f"{MOST_STOP_SECONDS}",
                f"write  {name}: 60",
            )


def check_single(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, list) or not all(isinstance(item, str) or unresolved(item) for item in value):
        yield problem(path, f"single of {app} is {kind(value)}, not a list of processes", f"write  {KEYS['single']}")
    elif "web" in value:
        yield problem(
            path,
            f"{app} wants its process web on one host alone, and every web host has visitors to answer",
            "remove  web  from single",
        )


EVERY = r"(1|2|3|4|5|6|10|12|15|20|30|60)m|(1|2|3|4|6|8|12|24)h|1d"
DAY = "(Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
AT = rf"({DAY}(,{DAY})* )?([01]\d|2[0-3])?:[0-5]\d"


def check_schedule(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield problem(path, f"schedule of {app} is {kind(value)}, not a list", f"write  {KEYS['schedule']}")
        return
    for index, job in enumerate(value):
        if unresolved(job):
            continue
        if not isinstance(job, dict) or not isinstance(job.get("command"), str) or len({"at", "every"} & set(job)) != 1:
            yield problem(
                [*path, index],
                f"job {index + 1} in the schedule of {app} needs a command and either at or every",
                "write  - {every: 10m, command: python manage.py …}",
            )
            continue
        key, pattern, example = ("every", EVERY, "10m") if "every" in job else ("at", AT, "'03:30'")
        others = sorted(set(job) - {"command", key})
        if others:
            yield problem(
                [*path, index], f"job {index + 1} of {app} has an unknown key {others[0]}", f"remove  {others[0]}"
            )
        elif not unresolved(job[key]) and not re.fullmatch(pattern, str(job[key])):
            yield problem(
                [*path, index, key],
                f'job {index + 1} of {app} is to run {key} "{job[key]}"; it takes every: 10m, 1h, 6h, 1d or the like, '
                "which comes out even in an hour or a day, or at: '03:30', ':15', 'Mon,Thu 03:30'",
                f"write  {key}: {example}",
            )


def check_writable(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield problem(path, f"writable of {app} is {kind(value)}, not a list", f"write  {KEYS['writable']}")
        return
    for index, item in enumerate(value):
        if unresolved(item):
            continue
        if not isinstance(item, str) or not re.fullmatch(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*", item) or ".." in item:
            yield problem(
                [*path, index],
                f"{app} has the writable {kind(item)}; it is a directory inside the app, such as uploads",
                f"write  {KEYS['writable']}",
            )


def check_config(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield problem(path, f"config of {app} is {kind(value)}, not names with values", f"write  {KEYS['config']}")
        return
    for name, setting in value.items():
        where = [*path, name]
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            better = re.sub(r"\W", "_", str(name)).lstrip("0123456789") or "NAME"
            yield problem(
                where,
                f'{app} has a config variable named "{name}"; names are letters, digits and _',
                f"write  {better}: …",
            )
        elif name == "PORT":
            yield problem(
                where,
                f"{app} sets PORT, which each of its web processes is given by itself",
                "remove PORT; the first port is the app's key  port: 8000",
            )
        elif isinstance(setting, bool) or setting is None:
            text = {True: "true", False: "false", None: ""}[setting]
            yield problem(
                where,
                f"config {name} of {app} is {'empty' if setting is None else 'a yes or no'}; the app can only be given "
                "text, and which text is yours to say",
                f'write it in quotes:  {name}: "{text}"',
            )
        elif isinstance(setting, dict | list) and not unresolved(setting):
            yield problem(
                where,
                f"config {name} of {app} is {kind(setting)}, not text",
                f"write  {name}: '…' on one line, in quotes",
            )
        elif isinstance(setting, str) and "\0" in setting:
            yield problem(
                where, f"config {name} of {app} holds a NUL byte, which no environment can hold", f'write  {name}: "…"'
            )


def check_headers(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield problem(path, f"headers of {app} is {kind(value)}, not names with values", f"write  {KEYS['headers']}")
        return
    for name, setting in value.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", str(name)):
            yield problem(
                [*path, name],
                f'{app} has a header named "{name}"; names are letters, digits and hyphens',
                f"write  {KEYS['headers']}",
            )
        elif not unresolved(setting) and not (
            isinstance(setting, str) and re.fullmatch(r"[^\x00-\x1f\x7f\"\\$]*", setting)
        ):
            yield problem(
                [*path, name],
                f"header {name} of {app} is {kind(setting)}; it takes text on one line without double quotes, "
                "backslash and $",
                f'write it in quotes:  {name}: "…"  (or  ""  for no such header)',
            )


def check_services(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield problem(path, f"services of {app} is {kind(value)}, not a list", f"write  {KEYS['services']}")
        return
    for index, service in enumerate(value):
        if not unresolved(service) and service not in SERVICES:
            match = nearest(service, SERVICES) or "redis"
            yield problem(
                [*path, index],
                f'{app} asks for the service "{service}", which does not exist.{did_you_mean(service, SERVICES)}',
                f"write  services: [{match}]  or leave services out for all three",
            )


def check_python(path: list[Any], app: str, value: str) -> Iterator[Problem]:
    if value != "system" and not re.fullmatch(r"3\.\d{1,2}(\.\d{1,2})?", value):
        yield problem(
            path,
            f'python of {app} is "{value}"; it takes system or a version',
            'write  python: system  or  python: "3.13"',
        )


def check_port(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if number(value) is None or not 1024 <= int(value) <= 65535:
        yield problem(
            path, f"port of {app} is {kind(value)}; it takes a number from 1024 to 65535", f"write  {KEYS['port']}"
        )


def check_redis_database(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if number(value) is None or not 0 <= int(value) < REDIS_DATABASES:
        yield problem(
            path,
            f"redis_database of {app} is {kind(value)}; it takes a number from 0 to {REDIS_DATABASES - 1}",
            f"write  {KEYS['redis_database']}",
        )


def check_redis_keys(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    """Patterns that redis's rules would not hold together."""
    if not isinstance(value, list):
        yield problem(
            path, f"redis_keys of {app} is {kind(value)}; it takes a list of patterns", f"write  {KEYS['redis_keys']}"
        )
        return
    for position, pattern in enumerate(value):
        if not isinstance(pattern, str) or not re.fullmatch(REDIS_PATTERN, pattern):
            yield problem(
                [*path, position],
                f"{kind(pattern)} in redis_keys of {app} is no pattern of keys: it has no spaces and no quotes",
                f"write  {KEYS['redis_keys']}",
            )


def check_process_mib(path: list[Any], app: str, value: Any) -> Iterator[Problem]:
    if number(value) is None or not 1 <= int(value) <= 2**20:
        yield problem(
            path, f"process_mib of {app} is {kind(value)}; it takes a number of MiB", f"write  {KEYS['process_mib']}"
        )


def check_health_path(path: list[Any], app: str, value: str) -> Iterator[Problem]:
    if not re.fullmatch(r"/[^\s\"'\\;{}$]*", value):
        better = "/" + re.sub(r"[\s\"'\\;{}$]", "", value).lstrip("/")
        yield problem(
            path,
            f'health_path of {app} is "{value}"; it starts with / and holds no spaces or quotes',
            f"write  health_path: {better}",
        )


def check_static_url(path: list[Any], app: str, value: str) -> Iterator[Problem]:
    if not re.fullmatch(r"/([A-Za-z0-9._~-]+/)+", value):
        better = "/" + "/".join(re.findall(r"[A-Za-z0-9._~-]+", value)) + "/"
        yield problem(
            path,
            f'static_url of {app} is "{value}"; it starts and ends with / and has a word between',
            f"write  static_url: {better if len(better) > 2 else '/static/'}",
        )


def check_static_path(path: list[Any], app: str, value: str) -> Iterator[Problem]:
    if value.startswith(("/", "~")) or ".." in value.split("/") or not re.fullmatch(r"[A-Za-z0-9._/-]+", value):
        yield problem(
            path,
            f'static_path of {app} is "{value}"; it is a directory inside the app, such as staticfiles',
            "write  static_path: staticfiles",
        )


CHECKS: dict[str, Check] = {
    "name": check_name,
    "domains": check_domains,
    "processes": check_processes,
    "stop_seconds": check_stop_seconds,
    "single": check_single,
    "schedule": check_schedule,
    "writable": check_writable,
    "config": check_config,
    "services": check_services,
    "python": check_python,
    "redis_database": check_redis_database,
    "redis_keys": check_redis_keys,
    "port": check_port,
    "health_path": check_health_path,
    "static_url": check_static_url,
    "static_path": check_static_path,
    "headers": check_headers,
    "process_mib": check_process_mib,
}


def key_problems(index: int, app: dict[str, Any]) -> Iterator[Problem]:
    """Unknown keys, and missing ones."""
    name, unknown = label(app, index), [key for key in app if key not in KEYS]
    for key in unknown:
        match, value = nearest(key, KEYS), app[key]
        mend = f"write  {KEYS[match]}" if match else f"remove  {key}"
        if match in TEXT and isinstance(value, str | int):
            mend = f"write  {match}: {value}"
        elif match == "domains" and isinstance(value, str):
            mend = f"write  domains: [{value}]"
        yield problem(["apps", index, key], f'{name} has an unknown key "{key}".{did_you_mean(key, KEYS)}', mend)
    for key in REQUIRED:
        if app.get(key) is None and not any(nearest(other, KEYS) == key for other in unknown):
            yield problem(["apps", index], f"{name} has no {key}", f"write  {KEYS[key]}")


def value_problems(index: int, app: dict[str, Any]) -> Iterator[Problem]:
    """Values of the wrong type or shape."""
    name = label(app, index)
    for key, example in KEYS.items():
        value, path = app.get(key), ["apps", index, key]
        if value is None or unresolved(value):
            continue
        if key in TEXT and not (isinstance(value, str) and (value.strip() or key == "version")):
            # A version such as 3.10 or 1234567 is a number to YAML, and not the one that was meant.
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            mend = f'write it in quotes:  {key}: "{value}"' if numeric else f"write  {example}"
            yield problem(path, f"{key} of {name} is {kind(value)}, where text is needed", mend)
        elif key in CHECKS:
            yield from CHECKS[key](path, name, value)


def provided_problems(index: int, app: dict[str, Any], path: list[Any] | None = None) -> Iterator[Problem]:
    """A config variable that the site itself provides."""
    services, config = app.get("services"), app.get("config")
    services = list(SERVICES) if services is None else services
    if not isinstance(config, dict) or not isinstance(services, list):
        return
    for name, service in PROVIDED.items():
        if name in config and service in services:
            rest = ", ".join(item for item in SERVICES if item in services and item != service)
            yield problem(
                [*(path or ["apps", index, "config"]), name],
                f"{label(app, index)} sets {name}, which it is given because it uses the site's {service}",
                f"remove {name}; or, to use another server, leave {service} out:  services: [{rest}]",
            )


def stop_problems(index: int, app: dict[str, Any]) -> Iterator[Problem]:
    """Time to end for a process that the app does not run."""
    seconds, processes = app.get("stop_seconds"), app.get("processes")
    if isinstance(seconds, dict) and isinstance(processes, dict) and not unresolved(processes):
        for name in seconds:
            if name not in processes:
                match, hint = nearest(name, processes), did_you_mean(name, processes)
                yield problem(
                    ["apps", index, "stop_seconds", name],
                    f'{label(app, index)} gives time to end to the process "{name}", which it does not run.{hint}',
                    f"write  {match}: {seconds[name]}" if match else f"remove  {name}",
                )


def single_problems(index: int, app: dict[str, Any]) -> Iterator[Problem]:
    """A process that is to be single and of which the app runs none, or several."""
    single, processes = app.get("single"), app.get("processes")
    if not isinstance(single, list) or not isinstance(processes, dict) or unresolved(processes):
        return
    for position, name in enumerate(single):
        if not isinstance(name, str) or name == "web":
            continue
        count = number(processes.get(name, 0))
        if count != 1:
            has = "runs none of it" if not count else f"runs {count} of it"
            yield problem(
                ["apps", index, "single", position],
                f'{label(app, index)} wants the process "{name}" once on the whole site, and {has}',
                f"write  {name}: 1  in processes",
            )


def silent_problems(index: int, app: dict[str, Any]) -> Iterator[Problem]:
    """Domains that lead to no process."""
    processes = app.get("processes")
    if isinstance(processes, dict) and not unresolved(processes) and "web" not in processes and app.get("domains"):
        yield problem(
            ["apps", index, "processes"],
            f"{label(app, index)} has domains and no process web, so nothing would answer its visitors",
            "write  web: 2  in processes, or remove domains",
        )


def version_problems(index: int, app: dict[str, Any], found: dict[str, Any]) -> Iterator[Problem]:
    """A version that the source lacks. An abbreviated commit of a distant repository can only be tried."""
    version, refs, path = app.get("version"), found.get("refs"), ["apps", index, "version"]
    name, source = label(app, index), without_password(str(app["source"]))
    if not isinstance(version, str) or not version or "refs" not in found:
        return
    if refs is None:
        yield problem(
            path,
            f'{name} has a version, and its source, the directory "{source}", is no git repository',
            "remove  version:  and the directory is taken as it is",
        )
        return
    plain = re.sub(r"^refs/(heads|tags)/", "", version)
    is_commit = "versions" not in found and re.fullmatch(r"[0-9a-f]{4,40}", version)
    if plain in refs or version == "HEAD" or version in found.get("versions", ()) or is_commit:
        return
    near = difflib.get_close_matches(plain, refs, 1, 0.4) or [item for item in ("main", "master") if item in refs]
    near = near or refs[:1]
    hint = f' Did you mean "{near[0]}"?' if near else ""
    yield problem(
        path,
        f'source of {name}, "{source}", has no branch, tag or commit "{version}".{hint}',
        f"write  version: {near[0]}" if near else "commit the app first",
    )


def source_problems(index: int, app: dict[str, Any], sources: dict[str, Any]) -> Iterator[Problem]:
    """A source that cannot be read, a version or process that it lacks."""
    source, name = app.get("source"), label(app, index)
    found = sources.get(source) if isinstance(source, str) else None
    if not found:
        return
    if found.get("error"):
        yield problem(
            ["apps", index, "source"],
            f'source of {name}, "{without_password(source)}", cannot be read: {found["error"]}',
            found["mend"],
        )
        return
    yield from version_problems(index, app, found)
    procfile, processes = found.get("processes"), app.get("processes")
    if procfile and isinstance(processes, dict):
        for process in processes:
            if process not in procfile and process not in ("web", "release"):
                match, hint = nearest(process, procfile), did_you_mean(process, procfile)
                yield problem(
                    ["apps", index, "processes", process],
                    f'{name} asks for the process "{process}", which its Procfile lacks.{hint}',
                    f"write  {match}: 1" if match else f"add to the Procfile  {process}: <command>",
                )


def config_var_problems(apps: list[tuple[int, dict[str, Any]]], config_vars: Any) -> Iterator[Problem]:
    """Mistakes in the config vars that stand beside the list of apps."""
    if not isinstance(config_vars, dict):
        yield problem(
            ["config_vars"],
            f"config_vars is {kind(config_vars)}, not apps with their config vars",
            "remove  config_vars",
        )
        return
    if unresolved(config_vars):
        return
    known = {str(app.get("name")): (index, app) for index, app in apps}
    for name, values in config_vars.items():
        if name not in known:
            yield problem(
                ["config_vars", name],
                f'config_vars has values for the app "{name}", which does not exist.{did_you_mean(name, known)}',
                f"remove  {name}  from config_vars",
            )
            continue
        index, app = known[name]
        path = ["config_vars", name]
        values = (
            {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values
        )
        yield from check_config(path, label(app, index), values)
        if isinstance(values, dict):
            yield from provided_problems(index, {**app, "config": values}, path)


def name_problems(index: int, name: Any, names: dict[str, int], reserved: dict[str, str]) -> Iterator[Problem]:
    """A name that another app or the site itself has already."""
    if not isinstance(name, str):
        return
    if name in names:
        yield problem(
            ["apps", index, "name"],
            f'app number {index + 1} has the name "{name}", as app number {names[name] + 1} does',
            f"write  name: {name[:29]}-2",
        )
    elif name in reserved and name not in RESERVED:
        yield problem(
            ["apps", index, "name"], f'an app cannot be named "{name}": {reserved[name]}', f"write  name: {name}-app"
        )
    names.setdefault(name, index)


def domain_problems(index: int, app: dict[str, Any], owners: dict[str, str]) -> Iterator[Problem]:
    """A domain that stands twice. Domain names do not tell capitals from small letters."""
    domains = app.get("domains")
    for position, domain in enumerate(domains if isinstance(domains, list) else []):
        if not isinstance(domain, str):
            continue
        if domain.lower() in owners:
            yield problem(
                ["apps", index, "domains", position],
                f'{label(app, index)} has the domain "{domain}", which {owners[domain.lower()]} has already',
                f"remove  {domain}  from one of the two places",
            )
        owners.setdefault(domain.lower(), label(app, index))


def port_problems(index: int, app: dict[str, Any], owners: dict[int, str]) -> Iterator[Problem]:
    """A port that stands twice: each web process has one of its own."""
    first, count, name = first_port(app, index), web_count(app), label(app, index)
    if first is None or not count:
        return
    path = ["apps", index, "port"] if "port" in app else ["apps", index]
    # With one instance, a spare one serves on the next port while that is restarted.
    count = max(count, 2)
    ports = range(first, first + count)
    span = f"port {first}" if count == 1 else f"the ports {first} to {ports[-1]}"
    taken = next((port for port in ports if port in owners), None)
    if taken is not None:
        used = {*SITE_PORTS, *owners, *ports}
        free = next(
            start for start in range(FIRST_PORT, 65000, PORTS_PER_APP) if used.isdisjoint(range(start, start + count))
        )
        which = "which" if count == 1 else f"of which {taken}"
        yield problem(path, f"{name} serves on {span}, {which} is taken by {owners[taken]}", f"write  port: {free}")
    elif ports[-1] > 65535:
        yield problem(path, f"{name} serves on {span}, and the last port there is is 65535", f"write  {KEYS['port']}")
    for port in ports:
        owners.setdefault(port, name)


def redis_problems(index: int, app: dict[str, Any], owners: dict[int, str]) -> Iterator[Problem]:
    """A database of redis that another app has, whose jobs and cache would be mixed up with this one's."""
    services, patterns, given = (app.get(key) for key in ("services", "redis_keys", "redis_database"))
    database = 0 if given is None else number(given)
    if services is not None and not (isinstance(services, list) and "redis" in services):
        return
    # With patterns of its own an app's keys are its own wherever they are.
    if database is None or (isinstance(patterns, list) and patterns):
        return
    if database in owners:
        free = next((other for other in range(REDIS_DATABASES) if other not in owners), 1)
        path = ["apps", index, "redis_database"] if "redis_database" in app else ["apps", index]
        yield problem(
            path,
            f"{label(app, index)} has redis's database {database}, as {owners[database]} has: each would take the "
            "other's keys and jobs for its own",
            f"write  redis_database: {free}",
        )
    owners.setdefault(database, label(app, index))


def shared_problems(apps: list[tuple[int, dict[str, Any]]], reserved: dict[str, str]) -> Iterator[Problem]:
    """Names, domains and ports that more than one claims."""
    names: dict[str, int] = {}
    domains: dict[str, str] = {}
    ports: dict[int, str] = dict(SITE_PORTS)
    databases: dict[int, str] = {}
    for index, app in apps:
        yield from redis_problems(index, app, databases)
        yield from name_problems(index, app.get("name"), names, reserved)
        yield from domain_problems(index, app, domains)
        yield from port_problems(index, app, ports)


def app_problems(
    apps: Any,
    sources: dict[str, Any] | None = None,
    reserved: dict[str, str] | None = None,
    config_vars: Any = None,
) -> list[Problem]:
    """Return every problem of the list of apps."""
    if apps is None or unresolved(apps):
        return []
    if not isinstance(apps, list):
        return [
            problem(
                ["apps"],
                f"apps is {kind(apps)}, not a list",
                "write  apps: [{name: shop, source: https://git.example/shop.git}]",
            )
        ]
    found: list[Problem] = []
    whole: list[tuple[int, dict[str, Any]]] = []
    for index, app in enumerate(apps):
        if unresolved(app):
            continue
        if not isinstance(app, dict):
            found.append(
                problem(
                    ["apps", index],
                    f"app number {index + 1} is {kind(app)}, not keys with values",
                    "write  - name: shop",
                )
            )
            continue
        whole.append((index, app))
        found.extend(key_problems(index, app))
        found.extend(value_problems(index, app))
        found.extend(provided_problems(index, app))
        found.extend(stop_problems(index, app))
        found.extend(single_problems(index, app))
        found.extend(silent_problems(index, app))
        found.extend(source_problems(index, app, sources or {}))
    found.extend(shared_problems(whole, reserved or {}))
    found.extend(config_var_problems(whole, config_vars or {}))
    return found


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"app_problems": app_problems}
