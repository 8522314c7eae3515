"""The queue and key-value store as its clients see it."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3]))
from filter_plugins.redis_users import redis_password
from filter_plugins.site_certificate import site_certificate

SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "redis")


def administrator(host):
    """Return the administrator's password."""
    return re.search("^masterauth (.*)$", host.file("/etc/redis/users.conf").content_string, re.MULTILINE)[1]


@pytest.fixture
def redis(host):
    """Return a function that runs a command as an app would: with the password."""
    password = administrator(host)

    def run(*words):
        marks = " ".join(["%s"] * len(words))
        # The host's own way, unless a test names another one.
        where = "" if "-p" in words else "-s /run/redis/redis-server.sock"
        return host.run(f"REDISCLI_AUTH=%s redis-cli --user offramp {where} {marks}", password, *words).stdout.split()

    return run


@pytest.fixture
def app(host):
    """Return a function that runs a command of redis as an app, by its forwarder; without a name as old clients do."""

    def run(name, *words, named=True, database=0):
        password = redis_password(administrator(host), name)
        marks = " ".join(["%s"] * len(words))
        user = f"--user {name}" if named else ""
        return host.check_output(f"REDISCLI_AUTH=%s redis-cli -p 7379 -n {database} {user} {marks}", password, *words)

    return run


def test_an_app_does_what_it_likes_with_its_data(app):
    assert app("probe", "set", "anything", "here") == "OK"
    assert app("probe", "get", "anything", named=False) == "here"
    assert app("probe", "eval", "return redis.call('get', KEYS[1])", "1", "anything") == "here"
    assert "redis_version" in app("probe", "info")
    assert app("probe", "flushdb") == "OK"


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "command",
    ["config get *", "acl list", "flushall", "shutdown", "monitor", "replicaof no one", "save"],
)
def test_an_app_does_nothing_with_the_server(app, command, named):
    assert "NOPERM" in app("probe", *command.split(), named=named)


def test_an_app_with_patterns_gets_at_its_own_keys_and_channels_alone(app, redis):
    redis("set", "probe:secret", "1")
    assert app("other", "set", "other:count", "1", database=1) == "OK"
    assert "NOPERM" in app("other", "get", "probe:secret")
    assert "NOPERM" in app("other", "publish", "probe:news", "1")
    # Nor as the one who has no name.
    assert "NOAUTH" in app("other", "get", "probe:secret", named=False)


def test_an_app_that_has_redis_no_more_is_not_let_in_and_nobody_else_is_cut_off(host, redis, app, eventually):
    password = redis_password(administrator(host), "probe")
    wait = "redis-cli --user probe -p 7379 blpop later 0 >/root/stayed"
    host.check_output("systemd-run --quiet --unit=stayer --setenv=REDISCLI_AUTH=%s sh -c %s", password, wait)
    eventually(lambda: "cmd=blpop" in " ".join(redis("client", "list")))
    probe, other = ({"name": name, "source": "molecule/app/files/plain"} for name in ("probe", "other"))
    apps = json.dumps({"apps": [probe, other | {"services": ["postgresql"]}]})
    play = ["ansible-playbook", "playbooks/services.yml", "--tags=redis"]
    subprocess.run([*play, f"--extra-vars={apps}"], check=True, capture_output=True)
    try:
        assert "NOAUTH" in app("other", "ping")
        redis("rpush", "later", "kept")
        eventually(lambda: "kept" in host.file("/root/stayed").content_string)
    finally:
        subprocess.run(play, check=True, capture_output=True)
    assert app("other", "ping") == "PONG"


def test_a_redis_with_one_password_for_everybody_gets_users(host, app):
    """As a site of before has it."""
    password = administrator(host)
    host.check_output(
        "printf 'requirepass %%s\\nmasterauth %%s\\n' %s %s >/etc/redis/password.conf", password, password
    )
    host.check_output("sed -i s/users.conf/password.conf/ /etc/redis/redis.conf && rm /etc/redis/users.conf")
    host.check_output("systemctl restart redis-server")
    host.check_output("REDISCLI_AUTH=%s redis-cli -p 7379 config get maxmemory", password)
    subprocess.run(["ansible-playbook", "playbooks/services.yml", "--tags=redis"], check=True, capture_output=True)
    assert app("probe", "ping") == "PONG"
    assert not host.file("/etc/redis/password.conf").exists


ENCRYPTED = "redis-cli --tls --cacert /etc/offramp/redis-ca.crt"


def test_without_the_password_nothing_is_answered(host):
    assert "NOAUTH" in host.check_output(f"{ENCRYPTED} get anything")
    assert "NOAUTH" in host.check_output("redis-cli -s /run/redis/redis-server.sock get anything")


def test_a_wrong_password_is_refused(host):
    done = host.run(f"REDISCLI_AUTH=wrong {ENCRYPTED} get anything")
    assert "WRONGPASS" in done.stdout + done.stderr


def test_nothing_is_answered_in_clear(host):
    for address in ("127.0.0.1", host.ansible.get_variables()["address"]):
        said = host.run("printf 'PING\\r\\n' | timeout 3 bash -c 'exec 3<>/dev/tcp/%s/6379; cat >&3; cat <&3'", address)
        assert b"PONG" not in said.stdout_bytes
        assert b"NOAUTH" not in said.stdout_bytes


def test_its_own_socket_is_closed_to_others(host):
    with host.sudo("nobody"):
        assert "denied" in host.run("redis-cli -s /run/redis/redis-server.sock ping").stderr


CERTIFICATE, KEY = "/etc/redis/server.crt", "/etc/redis/server.key"


def served(host, *options):
    """The number of the certificate that redis gives, where openssl takes it."""
    address = host.ansible.get_variables()["address"]
    by = f"-CAfile /etc/offramp/redis-ca.crt -verify_return_error {' '.join(options)}"
    done = host.run(f"openssl s_client -connect {address}:6379 {by} </dev/null | openssl x509 -noout -serial")
    return done.stdout.strip()


@pytest.fixture
def another_certificate(host):
    """Return a function that has redis take up a certificate of another time, or of another authority."""
    address = host.ansible.get_variables()["address"]
    kept = {path: host.file(path).content_string for path in (CERTIFICATE, KEY)}

    def put(content):
        for path, text in content.items():
            host.check_output("printf %%s %s >%s", text, path)
        host.check_output("systemctl reload redis-server")

    def change(secret, days=0, name="one"):
        moment = time.time() + days * 86400
        made = site_certificate(secret, "redis", "redis one", [name, address], now=moment)
        put({CERTIFICATE: made["certificate"], KEY: made["key"]})

    yield change
    put(kept)


def test_its_certificate_names_the_host_and_its_address(host):
    address = host.ansible.get_variables()["address"]
    assert served(host, "-verify_ip", address)
    assert served(host, "-verify_hostname", "one")
    assert not served(host, "-verify_hostname", "two")


def test_a_new_certificate_is_taken_up_and_cuts_nobody_off(host, redis, another_certificate, eventually):
    before = served(host)
    secret = host.ansible.get_variables()["vault_ca_secret"]
    password = administrator(host)
    wait = "redis-cli --user offramp -p 7379 blpop later 0 >/root/later"
    host.check_output("systemd-run --quiet --unit=waiter --setenv=REDISCLI_AUTH=%s sh -c %s", password, wait)
    eventually(lambda: "cmd=blpop" in " ".join(redis("client", "list")))
    another_certificate(secret, days=-60)
    assert served(host) not in (before, "")
    redis("rpush", "later", "kept")
    eventually(lambda: host.file("/root/later").content_string.split() == ["later", "kept"])


def test_a_redis_whose_certificate_is_another_authoritys_or_another_hosts_gets_no_client(
    host, redis, another_certificate
):
    secret = host.ansible.get_variables()["vault_ca_secret"]
    another_certificate("another-secret-of-another-site")
    assert redis("-p", FORWARDED, "ping") != ["PONG"]
    another_certificate(secret)
    assert redis("-p", FORWARDED, "ping") == ["PONG"]
    another_certificate(secret, name="two")
    assert redis("-p", FORWARDED, "ping") != ["PONG"]


def test_the_password_is_readable_by_redis_alone(host):
    for path in ("/etc/redis/users.conf", "/etc/redis/redis.conf", KEY):
        file = host.file(path)
        assert (file.user, file.group, file.mode) == ("redis", "redis", 0o640)
    with host.sudo("nobody"):
        assert host.run("cat /etc/redis/users.conf").rc != 0


def test_it_listens_on_the_private_address_and_loopback_alone(host):
    sockets = (line.removeprefix("tcp://").rsplit(":", 1) for line in host.socket.get_listening_sockets())
    listening = {address for address, port in sockets if port == "6379"}

    assert listening == {"127.0.0.1", host.ansible.get_variables()["address"]}


def test_a_full_memory_refuses_writes_and_drops_nothing(redis):
    assert redis("config", "get", "maxmemory-policy")[-1] == "noeviction"


LEDGER = Path(__file__).resolve().parents[2] / "shared/files/redis_ledger.py"
DIRECT, FORWARDED = "/run/redis/redis-server.sock", "7379"


def main_pid(host):
    return host.check_output("systemctl show --property=MainPID --value redis-server")


@pytest.mark.parametrize(("appendfsync", "seconds"), [("everysec", 2), ("always", 0)])
def test_what_was_acknowledged_survives_a_kill(host, redis, eventually, appendfsync, seconds):
    """All but what redis held back while a sync was under way, which is none where each answer waits for one."""
    subprocess.run(["scp", "-qF", f".lab/ssh/{SCENARIO}", LEDGER, "one:/root/redis_ledger.py"], check=True)
    redis("del", "ledger")
    writer = ["python3", "/root/redis_ledger.py", "/root/ledger.txt", DIRECT, "120", "4"]
    host.check_output("systemd-run --quiet --unit=ledger " + " ".join(writer))
    killed = []
    for _ in range(3):
        redis("config", "set", "appendfsync", appendfsync)
        time.sleep(1.2)
        before = main_pid(host)
        host.check_output("kill -9 %s", before)
        killed.append(time.time())
        eventually(lambda before=before: main_pid(host) not in ("0", before) and redis("ping") == ["PONG"])
    time.sleep(1)
    host.check_output("systemctl stop ledger")
    lines = [line.split() for line in host.file("/root/ledger.txt").content_string.splitlines()]
    acknowledged = {line[0]: float(line[1]) for line in lines if line[0] != "error"}
    assert len(acknowledged) > 500
    assert max(acknowledged.values()) > killed[-1], "nobody could write again"
    present = set(redis("smembers", "ledger"))
    lost = {name: at for name, at in acknowledged.items() if name not in present}
    assert [at for at in lost.values() if not any(kill - seconds < at <= kill for kill in killed)] == []


def test_an_append_only_file_whose_end_is_cut_is_used_and_it_is_said_how_much_was_dropped(host, redis):
    redis("set", "before", "1")
    redis("set", "last", "1")
    host.check_output("systemctl stop redis-server")
    host.check_output("truncate --size=-5 /var/lib/redis/appendonlydir/*.incr.aof")
    host.check_output("systemctl start redis-server")
    assert redis("get", "before") == ["1"]
    assert redis("exists", "last") == ["0"]
    said = host.check_output("journalctl --no-pager --output=cat --unit=redis-server --since=-60s")
    dropped = len("*3\r\n$3\r\nset\r\n$4\r\nlast\r\n$1\r\n1\r\n") - 5
    assert f"its last {dropped} bytes were dropped, and all before them is there" in said


def test_apps_reach_it_on_loopback_alone(host, redis):
    assert redis("-p", FORWARDED, "ping") == ["PONG"]
    sockets = (line.removeprefix("tcp://").rsplit(":", 1) for line in host.socket.get_listening_sockets())
    assert {address for address, port in sockets if port == FORWARDED} == {"127.0.0.1"}


def test_a_worker_that_waits_for_a_job_outlives_a_reload(host, redis, eventually):
    password = administrator(host)
    host.check_output(
        "systemd-run --quiet --unit=worker --setenv=REDISCLI_AUTH=%s sh -c %s",
        password,
        "redis-cli --user offramp -p 7379 blpop jobs 0 >/root/job",
    )
    eventually(lambda: "cmd=blpop" in " ".join(redis("client", "list")))
    host.check_output("systemctl reload haproxy")
    eventually(lambda: "haproxy -sf" in host.check_output("ps -C haproxy -o args"))
    redis("rpush", "jobs", "kept")
    eventually(lambda: host.file("/root/job").content_string.split() == ["jobs", "kept"])


def test_a_redis_that_is_down_is_told_at_once(host, redis):
    host.check_output("systemctl stop redis-server")
    try:
        started = time.monotonic()
        assert redis("-p", FORWARDED, "ping") != ["PONG"]
        assert time.monotonic() - started < 2
    finally:
        host.check_output("systemctl start redis-server")
    assert redis("-p", FORWARDED, "ping") == ["PONG"]
