"""The filter postgresql_memory fits everything that takes memory into the server's part, on hosts of any size."""

import inspect
import math
import re

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from filter_plugins import postgresql_memory as memory_file
from filter_plugins.memory_budget import memory_budget
from filter_plugins.pgtune import pgtune
from filter_plugins.postgresql_memory import least_mib, postgresql_memory

MIB = 1024
GIB = 1024 * MIB
TIB_IN_MIB = 1024 * 1024
# Quicker by far than a strategy for each of the values of a host.
RANDOM = st.randoms(use_true_random=True)


def kib(printed):
    unit = printed.lstrip("0123456789")
    return int(printed.removesuffix(unit)) * {"kB": 1, "MB": MIB, "GB": GIB}[unit]


# The largest shared_memory_size that PostgreSQL 15, 17 and 18 print for these, in MiB.
MEASURED = [
    # shared_buffers in MiB, max_connections, max_worker_processes, MiB
    (16, 20, 8, 21),
    (16, 1000, 8, 66),
    (16, 10000, 8, 499),
    (128, 30, 8, 140),
    (2048, 30, 8, 2132),
    (4096, 30, 8, 4243),
    (16384, 1000, 8, 16857),
    (262144, 1000, 8, 267540),
    (2048, 200, 8, 2149),
    (65536, 200, 8, 67119),
]


@pytest.mark.parametrize(("buffers_mib", "connections", "workers", "measured_mib"), MEASURED)
def test_shared_memory_is_never_taken_for_less_than_the_server_says(buffers_mib, connections, workers, measured_mib):
    own = {"shared_buffers": f"{buffers_mib}MB", "max_worker_processes": workers}
    uses = postgresql_memory(4 * TIB_IN_MIB, connections=connections, own=own)["uses"]
    assert measured_mib * MIB <= uses["shared memory"] <= measured_mib * 1.1 * MIB + connections * 64 + 24 * MIB


@pytest.mark.parametrize("huge_pages", [False, True])
def test_huge_pages_save_the_page_tables_and_leave_more_for_the_rest(huge_pages):
    result = postgresql_memory(65536, connections=500, huge_pages=huge_pages)
    tables = 0 if huge_pages else result["settings"]["shared_buffers"] * 500 // 512
    assert result["uses"]["page tables"] == tables


def test_huge_pages_are_not_counted_on_below_two_gb_of_buffers():
    assert postgresql_memory(4096, connections=50) == postgresql_memory(4096, connections=50, huge_pages=True)


def test_a_large_host_with_few_connections_has_the_calculators_values():
    ours = postgresql_memory(65536, cpus=8, connections=40)["settings"]
    theirs = pgtune(65536, cpus=8, connections=40)
    for name in ("shared_buffers", "work_mem", "maintenance_work_mem", "wal_buffers"):
        assert ours[name] == kib(theirs[name])


@pytest.mark.parametrize(
    ("version", "multiplier", "vacuum"), [(12, 1, GIB), (14, 1, GIB), (15, 2, GIB), (16, 2, GIB), (17, 2, 2 * GIB)]
)
def test_hashes_and_vacuum_count_as_the_version_has_them(version, multiplier, vacuum):
    result = postgresql_memory(TIB_IN_MIB, version=version, connections=100)
    assert result["hash_mem_multiplier"] == multiplier
    assert result["settings"]["autovacuum_work_mem"] == vacuum


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ({"cpus": 15}, "autovacuum_max_workers", 3),
        ({"cpus": 16}, "autovacuum_max_workers", 4),
        ({"cpus": 31}, "autovacuum_max_workers", 4),
        ({"cpus": 32}, "autovacuum_max_workers", 5),
        ({"cpus": 1}, "max_parallel_workers", 1),
        ({"cpus": 64}, "max_parallel_workers", 64),
        ({"cpus": 64, "memory_mib": 2047}, "max_parallel_workers", 31),
        ({"cpus": 64, "memory_mib": 2048}, "max_parallel_workers", 32),
        ({"cpus": 64}, "max_worker_processes", 72),
        ({"connections": None}, "max_connections", 200),
        ({"connections": None, "memory_mib": 3199}, "max_connections", 199),
        ({"connections": None, "memory_mib": 3200}, "max_connections", 200),
        ({"connections": None, "memory_mib": 335}, "max_connections", 20),
        ({"connections": None, "workload": "dw"}, "max_connections", 40),
        ({"connections": 30, "floors": {"max_connections": 100}}, "max_connections", 100),
        ({"connections": 130, "floors": {"max_connections": 100}}, "max_connections", 130),
        ({"floors": {"max_worker_processes": 40}}, "max_worker_processes", 40),
        ({"floors": {"max_wal_senders": 9}}, "max_wal_senders", 10),
        ({"floors": {"max_wal_senders": 11}}, "max_wal_senders", 11),
        ({"connections": 30, "own": {"max_connections": 25}, "floors": {"max_connections": 99}}, "max_connections", 25),
    ],
)
def test_there_are_as_many_as_the_rule_says(arguments, name, value):
    assert postgresql_memory(**{"memory_mib": 16384, "connections": 50, **arguments})["counts"][name] == value


@pytest.mark.parametrize(
    ("name", "printed", "expected"),
    [
        ("shared_buffers", "1GB", GIB),
        ("shared_buffers", "1.5 GB", 3 * GIB // 2),
        ("shared_buffers", 16384, 128 * MIB),
        ("work_mem", 8192, 8192),
        ("work_mem", "8192", 8192),
        ("work_mem", "1048576B", 1024),
        ("autovacuum_work_mem", "96MB", 96 * MIB),
    ],
)
def test_a_size_of_your_own_is_read_as_the_server_reads_it(name, printed, expected):
    assert postgresql_memory(16384, connections=50, own={name: printed})["settings"][name] == expected


def test_autovacuum_follows_maintenance_when_you_say_so():
    result = postgresql_memory(16384, connections=50, own={"autovacuum_work_mem": -1, "maintenance_work_mem": "100MB"})
    assert result["settings"]["autovacuum_work_mem"] == 100 * MIB


def test_work_mem_makes_room_for_your_own_and_nothing_else_does():
    without = postgresql_memory(4096, connections=50)["settings"]
    result = postgresql_memory(4096, connections=50, own={"shared_buffers": "2GB"})
    assert result["warnings"] == []
    assert sum(result["uses"].values()) <= 4096 * MIB
    assert result["settings"]["work_mem"] < without["work_mem"]
    for name in ("maintenance_work_mem", "autovacuum_work_mem"):
        assert result["settings"][name] == without[name]


def test_your_own_wins_over_the_sum_and_the_sum_is_told():
    without = postgresql_memory(4096, connections=50)["settings"]
    result = postgresql_memory(4096, connections=50, own={"work_mem": "32MB"})
    assert result["settings"] == {**without, "work_mem": 32 * MIB}
    (warning,) = result["warnings"]
    assert re.fullmatch(
        r"with your own work_mem a busy server takes \d+ MiB, and its part of the host is 4096 MiB", warning
    )


def test_work_mem_that_is_too_small_to_be_useful_is_told():
    assert postgresql_memory(1024, connections=50)["warnings"] == []
    (warning,) = postgresql_memory(1024, connections=250)["warnings"]
    assert re.match(r"work_mem is only \d+kB, so that most sorts go to the disk: 250 connections are many", warning)


NO_NUMBERS = ["17", "", True, 4096.0, float("nan"), 0, -1, 2**33, [1], {}]
REFUSED = [
    *(
        (name, value, f"{name} must be a whole number from {lowest} to")
        for name, lowest in (("memory_mib", 1), ("version", 10), ("cpus", 1), ("connections", 1))
        for value in NO_NUMBERS
    ),
    ("version", 9, "version must be a whole number from 10 to 19, not 9"),
    ("version", 20, "version must be a whole number from 10 to 19, not 20"),
    ("cpus", 8193, "cpus must be a whole number from 1 to 8192, not 8193"),
    ("workload", "toaster", "workload must be one of web, oltp, dw, desktop, mixed, not 'toaster'"),
    ("data_size", "big", "data_size must be one of less_ram, mid_ram, greater_ram, not 'big'"),
    ("huge_pages", "yes", "huge_pages must be true or false, not 'yes'"),
    ("floors", [1], "floors must be a mapping"),
    ("floors", {"work_mem": 1}, "floors must be of max_connections, max_worker_processes, max_wal_senders,"),
    ("floors", {"max_connections": "100"}, "floors.max_connections must be a whole number from 0"),
    ("own", {"shared_buffers": "lots"}, "own.shared_buffers must be a size such as 64MB, not 'lots'"),
    ("own", {"shared_buffers": -1}, "own.shared_buffers must be a size such as 64MB, not -1"),
    ("own", {"work_mem": "4 mb"}, "own.work_mem must be a size such as 64MB, not '4 mb'"),
    ("own", {"max_connections": "many"}, "own.max_connections must be a whole number, not 'many'"),
    ("own", {"hash_mem_multiplier": "0.5"}, "own.hash_mem_multiplier must be a number from 1 to 1000, not '0.5'"),
    ("own", {"shared_buffers": "5GB"}, "own.shared_buffers needs shared memory of 5325 MiB, more than the server's"),
    ("own", {"max_connections": 90000}, "own.max_connections needs shared memory of"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_a_bad_value_is_refused_with_its_name_and_what_is_allowed(name, value, message):
    with pytest.raises(AnsibleFilterError) as refusal:
        postgresql_memory(**{"memory_mib": 4096, name: value})
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("workload", ["web", "dw", "desktop"])
@pytest.mark.parametrize(("connections", "cpus"), [(15, 1), (30, 2), (110, 8), (1010, 64)])
def test_every_part_from_the_least_on_is_enough(connections, cpus, workload):
    least = least_mib(connections, cpus)
    for memory_mib in range(least, least + 40):
        assert postgresql_memory(memory_mib, cpus=cpus, connections=connections, workload=workload)["counts"]


@pytest.mark.parametrize(
    ("memory_mib", "printed"), [(100, 8), (500, 8), (511, 8), (512, 1024), (513, 1024), (2047, 1024)]
)
def test_shared_buffers_are_whole_pages_or_whole_mib(memory_mib, printed):
    sizes = postgresql_memory(memory_mib, connections=10)["settings"]
    assert sizes["shared_buffers"] % printed == 0
    assert sizes["wal_buffers"] % 8 == 0


@pytest.mark.parametrize(("connections", "cpus"), [(15, 1), (30, 2), (110, 8), (1010, 64)])
def test_the_least_part_is_enough_and_one_mib_less_is_refused_with_the_figure(connections, cpus):
    least = least_mib(connections, cpus)
    assert postgresql_memory(least, cpus=cpus, connections=connections)["settings"]["work_mem"] >= 64
    with pytest.raises(AnsibleFilterError, match=rf"^memory_mib must be {least} or more for {connections} connections"):
        postgresql_memory(least - 1, cpus=cpus, connections=connections)


def host(draw):
    """Return a host of random size with random neighbours, and what its budget and its server take as arguments."""
    web = draw.random() < 0.5
    neighbours = draw.sample(["redis", "memcached"], draw.randint(0, 2))
    names = ["a", "b", "c"][: draw.randint(0, 3)] if web else []
    budget = {
        "cpus": draw.choice([1, 2, 3, 4, 8, 16, draw.randint(1, 256)]),
        "services": ["postgresql", *neighbours, *(["nginx", "pgbouncer", "supervisor"] if web else [])],
        "apps": [
            {
                "name": name,
                "processes": {"web": draw.randint(1, 4), "worker": draw.randint(0, 3)},
                "process_mib": draw.randint(40, 400),
            }
            for name in names
        ],
        "own": {name: draw.randint(16, 512) for name in neighbours if draw.random() < 0.3},
        "connections": draw.choice([15, 30, draw.randint(15, 600)]),
    }
    server = {
        "version": draw.randint(10, 19),
        "workload": draw.choice(["web", "oltp", "dw", "desktop", "mixed"]),
        "data_size": draw.choice(["less_ram", "mid_ram", "greater_ram"]),
        "huge_pages": draw.random() < 0.5,
    }
    # As many hosts between 512 MiB and 1 GiB as between 512 GiB and 1 TiB.
    total = int(2 ** draw.uniform(9, 20))
    more = draw.choice([1, draw.randint(1, 64), draw.randint(1, total)])
    return total, more, budget, server


def served(total_mib, budget, server):
    """Return the parts of the host and what its server takes, or the refusal of a host that promises too much."""
    try:
        parts = memory_budget(total_mib, **budget)
    except AnsibleFilterError as error:
        return str(error), None
    connections = budget["connections"]
    return parts, postgresql_memory(parts["postgresql_mib"], cpus=budget["cpus"], connections=connections, **server)


@settings(max_examples=1000, deadline=None, derandomize=True, database=None)
@given(RANDOM)
def test_the_budget_holds_and_more_memory_never_gives_less_shared_buffers(draw):
    total, more, budget, server = host(draw)
    parts, memory = served(total, budget, server)
    if not memory:
        assert "To mend it, " in parts
        return
    sizes, counts = memory["settings"], memory["counts"]
    assert sum(parts["mib"].values()) == total
    # Written out once more, from what will stand in the file.
    actives = counts["max_connections"] + counts["max_parallel_workers"]
    backends = actives + counts["autovacuum_max_workers"]
    vacuums = counts["autovacuum_max_workers"] * sizes["autovacuum_work_mem"]
    queries = actives * sizes["work_mem"] * memory["hash_mem_multiplier"]
    shared = sizes["shared_buffers"] * 1.0205 + sizes["wal_buffers"] + 5 * MIB + counts["max_connections"] * 48
    if not (server["huge_pages"] and sizes["shared_buffers"] >= 2 * GIB):
        shared += sizes["shared_buffers"] * counts["max_connections"] // 512
    assert shared + queries + vacuums + sizes["maintenance_work_mem"] + backends * 1440 <= parts["postgresql_mib"] * MIB
    assert sizes["work_mem"] >= 64
    _, larger = served(total + more, budget, server)
    assert larger["settings"]["shared_buffers"] >= sizes["shared_buffers"]


@settings(max_examples=1, deadline=None, derandomize=True, database=None)
@given(st.lists(RANDOM, min_size=100, max_size=100))
def test_most_of_the_random_hosts_are_not_refused(draws):
    hosts = [host(draw) for draw in draws]
    assert sum(bool(served(total, budget, server)[1]) for total, _, budget, server in hosts) > 80


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.integers(64, 8192), st.integers(1, 512), st.sampled_from(["web", "oltp", "dw", "desktop", "mixed"]))
def test_a_server_without_a_pooler_follows_the_same_rules(memory_mib, more, workload):
    def sizes(mib):
        result = postgresql_memory(mib, workload=workload)
        assert sum(result["uses"].values()) <= mib * MIB
        return result["settings"]["shared_buffers"]

    try:
        before = sizes(memory_mib)
    except AnsibleFilterError:
        assume(False)
    assert sizes(memory_mib + more) >= before


def test_the_uses_are_those_of_the_settings():
    result = postgresql_memory(4096, connections=50, cpus=4)
    sizes, uses = result["settings"], result["uses"]
    assert uses["queries"] == math.ceil(sizes["work_mem"] * 54 * 2.0)
    assert uses["autovacuum"] == 3 * sizes["autovacuum_work_mem"]
    assert uses["maintenance"] == sizes["maintenance_work_mem"]
    assert uses["processes"] == (12 + 2 * (50 + 4 + 3)) * MIB


def test_the_documentation_is_that_of_the_signature():
    documented = yaml.safe_load(memory_file.DOCUMENTATION)
    parameters = inspect.signature(postgresql_memory).parameters
    assert list(documented["options"])[1:] == list(parameters)[1:]
    for name, parameter in list(parameters.items())[1:]:
        default = documented["options"][name].get("default")
        assert default == ({"floors": {}, "own": {}}.get(name, parameter.default))
