"""What a stranger, and each host of the site, finds of it: tried by hand first, then by scanners, into one table."""

import json
import re
import secrets
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from scanners import (
    FIGURES,
    HOSTS,
    IMAGE,
    SCANS,
    SCENARIO,
    SCENARIO_DIRECTORY,
    WAIVED,
    address,
    inside,
    pip_audit,
    podman,
    write_table,
)

sys.path.append(str(Path(__file__).resolve().parents[3]))
from filter_plugins.redis_users import redis_password

PASSWORDS = {
    "probe": "probe-password-for-tests",
    "other": "other-password-for-tests",
    "replication": "a-replication-password-for-tests",
}
# The one of the shared inventory, no secret.
REDIS_PASSWORD = "redis-password-for-tests"  # noqa: S105
REFUSED = {"400", "413", "414", "431", "501"}


@pytest.fixture(scope="session")
def rows():
    """What each scanner found, or why it could not look: one that fails is for its own test to say."""

    def look(one):
        begin = time.monotonic()
        try:
            found = one()
        except Exception as problem:
            found = problem
        return found, round(time.monotonic() - begin)

    with ThreadPoolExecutor(6) as pool:
        looking = {name: pool.submit(look, one) for name, one in SCANS.items()}
        results = {name: one.result() for name, one in looking.items()}
    for name, (_, seconds) in results.items():
        print(f"{seconds:4} s {name}")
    found = {name: result for name, (result, _) in results.items()}
    write_table(SCENARIO, [row for result in found.values() if isinstance(result, list) for row in result])
    return found


@pytest.fixture(scope="session", autouse=True)
def jobs():
    """A job of the system's and one of a user's, which run within a minute, while all else is looked at."""
    job = "logger --tag=a-job-of-crons"
    inside("db1", "sh", "-c", f"echo '* * * * * operator {job} \"$(id -un)\"' >/etc/cron.d/of-a-test")
    inside("db1", "sh", "-c", f"echo '* * * * * {job} \"$(id -un)\"' | crontab -u postgres -")
    yield
    inside("db1", "sh", "-c", "rm -f /etc/cron.d/of-a-test; crontab -r -u postgres")


def psql(client, role, database, server, secret=None):
    connection = f"host={server} user={role} dbname={database} connect_timeout=3 sslmode=prefer"
    secret = f"PGPASSWORD={secret or PASSWORDS.get(role, 'postgres')}"
    return inside(client, "env", secret, "psql", "-XAtc", "SELECT current_user", connection, check=False)


@pytest.mark.parametrize("server", ["db1", "db2"])
@pytest.mark.parametrize("database", ["probe", "other", "postgres", "template1"])
@pytest.mark.parametrize("role", ["probe", "other", "replication", "postgres"])
def test_a_database_role_gets_into_its_own_database_from_where_its_app_is_and_nowhere_else(role, database, server):
    for client in HOSTS:
        if client == server:
            continue
        done = psql(client, role, database, address(server))
        own = client == "web1" and role in ("probe", "other") and role == database
        peer = client != "web1" and role == "replication" and database == "postgres"
        assert done.stdout.strip() == (role if own or peer else ""), f"{client}: {done.stdout}{done.stderr}"
        assert own or peer or "no pg_hba.conf entry" in done.stderr, f"{client}: {done.stderr}"


@pytest.mark.parametrize("server", ["db1", "db2"])
def test_no_wrong_password_and_no_plain_connection_gets_in(server):
    assert "authentication failed" in psql("web1", "probe", "probe", address(server), "wrong").stderr
    plain = f"host={address(server)} user=probe dbname=probe sslmode=disable connect_timeout=3"
    done = inside("web1", "env", f"PGPASSWORD={PASSWORDS['probe']}", "psql", "-XAtc", "SELECT 1", plain, check=False)
    assert "no encryption" in done.stderr


@pytest.mark.parametrize("server", ["db1", "db2"])
def test_no_rule_of_the_database_trusts_or_is_for_everyone(server):
    query = "SELECT type, database, user_name, auth_method, address FROM pg_hba_file_rules WHERE error IS NULL"
    listed = inside(server, "psql", "-U", "postgres", "-XAt", "-F", "|", "-c", query, "postgres").stdout.splitlines()
    rules = [line.split("|") for line in listed]
    assert {rule[0] for rule in rules} >= {"local", "hostssl"}
    for kind, database, role, method, _ in rules:
        assert method in (("peer",) if kind == "local" else ("scram-sha-256",))
        assert kind in ("local", "hostssl")
        assert kind == "local" or not {"{all}"} & {database, role}


@pytest.mark.parametrize("server", ["db1", "db2"])
def test_redis_answers_nobody_without_a_password_and_nobody_in_clear(server):
    plain = f"exec 3<>/dev/tcp/{address(server)}/6379; printf 'INFO\\r\\n' >&3; head -1 <&3"
    # What is written to a connection that redis closes comes back as a reset, or as nothing.
    assert inside("web1", "bash", "-c", plain, check=False).stdout == ""
    client = ["openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", "/etc/offramp/redis-ca.crt"]
    named = ["-verify_ip", address(server), "-connect", f"{address(server)}:6379"]
    said = inside("web1", *client, *named, data="INFO\r\nQUIT\r\n", check=False).stdout
    assert said.startswith("-NOAUTH Authentication required.")


CAPTURE = f"offramp-{SCENARIO}-capture"
# In a container of the capture's own, where tcpdump, which gives up its rights, may still write.
SEEN = "/tmp/seen"  # noqa: S108


@pytest.fixture
def capture():
    """Return a function that looks through what has passed the primary's interface, beside which this stands."""
    options = ["--detach", "--rm", "--name", CAPTURE, "--network", f"container:offramp-{SCENARIO}-db1"]
    podman("run", *options, "--cap-add", "NET_RAW", IMAGE, "tcpdump", "-i", "eth0", "-U", "-w", SEEN, check=True)
    while podman("exec", CAPTURE, "test", "-s", SEEN).returncode:
        time.sleep(0.1)

    def look(*words):
        return podman("exec", CAPTURE, *words).stdout

    yield look
    podman("rm", "--force", "--time", "0", CAPTURE)


def ask_redis(*commands):
    """Say something to redis as an app does, with its password, through the web host's forwarder."""
    login = f"AUTH probe {redis_password(REDIS_PASSWORD, 'probe')}"
    said = "".join(f"{command}\r\n" for command in (login, *commands, "QUIT"))
    return inside("web1", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/7379; cat >&3; cat <&3", data=said).stdout


def test_nothing_that_passes_between_the_hosts_can_be_read(capture, eventually):
    """An app's rows and jobs on their way to the primary, to its standby and back, while somebody listens."""
    canary, decoy = (f"{word}-{secrets.token_hex(12)}" for word in ("canary", "decoy"))
    pool = "host=127.0.0.1 port=6432 user=probe dbname=probe"
    direct = f"host={address('db1')} user=probe dbname=probe"
    table = f"DROP TABLE IF EXISTS heard; CREATE TABLE heard AS SELECT '{canary}' AS what"
    password = f"PGPASSWORD={PASSWORDS['probe']}"
    inside("web1", "env", password, "psql", "-XAtc", table, pool)
    look = "SELECT what FROM heard"
    assert inside("web1", "env", password, "psql", "-XAtc", look, direct).stdout.strip() == canary
    assert canary in ask_redis(f"SET heard {canary}", "GET heard")

    # The standby, and the replica, have it too.
    known = ["psql", "-U", "postgres", "-XAtc", look, "probe"]
    eventually(lambda: inside("db2", *known, check=False).stdout.strip() == canary)
    client = ["redis-cli", "--user", "offramp", "-s", "/run/redis/redis-server.sock"]
    copy = ["env", f"REDISCLI_AUTH={REDIS_PASSWORD}", *client, "get", "heard"]
    eventually(lambda: inside("db2", *copy).stdout.strip() == canary)
    inside("web1", "bash", "-c", f"exec 3<>/dev/tcp/{address('db1')}/22; printf %s {decoy} >&3; sleep 1")

    texts = [canary, decoy, REDIS_PASSWORD, *PASSWORDS.values()]
    pattern = [word for text in texts for word in ("-e", text)]
    eventually(lambda: decoy in capture("grep", "-aoF", *pattern, SEEN))
    assert set(capture("grep", "-aoF", *pattern, SEEN).split()) == {decoy}
    # All four ways were heard.
    for client, port in (("web1", 5432), ("web1", 6379), ("db2", 5432), ("db2", 6379)):
        way = f"host {address(client)} and tcp port {port} and greater 100"
        assert capture("tcpdump", "-nr", SEEN, way), way


@pytest.mark.parametrize("server", ["web1", "db1"])
def test_another_account_reads_and_changes_no_log_of_a_service(server):
    """What is open to all is apt's and dpkg's, and tells what is installed."""
    logs = inside(server, "find", "/var/log", "-mindepth", "2", "-type", "f", "-not", "-path", "/var/log/apt/*").stdout
    assert logs
    nobody = ["runuser", "-u", "nobody", "--"]
    look = "while read -r log; do if [ -r $log ] || [ -w $log ]; then echo $log; fi; done"
    assert inside(server, *nobody, "sh", "-c", look, data=logs).stdout == ""
    journal = inside(server, *nobody, "journalctl", "--lines=1", check=False)
    assert "No journal files were opened due to insufficient permissions" in journal.stdout + journal.stderr


@pytest.mark.parametrize("client", ["outsider", "db1", "db2"])
def test_memcached_redis_and_the_database_answer_no_stranger(client):
    strange = [("web1", 11211)] + ([("db1", 5432), ("db1", 6379)] if client == "outsider" else [])
    for server, port in strange:
        opened = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address(server)}/{port}'"
        assert inside(client, "bash", "-c", opened, check=False).returncode != 0
        # The same words reach what is open.
        assert inside(client, "bash", "-c", opened.replace(str(port), "22"), check=False).returncode == 0


def test_the_consoles_of_supervisor_and_pgbouncer_are_the_administrators_alone():
    status = ["supervisorctl", "status"]
    assert "probe" in inside("web1", *status, check=False).stdout
    for user in ("nobody", "probe", "www-data"):
        assert "RUNNING" not in inside("web1", "runuser", "-u", user, "--", *status, check=False).stdout
    ask = ["psql", "-XAtc", "SHOW POOLS", "-p", "6432"]
    assert inside(
        "web1", "runuser", "-u", "postgres", "--", *ask, "-h", "/run/postgresql", "-U", "pgbouncer", "pgbouncer"
    ).stdout
    for user, role, host in (
        ("nobody", "pgbouncer", "/run/postgresql"),
        ("probe", "postgres", "/run/postgresql"),
        ("probe", "probe", "127.0.0.1"),
        ("nobody", "postgres", "127.0.0.1"),
    ):
        secret = f"PGPASSWORD={PASSWORDS.get(role, 'postgres')}"
        words = ["runuser", "-u", user, "--", "env", secret, *ask, "-h", host, "-U", role, "pgbouncer"]
        done = inside("web1", *words, check=False)
        assert (done.stdout, done.returncode != 0) == ("", True), done.stdout


def visitor(what):
    program = (SCENARIO_DIRECTORY / "files/visitor.py").read_text()
    return json.loads(inside("outsider", "python3", "-", what, address("web1"), data=program).stdout)


def test_a_request_that_two_servers_could_read_in_two_ways_is_refused():
    for name, statuses in visitor("malformed").items():
        # Of what is far too long the refusal may be lost with the connection.
        first, *others = statuses or ["400"]
        assert first in REFUSED, f"{name}: {statuses}"
        assert set(others) <= {"still-open"}, f"{name}: {statuses}"
    assert "GET /smuggled" not in inside("web1", "sh", "-c", "cat /var/log/nginx/access.log").stdout


def test_two_hundred_slow_clients_keep_nobody_from_being_served():
    seen = visitor("slow")
    assert seen["connected"] == 200
    assert seen["codes"] == ["200"] * 30
    assert seen["headers ended"] == 100


def test_a_flood_from_one_address_is_limited_and_another_is_served():
    """In turns of its own, each of the other's requests comes while the flood does."""
    to_site = [
        "curl",
        "-sk",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}\\n",
        "--resolve",
        f"probe.example:443:{address('web1')}",
    ]
    many = [*to_site, "--parallel", "--parallel-max", "50", "https://probe.example/health?[1-20000]"]
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(inside, "outsider", *many, check=False)
        served, during = [], 0
        while not flood.done():
            served.append(inside("db1", *to_site, "--max-time", "10", "https://probe.example/health").stdout.strip())
            during += not flood.done()
            time.sleep(0.1)
        codes = flood.result().stdout.split()
    assert set(codes) == {"200", "429"}
    assert during
    assert set(served) == {"200"}


@pytest.mark.parametrize(
    ("host", "words", "said"),
    [
        ("db1", ["su", "-", "postgres", "-c", "psql -XAtc 'SELECT 1'"], "1"),
        ("db1", ["su", "postgres", "-c", "cd; psql -XAtc 'SELECT 1'"], "1"),
        ("web1", ["su", "-", "operator", "-c", "sudo -n id -un"], "root"),
        ("web1", ["su", "-", "operator", "-c", "sudo -n -u probe id -un"], "probe"),
        ("web1", ["su", "-", "operator", "-c", "sudo -n -i id -un"], "root"),
        ("db1", ["logrotate", "--force", "/etc/logrotate.conf"], ""),
        ("web1", ["logrotate", "--force", "/etc/logrotate.conf"], ""),
    ],
)
def test_what_an_operator_does_still_works(host, words, said):
    """Hardening broke each of these for somebody."""
    done = inside(host, *words, check=False)
    assert (done.stdout.strip(), done.returncode) == (said, 0), done.stderr


def test_a_log_that_was_rotated_is_written_on():
    inside("web1", "logrotate", "--force", "/etc/logrotate.d/nginx")
    inside(
        "web1",
        "curl",
        "-sk",
        "-o",
        "/dev/null",
        "--resolve",
        "probe.example:443:127.0.0.1",
        "https://probe.example/rotated",
    )
    deadline = time.monotonic() + 20
    while "/rotated" not in (log := inside("web1", "cat", "/var/log/nginx/access.log").stdout):
        assert time.monotonic() < deadline, log
        time.sleep(0.5)


@pytest.mark.parametrize("name", SCANS)
def test_it_is_as_good_as_it_is_held_at(rows, name):
    found = rows[name]
    if isinstance(found, Exception):
        raise found
    assert found
    for row in found:
        assert row.holds, f"{row.line()}\n" + "\n".join(map(str, row.findings))


@pytest.fixture
def advisories():
    """A source of advisories that knows what a test has it know; PyPI's own cannot be reached from everywhere."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            holes = self.server.known.get((asked["package"]["name"], asked["version"]))
            answer = json.dumps({"vulns": holes} if holes else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.known = {}
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def test_a_known_hole_of_a_locked_package_fails(advisories):
    source = ("--vulnerability-service", "osv", "--osv-url", f"http://127.0.0.1:{advisories.server_port}")
    assert [(row.score, row.holds) for row in pip_audit(*source)] == [(0, True), (0, True)]

    version = re.search(r"^molecule==(\S+)", Path("requirements.lock").read_text(), re.MULTILINE)[1]
    hole = {"id": "PYSEC-0", "affected": [{"package": {"name": "molecule", "ecosystem": "PyPI"}}]}
    advisories.known[("molecule", version)] = [hole]
    controller, scanners = pip_audit(*source)
    assert not controller.holds
    assert controller.findings == ("molecule: PYSEC-0",)
    assert scanners.holds


def test_each_figure_is_measured_and_each_waiver_has_its_reason(rows):
    measured = {row.figure for found in rows.values() if isinstance(found, list) for row in found}
    assert measured == {name for name in FIGURES if not name.startswith("openscap")}
    assert all(reason for waived in WAIVED.values() for reason in waived.values())
    assert all(len(waived) <= 10 for tool, waived in WAIVED.items() if tool != "openscap")
    # A target that is not held has its reason in writing.
    assert all("reason" in rule for rule in FIGURES.values() if rule["held"] != rule["target"])


@pytest.mark.parametrize("user", ["operator", "postgres"])
def test_a_job_of_crons_runs_as_its_user(user):
    deadline = time.monotonic() + 90
    while user not in inside("db1", "journalctl", "--output=cat", "--identifier=a-job-of-crons").stdout.split():
        assert time.monotonic() < deadline
        time.sleep(1)
