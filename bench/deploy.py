"""Measure a deploy of changed code, beside git pull and a restart of the same app on the same hosts.

Each round measures both, one after the other, while 100 requests a second are made and every answer is counted. The
time goes from the command to the moment when every instance of both hosts has answered with the new version.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.report import machine, write_section
from bench.servers import LOGS, ROOT, WORK, Lab, run, say, servers_down, servers_up, ssh

LAB = Lab("bench-deploy", "bench/inventory/deploy", ["web1", "web2"])
SOURCE = ROOT / "molecule/deploy/files/shop"
SSH_CONFIG = f".lab/ssh/{LAB.name}"
DOMAIN = "shop.example"
TARGET_SECONDS = 15
# A new version that this many answers in a row have, two instances in turn, is the only one.
ANSWERS = 8
PATIENCE_SECONDS = 60

# Makes the code that runs a checkout, whose next pull brings the next version.
CHECKOUT = """
cd /srv/www/shop/current/code && rm -rf .git && runuser -u shop -- sh -ec '
git init --quiet --initial-branch main .
git remote add origin /srv/shop.git
git fetch --quiet
git reset --quiet --hard origin/main
git branch --quiet --set-upstream-to origin/main'
"""


@dataclass
class Measured:
    """One version brought to both hosts: how long it took, and what the visitors got meanwhile."""

    seconds: float
    answers: int
    failed: int
    worst: float


def addresses() -> list[str]:
    hosts = yaml.safe_load((ROOT / LAB.inventory / "hosts.yml").read_text())["web"]["hosts"]
    return [values["address"] for values in hosts.values()]


def version_at(address: str) -> str | None:
    """Ask one host, over a connection of its own."""
    words = ["curl", "--silent", "--insecure", "--noproxy", "*", "--max-time", "10"]
    words += ["--resolve", f"{DOMAIN}:443:{address}", f"https://{DOMAIN}/health"]
    answer = subprocess.run(words, stdout=subprocess.PIPE, check=False).stdout
    return json.loads(answer)["version"] if answer.startswith(b"{") else None


def wait_until_served(version: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    for address in addresses():
        in_a_row = 0
        while in_a_row < ANSWERS:
            in_a_row = in_a_row + 1 if version_at(address) == version else 0
            if time.monotonic() > deadline:
                sys.exit(f"{address} does not serve {version}, {PATIENCE_SECONDS} s after it was to")


def measure(version: str, action: Callable[[], str]) -> Measured:
    connect = ",".join(f"{address}:443" for address in addresses())
    words = [sys.executable, "bench/load.py", "--connect", connect, "--host", DOMAIN, "--seconds", "600"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as load:
        try:
            time.sleep(2)
            begin = time.monotonic()
            action()
            wait_until_served(version)
            seconds = time.monotonic() - begin
            time.sleep(1)
        finally:
            load.terminate()
        counts = json.loads(load.stdout.read())
    return Measured(seconds, counts["answers"], counts["failed"] + counts["truncated"], counts["max"])


class Repository:
    """The app's source, on this machine and as a repository on each host."""

    def __init__(self, directory: Path):
        self.directory = directory / "shop"
        shutil.copytree(SOURCE, self.directory, ignore=shutil.ignore_patterns("__pycache__"))
        self.git("init", "--quiet", "--initial-branch", "main")
        for host in LAB.servers:
            # The repository and the checkout have different owners.
            prepare = "apt-get install -qq --no-install-recommends git && git init --quiet --bare /srv/shop.git"
            ssh(LAB, host, f"{prepare} && git config --system safe.directory '*'")

    def git(self, *words: str) -> None:
        identity = "-c", "user.name=bench", "-c", "user.email=bench@example.com"
        run("git", "-C", self.directory, *identity, *words, GIT_SSH_COMMAND=f"ssh -F {ROOT / SSH_CONFIG}")

    def commit(self, version: str) -> None:
        (self.directory / "version.txt").write_text(f"{version}\n")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", version)

    def push(self) -> None:
        for host in LAB.servers:
            self.git("push", "--quiet", f"{host}:/srv/shop.git", "main")


def playbook(name: str, log: str, **values: str) -> str:
    words = "ansible-playbook", name, "--inventory", LAB.inventory, "--extra-vars", json.dumps(values)
    return run(*words, log=LOGS / f"{log}.log")


def measure_deploy(number: int, repository: Repository) -> Measured:
    version = f"deployed-{number}"
    repository.commit(version)
    source = str(repository.directory)
    return measure(version, lambda: playbook("playbooks/deploy.yml", version, app="shop", shop_source=source))


def measure_pull(number: int, repository: Repository) -> Measured:
    """What deploy.yml has brought there is the checkout that is pulled into."""
    version = f"pulled-{number}"
    repository.push()
    for host in LAB.servers:
        ssh(LAB, host, CHECKOUT)
    repository.commit(version)
    repository.push()
    return measure(version, lambda: run("bench/pull.sh", SSH_CONFIG, *LAB.servers, log=LOGS / f"{version}.log"))


def row(name: str, rounds: list[Measured]) -> str:
    seconds = [each.seconds for each in rounds]
    time_taken = f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"
    failed = [each.failed for each in rounds]
    lost = f"{statistics.median(failed):.0f} ({min(failed)} to {max(failed)})" if any(failed) else "0"
    answers = sum(each.answers for each in rounds)
    return f"| {name} | {time_taken} | {lost} | {answers} | {max(each.worst for each in rounds):.1f} s |"


def table(deploys: list[Measured], pulls: list[Measured]) -> str:
    return f"""\
| | served everywhere after | requests lost each time | answered in all | slowest answer |
|---|---|---|---|---|
{row("`playbooks/deploy.yml`", deploys)}
{row("`git pull` and restart", pulls)}

Target: {TARGET_SECONDS} s at most, and no request lost.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench deploy", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; default 5")
    parser.add_argument("--no-write", action="store_true", help="print the table and leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()

    for folder in (LOGS, WORK / "secrets"):
        shutil.rmtree(folder, ignore_errors=True)
    LOGS.mkdir(parents=True)
    heading = machine()
    say(heading)
    deploys: list[Measured] = []
    pulls: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="offramp-bench-") as folder:
        try:
            servers_up(LAB)
            playbook("site.yml", "site")
            repository = Repository(Path(folder))
            for number in range(1, arguments.rounds + 1):
                deploys.append(measure_deploy(number, repository))
                pulls.append(measure_pull(number, repository))
                say(f"Round {number} of {arguments.rounds}: {deploys[-1]}, {pulls[-1]}")
        finally:
            servers_down(LAB)
            shutil.rmtree(WORK / "secrets", ignore_errors=True)
    text = (
        f"{heading} Medians of {arguments.rounds} rounds, with the lowest and the highest.\n\n{table(deploys, pulls)}"
    )
    print(f"\n{text}")
    if not arguments.no_write:
        write_section("deploy", text)


if __name__ == "__main__":
    main()
