"""The daemon that keeps processes running, with a program of the scenario's own."""

import time

import pytest

CONF = "/etc/supervisor/conf.d/scenario.conf"
PROGRAM = """
[program:sleeper]
command=bash -c 'sleep 1000 & sleep 1000'
user=nobody
startsecs=0
"""


def pid(host):
    return host.run("supervisorctl pid sleeper").stdout.strip()


def eventually(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.2)


@pytest.fixture(scope="module", autouse=True)
def sleeper(host):
    """Run a program with a child that supervisord knows nothing of."""
    host.check_output("printf %%s %s > %s", PROGRAM, CONF)
    host.check_output("supervisorctl update")
    eventually(lambda: pid(host).isdecimal() and pid(host) != "0", 5)
    yield
    host.check_output("rm %s && supervisorctl update", CONF)


def test_only_root_may_command_it(host):
    with host.sudo("nobody"):
        refused = host.run("supervisorctl status")
    assert refused.rc != 0
    assert "sleeper" not in refused.stdout


def test_it_listens_on_no_port(host):
    assert "supervisord" not in host.check_output("ss --tcp --listening --processes")


def test_a_reload_restarts_nothing(host):
    before = pid(host)
    host.check_output("systemctl reload supervisor")
    assert pid(host) == before


def test_a_killed_daemon_comes_back_and_leaves_no_orphan(host):
    before = pid(host)
    host.check_output("kill -9 $(systemctl show --property=MainPID --value supervisor)")
    eventually(lambda: pid(host).isdecimal() and pid(host) not in ("0", before), 10)
    assert host.check_output("pgrep --count --uid nobody sleep") == "2"


def test_a_stop_ends_every_process_and_a_start_brings_them_back(host):
    host.check_output("systemctl stop supervisor")
    assert host.run("pgrep --uid nobody sleep").rc != 0
    host.check_output("systemctl start supervisor")
    eventually(lambda: pid(host).isdecimal() and pid(host) != "0", 10)


def test_a_process_may_open_many_files(host):
    soft = int(host.check_output("grep 'open files' /proc/%s/limits", pid(host)).split()[3])
    assert soft > 1024
