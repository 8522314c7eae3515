"""A dump from Heroku goes in as a whole or not at all, and an app that nobody has seen comes over with it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://one"]
pytestmark = pytest.mark.usefixtures("host")

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
FILES = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "files"
SSH = ["-F", str(ROOT / ".lab/ssh" / os.environ["MOLECULE_SCENARIO_NAME"])]
EXTENSIONS = ("citext", "hstore", "pg_trgm", "pgcrypto", "uuid-ossp")
ROWS = {
    '"odd schema"."an ""odd"" table"': 3,
    'public."Posts"': 2000,
    "public.animals": 1,
    "public.dogs": 2,
    "public.events_2025": 30,
    "public.events_2026": 30,
    "public.no_columns": 1,
    "public.nothing": 0,
    "public.users": 500,
}
# Built with the server's own tools, in a directory that is gone after the scenario.
BUILD = "su postgres -c 'psql --quiet --set ON_ERROR_STOP=1 --file=/tmp/heroku.sql postgres' && "
# Through a pipe, as Heroku writes one: such a dump holds its table of contents once, and no offsets.
DUMP = "su postgres -c 'pg_dump --format=custom {database}' | cat >/tmp/{name}.dump"
# Kills the module as soon as it restores, and what it started after it.
KILL = """
for _ in $(seq 600); do
  restoring=$(pgrep -f '[p]g_restore .*--jobs' | head -n 1)
  [ -z "$restoring" ] || break
  sleep 0.1
done
kill -KILL $(ps -o ppid= -p "$restoring")
pkill -KILL -x pg_restore
"""


def fetch(name, directory):
    subprocess.run(["scp", "-q", *SSH, f"root@one:/tmp/{name}.dump", directory], check=True)
    return directory / f"{name}.dump"


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    """Return a dump of Heroku's shape, made by this host's PostgreSQL."""
    subprocess.run(["scp", "-q", *SSH, FILES / "heroku.sql", "root@one:/tmp/"], check=True)
    made = BUILD + DUMP.format(database="d8f3k2", name="latest")
    subprocess.run(["ssh", *SSH, "root@one", made], check=True, stdin=subprocess.DEVNULL)
    return fetch("latest", tmp_path_factory.mktemp("dump"))


@pytest.fixture
def empty(host):
    """Give the app its database back as a first run of site.yml leaves it."""
    for name in ("probe", "probe.import", "probe.before", "probe.empty"):
        admin(host, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    admin(
        host,
        "CREATE DATABASE probe OWNER probe TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'",
    )
    admin(host, "REVOKE ALL ON DATABASE probe FROM PUBLIC")


def admin(host, query, database="postgres"):
    return host.check_output(
        "psql --username=postgres --no-align --tuples-only --quiet --command=%s %s", query, database
    )


def as_app(host, query):
    address = host.ansible.get_variables()["address"]
    url = f"postgres://probe:probe-password-for-tests@{address}/probe?sslmode=require"
    return host.run("psql --no-align --tuples-only --quiet --command=%s %s", query, url)


def databases(host):
    return set(admin(host, "SELECT datname FROM pg_database").split()) - {"postgres", "template0", "template1"}


def untagged():
    """Return the environment without the tags that the scenario converges by."""
    return {key: value for key, value in os.environ.items() if key != "ANSIBLE_RUN_TAGS"}


def play(*arguments, playbook="playbooks/import_dump.yml"):
    command = ["ansible-playbook", playbook, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, cwd=ROOT, env=untagged(), capture_output=True, text=True, check=False)
    done.text = done.stdout + done.stderr
    return done


def take(file, *arguments):
    return play("-e", "app=probe", "-e", f"dump={file}", *arguments)


def changes(done):
    return sum(int(number) for number in re.findall(r"changed=(\d+)", done.text))


def refused(host, file, *arguments):
    """Run an import that fails; return what it says, after a look at the database, which has to be as it was."""
    before = state(host)
    done = take(file, *arguments)
    assert done.returncode != 0, done.text
    assert state(host) == before
    assert host.run("ls /var/lib/offramp/*.dump").rc != 0
    return done.text


def state(host):
    content = admin(
        host, "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_|^info'", "probe"
    )
    return databases(host), content, admin(host, "SELECT oid, datconnlimit FROM pg_database WHERE datname = 'probe'")


@pytest.mark.usefixtures("empty")
def test_check_mode_looks_and_changes_nothing(host, dump):
    before = state(host)
    done = take(dump, "--check", "--diff")
    assert done.returncode == 0, done.text
    assert state(host) == before


@pytest.mark.usefixtures("empty")
def test_every_row_of_every_table_arrives(host, dump):
    done = take(dump)
    assert done.returncode == 0, done.text
    for table, rows in ROWS.items():
        assert f"{table}: {rows}" in done.text
        only = "ONLY" if table != "public.events" else ""
        assert admin(host, " ".join(["SELECT count(*) FROM", only, table]), "probe") == str(rows)
    assert databases(host) >= {"probe"}
    assert not {"probe.import", "probe.empty"} & databases(host)
    assert host.run("ls /var/lib/offramp/*.dump").rc != 0


def test_all_else_of_the_database_arrives(host):
    assert admin(host, "SELECT count(*) FROM public.totals", "probe") == "500"
    assert admin(host, "SELECT count(*) FROM public.authors", "probe") == "500"
    assert admin(host, "SELECT nextval('public.users_id_seq')", "probe") == "501"
    assert admin(host, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal", "probe") == "touched"
    assert admin(host, "SELECT obj_description('public.users'::regclass)", "probe") == "who may log in"
    assert (
        admin(host, "SELECT convert_from(lo_get(oid), 'UTF8') FROM pg_largeobject_metadata", "probe")
        == "a large object"
    )
    assert admin(host, "SELECT reltuples FROM pg_class WHERE oid = 'public.users'::regclass", "probe") == "500"


def test_the_extensions_are_where_the_app_looks_for_them(host):
    found = admin(
        host, "SELECT extname FROM pg_extension WHERE extnamespace = 'heroku_ext'::regnamespace ORDER BY 1", "probe"
    )
    assert tuple(found.split()) == EXTENSIONS
    assert (
        admin(host, "SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'pg_stat_statements'", "probe")
        == "public"
    )
    # Without a schema before the names, as code that grew up on Heroku has it.
    assert (
        as_app(host, "SELECT email FROM users WHERE email = 'USER7@example.com'::citext").stdout
        == "User7@Example.com\n"
    )
    assert as_app(host, "SELECT length(uuid_generate_v4()::text)").stdout == "36\n"


def test_everything_belongs_to_the_apps_role(host):
    owners = """
    SELECT DISTINCT pg_get_userbyid(owner) FROM (
      SELECT relowner AS owner FROM pg_class c WHERE relnamespace::regnamespace::text !~ '^pg_|^information'
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e')
      UNION SELECT proowner FROM pg_proc p WHERE pronamespace::regnamespace::text !~ '^pg_|^information'
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
      UNION SELECT nspowner FROM pg_namespace WHERE nspname !~ '^pg_|^information|^public$'
      UNION SELECT lomowner FROM pg_largeobject_metadata
      UNION SELECT datdba FROM pg_database WHERE datname = 'probe') found
    """
    assert admin(host, owners, "probe") == "probe"


def test_the_app_can_go_on_with_its_migrations(host):
    changed = as_app(
        host,
        "BEGIN; ALTER TABLE users ADD nick text; CREATE EXTENSION unaccent; DROP EXTENSION pg_trgm CASCADE; "
        "INSERT INTO users (email) VALUES ('new@example.com'); ROLLBACK",
    )
    assert changed.rc == 0, changed.stderr


def test_nothing_of_heroku_is_left(host):
    assert admin(host, "SELECT count(*) FROM pg_event_trigger", "probe") == "0"
    assert admin(host, "SELECT count(*) FROM pg_publication", "probe") == "0"
    assert admin(host, "SELECT count(*) FROM pg_namespace WHERE nspname = '_heroku'", "probe") == "0"
    assert admin(host, "SELECT count(*) FROM pg_class WHERE relacl::text LIKE '%reader%'", "probe") == "0"


def test_who_may_connect_has_not_changed(host):
    assert admin(host, "SELECT has_database_privilege('other', 'probe', 'CONNECT')") == "f"
    assert (
        admin(host, "SELECT datcollate, pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'probe'")
        == "C.UTF-8|probe"
    )


def test_a_second_run_with_the_same_dump_changes_nothing(host, dump):
    before = state(host)
    done = take(dump)
    assert done.returncode == 0, done.text
    assert "holds this dump already" in done.text
    assert changes(done) == 0
    assert state(host) == before


def test_a_database_that_is_not_empty_is_refused(host, dump, tmp_path):
    other = tmp_path / "other.dump"
    other.write_bytes(dump.read_bytes() + b" ")
    text = refused(host, other)
    assert "database probe is not empty: it holds" in text
    assert "-e replace=true" in text


@pytest.mark.usefixtures("empty")
def test_one_table_is_not_empty_enough(host, dump):
    admin(host, "SET ROLE probe; CREATE TABLE django_migrations (id int)", "probe")
    assert "it holds public.django_migrations." in refused(host, dump)


@pytest.mark.usefixtures("empty")
def test_what_is_replaced_is_kept_beside_it(host, dump):
    admin(host, "SET ROLE probe; CREATE TABLE django_migrations (id int)", "probe")
    for _rehearsal in range(2):
        done = take(dump, "-e", "replace=true")
        assert done.returncode == 0, done.text
        assert "probe.before" in databases(host)
    assert admin(host, "SELECT count(*) FROM users", "probe") == "500"
    assert admin(host, "SELECT count(*) FROM users", "probe.before") == "500"


@pytest.mark.parametrize("kept", [0.5, 0.97, 0.1])
@pytest.mark.usefixtures("empty")
def test_a_truncated_dump_is_refused(host, dump, tmp_path, kept):
    cut = tmp_path / "cut.dump"
    content = dump.read_bytes()
    cut.write_bytes(content[: int(len(content) * kept)])
    text = refused(host, cut)
    assert "the dump is truncated or damaged" in text
    assert "heroku pg:backups:download" in text


@pytest.mark.usefixtures("empty")
def test_a_dump_with_one_byte_less_is_refused(host, dump, tmp_path):
    cut = tmp_path / "cut.dump"
    cut.write_bytes(dump.read_bytes()[:-1])
    assert "truncated or damaged" in refused(host, cut)


@pytest.mark.usefixtures("empty")
def test_a_damaged_dump_is_refused(host, dump, tmp_path):
    content = bytearray(dump.read_bytes())
    middle = len(content) * 4 // 5
    content[middle : middle + 40] = bytes(40)
    damaged = tmp_path / "damaged.dump"
    damaged.write_bytes(content)
    assert "truncated or damaged" in refused(host, damaged)


@pytest.mark.parametrize(
    ("content", "said"), [(b"CREATE TABLE x ();\n", "is plain SQL"), (b"\x1f\x8b", "is no dump"), (b"", "is no dump")]
)
@pytest.mark.usefixtures("empty")
def test_what_is_no_dump_is_refused(host, tmp_path, content, said):
    other = tmp_path / "other.dump"
    other.write_bytes(content)
    assert said in refused(host, other)


@pytest.mark.usefixtures("empty")
def test_a_dump_of_a_newer_version_is_refused(host, dump, tmp_path):
    content, newer = dump.read_bytes(), tmp_path / "newer.dump"
    version = admin(host, "SHOW server_version").split(".")[0]
    # The header holds the version of the server, with its length before it.
    newer.write_bytes(content.replace(f"{version}.".encode(), b"98.", 2))
    assert f"the dump is of PostgreSQL 98, which is newer than this server's {version}" in refused(host, newer)
    newer.write_bytes(content[:6] + b"\x63" + content[7:])
    assert f"the dump is of a newer PostgreSQL than this server's {version}" in refused(host, newer)


@pytest.mark.usefixtures("empty")
def test_a_dump_that_needs_an_extension_which_the_server_lacks_is_refused(host, tmp_path):
    place = host.check_output("echo /usr/share/postgresql/*/extension")
    host.check_output("echo \"default_version = '1'\" >%s/vector.control; touch %s/vector--1.sql", place, place)
    admin(host, "CREATE DATABASE fancy")
    admin(host, "CREATE EXTENSION vector", "fancy")
    host.check_output(DUMP.format(database="fancy", name="fancy"))
    admin(host, "DROP DATABASE fancy")
    host.check_output("rm %s/vector.control %s/vector--1.sql", place, place)
    text = refused(host, fetch("fancy", tmp_path))
    assert "this server lacks the extension vector" in text
    assert re.search(r"apt-get install postgresql-\d+-pgvector", text)


def test_a_database_that_is_not_there_says_what_makes_it(dump):
    done = play("-e", "app=nowhere", "-e", f"dump={dump}")
    assert done.returncode != 0
    assert "there is no database nowhere here yet" in done.text
    assert "site.yml --skip-tags app" in done.text


def test_a_dump_that_is_not_there_is_named(tmp_path):
    assert f"There is no file {tmp_path}/x.dump on this machine" in " ".join(take(tmp_path / "x.dump").text.split())
    assert "Name both: -e app=shop -e dump=latest.dump" in play("-e", "app=probe").text


@pytest.mark.usefixtures("empty")
def test_a_client_that_holds_the_empty_database_is_sent_away(host, dump):
    address = host.ansible.get_variables()["address"]
    url = f"postgres://probe:probe-password-for-tests@{address}/probe?sslmode=require"
    host.check_output("systemd-run --unit=client psql --command='SELECT pg_sleep(600)' %s", url)
    try:
        done = take(dump)
        assert done.returncode == 0, done.text
        assert as_app(host, "SELECT count(*) FROM users").stdout == "500\n"
    finally:
        host.run("systemctl stop client; systemctl reset-failed client")


@pytest.mark.usefixtures("empty", "dump")
def test_a_run_that_was_killed_leaves_the_database_and_the_next_one_completes(host):
    before = admin(host, "SELECT oid FROM pg_database WHERE datname = 'probe'")
    # A table that takes a while, in a dump that lies on the host.
    admin(
        host,
        "SET ROLE u4s6v2ba7opms1; CREATE TABLE slow AS SELECT n, repeat('x', 99) FROM generate_series(1, 2000000) n",
        "d8f3k2",
    )
    host.check_output(DUMP.format(database="d8f3k2", name="slow") + " && mv /tmp/slow.dump /srv/")
    admin(host, "DROP TABLE slow", "d8f3k2")
    words = [
        "ansible-playbook",
        "playbooks/import_dump.yml",
        "-e",
        "app=probe",
        "-e",
        "dump=/srv/slow.dump",
        "-e",
        "on_server=true",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    running = subprocess.Popen(words, cwd=ROOT, env=untagged(), **quiet)
    host.check_output(KILL)
    running.kill()
    running.wait()
    assert "probe.import" in databases(host)
    assert admin(host, "SELECT oid FROM pg_database WHERE datname = 'probe'") == before
    done = take("/srv/slow.dump", "-e", "on_server=true")
    assert done.returncode == 0, done.text
    assert "public.slow: 2000000" in done.text
    assert not {"probe.import", "probe.empty"} & databases(host)
    assert host.file("/srv/slow.dump").exists


@pytest.mark.usefixtures("empty")
def test_a_dump_of_an_older_postgresql_is_restored():
    done = take(FILES / "heroku-15.dump")
    assert done.returncode == 0, done.text
    assert "public.users: 500" in done.text


MOTTO = "one 'two' {{ three }} \"four\" %s $HOME\nfive ü"


@pytest.fixture
def site(host, tmp_path):
    """Return a site of the scenario's one server, as a person has it after script/secrets."""
    site = tmp_path / "site"
    (site / "group_vars/all").mkdir(parents=True)
    known = host.ansible.get_variables()
    line = {name: known[name] for name in ("ansible_host", "ansible_port", "address", "memory_mib", "cpus")}
    (site / "hosts.yml").write_text(json.dumps({"web": {"hosts": {"one": line}}, "db": {"hosts": {"one": None}}}))
    (site / "group_vars/all/site.yml").write_text(json.dumps({"ssh_operator_keys": known["ssh_operator_keys"]}))
    (site / "group_vars/all/apps.yml").write_text("# Ours\napps: []\n")
    (tmp_path / "password").write_text("only for this test")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "DATABASE_URL": "postgres://old:old-secret-of-heroku@db.example/old",
                "REDISCLOUD_URL": "redis://:old-secret-of-heroku@redis.example:1",
                "HEROKU_APP_NAME": "guestbook",
                "SIGNING_KEY": "kept-signing-key-of-heroku",
                "MOTTO": MOTTO,
            }
        )
    )
    return site


def test_an_app_that_nobody_here_has_seen_comes_over(host, site, dump, monkeypatch):
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(site.parent / "password"))
    subprocess.run([sys.executable, "script/make_secrets.py", site], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    said = []

    def run(playbook, *words):
        said.append(play("-i", site, "--diff", *words, playbook=playbook))
        return said[-1]

    words = ["-e", f"app=guestbook source={FILES}/guestbook"]
    config = f"config_json={site.parent}/config.json domains=guestbook.example"
    first = run("playbooks/import_heroku.yml", "-vvv", *words, "-e", config, "-e", f"dump={dump}")
    assert "there is no database guestbook here yet" in first.text
    assert "papertrail: replaced by the log files" in first.text
    set_up = run("site.yml", "--skip-tags", "app")
    assert set_up.returncode == 0, set_up.text
    data = run("playbooks/import_heroku.yml", "-vvv", *words, "-e", config, "-e", f"dump={dump}")
    assert data.returncode == 0, data.text
    deployed = run("site.yml")
    assert deployed.returncode == 0, deployed.text
    address = host.ansible.get_variables()["address"]
    answer = host.check_output(
        "curl --silent --insecure --resolve guestbook.example:443:%s https://guestbook.example/x", address
    )
    assert json.loads(answer) == {
        "users": 500,
        "redis": True,
        "key": "kept-signing-key-of-heroku",
        "motto": MOTTO,
        "path": "/x",
    }
    for done in said:
        assert "old-secret-of-heroku" not in done.text
        assert "kept-signing-key-of-heroku" not in done.text
