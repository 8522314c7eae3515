"""Debian 12 becomes 13 by its own package manager, under data; then PostgreSQL 15 becomes 17, and 15 again.

Both are real: another libc and another ICU come under the indexes. The tests build on each other, in their order.
"""

import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from shared.tests.runs import kill

ROOT = Path(__file__).resolve().parents[3]
SERVERS = ("db1", "db2")
CLIENT = "host=127.0.0.1 port=6432 dbname=probe user=probe connect_timeout=5"
ENVIRONMENT = "PGPASSWORD=probe-password-for-tests"
# german's own collation is libc's; two columns of probe have ICU's, one that comes with PostgreSQL, one of their own.
FILL = """
    CREATE COLLATION own (provider = icu, locale = 'de');
    CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text, word text COLLATE "en-x-icu",
      name text COLLATE own);
    INSERT INTO orders (what, word, name)
      SELECT md5(n::text), md5(n::text), 'name ' || n FROM generate_series(1, 20000) AS n;
    CREATE INDEX by_what ON orders (what);
    CREATE INDEX by_word ON orders (word);
    CREATE UNIQUE INDEX by_name ON orders (name);
    CREATE TABLE ledger (name text PRIMARY KEY);
    CREATE EXTENSION pg_trgm"""
GERMAN = """
    CREATE TABLE words (word text);
    INSERT INTO words SELECT 'Wort ' || n FROM generate_series(1, 5000) AS n;
    CREATE INDEX by_word ON words (word)"""
ALL_ROWS = "SELECT md5(string_agg(t::text, ';' ORDER BY id)) FROM orders AS t"
TRGM = """
    SELECT extversion = default_version FROM pg_extension JOIN pg_available_extensions ON name = extname
    WHERE extname = 'pg_trgm'"""
FILES = "SELECT relname, pg_relation_filenode(oid) FROM pg_class WHERE relname LIKE 'by\\_%' ORDER BY 1"
RELEASE = """
    set -e
    export DEBIAN_FRONTEND=noninteractive
    sed -i s/bookworm/trixie/g $(grep -rl bookworm /etc/apt/sources.list /etc/apt/sources.list.d)
    apt-get -qq update
    apt-get -qq -y -o Dpkg::Options::=--force-confold full-upgrade
    cat /etc/debian_version"""


# The program that runs pg_upgrade stops first, so that nothing can be put right. One that only checks is let be; one
# that has just ended has no words.
STOP = """
    until upgrade=$(pgrep -o -x pg_upgrade) && words=$(tr '\\0' ' ' <"/proc/$upgrade/cmdline") && [ -n "$words" ] &&
      [ "${words#*--check}" = "$words" ]; do
      sleep 0.02
    done 2>/dev/null
    set -- $(ps -o ppid= -p "$upgrade") "$upgrade"
    kill -STOP "$@"
    echo "$@" """
UPGRADE = "playbooks/postgres_upgrade.yml"


def podman(*words):
    environment = {**os.environ}
    if (ROOT / ".lab/containers.conf").exists():
        environment["CONTAINERS_CONF"] = str(ROOT / ".lab/containers.conf")
    return subprocess.run(["podman", *words], capture_output=True, text=True, env=environment)


def on(host, *words, check=True):
    done = podman("exec", "--env", ENVIRONMENT, f"offramp-upgrade-{host}", *words)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip() if check else done


def sql(host, query, database="probe"):
    return on(host, "psql", "-U", "postgres", "-qXAt", "-v", "ON_ERROR_STOP=1", "-c", query, database)


def client(query, check=True):
    return on("web1", "psql", "-XAtc", query, CLIENT, check=check)


def command(playbook, *words):
    """The playbooks see the site, and not the bucket's server."""
    inventories = [f"--inventory={ROOT}/molecule/{part}/inventory/" for part in ("shared", "upgrade")]
    return ["ansible-playbook", *inventories, playbook, *words]


def environment(tags):
    return {name: value for name, value in os.environ.items() if tags or name != "ANSIBLE_RUN_TAGS"}


def play(*words, playbook=UPGRADE, tags=False):
    """Run a playbook as a person does, or with the scenario's tags."""
    done = subprocess.run(command(playbook, *words), capture_output=True, text=True, env=environment(tags))
    done.text = re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr))
    return done


def played(*words, **more):
    done = play(*words, **more)
    assert done.returncode == 0, done.stdout[-4000:]
    return done


def changed(done):
    return sum(int(number) for number in re.findall(r"changed=(\d+)", done.stdout))


def version(host):
    return int(sql(host, "SHOW server_version_num")) // 10000


def clusters(host):
    # A standby is "online,recovery".
    return [tuple(line.partition(",")[0].split()[:4]) for line in on(host, "pg_lsclusters", "-h").splitlines()]


def follows():
    return sql("db1", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"


def files(database):
    return dict(line.split("|") for line in sql("db1", FILES, database).splitlines())


@pytest.fixture(scope="module")
def content():
    """What the tests look for again, made on Debian 12."""
    for host in SERVERS:
        on(host, "sh", "-c", "echo 'de_DE.UTF-8 UTF-8' >>/etc/locale.gen; locale-gen")
        # A server knows the locales that there were when it started.
        on(host, "systemctl", "restart", "postgresql@15-main")
    sql("db1", "CREATE DATABASE german TEMPLATE template0 LC_COLLATE 'de_DE.UTF-8' LC_CTYPE 'de_DE.UTF-8'", "postgres")
    sql("db1", GERMAN, "german")
    sql("db1", f"SET ROLE probe; {FILL}")
    sql("db1", "ALTER SYSTEM SET log_min_messages = 'notice'")
    return {"rows": sql("db1", ALL_ROWS), "probe": files("probe"), "german": files("german")}


def test_debian_12_becomes_13_and_the_same_cluster_serves_on(content, eventually):
    assert clusters("db1") == [("15", "main", "5432", "online")]
    with ThreadPoolExecutor() as both:
        done = list(both.map(lambda host: on(host, "bash", "-c", RELEASE), SERVERS))
    assert all(each.splitlines()[-1].startswith("13.") for each in done)
    for host in SERVERS:
        podman("restart", "--time=10", f"offramp-upgrade-{host}")
    for host in SERVERS:
        eventually(lambda host=host: on(host, "systemctl", "is-active", "ssh", check=False).returncode == 0, seconds=60)
    eventually(lambda: client("SELECT 7", check=False).stdout.strip() == "7", seconds=60)
    # The playbooks of the whole site, as before: there is no second, empty cluster, and they say what is to be done.
    said = played(playbook="molecule/shared/converge.yml", tags=True).text
    assert "this Debian has PostgreSQL 17, and the data is in one of version 15" in said
    assert re.search(r"orders text otherwise.{0,120}: german", said)
    for host in SERVERS:
        assert clusters(host)[0][:3] == ("15", "main", "5432")
        assert [cluster for cluster in clusters(host) if cluster[0] == "17"] == []
    assert follows()
    assert client("SELECT count(*) FROM orders") == "20000"
    assert sql("db1", ALL_ROWS) == content["rows"]


def test_which_indexes_another_libc_ordered_is_said_without_a_change(content):
    done = played("--check", playbook="playbooks/reindex.yml")
    assert re.search(r"database german, its own collation: version 2\.36, now 2\.41: by_word", done.text)
    assert files("german") == content["german"]


@pytest.mark.usefixtures("content")
def test_a_site_without_a_backup_is_asked():
    done = play("-e", "backup_s3_bucket=")
    assert done.returncode != 0
    assert "this site has no bucket" in done.text
    assert "-e without_backup=true" in done.text
    assert changed(done) == 0


def test_a_backup_that_is_damaged_stops_it(content):
    s3cmd = "s3cmd --quiet --config=/etc/offramp/backup/s3cfg"
    on("db1", "offramp-backup", "nightly")
    listing = on(
        "db1", "sh", "-c", "s3cmd --config=/etc/offramp/backup/s3cfg ls -r s3://backups/upgrade/pgbackrest/backup/"
    )
    content["before"] = sql("db1", "SELECT now()")
    name = next(line.split()[3] for line in listing.splitlines() if "/bundle/" in line)
    on("db1", "sh", "-ec", f"{s3cmd} get --force {name} /root/whole; echo no >/root/no; {s3cmd} put /root/no {name}")
    done = play()
    on("db1", "sh", "-ec", f"{s3cmd} put /root/whole {name}")
    assert done.returncode != 0
    assert "the continuous backup is damaged" in done.text
    assert (version("db1"), client("SELECT 7")) == (15, "7")


@pytest.mark.usefixtures("content")
def test_what_pg_upgrade_refuses_stops_nobody():
    client("CREATE TABLE odd (what regoper)")
    done = play()
    assert done.returncode != 0
    assert "pg_upgrade --check refuses" in done.text
    assert "public.odd.what" in done.text
    assert (version("db1"), client("SELECT 7")) == (15, "7")
    client("DROP TABLE odd")


def test_a_run_that_was_killed_with_the_server_stopped_is_mended_by_the_next(content, eventually):
    """The second run starts the old version, lets the clients go on, and changes to the new one under load."""
    with ThreadPoolExecutor() as pool:
        stopped = pool.submit(on, "db1", "timeout", "300", "sh", "-c", STOP)
        run = subprocess.Popen(
            command(UPGRADE), stdout=subprocess.DEVNULL, env=environment(False), start_new_session=True
        )
        processes = stopped.result().split()
    # The controller before what it waits for, or it would have the old version started.
    kill(run)
    on("db1", "kill", "-9", *processes)
    assert on("db1", "systemctl", "is-active", "postgresql@15-main", check=False).stdout.strip() != "active"

    with (ROOT / ".lab/upgrade.log").open("w") as log:
        run = subprocess.Popen(command(UPGRADE), stdout=log, stderr=log, env=environment(False))
        eventually(lambda: client("SELECT 7", check=False).returncode == 0, seconds=120)
        podman("cp", str(ROOT / "molecule/shared/files/ledger.py"), "offramp-upgrade-web1:/root/")
        ledger = ["podman", "exec", "--env", ENVIRONMENT, "offramp-upgrade-web1", "python3", "/root/ledger.py"]
        writers = subprocess.Popen([*ledger, "/root/ledger.txt", "600", "3"])
        assert run.wait() == 0, (ROOT / ".lab/upgrade.log").read_text()[-4000:]
    on("web1", "pkill", "-f", "ledger.py", check=False)
    writers.wait()
    said = re.sub(r"\s+", " ", (ROOT / ".lab/upgrade.log").read_text())

    assert [version(host) for host in SERVERS] == [17, 17]
    assert follows()
    lines = on("web1", "cat", "/root/ledger.txt").splitlines()
    assert [line for line in lines if line.startswith("error")] == []
    acknowledged = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert len(acknowledged) > 100
    assert set(acknowledged) <= set(sql("db1", "SELECT name FROM ledger").split())
    times = sorted(acknowledged.values())
    print(f"{len(times)} commits; the clients waited {max(b - a for a, b in pairwise(times)):.1f} s")
    assert sql("db1", ALL_ROWS) == content["rows"]
    assert re.search(r"\d+ tables and \d+ rows, as many as before", said)
    for host in SERVERS:
        assert [(major, state) for major, *_, state in clusters(host)] == [("15", "down"), ("17", "online")]


def test_the_new_version_has_what_the_old_one_had():
    assert sql("db1", "SHOW data_checksums") == "on"
    assert sql("db1", "SHOW port") == "5432"
    assert sql("db1", "SHOW log_min_messages") == "notice"
    assert "offramp.conf" in sql("db1", "SELECT sourcefile FROM pg_settings WHERE name = 'shared_buffers'")
    assert sql("db1", "SELECT count(*) FROM pg_stats WHERE tablename = 'orders' AND attname = 'what'") == "1"
    assert sql("db1", TRGM) == "t"


def test_what_another_libc_and_icu_ordered_was_built_anew_and_nothing_else(content):
    """The new cluster says of en-x-icu that it is of its own ICU, though the old one's built the index."""
    probe, german = files("probe"), files("german")
    assert german["by_word"] != content["german"]["by_word"]
    assert probe["by_word"] != content["probe"]["by_word"]
    assert probe["by_name"] != content["probe"]["by_name"]
    assert probe["by_what"] == content["probe"]["by_what"]
    mismatched = "SELECT count(*) FROM pg_database WHERE datcollversion <> pg_database_collation_actual_version(oid)"
    assert sql("db1", mismatched) == "0"
    assert (
        sql("db1", "SELECT collversion = pg_collation_actual_version(oid) FROM pg_collation WHERE collname = 'own'")
        == "t"
    )


def test_the_new_version_is_backed_up():
    assert "BAD" not in on("db1", "backup-status")
    told = on("db1", "runuser", "-u", "postgres", "--", "pgbackrest", "info", "--stanza=main")
    assert re.search(r"wal archive min/max \(17", told)


def test_a_run_after_it_changes_nothing():
    done = played()
    assert "there is nothing to upgrade" in done.text
    assert changed(done) == 0
    done = played(playbook="molecule/shared/converge.yml", tags=True)
    assert changed(done) == 0, re.findall(r"TASK \[[^]]*\] \*+ (?:(?!TASK ).)*?changed: .{80}", done.text)


def test_a_moment_before_it_is_refused_and_what_can_be_had_instead_is_said(content):
    done = play("-e", "overwrite=yes", "-e", f"to='{content['before']}'", playbook="playbooks/restore.yml")
    assert done.returncode != 0
    assert "the continuous backup of PostgreSQL 17 reaches back to" in done.text
    assert re.search(r"the dumps of \w+: +-e dump=\w+; base backups of another major version, by hand", done.text)
    assert re.search(r"the cluster of PostgreSQL 15, .{0,40}: +playbooks/postgres_upgrade.yml -e back=true", done.text)
    assert (version("db1"), client("SELECT count(*) FROM orders")) == (17, "20000")
    assert on("db1", "sh", "-c", "ls -d /var/lib/postgresql/17/main*") == "/var/lib/postgresql/17/main"


def test_a_standby_that_cannot_go_back_is_named_before_anything_is_done():
    """Where it has the programs of the older version still, it begins anew: so it does in the next test."""
    on("db2", "pg_dropcluster", "15", "main")
    on("db2", "mv", "/usr/lib/postgresql/15", "/usr/lib/postgresql-15")
    done = play("-e", "back=true accept_loss=true")
    on("db2", "mv", "/usr/lib/postgresql-15", "/usr/lib/postgresql/15")
    assert done.returncode != 0
    assert "Nothing was changed: db2 has kept no cluster of PostgreSQL 15, and has no programs of it" in done.text
    assert [version(host) for host in SERVERS] == [17, 17]


def test_the_way_back_says_what_it_would_lose_first(content, eventually):
    client("INSERT INTO orders (what) VALUES ('after the upgrade')")
    # The counters of a session are told to all when it ends, within a second.
    time.sleep(2)
    refused = play("-e", "back=true")
    assert refused.returncode != 0
    assert re.search(r"\d+ rows were inserted, changed or removed since the upgrade", refused.text)
    assert "-e accept_loss=true" in refused.text
    assert changed(refused) == 0

    played("-e", "back=true accept_loss=true")
    assert [version(host) for host in SERVERS] == [15, 15]
    eventually(follows)
    assert client("SELECT count(*) FROM orders") == "20000"
    assert sql("db1", ALL_ROWS) == content["rows"]
    assert "BAD" not in on("db1", "backup-status")
    # What was written in between is kept, and nothing starts it.
    assert on("db1", "sh", "-c", "ls -d /var/lib/postgresql/17/kept-*")
    assert clusters("db1") == [("15", "main", "5432", "online")]


def test_a_database_of_another_libc_is_put_in_order_while_it_serves(content):
    played(playbook="playbooks/reindex.yml")
    assert files("german")["by_word"] != content["german"]["by_word"]
    assert sql("db1", "SELECT datcollversion FROM pg_database WHERE datname = 'german'") == "2.41"
    assert changed(played(playbook="playbooks/reindex.yml")) == 0
