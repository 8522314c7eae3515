from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: postgresql_memory
short_description: Where the memory of a PostgreSQL server goes
description:
  - Shares the part of a host that the server has among its processes, its shared memory, the page tables of all
    connections, one C(work_mem) times C(hash_mem_multiplier) for every connection and parallel worker at once, all
    autovacuum workers and one maintenance command. The sum fits the part, and more memory never gives less of
    C(shared_buffers).
  - Starts from what P(pgtune#filter) gives for the part and lowers what does not fit. What cannot fit is refused.
positional: _input
options:
  _input:
    description:
      - Memory that the server may use in all, in MiB.
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
  connections:
    description:
      - Value of C(max_connections). V(none) is for the calculator's number for the workload, on a small host fewer.
    type: int
  workload:
    description:
      - What the database does most.
    type: str
    choices: [web, oltp, dw, desktop, mixed]
    default: web
  data_size:
    description:
      - Size of the database, compared with the memory.
    type: str
    choices: [less_ram, mid_ram, greater_ram]
    default: mid_ram
  huge_pages:
    description:
      - Whether the kernel sets huge pages aside for the server, so that page tables cost next to nothing.
    type: bool
    default: false
  floors:
    description:
      - Least values of C(max_connections), C(max_worker_processes), C(max_wal_senders), C(max_prepared_transactions)
        and C(max_locks_per_transaction).
    type: dict
    default: {}
  own:
    description:
      - Your own settings, by name. They win. Only C(work_mem) makes room for them, and where that is not enough
        C(warnings) says so.
    type: dict
    default: {}
seealso:
  - plugin: postgresql_settings
    plugin_type: filter
    description: All settings, with these among them.
"""

EXAMPLES = r"""
- name: Show where 3 GiB go
  ansible.builtin.debug:
    msg: "{{ 3072 | postgresql_memory(connections=50, cpus=2) }}"
"""

RETURN = r"""
_value:
  description:
    - Sizes in kB, each a whole number, by what they are for.
  type: dict
  contains:
    settings:
      description: >-
        The sizes C(shared_buffers), C(wal_buffers), C(work_mem), C(maintenance_work_mem) and C(autovacuum_work_mem).
      type: dict
    uses:
      description: >-
        What is taken when all is busy at once, as C(shared memory), C(page tables), C(processes), C(queries),
        C(autovacuum) and C(maintenance).
      type: dict
    counts:
      description: >-
        C(max_connections), C(max_worker_processes), C(max_wal_senders), C(max_prepared_transactions),
        C(max_locks_per_transaction), C(autovacuum_max_workers) and C(max_parallel_workers).
      type: dict
    hash_mem_multiplier:
      description: How many times C(work_mem) a hash may take.
      type: float
    warnings:
      description: What your own values break, and what is so tight that it is slow.
      type: list
      elements: str
"""


# Ansible loads a filter by its path under a name of its own: the one beside it is found by the directory.
sys.path.append(str(Path(__file__).parent))
_calculator = import_module("pgtune")
_pgtune, _check_number = _calculator.pgtune, _calculator._check_number

# All sizes are whole numbers of kB, PostgreSQL's binary ones.
MIB = 1024
GIB = 1024 * MIB

# Measured on 15 and 17: postmaster, checkpointer, both writers and both launchers together. A backend under pgbench
# keeps 1.4 MiB to itself, one with the catalogue of an app in its caches more.
PROCESSES = 12 * MIB
BACKEND = 2 * MIB
# One entry of 8 bytes for each page of 4 kB of shared memory that a backend has touched.
PAGE_TABLE_DIVISOR = 512
LEAST_BUFFERS = 4 * MIB
LEAST_WORK = 64
SLOW_WORK = 1 * MIB

# What a server that follows or restores another needs at least as many of, and the server's own default of each.
FLOORS = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_wal_senders": 10,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}
COUNTS = (*FLOORS, "autovacuum_max_workers", "max_parallel_workers")
# How many kB a number without a unit stands for.
UNITS = {"shared_buffers": 8, "wal_buffers": 8, "work_mem": 1, "maintenance_work_mem": 1, "autovacuum_work_mem": 1}
# These may say -1, for a value that follows another setting.
FOLLOWING = ("wal_buffers", "autovacuum_work_mem")
FACTORS = {"B": 1 / 1024, "kB": 1, "MB": MIB, "GB": GIB, "TB": 1024 * GIB}

Sizes = dict[str, int]


class Server(NamedTuple):
    """What is known of the server. Sizes are in kB."""

    part: int
    version: int
    cpus: int
    connections: int | None
    usual_connections: int
    huge_pages: bool
    floors: dict[str, int]
    sizes: Sizes
    counts: dict[str, int]
    multiplier: float
    # The calculator's values, which ours never pass.
    most: Sizes

    @property
    def slots(self) -> dict[str, int]:
        """How many there are of everything that takes memory."""
        counts = {
            "max_connections": self._connections,
            "autovacuum_max_workers": 5 if self.cpus >= 32 else 4 if self.cpus >= 16 else 3,
            "max_parallel_workers": max(1, min(self.cpus, self.part // (64 * MIB))),
        }
        # Debian's and everybody's server has eight for itself, for extensions and for logical replication.
        counts["max_worker_processes"] = 8 + counts["max_parallel_workers"]
        for name, default in FLOORS.items():
            counts[name] = max(counts.get(name, default), self.floors.get(name, 0))
        return counts | self.counts

    @property
    def _connections(self) -> int:
        if self.connections is not None:
            return self.connections
        return max(20, min(self.usual_connections, self.part // (16 * MIB)))

    @property
    def sessions(self) -> int:
        """Connections that shared_buffers leaves room for: the same number on a host of any size."""
        free = self.connections is None and "max_connections" not in self.counts
        return max(self.usual_connections, self.slots["max_connections"]) if free else self.slots["max_connections"]

    @property
    def actives(self) -> int:
        """Processes that may run a query at once."""
        return self.slots["max_connections"] + self.slots["max_parallel_workers"]

    @property
    def processes(self) -> int:
        slots = self.slots
        backends = slots["max_connections"] * BACKEND
        if self.sessions != slots["max_connections"]:
            # A share and no step for each connection, so that more memory never leaves less for the rest.
            backends = max(20 * BACKEND, min(self.usual_connections * BACKEND, self.part // 8), backends)
        workers = max(BACKEND, min(self.cpus * BACKEND, self.part // 32))
        if "max_parallel_workers" in self.counts:
            workers = slots["max_parallel_workers"] * BACKEND
        return PROCESSES + backends + workers + slots["autovacuum_max_workers"] * BACKEND

    @property
    def fixed_shared(self) -> int:
        """Shared memory beside the buffers, a little more than 15, 17 and 18 report for any settings."""
        slots = self.slots
        locks = math.ceil(0.4 * slots["max_locks_per_transaction"])
        return 8 * MIB + (sum(slots[name] for name in FLOORS) - slots["max_locks_per_transaction"] + 60) * (72 + locks)


def postgresql_memory(
    memory_mib: int,
    version: int = 17,
    cpus: int = 1,
    connections: int | None = None,
    workload: str = "web",
    data_size: str = "mid_ram",
    huge_pages: bool = False,
    floors: Mapping[str, int] | None = None,
    own: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the sizes of everything that takes memory."""
    _check_number("memory_mib", memory_mib, 1, 2**32)
    _check_number("version", version, 10, 19)
    _check_number("cpus", cpus, 1, 8192)
    _check_number("connections", connections, 1, 262143, optional=True)
    if not isinstance(huge_pages, bool):
        raise AnsibleFilterError(f"huge_pages must be true or false, not {huge_pages!r}")
    server = _server(memory_mib, version, cpus, connections, workload, data_size, huge_pages, floors or {}, own or {})
    sizes, warnings = _shared_out(server)
    return {
        "settings": {name: sizes[name] for name in UNITS},
        "uses": _uses(server, sizes),
        "counts": server.slots,
        "hash_mem_multiplier": server.multiplier,
        "warnings": warnings,
    }


def least_mib(connections: int, cpus: int, version: int = 17) -> int:
    """Return the smallest part with which a server for that many connections starts."""
    low, high = 1, 256 + 16 * connections
    while low < high:
        middle = (low + high) // 2
        enough = _fits(_server(middle, version, cpus, connections, "web", "mid_ram", False, {}, {}))
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _server(
    memory_mib: int,
    version: int,
    cpus: int,
    connections: int | None,
    workload: str,
    data_size: str,
    huge_pages: bool,
    floors: Mapping[str, int],
    own: Mapping[str, Any],
) -> Server:
    counts = {name: _own_number(name, own[name]) for name in COUNTS if name in own}
    server = Server(
        part=memory_mib * MIB,
        version=version,
        cpus=cpus,
        connections=connections,
        usual_connections=int(_pgtune(1024, workload=workload)["max_connections"]),
        huge_pages=huge_pages,
        floors=_checked_floors(floors),
        sizes={name: size for name in UNITS if (size := _own_kib(name, own)) is not None},
        counts=counts,
        multiplier=_multiplier(version, own),
        most={},
    )
    calculator = _pgtune(
        memory_mib,
        version=min(version, 18),
        workload=workload,
        cpus=cpus,
        connections=max(server.slots["max_connections"], 20),
        data_size=data_size,
    )
    most = {name: _kib(calculator[name]) for name in ("shared_buffers", "work_mem", "maintenance_work_mem")}
    # Before 17 a worker cannot use more than 1 GB.
    limit = GIB if version < 17 else 2 * GIB
    most["autovacuum_work_mem"] = min(most["maintenance_work_mem"] // 2, limit)
    if str(own.get("autovacuum_work_mem", "")).strip() == "-1":
        server.sizes["autovacuum_work_mem"] = server.sizes.get("maintenance_work_mem", most["maintenance_work_mem"])
    return server._replace(most=most)


def _checked_floors(floors: Any) -> dict[str, int]:
    if not isinstance(floors, Mapping):
        raise AnsibleFilterError(f"floors must be a mapping of setting to number, not {floors!r}")
    for name, value in floors.items():
        if name not in FLOORS:
            raise AnsibleFilterError(f"floors must be of {', '.join(FLOORS)}; {name!r} is none of them")
        _check_number(f"floors.{name}", value, 0, 2**31 - 1)
    return {str(name): int(value) for name, value in floors.items()}


def _own_number(name: str, value: Any) -> int:
    text = str(value).strip()
    if re.fullmatch(r"\d{1,6}", text):
        return int(text)
    raise AnsibleFilterError(f"own.{name} must be a whole number, not {value!r}")


def _own_kib(name: str, own: Mapping[str, Any]) -> int | None:
    """Return a size of the user's, None where there is none or where it follows another setting."""
    text = str(own.get(name, "-1")).strip()
    if text == "-1" and (name not in own or name in FOLLOWING):
        return None
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*(B|kB|MB|GB|TB)?", text)
    if not found:
        raise AnsibleFilterError(f"own.{name} must be a size such as 64MB, not {own[name]!r}")
    number, unit = found.groups()
    return math.ceil(float(number) * (FACTORS[unit] if unit else UNITS[name]))


def _multiplier(version: int, own: Mapping[str, Any]) -> float:
    value = own.get("hash_mem_multiplier", 2.0 if version >= 15 else 1.0)
    if re.fullmatch(r"\d{1,4}(\.\d{1,9})?", str(value)) and 1 <= float(value) <= 1000:
        return float(value)
    raise AnsibleFilterError(f"own.hash_mem_multiplier must be a number from 1 to 1000, not {value!r}")


def _kib(printed: str) -> int:
    unit = printed.lstrip("0123456789")
    return int(printed.removesuffix(unit)) * {"kB": 1, "MB": MIB, "GB": GIB}[unit]


def _shared_out(server: Server) -> tuple[Sizes, list[str]]:
    warnings: list[str] = []
    own = [*server.sizes, *server.counts]
    if _fits(server):
        sizes = _planned(server)
    else:
        # Yours win: the rest stays as it were without them, and what the sum is then is told.
        without = server._replace(sizes={}, counts={})
        if not _fits(without):
            raise AnsibleFilterError(_too_small(without))
        if not own:
            raise AnsibleFilterError(_too_small(server))
        sizes = _planned(without) | server.sizes
        uses = _uses(server, sizes)
        if uses["shared memory"] > server.part:
            raise AnsibleFilterError(
                f"own.{'shared_buffers' if 'shared_buffers' in own else own[0]} needs shared memory of "
                f"{_words(uses['shared memory'])}, more than the server's whole part of {_words(server.part)}"
            )
        warnings.append(
            f"with your own {', '.join(own)} a busy server takes {_words(sum(uses.values()))}, and its part of the "
            f"host is {_words(server.part)}"
        )
    if sizes["work_mem"] < SLOW_WORK and "work_mem" not in own:
        warnings.append(
            f"work_mem is only {sizes['work_mem']}kB, so that most sorts go to the disk: "
            f"{server.slots['max_connections']} connections are many for {_words(server.part)}; smaller pools or more "
            "memory mend it"
        )
    return sizes, warnings


def _too_small(server: Server) -> str:
    needed = max(least_mib(server.slots["max_connections"], server.cpus, server.version), server.part // MIB + 1)
    return (
        f"memory_mib must be {needed} or more for {server.slots['max_connections']} connections and {server.cpus} "
        f"CPUs, not {server.part // MIB}; smaller pools need less"
    )


def _words(kib: int) -> str:
    return f"{math.ceil(kib / MIB)} MiB" if kib < 10 * GIB else f"{kib / GIB:.1f} GiB"


def _fits(server: Server) -> bool:
    sizes = _planned(server)
    return (
        sum(_uses(server, sizes).values()) <= server.part
        and sizes["shared_buffers"] >= LEAST_BUFFERS
        and sizes["work_mem"] >= LEAST_WORK
        and min(sizes["maintenance_work_mem"], sizes["autovacuum_work_mem"]) >= MIB
    )


def _planned(server: Server) -> Sizes:
    """Share out what the processes leave. The user's own sizes take from work_mem alone, and never from the others."""
    nothing = dict.fromkeys(UNITS, 0)
    left = max(server.part - sum(_uses(server, nothing).values()), 0)
    sizes = nothing | {"shared_buffers": _rounded(_buffers(server, left))}
    for name, share in (("maintenance_work_mem", 8), ("autovacuum_work_mem", 16)):
        sizes[name] = min(server.most[name], left // share)
    sizes |= server.sizes
    sizes["wal_buffers"] = server.sizes.get("wal_buffers", _wal_buffers(sizes["shared_buffers"]))
    if "work_mem" not in server.sizes:
        rest = server.part - sum(_uses(server, sizes).values())
        sizes["work_mem"] = max(min(server.most["work_mem"], int(rest / (server.actives * server.multiplier))), 0)
    return sizes


def _rounded(buffers: int) -> int:
    """Return whole MiB, which read better; on the smallest hosts whole pages, as the server would round it."""
    step = MIB if buffers >= 128 * MIB else 8
    return buffers // step * step


def _wal_buffers(buffers: int) -> int:
    """Return 3 % in whole pages, as the server would round it, at most one segment."""
    return min(max(buffers * 3 // 100 // 8 * 8, 64), 16 * MIB)


def _buffers(server: Server, left: int) -> int:
    """Return a quarter of the part, less where connections and their page tables leave no room for it."""
    share = left * 2 // 5
    small = min(server.most["shared_buffers"], int(share / (1.06 + server.sessions / PAGE_TABLE_DIVISOR)))
    large = min(server.most["shared_buffers"], int(share / 1.06))
    return large if _in_huge_pages(server, large) else small


def _in_huge_pages(server: Server, buffers: int) -> bool:
    return server.huge_pages and buffers >= 2 * GIB


def _uses(server: Server, sizes: Sizes) -> Sizes:
    buffers, slots = sizes["shared_buffers"], server.slots
    tables = 0 if _in_huge_pages(server, buffers) else buffers * server.sessions // PAGE_TABLE_DIVISOR
    return {
        "shared memory": math.ceil(buffers * 1.03) + sizes["wal_buffers"] + server.fixed_shared,
        "page tables": tables,
        "processes": server.processes,
        "queries": math.ceil(sizes["work_mem"] * server.actives * server.multiplier),
        "autovacuum": sizes["autovacuum_work_mem"] * slots["autovacuum_max_workers"],
        "maintenance": sizes["maintenance_work_mem"],
    }


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"postgresql_memory": postgresql_memory}
