"""What a host has is the least of the machine's and of every limit above, however the kernel tells it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.module_utils import host_facts

GIB = 1024**3


def machine(root: Path, files: dict[str, str]) -> Path:
    """Make a tree of what the kernel says of a machine with 8 GiB."""
    for name, text in {"proc/meminfo": "MemTotal:        8388608 kB\nHugepagesize:       2048 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "mib"),
    [
        ({}, 8192),
        # Version 2: its own group, one above, and the one that everything is in
        ({"proc/1/cgroup": "0::/init.scope\n", "sys/fs/cgroup/memory.max": "max\n"}, 8192),
        ({"proc/1/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{2 * GIB}\n"}, 2048),
        ({"proc/1/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": f"{GIB}\n"}, 1024),
        ({"proc/1/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.high": f"{GIB}\n"}, 1024),
        (
            {
                "proc/1/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": f"{3 * GIB}\n",
                "sys/fs/cgroup/a/b/memory.max": f"{GIB}\n",
                "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
            },
            1024,
        ),
        # A limit above what the machine has is none.
        ({"proc/1/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{64 * GIB}\n"}, 8192),
        # Version 1 says a number that no machine has where there is no limit.
        (
            {
                "proc/1/cgroup": "4:memory:/\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            8192,
        ),
        (
            {
                "proc/1/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x/y\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{GIB}\n",
            },
            1024,
        ),
        # In a container the path is the host's, and only the top is mounted.
        (
            {
                "proc/1/cgroup": "4:memory:/machine/abc\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
            },
            1024,
        ),
    ],
)
def test_memory_is_the_least_of_the_machine_and_every_limit(tmp_path: Path, files: dict[str, str], mib: int) -> None:
    assert host_facts.memory_mib(machine(tmp_path, files)) == mib


def test_a_limit_of_a_login_is_not_one_of_the_services(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/user.slice\n",
        "proc/1/cgroup": "0::/init.scope\n",
        "sys/fs/cgroup/user.slice/memory.max": f"{GIB}\n",
    }
    assert host_facts.memory_mib(machine(tmp_path, files)) == 8192


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({}, []),
        ({"proc/1/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, []),
        ({"proc/1/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, [2]),
        ({"proc/1/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}, [1]),
        (
            {
                "proc/1/cgroup": "0::/a\n",
                "sys/fs/cgroup/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
            },
            [2, 4],
        ),
        (
            {
                "proc/1/cgroup": "5:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            [3],
        ),
        (
            {
                "proc/1/cgroup": "5:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            [],
        ),
    ],
)
def test_a_quota_is_counted_in_whole_cpus(tmp_path: Path, files: dict[str, str], limits: list[int]) -> None:
    root = machine(tmp_path, files)
    assert host_facts.cpu_limits(root) == limits
    assert host_facts.cpus(root) == min([len(os.sched_getaffinity(0)), *limits])


@pytest.mark.parametrize(("limit", "mib"), [("max", 1024), (f"{15 * GIB // 2}", 512), (f"{GIB}", 0)])
def test_huge_pages_are_taken_from_the_memory_where_nothing_is_left_beside_it(tmp_path, limit, mib):
    """A container's limit has none of the machine's in it, whoever sets them aside."""
    pages = "MemTotal:        8388608 kB\nHugePages_Total: 512\nHugepagesize:       2048 kB\n"
    root = machine(tmp_path, {"proc/meminfo": pages, "proc/1/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": limit})
    assert host_facts.huge_pages_mib(root) == mib
