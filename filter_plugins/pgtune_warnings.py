from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

DOCUMENTATION = r"""
name: pgtune_warnings
short_description: Warnings of the pgtune calculator
description:
  - Returns the warnings that the calculator at U(https://pgtune.leopard.in.ua) prints above the settings for the same
    input. They never change a setting.
  - Input is that of P(pgtune#filter), and is refused as there.
positional: _input
options:
  _input:
    description:
      - Memory of the host in MiB, from 1 to 1048574951424 (999999 TB). Below 256 and above 102400 there is a warning.
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
    choices: [web, oltp, dw, desktop, mixed]
    default: web
  cpus:
    description:
      - Number of CPUs, from 1 to 999999, or V(none) for not known. Changes no warning.
    type: int
  connections:
    description:
      - Value of C(max_connections), from 20 to 999999, or V(none) for the workload's own. Changes no warning.
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
    choices: [less_ram, mid_ram, greater_ram]
    default: mid_ram
seealso:
  - plugin: pgtune
    plugin_type: filter
    description: The settings for the same input.
  - name: le0pard/pgtune
    description: The calculator that this filter agrees with (MIT licence).
    link: https://github.com/le0pard/pgtune
"""

EXAMPLES = r"""
- name: Show what the calculator warns of
  ansible.builtin.debug:
    msg: "{{ 4096 | pgtune_warnings(version=18) }}"
  # WARNING
  # wal_compression = lz4 requires PostgreSQL
  # to be compiled with --with-lz4
  #
  # io_method = io_uring requires PostgreSQL
  # to be compiled with --with-liburing
"""

RETURN = r"""
_value:
  description:
    - The lines of the calculator's comment, C(WARNING) first, an empty line between two warnings. An empty list where
      it has nothing to say.
  type: list
  elements: str
  sample: [WARNING, wal_compression = lz4 requires PostgreSQL, to be compiled with --with-lz4]
"""

_STORAGE_NAMES = {"ssd": "SSDs", "nvme": "NVMe drives", "san": "SAN storage"}


# Ansible loads a filter by its path under a name of its own: the one beside it is found by the directory.
sys.path.append(str(Path(__file__).parent))
_pgtune = import_module("pgtune").pgtune


def pgtune_warnings(
    memory_mib: int,
    version: int = 17,
    os_type: str = "linux",
    workload: str = "web",
    cpus: int | None = None,
    connections: int | None = None,
    storage: str = "ssd",
    data_size: str = "mid_ram",
) -> list[str]:
    """Return the lines of the calculator's warning, or none."""
    settings = _pgtune(memory_mib, version, os_type, workload, cpus, connections, storage, data_size)
    warnings: list[list[str]] = []
    if not 256 <= memory_mib <= 100 * 1024:
        amount = "low" if memory_mib < 256 else "very high"
        warnings.append(["this tool not being optimal", f"for {amount} memory systems"])
    if settings["wal_compression"] == "lz4":
        warnings.append(["wal_compression = lz4 requires PostgreSQL", "to be compiled with --with-lz4"])
    if settings.get("io_method") == "io_uring":
        warnings.append(["io_method = io_uring requires PostgreSQL", "to be compiled with --with-liburing"])
    if workload == "dw" and storage != "hdd" and data_size != "less_ram":
        warnings.append(
            [
                f"Cost parameters for Data Warehouses on {_STORAGE_NAMES[storage]} are left at defaults",
                "to avoid catastrophic index scan selections",
                "Monitor query planner behavior and adjust random_page_cost if necessary",
            ]
        )
    if not warnings:
        return []
    return ["WARNING", *warnings[0], *(line for warning in warnings[1:] for line in ("", *warning))]


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"pgtune_warnings": pgtune_warnings}
