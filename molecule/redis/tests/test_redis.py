"""The queue and key-value store as its clients see it."""

import os
import subprocess
import time
from pathlib import Path

import pytest

SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "redis")


@pytest.fixture
def redis(host):
    """Return a function that runs a command as an app would: with the password."""
    password = host.file("/etc/redis/password.conf").content_string.split()[1]

    def run(*words):
        marks = " ".join(["%s"] * len(words))
        return host.run(f"REDISCLI_AUTH=%s redis-cli {marks}", password, *words).stdout.split()

    return run


def test_without_the_password_nothing_is_answered(host):
    assert "NOAUTH" in host.check_output("redis-cli get anything")


def test_a_wrong_password_is_refused(host):
    assert (
        "WRONGPASS"
        in host.run("REDISCLI_AUTH=wrong redis-cli get anything").stdout
        + host.run("REDISCLI_AUTH=wrong redis-cli get anything").stderr
    )


def test_the_password_is_readable_by_redis_alone(host):
    for path in ("/etc/redis/password.conf", "/etc/redis/redis.conf"):
        file = host.file(path)
        assert (file.user, file.group, file.mode) == ("redis", "redis", 0o640)
    with host.sudo("nobody"):
        assert host.run("cat /etc/redis/password.conf").rc != 0


def test_it_listens_on_the_private_address_and_loopback_alone(host):
    sockets = (line.removeprefix("tcp://").rsplit(":", 1) for line in host.socket.get_listening_sockets())
    listening = {address for address, port in sockets if port == "6379"}

    assert listening == {"127.0.0.1", host.ansible.get_variables()["address"]}


def test_a_full_memory_refuses_writes_and_drops_nothing(redis):
    assert redis("config", "get", "maxmemory-policy")[-1] == "noeviction"


LEDGER = Path(__file__).resolve().parents[2] / "shared/files/redis_ledger.py"
DIRECT, FORWARDED = "6379", "7379"


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
    password = host.file("/etc/redis/password.conf").content_string.split()[1]
    host.check_output(
        "systemd-run --quiet --unit=worker --setenv=REDISCLI_AUTH=%s sh -c 'redis-cli -p 7379 blpop jobs 0 >/root/job'",
        password,
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
