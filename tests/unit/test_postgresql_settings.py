"""The filter postgresql_settings gives settings that start, each with its reason, and leaves the user's own alone."""

import inspect
import re

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from filter_plugins import postgresql_settings as settings_file
from filter_plugins.pgtune import pgtune
from filter_plugins.postgresql_settings import postgresql_settings

GIB = 1024
VERSIONS = range(10, 20)


def tuned(memory_mib=4096, **more):
    return postgresql_settings(memory_mib, **{"pools": 40, **more})


def values(memory_mib=4096, **more):
    return {setting["name"]: setting["value"] for setting in tuned(memory_mib, **more)["settings"]}


def setting(name, **more):
    (found,) = [setting for setting in tuned(**more)["settings"] if setting["name"] == name]
    return found


def test_a_host_has_these_settings():
    assert values(3072, cpus=2, disk_mib=40000, features=["lz4"]) == {
        "max_connections": "50",
        "shared_buffers": "768MB",
        "huge_pages": "off",
        "effective_cache_size": "2304MB",
        "work_mem": "13559kB",
        "maintenance_work_mem": "192MB",
        "autovacuum_work_mem": "96MB",
        "wal_buffers": "16MB",
        "wal_level": "replica",
        "wal_compression": "lz4",
        "max_wal_size": "4000MB",
        "min_wal_size": "992MB",
        "max_slot_wal_keep_size": "8000MB",
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        "random_page_cost": "1.1",
        "effective_io_concurrency": "200",
        "default_statistics_target": "100",
        "jit": "off",
        "max_worker_processes": "10",
        "max_parallel_workers": "2",
        "max_parallel_workers_per_gather": "2",
        "max_parallel_maintenance_workers": "2",
        "autovacuum_max_workers": "3",
        "autovacuum_vacuum_cost_limit": "200",
    }


WAREHOUSE = {"workload": "dw"}
RULES = [
    # setting, arguments, value; None where nothing is written
    ("max_connections", {"pools": 0}, "10"),
    ("max_connections", {"pools": 40, "reserve": 5}, "45"),
    ("max_connections", {"pools": None}, "200"),
    ("max_connections", {"pools": None, "workload": "oltp"}, "256"),
    ("max_connections", {"pools": 20, "floors": {"max_connections": 100}}, "100"),
    ("max_connections", {"pools": 120, "floors": {"max_connections": 100}}, "130"),
    ("huge_pages", {"memory_mib": 8191}, "off"),
    ("huge_pages", {"memory_mib": 8192}, "try"),
    ("wal_compression", {"version": 14, "features": ["lz4"]}, "on"),
    ("wal_compression", {"version": 15, "features": ["lz4", "zstd"]}, "lz4"),
    ("wal_compression", {"version": 15, "features": ["zstd"]}, "zstd"),
    ("wal_compression", {"version": 15}, "on"),
    ("wal_level", {"workload": "desktop"}, "replica"),
    ("max_wal_senders", {"workload": "desktop"}, None),
    ("max_wal_senders", {"floors": {"max_wal_senders": 10}}, None),
    ("max_wal_senders", {"floors": {"max_wal_senders": 11}}, "11"),
    ("max_prepared_transactions", {"floors": {"max_prepared_transactions": 1}}, "1"),
    ("max_locks_per_transaction", {"floors": {"max_locks_per_transaction": 64}}, None),
    ("max_locks_per_transaction", {"floors": {"max_locks_per_transaction": 65}}, "65"),
    ("max_wal_size", {}, "4GB"),
    ("max_wal_size", {"disk_mib": 40960}, "4GB"),
    ("max_wal_size", {"disk_mib": 40959}, "4080MB"),
    ("max_wal_size", {"disk_mib": 799}, "64MB"),
    ("max_wal_size", {"disk_mib": 800}, "80MB"),
    ("max_wal_size", {"memory_mib": 32768, "disk_mib": 10**6}, "16GB"),
    ("max_wal_size", {"memory_mib": 262144, "disk_mib": 10**6}, "32GB"),
    ("max_wal_size", {"memory_mib": 262144}, "4GB"),
    ("min_wal_size", {}, "1GB"),
    ("min_wal_size", {"disk_mib": 40960}, "1GB"),
    ("min_wal_size", {"disk_mib": 799}, "32MB"),
    ("min_wal_size", {"memory_mib": 262144, "disk_mib": 10**6}, "1GB"),
    ("max_slot_wal_keep_size", {}, None),
    ("max_slot_wal_keep_size", {"disk_mib": 40960}, "8GB"),
    ("max_slot_wal_keep_size", {"disk_mib": 40960, "version": 12}, None),
    ("max_slot_wal_keep_size", {"disk_mib": 100}, "64MB"),
    ("random_page_cost", {"storage": "hdd"}, "4"),
    ("random_page_cost", {"storage": "hdd", "data_size": "less_ram"}, "1.1"),
    ("random_page_cost", {"data_size": "greater_ram"}, "2"),
    ("random_page_cost", {"storage": "san"}, "1.1"),
    ("random_page_cost", WAREHOUSE, "4"),
    ("effective_io_concurrency", {"version": 12}, "50"),
    ("effective_io_concurrency", {"version": 13}, "200"),
    ("effective_io_concurrency", {"version": 17, "storage": "nvme"}, "256"),
    ("effective_io_concurrency", {"version": 18, "storage": "nvme"}, "64"),
    ("effective_io_concurrency", {"version": 17, "storage": "hdd"}, "2"),
    ("effective_io_concurrency", {"version": 18, "storage": "hdd"}, "16"),
    ("jit", {"version": 10}, None),
    ("jit", {"version": 11}, "off"),
    ("jit", WAREHOUSE, "on"),
    ("jit", {"version": 19, **WAREHOUSE}, "on"),
    ("jit", {"workload": "desktop"}, "on"),
    ("default_statistics_target", WAREHOUSE, "500"),
    ("max_worker_processes", {"cpus": 1}, "9"),
    ("max_worker_processes", {"cpus": 8}, "16"),
    ("max_worker_processes", {"cpus": 8, "floors": {"max_worker_processes": 17}}, "17"),
    ("max_parallel_workers", {"cpus": 8}, "8"),
    ("max_parallel_workers_per_gather", {"cpus": 1}, "1"),
    ("max_parallel_workers_per_gather", {"cpus": 2}, "2"),
    ("max_parallel_workers_per_gather", {"cpus": 3}, "2"),
    ("max_parallel_workers_per_gather", {"cpus": 7}, "4"),
    ("max_parallel_workers_per_gather", {"cpus": 64}, "4"),
    ("max_parallel_workers_per_gather", {"cpus": 30, **WAREHOUSE}, "15"),
    ("max_parallel_workers_per_gather", {"cpus": 64, **WAREHOUSE}, "16"),
    ("max_parallel_maintenance_workers", {"cpus": 64, "version": 10}, None),
    ("max_parallel_maintenance_workers", {"cpus": 64, "version": 11}, "4"),
    ("autovacuum_vacuum_cost_limit", {"cpus": 15}, "200"),
    ("autovacuum_vacuum_cost_limit", {"cpus": 16}, "267"),
    ("autovacuum_vacuum_cost_limit", {"cpus": 32}, "334"),
    ("autovacuum_vacuum_cost_limit", {"own": {"autovacuum_max_workers": 6}}, "400"),
    ("io_method", {"version": 17}, None),
    ("io_method", {"version": 18, "features": ["liburing"]}, "worker"),
    ("io_method", {"version": 18, "features": ["liburing"], "own": {"io_method": "io_uring"}}, "io_uring"),
    ("io_workers", {"version": 17, "cpus": 64}, None),
    ("io_workers", {"version": 18, "cpus": 15}, None),
    ("io_workers", {"version": 18, "cpus": 16}, "4"),
    ("io_workers", {"version": 18, "cpus": 256}, "32"),
    ("io_workers", {"version": 18, "cpus": 64, "features": ["liburing"], "own": {"io_method": "io_uring"}}, None),
    ("io_workers", {"version": 19, "cpus": 64}, None),
]


@pytest.mark.parametrize(("name", "arguments", "value"), RULES)
def test_a_setting_is_what_its_rule_says(name, arguments, value):
    assert values(**arguments).get(name) == value


# First and last version that know a setting which we may write. From the servers' own pg_settings.
KNOWN = {
    "io_method": (18, 19),
    "io_workers": (18, 18),
    "jit": (11, 19),
    "max_parallel_maintenance_workers": (11, 19),
    "max_slot_wal_keep_size": (13, 19),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("workload", ["web", "oltp", "dw", "desktop", "mixed"])
def test_a_setting_that_the_version_does_not_know_is_never_written(version, workload):
    written = values(65536, version=version, workload=workload, cpus=64, disk_mib=10**6, features=["lz4", "liburing"])
    for name in written.keys() & KNOWN.keys():
        first, last = KNOWN[name]
        assert first <= version <= last
    assert (written["wal_compression"] == "lz4") == (version >= 15)


def test_the_table_shows_what_the_calculator_says_for_the_whole_host():
    theirs = pgtune(8192, version=17, cpus=2)
    for row in tuned(4096, cpus=2, host_mib=8192)["settings"]:
        assert row["pgtune"] == theirs.get(row["name"], "")


def test_every_setting_has_a_reason_of_one_line():
    for workload in ("web", "oltp", "dw", "desktop", "mixed"):
        for row in tuned(65536, workload=workload, cpus=32, version=18, disk_mib=10**6, pools=None)["settings"]:
            assert re.fullmatch(r"\S.{5,120}", row["reason"]), row


def test_what_is_never_lowered_says_so():
    floors = {"max_connections": 100, "max_worker_processes": 40, "max_wal_senders": 20}
    for name in floors:
        assert setting(name, pools=20, floors=floors)["reason"].startswith("never lowered by itself")
    assert not setting("max_connections", pools=120, floors=floors)["reason"].startswith("never lowered")


def test_your_own_value_wins_and_is_marked():
    own = {"Random_Page_Cost": 1.5, "jit": True, "log_min_messages": "error", "plpgsql.extra_warnings": "all"}
    found = {row["name"]: row for row in tuned(own=own)["settings"]}
    assert {name: row["value"] for name, row in found.items() if row["own"]} == {
        "random_page_cost": "1.5",
        "jit": "on",
        "log_min_messages": "error",
        "plpgsql.extra_warnings": "all",
    }
    assert found["random_page_cost"]["reason"] == "your own; ours would be 1.1"
    assert found["log_min_messages"]["reason"] == "your own"


def test_your_own_wins_over_what_the_role_sets_and_that_over_nothing():
    others = [
        {"name": "port", "value": 5432, "reason": "where the poolers look for it"},
        {"name": "log_lock_waits", "value": True, "reason": "to find them"},
        {"name": "wal_level", "value": "logical", "reason": "no"},
    ]
    found = {row["name"]: (row["value"], row["reason"]) for row in tuned(others=others, own={"port": 5433})["settings"]}
    assert found["port"] == ("5433", "your own; ours would be 5432")
    assert found["log_lock_waits"] == ("on", "to find them")
    assert found["wal_level"][0] == "replica"


def test_your_own_below_a_floor_is_fine_on_a_server_that_follows_none():
    assert values(own={"max_connections": 20}, floors={"max_connections": 100})["max_connections"] == "20"


def test_the_memory_adds_up_to_the_part():
    result = tuned(4096, cpus=2)
    assert abs(sum(row["mib"] for row in result["memory"]) - 4096) < 1
    assert [row["name"] for row in result["memory"]][-1] == "page cache"
    assert result["part_mib"] == 4096
    assert result["warnings"] == []


def test_the_warnings_are_those_of_the_memory():
    assert "a busy server takes" in tuned(own={"work_mem": "64MB"})["warnings"][0]


REFUSED = [
    ({"memory_mib": 100}, "memory_mib must be 163 or more for 50 connections and 1 CPUs, not 100; smaller pools"),
    ({"memory_mib": "4096"}, "memory_mib must be a whole number from 1 to 4294967296, not '4096' (a string"),
    ({"version": 9}, "version must be a whole number from 10 to 19, not 9"),
    ({"version": 20}, "version must be a whole number from 10 to 19, not 20"),
    ({"cpus": 0}, "cpus must be a whole number from 1 to 8192, not 0"),
    ({"pools": -1}, "pools must be a whole number from 0 to 200000, or none, not -1"),
    ({"reserve": 4}, "reserve must be a whole number from 5 to 10000, not 4"),
    ({"disk_mib": "1"}, "disk_mib must be a whole number from 1 to 1099511627776, or none, not '1' (a string"),
    ({"host_mib": 0}, "host_mib must be a whole number from 1 to 4294967296, or none, not 0"),
    ({"workload": "toaster"}, "workload must be one of web, oltp, dw, desktop, mixed, not 'toaster'"),
    ({"storage": "tape"}, "storage must be one of nvme, ssd, san, hdd, not 'tape'"),
    ({"data_size": "big"}, "data_size must be one of less_ram, mid_ram, greater_ram, not 'big'"),
    ({"huge_pages": 1}, "huge_pages must be true or false, not 1"),
    ({"features": "lz4"}, "features must be a list of lz4, zstd, liburing, not 'lz4'"),
    ({"features": ["llvm"]}, "features must be a list of lz4, zstd, liburing, not ['llvm']"),
    ({"floors": {"jit": 1}}, "floors must be of max_connections, max_worker_processes, max_wal_senders,"),
    ({"own": ["jit"]}, "own must be a mapping of setting to value, not ['jit']"),
    ({"own": {"work mem": 1}}, "own must be a mapping of setting to value; 'work mem' is no setting's name"),
    ({"own": {"jit": None}}, "own.jit must be one line of text or a number, not None"),
    ({"own": {"jit": "on\nfsync = off"}}, "own.jit must be one line of text or a number, not 'on\\nfsync = off'"),
    ({"own": {"jit": "on", "JIT": "off"}}, "own has jit twice"),
    ({"own": {"work_mem": float("nan")}}, "own.work_mem must be one line of text or a number, not nan"),
    ({"own": {"wal_level": "Minimal"}}, "own.wal_level must be replica or logical, not 'minimal'"),
    (
        {"own": {"wal_compression": "zstd"}, "features": ["lz4"]},
        "own.wal_compression: the installed server was built without zstd; it has lz4, pglz",
    ),
    ({"own": {"io_method": "io_uring"}, "version": 18}, "own.io_method: io_uring cannot be had here"),
    (
        {"own": {"io_method": "worker"}},
        "own.io_method: PostgreSQL 17 does not know this setting, only 18 and later does",
    ),
    ({"own": {"io_workers": 4}, "version": 19}, "own.io_workers: PostgreSQL 19 does not know this setting, only 18"),
    (
        {"own": {"wal_keep_segments": 4}},
        "own.wal_keep_segments: PostgreSQL 17 does not know this setting, only 10 to 12",
    ),
    (
        {"own": {"max_connections": 99}, "floors": {"max_connections": 100}, "recovering": True},
        "own.max_connections must be 100 or more, not 99: this server follows or restores one that has as many",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_could_not_start_is_refused_with_its_name_and_what_is_allowed(arguments, message):
    with pytest.raises(AnsibleFilterError) as refusal:
        tuned(**arguments)
    assert str(refusal.value).startswith(message)


SIZE = re.compile(r"(\d+)(kB|MB|GB)")


def mib(printed):
    number, unit = SIZE.fullmatch(printed).groups()
    return int(number) * {"kB": 1 / 1024, "MB": 1, "GB": 1024}[unit]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.integers(128, 1024 * GIB),
    st.fixed_dictionaries(
        {
            "version": st.integers(10, 19),
            "cpus": st.integers(1, 256),
            "pools": st.none() | st.integers(0, 1000),
            "workload": st.sampled_from(["web", "oltp", "dw", "desktop", "mixed"]),
            "storage": st.sampled_from(["nvme", "ssd", "san", "hdd"]),
            "data_size": st.sampled_from(["less_ram", "mid_ram", "greater_ram"]),
            "disk_mib": st.integers(1000, 10**8),
            "huge_pages": st.booleans(),
        }
    ),
)
def test_every_host_gets_settings_that_the_server_takes(memory_mib, arguments):
    try:
        result = values(memory_mib, **arguments)
    except AnsibleFilterError:
        assume(False)
    assert 10 <= int(result["max_connections"]) <= 262143
    assert 8 < int(result["max_worker_processes"]) <= 262143
    assert int(result["max_parallel_workers"]) <= int(result["max_worker_processes"]) - 8
    assert int(result["max_parallel_workers_per_gather"]) <= int(result["max_parallel_workers"])
    assert 32 <= mib(result["min_wal_size"]) <= mib(result["max_wal_size"])
    assert mib(result["max_wal_size"]) <= max(arguments["disk_mib"] / 10, 64)
    kept = mib(result.get("max_slot_wal_keep_size", "0kB"))
    assert kept <= max(arguments["disk_mib"] / 5, 64)
    assert mib(result["work_mem"]) * 1024 >= 64
    assert mib(result["wal_buffers"]) <= 16


@pytest.fixture(scope="module")
def templar():
    filter_loader.add_directory(str(settings_file.__file__).rpartition("/")[0])
    return Templar(loader=DataLoader(), variables=DataLoader().load("part: 4096\nown: {jit: true, work_mem: 8MB}\n"))


def test_ansible_finds_the_filter_and_hands_over_values_read_from_yaml(templar):
    text = trust_as_template("{{ part | postgresql_settings(pools=40, own=own, features=['lz4']) }}")
    assert templar.template(text) == tuned(own={"jit": True, "work_mem": "8MB"}, features=["lz4"])


def test_the_documentation_is_that_of_the_signature():
    documented = yaml.safe_load(settings_file.DOCUMENTATION)
    parameters = inspect.signature(postgresql_settings).parameters
    assert list(documented["options"])[1:] == list(parameters)[1:]
    for name, parameter in list(parameters.items())[1:]:
        default = documented["options"][name].get("default")
        assert default == ({"features": [], "floors": {}, "own": {}, "others": []}.get(name, parameter.default))
