"""Two database servers and one bucket: one good set of dumps a night, and no hole in the WAL, whoever is primary."""

import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = os.environ["MOLECULE_SCENARIO_NAME"]
SERVERS = ("db1", "db2")
STORE = {"iptables": "10.90.48.31", "ip6tables": "fd00:10:90:48::31"}
STREAMING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
WAITING = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
S3 = "s3cmd -c /etc/offramp/backup/s3cfg --no-progress"
SETS = "s3://backups/rebuild/databases/"


def podman(*words):
    environment = {**os.environ}
    if (ROOT / ".lab/containers.conf").exists():
        environment["CONTAINERS_CONF"] = str(ROOT / ".lab/containers.conf")
    return subprocess.run(["podman", *words], capture_output=True, text=True, env=environment)


def attempt(host, command):
    return podman("exec", f"offramp-{SCENARIO}-{host}", "sh", "-c", command)


def on(host, command):
    done = attempt(host, command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def sql(host, query):
    return on(host, f'psql -U postgres -XAtc "{query}" probe')


def play(playbook, *words):
    environment = {key: value for key, value in os.environ.items() if key != "ANSIBLE_RUN_TAGS"}
    inventories = [f"-i{ROOT}/molecule/{part}/inventory/" for part in ("shared", SCENARIO)]
    extra = [word for value in words for word in ("-e", value)]
    command = ["ansible-playbook", *inventories, f"playbooks/{playbook}.yml", *extra]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    return re.sub(r"\s+", " ", done.stdout)


def recovering(host):
    """Whether a server follows; nothing where it does not answer."""
    done = attempt(host, "psql -U postgres -XAtc 'SELECT pg_is_in_recovery()' postgres")
    return {"t": True, "f": False}.get(done.stdout.strip())


def other(host):
    return next(server for server in SERVERS if server != host)


@pytest.fixture
def primary(eventually):
    """The primary, with its standby, by the documented command where a test before left something else."""
    for host in SERVERS:
        podman("start", f"offramp-{SCENARIO}-{host}")
    eventually(lambda: False in map(recovering, SERVERS), seconds=40)
    host = next(server for server in SERVERS if recovering(server) is False)
    if sql(host, STREAMING) != "1":
        eventually(lambda: attempt(other(host), "systemctl is-active ssh").returncode == 0)
        play("rejoin")
        eventually(lambda: sql(host, STREAMING) == "1")
    sql(host, "CREATE TABLE IF NOT EXISTS filling (n bigint, what text)")
    return host


def night(*hosts):
    """Have the timers' units run on all hosts at once."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        done = list(pool.map(lambda host: attempt(host, "systemctl start offramp-backup@nightly"), hosts))
    for host, each in zip(hosts, done, strict=True):
        assert each.returncode == 0, on(host, "cat /var/lib/offramp/backup/state.json")


def sets(host):
    """Return the good sets of dumps, each with the host that took it."""
    names = re.findall(rf"{SETS}(\S+)/manifest.good.age", on(host, f"{S3} ls --recursive {SETS}"))
    opened = "age --decrypt -i /etc/offramp/backup/age.key /root/manifest.age"
    return {
        name: re.search(
            r'"host": "(\w+)"',
            on(host, f"{S3} get --force {SETS}{name}/manifest.good.age /root/manifest.age; {opened}"),
        )[1]
        for name in sorted(names)
    }


def let_days_pass(host, days):
    """Give each set the name that it would have had some days ago."""
    for name in sets(host):
        old = (datetime.strptime(name, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) - timedelta(days=days)).strftime(
            "%Y%m%dT%H%M%SZ"
        )
        for item in re.findall(rf"{SETS}{name}/(\S+)", on(host, f"{S3} ls --recursive {SETS}")):
            on(host, f"{S3} mv {SETS}{name}/{item} {SETS}{old}/{item}")


def fill(host, segments):
    """Have the primary write so many segments of WAL."""
    for _ in range(segments):
        sql(host, "INSERT INTO filling SELECT n, repeat(md5(n::text), 4) FROM generate_series(1, 60000) AS n")
        sql(host, "SELECT pg_switch_wal()")
    sql(host, "TRUNCATE filling")


def whole(host):
    """Every object is as it was stored, and a restore from the oldest base backup finds all of the WAL."""
    said = on(host, "offramp-backup verify")
    assert "without a hole in the WAL" in said
    on(host, "runuser -u postgres -- pgbackrest --stanza=main check")


def test_of_two_servers_at_once_the_standby_takes_the_dumps(primary):
    before = sets(primary)
    night(*SERVERS)
    made = {name: host for name, host in sets(primary).items() if name not in before}
    assert list(made.values()) == [other(primary)]
    whole(primary)


def test_after_a_switchover_in_the_night_there_is_still_one_set(primary):
    if not sets(primary):
        night(*SERVERS)
    before = sets(primary)
    play("switchover", f"promote={other(primary)}")
    night(*SERVERS)
    assert sets(primary) == before
    whole(other(primary))
    # Whoever asks for a backup gets one.
    play("backup")
    assert [host for name, host in sets(primary).items() if name not in before] == [primary]


def cut_off_the_bucket(host, how):
    for program, address in STORE.items():
        on(host, f"{program} {how} OUTPUT -d {address} -j DROP")


def test_a_failover_before_the_backup_leaves_one_good_set_and_no_hole(primary, eventually):
    """The primary dies with segments that it could not archive: the bucket gets them from the new one, once it is back.

    A bucket that is away does not hold the failover up either.
    """
    successor = other(primary)
    watch = "systemctl start offramp-backup@watch"
    if attempt("web1", watch).returncode != 0:
        night(*SERVERS)
    on("web1", watch)
    let_days_pass(primary, 2)
    before = sets(primary)
    for host in SERVERS:
        cut_off_the_bucket(host, "-I")
    fill(primary, 3)
    assert int(sql(primary, WAITING)) >= 3
    podman("kill", "--signal=KILL", f"offramp-{SCENARIO}-{primary}")
    podman("stop", "--time=0", f"offramp-{SCENARIO}-{primary}")
    try:
        play("failover", f"promote={successor}", "accept_loss=100")
    finally:
        cut_off_the_bucket(successor, "-D")
    # The server that took the dumps is off, and can tell nobody.
    assert attempt("web1", watch).returncode != 0
    told = on("web1", "journalctl -u 'offramp-backup*' --no-pager")
    assert re.search("dumps: none for .* 26 hours are allowed", told)
    eventually(lambda: sql(successor, WAITING) == "0", seconds=120)
    night(successor)
    assert [host for name, host in sets(successor).items() if name not in before] == [successor]
    whole(successor)
    # The WAL of both timelines brings a base backup of the old primary's to this night's dumps.
    told = on(successor, "offramp-backup rehearse")
    assert re.search(r"base backup: \S+ and its WAL, \d+ tables, (as recorded|of which 0 )", told)


def test_a_standby_that_was_away_for_too_long_goes_on_from_the_archive(primary, eventually):
    """The primary keeps 48 MiB of WAL for it, and writes more than three times that."""
    standby = other(primary)
    sql(primary, "ALTER SYSTEM SET max_slot_wal_keep_size = '48MB'")
    sql(primary, "ALTER SYSTEM SET min_wal_size = '32MB'")
    sql(primary, "ALTER SYSTEM SET max_wal_size = '64MB'")
    sql(primary, "SELECT pg_reload_conf()")
    try:
        on(standby, "systemctl stop 'postgresql@*'")
        fill(primary, 12)
        sql(primary, "INSERT INTO filling VALUES (-1, 'the last')")
        eventually(lambda: sql(primary, WAITING) == "0", seconds=60)
        sql(primary, "CHECKPOINT")
        assert sql(primary, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'standby'") == "lost"
        assert int(sql(primary, "SELECT sum(size) FROM pg_ls_waldir()")) <= 10 * 16 * 2**20
        on(standby, "systemctl start postgresql@$(pg_lsclusters -h | cut -c1-2)-main")
        # By itself, without a command.
        eventually(
            lambda: attempt(standby, "psql -U postgres -XAtc 'SELECT n FROM filling' probe").stdout.strip() == "-1",
            seconds=90,
        )
        said = play("rejoin")
        assert "kept, for you" not in said
        eventually(lambda: sql(primary, STREAMING) == "1")
    finally:
        for name in ("max_slot_wal_keep_size", "min_wal_size", "max_wal_size"):
            sql(primary, f"ALTER SYSTEM RESET {name}")
        sql(primary, "SELECT pg_reload_conf()")


def test_a_standby_is_made_from_the_base_backup_and_the_archive(primary, eventually):
    standby = other(primary)
    on(standby, "systemctl stop 'postgresql@*'; rm -r /var/lib/postgresql/*/main")
    begin = time.monotonic()
    said = play("rejoin", "postgresql_copy_from_backup_enabled=true")
    print(f"made in {time.monotonic() - begin:.0f} s")
    assert "So the primary is copied" not in said
    eventually(lambda: sql(primary, STREAMING) == "1")
    assert "main.new" not in on(standby, "cat /var/lib/postgresql/*/main/postgresql.auto.conf")
    assert on(standby, "ls /var/log/pgbackrest/*restore.log") != ""
