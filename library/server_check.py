#!/usr/bin/python
"""Look at a server in one round trip and change nothing."""

from __future__ import annotations

import os
import platform
import pwd
import re
import socket
import tempfile
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_facts import host_facts, memory_mib, read, release

DOCUMENTATION = r"""
module: server_check
short_description: Look at a server in one round trip and change nothing
description:
  - Returns what the preflight has to know about a server, and leaves the facts that M(host_facts) gathers.
options:
  address:
    description: Address that the other servers use for this one.
    type: str
  ports:
    description: Ports that the site will serve on.
    type: list
    elements: int
    default: []
author: [Offramp]
"""

EXAMPLES = r"""
- name: Look at the server
  server_check:
    address: 192.0.2.11
    ports: [80, 443]
"""

RETURN = r"""
report:
  description: The system, memory, free space, addresses, clock and who listens on the ports.
  returned: always
  type: dict
"""

DISK_PATHS = ("/", "/var", "/srv", tempfile.gettempdir())
LISTENING = "0A"


def free_mib() -> dict[str, int]:
    """Return the free space of each file system, by the first of our paths that lies on it."""
    seen: dict[int, str] = {}
    for path in DISK_PATHS:
        if Path(path).is_dir():
            seen.setdefault(Path(path).stat().st_dev, path)
    free = {}
    for path in seen.values():
        status = os.statvfs(path)
        free[path] = status.f_bavail * status.f_frsize // 1024**2
    return free


def addresses() -> list[str]:
    """Return the IPv4 addresses of the interfaces."""
    found = set(re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", read("/proc/net/fib_trie")))
    return sorted(item for item in found if not item.startswith("127."))


def owns(address: str | None) -> bool:
    """Say whether a service could listen on the address."""
    if not address:
        return True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def listeners(ports: list[int]) -> dict[str, dict[str, str]]:
    """Return which program and user listens on each of the ports."""
    sockets: dict[str, tuple[int, int]] = {}
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read(path).splitlines()[1:]:
            words = line.split()
            port = int(words[1].rsplit(":", 1)[1], 16)
            if words[3] == LISTENING and port in ports:
                sockets[words[9]] = (port, int(words[7]))
    programs = programs_of(set(sockets)) if sockets else {}
    return {
        str(port): {"program": programs.get(inode, ""), "user": user_name(user)}
        for inode, (port, user) in sockets.items()
    }


def programs_of(inodes: set[str]) -> dict[str, str]:
    """Return the program that holds each socket, as far as this user may see."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [str(entry.readlink()) for entry in (process / "fd").iterdir()]
        except OSError:
            continue
        for link in links:
            inode = link[8:-1] if link.startswith("socket:[") else ""
            if inode in inodes:
                found.setdefault(inode, read(f"{process}/comm").strip())
    return found


def user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str"},
            "ports": {"type": "list", "elements": "int", "default": []},
        },
        supports_check_mode=True,
    )
    system = release()
    report = {
        "addresses": addresses(),
        "architecture": platform.machine(),
        "clock": time.time(),
        "free_mib": free_mib(),
        "installed": Path("/etc/offramp").is_dir(),
        "listeners": listeners(module.params["ports"]),
        "memory_mib": memory_mib(),
        "owns_address": owns(module.params["address"]),
        "root": os.geteuid() == 0,
        "system": {key: system.get(key, "") for key in ("ID", "VERSION_ID", "PRETTY_NAME")},
        "systemd": Path("/run/systemd/system").is_dir(),
    }
    result = {"changed": False, "report": report}
    if system.get("ID") == "debian":
        # A later play that gathers facts once a run has no need to.
        result["ansible_facts"] = {**host_facts(), "_ansible_facts_gathered": True}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
