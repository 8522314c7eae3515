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
DYNO = """
import asyncio, mmap, multiprocessing, os, socket, subprocess, tempfile
mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
with tempfile.NamedTemporaryFile() as file:
    file.write(b"written")
with open("/srv/dyno/file", "w") as file:
    file.write("written")
subprocess.run(["sh", "-c", "sort /etc/passwd | head"], check=True)
with multiprocessing.Pool(1) as pool:
    pool.map(abs, [1])
async def start():
    await (await asyncio.create_subprocess_exec("true")).wait()
asyncio.run(start())
socket.if_nameindex(), socket.getaddrinfo("localhost", 25), os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
os.nice(1)
print("DONE")
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


def test_a_process_in_its_sandbox_can_do_what_a_dyno_can(host):
    """Write, start others, execute what it has written (a JIT), and ask for the host's addresses."""
    host.check_output("install -d -o nobody /srv/dyno && printf %%s %s > /srv/dyno/dyno.py", DYNO)
    said = "/var/log/supervisor/dyno.log"
    program = "[program:dyno]\ncommand=python3 /srv/dyno/dyno.py\nuser=nobody\nstartsecs=0\nautorestart=false\n"
    program += f"redirect_stderr=true\nstdout_logfile={said}\n"
    host.check_output("printf %%s %s > /etc/supervisor/conf.d/dyno.conf && supervisorctl update", program)
    try:
        eventually(lambda: "EXITED" in host.run("supervisorctl status dyno").stdout, 15)
        assert host.file(said).content_string.endswith("DONE\n")
    finally:
        host.check_output("rm -r /etc/supervisor/conf.d/dyno.conf /srv/dyno %s && supervisorctl update", said)


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
