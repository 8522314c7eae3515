"""Runs the parts of script/test, says how long each took, and counts what passed and failed."""

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".lab" / "test"
# A log is for reading.
PLAIN = {"NO_COLOR": "1", "PY_COLORS": "0", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
SUMMARY = re.compile(r"^\d+ (?:passed|failed|errors?)\b.*$", re.MULTILINE)
NUMBER = re.compile(r"(\d+) (passed|failed|errors?)\b")
# What pytest and ansible-playbook say of one failure.
FAILURE = re.compile(r"^(?:FAILED|ERROR|fatal:|E {3}) ?.*$", re.MULTILINE)
# What is started first, so that nothing long is left for the end: the kind, and the name.
LONG = (
    "drills deploy",
    "drills standby",
    "drills upgrade",
    "drills backup",
    "drills site",
    "molecule site",
    "drills rebuild",
    "security canary",
    "drills faults",
    "molecule standby",
    "molecule deploy",
)
# What is started next, by whoever is free.
NEXT = (
    "drills ssh",
    "security security",
    "molecule postgresql",
    "drills patch",
    "drills tls",
    "lab",
    "drills firewall",
    "molecule app",
    "molecule import",
    "security openscap",
)
# Scenarios that run on Debian 12 too, by the kind of run. Its PostgreSQL is another version, with settings of its own.
BOTH_RELEASES = {"molecule": ("site",), "drills": ("postgresql",)}
# Scenarios of the part security, the long proofs of docs/security.md.
SECURITY = ("canary", "openscap", "security")
# What the scanners of these scenarios found, a part each.
SECURITY_TABLES = ROOT / ".lab" / "scanner"
# The long proofs, which a run of everything else goes without: scenarios that are long as a whole, and those that have
# tests marked as drills.
WHOLE_DRILLS = ("backup", "faults", "patch", "rebuild", "tls", "upgrade")
DRILLS = ("upgrade", "backup", "deploy", "standby", "site", "rebuild", "faults", "patch", "tls", "ssh", "firewall")
# Scenarios that a run of everything makes once on trixie for both, their usual tests and their drills.
MADE_ONCE = ("deploy", "standby", "site", "ssh", "firewall")

# A scenario that hangs fails, and does not keep the others from being told.
LIMIT_SECONDS, KILL_SECONDS = 2700, 30


@dataclass
class Result:
    """What a part came to."""

    name: str
    passed: int
    failed: int
    seconds: float
    failures: tuple[str, ...] = ()

    def __str__(self) -> str:
        verdict = "FAILED" if self.failed else "ok"
        return f"{verdict:6} {self.name:24} {self.passed:5} passed {self.failed:3} failed {self.seconds:6.0f} s"


def count(log: str, code: int, at_least: int = 0) -> tuple[int, int]:
    """Count by the last line that counts; failing without a word of what is one failure."""
    lines = SUMMARY.findall(log)
    numbers = {word.rstrip("s"): int(number) for number, word in NUMBER.findall(lines[-1])} if lines else {}
    failed = numbers.get("failed", 0) + numbers.get("error", 0)
    passed = numbers.get("passed", at_least if code == 0 else 0)
    return passed, failed or int(code != 0)


def failures(log: str, code: int) -> tuple[str, ...]:
    """Pick the lines that name what failed, so that the end of a long run says it too."""
    lines = [line[:300] for line in FAILURE.findall(log)] if code else []
    return tuple(lines[-20:])


def run(name: str, command: list[str], environment: dict[str, str] | None = None, *, show: bool) -> tuple[str, int]:
    """Run a command, keep what it says in a log, and show it at once or only when it fails."""
    LOGS.mkdir(parents=True, exist_ok=True)
    environment = os.environ | PLAIN | (environment or {})
    lines = []
    with (LOGS / f"{name.replace(' ', '-')}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for line in process.stdout:
            lines.append(line)
            log.write(line)
            if show:
                print(line, end="", flush=True)
        code = process.wait()
    text = "".join(lines)
    if code and not show:
        print(f"{text}\n{name}: {' '.join(command)} ended with {code}", flush=True)
    return text, code


def part(name: str, command: list[str], at_least: int = 0, *, show: bool = True) -> Result:
    if show:
        print(f"\n== {name}: {' '.join(command)}", flush=True)
    begin = time.monotonic()
    text, code = run(name, command, show=show)
    return Result(name, *count(text, code, at_least), time.monotonic() - begin, failures(text, code))


def lint(*, show: bool = True) -> Iterator[Result]:
    yield part("lint", ["script/lint"], show=show)


def unit(*, show: bool = True) -> Iterator[Result]:
    yield part("unit", ["pytest", "tests/unit"], show=show)


def badinput(*, show: bool = True) -> Iterator[Result]:
    yield part("badinput", ["pytest", "tests/badinput", "--numprocesses=2"], show=show)


def syntax(*, show: bool = True) -> Iterator[Result]:
    playbooks = ["site.yml", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "playbooks").glob("*.yml"))]
    for inventory in sorted((ROOT / "inventory").iterdir()):
        command = ["ansible-playbook", "--syntax-check", f"--inventory=inventory/{inventory.name}", *playbooks]
        yield part(f"syntax {inventory.name}", command, len(playbooks), show=show)


def scenario(name: str, release: str, kind: str = "molecule", tests: str = "") -> Result:
    """Take a scenario through create, converge, idempotence, verify and destroy; idempotence counts as a test.

    Of its tests those run that DRILLS names in molecule/conftest.py.
    """
    begin = time.monotonic()
    label = f"{kind} {name} {release}"
    print(f"       {label}", flush=True)
    limit = ["timeout", f"--kill-after={KILL_SECONDS}", str(LIMIT_SECONDS)]
    command = [*limit, "molecule", "test", "--scenario-name", name]
    text, code = run(label, command, {"LAB_RELEASE": release, "DRILLS": tests}, show=False)
    passed, failed = count(text, code)
    passed += len(re.findall(r"idempotence.*Executed: Successful", text.partition("\nDETAILS")[0]))
    result = Result(label.removeprefix("molecule "), passed, failed, time.monotonic() - begin, failures(text, code))
    print(result, flush=True)
    return result


def wanted(part: str, name: str | None, release: str | None) -> list[tuple[str, str, str]]:
    """The scenarios of a part, each with its release and kind."""
    on_bookworm = [(one, "bookworm", part) for one in BOTH_RELEASES.get(part, ())]
    if part == "drills":
        return [(drill, "trixie", part) for drill in DRILLS] + on_bookworm
    if part == "security":
        return [(proof, "trixie", part) for proof in SECURITY]
    if name:
        return [(name, release or "trixie", part)]
    names = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))
    usual = [(one, "trixie", part) for one in names if one not in (*WHOLE_DRILLS, *SECURITY)]
    return usual + on_bookworm


class Job(NamedTuple):
    """Something that takes a while: its kind and name, what it must not run beside, and what does it."""

    label: str
    occupies: str
    do: Callable[[], Sequence[Result]]

    @property
    def place(self) -> int:
        order = LONG + NEXT
        return order.index(self.label) if self.label in order else len(order)


def jobs(scenarios: Sequence[tuple[str, str, str]]) -> Iterator[Job]:
    kinds = {kind for name, _release, kind in scenarios if name in MADE_ONCE}
    both = MADE_ONCE if kinds == {"molecule", "drills"} else ()
    for name, release, kind in scenarios:
        if kind == "molecule" and name in both and release == "trixie":
            continue
        tests = ""
        if kind == "drills" and name in DRILLS and name not in WHOLE_DRILLS:
            tests = "all" if name in both else "only"
        yield Job(
            f"{kind} {name}",
            name,
            lambda name=name, release=release, kind=kind, tests=tests: [scenario(name, release, kind, tests)],
        )


def side_by_side(waiting: list[Job]) -> list[Result]:
    """Keep two cores busy, and never run a scenario beside itself: its ports and addresses are its own.

    Two jobs at a time often wait for the same server to come up; a third, not of the longest, fills these gaps.
    """
    print("\n== molecule: logs in .lab/test", flush=True)
    busy, turn = set(), threading.Condition()
    waiting.sort(key=lambda job: job.place)

    def take(least_place: int) -> Job | None:
        with turn:
            while left := [job for job in waiting if job.place >= least_place]:
                job = next((job for job in left if job.occupies not in busy), None)
                if job:
                    waiting.remove(job)
                    busy.add(job.occupies)
                    return job
                turn.wait()
        return None

    def work(least_place: int) -> list[Result]:
        results = []
        while job := take(least_place):
            try:
                results += job.do()
            finally:
                with turn:
                    busy.remove(job.occupies)
                    turn.notify_all()
        return results

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(work, least_place) for least_place in (0, 0, len(LONG))]
        return [result for worker in workers for result in worker.result()]


def lab(*, show: bool = True) -> Iterator[Result]:
    """Do what a newcomer does, twice, and look at the site in a browser; a lab that was up before stays up."""
    was_up = (ROOT / ".lab" / "ssh" / "lab").exists()
    yield part("up", ["script/up"], at_least=1, show=show)
    urls = subprocess.run(["lab/hosts.py", "urls"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    yield part("browser", ["script/browser-test", urls.split()[2]], show=show)
    yield part("up again", ["script/up"], at_least=1, show=show)
    if not was_up:
        run("down", ["lab/hosts.py", "down"], show=False)


def beside(name: str, do: Callable[..., Iterator[Result]]) -> list[Result]:
    """Do a part that is no scenario, while scenarios run."""
    print(f"       {name}", flush=True)
    results = list(do(show=False))
    print(*results, sep="\n", flush=True)
    return results


def main() -> None:
    # Those without a function of their own are made of scenarios.
    usual = {"lint": lint, "unit": unit, "syntax": syntax, "badinput": badinput, "lab": lab, "molecule": None}
    parts = usual | {"drills": None, "security": None}
    parser = argparse.ArgumentParser(prog="script/test")
    parser.add_argument("part", nargs="?", choices=[*parts, "all"])
    parser.add_argument("scenario", nargs="?", help="of molecule")
    parser.add_argument("release", nargs="?", choices=["trixie", "bookworm"])
    arguments = parser.parse_args()

    begin = time.monotonic()
    results = []
    chosen = {None: list(usual), "all": list(parts)}.get(arguments.part, [arguments.part])
    made_of_scenarios = [name for name in chosen if not parts[name]]
    scenarios = [one for name in made_of_scenarios for one in wanted(name, arguments.scenario, arguments.release)]
    others = {name: parts[name] for name in chosen if parts[name]}
    # In one queue, so that a core is idle at the end alone.
    if scenarios:
        queue = [Job(name, name, lambda name=name, do=do: beside(name, do)) for name, do in others.items()]
        queue += jobs(scenarios)
        for table in SECURITY_TABLES.glob("table*.md"):
            table.unlink()
        results += side_by_side(queue)
        for table in sorted(SECURITY_TABLES.glob("table*.md")):
            print(f"\n{table.read_text()}", flush=True)
    else:
        results += [result for do in others.values() for result in do()]

    print()
    for result in results:
        print(result)
    for result in results:
        if result.failures:
            print(f"\n{result.name}:", *result.failures, sep="\n  ")
    print(f"\nin {time.monotonic() - begin:.0f} s")
    failed = sum(result.failed for result in results)
    print(f"{sum(result.passed for result in results)} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
