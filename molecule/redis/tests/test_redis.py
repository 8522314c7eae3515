"""The queue and key-value store as its clients see it."""

import time

import pytest


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


def test_what_was_written_survives_a_kill(host, redis):
    assert redis("set", "kept", "yes") == ["OK"]
    time.sleep(1.2)
    before = host.check_output("systemctl show --property=MainPID --value redis-server")
    host.check_output("kill -9 %s", before)
    deadline = time.monotonic() + 15
    while redis("get", "kept") != ["yes"]:
        assert time.monotonic() < deadline, "redis did not come back with its data"
        time.sleep(0.3)
    assert host.check_output("systemctl show --property=MainPID --value redis-server") != before
