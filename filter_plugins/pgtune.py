from __future__ import annotations

from typing import Any, NamedTuple

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: pgtune
short_description: PostgreSQL settings as the pgtune calculator gives them
description:
  - Turns the size of a host and the kind of its work into PostgreSQL settings. Names, values, units, order, and which
    settings are there at all are those of the calculator at U(https://pgtune.leopard.in.ua), for every input that its
    form accepts.
  - The calculator's form takes up to 999999 MB, above that whole GB or TB. This filter takes every whole MiB up to the
    form's 999999 TB; the sizes between follow the same formulas.
  - It copies the calculator's faults too, on purpose. C(io_method = io_uring) and C(wal_compression = lz4) stop a
    server that was not built for them, C(wal_level = minimal) rules out standbys and archives, and the sum of the
    memory settings can exceed the host's memory. See P(pgtune_warnings#filter) for what the calculator itself says.
  - A value of the wrong type is refused, never converted; the error names the value and what is allowed.
positional: _input
options:
  _input:
    description:
      - Memory of the host in MiB, from 1 to 1048574951424 (999999 TB).
    type: int
    required: true
  version:
    description:
      - Major version of PostgreSQL, from 10 to 18.
    type: int
    default: 17
  os_type:
    description:
      - Operating system of the host.
    type: str
    choices: [linux, windows, mac]
    default: linux
  workload:
    description:
      - What the database does most.
    type: str
    choices:
      web: a web application, many short queries
      oltp: online transaction processing, many small writes
      dw: a data warehouse, few and large queries
      desktop: a developer's machine, PostgreSQL is one program of many
      mixed: a bit of each
    default: web
  cpus:
    description:
      - Number of CPUs, from 1 to 999999. From 4 up it brings the settings for parallel work.
      - V(none) is for not known, as an empty field of the calculator's form.
    type: int
  connections:
    description:
      - Value of C(max_connections), from 20 to 999999.
      - V(none) is for the workload's own number (web 200, oltp 300, dw 40, desktop 20, mixed 100).
    type: int
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
    choices:
      less_ram: fits in memory
      mid_ram: one to three times the memory
      greater_ram: more than three times the memory
    default: mid_ram
notes:
  - Numbers have to arrive as numbers. Where a number comes from a string (an extra variable on the command line is
    one), convert it with C(| int) first.
seealso:
  - plugin: pgtune_warnings
    plugin_type: filter
    description: The calculator's warnings for the same input.
  - name: le0pard/pgtune
    description: The calculator that this filter agrees with (MIT licence).
    link: https://github.com/le0pard/pgtune
"""

EXAMPLES = r"""
- name: Show settings for a web application on a host of 4 GiB
  ansible.builtin.debug:
    msg: "{{ 4096 | pgtune(version=17) }}"
  # max_connections: '200', shared_buffers: 1GB, effective_cache_size: 3GB, maintenance_work_mem: 256MB, …

- name: Show settings for a data warehouse on this host
  ansible.builtin.debug:
    msg: >-
      {{ ansible_facts['memtotal_mb'] | pgtune(version=15, workload='dw', cpus=ansible_facts['processor_vcpus'],
                                               storage='nvme', data_size='greater_ram') }}

- name: Write the settings in the calculator's order
  ansible.builtin.copy:
    content: |
      {% for name, value in (8192 | pgtune(version=17, cpus=4, connections=120)).items() %}
      {{ name }} = {{ value }}
      {% endfor %}
    dest: /etc/postgresql/17/main/conf.d/pgtune.conf
    mode: "0644"
"""

RETURN = r"""
_value:
  description:
    - The settings in the calculator's order, each value a string as it stands in C(postgresql.conf). A setting that the
      calculator does not print is not there.
    - Sizes are whole C(GB), else whole C(MB), else C(kB), and never rounded.
  type: dict
  sample:
    max_connections: "200"
    shared_buffers: 1GB
    effective_cache_size: 3GB
    maintenance_work_mem: 256MB
    checkpoint_completion_target: "0.9"
    wal_buffers: 16MB
    default_statistics_target: "100"
    random_page_cost: "1.1"
    effective_io_concurrency: "200"
    work_mem: 5041kB
    huge_pages: "off"
    jit: "off"
    wal_compression: lz4
    min_wal_size: 1GB
    max_wal_size: 4GB
"""

# PostgreSQL's kB, MB and GB are binary, and every size here is a whole number of its kB.
MIB = 1024
GIB = 1024 * MIB

# PostgreSQL before 18 refuses 2 GB and more for these settings on Windows.
WINDOWS_LARGEST = 2 * GIB - MIB


class _Workload(NamedTuple):
    connections: int
    buffers_divisor: int
    cache_quarters: int
    maintenance_divisor: int
    work_divisor: int
    statistics: int
    jit: str | None
    min_wal: int
    max_wal: int


_WORKLOADS = {
    "web": _Workload(200, 4, 3, 16, 1, 100, "off", 1 * GIB, 4 * GIB),
    "oltp": _Workload(300, 4, 3, 16, 1, 100, "off", 2 * GIB, 8 * GIB),
    "dw": _Workload(40, 4, 3, 8, 2, 500, None, 4 * GIB, 16 * GIB),
    "desktop": _Workload(20, 16, 1, 16, 6, 100, None, 100 * MIB, 2 * GIB),
    "mixed": _Workload(100, 4, 3, 16, 2, 100, "off", 1 * GIB, 4 * GIB),
}
_CHOICES = {
    "os_type": ("linux", "windows", "mac"),
    "workload": tuple(_WORKLOADS),
    "storage": ("nvme", "ssd", "san", "hdd"),
    "data_size": ("less_ram", "mid_ram", "greater_ram"),
}
_IO_CONCURRENCY = {"nvme": 1000, "ssd": 200, "san": 300, "hdd": 2}
_DATA_SIZE_TENTHS = {"less_ram": 13, "mid_ram": 10, "greater_ram": 9}


def pgtune(
    memory_mib: int,
    version: int = 17,
    os_type: str = "linux",
    workload: str = "web",
    cpus: int | None = None,
    connections: int | None = None,
    storage: str = "ssd",
    data_size: str = "mid_ram",
) -> dict[str, str]:
    """Return the calculator's settings, in its order, as PostgreSQL reads them."""
    _check_number("memory_mib", memory_mib, 1, 999999 * 1024 * 1024)
    _check_number("version", version, 10, 18)
    _check_choice("os_type", os_type)
    _check_choice("workload", workload)
    _check_number("cpus", cpus, 1, 999999, optional=True)
    _check_number("connections", connections, 20, 999999, optional=True)
    _check_choice("storage", storage)
    _check_choice("data_size", data_size)

    kind = _WORKLOADS[workload]
    ram = memory_mib * MIB
    windows_limited = os_type == "windows" and version < 18
    sessions = connections or kind.connections
    buffers = ram // kind.buffers_divisor
    maintenance = _maintenance_work_mem(ram // kind.maintenance_divisor, windows_limited)
    share = (ram - buffers) // (3 * (sessions + _worker_processes(cpus or 0)) * kind.work_divisor)
    work = _work_mem(share, data_size, windows_limited)

    settings = {
        "max_connections": sessions,
        "shared_buffers": _size(buffers),
        "effective_cache_size": _size(ram * kind.cache_quarters // 4),
        "maintenance_work_mem": _size(maintenance),
        "checkpoint_completion_target": "0.9",
        "wal_buffers": _size(_wal_buffers(buffers)),
        "default_statistics_target": kind.statistics,
        "random_page_cost": _random_page_cost(workload, storage, data_size),
        "effective_io_concurrency": _IO_CONCURRENCY[storage] if os_type == "linux" else None,
        "work_mem": _size(work),
        "huge_pages": "try" if os_type != "mac" and buffers >= 2 * GIB else "off",
        "jit": kind.jit if version >= 12 else None,
        "wal_compression": "lz4" if version >= 15 else "on",
        "autovacuum_max_workers": _autovacuum_max_workers(cpus or 0),
        "autovacuum_work_mem": _size(2 * GIB) if maintenance >= 2 * GIB else None,
        **(_io(os_type, cpus or 0) if version >= 18 else {}),
        "min_wal_size": _size(kind.min_wal),
        "max_wal_size": _size(kind.max_wal),
        **_parallel(cpus or 0, workload, version),
        **({"wal_level": "minimal", "max_wal_senders": 0} if workload == "desktop" else {}),
    }
    return {name: str(value) for name, value in settings.items() if value is not None}


def _check_number(name: str, value: Any, lowest: int, highest: int, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
        return
    allowed = f"a whole number from {lowest} to {highest}{', or none' if optional else ''}"
    hint = " (a string: convert it with '| int')" if isinstance(value, str) else ""
    raise AnsibleFilterError(f"{name} must be {allowed}, not {value!r}{hint}")


def _check_choice(name: str, value: Any) -> None:
    if value not in _CHOICES[name]:
        raise AnsibleFilterError(f"{name} must be one of {', '.join(_CHOICES[name])}, not {value!r}")


def _size(kib: int) -> str:
    if kib % GIB == 0:
        return f"{kib // GIB}GB"
    if kib % MIB == 0:
        return f"{kib // MIB}MB"
    return f"{kib}kB"


def _maintenance_work_mem(share: int, windows_limited: bool) -> int:
    if windows_limited:
        return share if share < 2 * GIB else WINDOWS_LARGEST
    return min(share, 8 * GIB)


def _wal_buffers(buffers: int) -> int:
    share = buffers * 3 // 100
    # PostgreSQL itself stops at one WAL segment of 16 MB; the calculator rounds up to it where that is near.
    return 16 * MIB if share > 14 * MIB else max(share, 32)


def _random_page_cost(workload: str, storage: str, data_size: str) -> str:
    if data_size == "less_ram":
        return "1.1"
    return "4" if storage == "hdd" or workload == "dw" else "1.1"


def _worker_processes(cpus: int) -> int:
    # Below four CPUs the settings leave max_worker_processes at the server's default of 8.
    return cpus if cpus >= 4 else 8


def _work_mem(share: int, data_size: str, windows_limited: bool) -> int:
    work = max(share * _DATA_SIZE_TENTHS[data_size] // 10, 4 * MIB)
    return min(work, WINDOWS_LARGEST) if windows_limited else work


def _autovacuum_max_workers(cpus: int) -> int | None:
    if cpus >= 32:
        return 5
    return 4 if cpus >= 16 else None


def _io(os_type: str, cpus: int) -> dict[str, str | int | None]:
    if os_type == "linux":
        return {"io_method": "io_uring"}
    workers = min(cpus // 4, 32)
    # Three is the server's default.
    return {"io_method": "worker", "io_workers": workers if workers > 3 else None}


def _parallel(cpus: int, workload: str, version: int) -> dict[str, int | None]:
    if cpus < 4:
        return {}
    half = (cpus + 1) // 2
    return {
        "max_worker_processes": cpus,
        "max_parallel_workers_per_gather": half if workload == "dw" else min(half, 4),
        "max_parallel_workers": cpus,
        "max_parallel_maintenance_workers": min(half, 4) if version >= 11 else None,
    }


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"pgtune": pgtune}
