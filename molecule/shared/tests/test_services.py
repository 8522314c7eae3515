"""What all services have in common, tested in every scenario on the services that it runs."""

import os
import re
from typing import NamedTuple

import pytest
import testinfra
from testinfra.utils.ansible_runner import AnsibleRunner


class Service(NamedTuple):
    """A role's service: on which group's hosts, in which unit, as whom, and which files are nobody else's business."""

    role: str
    group: str
    unit: str
    user: str
    private: tuple[str, ...] = ()
    sandboxed: bool = True


SERVICES = (
    # Who logs in does with sudo whatever the host can.
    Service("base", "all", "ssh.service", "root", ("/etc/ssh/ssh_host_*_key",), sandboxed=False),
    Service("haproxy", "web", "haproxy.service", "root"),
    Service("memcached", "web", "memcached.service", "memcache"),
    Service("nginx", "web", "nginx.service", "root", ("/etc/ssl/private",)),
    Service(
        "pgbouncer",
        "web",
        "pgbouncer.service",
        "postgres",
        ("/etc/pgbouncer/userlist.txt", "/etc/pgbouncer/server.key"),
    ),
    Service("pgbouncer", "web", "offramp-pgbouncer-watch.service", "postgres"),
    Service(
        "postgresql",
        "db",
        "postgresql@*-main.service",
        "postgres",
        ("/etc/postgresql/*/main/pg_hba.conf", "/etc/postgresql/*/main/server.key"),
    ),
    Service("postgresql", "db", "offramp-postgresql-room.service", "postgres"),
    Service(
        "redis",
        "db",
        "redis-server.service",
        "redis",
        ("/etc/redis/redis.conf", "/etc/redis/users.conf", "/etc/redis/server.key"),
    ),
    Service("supervisor", "web", "supervisor.service", "root"),
)


def pytest_generate_tests(metafunc):
    """One test for each service on each host that has it; the scenario's run tags say which it has."""
    tags = os.environ["ANSIBLE_RUN_TAGS"].split(",")
    inventory = AnsibleRunner()
    found = [
        (host, service)
        for service in SERVICES
        if service.role in tags or "all" in tags
        if service.sandboxed or "sandbox" not in metafunc.function.__name__
        for host in inventory.get_hosts(service.group)
    ]
    metafunc.parametrize(("on", "service"), found, ids=[f"{on}-{service.unit}" for on, service in found])


@pytest.fixture
def host(on):
    """The server that the service runs on."""
    return testinfra.get_host(f"ansible://{on}")


@pytest.fixture(autouse=True)
def recovered(host, service, eventually):
    """Let it come back first from what a scenario's own tests did to it."""
    eventually(lambda: show(host, service.unit)["ActiveState"] == "active", seconds=30)


def show(host, unit):
    """What systemd knows of a unit; of a pattern, of the unit that it matches."""
    wanted = "Id,ActiveState,UnitFileState,MainPID"
    lines = host.check_output("systemctl show --property=%s %s", wanted, unit).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_it_runs_and_starts_at_boot(host, service):
    state = show(host, service.unit)
    assert state["ActiveState"] == "active"
    assert host.run("systemctl is-enabled %s", state["Id"]).rc == 0


def test_it_runs_as_its_own_user(host, service):
    state = show(host, service.unit)
    assert host.check_output("stat -c %%U /proc/%s", state["MainPID"]) == service.user


def test_its_secrets_are_closed_to_others(host, service):
    for path in service.private:
        files = host.check_output(f"find {path} -maxdepth 0").split()
        assert files, f"{path} is gone: mend this list"
        for file in files:
            assert host.run("runuser -u nobody -- ls %s/. || runuser -u nobody -- cat %s", file, file).rc != 0


def test_its_sandbox_is_tight(host, service):
    unit = show(host, service.unit)["Id"]
    rated = host.run("systemd-analyze security --no-pager --threshold=25 %s", unit)
    assert rated.rc == 0, rated.stdout


def test_it_runs_in_its_sandbox(host, service):
    """What has answered the scenario's own tests, not only what the next start would be."""
    main = show(host, service.unit)["MainPID"]
    limits, status = host.file(f"/proc/{main}/limits").content_string, host.file(f"/proc/{main}/status").content_string
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    assert {"NoNewPrivs:\t1", "Seccomp:\t2"} <= set(status.splitlines())
    # What it sees of the file system; no program of ours need run there.
    seen = f"/proc/{main}/root"
    host.check_output("touch /tmp/outside /etc/outside")
    assert "Read-only file system" in host.run("rm %s/etc/outside", seen).stderr
    assert host.run("ls %s/tmp/outside", seen).rc != 0
    host.check_output("rm /tmp/outside /etc/outside")


def test_it_comes_back_after_a_crash(host, service, eventually):
    before = show(host, service.unit)
    host.check_output("kill -9 %s", before["MainPID"])

    def is_back():
        now = show(host, service.unit)
        return now["ActiveState"] == "active" and now["MainPID"] not in ("0", before["MainPID"])

    eventually(is_back)
