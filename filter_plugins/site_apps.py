from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: site_apps
short_description: A site's apps with every default filled in
description:
  - Turns the list C(apps) of a site's inventory into complete mappings, so that no role has to know a default.
  - Adds what follows from the values, as C(user), C(home), C(database), C(ports) and C(programs).
  - Refuses what it cannot process, one problem at a time. Whether names, domains and ports make sense together is
    for the preflight to say.
positional: _input
options:
  _input:
    description:
      - The apps, each a mapping. C(name) and C(source) are needed; the others are C(version), C(domains),
        C(processes), C(stop_seconds), C(single), C(schedule), C(writable), C(config), C(services),
        C(redis_database), C(redis_keys), C(python), C(port), C(health_path), C(backup_check), C(static_url),
        C(static_path), C(headers) and C(process_mib).
    type: list
    elements: dict
    required: true
  config_vars:
    description:
      - Config vars by app, which go before C(config) of the app; one without a value takes one away.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Show the ports of the first app's web instances
  ansible.builtin.debug:
    msg: "{{ (apps | site_apps | first).ports }}"
"""

RETURN = r"""
_value:
  description:
    - The apps in the order given, every key present, and in addition C(user) and C(home) (the system user and its
      directory), C(database) (name of database and role), C(ports) (one for each web instance), C(spare_port) (of an
      instance that serves while the only one is restarted, else null) and C(programs) (a mapping with C(name),
      C(type), C(index), C(port), C(spare) and C(stop_seconds) for each process; C(port) is null unless it is a web
      one, C(stop_seconds) where the app does not say). Each entry of C(schedule) has C(calendar), as systemd reads
      it, and C(command).
  type: list
  elements: dict
"""

HOMES = "/srv/www"
FIRST_PORT = 8000
PORTS_AN_APP = 20
MOST_STOP_SECONDS = 3600
JOB_KEYS = ({"command", "every"}, {"command", "at"})
EVERY_HELP = "every: 10m, 1h, 6h, 1d or the like, which comes out even in an hour or a day"
AT_HELP = "at: '03:30', ':15' (of each hour) or 'Mon,Thu 03:30'"
SERVICES = ("postgresql", "redis", "memcached")
# What every answer carries unless the app sends its own, or its entry says otherwise.
HEADERS = {
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Strict-Transport-Security": "max-age=63072000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}

# What an app in the inventory may say: the kind of each value, and the default where there is one. The preflight reads
# this table too, so that a key is known everywhere or nowhere. Where none stands here, it
# depends on the app and is filled in below.
APP_KEYS: dict[str, dict[str, Any]] = {
    "name": {"kind": "string", "required": True},
    "source": {"kind": "string", "required": True},
    "version": {"kind": "string", "default": ""},
    "domains": {"kind": "strings", "default": []},
    "processes": {"kind": "counts", "default": {"web": 2}},
    "stop_seconds": {"kind": "seconds", "default": {}},
    "single": {"kind": "strings", "default": []},
    "schedule": {"kind": "schedule", "default": []},
    "writable": {"kind": "strings", "default": []},
    "config": {"kind": "config", "default": {}},
    "services": {"kind": "strings", "default": list(SERVICES)},
    # Its number in redis, and the patterns of the keys that it gets at; all without them
    "redis_database": {"kind": "number", "default": 0},
    "redis_keys": {"kind": "strings", "default": []},
    "python": {"kind": "string", "default": ""},
    "port": {"kind": "number"},
    "health_path": {"kind": "string", "default": "/"},
    # A query that says true of a restored database which is whole
    "backup_check": {"kind": "string", "default": ""},
    "static_url": {"kind": "string", "default": "/static/"},
    "static_path": {"kind": "string", "default": "staticfiles"},
    "headers": {"kind": "headers", "default": {}},
    # Size of one process in MiB, where the usual one of the memory budget is wrong
    "process_mib": {"kind": "number"},
}

# A longer name makes a bad system user, and a capital or an underscore an awkward database or file name.
NAME_PATTERN = r"[a-z][a-z0-9-]{0,30}"
CONFIG_NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*"
HEADER_NAME_PATTERN = r"[A-Za-z][A-Za-z0-9-]*"
# It stands between double quotes in a file of nginx's.
HEADER_VALUE_PATTERN = r"[^\x00-\x1f\x7f\"\\$]*"
PROCESS_TYPE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]*"

KINDS = {
    "string": "a string",
    "strings": "a list of strings",
    "number": "a whole number",
    "counts": "a mapping of process types to how many of each",
    "seconds": "a mapping of process types to seconds",
    "schedule": "a list of mappings, each with command and either every or at",
    "headers": "a mapping of response headers to strings",
    "config": "a mapping of names to strings",
}


def site_apps(
    apps: Sequence[Mapping[str, Any]], config_vars: Mapping[str, Mapping[str, str | None]] | None = None
) -> list[dict[str, Any]]:
    """Return the apps with every default filled in."""
    if not _is_list(apps):
        raise AnsibleFilterError(f"apps must be a list of mappings, not {_shown(apps)}")
    return [_complete(_overlaid(app, config_vars or {}), position) for position, app in enumerate(apps)]


def _overlaid(app: Any, config_vars: Mapping[str, Mapping[str, str | None]]) -> Any:
    """Return the app with its config vars of the other place, of which one without a value takes one away."""
    overlay = config_vars.get(app["name"]) if isinstance(app, Mapping) and _is_text(app.get("name")) else None
    if not overlay:
        return app
    own = app.get("config") or {}
    gone = {name for name in overlay if overlay[name] is None}
    kept = {name: own[name] for name in own if name not in gone}
    return {**app, "config": {**kept, **{name: overlay[name] for name in overlay if name not in gone}}}


def _complete(app: Any, position: int) -> dict[str, Any]:
    where = f"apps[{position}]"
    if not isinstance(app, Mapping):
        raise AnsibleFilterError(f"{where} must be a mapping with name and source, not {_shown(app)}")
    for key in app:
        if key not in APP_KEYS:
            raise AnsibleFilterError(f"{where} has the unknown key {key!r}{_nearest(str(key), APP_KEYS)}")
    for key, about in APP_KEYS.items():
        if about.get("required") and not app.get(key):
            raise AnsibleFilterError(f"{where} lacks {key}")
    full = {
        key: _value(f"{where}.{key}", about["kind"], app[key] if app.get(key) is not None else about.get("default"))
        for key, about in APP_KEYS.items()
        if app.get(key) is not None or "default" in about
    }
    name = full["name"]
    full.setdefault("port", FIRST_PORT + PORTS_AN_APP * position)
    full.setdefault("process_mib", None)
    full["headers"] = _with_defaults(full["headers"])
    full["user"] = name
    full["home"] = f"{HOMES}/{name}"
    full["database"] = name.replace("-", "_")
    full["ports"] = [full["port"] + index for index in range(full["processes"].get("web", 0))]
    # With one instance, a spare one serves while that is restarted.
    full["spare_port"] = full["port"] + 1 if len(full["ports"]) == 1 else None
    full["programs"] = _programs(full)
    return full


def _programs(app: dict[str, Any]) -> list[dict[str, Any]]:
    # Web instances first: they are what a visitor waits for.
    types = sorted(app["processes"], key=lambda process_type: (process_type != "web", process_type))
    programs = [
        _program(app, process_type, index, app["ports"][index - 1] if process_type == "web" else None)
        for process_type in types
        for index in range(1, app["processes"][process_type] + 1)
    ]
    if app["spare_port"]:
        programs.insert(1, {**_program(app, "web", 2, app["spare_port"]), "spare": True})
    return programs


def _program(app: dict[str, Any], process_type: str, index: int, port: int | None) -> dict[str, Any]:
    return {
        "name": f"{app['name']}-{process_type}-{index}",
        "type": process_type,
        "index": index,
        "port": port,
        "spare": False,
        "stop_seconds": app["stop_seconds"].get(process_type),
    }


def _value(where: str, kind: str, value: Any) -> Any:
    if kind == "string" and _is_text(value):
        return str(value)
    if kind == "number" and _is_number(value):
        return int(value)
    if kind == "strings" and _is_list(value) and all(_is_text(part) for part in value):
        return [str(part) for part in value]
    if kind == "counts" and isinstance(value, Mapping):
        return {
            _matching(where, PROCESS_TYPE_PATTERN, process_type): _count(f"{where}.{process_type}", value[process_type])
            for process_type in value
        }
    if kind == "seconds" and isinstance(value, Mapping):
        return {
            _matching(where, PROCESS_TYPE_PATTERN, name): _seconds(f"{where}.{name}", value[name]) for name in value
        }
    if kind == "schedule" and _is_list(value) and all(isinstance(job, Mapping) for job in value):
        return [_job(f"{where}[{position}]", job) for position, job in enumerate(value)]
    if kind == "headers" and isinstance(value, Mapping):
        return {_matching(where, HEADER_NAME_PATTERN, name): _header(f"{where}.{name}", value[name]) for name in value}
    if kind == "config" and isinstance(value, Mapping):
        return {
            _matching(where, CONFIG_NAME_PATTERN, name): _config_value(f"{where}.{name}", value[name]) for name in value
        }
    # Whatever stands where the config should be may hold its secrets.
    found = f"a {type(value).__name__}" if kind == "config" else _shown(value)
    raise AnsibleFilterError(f"{where} must be {KINDS[kind]}, not {found}")


def _job(where: str, job: Mapping[str, Any]) -> dict[str, str]:
    if not _is_text(job.get("command")) or not job["command"].strip() or set(job) not in JOB_KEYS:
        raise AnsibleFilterError(f"{where} must have command and either every or at")
    calendar = every(str(job["every"])) if "every" in job else at(str(job["at"]))
    if calendar is None:
        raise AnsibleFilterError(f"{where} is to run {EVERY_HELP if 'every' in job else AT_HELP}")
    return {"calendar": calendar, "command": " ".join(str(job["command"]).split("\n")).strip()}


def every(text: str) -> str | None:
    """Return the calendar of a period that comes out even in an hour or a day."""
    match = re.fullmatch(r"(\d+)([mhd])", text)
    if not match:
        return None
    number, unit = int(match[1]), match[2]
    if unit == "m" and number and 60 % number == 0:
        return f"*-*-* *:0/{number}:00"
    if unit == "h" and number and 24 % number == 0:
        return f"*-*-* 0/{number}:00:00"
    return "*-*-* 00:00:00" if (number, unit) == (1, "d") else None


def at(text: str) -> str | None:
    """Return the calendar of a time of day, of each hour, or of days of the week."""
    day = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
    match = re.fullmatch(rf"(?:({day}(?:,{day})*) )?(\d\d)?:(\d\d)", text)
    if not match or int(match[2] or 0) > 23 or int(match[3]) > 59:
        return None
    days = f"{match[1]} " if match[1] else ""
    return f"{days}*-*-* {match[2] or '*'}:{match[3]}:00"


def _config_value(where: str, value: Any) -> str:
    # The value itself may be a secret and stays out of the message.
    if _is_text(value) and "\0" not in value:
        return str(value)
    if _is_number(value):
        return str(value)
    if isinstance(value, bool):
        raise AnsibleFilterError(f"{where} is a boolean, and an environment holds text: quote it, as in 'true' or '0'")
    what = "holds a zero byte" if _is_text(value) else f"is a {type(value).__name__}"
    raise AnsibleFilterError(f"{where} {what}, and an environment holds text without zero bytes")


def _header(where: str, value: Any) -> str:
    if _is_text(value) and re.fullmatch(HEADER_VALUE_PATTERN, value):
        return str(value)
    wish = "text on one line without double quotes, backslash and $"
    raise AnsibleFilterError(f"{where} must be {wish}, not {_shown(value)}")


def _with_defaults(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an app over those of every app; an empty one takes one away."""
    own = {name.lower() for name in headers}
    usual = {name: HEADERS[name] for name in HEADERS if name.lower() not in own}
    return {name: value for name, value in {**usual, **headers}.items() if value}


def _count(where: str, value: Any) -> int:
    if _is_number(value) and 0 <= int(value) <= PORTS_AN_APP:
        return int(value)
    raise AnsibleFilterError(f"{where} must be a whole number from 0 to {PORTS_AN_APP}, not {_shown(value)}")


def _seconds(where: str, value: Any) -> int:
    if _is_number(value) and 1 <= int(value) <= MOST_STOP_SECONDS:
        return int(value)
    raise AnsibleFilterError(f"{where} must be a whole number from 1 to {MOST_STOP_SECONDS}, not {_shown(value)}")


def _matching(where: str, pattern: str, name: Any) -> str:
    if _is_text(name) and re.fullmatch(pattern, name):
        return str(name)
    raise AnsibleFilterError(f"{where} has the key {name!r}, which is no name of that kind ({pattern})")


def _nearest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    # What comes from the command line or from a template can be text.
    return (isinstance(value, int) and not isinstance(value, bool)) or (_is_text(value) and value.isdecimal())


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _shown(value: Any) -> str:
    # A collection may hold secrets.
    return f"a {type(value).__name__}" if isinstance(value, Mapping) or _is_list(value) else repr(value)


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"site_apps": site_apps}
