"""One database server is hurt while apps write to it, and is left alone: what they see, for how long, and what is lost.

Each test stands by itself. What an app sees is seen through pgbouncer, on the web host; what was acknowledged to it is
kept there, outside of the database: see shared/tests/ledger.py. docs/faults.md lists the faults and their bounds.
"""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from shared.tests.ledger import CLIENT, ENVIRONMENT, Ledger, environment, podman

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


def asks(statement="SELECT 7", check=True):
    """Ask as an app does, through the pooler."""
    return on("web1", "psql", "-XAtc", statement, CLIENT, check=check)


def write(check=True):
    return asks("INSERT INTO ledger VALUES (gen_random_uuid())", check=check)


def unit():
    return f"postgresql@{shell('db1', 'ls /etc/postgresql')}-main.service"


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
    made = Ledger("faults")
    yield made
    made.stop()


def killed_under_load(ledger, find, eventually):
    """Kill a process of the server's, and say how long no write was acknowledged."""
    ledger.run()
    killed = time.time()
    on("db1", "kill", "-9", find())
    time.sleep(3)
    eventually(lambda: write(check=False).returncode == 0)
    time.sleep(1)
    ledger.enough()
    gap = ledger.gap(killed)
    print(f"{len(ledger.acknowledged)} acknowledged, {len(ledger.errors)} errors, no write for {gap:.1f} s")
    assert ledger.lost("db1") == {}
    return gap


def test_d1_writes_are_back_after_the_server_was_killed(ledger, eventually):
    assert killed_under_load(ledger, postmaster, eventually) <= 10


@pytest.mark.parametrize("kind", ["client backend", "checkpointer"])
def test_d2_writes_are_back_after_one_process_was_killed(ledger, kind, eventually):
    assert killed_under_load(ledger, lambda: process(kind), eventually) <= 5


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
        pytest.param(["REJECT"], id="reject"),
        pytest.param(["REJECT", "--reject-with", "tcp-reset"], id="reset"),
    ],
)
def test_d10_an_app_that_is_cut_off_gets_errors_and_is_back_by_itself(ledger, target):
    """The cut is longer than the longest wait, so that a longer one would show nothing more."""
    ledger.run(writers=24)
    began = time.time()
    cut_off(target)
    try:
        time.sleep(9)
    finally:
        healed = time.time()
        heal(target)
    time.sleep(BACK_WITHIN + 2)
    ledger.enough()
    print(
        f"longest wait {max(ledger.waits):.1f} s, back after {ledger.back(healed):.1f} s, {len(ledger.errors)} errors"
    )
    assert not [at for at in ledger.acknowledged.values() if began + 1 < at < healed], "the cut was none"
    assert max(ledger.refusals) <= FAILS_WITHIN
    assert max(ledger.waits) <= 10
    assert ledger.back(healed) <= BACK_WITHIN
    # Nobody is stuck in the pool: all of them write again.
    late = {name.rpartition("-")[0] for name, at in ledger.acknowledged.items() if at > healed + BACK_WITHIN}
    assert len(late) == 24
    assert ledger.lost("db1") == {}


def test_d12_an_app_does_not_wait_for_a_frozen_server(ledger):
    """The kernel of a frozen server acknowledges every packet, so that no limit of TCP ends the wait."""
    ledger.run()
    shell("db1", "pkill -STOP -u postgres -x postgres")
    frozen = time.time()
    try:
        time.sleep(9)
    finally:
        thawed = time.time()
        shell("db1", "pkill -CONT -u postgres -x postgres")
    time.sleep(BACK_WITHIN)
    ledger.enough()
    print(
        f"longest wait {max(ledger.waits):.1f} s, back after {ledger.back(thawed):.1f} s, {len(ledger.errors)} errors"
    )
    assert not [at for at in ledger.acknowledged.values() if frozen + 1 < at < thawed], "it was not frozen"
    assert max(ledger.waits) <= 10
    assert ledger.back(thawed) <= BACK_WITHIN
    assert ledger.lost("db1") == {}


def console(command, check=True):
    """Say something in pgbouncer's own console, as its administrator."""
    words = ["psql", "-XAtc", command, "-h", "/run/postgresql", "-p", "6432", "-U", "pgbouncer", "pgbouncer"]
    return on("web1", "timeout", "5", "runuser", "-u", "postgres", "--", *words, check=check)


@contextmanager
def settings(**wanted):
    """Settings of the server for the time of a test."""
    for name, value in wanted.items():
        sql(f"ALTER SYSTEM SET {name} = '{value}'")
    sql("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        for name in wanted:
            sql(f"ALTER SYSTEM RESET {name}")
        sql("SELECT pg_reload_conf()")


def programs():
    return shell("db1", "ls -d /usr/lib/postgresql/*/bin")


@contextmanager
def on_a_small_volume(part):
    """Have the data directory, or its WAL, on a volume that a test may fill: a tmpfs, and nothing else."""
    assert shell("db1", "stat --file-system --format=%T /small") == "tmpfs"
    assert int(shell("db1", "df --output=size --block-size=1M /small | tail -n 1")) <= 512
    place = f"{sql('SHOW data_directory')}{part}"
    with settings(max_wal_size="64MB", min_wal_size="32MB"):
        for query in ("CHECKPOINT", "SELECT pg_switch_wal()", "CHECKPOINT"):
            sql(query)
        move = f"cp -a {place} /small/moved && mv {place} {place}.kept && ln -s /small/moved {place}"
        shell("db1", f"systemctl stop {unit()}; {move}; systemctl start {unit()}")
        try:
            yield
        finally:
            shell("db1", f"rm -f /small/full; systemctl stop {unit()}")
            found = shell("db1", f"{programs()}/pg_checksums --check {place.removesuffix('/pg_wal')}", check=False)
            shell(
                "db1",
                f"rm {place}; cp -a /small/moved {place}; rm -r /small/moved {place}.kept; systemctl start {unit()}",
            )
    assert found.returncode == 0, found.stdout + found.stderr


def fill():
    shell("db1", "cat /dev/zero >/small/full 2>/dev/null || true")
    assert shell("db1", "df --output=avail /small | tail -n 1") == "0"


def assert_sound():
    """Every page and every index is read and compared."""
    words = f"{programs()}/pg_amcheck --install-missing --heapallindexed probe"
    on("db1", "runuser", "-u", "postgres", "--", *words.split())


@pytest.mark.parametrize("part", ["", "/pg_wal"], ids=["data", "wal"])
def test_d9_a_full_disk_is_read_from_and_takes_writes_again_when_there_is_room(ledger, part, eventually):
    with on_a_small_volume(part):
        before = postmaster()
        ledger.run()
        fill()
        eventually(lambda: "read-only transaction" in write(check=False).stderr)
        read = [asks("SELECT count(*) FROM ledger", check=False).returncode for _ in range(20)]
        assert set(read) == {0}
        freed = time.time()
        shell("db1", "rm /small/full")
        eventually(lambda: write(check=False).returncode == 0, seconds=30)
        time.sleep(1)
        ledger.enough()
        print(f"back after {ledger.back(freed):.1f} s, {len(ledger.errors)} errors")
        assert ledger.back(freed) <= 30
        assert postmaster() == before
        assert ledger.lost("db1") == {}
        assert_sound()


def test_d9_a_server_that_ended_on_a_full_disk_comes_back_with_all_that_it_acknowledged(ledger, eventually):
    """Were the disk filled faster than its watch looks: PostgreSQL ends when it has no room for its WAL."""
    with on_a_small_volume("/pg_wal"):
        on("db1", "systemctl", "stop", "offramp-postgresql-room")
        try:
            ledger.run()
            fill()
            emit = "SELECT count(pg_logical_emit_message(false, '', repeat('x', 1000000))) FROM generate_series(1, 100)"
            assert asks(emit, check=False).returncode != 0
            log = "tail -n 50 /var/log/postgresql/postgresql-*-main.log"
            eventually(lambda: "No space left on device" in shell("db1", log))
            time.sleep(5)
            freed = time.time()
            shell("db1", "rm /small/full")
            eventually(lambda: write(check=False).returncode == 0, seconds=30)
            time.sleep(1)
            ledger.enough()
        finally:
            on("db1", "systemctl", "start", "offramp-postgresql-room")
        print(f"back after {ledger.back(freed):.1f} s, {len(ledger.errors)} errors")
        assert ledger.back(freed) <= 30
        assert ledger.lost("db1") == {}
        assert_sound()


def test_d13_the_pool_is_back_after_it_was_killed(eventually):
    on("web1", "sh", "-c", "kill -9 $(systemctl show --property=MainPID --value pgbouncer)")
    eventually(lambda: asks(check=False).returncode == 0, seconds=3)


def test_d13_a_broken_file_is_not_taken_up():
    shell(
        "web1", "cp -a /etc/pgbouncer/pgbouncer.ini /root/ && echo 'max_client_conn 1' >>/etc/pgbouncer/pgbouncer.ini"
    )
    try:
        on("web1", "systemctl", "reload", "pgbouncer", check=False)
        time.sleep(1)
        assert asks() == "7"
        assert "max_client_conn|1000|" in console("SHOW CONFIG")
    finally:
        shell("web1", "mv /root/pgbouncer.ini /etc/pgbouncer/ && systemctl reload pgbouncer")


def test_d14_a_flipped_byte_is_an_error_that_names_the_file_and_no_wrong_row(eventually):
    asks("DROP TABLE IF EXISTS damaged; CREATE TABLE damaged AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g")
    sql("CHECKPOINT")
    data, file = sql("SHOW data_directory"), sql("SELECT pg_relation_filepath('damaged')")
    at = 3 * 8192 + 5000
    flip = f"f = open('{data}/{file}', 'r+b'); f.seek({at}); b = f.read(1)[0]; f.seek({at}); f.write(bytes([b ^ 4]))"
    shell("db1", f'systemctl stop {unit()} && python3 -c "{flip}"')
    found = shell("db1", f"{programs()}/pg_checksums --check {data}", check=False)
    on("db1", "systemctl", "start", unit())
    eventually(lambda: asks(check=False).returncode == 0)
    try:
        assert found.returncode != 0
        assert f'checksum verification failed in file "{data}/{file}", block 3' in found.stderr
        refused = asks("SELECT g, md5 FROM damaged", check=False)
        assert refused.returncode != 0
        assert refused.stdout == ""
        assert f"invalid page in block 3 of relation {file}" in refused.stderr
    finally:
        asks("DROP TABLE damaged")


HOG = "SELECT array_length(array_agg(repeat(md5(g::text), 1000)), 1) FROM generate_series(1, 200000) g"


def test_d15_a_query_that_takes_too_much_memory_gets_an_error_and_nobody_else_notices(ledger):
    """The host has 1 GiB, and the query would take six."""
    before = postmaster()
    ledger.run()
    began = time.time()
    refused = asks(HOG, check=False)
    ended = time.time()
    ledger.enough()
    print(f"ended after {ended - began:.1f} s, no write for {ledger.gap(began):.1f} s")
    assert "out of memory" in refused.stderr
    assert ledger.errors == []
    assert ledger.lost("db1") == {}
    assert postmaster() == before


def test_d15_queries_that_together_take_all_memory_end_and_the_server_does_not(ledger, eventually):
    """The kernel kills the largest; or, on a slow disk, they end once the pool has given up a server without an answer.

    In a container the kernel refuses the server its lower score, so that nothing but its size protects it.
    """
    assert on("db1", "systemctl", "show", "--property=OOMScoreAdjust", "--value", unit()) == "-900"
    before = postmaster()
    ledger.run()
    began = time.time()
    with ThreadPoolExecutor() as pool:
        hogs = [pool.submit(asks, HOG, check=False) for _ in range(6)]
        assert 0 not in {hog.result().returncode for hog in hogs}
    killed = time.time()
    reached = on("db1", "timeout", "10", "bash", "-c", "head -c 4 </dev/tcp/127.0.0.1/22")
    eventually(lambda: write(check=False).returncode == 0, seconds=10)
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT array_length%' AND state = 'active'"
    assert sql(running) == "0"
    time.sleep(1)
    ledger.enough()
    # podman's mark, in the directory where the containers were started.
    Path("oom").unlink(missing_ok=True)
    print(f"ended after {killed - began:.1f} s, no write for {ledger.gap(began):.1f} s, {len(ledger.errors)} errors")
    assert reached == "SSH-"
    assert postmaster() == before
    assert ledger.lost("db1") == {}


def test_d16_of_a_storm_of_clients_the_excess_is_told_and_the_others_go_on(ledger):
    podman("cp", str(Path(__file__).parents[1] / "files/storm.py"), "offramp-faults-web1:/root/")
    ledger.run()
    with ThreadPoolExecutor() as pool:
        storm = pool.submit(on, "web1", "python3", "/root/storm.py", "2000", "5")
        time.sleep(4)
        assert "max_client_conn|1000|" in console("SHOW CONFIG")
        memory = shell("web1", "grep VmRSS /proc/$(systemctl show --property=MainPID --value pgbouncer)/status")
        said = json.loads(storm.result())
    calm = time.time()
    time.sleep(2)
    ledger.enough()
    print(f"{said}, {memory}, longest wait {max(ledger.waits):.1f} s")
    assert set(said) == {"let in", "no more connections allowed (max_client_conn)"}
    assert 500 < said["let in"] <= 1000
    assert int(memory.split()[1]) < 64 * 1024
    assert ledger.errors == []
    assert ledger.gap(calm) <= 2
    assert asks() == "7"


@contextmanager
def holder(statement):
    """A client that takes a lock on the ledger's table, and keeps it."""
    command = ["podman", "exec", "--interactive", "--env", ENVIRONMENT, "offramp-faults-web1", "psql", "-X", CLIENT]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
    )
    process.stdin.write(f"BEGIN; LOCK TABLE ledger;\n{statement}\n")
    process.stdin.flush()
    time.sleep(1)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("ledger")
def test_d16_a_forgotten_transaction_is_ended_at_its_limit():
    """Its limit is ten minutes; three seconds here."""
    assert sql("SHOW idle_in_transaction_session_timeout") == "10min"
    with settings(idle_in_transaction_session_timeout="3s"), holder(""):
        began = time.time()
        write()
        assert 1 < time.time() - began < 5


@pytest.mark.usefixtures("ledger")
def test_d16_a_query_is_ended_at_its_limit_and_so_is_its_lock():
    """Its limit is fifteen minutes; three seconds here. The server ends what nobody waits for within five more."""
    assert "query_timeout|900|" in console("SHOW CONFIG")
    with holder("SELECT pg_sleep(60);"):
        console("SET query_timeout = 3")
        try:
            time.sleep(4)
        finally:
            console("RELOAD")
        assert "query_timeout|900|" in console("SHOW CONFIG")
        began = time.time()
        write()
        assert time.time() - began < 8


def test_d18_a_slot_that_nobody_reads_does_not_fill_the_disk(eventually):
    """A subscriber that is gone for ever. The limit is a fifth of the disk; 64 MB here."""
    assert sql("SHOW max_slot_wal_keep_size") != "-1"
    sql("SELECT pg_create_physical_replication_slot('gone', true)")
    try:
        with settings(max_slot_wal_keep_size="64MB", max_wal_size="64MB", min_wal_size="32MB"):
            for _ in range(16):
                sql("SELECT pg_logical_emit_message(false, 'much', repeat('x', 16000000)); SELECT pg_switch_wal()")
            sql("CHECKPOINT")
            eventually(lambda: sql("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'gone'") == "lost")
            assert int(sql("SELECT sum(size) FROM pg_ls_waldir()")) < 256 * 1024 * 1024
            assert asks() == "7"
    finally:
        sql("SELECT pg_drop_replication_slot('gone')")
