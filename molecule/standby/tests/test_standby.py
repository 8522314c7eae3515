"""Two database servers: what is acknowledged stays, whoever is primary, and there is never a second one.

Commits are counted in a ledger on the web host, outside of the database: see shared/tests/ledger.py.
"""

import os
import re
import signal
import subprocess
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import shared.tests.ledger
from shared.tests.ledger import CLIENT, ENVIRONMENT, podman

SERVERS = {"db1": "10.90.55.21", "db2": "10.90.55.22"}
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
STREAMING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"


def on(host, *words, check=True):
    done = podman("exec", "--env", ENVIRONMENT, f"offramp-standby-{host}", *words)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip() if check else done


def sql(host, query, check=True):
    return on(host, "psql", "-U", "postgres", "-XAtc", query, "probe", check=check)


def recovering(host):
    """Whether a server follows; nothing where it does not answer."""
    done = sql(host, "SELECT pg_is_in_recovery()", check=False)
    return {"t": True, "f": False}.get(done.stdout.strip())


def other(host):
    return next(server for server in SERVERS if server != host)


def play(playbook, *words, tags=None):
    """Run a playbook as a person does, or with the scenario's tags."""
    environment = {name: value for name, value in os.environ.items() if tags or name != "ANSIBLE_RUN_TAGS"}
    command = ["ansible-playbook", f"playbooks/{playbook}.yml", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    done.stdout = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    done.text = re.sub(r"\s+", " ", done.stdout)
    return done


def played(*words, **more):
    done = play(*words, **more)
    assert done.returncode == 0, done.stdout[-3000:]
    return done


def changed(done):
    return sum(int(number) for number in re.findall(r"changed=(\d+)", done.stdout))


def present_primary():
    return next((host for host in SERVERS if recovering(host) is False), None)


@pytest.fixture
def primary(eventually):
    """One primary with its standby, by the documented command where a test before left something else."""
    for host in SERVERS:
        podman("start", f"offramp-standby-{host}")
    eventually(present_primary, seconds=40)
    eventually(lambda: on(other(present_primary()), "systemctl", "is-active", "ssh", check=False).returncode == 0)
    host = present_primary()
    if not follows(host) or not redis_follows(host):
        played("rejoin")
        eventually(lambda: follows(host) and redis_follows(host))
    return host


def follows(primary):
    return sql(primary, STREAMING) == "1"


SOCKET = ("-s", "/run/redis/redis-server.sock")


def redis(host, *words):
    """What redis on a server answers, empty where it is not there."""
    command = [
        "env",
        "REDISCLI_AUTH=redis-password-for-tests",
        "redis-cli",
        "--user",
        "offramp",
        *SOCKET,
        "--no-auth-warning",
        *words,
    ]
    return on(host, *command, check=False).stdout.split()


def redis_role(host):
    return {"master": "primary", "slave": "replica"}.get("".join(redis(host, "role")[:1]))


def redis_follows(primary):
    return redis_role(primary) == "primary" and "master_link_status:up" in redis(other(primary), "info", "replication")


class RedisLedger:
    """Writers of redis on the web host, through its haproxy, and what was acknowledged to them."""

    def __init__(self, primary):
        script = Path(__file__).resolve().parents[2] / "shared/files/redis_ledger.py"
        subprocess.run(["podman", "cp", str(script), "offramp-standby-web1:/root/"], check=True)
        redis(primary, "del", "ledger")

    def run(self, seconds):
        words = ["python3", "/root/redis_ledger.py", "/root/redis.txt", "7379", str(seconds), "4"]
        self.writers = subprocess.Popen(["podman", "exec", "offramp-standby-web1", *words])

    def ended(self):
        self.writers.wait()
        lines = on("web1", "cat", "/root/redis.txt").splitlines()
        self.errors = [line for line in lines if line.startswith("error")]
        self.acknowledged = {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("error")}
        assert len(self.acknowledged) > 100
        return self

    def lost(self, primary):
        present = set(redis(primary, "smembers", "ledger"))
        return {name: at for name, at in self.acknowledged.items() if name not in present}


class Ledger(shared.tests.ledger.Ledger):
    def __init__(self):
        super().__init__("standby")


@contextmanager
def nobody_writing(primary):
    """Have a primary's newest segment of WAL stay empty, as on a site at night; its own writer is seldom there then."""
    switches = "echo 'SELECT pg_switch_wal() \\watch 0.1' | psql -U postgres -X probe"
    on(primary, "pkill", "--signal=STOP", "--full", "postgres: .*background writer")
    switching = subprocess.Popen(["podman", "exec", f"offramp-standby-{primary}", "sh", "-c", switches], **SILENT)
    try:
        yield
    finally:
        on(primary, "pkill", "--signal=CONT", "--full", "postgres: .*background writer")
        on(primary, "pkill", "--full", "psql -U postgres -X probe")
        switching.wait()


def kill(host):
    """Take a server's power away. podman would start it again by itself, so it is stopped as well."""
    podman("kill", "--signal=KILL", f"offramp-standby-{host}")
    podman("stop", "--time=0", f"offramp-standby-{host}")


def test_the_standby_follows_over_tls_and_with_a_slot(primary):
    query = "SELECT ssl, usename FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)"
    assert sql(primary, query) == "t|replication"
    assert sql(primary, "SELECT slot_name, active, wal_status FROM pg_replication_slots") == "standby|t|reserved"
    assert sql(primary, "SHOW max_slot_wal_keep_size") != "-1"


def test_both_have_checksums(primary):
    assert sql(primary, "SHOW data_checksums") == "on"
    assert sql(other(primary), "SHOW data_checksums") == "on"


def test_nobody_but_the_other_server_may_replicate(primary):
    conninfo = f"host={SERVERS[primary]} user=replication dbname=postgres replication=true connect_timeout=5"
    refused = on(
        "web1",
        "env",
        "PGPASSWORD=replication-password-for-tests",
        "psql",
        "-c",
        "IDENTIFY_SYSTEM",
        conninfo,
        check=False,
    )
    assert refused.returncode != 0
    assert "no pg_hba.conf entry" in refused.stderr


def test_the_replication_password_is_closed_to_others(primary):
    assert (
        on(primary, "runuser", "-u", "nobody", "--", "cat", "/etc/postgresql/offramp.pgpass", check=False).returncode
        != 0
    )


def test_a_standby_takes_no_write(primary):
    assert "read-only" in sql(other(primary), "CREATE TABLE no (no int)", check=False).stderr


def test_a_switchover_loses_nothing_and_no_client_sees_an_error(primary, eventually):
    ledger = Ledger()
    bench = ["--host=127.0.0.1", "--port=6432", "--username=probe", "probe"]
    on("web1", "pgbench", "--initialize", "--quiet", *bench)
    command = ["podman", "exec", "--env", ENVIRONMENT, "offramp-standby-web1", "pgbench", "--client=8", "--time=40"]
    clients = subprocess.Popen([*command, *bench], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ledger.run(40)
    queue = RedisLedger(primary)
    queue.run(40)
    played("switchover", "-e", f"promote={other(primary)}")
    output, errors = clients.communicate()
    assert clients.returncode == 0, errors
    assert "number of failed transactions: 0 " in output
    assert ledger.ended().errors == []
    assert ledger.lost(other(primary)) == {}
    assert recovering(primary)
    # Each of the four has its connection ended once, and goes on.
    assert len(queue.ended().errors) <= 4, queue.errors
    assert not [error for error in queue.errors if "READONLY" in error]
    assert queue.lost(other(primary)) == {}
    assert max(queue.acknowledged.values()) > time.time() - 10
    assert redis_follows(other(primary))
    eventually(lambda: follows(other(primary)))


def test_a_run_after_a_change_of_primary_changes_nothing(primary):
    done = played("services", tags=True)
    assert changed(done) == 0
    played("switchover", "-e", f"promote={other(primary)}")
    done = played("services", tags=True)
    assert changed(done) == 0
    assert present_primary() == other(primary)


@pytest.mark.usefixtures("primary")
def test_a_restore_finds_out_which_server_is_primary():
    assert changed(played("restore", "--check", "-e", "overwrite=yes backup_s3_bucket=shop")) == 0


def test_redis_is_replicated_and_a_replica_takes_no_write(primary):
    assert redis_follows(primary)
    assert "READONLY" in redis(other(primary), "set", "no", "1")


def test_where_redis_cannot_follow_nothing_is_changed(primary, eventually):
    """Refused before PostgreSQL's primary changes."""
    on(other(primary), "systemctl", "stop", "redis-server")
    try:
        done = play("switchover", "-e", f"promote={other(primary)}")
        assert done.returncode != 0
        assert "does not follow this one" in done.text
        assert changed(done) == 0
        assert present_primary() == primary
    finally:
        on(other(primary), "systemctl", "start", "redis-server")
    eventually(lambda: redis_follows(primary))


def test_a_switchover_whose_redis_is_frozen_halfway_is_finished_by_the_same_command(primary, eventually):
    """PostgreSQL has changed as a whole by then; redis stays where it was, and its clients go on."""
    successor = other(primary)
    promoted = "psql -U postgres -XAtc 'SELECT pg_is_in_recovery()' | grep -q f"
    pause = f"until {promoted}; do sleep 0.1; done; kill -STOP $(pidof redis-server)"
    freezer = subprocess.Popen(["podman", "exec", f"offramp-standby-{successor}", "sh", "-c", pause])
    done = play("switchover", "-e", f"promote={successor}")
    freezer.wait()
    on(successor, "sh", "-c", "kill -CONT $(pidof redis-server)")
    assert done.returncode != 0
    assert f"PostgreSQL's primary is {successor}; redis's is {primary}, and its clients go on" in done.text
    assert redis_role(primary) == "primary"
    queue = RedisLedger(primary)
    queue.run(3)
    assert queue.ended().errors == []
    done = play("services", tags=True)
    assert done.returncode != 0
    assert "playbooks/switchover.yml" in done.text
    eventually(lambda: redis_follows(primary), seconds=40)
    played("switchover", "-e", f"promote={successor}")
    assert redis_follows(successor)
    assert queue.lost(successor) == {}


def test_a_switchover_to_the_primary_changes_nothing(primary):
    assert changed(played("switchover", "-e", f"promote={primary}")) == 0


def test_a_switchover_that_fails_leaves_the_clients_with_the_old_primary(primary):
    """A transaction that does not end: the clients are let go again."""
    holder = [
        "podman",
        "exec",
        "--env",
        ENVIRONMENT,
        "offramp-standby-web1",
        "psql",
        "-c",
        "SELECT pg_sleep(25)",
        CLIENT,
    ]
    held = subprocess.Popen(holder, stdout=subprocess.DEVNULL)
    done = play("switchover", "-e", f"promote={other(primary)}")
    assert done.returncode != 0
    assert f"The primary is {primary}, as before, and the clients go on" in done.text
    assert on("web1", "psql", "-XAtc", "SELECT 7", CLIENT) == "7"
    assert follows(primary)
    assert held.wait() == 0


def test_a_switchover_whose_standby_stops_replaying_lets_every_client_go_on(primary):
    """What fails on a database server has the web hosts go back too."""
    sql(other(primary), "SELECT pg_wal_replay_pause()")
    try:
        done = play("switchover", "-e", f"promote={other(primary)}")
        assert done.returncode != 0
        assert f"The primary is {primary}, as before, and the clients go on" in done.text
        assert on("web1", "psql", "-XAtc", "SELECT 7", CLIENT) == "7"
    finally:
        sql(other(primary), "SELECT pg_wal_replay_resume()")
    assert present_primary() == primary


def test_a_primary_that_answers_is_not_replaced(primary):
    done = play("failover", "-e", f"promote={other(primary)}")
    assert done.returncode != 0
    assert f"{primary} answers, and is primary" in done.text
    assert changed(done) == 0


def test_the_present_primary_named_again_is_no_change(primary):
    done = played("failover", "-e", f"promote={primary}")
    assert changed(done) == 0


@pytest.mark.parametrize("name", ["web1", "db3"])
def test_a_host_that_is_no_database_server_is_refused(primary, name):
    before = primary
    for playbook in ("failover", "switchover"):
        done = play(playbook, "-e", f"promote={name}")
        assert done.returncode != 0
        assert changed(done) == 0
    assert present_primary() == before


def test_a_lost_primary_is_replaced_and_never_is_a_second_one(primary, eventually):
    successor = other(primary)
    # What is lost without one that is synchronous, which a test before may have left.
    played("services", tags=True)
    ledger = Ledger()
    ledger.run(45)
    queue = RedisLedger(primary)
    queue.run(45)
    time.sleep(3)
    kill(primary)
    killed = time.time()
    refused = play("failover", "-e", f"promote={successor}")
    assert refused.returncode != 0
    assert "may be lost" in refused.text
    assert recovering(successor)

    done = played("failover", "-e", f"promote={successor}", "-e", "accept_loss=100")
    said = int(re.search(r"took in the last (\d+) s may be lost", done.text)[1])
    promoted = time.time()
    lost = ledger.ended().lost(successor)
    print(f"{len(ledger.acknowledged)} acknowledged, {len(lost)} lost, {said} s said")
    assert all(at > promoted - said - 20 for at in lost.values())
    assert any(at > killed for at in ledger.acknowledged.values()), "nobody could write again"
    said = int(re.search(r"took in the last (\d+) s may be lost: no write", done.text)[1])
    lost = queue.ended().lost(successor)
    print(f"redis: {len(queue.acknowledged)} acknowledged, {len(lost)} lost, {said} s said")
    assert all(at > promoted - said - 20 for at in lost.values())
    assert max(queue.acknowledged.values()) > promoted, f"no client of redis could write again: {queue.errors[-8:]}"

    # It starts by itself, and asks.
    podman("start", f"offramp-standby-{primary}")
    eventually(lambda: "does not start" in on(primary, "journalctl", "--no-pager", "--lines=200"), seconds=40)
    assert recovering(primary) is None
    eventually(lambda: "so this one does not start" in on(primary, "journalctl", "--no-pager", "--unit=redis-server"))
    assert redis_role(primary) is None
    done = play("services", tags=True)
    assert done.returncode != 0
    assert "playbooks/rejoin.yml" in done.text
    assert changed(done) == 0

    with nobody_writing(successor):
        done = played("rejoin")
    eventually(lambda: redis_follows(successor))
    assert re.search(r"/var/lib/redis/kept-", done.text)
    assert on(primary, "sh", "-c", "ls /var/lib/redis/kept-*/appendonlydir")
    eventually(lambda: follows(successor))
    assert re.search(r"/var/lib/postgresql/\d+/kept-", done.text)
    assert on(primary, "sh", "-c", "ls /var/lib/postgresql/*/kept-*/pg_wal")
    assert changed(played("services", tags=True)) == 0
    podman("restart", "--time=0", f"offramp-standby-{primary}")
    eventually(lambda: recovering(primary) is True and redis_follows(successor), seconds=40)


@pytest.mark.drill
def test_with_a_synchronous_standby_no_commit_is_lost(primary, eventually):
    successor = other(primary)
    played("services", "-e", "postgresql_synchronous_enabled=true", tags=True)
    eventually(lambda: sql(primary, "SELECT sync_state FROM pg_stat_replication") == "sync")
    ledger = Ledger()
    ledger.run(30)
    time.sleep(3)
    kill(primary)
    played("failover", "-e", f"promote={successor}")
    assert ledger.ended().lost(successor) == {}
    assert len(ledger.errors) > 0

    podman("start", f"offramp-standby-{primary}")
    eventually(lambda: on(primary, "systemctl", "is-active", "ssh", check=False).returncode == 0)
    played("rejoin")
    eventually(lambda: sql(successor, "SELECT sync_state FROM pg_stat_replication") == "sync")
    played("services", tags=True)
    eventually(lambda: sql(successor, "SELECT sync_state FROM pg_stat_replication") == "async")


@pytest.mark.drill
def test_a_frozen_primary_is_replaced_and_is_refused_when_it_thaws(primary, eventually):
    """Its kernel acknowledges every packet, so that nothing but limits of one's own ends the wait."""
    successor = other(primary)
    ledger = Ledger()
    ledger.run(30)
    podman("pause", f"offramp-standby-{primary}")
    try:
        played("failover", "-e", f"promote={successor}", "-e", "accept_loss=100")
        assert on("web1", "psql", "-XAtc", "SELECT inet_server_addr()", CLIENT) == SERVERS[successor]
    finally:
        podman("unpause", f"offramp-standby-{primary}")
    done = play("services", tags=True)
    assert done.returncode != 0
    assert "there are two primaries" in done.text
    ledger.ended()
    on(primary, "sh", "-c", "systemctl stop 'postgresql@*'")
    played("rejoin")
    eventually(lambda: follows(successor))


@pytest.mark.drill
def test_a_switchover_that_is_killed_is_mended_by_a_command(primary, eventually):
    """Killed once the clients wait and the old primary stops; the playbooks then say what to run."""
    successor = other(primary)
    kill_a_switchover(primary, "Stop the primary")
    if play("switchover", "-e", f"promote={successor}").returncode != 0:
        played("failover", "-e", f"promote={successor}", "-e", "accept_loss=1000")
        played("rejoin")
    assert present_primary() == successor
    assert on("web1", "psql", "-XAtc", "SELECT 7", CLIENT) == "7"
    eventually(lambda: follows(successor))


@pytest.mark.drill
def test_a_primary_that_stopped_cleanly_follows_without_a_copy(primary, eventually):
    successor = other(primary)
    on(primary, "sh", "-c", "systemctl stop 'postgresql@*'")
    played("failover", "-e", f"promote={successor}", "-e", "accept_loss=1000")
    done = played("rejoin")
    assert "/kept-" not in done.text
    eventually(lambda: follows(successor))
    assert changed(played("services", tags=True)) == 0


def server_unit(host):
    return on(host, "sh", "-c", "systemctl list-units --all --plain --no-legend 'postgresql@*' | cut -d' ' -f1")


@contextmanager
def small_wal(host):
    """Have a server's WAL on a tmpfs of 400 MB, which a test may fill: never the machine's disk."""
    place, unit = f"{sql(host, 'SHOW data_directory')}/pg_wal", server_unit(host)
    on(host, "sh", "-c", "mkdir -p /small && mount -t tmpfs -o size=400m tmpfs /small")
    assert on(host, "stat", "--file-system", "--format=%T", "/small") == "tmpfs"
    move = f"cp -a {place} /small/moved && mv {place} {place}.kept && ln -s /small/moved {place}"
    back = f"rm {place}; cp -a /small/moved {place}; rm -r {place}.kept; umount /small"
    on(host, "sh", "-c", f"systemctl stop {unit}; {move}; systemctl start {unit}")
    try:
        yield
    finally:
        on(host, "sh", "-c", f"rm -f /small/full; systemctl stop {unit}; {back}; systemctl start {unit}")


def fill(host):
    on(host, "sh", "-c", "cat /dev/zero >/small/full 2>/dev/null || true")


def fill_the_disk_of(host, writes_on):
    with small_wal(host):
        fill(host)
        for _ in range(6):
            sql(writes_on, "SELECT pg_logical_emit_message(false, '', 'x'); SELECT pg_switch_wal()", check=False)
        time.sleep(5)
        on(host, "rm", "/small/full")
        deadline = time.monotonic() + 60
        while recovering(host) is None and time.monotonic() < deadline:
            time.sleep(0.5)


def fill_the_primarys_disk(primary):
    fill_the_disk_of(primary, primary)


def fill_the_standbys_disk(primary):
    fill_the_disk_of(other(primary), primary)


def interrupt_a_play(primary):
    """Killed once the standby is promoted, and run again; a run that cannot finish it names the command that can."""
    redis(primary, "set", "before", "there")
    kill_a_switchover(primary, "Have the clients go on with the new primary")
    again = "switchover", "-e", f"promote={other(primary)}"
    first = play(*again)
    if first.returncode != 0:
        assert "run ansible-playbook playbooks/rejoin.yml" in first.text
        second = play("rejoin")
        assert second.returncode == 0 or "Run ansible-playbook playbooks/switchover.yml once more" in second.text
        assert on("web1", "psql", "-XAtc", "SELECT pg_is_in_recovery()", CLIENT) == "f"
        played(*again)
    assert redis(other(primary), "get", "before") == ["there"]


def kill_a_switchover(primary, task):
    command = ["ansible-playbook", "playbooks/switchover.yml", "-e", f"promote={other(primary)}"]
    environment = {name: value for name, value in os.environ.items() if name != "ANSIBLE_RUN_TAGS"}
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    for line in run.stdout:
        if task in line:
            break
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    time.sleep(6)


def lose_the_primary(primary):
    kill(primary)
    played("failover", "-e", f"promote={other(primary)}")


def freeze_the_standby(primary):
    podman("pause", f"offramp-standby-{other(primary)}")
    time.sleep(10)
    podman("unpause", f"offramp-standby-{other(primary)}")


def cut_the_two_off(primary):
    rule = f"-s {SERVERS[other(primary)]} -j DROP"
    on(primary, "sh", "-c", f"iptables -I INPUT {rule}")
    time.sleep(20)
    assert recovering(other(primary)), "it was promoted by nobody's command"
    on(primary, "sh", "-c", f"iptables -D INPUT {rule}")


def restart_the_primary(primary):
    podman("restart", "--time=0", f"offramp-standby-{primary}")


def restart_the_standby(primary):
    podman("restart", "--time=0", f"offramp-standby-{other(primary)}")


def change_the_primary(primary):
    played("switchover", "-e", f"promote={other(primary)}")


FAULTS = [
    fill_the_primarys_disk,
    fill_the_standbys_disk,
    interrupt_a_play,
    lose_the_primary,
    freeze_the_standby,
    cut_the_two_off,
    restart_the_primary,
    restart_the_standby,
    change_the_primary,
]


# Ten in a row: each kind, and one again, in an order that nobody chose.
IN_A_ROW = [*sorted(FAULTS, key=lambda fault: zlib.crc32(fault.__name__.encode())), lose_the_primary]


@pytest.mark.drill
@pytest.mark.parametrize("fault", IN_A_ROW, ids=lambda fault: fault.__name__)
def test_no_commit_is_lost_whatever_happens(primary, fault, eventually):
    """With a synchronous standby; each fault is followed by the documented command."""
    if sql(primary, "SHOW synchronous_standby_names") != "standby":
        played("services", "-e", "postgresql_synchronous_enabled=true", tags=True)
    eventually(lambda: sql(primary, "SELECT sync_state FROM pg_stat_replication") == "sync", seconds=30)
    ledger = Ledger()
    ledger.run(25)
    fault(primary)
    ledger.ended()
    for host in SERVERS:
        podman("start", f"offramp-standby-{host}")
    eventually(present_primary, seconds=60)
    present = present_primary()
    eventually(lambda: on(other(present), "systemctl", "is-active", "ssh", check=False).returncode == 0)
    if not follows(present):
        played("rejoin")
    eventually(lambda: follows(present), seconds=60)
    assert ledger.lost(present) == {}
    assert [recovering(host) for host in (present, other(present))] == [False, True]
    eventually(lambda: on("web1", "psql", "-XAtc", "SELECT pg_is_in_recovery()", CLIENT, check=False).stdout == "f\n")


@pytest.mark.drill
def test_of_two_operators_one_wins_and_the_other_is_told(primary):
    kill(primary)
    words = ("failover", "-e", f"promote={other(primary)}", "-e", "accept_loss=10000")
    with ThreadPoolExecutor() as both:
        done = [future.result() for future in [both.submit(play, *words) for _ in range(2)]]
    promoted = [each for each in done if re.search(r"TASK \[Promote the standby\] \*+\s+changed", each.stdout)]
    assert len(promoted) == 1
    assert promoted[0].returncode == 0, promoted[0].stdout[-3000:]
    told = next(each for each in done if each is not promoted[0])
    assert "was promoted by another run" in told.text or "is primary already" in told.text


def test_two_primaries_stop_a_run_before_any_change(primary, eventually):
    sql(other(primary), "SELECT pg_promote()")
    done = play("services", tags=True)
    assert done.returncode != 0
    assert "there are two primaries" in done.text
    assert f"{other(primary)} has the newer timeline" in done.text
    assert changed(done) == 0
    on(primary, "sh", "-c", "systemctl stop 'postgresql@*'")
    # Started by hand, it refuses.
    on(primary, "sh", "-c", "systemctl start postgresql@$(ls /usr/lib/postgresql)-main", check=False)
    assert recovering(primary) is None
    played("failover", "-e", f"promote={other(primary)}")
    played("rejoin")
    eventually(lambda: follows(other(primary)))


@pytest.mark.drill
def test_both_come_back_by_themselves_after_a_power_cut(primary, eventually):
    for host in SERVERS:
        kill(host)
    for host in (primary, other(primary)):
        podman("start", f"offramp-standby-{host}")
        time.sleep(3)
    eventually(lambda: recovering(primary) is False and follows(primary), seconds=60)
    eventually(lambda: on("web1", "psql", "-XAtc", "SELECT 7", CLIENT, check=False).stdout.strip() == "7", seconds=30)


class Disk:
    """How long a server's disk itself kept small writes waiting meanwhile, as other work of the machine makes it."""

    PROBE = """
import os, time
until, longest, file = time.time() + {seconds}, 0, os.open("/var/lib/postgresql/probe", os.O_CREAT | os.O_WRONLY)
while time.time() < until:
    begin = time.time(); os.pwrite(file, b"x" * 8192, 0); os.fdatasync(file); time.sleep(0.005)
    longest = max(longest, time.time() - begin)
os.unlink("/var/lib/postgresql/probe"); print(longest)
"""

    def __init__(self, host, seconds):
        command = ["podman", "exec", f"offramp-standby-{host}", "python3", "-c", self.PROBE.format(seconds=seconds)]
        self.probe = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=shared.tests.ledger.environment())

    def waited(self):
        output, _ = self.probe.communicate()
        print(f"the disk by itself kept a write waiting for {output.strip()} s")
        return float(output)


def write_wal(host, segments):
    """WAL by its volume: what is left of each segment counts, and costs the disk little."""
    for _ in range(segments):
        sql(host, "SELECT pg_logical_emit_message(false, '', 'x'); SELECT pg_switch_wal()")


@contextmanager
def settings(host, **wanted):
    """Settings of a server for the time of a test."""
    for name, value in wanted.items():
        sql(host, f"ALTER SYSTEM SET {name} = '{value}'")
    sql(host, "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        for name in wanted:
            sql(host, f"ALTER SYSTEM RESET {name}")
        sql(host, "SELECT pg_reload_conf()")


@pytest.mark.drill
def test_d7_the_wal_of_a_standby_that_is_away_for_too_long_does_not_fill_the_primarys_disk(primary, eventually):
    """An hour of WAL, simulated by its volume: the limit is a fifth of the disk, and 64 MB here."""
    assert sql(primary, "SHOW max_slot_wal_keep_size") != "-1"
    kill(other(primary))
    with settings(primary, max_slot_wal_keep_size="64MB", max_wal_size="64MB", min_wal_size="32MB"):
        ledger = Ledger()
        ledger.run(10)
        since, disk = time.time(), Disk(primary, 8)
        write_wal(primary, 20)
        sql(primary, "CHECKPOINT")
        eventually(lambda: sql(primary, "SELECT wal_status FROM pg_replication_slots") == "lost")
        assert int(sql(primary, "SELECT sum(size) FROM pg_ls_waldir()")) < 256 * 1024 * 1024
        ledger.ended()
        assert ledger.errors == []
        assert ledger.gap(since) <= 2 + disk.waited()
    podman("start", f"offramp-standby-{other(primary)}")
    eventually(lambda: on(other(primary), "systemctl", "is-active", "ssh", check=False).returncode == 0)
    played("rejoin")
    eventually(lambda: follows(primary))
    assert ledger.lost(other(primary)) == {}


@pytest.mark.drill
def test_d8_writes_do_not_wait_for_a_standby_that_replays_nothing(primary):
    ledger = Ledger()
    ledger.run(8)
    since, disk = time.time(), Disk(primary, 6)
    sql(other(primary), "SELECT pg_wal_replay_pause()")
    try:
        ledger.ended()
    finally:
        sql(other(primary), "SELECT pg_wal_replay_resume()")
    assert ledger.errors == []
    assert ledger.gap(since) <= 2 + disk.waited()


@pytest.mark.drill
def test_d8_writes_do_not_wait_for_a_standby_whose_disk_is_full(primary, eventually):
    """Its WAL is on a tmpfs, which is filled: never the machine's disk. It follows again when there is room."""
    standby = other(primary)
    with small_wal(standby):
        eventually(lambda: follows(primary))
        ledger = Ledger()
        ledger.run(12)
        since, disk = time.time(), Disk(primary, 10)
        fill(standby)
        write_wal(primary, 8)
        eventually(lambda: not follows(primary), seconds=30)
        ledger.ended()
        assert ledger.errors == []
        assert ledger.gap(since) <= 2 + disk.waited()
        on(standby, "rm", "/small/full")
        eventually(lambda: follows(primary), seconds=60)
    eventually(lambda: follows(primary), seconds=30)
    assert ledger.lost(standby) == {}
