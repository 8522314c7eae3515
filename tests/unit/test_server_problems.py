"""The filter server_problems says in plain words why a server cannot be worked on."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_plugins.server_problems import server_problems

EXPECTED = {
    "address": "192.0.2.11",
    "groups": ["web"],
    "host": "web1",
    "memory_mib": None,
    "port": 2222,
    "programs": {"80": "nginx", "11211": "memcached"},
    "target": "203.0.113.11",
    "user": "ada",
    "users": {"8000": "shop"},
}
REPORT = {
    "addresses": ["192.0.2.11", "203.0.113.11"],
    "architecture": "x86_64",
    "free_mib": {"/": 20000, "/scratch": 900},
    "installed": False,
    "listeners": {},
    "memory_mib": 1000,
    "owns_address": True,
    "root": True,
    "skew_seconds": 0.4,
    "system": {"ID": "debian", "VERSION_ID": "13", "PRETTY_NAME": "Debian GNU/Linux 13 (trixie)"},
    "systemd": True,
}


def problems(report=None, expected=None, **answer):
    """Return the messages for an answer; a report is what differs from a good one."""
    full = {"report": {**copy.deepcopy(REPORT), **report}} if report is not None else {}
    found = server_problems({**full, **answer}, {**EXPECTED, **(expected or {})})
    return [f"{item['problem']}\n{item['mend']}" for item in found]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({}, {}),
        ({"system": {"ID": "debian", "VERSION_ID": "12"}, "architecture": "aarch64"}, {}),
        ({"skew_seconds": -2.0}, {}),
        ({"memory_mib": 461}, {"memory_mib": 512}),
        ({"free_mib": {"/": 300, "/srv": 300, "/scratch": 70}, "installed": True}, {}),
        ({"listeners": {"80": {"program": "nginx", "user": "root"}, "8000": {"program": "g", "user": "shop"}}}, {}),
        # Who is not root sees no other's programs.
        ({"listeners": {"80": {"program": "", "user": "root"}}}, {}),
        ({"memory_mib": 64000}, {"memory_mib": 1024}),
    ],
)
def test_a_good_server_has_no_problems(report, expected):
    assert problems(report, expected) == []


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ("ssh: connect to host h port 2222: Connection refused", ["203.0.113.11 port 2222", "refuses", "ansible_port"]),
        ("ssh: connect to host h port 2222: Connection timed out", ["no answer at 203.0.113.11 port 2222", "firewall"]),
        ("ssh: connect to host h port 2222: No route to host", ["no answer at"]),
        ("ssh: Could not resolve hostname x: Name or service not known", ["leads to no address", "ansible_host: "]),
        ("ada@h: Permission denied (publickey).", ['not let the user "ada" in', "ssh -p 2222 ada@203.0.113.11"]),
        ("Host key verification failed.", ["not known to this machine yet", "answer yes"]),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            ["not the one that this machine knows", "ssh-keygen -R '[203.0.113.11]:2222'"],
        ),
        ("Permissions 0644 for 'k' are too open. bad permissions", ["others can read", "chmod 600"]),
        ("kex_exchange_identification: read: Connection reset by peer", ["ends the ssh connection"]),
        ("you must install the sshpass program", ["sshpass", "use an ssh key"]),
        ("first\nsomething new\n", ["it cannot be asked: something new", "python3 --version"]),
    ],
)
def test_an_unreachable_server_is_explained(failure, says):
    (message,) = problems(failure=failure, unreachable=True)
    assert message.startswith("web1: ")
    assert [part for part in says if part not in message] == []


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ("/bin/sh: 1: sudo: not found", ["sudo is not installed", "ansible_user: root"]),
        ("sudo: a password is required", ['sudo asks the user "ada"', "--ask-become-pass", "NOPASSWD"]),
        ("Missing sudo password", ["sudo asks"]),
        ("Timeout (12s) waiting for privilege escalation prompt:", ["sudo asks"]),
        ("ada is not in the sudoers file.", ['"ada" may not use sudo', "/etc/sudoers.d/ada"]),
    ],
)
def test_a_user_without_sudo_is_told_with_all_else_that_is_wrong(failure, says):
    first, second = problems({"free_mib": {"/": 256}}, become_failure=failure)
    assert [part for part in says if part not in first] == []
    assert "256 MiB" in second


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ("/bin/sh: 1: /usr/bin/python3: not found", ["no Python 3", "apt-get install python3"]),
        ("/bin/sh: 1: exec: /usr/bin/python3.11: not found", ["no Python 3"]),
        ("OSError: [Errno 28] No space left on device", ["its disk is full", "df -h"]),
        ("mkdir: cannot create directory: Read-only file system", ["can only be read"]),
    ],
)
def test_a_server_that_cannot_run_modules_is_explained_once(failure, says):
    (message,) = problems(failure=failure, become_failure=f"sudo: {failure}")
    assert [part for part in says if part not in message] == []


@pytest.mark.parametrize(
    ("report", "expected", "says"),
    [
        (
            {"system": {"ID": "ubuntu", "VERSION_ID": "24.04", "PRETTY_NAME": "Ubuntu 24.04 LTS"}},
            {},
            ["it runs Ubuntu 24.04 LTS", "Debian 13"],
        ),
        ({"system": {"ID": "debian", "VERSION_ID": "11", "PRETTY_NAME": "Debian 11"}}, {}, ["it runs Debian 11"]),
        ({"system": {"ID": "debian", "VERSION_ID": "", "PRETTY_NAME": "Debian sid"}}, {}, ["it runs Debian sid"]),
        ({"architecture": "armv7l"}, {}, ["its processor is armv7l", "amd64 or arm64"]),
        ({"systemd": False}, {}, ["not started by systemd"]),
        ({"skew_seconds": 3.0}, {}, ["its clock is 3 s ahead of", "timedatectl set-ntp true"]),
        ({"skew_seconds": -3600.0}, {}, ["its clock is 3600 s behind"]),
        ({"memory_mib": 2000}, {"memory_mib": 4096}, ["memory_mib says 4096, and it has 2000", "leave memory_mib out"]),
        ({"free_mib": {"/": 900}}, {}, ["the disk at / has 900 MiB free; 1024 MiB", "larger disk"]),
        ({"free_mib": {"/var": 200}, "installed": True}, {}, ["the disk at /var has 200 MiB free; 256 MiB"]),
        ({"free_mib": {"/scratch": 10}}, {}, ["the disk at /scratch has 10 MiB free; 64 MiB"]),
        ({"owns_address": False}, {}, ["192.0.2.11 is not one of its own; it has 192.0.2.11, 203", "write  address:"]),
        ({"owns_address": False, "addresses": []}, {}, ["it has none", "give the server the address"]),
        (
            {"listeners": {"80": {"program": "apache2", "user": "root"}}},
            {},
            ["port 80, needed for nginx", "apache2 of"],
        ),
        (
            {"listeners": {"8000": {"program": "x", "user": "eve"}}},
            {},
            ["web process of the app shop", "user eve", "port:"],
        ),
        ({"root": False}, {}, ['"ada" may not use sudo']),
    ],
)
def test_what_a_server_lacks_is_explained(report, expected, says):
    (message,) = problems(report, expected)
    assert [part for part in says if part not in message] == []


def test_everything_that_is_wrong_with_a_server_is_listed_at_once():
    bad = {"architecture": "i686", "memory_mib": 1, "free_mib": {"/": 1}, "owns_address": False, "skew_seconds": 60}
    assert len(problems(bad, {"memory_mib": 512})) == 5


def test_each_problem_leads_to_the_host():
    for key in ("address", "memory_mib"):
        found = server_problems(
            {"report": {**REPORT, "owns_address": False, "memory_mib": 9}}, {**EXPECTED, "memory_mib": 9999}
        )
        assert ["hosts", "web1", key] in [item["path"] for item in found]


@given(st.text())
def test_whatever_ssh_says_is_one_problem(words):
    assert len(problems(failure=words or "x", unreachable=True)) == 1
