"""The few facts that the roles use, under the names that M(ansible.builtin.setup) gives them."""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.huge_pages import HugePages
from ansible.module_utils.postgresql_cluster import OF_RELEASE, Cluster

ROOT = Path("/")
# A control group without a limit says a number that no machine has.
NO_LIMIT = 2**60


def read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def release() -> dict[str, str]:
    """Return /etc/os-release as names and values."""
    found = re.findall(r"^([A-Z_]+)=(.*)$", read("/etc/os-release"), re.MULTILINE)
    return {name: value.strip().strip("\"'") for name, value in found}


def control_groups(controller: str, root: Path = ROOT) -> list[Path]:
    """Return the directories of the control groups of one controller that everything here is in, up to the top.

    They are those of the first process: a login has groups of its own, which no service is in. Version 2 has one tree
    for all controllers, version 1 one for each, and a machine may have both. Inside a container the path may name
    groups that only the host sees; the container's own limit is then at the top of what is mounted.
    """
    paths = dict(re.findall(r"^\d+:([^:]*):(.*)$", read(root / "proc/1/cgroup"), re.MULTILINE))
    mounted = root / "sys/fs/cgroup"
    tree, path = mounted, paths.get("", "/")
    for controllers, own in paths.items():
        if controller in controllers.split(","):
            tree, path = mounted / controller, own
    steps = [part for part in path.split("/") if part]
    return [tree.joinpath(*steps[:length]) for length in range(len(steps), -1, -1)]


def memory_limits(root: Path = ROOT) -> list[int]:
    """Return the limits of all control groups above, in bytes."""
    texts = [
        read(directory / file).strip()
        for directory in control_groups("memory", root)
        for file in ("memory.max", "memory.high", "memory.limit_in_bytes")
    ]
    return [int(text) for text in texts if text.isdigit() and 0 < int(text) < NO_LIMIT]


def memory_mib(root: Path = ROOT) -> int:
    """Return the machine's memory, or a control group's limit where that is less."""
    total = re.search(r"^MemTotal:\s+(\d+)", read(root / "proc/meminfo"), re.MULTILINE)
    sizes = [int(total[1]) * 1024] if total else []
    return min(sizes + memory_limits(root), default=0) // 1024**2


def huge_pages_mib(root: Path = ROOT) -> int:
    """Return what is set aside in huge pages out of the memory, after what a control group's limit leaves beside it."""
    total = re.search(r"^MemTotal:\s+(\d+)", read(root / "proc/meminfo"), re.MULTILINE)
    beside = int(total[1]) // 1024 - memory_mib(root) if total else 0
    return max(HugePages(root).others_mib - beside, 0)


def cpu_limits(root: Path = ROOT) -> list[int]:
    """Return how many CPUs the quotas of the control groups above come to, each at least one."""
    quotas = []
    for directory in control_groups("cpu", root):
        words = read(directory / "cpu.max").split() or [
            read(directory / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
        ]
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]) > 0:
            quotas.append(max(math.ceil(int(words[0]) / int(words[1])), 1))
    return quotas


def cpus(root: Path = ROOT) -> int:
    """Return the CPUs that may be used, or fewer where a quota says so."""
    return min([len(os.sched_getaffinity(0)), *cpu_limits(root)])


def host_facts() -> dict[str, Any]:
    system = release()
    cluster = Cluster.found()
    version, point = system.get("VERSION_ID", ""), read("/etc/debian_version").strip()
    return {
        "ansible_architecture": platform.machine(),
        "ansible_cloud_init": Path("/run/cloud-init").is_dir(),
        "ansible_distribution": system.get("ID", "").capitalize(),
        "ansible_distribution_major_version": version.split(".")[0],
        "ansible_distribution_release": system.get("VERSION_CODENAME", ""),
        "ansible_distribution_version": point if point.startswith(f"{version}.") else version,
        "ansible_hostname": platform.node().split(".")[0],
        "ansible_huge_pages_mib": huge_pages_mib(),
        "ansible_kernel": platform.release(),
        "ansible_memtotal_mb": memory_mib(),
        "ansible_os_family": "Debian",
        "ansible_pkg_mgr": "apt",
        "ansible_postgresql_release_version": OF_RELEASE.get(version.split(".")[0], 0),
        "ansible_postgresql_version": cluster.version if cluster else OF_RELEASE.get(version.split(".")[0], 0),
        "ansible_processor_nproc": cpus(),
        "ansible_processor_vcpus": cpus(),
        "ansible_python_version": platform.python_version(),
        "ansible_service_mgr": "systemd",
        "ansible_system": "Linux",
    }
