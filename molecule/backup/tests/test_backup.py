"""What is in the bucket is whole, closed and restorable; what is not is seen the same night. The bucket is real."""

import json
import os
import re
import secrets
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import testinfra

testinfra_hosts = ["ansible://one"]
pytestmark = pytest.mark.usefixtures("host")

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
CANARY = "canary-4f1e0c77"
STORE = {"iptables": "10.90.47.31", "ip6tables": "fd00:10:90:47::31"}
SECRETS = ("lab-store-secret", "cipher-key-for-tests-of-the-backup-0123", "AGE-SECRET-KEY-1")
FILL = """
    DROP SCHEMA IF EXISTS public CASCADE; DROP SCHEMA IF EXISTS "Odd one" CASCADE;
    CREATE SCHEMA public AUTHORIZATION probe; CREATE SCHEMA "Odd one" AUTHORIZATION probe;
    SET ROLE probe;
    CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text NOT NULL);
    INSERT INTO orders (what) SELECT 'CANARY ' || md5(n::text) FROM generate_series(1, 60000) AS n;
    CREATE TABLE customers (id int PRIMARY KEY, name text);
    INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 500) AS n;
    CREATE TABLE "Odd one"."a ""b"" c" (a int); INSERT INTO "Odd one"."a ""b"" c" VALUES (1), (2);
    CREATE TABLE nothing (a int)""".replace("CANARY", CANARY)
TABLES = """
    SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
    WHERE schemaname NOT LIKE 'pg\\_%' AND schemaname <> 'information_schema' ORDER BY 1"""


def sql(host, query, database="probe"):
    return host.check_output("psql --username=postgres -qAt --set=ON_ERROR_STOP=1 --command=%s %s", query, database)


def content(host, database="probe"):
    """The checksum over the rows of every table, by its name."""
    tables = sql(host, TABLES, database).splitlines()
    query = "SELECT md5(coalesce(string_agg(t::text, ';' ORDER BY t::text), '')) FROM {} AS t"
    return {table: sql(host, query.format(table), database) for table in tables}


def offramp(host, *words):
    return host.run(shlex.join(["offramp-backup", *words]))


def good(host, *words):
    done = offramp(host, *words)
    assert done.rc == 0, done.stdout + done.stderr
    return done.stdout


def s3(host, *words):
    return host.check_output(shlex.join(["s3cmd", "-c", "/etc/offramp/backup/s3cfg", "--no-progress", *words]))


def objects(host, under=""):
    rows = s3(host, "ls", "--recursive", f"s3://backups/molecule/{under}").splitlines()
    return [row.split(maxsplit=3)[3] for row in rows]


def manifests(host, verdict="good"):
    return [name for name in objects(host, "databases/") if f"manifest.{verdict}" in name]


def newest(host, item):
    name = manifests(host)[-1]
    return f"{name.rpartition('/')[0]}/{item}"


def through_the_unit(host, run="nightly"):
    """Start a run as its timer does; return its exit code and what the hook was told."""
    # The hourly watch would tell the hook of its own.
    host.check_output("systemctl stop offramp-backup@watch.timer")
    host.check_output("rm -f /var/lib/offramp/hook; systemctl reset-failed 'offramp-backup*'")
    code = host.run(f"systemctl start offramp-backup@{run}").rc
    deadline = time.monotonic() + 20
    while code and not host.file("/var/lib/offramp/hook").exists and time.monotonic() < deadline:
        time.sleep(0.2)
    host.check_output("systemctl start offramp-backup@watch.timer")
    told = host.file("/var/lib/offramp/hook")
    return code, told.content_string if told.exists else ""


def config(host, **values):
    """Change the program's configuration, as another inventory would."""
    path = "/etc/offramp/backup/config.json"
    text = json.loads(host.file(path).content_string) | values
    host.check_output("printf %%s %s >%s", json.dumps(text), path)


@pytest.fixture(scope="module")
def store():
    return testinfra.get_host("ansible://store1")


# What the newest backup holds, from test to test.
MADE = {}


@pytest.fixture
def backed_up(host):
    """Have a database with content, and a good backup of it as the newest one; made anew when it was spent."""
    if not MADE or MADE["sets"] != objects(host, "databases/") or MADE["content"] != content(host):
        sql(host, FILL)
        good(host, "nightly", "--accept")
        MADE.update({"content": content(host), "sets": objects(host, "databases/")})
    return MADE["content"]


@pytest.fixture
def kept_configuration(host):
    host.check_output("cp -a /etc/offramp/backup /root/kept-backup; cp -a /etc/pgbackrest.conf /root/kept-backup/")
    yield
    host.check_output("cp -a /root/kept-backup/pgbackrest.conf /etc/; rm /root/kept-backup/pgbackrest.conf")
    host.check_output("rm -r /etc/offramp/backup; mv /root/kept-backup /etc/offramp/backup")


def play(playbook, *extra):
    environment = {key: value for key, value in os.environ.items() if key != "ANSIBLE_RUN_TAGS"}
    inventories = [f"-i{ROOT}/molecule/shared/inventory/", f"-i{ROOT}/molecule/backup/inventory/"]
    words = [word for value in extra for word in ("-e", value)]
    command = ["ansible-playbook", *inventories, f"playbooks/{playbook}.yml", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    done.text = re.sub(r"(\s|\x1b\[[0-9;]*m)+", " ", done.stdout + done.stderr)
    return done


# What is there is good


@pytest.mark.usefixtures("backed_up")
def test_a_night_leaves_a_good_set_of_each_kind_and_no_rest(host):
    stamp = newest(host, "").split("/")[5]
    assert [name.rpartition("/")[2] for name in objects(host, f"databases/{stamp}/")] == [
        "manifest.good.age",
        "other.dump.age",
        "postgres.dump.age",
        "probe.dump.age",
        "roles.sql.age",
    ]
    assert any(name.endswith("/redis.age") for name in objects(host, "files/one/"))
    assert objects(host, "incoming/") == []
    assert host.run("ls /var/lib/offramp/backup/spool").rc != 0
    assert offramp(host, "status").rc == 0


@pytest.mark.usefixtures("backed_up")
def test_the_newest_of_each_kind_is_restored_and_compared(host):
    done = play("restore_test")
    assert done.returncode == 0, done.text
    for part in ("rehearsal of the dumps", "rehearsal of the base backup", "rehearsal of the files"):
        assert re.search(rf"{part}: \S+.*\(\d+\.\d s\)", done.text), done.text
    assert "4 tables as recorded" in done.text
    # A record of the server's own between two snapshots is enough to have them not count as one moment.
    assert re.search("4 tables, (as recorded|of which 0 were written to in that moment)", done.text)
    assert not host.file("/var/lib/postgresql/offramp-scratch").exists
    assert "took" in good(host, "status")


@pytest.mark.usefixtures("backed_up")
def test_a_restore_with_other_rows_than_recorded_fails_the_rehearsal(host):
    manifest = newest(host, "manifest.good.age")
    s3(host, "get", "--force", manifest, "/root/manifest.age")
    host.check_output(
        'cd /root && age --decrypt -i /etc/offramp/backup/age.key manifest.age | sed \'s/"public.customers": 500/'
        '"public.customers": 501/\' | age --encrypt -i /etc/offramp/backup/age.key >changed.age'
    )
    s3(host, "put", "/root/changed.age", manifest)
    code, told = through_the_unit(host, "rehearse")
    assert code != 0
    assert "probe: public.customers has 500, recorded 501" in told
    s3(host, "put", "/root/manifest.age", manifest)
    assert through_the_unit(host, "rehearse") == (0, "")


@pytest.mark.usefixtures("backed_up", "kept_configuration")
def test_a_restore_that_the_app_cannot_use_fails_the_rehearsal(host):
    """The inventory has a check that says true; these say what is left when the app's data is not whole."""
    assert "SELECT count(*) > 0 FROM orders" in host.file("/etc/offramp/backup/config.json").content_string
    config(host, checks={"probe": "SELECT count(*) > 100000 FROM orders", "other": "SELECT no FROM nowhere"})
    code, told = through_the_unit(host, "rehearse")
    assert code != 0
    assert told.count("backup_check of probe, 'SELECT count(*) > 100000 FROM orders', says False") == 2
    config(host, checks={"other": "SELECT no FROM nowhere"})
    assert 'relation "nowhere" does not exist' in through_the_unit(host, "rehearse")[1]


@pytest.mark.usefixtures("backed_up")
def test_nothing_in_the_bucket_can_be_read_without_the_key(host):
    sql(host, f"CREATE TABLE {CANARY.replace('-', '_')} ()")
    sql(host, "SELECT pg_switch_wal()")
    good(host, "nightly")
    host.check_output("rm -rf /root/bucket && mkdir /root/bucket")
    s3(host, "get", "--recursive", "s3://backups/molecule/", "/root/bucket/")
    assert int(host.check_output("find /root/bucket -type f | wc -l")) > 20
    readable = host.run("grep -rlaE 'canary.4f1e0c77|customer 4|PGDMP|PostgreSQL' /root/bucket")
    assert readable.stdout == ""
    host.check_output("rm -r /root/bucket")


@pytest.mark.usefixtures("backed_up")
def test_no_secret_is_in_a_process_list_a_log_or_an_open_file(host):
    watch = "until [ -e /root/stop ]; do cat /proc/[0-9]*/cmdline; sleep 0.02; done >/root/seen 2>/dev/null"
    host.check_output(f"rm -f /root/stop /root/seen; systemd-run --quiet --unit=watch-the-processes sh -c '{watch}'")
    host.check_output("(offramp-backup nightly; offramp-backup rehearse) >/root/said 2>&1; touch /root/stop; sleep 0.2")
    assert "pg_dump" in host.check_output("tr '\\0' ' ' </root/seen | grep -a -m1 -o pg_dump")
    for secret in SECRETS:
        found = host.run("grep -alr -e %s /root/seen /root/said /var/log /var/lib/offramp", secret)
        assert found.stdout == ""
        assert host.run("journalctl --no-pager | grep -q -e %s", secret).rc != 0
    for file in ("/etc/offramp/backup/s3cfg", "/etc/offramp/backup/age.key", "/etc/pgbackrest.conf"):
        assert host.run("runuser -u nobody -- cat %s", file).rc != 0
    host.check_output("rm /root/seen /root/said /root/stop")


def test_redis_comes_back_as_it_was(host):
    client = "redis-cli --user offramp --no-auth-warning -s /run/redis/redis-server.sock"
    auth = f"REDISCLI_AUTH=redis-password-for-tests {client}"
    host.check_output(f"{auth} set job {CANARY}")
    good(host, "nightly", "--accept")
    host.check_output(f"{auth} flushall")
    assert "the bucket holds no good backup of files/other" in offramp(host, "files", "--host=other").stderr
    assert "redis" in good(host, "files")
    assert host.check_output(f"{auth} get job") == CANARY
    host.check_output(f"{auth} set later 1; systemctl restart redis-server")
    assert host.check_output(f"{auth} get job; {auth} get later") == f"{CANARY}\n1"


# B1 to B6: what goes wrong at night is seen, and costs nothing


def older_pg_dump(host, _store):
    tool = host.check_output("ls /usr/lib/postgresql/*/bin/pg_dump")
    script = "#!/bin/sh\\necho pg_dump \\(PostgreSQL\\) 13.9\\n"
    host.check_output(f"mv {tool} {tool}.kept; printf '{script}' >{tool}; chmod +x {tool}")
    yield
    host.check_output(f"mv {tool}.kept {tool}")


def nobody_let_in(host, _store):
    file = host.check_output("ls /etc/postgresql/*/main/pg_hba.conf")
    # PostgreSQL goes on with the old rules where the new ones are empty.
    host.check_output(f"cp -a {file} {file}.kept; echo local all all reject >{file}; systemctl reload 'postgresql@*'")
    yield
    host.check_output(f"mv {file}.kept {file}; systemctl reload 'postgresql@*'")


def revoked_key(_host, store):
    restart = "systemctl restart store-proxy; until curl -sf http://127.0.0.1:8080/healthcheck; do sleep 0.1; done"
    store.check_output(f"sed -i 's/lab-store-secret/another-secret/' /etc/swift/proxy-server.conf; {restart}")
    yield
    store.check_output(f"sed -i 's/another-secret/lab-store-secret/' /etc/swift/proxy-server.conf; {restart}")


def missing_bucket(host, _store):
    bucket = 'sed -i \'s/bucket": "{}"/bucket": "{}"/\' /etc/offramp/backup/config.json'
    host.check_output(bucket.format("backups", "no-such-bucket"))
    yield
    host.check_output(bucket.format("no-such-bucket", "backups"))


def full_disk(host, _store):
    host.check_output("mount -t tmpfs -o size=600k,mode=0700 full /var/lib/offramp/backup")
    yield
    host.check_output("umount /var/lib/offramp/backup")


def killed_dump(host, _store):
    script = "until pkill -9 -f [p]g_dump.*dbname=probe; do sleep 0.01; done"
    host.check_output(f"systemd-run --quiet --unit=kill-the-dump sh -c '{script}'")
    yield
    host.run("systemctl stop kill-the-dump")


def silent_bucket(host, _store):
    """Its packets are lost, so that nobody says no."""
    for program, address in STORE.items():
        host.check_output(f"{program} -I OUTPUT -d {address} -j DROP")
    yield
    for program, address in STORE.items():
        host.check_output(f"{program} -D OUTPUT -d {address} -j DROP")


FAULTS = {
    "a pg_dump older than the server": (older_pg_dump, "needs a pg_dump 17|needs a pg_dump 15"),
    "PostgreSQL lets nobody in": (nobody_let_in, "PostgreSQL lets nobody in"),
    "the bucket refuses the key": (revoked_key, "SignatureDoesNotMatch|403"),
    "the bucket's server is silent": (silent_bucket, "the bucket's server .* does not answer"),
    "the bucket is not there": (missing_bucket, "no-such-bucket|NoSuchBucket|404"),
    "the disk is full in the middle of a dump": (full_disk, "(?i)no space left"),
    "the dump is killed half way": (killed_dump, "pg_dump ended with -9"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("backed_up")
def test_a_fault_fails_the_unit_is_told_and_leaves_the_backups_as_they_were(host, store, fault):
    inject, words = FAULTS[fault]
    before = objects(host, "databases/")
    injected = inject(host, store)
    next(injected)
    try:
        code, told = through_the_unit(host)
        assert host.run("systemctl is-failed offramp-backup@nightly").rc == 0
    finally:
        next(injected, None)
    assert code != 0
    assert re.search(words, told), told
    assert objects(host, "databases/") == before
    assert through_the_unit(host) == (0, "")


def test_postgresql_stops_and_starts_while_the_bucket_is_silent(host, store):
    """What is not archived yet is tried again by a server that stops, three times."""
    cut = silent_bucket(host, store)
    next(cut)
    try:
        sql(host, "CREATE TEMP TABLE t (a int); SELECT pg_switch_wal()")
        host.check_output("timeout 60 systemctl restart 'postgresql@*'")
        waits = "SELECT count(*) > 0 FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
        assert sql(host, waits) == "t"
    finally:
        next(cut, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DELETE FROM orders WHERE id > 6000", r"the dump of probe has \d+ bytes, less than half of the usual \d+"),
        (
            'TRUNCATE orders, customers, "Odd one"."a ""b"" c"',
            "the database probe is empty, and was not before",
        ),
        ('DROP SCHEMA public, "Odd one" CASCADE', "the database probe is empty, and was not before"),
    ],
    ids=["shrunk", "emptied", "dropped"],
)
@pytest.mark.usefixtures("backed_up")
def test_a_dump_that_lost_most_of_its_rows_is_bad_and_does_not_count(host, change, words):
    last = manifests(host)
    sql(host, change)
    code, told = through_the_unit(host)
    assert code != 0
    assert re.search(words, told), told
    assert manifests(host) == last
    assert len(manifests(host, "bad")) >= 1
    good(host, "nightly", "--accept")
    assert manifests(host) != last


# B7


@pytest.mark.usefixtures("backed_up")
def test_a_backup_that_is_missing_for_26_hours_is_told(host):
    assert through_the_unit(host, "watch") == (0, "")
    old = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - 27 * 3600))
    for name in objects(host, "databases/"):
        s3(host, "mv", name, f"s3://backups/molecule/databases/{old}/{name.rpartition('/')[2]}")
    code, told = through_the_unit(host, "watch")
    assert code != 0
    assert "dumps: none for 27 hours, 26 hours are allowed" in told
    status = offramp(host, "status")
    assert status.rc != 0
    assert "BAD dumps" in status.stderr


def test_a_run_of_the_timers_reaches_nothing_but_what_it_is_for(host):
    """What stands in for another role's command tries it from inside, in a real run."""
    tried = "for path in /etc/outside /usr/outside /srv/outside; do ! touch $path 2>/dev/null || exit 1; done"
    looked = '[ ! -e /tmp/outside ] && [ -z "$(ls -A /home)" ] && touch /tmp/inside && echo kept in'
    command = ["sh", "-c", f"{tried}; {looked}"]
    declared = {"name": "tried", "command": command, "check": ["grep", "-q", "kept in"], "restore": ["true"]}
    host.check_output("printf %%s %s >/etc/offramp/backup.d/tried.json; touch /tmp/outside", json.dumps(declared))
    code, told = through_the_unit(host)
    host.check_output("rm /etc/offramp/backup.d/tried.json /tmp/outside")
    assert code == 0, told
    rated = host.run("systemd-analyze security --no-pager --threshold=25 offramp-backup@nightly.service")
    assert rated.rc == 0, rated.stdout


def test_each_timer_runs_and_makes_up_for_what_it_missed(host):
    for run in ("nightly", "rehearse", "watch"):
        wanted = "ActiveState,Persistent,UnitFileState"
        shown = host.check_output("systemctl show --property=%s offramp-backup@%s.timer", wanted, run)
        assert set(shown.splitlines()) == {"ActiveState=active", "Persistent=yes", "UnitFileState=enabled"}


# B8


DAMAGE = """
import os, random, sys
from pathlib import Path
dice = random.Random(int(sys.argv[1]))
def flip(path):
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
def truncate(path):
    os.truncate(path, path.stat().st_size - 1 - dice.randrange(16))
def swap(path, other):
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)
root, damaged = Path("/root/damaged"), []
sets = sorted((root / "databases").iterdir())
for number, one in enumerate(sets):
    dumps, manifest = sorted(one.glob("*.dump.age")) + sorted(one.glob("roles*")), next(one.glob("manifest.*"))
    if number % 4 == 2:
        # Nothing else of it can be compared any more.
        (flip if number % 8 == 2 else truncate)(manifest)
        damaged.append(manifest)
    elif number == 1:
        swap(dumps[0], dumps[1])
        truncate(dumps[2])
        damaged += dumps[:3]
    else:
        for path in dumps:
            flip(path)
        damaged += dumps
files = sorted((root / "files").rglob("redis.age"))
wal = sorted(path for path in (root / "pgbackrest/archive").rglob("*-*.zst"))
bases = sorted((root / "pgbackrest/backup").rglob("bundle/*"))
manifests = sorted((root / "pgbackrest/backup").rglob("backup.manifest"))
for path in (*files, *wal[1:4], *bases[-2:], manifests[-1]):
    flip(path)
swap(wal[4], wal[5])
damaged += [*files, *wal[1:6], *bases[-2:], manifests[-1]]
whole = set(root.rglob("*")) - set(damaged)
for path in whole:
    if path.is_file():
        path.unlink()
print("\\n".join(str(path.relative_to(root)) for path in damaged))
"""


@pytest.mark.usefixtures("backed_up")
def test_damage_anywhere_in_the_bucket_is_found_and_named_by_the_night(host):
    """Flipped bytes, cut and swapped objects, a lost segment: a hundred at once, of each kind of object."""
    bucket, databases = "s3://backups/molecule", "s3://backups/molecule/databases"
    stamp = newest(host, "").split("/")[5]
    # A swap wants two segments of different content.
    for _ in range(6):
        sql(host, "SELECT pg_logical_emit_message(true, 'test', random()::text); SELECT pg_switch_wal()")
    host.check_output("rm -rf /root/whole /root/damaged /root/more; mkdir -p /root/whole /root/more")
    s3(host, "get", "--recursive", f"{databases}/{stamp}/", "/root/whole/")
    host.check_output("for n in $(seq 10 39); do cp -r /root/whole /root/more/20200101T0000${n}Z; done")
    s3(host, "put", "--recursive", "/root/more/", f"{databases}/")
    host.check_output("rm -r /root/whole; mkdir /root/whole")
    s3(host, "get", "--recursive", f"{bucket}/", "/root/whole/")
    host.check_output("cp -r /root/whole /root/damaged")
    damaged = host.check_output("python3 -c %s %s", DAMAGE, str(secrets.randbelow(10**9))).split()
    assert len(damaged) >= 100
    lost = re.search(r"/([0-9A-F]{24})-", [name for name in objects(host, "pgbackrest/archive/") if "-" in name][-3])
    s3(host, "put", "--recursive", "/root/damaged/", f"{bucket}/")
    segment = next(name for name in objects(host, "pgbackrest/archive/") if lost[1] + "-" in name)
    s3(host, "del", segment)
    try:
        sets = manifests(host)
        host.check_output("rm -f /var/lib/offramp/backup/state.json")
        code, told = through_the_unit(host)
        status = offramp(host, "status")
        # An old one that is damaged keeps the night from no backup.
        assert len(manifests(host)) == len(sets) + 1
    finally:
        s3(host, "put", "--recursive", "/root/whole/", f"{bucket}/")
        s3(host, "del", "--recursive", f"{databases}/2020")
        host.check_output("rm -r /root/whole /root/damaged /root/more")
    assert code != 0
    assert [name for name in damaged if re.sub("^pgbackrest/[a-z]+/main/", "", name) not in told] == []
    assert f"the segment {lost[1]} is missing" in told
    assert status.rc != 0
    assert "BAD objects of databases" in status.stderr
    good(host, "verify")


def damage_flip(host, name):
    s3(host, "get", "--force", name, "/root/object")
    host.check_output("cp /root/object /root/whole")
    flip = "path = Path('/root/object'); whole = path.read_bytes(); path.write_bytes(whole[:99] + b'?!' + whole[101:])"
    host.check_output("python3 -c %s", f"from pathlib import Path; {flip}")
    s3(host, "put", "/root/object", name)
    return lambda: s3(host, "put", "/root/whole", name)


@pytest.mark.parametrize("item", ["probe.dump.age", "manifest.good.age"])
def test_a_restore_refuses_a_damaged_dump_and_takes_an_older_one_only_by_name(host, backed_up, item):
    older = copy_of_newest(host, 1)
    name = newest(host, item)
    heal = damage_flip(host, name)
    try:
        refused = offramp(host, "restore", "--dump=latest", "--database=probe", "--overwrite")
        assert refused.rc != 0
        assert name.partition("/molecule/")[2] in refused.stderr
        assert content(host) == backed_up
        sql(host, "DELETE FROM orders")
        told = good(host, "restore", f"--dump={older}", "--database=probe", "--overwrite")
        assert content(host) == backed_up
    finally:
        heal()
    sql(host, f'DROP DATABASE "{re.search(r"database (probe.before-[0-9TZ]+)", told)[1]}"', "postgres")


# B10


@pytest.mark.parametrize("extra", [(), ("app=probe",)], ids=["the whole cluster", "one app's database"])
@pytest.mark.usefixtures("backed_up")
def test_a_dropped_table_is_restored_to_the_moment_before_row_for_row(host, extra):
    sql(host, "INSERT INTO orders (what) SELECT 'later ' || n FROM generate_series(1, 1000) AS n")
    expected = content(host)
    time.sleep(1)
    moment = sql(host, "SELECT clock_timestamp()")
    time.sleep(1)
    sql(host, "DROP TABLE orders; DELETE FROM customers")
    sql(host, "SELECT pg_switch_wal()")
    refused = play("restore", f'{{"to": "{moment}"}}', *extra)
    assert refused.returncode != 0
    assert "there is data in probe" in refused.text
    done = play("restore", f'{{"to": "{moment}"}}', "overwrite=yes", *extra)
    assert done.returncode == 0, done.text
    assert content(host) == expected
    kept = re.search(r"What was there is in (?:the database )?(\S+before-\w+)", done.text)[1]
    if extra:
        assert "public.orders" not in content(host, kept)
        sql(host, f'DROP DATABASE "{kept}"', "postgres")
    else:
        assert host.file(kept).is_directory
        host.check_output("rm -r %s", kept)
    # The WAL of what came after is archived too, and the next night is as good as any.
    good(host, "nightly", "--accept")


def test_a_moment_that_has_just_passed_is_restored_where_nothing_was_written_since(host, backed_up):
    moment = sql(host, "SELECT clock_timestamp()")
    told = good(host, "restore", f"--to={moment}", "--database=probe", "--overwrite")
    assert content(host) == backed_up
    sql(host, f'DROP DATABASE "{re.search(r"(probe.before-[0-9TZ]+)", told)[1]}"', "postgres")


def test_what_was_committed_a_minute_ago_is_in_the_bucket(host):
    limit = sql(host, "SELECT setting::int FROM pg_settings WHERE name = 'archive_timeout'")
    assert 0 < int(limit) <= 60


# B12


@pytest.mark.usefixtures("backed_up")
def test_two_runs_at_once_make_one_good_backup(host):
    night = "offramp-backup nightly"
    both = host.run(f"{night} >/root/first 2>&1 & {night}; second=$?; wait $! && exit $second")
    assert both.rc == 0, both.stdout
    today = time.strftime("/%Y%m%dT", time.gmtime())
    assert len([name for name in manifests(host) if today in name]) == 1
    good(host, "verify")


# B13


def copy_of_newest(host, days, verdict="good"):
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - days * 86400))
    folder = newest(host, "")
    for name in [name for name in objects(host, "databases/") if name.startswith(folder)]:
        item = name.rpartition("/")[2].replace(".good.", f".{verdict}.")
        s3(host, "cp", name, f"s3://backups/molecule/databases/{stamp}/{item}")
    return stamp


@pytest.fixture
def one_set(host):
    """Have no other set of dumps than the newest: another test's may be of any day, by the hour that it ran at."""
    others = [name for name in objects(host, "databases/") if not name.startswith(newest(host, ""))]
    if others:
        s3(host, "del", *others)


def sets(host):
    return {name.split("/")[5] for name in objects(host, "databases/")}


@pytest.mark.usefixtures("backed_up", "one_set")
def test_days_weeks_and_months_are_kept_and_the_rest_goes(host):
    stamps = {days: copy_of_newest(host, days) for days in (1, 2, 9, 10, 45, 300)}
    good(host, "nightly", "--accept")
    # With seven days there are newest sets of each month and week among them.
    assert {stamps[1], stamps[2]} <= sets(host)
    config_kept = json.loads(host.file("/etc/offramp/backup/config.json").content_string)["kept"]
    try:
        config(host, kept={"days": 1, "weeks": 0, "months": 1})
        good(host, "nightly", "--accept")
        assert len(manifests(host)) == 1
    finally:
        config(host, kept=config_kept)


@pytest.mark.usefixtures("backed_up", "one_set")
def test_the_last_good_one_is_kept_whatever_its_age(host):
    old = copy_of_newest(host, 200)
    bad = {copy_of_newest(host, days, "bad") for days in (1, 2, 20)}
    today = newest(host, "").split("/")[5]
    for name in [name for name in objects(host, "databases/") if f"/{today}/" in name]:
        s3(host, "del", name)
    kept = json.loads(host.file("/etc/offramp/backup/config.json").content_string)["kept"]
    try:
        config(host, kept={"days": 0, "weeks": 0, "months": 0})
        prune = (
            "from importlib import machinery, util\n"
            "loader = machinery.SourceFileLoader('backup', '/usr/local/sbin/offramp-backup')\n"
            "program = util.module_from_spec(util.spec_from_loader('backup', loader))\n"
            "loader.exec_module(program)\n"
            "program.Backup().prune('databases')\n"
        )
        host.check_output("python3 -c %s", prune)
    finally:
        config(host, kept=kept)
    assert old in sets(host)
    assert len(sets(host) & bad) == 2


@pytest.mark.usefixtures("kept_configuration")
def test_the_wrong_key_is_said_to_be_wrong(host, backed_up):
    host.check_output("age-keygen >/etc/offramp/backup/age.key 2>/dev/null")
    host.check_output("sed -i 's/^repo1-cipher-pass=.*/repo1-cipher-pass=another/' /etc/pgbackrest.conf")
    done = offramp(host, "restore", "--dump=latest", "--overwrite")
    assert done.rc != 0
    assert "was made with another key" in done.stderr
    done = offramp(host, "restore", "--overwrite")
    assert done.rc != 0
    assert content(host) == backed_up


# Restoring by name


def test_a_named_dump_takes_the_place_of_one_database_and_keeps_what_was_there(host, backed_up):
    stamp = newest(host, "").split("/")[5]
    sql(host, "DELETE FROM orders")
    done = play("restore", f"dump={stamp}", "app=probe", "overwrite=yes")
    assert done.returncode == 0, done.text
    assert content(host) == backed_up
    kept = re.search(r"is in the database (\S+before-\w+)", done.text)[1]
    assert sql(host, "SELECT count(*) FROM orders", kept) == "0"
    sql(host, f'DROP DATABASE "{kept}"', "postgres")
    url = f"postgres://probe:probe-password-for-tests@{host.ansible.get_variables()['address']}/probe?sslmode=require"
    assert host.check_output("psql -qAt --command=%s %s", "SELECT count(*) FROM orders", url) == "60000"


def test_a_cluster_that_does_not_start_any_more_is_restored(host, backed_up):
    unit = host.check_output("systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1")
    host.check_output("systemctl stop %s; rm /var/lib/postgresql/*/main/global/pg_control", unit)
    refused = play("restore", "overwrite=no")
    assert refused.returncode != 0
    assert "does not run" in refused.text
    done = play("restore", "overwrite=yes")
    assert done.returncode == 0, done.text
    assert content(host) == backed_up
    host.check_output("rm -r /var/lib/postgresql/*/main.before-*")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--to=yesterday",), "is no time with its zone"),
        (("--to=2031-01-01 00:00:00+00",), "is yet to come"),
        (("--to=2020-01-01 00:00:00+00",), "lies before that. What can be restored: the dumps of 20"),
        (("--dump=20200101T000000Z",), "there is no databases/20200101T000000Z"),
        (("--to=2020-01-01 00:00:00+00", "--dump=latest"), "exclude each other"),
    ],
)
def test_a_restore_of_what_is_not_there_changes_nothing(host, backed_up, asked, words):
    done = offramp(host, "restore", "--overwrite", *asked)
    assert done.rc != 0
    assert words in done.stderr
    assert content(host) == backed_up
    assert host.check_output("ls -d /var/lib/postgresql/*/main*").count("main") == 1
