"""Measure how long the playbooks take, beside a plain shell script and beside the tasks of the usual roles.

Each round starts fresh servers and measures, one after the other: bench/plain.sh on one; site.yml on two, and site.yml
again; and the second run of bench/usual.yml, whose server is made once. One more round comes first, of a controller
that has never run a playbook: it finds what script/setup packed (script/pack_modules.py) and nothing else. Prints the
table and writes it to docs/benchmarks.md. Absolute times drift with the load of the machine; the ratios, each taken
within a round, far less.
"""

from __future__ import annotations

import argparse
import io
import re
import resource
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bench.report import machine, write_section
from bench.servers import LOGS, ROOT, WORK, Lab, run, say, server_cpu, servers_down, servers_up, ssh, tail

APP = "errorlog"
DOMAIN = f"{APP}.localhost"

# The labs of the benchmark, each with its inventory and its servers.
SITE = Lab("bench", "bench/inventory/site", ["db1", "web1"])
PLAIN = Lab("bench-plain", "bench/inventory/plain", ["plain"])
USUAL = Lab("bench-usual", "bench/inventory/usual", ["usual"])

RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=0\s+failed=0\s", re.MULTILINE)


@dataclass
class Timing:
    """One thing done once: seconds of wall and of CPU, and the recap where it was a playbook."""

    wall: float
    controller_cpu: float
    server_cpu: float | None
    tasks: dict[str, int] = field(default_factory=dict)


def controller_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def timed(lab: Lab, action: Callable[[], str]) -> Timing:
    servers, controller, start = server_cpu(lab), controller_cpu(), time.monotonic()
    output = action()
    wall, own = time.monotonic() - start, controller_cpu() - controller
    after = server_cpu(lab)
    tasks = {host: int(ok) for host, ok, _changed in RECAP.findall(output)}
    used = None if servers is None or after is None else after - servers
    return Timing(wall, own, used, tasks)


def playbook(name: str, inventory: str, log: str, **environment: str) -> str:
    return run("ansible-playbook", name, "--inventory", inventory, log=LOGS / f"{log}.log", **environment)


def packages() -> list[str]:
    """The packages of all hosts of the site, from the one place that names them."""
    names = []
    for file in ("all/base", "web", "db"):
        values = yaml.safe_load((ROOT / f"group_vars/{file}.yml").read_text())
        names += [name for key, value in values.items() if re.fullmatch(r"base_packages_[a-z]+", key) for name in value]
    return names


def material() -> bytes:
    """What the plain shell script finds beside it, as a tar.gz."""

    def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if re.search(r"/(__pycache__|\.venv|staticfiles|db\.sqlite3)(/|$)", member.name) else member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(ROOT / "examples" / APP, APP, filter=wanted)
        archive.add(ROOT / "bench/plain.sh", "plain.sh")
        archive.add(ROOT / "roles/uv/files/uv.txt", "uv.txt")
    return buffer.getvalue()


def measure_plain(number: int) -> Timing:
    servers_up(PLAIN)
    line = f"mkdir plain && cd plain && tar -xzm && ./plain.sh {DOMAIN} {' '.join(packages())}"
    timing = timed(PLAIN, lambda: ssh(PLAIN, "plain", line, data=material(), log=LOGS / f"plain-{number}.log"))
    servers_down(PLAIN)
    return timing


def measure_site(number: int, control: Path) -> tuple[Timing, Timing]:
    servers_up(SITE)
    # A connection kept open to a server of the same address, which is gone, would be taken for one to this.
    control_path = {
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(control / str(number)),
        "ANSIBLE_LOCAL_TEMP": str(control / "ansible"),
    }
    fresh = timed(SITE, lambda: playbook("site.yml", SITE.inventory, f"fresh-{number}", **control_path))
    ssh(SITE, "web1", f"curl -skf --resolve {DOMAIN}:443:127.0.0.1 https://{DOMAIN}/health")
    second = timed(SITE, lambda: unchanged(playbook("site.yml", SITE.inventory, f"second-{number}", **control_path)))
    servers_down(SITE)
    return fresh, second


def unchanged(output: str) -> str:
    changed = {host: int(count) for host, _ok, count in RECAP.findall(output) if int(count)}
    if changed:
        sys.exit(f"A second run was to be measured, and it changed something: {changed}\n{tail(output)}")
    return output


def usual_run(log: str) -> str:
    return playbook("bench/usual.yml", USUAL.inventory, log, ANSIBLE_CONFIG="bench/usual.cfg")


def measure_usual(number: int) -> Timing:
    return timed(USUAL, lambda: unchanged(usual_run(f"usual-{number}")))


@dataclass
class Round:
    plain: Timing
    fresh: Timing
    second: Timing
    usual: Timing


def spread(values: Iterable[float | None], unit: str = " s") -> str:
    """Median and, where there are several, the lowest and highest."""
    known = [value for value in values if value is not None]
    if not known:
        return "not known"
    digits = 1 if unit else 2
    text = f"{statistics.median(known):.{digits}f}{unit}"
    return text if len(known) == 1 else f"{text} ({min(known):.{digits}f} to {max(known):.{digits}f})"


def table(first: Round, rounds: list[Round]) -> str:
    last = rounds[-1]

    def row(name: str, pick: Callable[[Round], Timing], of: list[Round] = rounds) -> str:
        picked = [pick(each) for each in of]
        columns = "wall", "controller_cpu", "server_cpu"
        return f"| {name} | {' | '.join(spread(getattr(each, column) for each in picked) for column in columns)} |"

    def ratio(pick: Callable[[Round], Timing], base: Callable[[Round], Timing]) -> str:
        return spread((pick(each).wall / base(each).wall for each in rounds), "")

    tasks = ", ".join(f"{host} {count}" for host, count in sorted(last.second.tasks.items()))
    to_script = ratio(lambda each: each.fresh, lambda each: each.plain)
    to_usual = ratio(lambda each: each.second, lambda each: each.usual)
    return f"""\
| | wall | CPU, controller | CPU, servers |
|---|---|---|---|
{row("plain shell script, one fresh server", lambda each: each.plain)}
{row("`site.yml`, two fresh servers", lambda each: each.fresh)}
{row("the same, a controller's first run", lambda each: each.fresh, [first])}
{row("`site.yml` again, nothing to change", lambda each: each.second)}
{row(f"{last.usual.tasks['usual']} usual tasks again, one server", lambda each: each.usual)}

| | measured | target |
|---|---|---|
| `site.yml` on fresh servers, to the plain shell script | {to_script} | 1.5 at most |
| the same, a controller's first run | {first.fresh.wall / first.plain.wall:.2f} | |
| `site.yml` again, on a quiet machine | {spread(each.second.wall for each in rounds)} | 20 s at most |
| `site.yml` again, to the usual tasks | {to_usual} | under 0.5 |
| tasks of a second run | {tasks} | |
"""


def measure(count: int) -> tuple[Round, list[Round]]:
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="offramp-bench-") as control:
        say("The server of the usual tasks is made, once")
        servers_up(USUAL)
        usual_run("usual-first")
        run("python", "-m", "script.pack_modules", log=LOGS / "pack.log", ANSIBLE_LOCAL_TEMP=f"{control}/ansible")
        for number in range(count + 1):
            plain = measure_plain(number)
            fresh, second = measure_site(number, Path(control))
            rounds.append(Round(plain, fresh, second, measure_usual(number)))
            say(
                f"Round {number} of {count}: script {plain.wall:.1f} s, site.yml {fresh.wall:.1f} s and again "
                f"{second.wall:.1f} s, usual tasks {rounds[-1].usual.wall:.1f} s"
            )
    return rounds[0], rounds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench converge", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; default 3")
    parser.add_argument("--no-write", action="store_true", help="print the table and leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    count = max(arguments.rounds, 1)

    for folder in (LOGS, WORK / "secrets"):
        shutil.rmtree(folder, ignore_errors=True)
    LOGS.mkdir(parents=True)
    heading = machine()
    say(heading)
    try:
        rounds = measure(count)
    finally:
        for lab in (SITE, PLAIN, USUAL):
            servers_down(lab)
        shutil.rmtree(WORK / "secrets", ignore_errors=True)
    kind = f"Medians of {count} rounds, with the lowest and the highest." if count > 1 else "One round."
    text = f"{heading} {kind}\n\n{table(*rounds)}"
    print(f"\n{text}")
    if not arguments.no_write:
        write_section("converge", text)


if __name__ == "__main__":
    main()
