"""All servers are lost: from this repository, the vault and the bucket the site is back by one command."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import testinfra

testinfra_hosts = ["ansible://db1"]
pytestmark = pytest.mark.usefixtures("host")

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = os.environ["MOLECULE_SCENARIO_NAME"]
SERVERS = ("web1", "db1", "db2")
FILL = """
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
    CREATE ROLE reader;
    SET ROLE probe;
    CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
    INSERT INTO orders (what) SELECT md5(n::text) FROM generate_series(1, 100000) AS n;
    CREATE TABLE pictures (id int, content oid);
    INSERT INTO pictures VALUES (1, lo_from_bytea(0, 'a large object'));
    GRANT SELECT ON orders TO reader;
    RESET ROLE;
    ALTER DATABASE probe SET work_mem = '7MB'"""
# All that a database is, in lines that can be compared.
LOOKS = {
    "roles": "SELECT rolname, rolcanlogin, rolpassword FROM pg_authid WHERE rolname !~ '^pg_' ORDER BY 1",
    "grants": "SELECT relname, relowner::regrole, relacl FROM pg_class WHERE relacl IS NOT NULL ORDER BY 1",
    "databases": "SELECT datname, datdba::regrole, datacl FROM pg_database ORDER BY 1",
    "settings": "SELECT setdatabase, setrole, setconfig FROM pg_db_role_setting ORDER BY 1, 2",
    "extensions": "SELECT extname, extversion FROM pg_extension ORDER BY 1",
    "large objects": "SELECT loid, pageno, md5(data) FROM pg_largeobject ORDER BY 1, 2",
}
SEQUENCES = "SELECT last_value FROM pg_sequences ORDER BY schemaname, sequencename"
# A sequence writes so many values ahead into the WAL, and goes on behind them.
AHEAD = 32
TABLES = """
    SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
    WHERE schemaname NOT LIKE 'pg\\_%' AND schemaname <> 'information_schema' ORDER BY 1"""


def server(name):
    return testinfra.get_host(f"ansible://{name}")


def present_primary():
    asked = "psql --username=postgres -qAt --command='SELECT pg_is_in_recovery()' postgres"
    return next(name for name in SERVERS[1:] if server(name).run(asked).stdout.strip() == "f")


def sql(query):
    return server(present_primary()).check_output(
        "psql --username=postgres -qAt --set=ON_ERROR_STOP=1 --command=%s probe", query
    )


def everything():
    rows = "SELECT count(*), md5(coalesce(string_agg(t::text, ';' ORDER BY t::text), '')) FROM {} AS t"
    return {table: sql(rows.format(table)) for table in sql(TABLES).splitlines()} | {
        name: sql(query) for name, query in LOOKS.items()
    }


def sequences():
    return [int(value) for value in sql(SEQUENCES).split()]


SOCKET = ("-s", "/run/redis/redis-server.sock")


def redis(*words):
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
    return server(present_primary()).check_output(" ".join(command))


def play(playbook, *options):
    environment = {key: value for key, value in os.environ.items() if key != "ANSIBLE_RUN_TAGS"}
    inventories = [f"-i{ROOT}/molecule/{part}/inventory/" for part in ("shared", SCENARIO)]
    command = ["ansible-playbook", *inventories, f"{playbook}.yml", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lose_the_servers():
    for name in SERVERS:
        subprocess.run(["ssh", "-F", f".lab/ssh/{SCENARIO}", "-O", "exit", name], cwd=ROOT, check=False)
    containers = " ".join(f"offramp-{SCENARIO}-{name}" for name in SERVERS)
    lose = f". script/lib.sh; . lab/podman.sh; podman rm --force --time 0 {containers}"
    subprocess.run(["bash", "-euc", lose], cwd=ROOT, check=True)
    subprocess.run(["lab/hosts.py", "up", f"--lab={SCENARIO}"], cwd=ROOT, check=True)


def visit():
    command = "curl --silent --insecure --resolve probe.example:443:127.0.0.1 --write-out '%{http_code}' https://probe.example/"
    return server("web1").check_output(command)


def test_a_site_of_which_nothing_is_left_comes_back_as_it_was():
    sql(FILL)
    server("web1").check_output(
        "echo a picture >/srv/www/probe/media/picture; chown probe /srv/www/probe/media/picture || true"
    )
    redis("set", "job", "waiting")
    assert "200" in visit()
    play("playbooks/backup")
    # What was written after the night is in the bucket within the time limit.
    sql("INSERT INTO orders (what) VALUES ('after the backup')")
    time.sleep(15)
    before, reached = everything(), sequences()

    lose_the_servers()
    assert server("db1").run("psql --version").rc != 0 or server("db1").run("psql --username=postgres probe").rc != 0
    # What it would do can be looked at first, on servers that have nothing yet.
    play("site", "--check", "--diff")
    begin = time.monotonic()
    said = play("playbooks/rebuild")
    print(f"rebuilt in {time.monotonic() - begin:.0f} s")

    assert re.search(r"Restored the whole cluster", said)
    after = everything()
    for name in sorted(before.keys() | after.keys()):
        assert after.get(name) == before.get(name), name
    assert all(0 <= now - then <= AHEAD for then, now in zip(reached, sequences(), strict=True))
    assert redis("get", "job") == "waiting"
    assert server("web1").check_output("cat /srv/www/probe/media/picture") == "a picture"
    assert "200" in visit()
    # The standby follows the restored primary, a run changes nothing any more, and the next night is as good as any.
    assert sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
    assert set(re.findall(r"changed=(\d+)", play("site", "--check", "--diff"))) == {"0"}
    play("playbooks/backup")
    play("playbooks/restore_test")
