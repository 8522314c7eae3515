"""One database server is hurt while apps write to it, and is left alone: what they see, for how long, and what is lost.

Each test stands by itself. What an app sees is seen through pgbouncer, on the web host; what was acknowledged to it is
kept there, outside of the database: see shared/tests/ledger.py.
"""

import time

import pytest
from shared.tests.ledger import CLIENT, ENVIRONMENT, Ledger, podman

WEB = "10.90.57.11"
# What an app may wait in the worst case, and the time after which it works again.
FAILS_WITHIN = 5
BACK_WITHIN = 5


def on(host, *words, check=True):
    done = podman("exec", "--env", ENVIRONMENT, f"offramp-faults-{host}", *words)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip() if check else done


def shell(host, script, check=True):
    return on(host, "sh", "-c", script, check=check)


def sql(query, database="probe"):
    return on("db1", "psql", "-U", "postgres", "-XAtc", query, database)


def asks(statement="SELECT 7", check=True, **more):
    """Ask as an app does, through the pooler."""
    return on(
        "web1", "psql", "-XAtc", statement, " ".join([CLIENT, *(f"{key}={more[key]}" for key in more)]), check=check
    )


def unit():
    return shell("db1", "systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1")


def postmaster():
    return on("db1", "systemctl", "show", "--property=MainPID", "--value", unit())


def process(kind):
    listed = sql("SELECT backend_type, pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()").splitlines()
    return next(line.split("|")[1] for line in listed if line.startswith(f"{kind}|"))


@pytest.fixture(autouse=True)
def site(eventually):
    """Every test begins with a site that works, and ends with one that came back without a command."""
    eventually(lambda: asks(check=False).returncode == 0, seconds=30)
    yield
    eventually(lambda: asks(check=False).returncode == 0, seconds=30)
    assert sql("SELECT pg_is_in_recovery()") == "f"
    assert on("db1", "systemctl", "is-active", unit()) == "active"


@pytest.fixture
def ledger():
    return Ledger("faults")


def killed_under_load(ledger, find):
    """Kill a process of the server's, and say how long no write was acknowledged."""
    ledger.run(8)
    killed = time.time()
    on("db1", "kill", "-9", find())
    ledger.ended()
    gap = ledger.gap(killed)
    print(f"{len(ledger.acknowledged)} acknowledged, {len(ledger.errors)} errors, no write for {gap:.1f} s")
    assert ledger.lost("db1") == {}
    return gap


def test_d1_writes_are_back_after_the_server_was_killed(ledger):
    assert killed_under_load(ledger, postmaster) <= 10


@pytest.mark.parametrize("kind", ["client backend", pytest.param("checkpointer", marks=pytest.mark.drill)])
def test_d2_writes_are_back_after_one_process_was_killed(ledger, kind):
    assert killed_under_load(ledger, lambda: process(kind)) <= 5


def cut_off(target):
    for chain, side in (("INPUT", "s"), ("OUTPUT", "d")):
        on("db1", "iptables", "-I", chain, f"-{side}", WEB, "-p", "tcp", "-j", *target)


def heal(target):
    for chain, side in (("INPUT", "s"), ("OUTPUT", "d")):
        on("db1", "iptables", "-D", chain, f"-{side}", WEB, "-p", "tcp", "-j", *target)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(["DROP"], id="drop"),
        pytest.param(["REJECT"], id="reject", marks=pytest.mark.drill),
        pytest.param(["REJECT", "--reject-with", "tcp-reset"], id="reset", marks=pytest.mark.drill),
    ],
)
def test_d10_an_app_that_is_cut_off_gets_errors_and_is_back_by_itself(ledger, target):
    """The cut is longer than the longest wait, so that a longer one would show nothing more."""
    ledger.run(18, writers=30)
    began = time.time()
    cut_off(target)
    try:
        time.sleep(9)
    finally:
        healed = time.time()
        heal(target)
    ledger.ended()
    print(
        f"longest wait {max(ledger.waits):.1f} s, back after {ledger.back(healed):.1f} s, {len(ledger.errors)} errors"
    )
    assert not [at for at in ledger.acknowledged.values() if began + 1 < at < healed], "the cut was none"
    assert max(ledger.waits) <= FAILS_WITHIN
    assert ledger.back(healed) <= BACK_WITHIN
    # Nobody is stuck in the pool: all of them write again.
    late = {name.rpartition("-")[0] for name, at in ledger.acknowledged.items() if at > healed + BACK_WITHIN}
    assert len(late) == 30
    assert ledger.lost("db1") == {}


@pytest.mark.drill
def test_d12_an_app_does_not_wait_for_a_frozen_server(ledger):
    """The kernel of a frozen server acknowledges every packet, so that no limit of TCP ends the wait."""
    ledger.run(18)
    shell("db1", "pkill -STOP -u postgres -x postgres")
    frozen = time.time()
    try:
        time.sleep(9)
    finally:
        thawed = time.time()
        shell("db1", "pkill -CONT -u postgres -x postgres")
    ledger.ended()
    print(
        f"longest wait {max(ledger.waits):.1f} s, back after {ledger.back(thawed):.1f} s, {len(ledger.errors)} errors"
    )
    assert not [at for at in ledger.acknowledged.values() if frozen + 1 < at < thawed], "it was not frozen"
    assert max(ledger.waits) <= 10
    assert ledger.back(thawed) <= BACK_WITHIN
    assert ledger.lost("db1") == {}
