"""What all services have in common, tested in every scenario on the services that it runs."""

import os
from typing import NamedTuple

import pytest
import testinfra
from testinfra.utils.ansible_runner import AnsibleRunner


class Service(NamedTuple):
    """A role's service: on which group's hosts, in which unit, as whom, and which files are nobody else's business."""

    group: str
    unit: str
    user: str
    private: tuple[str, ...] = ()


SERVICES = {
    "base": Service("all", "ssh.service", "root", ("/etc/ssh/ssh_host_*_key",)),
    "haproxy": Service("web", "haproxy.service", "root"),
    "memcached": Service("web", "memcached.service", "memcache"),
    "nginx": Service("web", "nginx.service", "root", ("/etc/ssl/private",)),
    "pgbouncer": Service(
        "web",
        "pgbouncer.service",
        "postgres",
        ("/etc/pgbouncer/userlist.txt", "/etc/ssl/private/ssl-cert-snakeoil.key"),
    ),
    "postgresql": Service("db", "postgresql@*-main.service", "postgres", ("/etc/postgresql/*/main/pg_hba.conf",)),
    "redis": Service("db", "redis-server.service", "redis", ("/etc/redis/redis.conf", "/etc/redis/password.conf")),
    "supervisor": Service("web", "supervisor.service", "root"),
}


def pytest_generate_tests(metafunc):
    """One test for each service on each host that has it; the scenario's run tags say which it has."""
    tags = os.environ["ANSIBLE_RUN_TAGS"].split(",")
    inventory = AnsibleRunner()
    found = [
        (host, service)
        for role, service in SERVICES.items()
        if role in tags or "all" in tags
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


def test_it_comes_back_after_a_crash(host, service, eventually):
    before = show(host, service.unit)
    host.check_output("kill -9 %s", before["MainPID"])

    def is_back():
        now = show(host, service.unit)
        return now["ActiveState"] == "active" and now["MainPID"] not in ("0", before["MainPID"])

    eventually(is_back)
