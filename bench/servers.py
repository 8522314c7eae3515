"""The servers of a benchmark: one lab each, made from an inventory of its own and gone at the end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".lab/bench"
LOGS = WORK / "logs"


class Lab(NamedTuple):
    name: str
    inventory: str
    servers: list[str]


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-30:])


def run(
    *command: str | Path,
    log: Path | None = None,
    data: bytes | None = None,
    timeout: float | None = None,
    **environment: str,
) -> str:
    """Run a command, its output kept in a file, and return the output; end the benchmark when it fails."""
    shown = " ".join(map(str, command))
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as expired:
        sys.exit(f"{shown} took more than {timeout:.0f} s:\n{tail((expired.output or b'').decode(errors='replace'))}")
    output = done.stdout.decode(errors="replace")
    if log:
        log.write_text(output)
    if done.returncode:
        where = f"\nAll of it is in {log.relative_to(ROOT)}." if log else ""
        sys.exit(f"{shown} failed:\n{tail(output)}{where}")
    return output


def servers_up(lab: Lab) -> None:
    run(sys.executable, "lab/hosts.py", "up", "--lab", lab.name, "--inventory", lab.inventory)


def servers_down(lab: Lab) -> None:
    run(sys.executable, "lab/hosts.py", "down", "--lab", lab.name)


def server_cpu(lab: Lab) -> float | None:
    """Return the CPU seconds that a lab's containers used so far, where the kernel tells."""
    total = 0.0
    for server in lab.servers:
        path = run("podman", "inspect", "--format", "{{.State.CgroupPath}}", f"offramp-{lab.name}-{server}").strip()
        both = Path("/sys/fs/cgroup" + path, "cpu.stat"), Path("/sys/fs/cgroup/cpuacct" + path, "cpuacct.usage")
        try:
            if both[0].exists():
                total += int(re.findall(r"^usage_usec (\d+)$", both[0].read_text(), re.MULTILINE)[0]) / 1e6
            else:
                total += int(both[1].read_text()) / 1e9
        except (OSError, IndexError):
            return None
    return total


def ssh(lab: Lab, server: str, line: str, *options: str, **more: object) -> str:
    return run("ssh", "-F", f".lab/ssh/{lab.name}", *options, server, line, **more)


def machine_cpu() -> float:
    """Return the CPU seconds that this machine used so far, those taken from it by its own host among them."""
    user, nice, system, _idle, _wait, interrupts, soft, stolen = map(int, first_line("/proc/stat").split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def first_line(path: str) -> str:
    with Path(path).open() as file:
        return file.readline()
