from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: memory_budget
short_description: Who gets which part of a host's memory
description:
  - Shares the memory of one host among the system, the services and the processes of the apps. What you give a service
    stands; the rest is shared by rule. The sum is never more than the host has, and more memory never gives
    PostgreSQL less.
  - Refuses a host that promises more than it has, with the part of each service and the line that mends it.
  - The system has 112 MiB and a thirty-second of the host, at most 4 GiB. memcached gets a sixteenth of what is then
    free, at most 1 GiB, redis an eighth of the rest, at most 4 GiB of data. A database host's other memory is
    PostgreSQL's. Where apps run beside it, it has at least half, and they as many workers as the CPUs can use.
positional: _input, cpus
options:
  _input:
    description:
      - Memory of the host in MiB. The least of what the inventory says, what a control group allows, and what the
        machine has.
    type: int
    required: true
  cpus:
    description:
      - Number of CPUs, from 1 to 8192.
    type: int
    required: true
  services:
    description:
      - Services that the host has, without its apps.
    type: list
    elements: str
    choices: [postgresql, redis, haproxy, memcached, nginx, pgbouncer, supervisor]
    default: []
  apps:
    description:
      - Apps whose processes run on the host, as P(site_apps#filter) returns them. C(name) and C(processes) are read,
        and C(WEB_CONCURRENCY) in C(config), which is then your own figure.
      - C(process_mib) of an app is the size of one of its processes, where the app has it.
    type: list
    elements: dict
    default: []
  own:
    description:
      - Your own figures in MiB. C(postgresql) is the server's whole part, C(redis) its maxmemory, C(memcached) the
        memory for items, C(system) what the system and everything unknown has, C(process) the size of one
        process of an app.
      - A figure for a service that is not on the host has no effect.
    type: dict
    default: {}
  connections:
    description:
      - Connections that PostgreSQL is to take, from which follows what it needs at least.
    type: int
    default: 30
  huge_pages_mib:
    description:
      - Memory that the kernel has set aside in huge pages for others than PostgreSQL. Nobody here can use it.
    type: int
    default: 0
  host:
    description:
      - Name of the host in messages.
    type: str
    default: this host
seealso:
  - plugin: postgresql_settings
    plugin_type: filter
    description: What PostgreSQL does with its part.
"""

EXAMPLES = r"""
- name: Show the parts of a database host of 4 GiB
  ansible.builtin.debug:
    msg: "{{ (4096 | memory_budget(2, services=['postgresql', 'redis'])).mib }}"
  # system: 240, postgresql: 3361, redis: 495, free: 0

- name: Show the parts of a host that is everything, with a redis of a given size
  ansible.builtin.debug:
    msg: >-
      {{ 2048 | memory_budget(2, services=['postgresql', 'redis', 'haproxy', 'memcached', 'nginx', 'pgbouncer',
                              'supervisor'], apps=apps | site_apps, own={'redis': 64}) }}
"""

RETURN = r"""
_value:
  description:
    - The parts, and what each role takes from them.
  type: dict
  contains:
    mib:
      description:
        - Part of each service in MiB, with C(system) and, last, C(free). The parts of an app are under its name and the
          type of its processes, as in C(shop web). The sum is that of the host.
      type: dict
    parts:
      description:
        - The same as a list, with C(name), C(mib), C(own) (whether the figure is yours) and C(reason).
      type: list
      elements: dict
    total_mib:
      description: Memory of the host.
      type: int
    postgresql_mib:
      description: The server's part. Absent on a host without it.
      type: int
    redis_maxmemory_mib:
      description: Memory for data. Absent on a host without redis.
      type: int
    memcached_memory_mib:
      description: Memory for items. Absent on a host without memcached.
      type: int
    web_concurrency:
      description: Workers of each web instance, by app.
      type: dict
"""


# Ansible loads a filter by its path under a name of its own: the one beside it is found by the directory.
sys.path.append(str(Path(__file__).parent))
_memory = import_module("postgresql_memory")
_least_mib, _check_number = _memory.least_mib, _memory._check_number

SERVICES = {
    "postgresql": "PostgreSQL",
    "redis": "redis",
    "haproxy": "haproxy",
    "memcached": "memcached",
    "nginx": "nginx",
    "pgbouncer": "pgbouncer",
    "supervisor": "supervisor",
}
OWN = ("postgresql", "redis", "memcached", "system", "process")
# All sizes are MiB. A worker of the sample app has 55 with everything loaded, its gunicorn master 17.
PROCESS = 64
MASTER = 20
LEAST_DATA = 16
# What a server keeps beside its data.
REDIS_BESIDE = 8
MEMCACHED_BESIDE = 8
MOST_REDIS_DATA = 4096
MOST_MEMCACHED_DATA = 1024
WORKERS_A_CPU = 2


class Part(NamedTuple):
    """What one service has: at least, or exactly where nothing can be added."""

    name: str
    words: str
    mib: int
    reason: str
    own: str = ""


class App(NamedTuple):
    """One app's processes on this host."""

    name: str
    web: int
    others: dict[str, int]
    process: int
    workers: int | None

    def web_mib(self, workers: int) -> int:
        return self.web * (MASTER + workers * self.process)


def memory_budget(
    total_mib: int,
    cpus: int,
    services: Sequence[str] = (),
    apps: Sequence[Mapping[str, Any]] = (),
    own: Mapping[str, int] | None = None,
    connections: int = 30,
    huge_pages_mib: int = 0,
    host: str = "this host",
) -> dict[str, Any]:
    """Return the part of each service, or refuse a host that promises more than it has."""
    _check_number("total_mib", total_mib, 1, 2**32)
    _check_number("cpus", cpus, 1, 8192)
    _check_number("connections", connections, 1, 262143)
    _check_number("huge_pages_mib", huge_pages_mib, 0, 2**32)
    _check_services(services)
    own = _checked_own({} if own is None else own)
    known = [_app(app, own.get("process", PROCESS)) for app in apps]
    least = _least_parts(total_mib, cpus, services, known, own, connections, huge_pages_mib)
    spare = total_mib - sum(part.mib for part in least)
    if spare < 0:
        raise AnsibleFilterError(_too_much(host, total_mib, least, known))
    added, workers = _spare_shared_out(spare, cpus, least, known)
    grown = {part.name: part for app in known for part in _parts_of_app(app, workers)}
    parts = [grown.get(part.name, part._replace(mib=part.mib + added.get(part.name, 0))) for part in least]
    free = total_mib - sum(part.mib for part in parts)
    parts.append(Part("free", "free", free, "for the page cache"))
    return {
        "mib": {part.name: part.mib for part in parts},
        "parts": [{"name": part.name, "mib": part.mib, "own": bool(part.own), "reason": part.reason} for part in parts],
        "total_mib": total_mib,
        **_roles(parts),
        "web_concurrency": {app.name: app.workers or workers for app in known if app.web},
    }


def _check_services(services: Any) -> None:
    listed = isinstance(services, Sequence) and not isinstance(services, str | bytes)
    if not listed or any(service not in SERVICES for service in services) or len(set(services)) < len(services):
        raise AnsibleFilterError(f"services must be a list of {', '.join(SERVICES)}, each once, not {services!r}")


def _checked_own(own: Any) -> dict[str, int]:
    if not isinstance(own, Mapping):
        raise AnsibleFilterError(f"own must be a mapping of service to MiB, not {own!r}")
    for name, mib in own.items():
        if name not in OWN:
            raise AnsibleFilterError(f"own must be of {', '.join(OWN)}; {name!r} is none of them")
        _check_number(f"own.{name}", mib, LEAST_DATA, 2**32)
    return {str(name): int(mib) for name, mib in own.items()}


def _app(app: Mapping[str, Any], process: int) -> App:
    name = str(app["name"])
    processes = {str(kind): count for kind, count in app["processes"].items()}
    for kind, count in processes.items():
        _check_number(f"apps.{name}.processes.{kind}", count, 0, 1000)
    size = process if app.get("process_mib") is None else app["process_mib"]
    _check_number(f"apps.{name}.process_mib", size, 1, 2**20)
    workers = app.get("config", {}).get("WEB_CONCURRENCY")
    if workers is not None:
        if not str(workers).isdecimal():
            raise AnsibleFilterError(f"apps.{name}.config.WEB_CONCURRENCY must be a whole number, not {workers!r}")
        workers = int(workers)
        _check_number(f"apps.{name}.config.WEB_CONCURRENCY", workers, 1, 1000)
    return App(name, processes.pop("web", 0), processes, size, workers)


def _redis_mib(data: int) -> int:
    # While it saves, every page that changes is there twice; half of them is what a busy queue comes to.
    return data + math.ceil(data / 2) + REDIS_BESIDE


def _least_parts(
    total: int,
    cpus: int,
    services: Sequence[str],
    apps: Sequence[App],
    own: Mapping[str, int],
    connections: int,
    huge_pages: int,
) -> list[Part]:
    system = own.get("system", min(112 + total // 32, 4096))
    parts = [Part("system", "the system", system, "kernel, logs, ssh, upgrades", "system" if "system" in own else "")]
    if huge_pages:
        parts.append(Part("huge pages", "huge pages", huge_pages, "set aside by the kernel for other programs"))
    parts += [_least_part(name, cpus, own, connections) for name in SERVICES if name in services]
    return parts + [part for app in apps for part in _parts_of_app(app, 1)]


def _least_part(name: str, cpus: int, own: Mapping[str, int], connections: int) -> Part:
    words, given = SERVICES[name], name if name in own else ""
    if name == "postgresql":
        if given:
            return Part(name, words, own[name], "as you say", given)
        reason = f"for {connections} connections"
        return Part(name, f"{words} {reason}", _least_mib(connections, cpus), reason)
    if name == "redis":
        return Part(name, words, _redis_mib(own.get(name, LEAST_DATA)), "data, and half as much to save it", given)
    if name == "memcached":
        return Part(name, words, own.get(name, LEAST_DATA) + MEMCACHED_BESIDE, "items and connections", given)
    sizes = {"haproxy": 32, "nginx": 8 + 8 * cpus, "pgbouncer": 16, "supervisor": 24}
    reasons = {
        "haproxy": "connections",
        "nginx": f"{cpus} workers",
        "pgbouncer": "connections",
        "supervisor": "the process manager",
    }
    return Part(name, words, sizes[name], reasons[name])


def _parts_of_app(app: App, workers: int) -> Iterable[Part]:
    if app.web:
        workers = app.workers or workers
        reason = f"{app.web} x {workers} workers of {app.process} MiB"
        own = "WEB_CONCURRENCY" if app.workers else ""
        yield Part(f"{app.name} web", f"the web processes of {app.name}", app.web_mib(workers), reason, own)
    for kind, count in app.others.items():
        if count:
            words = f"the {kind} processes of {app.name}"
            yield Part(f"{app.name} {kind}", words, count * app.process, f"{count} x {app.process} MiB")


def _spare_shared_out(spare: int, cpus: int, least: Sequence[Part], apps: Sequence[App]) -> tuple[dict[str, int], int]:
    """Return what each service gets beyond its least, and the workers of each web instance.

    Each share is taken from what the one before it left: a sum of shares, each rounded, could leave PostgreSQL a MiB
    less on a host that has a MiB more.
    """
    growing = {part.name for part in least if not part.own}
    added: dict[str, int] = {}
    for name, divisor, most in (
        ("memcached", 16, MOST_MEMCACHED_DATA - LEAST_DATA),
        ("redis", 8, _redis_mib(MOST_REDIS_DATA) - _redis_mib(LEAST_DATA)),
    ):
        if name in growing:
            added[name] = min(spare // divisor, most)
            spare -= added[name]
    elastic = [app for app in apps if app.web and not app.workers]
    instances = sum(app.web for app in elastic)
    step = sum(app.web * app.process for app in elastic)
    wanted = max(math.ceil(WORKERS_A_CPU * cpus / instances), 1) if instances else 1
    if "postgresql" in growing:
        added["postgresql"] = max(spare // 2, spare - (wanted - 1) * step)
        spare -= added["postgresql"]
    return added, 1 + (min(wanted - 1, spare // step) if step else 0)


def _roles(parts: Sequence[Part]) -> dict[str, int]:
    mib = {part.name: part.mib for part in parts}
    taken = {}
    if "postgresql" in mib:
        taken["postgresql_mib"] = mib["postgresql"]
    if "redis" in mib:
        taken["redis_maxmemory_mib"] = (mib["redis"] - REDIS_BESIDE) * 2 // 3
    if "memcached" in mib:
        taken["memcached_memory_mib"] = mib["memcached"] - MEMCACHED_BESIDE
    return taken


def _too_much(host: str, total: int, least: Sequence[Part], apps: Sequence[App]) -> str:
    promised = sum(part.mib for part in least)
    lines = [f"  {part.words}: {part.mib} MiB{' (your own figure)' if part.own else ''}" for part in least]
    return "\n".join(
        [
            f"{host} has {total} MiB of memory, and what is to run on it takes at least {promised} MiB:",
            *lines,
            f"To mend it, {_mend(total, promised - total, least, apps)}",
        ]
    )


def _mend(total: int, missing: int, least: Sequence[Part], apps: Sequence[App]) -> str:
    """Return the one line that mends it, a figure of the user's own first."""
    for part in sorted(least, key=lambda part: -part.mib):
        line = _lower(part, part.mib - missing, apps)
        if line:
            return f"write  {line}"
    for app in sorted(apps, key=lambda app: -app.web):
        instances = app.web - math.ceil(missing / (MASTER + app.process))
        if not app.workers and instances >= 1:
            others = "".join(f", {kind}: {count}" for kind, count in app.others.items())
            return f"write  processes: {{web: {instances}{others}}}  for the app {app.name}, or take a larger server"
    system = least[0]
    rest = total + missing - system.mib
    needed = rest + system.mib if system.own else min(math.ceil((rest + 112) * 32 / 31), rest + 4096)
    return f"take a server with {needed} MiB, or have fewer services and processes on this one"


def _lower(part: Part, mib: int, apps: Sequence[App]) -> str:
    """Return the line with which the user's own figure fits, or nothing."""
    if not part.own:
        return ""
    if part.own == "WEB_CONCURRENCY":
        app = next(app for app in apps if part.name == f"{app.name} web")
        workers = (mib // app.web - MASTER) // app.process
        return f'WEB_CONCURRENCY: "{workers}"  in the config of {app.name}' if workers >= 1 else ""
    data = {"redis": (mib - REDIS_BESIDE) * 2 // 3, "memcached": mib - MEMCACHED_BESIDE}.get(part.name, mib)
    least = {"postgresql": 96, "system": 112}.get(part.name, LEAST_DATA)
    return f"{part.own}: {data}  in memory_parts" if data >= least else ""


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"memory_budget": memory_budget}
