"""Who is primary follows from what the servers say, and is refused where it does not."""

import pytest
from ansible.errors import AnsibleFilterError

from filter_plugins.postgresql_servers import postgresql_servers

NOTHING = {
    "initialised": False,
    "has_databases": False,
    "standby": False,
    "running": False,
    "recovering": False,
    "system_identifier": "",
    "timeline": 0,
}
NEW = NOTHING | {"initialised": True, "running": True, "system_identifier": "5", "timeline": 1}
PRIMARY = NEW | {"has_databases": True, "system_identifier": "7"}
STANDBY = PRIMARY | {"standby": True, "recovering": True}
STOPPED = {"running": False}
SILENT: dict = {}


def asked(first, second):
    return postgresql_servers([{"item": "db1", "state": first}, {"item": "db2", "state": second}])


@pytest.mark.parametrize(
    ("first", "second", "primary", "standby"),
    [
        pytest.param(NOTHING, NOTHING, "db1", "", id="two bare hosts"),
        pytest.param(NEW, NEW | {"system_identifier": "6"}, "db1", "", id="two new clusters"),
        pytest.param(NEW, NEW, "db1", "", id="two new clusters of one image"),
        pytest.param(PRIMARY, NOTHING, "db1", "", id="a bare host is added"),
        pytest.param(NOTHING, PRIMARY, "db2", "", id="a bare host takes the place of the first"),
        pytest.param(PRIMARY, STANDBY, "db1", "db2", id="as the inventory has it"),
        pytest.param(STANDBY, PRIMARY, "db2", "db1", id="after a failover"),
        pytest.param(STANDBY, NEW | {"system_identifier": "7"}, "db2", "db1", id="a site without a database"),
        pytest.param(PRIMARY | STOPPED, STANDBY, "db1", "db2", id="a primary that is stopped"),
        pytest.param(SILENT, PRIMARY, "db2", "", id="the standby does not answer"),
    ],
)
def test_there_is_one_primary(first, second, primary, standby):
    found = asked(first, second)
    assert (found["problem"], found["primary"], found["standby"]) == ("", primary, standby)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        pytest.param(PRIMARY, PRIMARY | {"timeline": 2}, ["two primaries", "db2 has the newer", "rejoin"], id="two"),
        pytest.param(PRIMARY, PRIMARY | {"system_identifier": "9"}, ["different sites"], id="a foreign primary"),
        pytest.param(PRIMARY, STANDBY | {"system_identifier": "9"}, ["different sites"], id="a foreign standby"),
        pytest.param(STANDBY, STANDBY, ["no primary", "failover.yml -e promote=db1"], id="two standbys"),
        pytest.param(STANDBY | STOPPED, STANDBY, ["no primary", "promote=db2"], id="a switchover was broken off"),
        pytest.param(SILENT, STANDBY, ["no primary", "promote=db2", "db1: does not answer"], id="the primary is lost"),
        pytest.param(SILENT, NOTHING, ["not all", "db1: does not answer"], id="nobody knows"),
        pytest.param(SILENT, SILENT, ["not all"], id="nobody answers"),
        pytest.param(PRIMARY | STOPPED, SILENT, ["not all"], id="a stopped one, and the other may be primary"),
        pytest.param(PRIMARY | STOPPED, PRIMARY | STOPPED, ["neither runs"], id="both stopped"),
        pytest.param(PRIMARY | STOPPED, STANDBY | {"timeline": 2}, ["db2 was primary after db1"], id="a newer standby"),
    ],
)
def test_a_run_is_stopped_and_told_what_each_server_says(first, second, words):
    found = asked(first, second)
    assert not found["primary"]
    for word in [*words, "db1: ", "db2: "]:
        assert word in found["problem"]


@pytest.mark.parametrize(
    ("first", "second", "primary"),
    [
        pytest.param(PRIMARY | {"version": 17}, STANDBY | {"version": 15}, "db1", id="an upgrade that was broken off"),
        pytest.param(
            STANDBY | {"version": 15}, PRIMARY | STOPPED | {"version": 17}, "db2", id="and its server stopped"
        ),
        pytest.param(NEW | {"version": 17}, PRIMARY | {"version": 15}, "db2", id="a new host of a newer Debian"),
    ],
)
def test_two_versions_stop_a_run_and_the_upgrade_is_told_the_primary(first, second, primary):
    found = asked(first, second)
    assert found["primary"] == primary
    for word in ("different versions", "17", "15", "postgres_upgrade.yml"):
        assert word in found["problem"]


@pytest.mark.parametrize("before", [PRIMARY | STOPPED, STANDBY | STOPPED], ids=["lost", "stopped by the failover"])
def test_a_server_that_was_primary_before_is_named(before):
    found = asked(before, PRIMARY | {"timeline": 2})
    assert (found["primary"], found["superseded"], found["problem"]) == ("db2", "db1", "")


@pytest.mark.parametrize("results", [[], "db1", None])
def test_no_answers_are_refused(results):
    with pytest.raises(AnsibleFilterError, match="one for each server"):
        postgresql_servers(results)
