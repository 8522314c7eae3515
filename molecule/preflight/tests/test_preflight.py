"""The preflight says what is wrong with real servers, with all of them at once, and changes nothing."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
PROBE = """\
- hosts: all
  become: true
  tasks:
    - set_fact:
        left: "{{ ansible_facts }}"
    - ansible.builtin.setup: {gather_subset: ["!all", "!min", distribution, hardware, pkg_mgr, platform, service_mgr]}
      register: full
    - assert:
        that: left[item] == full.ansible_facts["ansible_" ~ item]
        fail_msg: "{{ item }}: {{ left[item] }}"
      loop: [architecture, distribution, distribution_major_version, distribution_release, distribution_version,
             hostname, kernel, os_family, pkg_mgr, processor_nproc, processor_vcpus, service_mgr, system]
"""


# A user who may log in and may not use sudo
ADD_PLAIN = (
    "useradd --create-home plain && install -d -o plain -m 700 ~plain/.ssh && "
    "install -o plain -m 600 /etc/ssh/lab_authorized_keys ~plain/.ssh/authorized_keys"
)
REMOVE_PLAIN = "userdel --force --remove plain 2> /dev/null"
UNDO_RELEASE = "mv /usr/lib/os-release.kept /usr/lib/os-release"


def on(server, command):
    """Run a command on a server."""
    config = ROOT / ".lab" / "ssh" / os.environ["MOLECULE_SCENARIO_NAME"]
    done = subprocess.run(
        ["ssh", "-F", config, f"root@{server}", command], check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    return done.stdout.decode()


@pytest.fixture
def site(tmp_path):
    """Return the inventory in a copy that a test may spoil."""
    copy = tmp_path / "site"
    shutil.copytree(SCENARIO / "inventory", copy)
    return copy


def play(site, *arguments, playbook="playbooks/preflight.yml", **environment):
    """Run a playbook; return its exit code, its output and the problems that it lists."""
    shared = ROOT / "molecule" / "shared" / "inventory"
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", shared, "-i", site, *arguments, playbook]
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    return done.returncode, output, re.findall(r"^ {8}(\d+\. .*(?:\n {9}.*)*?\n.*To mend: .*)$", output, re.MULTILINE)


def spoil(site, old, new):
    file = site / "hosts.yml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@contextmanager
def broken(server, harm, mend):
    on(server, harm)
    try:
        yield
    finally:
        on(server, mend)


def one_line(problems):
    assert len(problems) == 1, problems
    return problems[0]


def test_good_servers_pass_and_nothing_changes(site):
    before = [on(server, "find /etc /usr/local /srv -type f | sort | xargs md5sum") for server in ("web1", "db1")]
    code, output, problems = play(site)
    assert (code, problems) == (0, []), output
    assert not re.search("changed=[1-9]", output)
    assert [
        on(server, "find /etc /usr/local /srv -type f | sort | xargs md5sum") for server in ("web1", "db1")
    ] == before


def test_check_mode_looks_just_as_well(site):
    code, output, _problems = play(site, "--check", "-e", "ansible_user=stranger")
    assert code != 0
    assert "does not let the user" in output


def test_the_facts_that_it_leaves_are_those_of_setup_and_no_later_play_gathers_them(site, tmp_path):
    (tmp_path / "probe.yml").write_text(PROBE)
    code, output, _problems = play(site, "playbooks/preflight.yml", playbook=tmp_path / "probe.yml")
    assert code == 0, output
    assert "Gathering Facts" not in output


def test_all_that_is_wrong_with_all_servers_is_listed_at_once_and_nothing_else_runs(site):
    spoil(site, "address: 10.90.60.11", "address: 10.90.60.99")
    spoil(site, "db:\n", "    web2: {ansible_host: 10.90.60.250}\ndb:\n")
    spoil(site, "address: 10.90.60.12", "address: 10.90.60.12, ansible_user: plain")
    start = time.monotonic()
    with (
        broken("web1", "sed -i.kept 's/^ID=.*/ID=ubuntu/; s/Debian GNU/Ubuntu/' /usr/lib/os-release", UNDO_RELEASE),
        broken("web1", "systemd-run --unit=taker python3 -m http.server 80 && sleep 1", "systemctl stop taker"),
        broken("db1", ADD_PLAIN, REMOVE_PLAIN),
    ):
        code, output, problems = play(site, playbook="site.yml")
    assert code != 0
    assert len(problems) == 5, output
    assert "web1: it runs Ubuntu" in problems[0]
    assert "web1: the address 10.90.60.99 is not one of its own; it has 10.90.60.11" in problems[1]
    assert "web1: port 80, needed for nginx, is taken by python3 of the user root" in problems[2]
    assert "10.90.60.250 port 22" in problems[3]
    assert 'db1: sudo asks the user "plain" for a password' in problems[4]
    assert output.count("PLAY [") == 2
    assert time.monotonic() - start < 30


def test_a_wrong_user_is_told_with_the_command_to_try(site):
    _code, _output, problems = play(site, "--limit", "web1", "-e", "ansible_user=stranger")
    assert 'ssh does not let the user "stranger" in' in one_line(problems)
    assert "ssh -p 23061 stranger@127.0.0.1" in problems[0]


def test_a_server_without_python_is_told(site):
    _code, _output, problems = play(site, "--limit", "db1", "-e", "ansible_python_interpreter=/usr/bin/python9")
    assert "there is no Python 3" in one_line(problems)


def test_a_server_without_sudo_is_told(site):
    spoil(site, "address: 10.90.60.12", "address: 10.90.60.12, ansible_user: plain")
    with broken("db1", f"{ADD_PLAIN} && mv /usr/bin/sudo /root", f"mv /root/sudo /usr/bin; {REMOVE_PLAIN}"):
        _code, _output, problems = play(site, "--limit", "db1")
    assert "the program sudo is not installed" in one_line(problems)


def test_a_wrong_clock_is_told(site):
    # A container has no clock of its own: Python is made to read a wrong one.
    file = "/usr/lib/python3/dist-packages/wrong_clock.pth"
    line = "import time; time.time = lambda true=time.time: true() - 60"
    with broken("db1", f"echo '{line}' > {file}", f"rm {file}"):
        _code, _output, problems = play(site)
    assert "db1: its clock is 60 s behind" in one_line(problems) or "db1: its clock is 59 s behind" in problems[0]


def test_a_full_disk_is_told(site):
    with broken("web1", "mount -t tmpfs -o size=10m none /srv", "umount /srv"):
        _code, _output, problems = play(site)
    assert "web1: the disk at /srv has 10 MiB free; 1024 MiB are needed" in one_line(problems)


def test_too_little_memory_is_told(site):
    _code, _output, problems = play(site, "--limit", "web1", "-e", '{"memory_mib": 300}')
    told = one_line(problems)
    assert "web1 has 300 MiB of memory, and what is to run on it takes at least" in told
    assert "nginx: " in told
    assert "the web processes of errorlog: " in told
    assert "To mend: take a server with" in told


def test_a_figure_of_ones_own_that_is_too_large_is_told_with_the_one_that_fits(site):
    _code, _output, problems = play(site, "--limit", "db1", "-e", '{"memory_parts": {"redis": 900}}')
    told = one_line(problems)
    assert re.search(r"redis: \d+ MiB \(your own figure\)", told)
    assert re.search(r"To mend: write  redis: \d+  in memory_parts", told)


def test_a_figure_for_what_is_no_service_is_told(site):
    _code, _output, problems = play(site, "-e", '{"memory_parts": {"rediss": 90}}')
    assert "memory_parts must be of postgresql, redis, memcached, system, process; 'rediss'" in one_line(problems)


def test_memory_that_is_not_there_is_told(site):
    _code, _output, problems = play(site, "--limit", "web1", "-e", '{"memory_mib": 4096}')
    assert "memory_mib says 4096, and it has 1024 MiB" in one_line(problems)


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ("", "its ssh host key is not known to this machine yet"),
        (
            "[127.0.0.1]:23061 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKfz6BqXSSv4lMwWyJ9jxkGDwIjLVtMWtkzRyHcrbkOn\n",
            "its ssh host key is not the one that this machine knows",
        ),
    ],
)
def test_a_host_key_that_is_not_the_known_one_is_told(site, tmp_path, known, says):
    (tmp_path / "known").write_text(known)
    options = f"-o UserKnownHostsFile={tmp_path / 'known'} -o StrictHostKeyChecking=yes -o ControlPath=none"
    arguments = f"{options} {os.environ['ANSIBLE_SSH_COMMON_ARGS']}"
    _code, _output, problems = play(site, "--limit", "web1", ANSIBLE_SSH_COMMON_ARGS=arguments)
    assert says in one_line(problems)


def test_a_new_site_is_made_of_bare_servers_once_somebody_vouches_for_their_keys(tmp_path):
    """As a newcomer does it, and with ssh's own files in place of the lab's."""
    keys = ROOT / ".lab/ssh"
    (tmp_path / "password").write_text("a password\n")
    given = {
        "site": tmp_path / "site",
        "web": "127.0.0.1:23061=10.90.60.11",
        "db": "127.0.0.1:23062=10.90.60.12",
        "key": keys / "id_ed25519.pub",
        "user": "root",
        "known_hosts": tmp_path / "known_hosts",
    }
    ssh = f"-F none -i {keys}/id_ed25519 -o UserKnownHostsFile={tmp_path}/known_hosts -o StrictHostKeyChecking=yes"

    def run(*words):
        done = subprocess.run(
            [
                Path(sys.executable).parent / "ansible-playbook",
                "playbooks/init.yml",
                *(f"-e{name}={given[name]}" for name in given),
                *words,
            ],
            cwd=ROOT,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
                # A newcomer calls it as .venv/bin/ansible-playbook, and has no such directory in PATH.
                "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "ANSIBLE_SSH_COMMON_ARGS": ssh,
                "ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "password"),
                "NO_COLOR": "1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, output = run()
    fingerprint = on("web1", "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    assert code != 0
    assert "nobody vouched for" in output
    assert fingerprint in output
    code, output = run("-e", "trust_host_keys=true")
    assert code == 0, output
    assert "import_heroku.yml" in output
    code, output = run()
    assert code == 0, output
    assert "changed=0" in output
