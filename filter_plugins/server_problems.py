"""Every reason at once why a server cannot be worked on, in plain words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

DOCUMENTATION = r"""
name: server_problems
short_description: Every reason at once why a server cannot be worked on
description:
  - Compares what a server answered to M(server_check) with what the site asks of it. An empty list means that all is
    well.
options:
  _input:
    description: >-
      The answer. Either C(report), as the module returns it, or C(failure), the text of the error; C(become_failure) is
      the error when only sudo failed.
    type: dict
    required: true
  expected:
    description: >-
      What the site asks. C(host), C(target), C(port) and C(user) say how it is reached, C(groups) what it is,
      C(address) how the others call it, C(memory_mib) what the inventory says of its memory, C(programs) and
      C(users) who may listen on which port.
    type: dict
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ server_check_answer | server_problems(server_check_expected) }}"
"""

RETURN = r"""
_value:
  description: >-
    One mapping a problem. C(path) leads to the value in the inventory, C(problem) says what is wrong, C(mend) what to
    do.
  type: list
  elements: dict
"""

RELEASES = {"12": "bookworm", "13": "trixie"}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# A machine sold with 512 MiB reports up to a tenth less.
TOLERANCE = 0.9
# The packages and the first release of an app take the larger one; a server that has them needs room to write.
FRESH_DISK_MIB, LATER_DISK_MIB, TEMPORARY_MIB = 1024, 256, 64
DISK_PATHS = ("/", "/var", "/srv")
SKEW_SECONDS = 2

Problem = dict[str, Any]
Answer = dict[str, Any]


def problem(expected: Answer, key: str | None, text: str, mend: str) -> Problem:
    path = ["hosts", expected["host"], *([key] if key else [])]
    return {"path": path, "problem": f"{expected['host']}: {text}", "mend": mend}


def ssh_command(expected: Answer) -> str:
    port = f"-p {expected['port']} " if str(expected.get("port", 22)) != "22" else ""
    user = f"{expected['user']}@" if expected.get("user") else ""
    return f"ssh {port}{user}{expected['target']}"


def known_host(expected: Answer) -> str:
    plain = str(expected.get("port", 22)) == "22"
    return expected["target"] if plain else f"[{expected['target']}]:{expected['port']}"


# What ssh or sudo says, the key of the host that it concerns, what it means and what mends it.
Meaning = tuple[str, str | None, str, str]
CONNECTION: tuple[Meaning, ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* has changed",
        "ansible_host",
        "its ssh host key is not the one that this machine knows: it was installed anew, or another answers for it",
        "if you installed it anew, run  ssh-keygen -R '{known}'  and then  {ssh}  and compare the key that it shows",
    ),
    (
        "Host key verification failed",
        "ansible_host",
        "its ssh host key is not known to this machine yet",
        "run  {ssh}  once and answer yes when the key is the right one",
    ),
    (
        "UNPROTECTED PRIVATE KEY|bad permissions",
        None,
        "ssh refuses your private key, which others can read",
        "run  chmod 600  on the key file",
    ),
    (
        "Permission denied|Too many authentication failures|Authentication failed",
        "ansible_user",
        'ssh does not let the user "{user}" in',
        "write the user that you log in as:  ansible_user: root  and see that  {ssh}  works without a password",
    ),
    (
        "Could not resolve hostname|Name or service not known",
        "ansible_host",
        'the name "{target}" leads to no address',
        "write the server's address:  ansible_host: 192.0.2.10",
    ),
    (
        "Connection refused",
        "ansible_port",
        "no ssh answers at {target} port {port}: the server refuses the connection",
        "correct ansible_host or ansible_port, or start the server's ssh, until  {ssh}  works",
    ),
    (
        "timed out|No route to host|Network is unreachable|timeout",
        "ansible_host",
        "there is no answer at {target} port {port}",
        "switch it on, correct ansible_host, or open port {port} in its provider's firewall, until  {ssh}  works",
    ),
    (
        "sshpass",
        "ansible_password",
        "a password for ssh needs the program sshpass on this machine",
        "use an ssh key, or run  apt-get install sshpass",
    ),
    (
        "Connection closed|Connection reset|kex_exchange_identification|closed by remote host",
        "ansible_host",
        "the server ends the ssh connection before anyone can log in",
        "look at the end of  {ssh} -v  and at the server's ssh log; fail2ban or MaxStartups may hold you off",
    ),
)
SUDOERS = "echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{user}"
SUDO: tuple[Meaning, ...] = (
    (
        r"sudo: (command )?not found|sudo: No such file|sudo.*No such file or directory|sudo: not found",
        "ansible_user",
        "the program sudo is not installed",
        "write  ansible_user: root  or, as root, run  apt-get install sudo",
    ),
    (
        "not in the sudoers|may not run|not allowed to",
        "ansible_user",
        'the user "{user}" may not use sudo',
        f"write  ansible_user: root  or, as root, run  {SUDOERS}",
    ),
    (
        "Missing sudo password|password is required|Incorrect sudo password|escalation prompt|a terminal is required",
        "ansible_user",
        'sudo asks the user "{user}" for a password',
        f"add  --ask-become-pass  to the command, or, as root, run  {SUDOERS}",
    ),
)
PYTHON: tuple[Meaning, ...] = (
    (
        r"python[\d.]*: (command )?not found|python.*No such file or directory|No python interpreters",
        "ansible_python_interpreter",
        "there is no Python 3, which Ansible works with",
        "run there, as root,  apt-get install python3",
    ),
    (
        "No space left on device|Disk quota exceeded",
        None,
        "its disk is full",
        "make room:  {ssh} 'df -h; du -xh / | sort -h | tail'",
    ),
    (
        "Read-only file system",
        None,
        "its disk can only be read, as after a fault of the disk",
        "look at  {ssh} dmesg  and mend the disk",
    ),
)


def failure_problem(expected: Answer, text: str, meanings: tuple[Meaning, ...]) -> Problem:
    """Return what an error means; its own words where that is not known."""
    words = {**expected, "ssh": ssh_command(expected), "known": known_host(expected)}
    for pattern, key, meaning, mend in meanings:
        if re.search(pattern, text, re.IGNORECASE):
            return problem(expected, key, meaning.format_map(words), mend.format_map(words))
    line = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
    return problem(
        expected, None, f"it cannot be asked: {line[:300]}", f"see that  {words['ssh']} python3 --version  works"
    )


def answer_problems(answer: Answer, expected: Answer) -> Iterator[Problem]:
    """Why the server could not be asked, or not as root."""
    if answer.get("failure"):
        meanings = CONNECTION if answer.get("unreachable") else (*PYTHON, *SUDO, *CONNECTION)
        yield failure_problem(expected, answer["failure"], meanings)
    if answer.get("become_failure") and answer.get("become_failure") != answer.get("failure"):
        yield failure_problem(expected, answer["become_failure"], (*SUDO, *PYTHON))
    elif answer.get("report", {}).get("root") is False:
        yield failure_problem(expected, "not in the sudoers", SUDO)


def system_problems(answer: Answer, expected: Answer) -> Iterator[Problem]:
    report = answer.get("report") or {}
    system = report.get("system", {})
    version = system.get("VERSION_ID", "").split(".")[0]
    if system and (system.get("ID") != "debian" or version not in RELEASES):
        name = system.get("PRETTY_NAME") or "an unknown system"
        yield problem(
            expected, None, f"it runs {name}", "install Debian 13 (or 12) on it; its provider offers that as an image"
        )
    architecture = report.get("architecture")
    if architecture and architecture not in ARCHITECTURES:
        yield problem(
            expected,
            None,
            f"its processor is {architecture}",
            f"take a server with {' or '.join(ARCHITECTURES.values())}",
        )
    if report.get("systemd") is False:
        yield problem(expected, None, "it was not started by systemd", "start it by systemd, as Debian is by default")
    skew = report.get("skew_seconds", 0)
    if abs(skew) > SKEW_SECONDS:
        side = "ahead of" if skew > 0 else "behind"
        yield problem(
            expected,
            None,
            f"its clock is {abs(skew):.0f} s {side} this machine's",
            "on the one that is wrong, run  timedatectl set-ntp true  and wait a minute",
        )


def size_problems(answer: Answer, expected: Answer) -> Iterator[Problem]:
    """Less memory than the inventory says, or too little disk. Whether the memory is enough, the budget says."""
    report = answer.get("report") or {}
    real, stated = report.get("memory_mib"), expected.get("memory_mib")
    if real and stated and real < stated * TOLERANCE:
        yield problem(
            expected,
            "memory_mib",
            f"memory_mib says {stated}, and it has {real} MiB",
            "leave memory_mib out and the server is asked",
        )
    least = LATER_DISK_MIB if report.get("installed") else FRESH_DISK_MIB
    for path, free in report.get("free_mib", {}).items():
        limit = least if path in DISK_PATHS else TEMPORARY_MIB
        if free < limit:
            yield problem(
                expected,
                None,
                f"the disk at {path} has {free} MiB free; {limit} MiB are needed",
                f"make room (see  {ssh_command(expected)} 'du -xh {path} | sort -h | tail')  or take a larger disk",
            )


def network_problems(answer: Answer, expected: Answer) -> Iterator[Problem]:
    """An address that is another's, a port that is taken."""
    report = answer.get("report") or {}
    if report.get("owns_address") is False:
        has = report.get("addresses") or []
        mend = f"write  address: {has[0]}" if has else "give the server the address"
        yield problem(
            expected,
            "address",
            f"the address {expected['address']} is not one of its own; it has {', '.join(has) or 'none'}",
            f"{mend}  (the one by which the other servers reach it)",
        )
    for port, holder in sorted(report.get("listeners", {}).items(), key=lambda item: int(item[0])):
        program = expected["programs"].get(port)
        user = expected["users"].get(port)
        foreign = (program and holder["program"] and holder["program"] != program) or (user and holder["user"] != user)
        if foreign:
            who = f"{holder['program'] or 'a program'} of the user {holder['user']}"
            wanted = f"for {program}" if program else f"for a web process of the app {user}"
            yield problem(
                expected,
                None,
                f"port {port}, needed {wanted}, is taken by {who}",
                f"stop it on the server (see  ss -ltnp 'sport = :{port}')"
                + ("" if program else ", or give the app another  port:"),
            )


def server_problems(answer: Answer, expected: Answer) -> list[Problem]:
    """Return every problem of one server."""
    checks = (answer_problems, system_problems, size_problems, network_problems)
    found = itertools.chain.from_iterable(check(answer, expected) for check in checks)
    # One cause, as a missing Python, can fail with sudo in one way and without it in another.
    return list({entry["problem"]: entry for entry in found}.values())


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"server_problems": server_problems}
