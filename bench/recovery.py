"""Measure what a change of primary costs the clients, and how long a restore takes, for data of several sizes.

Four clients commit rows through pgbouncer all the while, and what was acknowledged is written down on their own host.
Each round is a switchover, and then the primary's host losing its power, with failover.yml and rejoin.yml as a person
runs them. Then each size is backed up once, and restored in each round from the dump and from the continuous backup.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.chart import bars
from bench.report import PAGE, machine, write_section
from bench.servers import LOGS, ROOT, WORK, Lab, run, say, servers_down, ssh

LAB = Lab("bench-recovery", "bench/inventory/recovery", ["web1", "db1", "db2"])
STORE = "bench/inventory/recovery-store"
LEDGER = ROOT / "molecule/shared/files/ledger.py"
# pgbench's scale, by the size that its tables come to.
SCALES = {"0.25 GB": 17, "1 GB": 68}
WRITE_TARGET_SECONDS = 15
CHARTS = {"primary": "benchmark-recovery-primary.svg", "restore": "benchmark-recovery-restore.svg"}
WAYS = {"default": "dump", "ours": "continuous backup"}


@dataclass
class Change:
    """What clients saw of one change of primary; back and command are seconds from the start of the command."""

    back: float
    command: float
    pause: float
    errors: int
    acknowledged: int
    lost: int


@dataclass
class Restores:
    """One size of data: its bytes, the seconds of its backup, and those of each restore, by way."""

    size: int
    backup: float
    seconds: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})


def playbook(name: str, log: str, *words: str) -> float:
    """Run a playbook as a person does and return the seconds that it took."""
    begin = time.monotonic()
    run("ansible-playbook", name, "--inventory", LAB.inventory, *words, log=LOGS / f"{log}.log")
    return time.monotonic() - begin


def other(server: str) -> str:
    return next(name for name in ("db1", "db2") if name != server)


def sql(server: str, statement: str, database: str = "probe") -> str:
    return ssh(LAB, server, "psql -U postgres -XAtqd " + database, data=statement.encode()).strip()


def lines_of(text: str) -> tuple[list[str], dict[str, float]]:
    """Return what clients saw as errors, and when each commit was acknowledged: a line's last word."""
    errors = [line for line in text.splitlines() if line.startswith("error")]
    times = {line.split()[0]: float(line.split()[-1]) for line in text.splitlines() if not line.startswith("error")}
    return errors, times


def under_load(seconds: int, command: Callable[[], float], successor: str, before: Callable[[], None]) -> Change:
    """Have clients commit while something happens, and compare what was acknowledged with what is there."""
    sql(other(successor), "DROP TABLE IF EXISTS ledger; CREATE TABLE ledger (name text PRIMARY KEY)")
    sql(other(successor), "ALTER TABLE ledger OWNER TO probe")
    password = (WORK / "secrets/database").read_text().split()[0]
    words = ["ssh", "-F", f".lab/ssh/{LAB.name}", "web1"]
    writing = f"read PGPASSWORD; export PGPASSWORD; python3 /root/ledger.py /root/ledger.txt {seconds} 4"
    with subprocess.Popen([*words, writing], cwd=ROOT, stdin=subprocess.PIPE) as writers:
        writers.stdin.write(f"{password}\n".encode())
        writers.stdin.close()
        time.sleep(3)
        before()
        begin, took = time.time(), command()
    errors, times = lines_of(ssh(LAB, "web1", "cat /root/ledger.txt"))
    if len(times) < 100:
        sys.exit(f"{len(times)} commits were acknowledged in {seconds} s: {errors[:3]}")
    at = sorted(times.values())
    present = set(sql(successor, "SELECT name FROM ledger").split())
    pause = max(later - earlier for earlier, later in itertools.pairwise(at))
    back = min((moment for moment in at if moment > begin), default=0) - begin
    if back < 0:
        sys.exit(f"nobody could commit in the {begin + took - at[-1]:.0f} s until the command ended: {errors[-3:]}")
    return Change(back, took, pause, len(errors), len(times), len(times.keys() - present))


def power_off(server: str) -> None:
    container = f"offramp-{LAB.name}-{server}"
    run("podman", "kill", "--signal=KILL", container)
    run("podman", "stop", "--time=0", container)


def power_on(server: str) -> None:
    run("podman", "start", f"offramp-{LAB.name}-{server}")
    deadline = time.monotonic() + 60
    probe = ["podman", "exec", f"offramp-{LAB.name}-{server}", "systemctl", "is-active", "--quiet", "ssh"]
    while subprocess.run(probe, check=False, capture_output=True).returncode:
        if time.monotonic() > deadline:
            sys.exit(f"{server} is not back after 60 s")
        time.sleep(0.5)


def wait_for_standby(primary: str) -> None:
    deadline = time.monotonic() + 60
    while sql(primary, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") != "1":
        if time.monotonic() > deadline:
            sys.exit(f"nothing follows {primary} after 60 s")
        time.sleep(0.5)


def lose(primary: str) -> None:
    """The clients' pause then has the seconds in which nobody had run the command yet, two of them."""
    power_off(primary)
    time.sleep(2)


def change_of_primary(number: int, primary: str) -> tuple[Change, Change, float, str]:
    switched = under_load(
        25,
        lambda: playbook("playbooks/switchover.yml", f"switchover-{number}", "-e", f"promote={other(primary)}"),
        other(primary),
        lambda: None,
    )
    primary = other(primary)
    wait_for_standby(primary)
    words = "-e", f"promote={other(primary)}", "-e", "accept_loss=1000"
    failed = under_load(
        30,
        lambda: playbook("playbooks/failover.yml", f"failover-{number}", *words),
        other(primary),
        lambda: lose(primary),
    )
    power_on(primary)
    rejoined = playbook("playbooks/rejoin.yml", f"rejoin-{number}")
    wait_for_standby(other(primary))
    return switched, failed, rejoined, other(primary)


def fill(primary: str, scale: int) -> int:
    """Make pgbench's tables in the app's database, and return the size of the database in bytes."""
    ssh(LAB, primary, f"pgbench -U postgres --initialize --quiet --scale={scale} probe", timeout=600)
    return int(sql(primary, "SELECT pg_database_size('probe')"))


def restores(name: str, primary: str, rounds: int) -> Restores:
    size = fill(primary, SCALES[name])
    accounts = sql(primary, "SELECT count(*), sum(hashtext(t::text)::bigint) FROM pgbench_accounts t")
    label = name.replace(" ", "-")
    measured = Restores(size, playbook("playbooks/backup.yml", f"backup-{label}"))
    more = {"default": ["-e", "app=probe", "-e", "dump=latest"], "ours": []}
    for number in range(1, rounds + 1):
        for way in WAYS:
            log = f"restore-{label}-{way}-{number}"
            took = playbook("playbooks/restore.yml", log, "-e", "overwrite=yes", *more[way])
            restored = sql(primary, "SELECT count(*), sum(hashtext(t::text)::bigint) FROM pgbench_accounts t")
            if restored != accounts:
                sys.exit(f"{log}: {restored} rows and sum, {accounts} were backed up")
            measured.seconds[way].append(took)
            clear(primary)
            say(f"{name} from the {WAYS[way]}: {took:.1f} s")
        playbook("playbooks/rejoin.yml", f"rejoin-{label}-{number}")
        wait_for_standby(primary)
    return measured


def clear(primary: str) -> None:
    """Remove what a restore kept, which the disk need not hold for each round."""
    kept = sql(primary, "SELECT datname FROM pg_database WHERE datname LIKE '%.before-%'", "postgres")
    for database in kept.splitlines():
        sql(primary, f'DROP DATABASE "{database}"', "postgres")
    ssh(LAB, primary, "rm -rf /var/lib/postgresql/*/*.before-*")


def spread(values: Sequence[float], unit: str = " s") -> str:
    return f"{statistics.median(values):.1f}{unit} ({min(values):.1f} to {max(values):.1f})"


def three(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def report(rounds: list[tuple[Change, Change, float]], sizes: dict[str, Restores]) -> str:
    switched, failed = [each[0] for each in rounds], [each[1] for each in rounds]
    rows = [
        "| | the command | first commit after its start | longest pause | errors | acknowledged | lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, changes in (("`switchover.yml`", switched), ("power loss and `failover.yml`", failed)):
        # Clients go on for most of a planned change.
        back = spread([one.back for one in changes]) if changes is failed else ""
        rows.append(
            f"| {name} | {spread([one.command for one in changes])} | {back} "
            f"| {spread([one.pause for one in changes])} "
            f"| {sum(one.errors for one in changes)} | {sum(one.acknowledged for one in changes)} "
            f"| {sum(one.lost for one in changes)} |"
        )
    rows.append(f"| `rejoin.yml` | {spread([each[2] for each in rounds])} | | | | | |")
    rows += ["", f"Target: the first commit {WRITE_TARGET_SECONDS} s after the start of `failover.yml` at most."]
    rows += ["", "| database | backup | restore from the dump | restore from the continuous backup | per GB |"]
    rows += ["|---|---|---|---|---|"]
    for one in sizes.values():
        gigabytes = one.size / 1e9
        rates = ", ".join(f"{statistics.median(one.seconds[way]) / gigabytes:.0f} s" for way in WAYS)
        dump, base = (spread(one.seconds[way]) for way in WAYS)
        rows.append(f"| {gigabytes:.2f} GB | {one.backup:.1f} s | {dump} | {base} | {rates} |")
    return "\n".join(rows)


def pictures(heading: str, rounds: list[tuple[Change, Change, float]], sizes: dict[str, Restores]) -> dict[str, str]:
    changes = {
        "switchover.yml": [each[0] for each in rounds],
        "power loss, failover.yml": [each[1] for each in rounds],
    }
    return {
        CHARTS["primary"]: bars(
            "Seconds of a change of primary",
            heading,
            {"default": "the command", "ours": "no commit for"},
            {
                name: {
                    "default": three([one.command for one in those]),
                    "ours": three([one.pause for one in those]),
                }
                for name, those in changes.items()
            },
        ),
        CHARTS["restore"]: bars(
            "Seconds of a restore",
            heading,
            WAYS,
            {f"{one.size / 1e9:.2f} GB": {way: three(one.seconds[way]) for way in WAYS} for one in sizes.values()},
        ),
    }


def servers_up() -> None:
    run(
        *(sys.executable, "lab/hosts.py", "up", "--lab", LAB.name),
        *("--inventory", LAB.inventory, "--inventory", STORE),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench recovery", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; default 5")
    parser.add_argument("--restores", type=int, default=3, help="how often each restore is measured; default 3")
    parser.add_argument("--no-write", action="store_true", help="print the tables and leave docs/ as it is")
    arguments = parser.parse_args()

    for folder in (LOGS, WORK / "secrets"):
        shutil.rmtree(folder, ignore_errors=True)
    LOGS.mkdir(parents=True)
    heading = machine()
    say(heading)
    rounds, sizes, primary = [], {}, "db1"
    try:
        servers_up()
        playbook("playbooks/base.yml", "base")
        playbook("playbooks/services.yml", "services")
        run("scp", "-q", "-F", f".lab/ssh/{LAB.name}", LEDGER, "web1:/root/ledger.py")
        for number in range(1, arguments.rounds + 1):
            *measured, primary = change_of_primary(number, primary)
            rounds.append(tuple(measured))
            say(f"Round {number} of {arguments.rounds}: {rounds[-1]}")
        for name in SCALES:
            sizes[name] = restores(name, primary, arguments.restores)
    finally:
        servers_down(LAB)
        shutil.rmtree(WORK / "secrets", ignore_errors=True)
    table = report(rounds, sizes)
    links = "\n\n".join(
        f"![{title}]({name})"
        for title, name in (
            ("Seconds of a change of primary", CHARTS["primary"]),
            ("Seconds of a restore", CHARTS["restore"]),
        )
    )
    how = f"Medians of {arguments.rounds} changes and {arguments.restores} restores, with the lowest and the highest."
    text = f"{links}\n\n{heading} {how}\n\n{table}\n"
    print(f"\n{text}")
    if not arguments.no_write:
        for name, drawing in pictures(heading, rounds, sizes).items():
            (PAGE.parent / name).write_text(drawing)
        write_section("recovery", text)


if __name__ == "__main__":
    main()
