"""The filters pgtune and pgtune_warnings agree with the calculator, and refuse what its form would not take."""

import csv
import inspect
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_plugins import pgtune as pgtune_file
from filter_plugins import pgtune_warnings as warnings_file
from filter_plugins.pgtune import pgtune
from filter_plugins.pgtune_warnings import pgtune_warnings

HERE = Path(__file__).parent
PARAMETERS = ("memory_mib", "version", "os_type", "workload", "cpus", "connections", "storage", "data_size")
NUMBERS = ("memory_mib", "version", "cpus", "connections")
GIB = 1024
TIB = 1024 * GIB
LARGEST = 999999 * TIB
LZ4 = ["wal_compression = lz4 requires PostgreSQL", "to be compiled with --with-lz4"]
URING = ["io_method = io_uring requires PostgreSQL", "to be compiled with --with-liburing"]


def read_cases():
    with (HERE / "data/pgtune_cases.csv").open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            aim = row.pop("aim")
            warnings = row.pop("warnings")
            given_input = {name: row.pop(name) for name in PARAMETERS}
            arguments = {
                name: (int(text) if text else None) if name in NUMBERS else text for name, text in given_input.items()
            }
            expected = [(name, text) for name, text in row.items() if text]
            yield pytest.param(arguments, expected, warnings.split("|") if warnings else [], id=f"line {number}: {aim}")


CASES = list(read_cases())


def test_the_table_has_every_case():
    assert len(CASES) == 260


@pytest.mark.parametrize(("arguments", "expected", "warnings"), CASES)
def test_settings_and_warnings_are_the_calculators(arguments, expected, warnings):
    assert list(pgtune(**arguments).items()) == expected
    assert pgtune_warnings(**arguments) == warnings


def test_the_example_in_the_documentation_is_true():
    assert pgtune(4096) == yaml.safe_load(pgtune_file.RETURN)["_value"]["sample"]
    assert pgtune_warnings(4096) == yaml.safe_load(warnings_file.RETURN)["_value"]["sample"]


WINDOWS = {"os_type": "windows"}
DESKTOP = {"workload": "desktop"}
WAREHOUSE = {"workload": "dw"}

THRESHOLDS = [
    # setting, input below, its value, input above, its value
    ("wal_buffers", {"memory_mib": 1, **DESKTOP}, "32kB", {"memory_mib": 17, **DESKTOP}, "32kB"),
    ("wal_buffers", {"memory_mib": 17, **DESKTOP}, "32kB", {"memory_mib": 18, **DESKTOP}, "34kB"),
    ("wal_buffers", {"memory_mib": 1866}, "14330kB", {"memory_mib": 1867}, "16MB"),
    ("wal_buffers", {"memory_mib": 7467, **DESKTOP}, "14MB", {"memory_mib": 7468, **DESKTOP}, "16MB"),
    ("huge_pages", {"memory_mib": 8191}, "off", {"memory_mib": 8192}, "try"),
    ("huge_pages", {"memory_mib": 32767, **DESKTOP}, "off", {"memory_mib": 32768, **DESKTOP}, "try"),
    ("huge_pages", {"memory_mib": 8192, "os_type": "mac"}, "off", {"memory_mib": 8192, **WINDOWS}, "try"),
    ("maintenance_work_mem", {"memory_mib": 128 * GIB - 1}, "8388544kB", {"memory_mib": 128 * GIB}, "8GB"),
    ("maintenance_work_mem", {"memory_mib": 128 * GIB}, "8GB", {"memory_mib": 128 * GIB + 16}, "8GB"),
    (
        "maintenance_work_mem",
        {"memory_mib": 64 * GIB - 1, **WAREHOUSE},
        "8388480kB",
        {"memory_mib": 64 * GIB, **WAREHOUSE},
        "8GB",
    ),
    (
        "maintenance_work_mem",
        {"memory_mib": 32 * GIB - 1, **WINDOWS},
        "2097088kB",
        {"memory_mib": 32 * GIB, **WINDOWS},
        "2047MB",
    ),
    (
        "maintenance_work_mem",
        {"memory_mib": 32 * GIB, "version": 17, **WINDOWS},
        "2047MB",
        {"memory_mib": 32 * GIB, "version": 18, **WINDOWS},
        "2GB",
    ),
    ("autovacuum_work_mem", {"memory_mib": 32 * GIB - 1}, None, {"memory_mib": 32 * GIB}, "2GB"),
    (
        "autovacuum_work_mem",
        {"memory_mib": 16 * GIB - 1, **WAREHOUSE},
        None,
        {"memory_mib": 16 * GIB, **WAREHOUSE},
        "2GB",
    ),
    (
        "autovacuum_work_mem",
        {"memory_mib": TIB, "version": 17, **WINDOWS},
        None,
        {"memory_mib": TIB, "version": 18, **WINDOWS},
        "2GB",
    ),
    # 4096 kB is the share of 200 connections and 8 workers at 3328 MiB exactly.
    ("work_mem", {"memory_mib": 3328}, "4MB", {"memory_mib": 3329}, "4097kB"),
    ("work_mem", {"memory_mib": 3328, "data_size": "greater_ram"}, "4MB", {"memory_mib": 3700}, "4553kB"),
    (
        "work_mem",
        {"memory_mib": 3700, "data_size": "greater_ram"},
        "4097kB",
        {"memory_mib": 3700, "data_size": "less_ram"},
        "5918kB",
    ),
    # 28 x 3 x 2047 MiB is what is left of 229264 MiB after shared_buffers.
    (
        "work_mem",
        {"memory_mib": 229263, "connections": 20, **WINDOWS},
        "2096118kB",
        {"memory_mib": 229264, "connections": 20, **WINDOWS},
        "2047MB",
    ),
    (
        "work_mem",
        {"memory_mib": 229265, "connections": 20, **WINDOWS},
        "2047MB",
        {"memory_mib": 229265, "connections": 20, "version": 18, **WINDOWS},
        "2096137kB",
    ),
    ("work_mem", {"memory_mib": 8192, "cpus": 3}, "10082kB", {"memory_mib": 8192, "cpus": 4}, "10280kB"),
    ("work_mem", {"memory_mib": 8192, "cpus": 8}, "10082kB", {"memory_mib": 8192, "cpus": 9}, "10034kB"),
    ("jit", {"version": 11}, None, {"version": 12}, "off"),
    ("jit", {"version": 12, **WAREHOUSE}, None, {"version": 12, "workload": "mixed"}, "off"),
    ("wal_compression", {"version": 14}, "on", {"version": 15}, "lz4"),
    ("io_method", {"version": 17}, None, {"version": 18}, "io_uring"),
    ("io_method", {"version": 17, **WINDOWS}, None, {"version": 18, **WINDOWS}, "worker"),
    ("io_workers", {"version": 17, "cpus": 16, **WINDOWS}, None, {"version": 18, "cpus": 16, **WINDOWS}, "4"),
    ("io_workers", {"version": 18, "cpus": 15, **WINDOWS}, None, {"version": 18, "cpus": 16, **WINDOWS}, "4"),
    ("io_workers", {"version": 18, "cpus": 127, **WINDOWS}, "31", {"version": 18, "cpus": 128, **WINDOWS}, "32"),
    ("io_workers", {"version": 18, "cpus": 132, **WINDOWS}, "32", {"version": 18, "cpus": 16, "os_type": "mac"}, "4"),
    ("io_workers", {"version": 18, "cpus": 132}, None, {"version": 18, **WINDOWS}, None),
    ("autovacuum_max_workers", {"cpus": 15}, None, {"cpus": 16}, "4"),
    ("autovacuum_max_workers", {"cpus": 31}, "4", {"cpus": 32}, "5"),
    ("max_worker_processes", {"cpus": 3}, None, {"cpus": 4}, "4"),
    ("max_parallel_workers", {"cpus": 3}, None, {"cpus": 4}, "4"),
    ("max_parallel_workers_per_gather", {"cpus": 3}, None, {"cpus": 4}, "2"),
    ("max_parallel_workers_per_gather", {"cpus": 6}, "3", {"cpus": 7}, "4"),
    ("max_parallel_workers_per_gather", {"cpus": 9}, "4", {"cpus": 9, **WAREHOUSE}, "5"),
    ("max_parallel_maintenance_workers", {"cpus": 3}, None, {"cpus": 4}, "2"),
    ("max_parallel_maintenance_workers", {"cpus": 6}, "3", {"cpus": 9}, "4"),
    ("max_parallel_maintenance_workers", {"cpus": 4, "version": 10}, None, {"cpus": 4, "version": 11}, "2"),
    ("random_page_cost", {"storage": "san"}, "1.1", {"storage": "hdd"}, "4"),
    ("random_page_cost", {**WAREHOUSE}, "4", {"data_size": "less_ram", **WAREHOUSE}, "1.1"),
    ("random_page_cost", {"storage": "hdd", "data_size": "less_ram"}, "1.1", {"storage": "hdd", **WAREHOUSE}, "4"),
    ("effective_io_concurrency", {"os_type": "mac"}, None, {"storage": "nvme"}, "1000"),
    ("wal_level", {}, None, DESKTOP, "minimal"),
    ("max_wal_senders", {}, None, DESKTOP, "0"),
    ("max_connections", {}, "200", {"connections": 20}, "20"),
]


@pytest.mark.parametrize(("setting", "below", "value_below", "above", "value_above"), THRESHOLDS)
def test_a_threshold_holds_on_both_sides(setting, below, value_below, above, value_above):
    assert pgtune(**{"memory_mib": 4096, **below}).get(setting) == value_below
    assert pgtune(**{"memory_mib": 4096, **above}).get(setting) == value_above


@pytest.mark.parametrize(
    ("memory_mib", "printed"),
    [(1, "256kB"), (3, "768kB"), (4, "1MB"), (4095, "1048320kB"), (4096, "1GB"), (4100, "1025MB"), (8192, "2GB")],
)
def test_a_size_is_printed_in_its_largest_whole_unit(memory_mib, printed):
    assert pgtune(memory_mib)["shared_buffers"] == printed


def test_a_size_is_never_printed_in_tb_and_stays_exact():
    assert pgtune(LARGEST)["effective_cache_size"] == f"{999999 * 768}GB"


@pytest.mark.parametrize(
    ("arguments", "warnings"),
    [
        ({"memory_mib": 255, "version": 14}, ["WARNING", "this tool not being optimal", "for low memory systems"]),
        ({"memory_mib": 256, "version": 14}, []),
        ({"memory_mib": 102400, "version": 14}, []),
        (
            {"memory_mib": 102401, "version": 14},
            ["WARNING", "this tool not being optimal", "for very high memory systems"],
        ),
        ({"version": 15}, ["WARNING", *LZ4]),
        ({"version": 18}, ["WARNING", *LZ4, "", *URING]),
        ({"version": 18, "os_type": "mac"}, ["WARNING", *LZ4]),
        ({"version": 14, "storage": "hdd", **WAREHOUSE}, []),
        ({"version": 14, "data_size": "less_ram", **WAREHOUSE}, []),
    ],
)
def test_a_warning_appears_where_it_applies_and_only_there(arguments, warnings):
    assert pgtune_warnings(**{"memory_mib": 4096, **arguments}) == warnings


NUMBER_LIMITS = {"memory_mib": (1, LARGEST), "version": (10, 18), "cpus": (1, 999999), "connections": (20, 999999)}
NO_NUMBERS = ["17", "", True, False, 4096.0, float("nan"), float("inf"), [17], {}, b"17"]
NO_CHOICES = ["", "Linux", " web", "toaster", None, True, 1, ["web"], {}, b"web"]
CHOICES = {
    "os_type": "linux, windows, mac",
    "workload": "web, oltp, dw, desktop, mixed",
    "storage": "nvme, ssd, san, hdd",
    "data_size": "less_ram, mid_ram, greater_ram",
}
REFUSED = [
    *((name, value, f"from {low} to {high}") for name, (low, high) in NUMBER_LIMITS.items() for value in NO_NUMBERS),
    *((name, low - 1, f"from {low} to") for name, (low, high) in NUMBER_LIMITS.items()),
    *((name, high + 1, f"to {high}") for name, (low, high) in NUMBER_LIMITS.items()),
    *((name, value, "a whole number") for name in NUMBER_LIMITS for value in (0, -1, -4096)),
    *((name, None, "a whole number") for name in ("memory_mib", "version")),
    *((name, value, allowed) for name, allowed in CHOICES.items() for value in NO_CHOICES),
]


@pytest.mark.parametrize("filter_function", [pgtune, pgtune_warnings])
@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED)
def test_a_bad_value_is_refused_with_its_name_and_what_is_allowed(filter_function, name, value, allowed):
    with pytest.raises(AnsibleFilterError) as refusal:
        filter_function(**{"memory_mib": 4096, name: value})
    message = str(refusal.value)
    assert message.startswith(f"{name} must be ")
    assert repr(value) in message
    assert allowed in message


def test_a_number_in_quotes_is_refused_with_the_cure():
    with pytest.raises(AnsibleFilterError, match=r"not '17' \(a string: convert it with '\| int'\)$"):
        pgtune(4096, version="17")


@pytest.mark.parametrize(("name", "limits"), NUMBER_LIMITS.items())
def test_a_number_at_either_limit_is_taken(name, limits):
    for value in limits:
        assert pgtune(**{"memory_mib": 4096, name: value})


@st.composite
def inputs(draw):
    return {
        "memory_mib": draw(st.one_of(st.integers(1, 4 * TIB), st.integers(1, LARGEST))),
        "version": draw(st.integers(10, 18)),
        "os_type": draw(st.sampled_from(["linux", "windows", "mac"])),
        "workload": draw(st.sampled_from(["web", "oltp", "dw", "desktop", "mixed"])),
        "cpus": draw(st.none() | st.integers(1, 256) | st.integers(1, 999999)),
        "connections": draw(st.none() | st.integers(20, 5000) | st.integers(20, 999999)),
        "storage": draw(st.sampled_from(["nvme", "ssd", "san", "hdd"])),
        "data_size": draw(st.sampled_from(["less_ram", "mid_ram", "greater_ram"])),
    }


def kib(printed):
    unit = printed.lstrip("0123456789")
    return int(printed.removesuffix(unit)) * {"kB": 1, "MB": 1024, "GB": 1024**2}[unit]


SIZES = {
    "shared_buffers",
    "effective_cache_size",
    "maintenance_work_mem",
    "wal_buffers",
    "work_mem",
    "autovacuum_work_mem",
    "min_wal_size",
    "max_wal_size",
}
PRINT_ORDER = list(csv.DictReader((HERE / "data/pgtune_cases.csv").read_text().splitlines()).fieldnames)[9:-1]
fast = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@fast
@given(inputs())
def test_every_input_gives_strings_in_the_calculators_order(arguments):
    result = pgtune(**arguments)
    assert {type(value) for value in result.values()} == {str}
    assert list(result) == [name for name in PRINT_ORDER if name in result]


@fast
@given(inputs())
def test_every_size_is_in_its_largest_whole_unit(arguments):
    for name, value in pgtune(**arguments).items():
        if name in SIZES and not value.endswith("GB"):
            assert kib(value) % (1024 if value.endswith("kB") else 1024**2) != 0


@fast
@given(inputs())
def test_shared_buffers_and_work_mem_stay_within_their_shares(arguments):
    result = pgtune(**arguments)
    ram = arguments["memory_mib"] * 1024
    assert kib(result["shared_buffers"]) * 4 <= ram
    work = kib(result["work_mem"])
    assert work >= 4096
    if work > 4096:
        assert work * int(result["max_connections"]) * 3 <= 1.3 * ram


@fast
@given(inputs())
def test_windows_before_18_never_gets_2_gb(arguments):
    result = pgtune(**{**arguments, "os_type": "windows", "version": min(arguments["version"], 17)})
    assert max(kib(result["work_mem"]), kib(result["maintenance_work_mem"])) < 2 * 1024**2
    assert "autovacuum_work_mem" not in result


@fast
@given(inputs(), st.integers(0, 64 * GIB))
def test_more_memory_never_gives_less(arguments, more):
    arguments["os_type"] = "linux"
    less = pgtune(**arguments)
    arguments["memory_mib"] = min(arguments["memory_mib"] + more, LARGEST)
    result = pgtune(**arguments)
    for name in SIZES & less.keys():
        assert kib(result[name]) >= kib(less[name])


@fast
@given(inputs())
def test_warnings_are_blocks_between_single_empty_lines(arguments):
    lines = pgtune_warnings(**arguments)
    assert lines[:1] in ([], ["WARNING"])
    assert all(len(block) > 1 for block in "\n".join(lines[1:]).split("\n\n") if lines)
    assert not lines or lines[-1]


@fast
@given(
    inputs(),
    st.sampled_from(PARAMETERS),
    st.one_of(st.floats(), st.text(max_size=8), st.booleans(), st.binary(max_size=8), st.integers(max_value=0)),
)
def test_nothing_but_a_refusal_comes_of_a_wrong_type(arguments, name, value):
    if value in CHOICES.get(name, "").split(", "):
        return
    with pytest.raises(AnsibleFilterError, match=f"^{name} must be "):
        pgtune(**{**arguments, name: value})


@pytest.fixture(scope="module")
def templar():
    filter_loader.add_directory(str(HERE.parents[1] / "filter_plugins"))
    variables = DataLoader().load("memory: 4096\nmajor: 17\nwork: dw\nquoted: '17'\nunknown: toaster\n")
    return Templar(loader=DataLoader(), variables=variables)


def test_ansible_finds_both_filters_and_hands_over_values_read_from_yaml(templar):
    arguments = "version=major, workload=work, cpus=none, connections=none"
    settings_expression = trust_as_template(f"{{{{ memory | pgtune({arguments}) }}}}")
    warnings_expression = trust_as_template(f"{{{{ memory | pgtune_warnings({arguments}) }}}}")
    assert list(templar.template(settings_expression).items()) == list(pgtune(4096, workload="dw").items())
    assert templar.template(warnings_expression) == pgtune_warnings(4096, workload="dw")


@pytest.mark.parametrize("call", ["pgtune(version=quoted)", "pgtune(workload=unknown)", "pgtune_warnings(quoted)"])
def test_ansible_shows_the_refusal(templar, call):
    with pytest.raises(Exception, match=r"(version|workload) must be .*, not '(17|toaster)'"):
        templar.template(trust_as_template(f"{{{{ memory | {call} }}}}"))


@pytest.mark.parametrize("file", [pgtune_file, warnings_file], ids=["pgtune", "pgtune_warnings"])
def test_the_documentation_is_that_of_the_signature(file):
    name = file.__name__.rpartition(".")[2]
    documented = yaml.safe_load(file.DOCUMENTATION)
    parameters = inspect.signature(getattr(file, name)).parameters
    options = dict(documented["options"])
    assert documented["name"] == name
    assert options.pop("_input") == {**documented["options"]["_input"], "type": "int", "required": True}
    assert list(options) == list(parameters)[1:]
    for option, entry in options.items():
        default = parameters[option].default
        assert entry.get("default") == default
        assert entry["type"] == ("int" if option in NUMBERS else "str")
        assert ", ".join(entry.get("choices", [])) == CHOICES.get(option, "")
