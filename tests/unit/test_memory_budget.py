"""The filter memory_budget shares a host's memory, never more than there is, and says what mends too much."""

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

from filter_plugins import memory_budget as budget_file
from filter_plugins.memory_budget import memory_budget

GIB = 1024
TIB = 1024 * GIB
DATABASE = ["postgresql", "redis"]
WEB = ["memcached", "nginx", "pgbouncer", "supervisor"]
ALL = DATABASE + WEB
SHOP = {"name": "shop", "processes": {"web": 2, "worker": 1}, "config": {}}
SMALL_SHOP = {"name": "shop", "processes": {"web": 1}}


def budget(total, services, *apps, cpus=2, **more):
    return memory_budget(total, cpus, services=services, apps=list(apps), **more)


SITES = [
    # total, services, apps, connections, expected parts
    (512, DATABASE, [], 30, {"system": 128, "postgresql": 323, "redis": 61, "free": 0}),
    (4096, DATABASE, [], 30, {"system": 240, "postgresql": 3361, "redis": 495, "free": 0}),
    (TIB, DATABASE, [], 30, {"system": 4096, "postgresql": TIB - 4096 - 6152, "redis": 6152, "free": 0}),
    (512, ["haproxy"], [], 30, {"system": 128, "haproxy": 32, "free": 352}),
    (
        512,
        WEB,
        [SHOP],
        30,
        {
            "system": 128,
            "memcached": 28,
            "nginx": 24,
            "pgbouncer": 16,
            "supervisor": 24,
            "shop web": 168,
            "shop worker": 64,
            "free": 60,
        },
    ),
    (
        512,
        ALL,
        [SMALL_SHOP],
        20,
        {
            "system": 128,
            "postgresql": 130,
            "redis": 42,
            "memcached": 29,
            "nginx": 24,
            "pgbouncer": 16,
            "supervisor": 24,
            "shop web": 84,
            "free": 35,
        },
    ),
    (
        2048,
        ALL,
        [SHOP],
        30,
        {
            "system": 176,
            "postgresql": 1141,
            "redis": 196,
            "memcached": 111,
            "nginx": 24,
            "pgbouncer": 16,
            "supervisor": 24,
            "shop web": 296,
            "shop worker": 64,
            "free": 0,
        },
    ),
]


@pytest.mark.parametrize(("total", "services", "apps", "connections", "expected"), SITES)
def test_each_service_has_its_part(total, services, apps, connections, expected):
    result = budget(total, services, *apps, connections=connections)
    assert result["mib"] == expected
    assert [part["mib"] for part in result["parts"]] == list(expected.values())
    assert sum(expected.values()) == total == result["total_mib"]


def test_the_example_in_the_documentation_is_true():
    stated = re.search(r"# (system: .*)", budget_file.EXAMPLES).group(1)
    assert budget(4096, DATABASE)["mib"] == yaml.safe_load(f"{{{stated}}}")


THRESHOLDS = [
    # what, its value with that much memory, and with a MiB more or a little more
    (lambda result: result["mib"]["system"], DATABASE, (127487, 4095), (127488, 4096)),
    (lambda result: result["mib"]["system"], DATABASE, (127488, 4096), (TIB, 4096)),
    (lambda result: result["redis_maxmemory_mib"], DATABASE, (50807, 4095), (50808, 4096)),
    (lambda result: result["redis_maxmemory_mib"], DATABASE, (50809, 4096), (TIB, 4096)),
    (lambda result: result["memcached_memory_mib"], WEB, (16853, 1023), (16854, 1024)),
    (lambda result: result["memcached_memory_mib"], WEB, (16855, 1024), (TIB, 1024)),
]


@pytest.mark.parametrize(("measure", "services", "below", "above"), THRESHOLDS)
def test_a_share_grows_up_to_its_limit(measure, services, below, above):
    for total, expected in (below, above):
        assert measure(budget(total, services)) == expected


@pytest.mark.parametrize(
    ("total", "cpus", "apps", "workers"),
    [
        (585, 2, [SHOP], {"shop": 1}),
        (586, 2, [SHOP], {"shop": 2}),
        (8192, 1, [SHOP], {"shop": 1}),
        (8192, 3, [SHOP], {"shop": 3}),
        (8192, 3, [SHOP, {"name": "blog", "processes": {"web": 1}}], {"shop": 2, "blog": 2}),
        (8192, 2, [{"name": "bot", "processes": {"worker": 1}}], {}),
        (8192, 2, [{**SHOP, "config": {"WEB_CONCURRENCY": "7"}}], {"shop": 7}),
    ],
)
def test_each_web_instance_gets_the_workers_that_cpus_and_memory_allow(total, cpus, apps, workers):
    assert budget(total, WEB, *apps, cpus=cpus)["web_concurrency"] == workers


def test_each_part_says_what_it_is_for():
    reasons = {part["name"]: part["reason"] for part in budget(2048, ALL, SHOP)["parts"]}
    assert reasons["shop web"] == "2 x 2 workers of 64 MiB"
    assert reasons["shop worker"] == "1 x 64 MiB"
    assert reasons["postgresql"] == "for 30 connections"


def test_what_you_give_stands_and_is_marked():
    result = budget(4096, ALL, SHOP, own={"postgresql": 1000, "redis": 100, "memcached": 50, "system": 300})
    assert result["postgresql_mib"] == result["mib"]["postgresql"] == 1000
    assert (result["redis_maxmemory_mib"], result["mib"]["redis"]) == (100, 158)
    assert (result["memcached_memory_mib"], result["mib"]["memcached"]) == (50, 58)
    assert result["mib"]["system"] == 300
    assert [part["name"] for part in result["parts"] if part["own"]] == ["system", "postgresql", "redis", "memcached"]


def test_a_figure_for_a_service_of_another_host_changes_nothing():
    assert budget(1024, DATABASE, own={"memcached": 900}) == budget(1024, DATABASE)


def test_a_larger_process_takes_more():
    by_site = budget(8192, WEB, SHOP, own={"process": 300})["mib"]
    by_app = budget(8192, WEB, {**SHOP, "process_mib": 300})["mib"]
    assert by_site["shop worker"] == by_app["shop worker"] == 300
    assert by_site["shop web"] == by_app["shop web"] == 2 * (20 + 2 * 300)


def test_what_the_kernel_has_set_aside_is_nobodys():
    with_pages, without = budget(4096, DATABASE, huge_pages_mib=1024), budget(4096, DATABASE)
    assert with_pages["mib"]["huge pages"] == 1024
    assert with_pages["mib"]["postgresql"] <= without["mib"]["postgresql"] - 800


def test_a_host_that_promises_too_much_is_refused_with_each_part_and_the_line_that_mends_it():
    with pytest.raises(AnsibleFilterError) as refusal:
        budget(1024, ALL, SHOP, own={"redis": 400}, host="one1")
    assert str(refusal.value).splitlines() == [
        "one1 has 1024 MiB of memory, and what is to run on it takes at least 1189 MiB:",
        "  the system: 144 MiB",
        "  PostgreSQL for 30 connections: 117 MiB",
        "  redis: 608 MiB (your own figure)",
        "  memcached: 24 MiB",
        "  nginx: 24 MiB",
        "  pgbouncer: 16 MiB",
        "  supervisor: 24 MiB",
        "  the web processes of shop: 168 MiB",
        "  the worker processes of shop: 64 MiB",
        "To mend it, write  redis: 290  in memory_parts",
    ]


CROWD = {"name": "shop", "processes": {"web": 9, "worker": 1}}
TOO_MUCH = [
    ({"own": {"postgresql": 900}}, SHOP, "write  postgresql: 528  in memory_parts"),
    ({"own": {"memcached": 900}}, SHOP, "write  memcached: 427  in memory_parts"),
    ({"own": {"system": 700}}, SHOP, "write  system: 555  in memory_parts"),
    ({}, {**SHOP, "config": {"WEB_CONCURRENCY": 9}}, 'write  WEB_CONCURRENCY: "4"  in the config of shop'),
    (
        {},
        {**SHOP, "process_mib": 70, "config": {"WEB_CONCURRENCY": 9}},
        'write  WEB_CONCURRENCY: "3"  in the config of shop',
    ),
    ({}, CROWD, "write  processes: {web: 6, worker: 1}  for the app shop, or take a larger server"),
    (
        {"connections": 300},
        {**SHOP, "process_mib": 200},
        "take a server with 1724 MiB, or have fewer services and processes on this one",
    ),
]


@pytest.mark.parametrize(("more", "app", "mend"), TOO_MUCH)
def test_the_line_that_mends_it_is_the_right_one(more, app, mend):
    with pytest.raises(AnsibleFilterError, match="To mend it, ") as refusal:
        budget(1024, ALL, app, **more)
    assert str(refusal.value).splitlines()[-1] == f"To mend it, {mend}"


def mended(line, more, app):
    """Return what a person who follows the line would write."""
    if found := re.search(r"write {2}(\w+): (\d+) {2}in memory_parts", line):
        return 1024, {**more, "own": {**more.get("own", {}), found[1]: int(found[2])}}, app
    if found := re.search(r'WEB_CONCURRENCY: "(\d+)"', line):
        return 1024, more, {**app, "config": {"WEB_CONCURRENCY": found[1]}}
    if found := re.search(r"processes: (\{.*\})", line):
        return 1024, more, {**app, "processes": yaml.safe_load(found[1])}
    return int(re.search(r"server with (\d+) MiB", line)[1]), more, app


@pytest.mark.parametrize(("more", "app"), [(more, app) for more, app, _ in TOO_MUCH])
def test_who_follows_the_line_is_not_refused_again(more, app):
    with pytest.raises(AnsibleFilterError) as refusal:
        budget(1024, ALL, app, **more)
    total, more, app = mended(str(refusal.value), more, app)
    assert budget(total, ALL, app, **more)["mib"]["free"] >= 0


NUMBERS = {
    "total_mib": "from 1 to 4294967296",
    "cpus": "from 1 to 8192",
    "connections": "from 1 to 262143",
    "huge_pages_mib": "from 0 to 4294967296",
}
NO_NUMBERS = ["512", "", True, 4096.0, float("nan"), -1, 2**33, None, [1], {}]
REFUSED = [
    *(
        (name, value, f"{name} must be a whole number {allowed}")
        for name, allowed in NUMBERS.items()
        for value in NO_NUMBERS
    ),
    *(
        ("services", value, "services must be a list of postgresql,")
        for value in ("redis", ["mysql"], ["redis", "redis"])
    ),
    ("own", [1], "own must be a mapping of service to MiB"),
    ("own", {"nginx": 9}, "own must be of postgresql, redis, memcached, system, process; 'nginx' is none of them"),
    ("own", {"redis": "64"}, "own.redis must be a whole number from 16 to 4294967296, not '64' (a string"),
    ("own", {"redis": 15}, "own.redis must be a whole number from 16 to 4294967296, not 15"),
    ("apps", [{**SHOP, "config": {"WEB_CONCURRENCY": "many"}}], "apps.shop.config.WEB_CONCURRENCY must be a whole"),
    ("apps", [{**SHOP, "config": {"WEB_CONCURRENCY": "0"}}], "apps.shop.config.WEB_CONCURRENCY must be a whole"),
    ("apps", [{**SHOP, "process_mib": "64"}], "apps.shop.process_mib must be a whole number from 1"),
    ("apps", [{**SHOP, "processes": {"web": -1}}], "apps.shop.processes.web must be a whole number from 0"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_a_bad_value_is_refused_with_its_name_and_what_is_allowed(name, value, message):
    with pytest.raises(AnsibleFilterError) as refusal:
        memory_budget(**{"total_mib": 4096, "cpus": 2, name: value})
    assert str(refusal.value).startswith(message)


@st.composite
def hosts(draw, least=512):
    services = draw(st.lists(st.sampled_from(ALL), unique=True))
    apps = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["a", "b", "c"]),
                    "processes": st.fixed_dictionaries({"web": st.integers(0, 5), "worker": st.integers(0, 3)}),
                    "config": st.just({}) | st.fixed_dictionaries({"WEB_CONCURRENCY": st.integers(1, 9).map(str)}),
                },
                optional={"process_mib": st.integers(20, 600)},
            ),
            max_size=3,
            unique_by=lambda app: app["name"],
        )
    )
    return {
        "total_mib": draw(st.integers(least, 4 * GIB) | st.integers(least, TIB)),
        "cpus": draw(st.integers(1, 8) | st.integers(1, 256)),
        "services": services,
        "apps": apps,
        "own": draw(
            st.dictionaries(st.sampled_from(["postgresql", "redis", "memcached", "system"]), st.integers(16, 2048))
        ),
        "connections": draw(st.integers(10, 400)),
    }


many = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@many
@given(hosts())
def test_no_host_promises_more_than_it_has(host):
    try:
        result = memory_budget(**host)
    except AnsibleFilterError as refusal:
        lines = str(refusal).splitlines()
        promised = int(re.search(r"takes at least (\d+) MiB", lines[0])[1])
        assert promised > host["total_mib"]
        assert sum(int(re.search(r": (\d+) MiB", line)[1]) for line in lines[1:-1]) == promised
        return
    parts = result["mib"]
    assert sum(parts.values()) == host["total_mib"]
    assert min(parts.values()) >= 0
    assert host["services"] == [name for name in host["services"] if parts[name] > 0]
    for app in host["apps"]:
        web = app["processes"]["web"]
        size = app.get("process_mib", 64)
        if web:
            assert parts[f"{app['name']} web"] == web * (20 + result["web_concurrency"][app["name"]] * size)
    if "redis" in host["services"]:
        assert result["redis_maxmemory_mib"] * 1.5 + 8 <= parts["redis"] + 1


@many
@given(hosts(), st.integers(1, 200) | st.integers(1, TIB))
def test_more_memory_never_gives_a_service_less(host, more):
    try:
        before = memory_budget(**host)["mib"]
    except AnsibleFilterError:
        assume(False)
    after = memory_budget(**{**host, "total_mib": host["total_mib"] + more})["mib"]
    for name in before.keys() - {"free"}:
        assert after[name] >= before[name]


@pytest.fixture(scope="module")
def templar():
    filter_loader.add_directory(str(budget_file.__file__).rpartition("/")[0])
    return Templar(loader=DataLoader(), variables=DataLoader().load("total: 4096\nparts: {redis: 64}\nquoted: '2'\n"))


def test_ansible_finds_the_filter_and_hands_over_values_read_from_yaml(templar):
    text = trust_as_template("{{ total | memory_budget(2, services=['postgresql', 'redis'], own=parts) }}")
    assert templar.template(text) == budget(4096, DATABASE, own={"redis": 64})


def test_ansible_shows_the_refusal(templar):
    with pytest.raises(Exception, match=r"cpus must be a whole number .*, not '2'"):
        templar.template(trust_as_template("{{ total | memory_budget(quoted) }}"))


def test_the_documentation_is_that_of_the_signature():
    documented = yaml.safe_load(budget_file.DOCUMENTATION)
    parameters = inspect.signature(memory_budget).parameters
    assert list(documented["options"])[1:] == list(parameters)[1:]
    for name, parameter in list(parameters.items())[2:]:
        default = documented["options"][name].get("default")
        assert default == ({"services": [], "apps": [], "own": {}}.get(name, parameter.default))
