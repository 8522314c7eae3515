from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: postgresql_settings
short_description: PostgreSQL settings for the part of a host that the server has
description:
  - Starts from P(pgtune#filter) and mends what would stop the server, or promise more memory than it has. Each setting
    comes with its reason and with what the calculator says for the whole host.
  - B(Memory.) The server's processes, its shared memory, the page tables of all connections, one C(work_mem) times
    C(hash_mem_multiplier) for every connection and parallel worker at once, all autovacuum workers and one maintenance
    command fit into the part. C(max_connections) follows from the poolers. What does not fit is refused.
  - B(Starts.) C(wal_compression) is one that the build has, C(io_method) is C(worker) unless you ask otherwise,
    C(wal_level) is never below C(replica), what a standby or a restored server needs is never lowered, and no setting
    is written that the version does not know.
  - B(Disk.) C(max_wal_size), C(min_wal_size) and C(max_slot_wal_keep_size) are parts of the volume.
  - A value of your own wins over all of this and is marked. Only one with which the server could not start is refused.
positional: _input
options:
  _input:
    description:
      - Memory that the server may use in all, in MiB. P(memory_budget#filter) says which part of a host that is.
    type: int
    required: true
  version:
    description:
      - Major version of PostgreSQL, from 10 to 19.
    type: int
    default: 17
  cpus:
    description:
      - Number of CPUs, from 1 to 8192.
    type: int
    default: 1
  pools:
    description:
      - Connections that all poolers together may open. V(none) is for a server without a pooler. It gets the
        calculator's number for the workload, on a small host fewer.
    type: int
  reserve:
    description:
      - Connections beyond the poolers', for administrators, backups and monitoring.
    type: int
    default: 10
  workload:
    description:
      - What the database does most.
    type: str
    choices: [web, oltp, dw, desktop, mixed]
    default: web
  storage:
    description:
      - Where the data is.
    type: str
    choices: [nvme, ssd, san, hdd]
    default: ssd
  data_size:
    description:
      - Size of the database, compared with the memory.
    type: str
    choices: [less_ram, mid_ram, greater_ram]
    default: mid_ram
  disk_mib:
    description:
      - Size of the volume that holds the data, in MiB. V(none) is for not known. The calculator's WAL sizes stay then.
    type: int
  features:
    description:
      - What the installed server was built with and the kernel lets it use. Without C(lz4) and C(zstd),
        C(wal_compression) is PostgreSQL's own.
    type: list
    elements: str
    choices: [lz4, zstd, liburing]
    default: []
  huge_pages:
    description:
      - Whether the kernel sets huge pages aside for the server, so that page tables cost next to nothing.
    type: bool
    default: false
  floors:
    description:
      - Values of the cluster's control file below which a server that follows or restores it cannot start.
      - Known are C(max_connections), C(max_worker_processes), C(max_wal_senders), C(max_prepared_transactions) and
        C(max_locks_per_transaction).
    type: dict
    default: {}
  recovering:
    description:
      - Whether the server is a standby or restores a backup. A value of your own below a floor is refused then.
    type: bool
    default: false
  own:
    description:
      - Your own settings, by name. They win over all others.
    type: dict
    default: {}
  others:
    description:
      - Settings that have nothing to do with tuning, as mappings of C(name), C(value) and C(reason). Yours win.
    type: list
    elements: dict
    default: []
  host_mib:
    description:
      - Memory of the whole host in MiB, for the calculator's column. V(none) is for the same as the server's part.
    type: int
seealso:
  - plugin: pgtune
    plugin_type: filter
    description: The calculator's settings.
  - plugin: memory_budget
    plugin_type: filter
    description: Which part of a host's memory each service has.
"""

EXAMPLES = r"""
- name: Show the settings of a server with 3 GiB for one app on two web hosts
  ansible.builtin.debug:
    msg: "{{ (3072 | postgresql_settings(version=17, cpus=2, pools=40, features=['lz4'])).settings }}"

- name: Write the settings
  ansible.builtin.copy:
    content: |
      {% for setting in (3072 | postgresql_settings(pools=40, own={'work_mem': '16MB'})).settings %}
      {{ setting.name }} = '{{ setting.value | replace("'", "''") }}'
      {% endfor %}
    dest: /etc/postgresql/17/main/conf.d/tuning.conf
    mode: "0644"
"""

RETURN = r"""
_value:
  description:
    - The settings, and where the memory goes.
  type: dict
  contains:
    settings:
      description:
        - One mapping a setting, with C(name), C(value) as it stands in C(postgresql.conf), C(pgtune) (what the
          calculator prints for the whole host, or nothing), C(reason), and C(own), whether it is yours.
      type: list
      elements: dict
    memory:
      description:
        - Where the part goes, most of it only when all is busy at once. C(name), C(mib) and C(reason), the last one
          being what is left.
      type: list
      elements: dict
    part_mib:
      description: The server's part.
      type: int
    warnings:
      description: What your own values break, and what is so tight that it is slow.
      type: list
      elements: str
"""


# Ansible loads a filter by its path under a name of its own: the one beside it is found by the directory.
sys.path.append(str(Path(__file__).parent))
_calculator = import_module("pgtune")
_pgtune, _check_number = _calculator.pgtune, _calculator._check_number
_postgresql_memory = import_module("postgresql_memory").postgresql_memory

# All sizes are whole numbers of kB, PostgreSQL's binary ones.
MIB = 1024
GIB = 1024 * MIB
SEGMENT = 16 * MIB

FEATURES = ("lz4", "zstd", "liburing")
# The server's own defaults of what a standby compares with its primary, beside what the rules below always write.
STANDING = {"max_wal_senders": 10, "max_prepared_transactions": 0, "max_locks_per_transaction": 64}
NEVER_LOWERED = "never lowered by itself: a standby or a restored server does not start with less"
# First and last version that know a setting, where it is not all of them.
KNOWN = {
    "autovacuum_worker_slots": (18, 99),
    "hash_mem_multiplier": (13, 99),
    "io_max_workers": (19, 99),
    "io_method": (18, 99),
    "io_min_workers": (19, 99),
    "io_workers": (18, 18),
    "jit": (11, 99),
    "max_parallel_maintenance_workers": (11, 99),
    "max_slot_wal_keep_size": (13, 99),
    "reserved_connections": (16, 99),
    "wal_keep_segments": (10, 12),
    "wal_keep_size": (13, 99),
}
# Requests that are sent ahead. Before 13 the number is one of drives, from which the server makes many more. From 18 on
# every scan reads ahead by it, and 16 is the server's own.
IO_CONCURRENCY = {
    "drives": {"hdd": 2, "ssd": 50, "san": 60, "nvme": 60},
    "requests": {"hdd": 2, "ssd": 200, "san": 256, "nvme": 256},
    "streams": {"hdd": 16, "ssd": 32, "san": 64, "nvme": 64},
}

# A rule gives a value and its reason; where the value is None, nothing is written.
Rules = dict[str, tuple[Any, str]]


class Server(NamedTuple):
    """What is known of the server; every rule reads it and none changes it. Sizes are in kB."""

    part: int
    version: int
    cpus: int
    pools: int | None
    reserve: int
    workload: str
    storage: str
    data_size: str
    disk: int | None
    features: tuple[str, ...]
    floors: Mapping[str, int]
    own: Mapping[str, str]
    memory: dict[str, Any]
    # The calculator's values for the server's part, from which the rules start.
    start: dict[str, str]


def postgresql_settings(
    memory_mib: int,
    version: int = 17,
    cpus: int = 1,
    pools: int | None = None,
    reserve: int = 10,
    workload: str = "web",
    storage: str = "ssd",
    data_size: str = "mid_ram",
    disk_mib: int | None = None,
    features: Sequence[str] = (),
    huge_pages: bool = False,
    floors: Mapping[str, int] | None = None,
    recovering: bool = False,
    own: Mapping[str, Any] | None = None,
    others: Sequence[Mapping[str, Any]] = (),
    host_mib: int | None = None,
) -> dict[str, Any]:
    """Return settings with their reasons, and where the memory goes."""
    _check_number("version", version, 10, 19)
    _check_number("pools", pools, 0, 200000, optional=True)
    _check_number("reserve", reserve, 5, 10000)
    _check_number("disk_mib", disk_mib, 1, 2**40, optional=True)
    _check_number("host_mib", host_mib, 1, 2**32, optional=True)
    floors = {} if floors is None else floors
    own = _checked_own({} if own is None else own, version)
    features = _checked_features(features)
    _check_own_starts(own, features, floors if recovering else {})
    connections = None if pools is None else pools + reserve
    memory = _postgresql_memory(
        memory_mib, version, cpus, connections, workload, data_size, huge_pages, floors=floors, own=own
    )
    form = {
        "version": min(version, 18),
        "cpus": cpus,
        "workload": workload,
        "storage": storage,
        "data_size": data_size,
    }
    server = Server(
        part=memory_mib * MIB,
        version=version,
        cpus=cpus,
        pools=pools,
        reserve=reserve,
        workload=workload,
        storage=storage,
        data_size=data_size,
        disk=disk_mib * MIB if disk_mib else None,
        features=features,
        floors=floors,
        own=own,
        memory=memory,
        start=_pgtune(memory_mib, connections=max(memory["counts"]["max_connections"], 20), **form),
    )
    rules = {
        **_connection_rules(server),
        **_memory_rules(server),
        **_wal_rules(server),
        **_planner_rules(server),
        **_worker_rules(server),
        **_io_rules(server),
    }
    return {
        "settings": _listed(server, rules, others, _pgtune(host_mib or memory_mib, **form)),
        "memory": _memory_report(server),
        "part_mib": memory_mib,
        "warnings": memory["warnings"],
    }


def _checked_features(features: Any) -> tuple[str, ...]:
    listed = isinstance(features, Sequence) and not isinstance(features, str | bytes)
    if not listed or any(feature not in FEATURES for feature in features):
        raise AnsibleFilterError(f"features must be a list of {', '.join(FEATURES)}, not {features!r}")
    return tuple(str(feature) for feature in features)


def _checked_own(own: Any, version: int) -> dict[str, str]:
    if not isinstance(own, Mapping):
        raise AnsibleFilterError(f"own must be a mapping of setting to value, not {own!r}")
    checked: dict[str, str] = {}
    for given, value in own.items():
        name = str(given).lower()
        if not re.fullmatch(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?", name):
            raise AnsibleFilterError(f"own must be a mapping of setting to value; {given!r} is no setting's name")
        if name in checked:
            raise AnsibleFilterError(f"own has {name} twice")
        first, last = KNOWN.get(name, (0, 99))
        if not first <= version <= last:
            known = f"{first} to {last}" if first < last < 99 else f"{first} and later" if last == 99 else f"{first}"
            raise AnsibleFilterError(f"own.{name}: PostgreSQL {version} does not know this setting, only {known} does")
        checked[name] = _text(f"own.{name}", value)
    return checked


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float) and math.isfinite(value):
        return str(value)
    if isinstance(value, str) and not re.search(r"[\x00-\x1f]", value):
        return str(value)
    raise AnsibleFilterError(f"{name} must be one line of text or a number, not {value!r}")


def _check_own_starts(own: Mapping[str, str], features: Sequence[str], needed: Mapping[str, int]) -> None:
    """Refuse what the server's own reading of the file does not find, or says less clearly."""
    if own.get("wal_level", "").lower() == "minimal":
        raise AnsibleFilterError("own.wal_level must be replica or logical, not 'minimal': backups need it")
    method = own.get("wal_compression", "").lower()
    if method in ("lz4", "zstd") and method not in features:
        built = ", ".join([name for name in ("lz4", "zstd") if name in features] + ["pglz"])
        raise AnsibleFilterError(
            f"own.wal_compression: the installed server was built without {method}; it has {built}"
        )
    if own.get("io_method", "").lower() == "io_uring" and "liburing" not in features:
        raise AnsibleFilterError(
            "own.io_method: io_uring cannot be had here: the installed server was built without liburing, or the "
            "kernel forbids it (kernel.io_uring_disabled); write  io_method: worker"
        )
    for name, least in needed.items():
        if name in own and own[name].isdecimal() and int(own[name]) < least:
            raise AnsibleFilterError(
                f"own.{name} must be {least} or more, not {own[name]}: this server follows or restores one that has "
                "as many, and does not start with less"
            )


def _kib(printed: str) -> int:
    unit = printed.lstrip("0123456789")
    return int(printed.removesuffix(unit)) * {"kB": 1, "MB": MIB, "GB": GIB}[unit]


def _size(kib: int) -> str:
    if kib % GIB == 0:
        return f"{kib // GIB}GB"
    return f"{kib // MIB}MB" if kib % MIB == 0 else f"{kib}kB"


def _words(kib: int) -> str:
    return f"{math.ceil(kib / MIB)} MiB" if kib < 10 * GIB else f"{kib / GIB:.1f} GiB"


def _connection_rules(server: Server) -> Rules:
    wanted = server.memory["counts"]["max_connections"]
    if server.pools is None:
        reason = "no pooler: the workload's usual number, no more than one for each 16 MiB"
    elif wanted > server.pools + server.reserve:
        reason = NEVER_LOWERED
    else:
        reason = f"the poolers may open {server.pools}, and {server.reserve} stay for administrators and backups"
    return {"max_connections": (wanted, reason)}


def _memory_rules(server: Server) -> Rules:
    sizes, counts, part = server.memory["settings"], server.memory["counts"], _words(server.part)
    share = "a sixteenth" if server.workload == "desktop" else "a quarter"
    buffers = f"{share} of the server's {part}"
    if sizes["shared_buffers"] < _kib(server.start["shared_buffers"]):
        buffers = f"less than {share} of the server's {part}, for {counts['max_connections']} connections need room too"
    actives = counts["max_connections"] + counts["max_parallel_workers"]
    huge = sizes["shared_buffers"] >= 2 * GIB
    return {
        "shared_buffers": (_size(sizes["shared_buffers"]), buffers),
        "huge_pages": (
            "try" if huge else "off",
            "saves each connection its page tables; starts without them too" if huge else "gain nothing below 2 GB",
        ),
        "effective_cache_size": (
            server.start["effective_cache_size"],
            f"what the server's {part} can cache, not the whole host",
        ),
        "work_mem": (
            _size(sizes["work_mem"]),
            f"{actives} times this, and {server.memory['hash_mem_multiplier']:g} times as much in hashes, fit",
        ),
        "maintenance_work_mem": (_size(sizes["maintenance_work_mem"]), "for one index build or restore at a time"),
        "autovacuum_work_mem": (
            _size(sizes["autovacuum_work_mem"]),
            f"else each of {counts['autovacuum_max_workers']} workers would take maintenance_work_mem",
        ),
        "wal_buffers": (_size(sizes["wal_buffers"]), "3 % of shared_buffers, at most one segment"),
    }


def _wal_rules(server: Server) -> Rules:
    most, least, slots = _wal_sizes(server)
    why_most, why_least = "the workload's: the size of the volume is not known", "the workload's"
    if server.disk:
        why_most = f"a tenth of the volume of {_words(server.disk)}, no more than workload and shared_buffers can use"
        why_least = "a quarter of max_wal_size, no more than the workload's"
    return {
        "wal_level": ("replica", "for backups, standbys and recovery to a point in time"),
        "wal_compression": _wal_compression(server),
        "max_wal_size": (_size(most), why_most),
        "min_wal_size": (_size(least), why_least),
        "max_slot_wal_keep_size": (
            _size(slots) if slots and server.version >= 13 else None,
            "a fifth of the volume: a forgotten replication slot cannot fill it",
        ),
        "checkpoint_timeout": ("15min", "fewer full pages in the WAL; a crash replays at most that much"),
        "checkpoint_completion_target": (server.start["checkpoint_completion_target"], "writes are spread out"),
    }


def _wal_sizes(server: Server) -> tuple[int, int, int | None]:
    most, least = _kib(server.start["max_wal_size"]), _kib(server.start["min_wal_size"])
    if not server.disk:
        return most, least, None
    wished = max(most, min(2 * server.memory["settings"]["shared_buffers"], 32 * GIB))
    most = max(min(wished, server.disk // 10) // SEGMENT, 4) * SEGMENT
    least = max(min(least, most // 4) // SEGMENT, 2) * SEGMENT
    return most, least, max(server.disk // 5 // SEGMENT * SEGMENT, most)


def _wal_compression(server: Server) -> tuple[str, str]:
    if server.version < 15:
        return "on", "a fraction of the WAL for some CPU; this version has one method only"
    for method in ("lz4", "zstd"):
        if method in server.features:
            return method, f"the server was built with {method}: a fraction of the WAL for little CPU"
    return "on", "the server was built without lz4 and zstd: its own method always works"


def _planner_rules(server: Server) -> Rules:
    jit = "on" if server.workload in ("dw", "desktop") else "off"
    return {
        "random_page_cost": _random_page_cost(server),
        "effective_io_concurrency": _io_concurrency(server),
        "default_statistics_target": (
            server.start["default_statistics_target"],
            "better estimates for few and large queries" if server.workload == "dw" else "the server's own",
        ),
        "jit": (
            jit if server.version >= 11 else None,
            "long queries gain by it" if jit == "on" else "short queries lose more by it than they gain",
        ),
    }


def _random_page_cost(server: Server) -> tuple[str, str]:
    if server.data_size == "less_ram":
        return "1.1", "a choice: all data is in memory"
    if server.storage == "hdd":
        return "4", "a choice: the disk has to seek"
    if server.workload == "dw":
        return "4", "a choice: large scans, which no cache holds"
    if server.data_size == "greater_ram":
        return "2", "a choice: many reads miss the cache, and a random one costs more on any storage"
    return "1.1", "a choice: right while most reads hit the cache, 2 to 4 where they do not"


def _io_concurrency(server: Server) -> tuple[int, str]:
    if server.version < 13:
        return IO_CONCURRENCY["drives"][server.storage], "counted in drives before version 13"
    if server.version < 18:
        return IO_CONCURRENCY["requests"][server.storage], "requests ahead of a bitmap scan"
    return IO_CONCURRENCY["streams"][server.storage], "requests ahead of every scan, from version 18 on"


def _worker_rules(server: Server) -> Rules:
    counts = server.memory["counts"]
    parallel, vacuums = counts["max_parallel_workers"], counts["autovacuum_max_workers"]
    half = (parallel + 1) // 2 if parallel >= 4 else min(parallel, 2)
    processes = f"the server's own eight and {parallel} for parallel queries"
    rules = {
        "max_worker_processes": (
            counts["max_worker_processes"],
            NEVER_LOWERED if counts["max_worker_processes"] > 8 + parallel else processes,
        ),
        "max_parallel_workers": (parallel, "one for each CPU, and for each 64 MiB"),
        "max_parallel_workers_per_gather": (
            min(half, 16 if server.workload == "dw" else 4),
            "half of them, so that one query does not take all",
        ),
        "max_parallel_maintenance_workers": (
            min(half, 4) if server.version >= 11 else None,
            "for an index build, within maintenance_work_mem",
        ),
        "autovacuum_max_workers": (vacuums, "three, from 16 CPUs four, from 32 five"),
        "autovacuum_vacuum_cost_limit": (
            math.ceil(200 * vacuums / 3),
            "in step with the workers: they share it, and more of them would each be slower",
        ),
    }
    for name, default in STANDING.items():
        if server.floors.get(name, 0) > default:
            rules[name] = (server.floors[name], NEVER_LOWERED)
    return rules


def _io_rules(server: Server) -> Rules:
    if server.version < 18:
        return {}
    workers = min(server.cpus // 4, 32)
    chosen = server.version == 18 and workers > 3 and server.own.get("io_method", "worker").lower() == "worker"
    return {
        "io_method": ("worker", "starts everywhere; io_uring when you ask for it and it can be had"),
        "io_workers": (workers if chosen else None, "a quarter of the CPUs"),
    }


def _listed(
    server: Server, rules: Rules, others: Sequence[Mapping[str, Any]], calculator: Mapping[str, str]
) -> list[dict[str, Any]]:
    known = {name: (str(value), reason) for name, (value, reason) in rules.items() if value is not None}
    for other in others:
        known.setdefault(other["name"], (_text(f"others.{other['name']}", other["value"]), other["reason"]))
    for name, value in server.own.items():
        ours = known[name][0] if name in known and name not in server.memory["settings"] else ""
        known[name] = (value, f"your own; ours would be {ours}" if ours not in ("", value) else "your own")
    return [
        {"name": name, "value": value, "pgtune": calculator.get(name, ""), "reason": reason, "own": name in server.own}
        for name, (value, reason) in known.items()
    ]


def _memory_report(server: Server) -> list[dict[str, Any]]:
    uses, counts = server.memory["uses"], server.memory["counts"]
    actives = counts["max_connections"] + counts["max_parallel_workers"]
    reasons = {
        "shared memory": "shared_buffers and what the server keeps beside them",
        "page tables": f"of {counts['max_connections']} connections that have touched all of it",
        "processes": "what each needs before it does anything",
        "queries": f"work_mem in {actives} processes, {server.memory['hash_mem_multiplier']:g} times for hashes",
        "autovacuum": f"{counts['autovacuum_max_workers']} workers at once",
        "maintenance": "one index build",
        "page cache": "what is left even then",
    }
    left = {"page cache": max(server.part - sum(uses.values()), 0)}
    return [
        {"name": name, "mib": round(kib / MIB, 1), "reason": reasons[name]} for name, kib in {**uses, **left}.items()
    ]


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"postgresql_settings": postgresql_settings}
