"""The ssh connection that this run came in by, as sshd told it to the first process of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SshConnection:
    """Where a connection comes from, and the port that it came in by."""

    source: str
    port: int


def ssh_connection(proc: Path = Path("/proc")) -> SshConnection | None:
    """Return the connection of this process; sudo takes it out of the environment, so its parents are asked too."""
    process = os.getpid()
    while process > 1:
        try:
            environment = (proc / str(process) / "environ").read_bytes().decode(errors="replace")
            status = (proc / str(process) / "stat").read_text()
        except OSError:
            return None
        for line in environment.split("\0"):
            name, _, value = line.partition("=")
            words = value.split()
            if name == "SSH_CONNECTION" and len(words) == 4:
                return SshConnection(words[0].partition("%")[0].removeprefix("::ffff:"), int(words[3]))
        # The name of a process, in brackets, may hold anything.
        process = int(status.rpartition(")")[2].split()[1])
    return None
