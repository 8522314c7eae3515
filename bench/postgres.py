"""Measure PostgreSQL as Debian configures it, as pgtune does and as we do, on one server in one run.

In each round every configuration does every row, and the order of the configurations moves on from round to round.
Prints the tables and writes them and the charts to docs/. What is measured is kept in .lab/bench/postgres.json after
every row, and --resume goes on from there. Absolute rates drift with the load of the machine; the ratios, each taken
within a round, far less.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import signal
import tempfile
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml

from bench.postgres_report import CLIENTS, PICTURES, ROWS, SIZES, WAYS, Result, Results, Row, charts, page
from bench.report import PAGE, machine, write_section
from bench.servers import ROOT, WORK, Lab, machine_cpu, say, server_cpu, servers_down, servers_up, ssh
from filter_plugins.pgtune import pgtune
from filter_plugins.postgresql_settings import postgresql_settings
from filter_plugins.scram_sha_256 import scram_sha_256
from filter_plugins.site_certificate import site_certificate

LAB = Lab("bench-postgres", "bench/inventory/postgres", ["db"])
KEPT = WORK / "postgres.json"
CPUS = 2
# pgbench's unit of some 17 MB: a fifth of the server's memory, and almost twice as much as it.
SCALES = {"fits": 25, "exceeds": 220}
# Seconds of a run that do not count: each client meets the tables, and each page of shared memory, for the first time.
WARM_UP_SECONDS = 2
# What group_vars/all/pools.yml gives a site with one app on one web host
POOL, RESERVE = 20, 30
# All clients of a direct row, and the superuser's three beside them.
DIRECT_CONNECTIONS = CLIENTS["tpcb"] + 3
ANALYTIC = """\
SELECT count(*), sum(balance), max(highest) FROM (
  SELECT aid % 100000 AS customer, sum(abalance) AS balance, max(abalance) AS highest
  FROM pgbench_accounts GROUP BY customer
) AS customers;
"""
LOADING = {
    "fsync": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "maintenance_work_mem": "512MB",
    "autovacuum": "off",
}


class Server:
    """The one database host: how to have it do something."""

    def __init__(self, sockets: str) -> None:
        # A connection kept open to a server of the same address, which is gone, would be taken for one to this.
        self.options = "-o", f"ControlPath={sockets}/%C"
        self.password = secrets.token_hex(16)

    def shell(self, line: str, data: str | None = None, timeout: float = 120) -> str:
        encoded = None if data is None else data.encode()
        return ssh(LAB, "db", line, *self.options, data=encoded, timeout=timeout).strip()

    def write(self, path: str, content: str) -> None:
        self.shell(f"mkdir -p {Path(path).parent}; cat > {path}; chown postgres: {path}", data=content)

    def sql(self, statements: str, database: str = "postgres", timeout: float = 120) -> str:
        psql = f"cd /; runuser -u postgres -- psql -qAtX -v ON_ERROR_STOP=1 -d {database}"
        return self.shell(psql, data=statements, timeout=timeout)

    def pgbench(self, arguments: str, timeout: float) -> str:
        program = f"/usr/lib/postgresql/{self.version}/bin/pgbench"
        return self.shell(f"PGPASSWORD={self.password} {program} {arguments}", timeout=timeout)

    @cached_property
    def version(self) -> int:
        return int(self.shell("ls /etc/postgresql"))

    @cached_property
    def features(self) -> list[str]:
        known = self.sql("SELECT unnest(enumvals) FROM pg_settings WHERE name = 'wal_compression'").split()
        return [name for name in ("lz4", "zstd") if name in known]

    @cached_property
    def disk_mib(self) -> int:
        return int(self.shell("df --output=size --block-size=1M /var/lib/postgresql").split()[-1])

    @cached_property
    def memory_mib(self) -> int:
        """The limit of the container, which is also that of its page cache."""
        files = "/sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes"
        limits = [int(text) for text in self.shell(f"cat {files} 2>&1 || true").split() if text.isdecimal()]
        inventory = yaml.safe_load((ROOT / LAB.inventory / "hosts.yml").read_text())
        wanted = inventory["all"]["hosts"]["db"]["memory_mib"]
        if min(limits, default=0) != wanted * 2**20:
            raise SystemExit(
                f"The server was to have {wanted} MiB, and its limit is {limits or 'not known'}: on this machine the "
                "memory of a container has none, so that no database would be larger than it."
            )
        return wanted

    def configure(self, settings: dict[str, str]) -> None:
        folder = f"/etc/postgresql/{self.version}/main"
        # The pooler checks it, whichever settings are compared.
        certificate = site_certificate(self.password, "postgresql", "postgresql", ["127.0.0.1"])
        encrypted = {f"ssl_{kind}_file": f"{folder}/server.{kind}" for kind in ("cert", "key")}
        self.write(encrypted["ssl_cert_file"], certificate["certificate"])
        self.write(encrypted["ssl_key_file"], certificate["key"])
        self.shell(f"chmod 600 {encrypted['ssl_key_file']}")
        lines = [f"{name} = '{value}'\n" for name, value in (settings | encrypted).items()]
        self.write(f"{folder}/conf.d/bench.conf", "".join(lines))
        self.shell(f"systemctl stop pgbouncer; systemctl restart postgresql@{self.version}-main")
        wrong = self.sql("SELECT name, setting, error FROM pg_file_settings WHERE error IS NOT NULL")
        if wrong:
            raise SystemExit(f"PostgreSQL does not take these settings: {wrong}")


def make_cluster(server: Server) -> None:
    """Make it as a site's is made, and start it for the loading of data."""
    for file in yaml.safe_load((ROOT / "group_vars/db.yml").read_text())["base_preseed_files_db"]:
        server.write(file["path"], file["content"])
    version = server.version
    server.shell(f"pg_dropcluster --stop {version} main; pg_createcluster {version} main; systemctl daemon-reload")
    names = ",".join(SIZES)
    server.shell(f"sed -i '1i local {names} {names} trust' /etc/postgresql/{version}/main/pg_hba.conf")
    server.configure(LOADING)


def make_databases(server: Server) -> None:
    for size, scale in SCALES.items():
        say(f"The data that {SIZES[size]}: pgbench's, scale {scale}")
        verifier = scram_sha_256(server.password, size)
        server.sql(f"CREATE ROLE {size} LOGIN PASSWORD '{verifier}'")
        server.sql(f"CREATE DATABASE {size} OWNER {size}")
        server.sql("CREATE EXTENSION pg_prewarm", size)
        # Room in each page for the next versions of its rows, so that the tables stay as they are, round after round.
        server.pgbench(f"--initialize --quiet --scale={scale} --fillfactor=90 --username={size} {size}", timeout=900)
    server.write("/srv/analytic.sql", ANALYTIC)


def basics() -> list[dict[str, Any]]:
    """What the role writes beside the tuning, without what says where to listen."""
    settings = yaml.safe_load((ROOT / "roles/postgresql/vars/main.yml").read_text())["__postgresql_always"]
    return [setting for setting in settings if "{{" not in str(setting["value"])]


def ours(server: Server, pools: int | None, own: dict[str, str]) -> dict[str, str]:
    tuned = postgresql_settings(
        server.memory_mib,
        version=server.version,
        cpus=CPUS,
        pools=pools,
        reserve=RESERVE,
        features=server.features,
        disk_mib=server.disk_mib,
        own=own,
        others=basics(),
    )
    return {setting["name"]: setting["value"] for setting in tuned["settings"]}


def configurations(server: Server, changes: Iterable[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Return the settings by configuration and way; without a pooler each has room for all clients, and no more."""
    form = {"version": min(server.version, 18), "cpus": CPUS}
    room = {"max_connections": str(DIRECT_CONNECTIONS)}
    known = {
        "default": {"direct": room, "pooled": {}},
        "pgtune": {
            "direct": pgtune(server.memory_mib, connections=DIRECT_CONNECTIONS, **form),
            "pooled": pgtune(server.memory_mib, **form),
        },
        "ours": {"direct": ours(server, None, room), "pooled": ours(server, POOL, {})},
    }
    for change in changes:
        own = dict(pair.split("=", 1) for pair in change.split(","))
        known[change] = {way: settings | own for way, settings in known["ours"].items()}
    return known


def start_pooler(server: Server, size: str) -> None:
    """Have pgbouncer as the role configures it, for the one database."""
    folder = ROOT / "roles/pgbouncer"
    paths = yaml.safe_load((folder / "vars/main.yml").read_text())
    values = (
        yaml.safe_load((folder / "defaults/main.yml").read_text())
        | paths
        | {
            "ansible_managed": "bench",
            "__pgbouncer_prepared_statements": 200 if server.version >= 17 else 0,
            "pgbouncer_primary_address": "127.0.0.1",
            "pgbouncer_primary_port": 5432,
            "pgbouncer_port": 6432,
            "pgbouncer_pool_size": POOL,
            "pgbouncer_databases": [{"name": size, "verifier": scram_sha_256(server.password, size), "others": []}],
        }
    )
    loader = jinja2.FileSystemLoader(folder / "templates")
    templates = jinja2.Environment(loader=loader, trim_blocks=True, autoescape=jinja2.select_autoescape())
    templates.filters["comment"] = lambda text: f"# {text}"
    certificate = site_certificate(server.password, "postgresql", "pgbouncer", ["127.0.0.1"])
    for kind, content in certificate.items():
        server.write(paths[f"__pgbouncer_{kind}"], content)
    for name in ("pgbouncer.ini", "userlist.txt"):
        server.write(f"/etc/pgbouncer/{name}", templates.get_template(f"{name}.j2").render(values))
    server.shell("systemctl restart pgbouncer")


def warm(server: Server, size: str) -> None:
    """Have what fits in memory there, and of the other database the index, as it is after hours of work."""
    tables = ["pgbench_accounts_pkey"] if size == "exceeds" else ["pgbench_accounts", "pgbench_accounts_pkey"]
    server.sql("".join(f"SELECT pg_prewarm('{table}');" for table in tables), size)


def tidy(server: Server, size: str) -> None:
    """Take away what an earlier row left, and have the next checkpoint far off."""
    server.sql("TRUNCATE pgbench_history; VACUUM pgbench_branches; VACUUM pgbench_tellers; CHECKPOINT", size)


def container_cpu() -> float:
    used = server_cpu(LAB)
    if used is None:
        raise SystemExit("The CPU time of a container cannot be read on this machine.")
    return used


class Meter(NamedTuple):
    """What was used so far: bytes of WAL, full-page images in it, CPU seconds of the server and of the machine."""

    wal: int
    images: int
    cpu: float
    machine_cpu: float
    time: float


def read_meter(server: Server) -> Meter:
    """Read it once no client is left that has images to report."""
    clients = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + 30
    while server.sql(clients) != "0":
        if time.monotonic() > deadline:
            raise SystemExit("The clients of a row are still connected 30 s after its end")
        time.sleep(0.1)
    answer = server.sql("SELECT pg_current_wal_insert_lsn() - '0/0', wal_fpi FROM pg_stat_wal")
    written, images = answer.split("|")
    return Meter(int(written), int(images), container_cpu(), machine_cpu(), time.monotonic())


def measure_row(server: Server, row: Row, seconds: int) -> Result:
    way = "--host=127.0.0.1 --port=6432" if row.way == "pooled" else "--host=/run/postgresql"
    common = f"--no-vacuum --client={CLIENTS[row.work]} --jobs={CPUS} --username={row.size} {way}"
    tidy(server, row.size)
    before = read_meter(server)
    if row.way == "pooled":
        start_pooler(server, row.size)
    if row.work == "analytic":
        count = 2 if row.size == "fits" else 1
        output = server.pgbench(f"{common} --transactions={count} --file=/srv/analytic.sql {row.size}", timeout=300)
        rate = 60 * float(re.findall(r"^tps = ([\d.]+)", output, re.MULTILINE)[0])
    else:
        kind = "tpcb-like" if row.work == "tpcb" else "select-only"
        duration = f"--time={WARM_UP_SECONDS + seconds} --progress=1"
        output = server.pgbench(f"{common} {duration} --builtin={kind} {row.size}", timeout=seconds + 120)
        rate = steady_rate(output)
    if row.way == "pooled":
        server.shell("systemctl stop pgbouncer")
    after = read_meter(server)
    transactions = int(re.findall(r"^number of transactions actually processed: (\d+)", output, re.MULTILINE)[0])
    used = Meter(*(after - before for before, after in zip(before, after, strict=True)))
    return Result(
        rate=rate,
        wal=used.wal / transactions,
        images=used.images / transactions,
        cpu=1000 * used.cpu / transactions,
        others=(used.machine_cpu - used.cpu) / used.time / len(os.sched_getaffinity(0)),
    )


def steady_rate(output: str) -> float:
    """Return transactions a second by pgbench's reports of every second, without the first ones."""
    done, begin, last = 0.0, None, 0.0
    for at, tps in re.findall(r"^progress: ([\d.]+) s, ([\d.]+) tps", output, re.MULTILINE):
        if begin is None and last >= WARM_UP_SECONDS - 0.5:
            begin = last
        if begin is not None:
            done += float(tps) * (float(at) - last)
        last = float(at)
    if begin is None or last <= begin:
        raise SystemExit(f"pgbench reported too few seconds:\n{output}")
    return done / (last - begin)


class Kept:
    """The file of what is measured so far."""

    def __init__(self, path: Path | None, resume: bool) -> None:
        self.path = path
        self.content: dict[str, Any] = {"heading": machine(), "run": {}, "results": []}
        if path and resume:
            self.content = json.loads(path.read_text())

    def same_run(self, **parameters: Any) -> None:
        """Refuse to mix the results of two runs."""
        differing = [name for name, value in parameters.items() if self.content["run"].get(name, value) != value]
        if differing:
            raise SystemExit(f"--resume: what was measured before was with other {', '.join(differing)}")
        self.content["run"] = parameters

    def has(self, number: int, configuration: str, row: Row) -> bool:
        where = [number, configuration, row.name]
        return any([each["round"], each["configuration"], each["row"]] == where for each in self.content["results"])

    def add(self, number: int, configuration: str, row: Row, result: Result) -> None:
        where = {"round": number, "configuration": configuration, "row": row.name}
        self.content["results"].append(where | result._asdict())
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.path.with_suffix(".new")
            fresh.write_text(json.dumps(self.content, indent=1))
            fresh.replace(self.path)


def measure(server: Server, kept: Kept, rows: list[Row], rounds: int, seconds: int, changes: list[str]) -> None:
    make_cluster(server)
    known = configurations(server, changes)
    kept.same_run(settings=known, seconds=seconds, scales=SCALES, rows=[row.name for row in rows])
    make_databases(server)
    names = list(known)
    for number in range(1, rounds + 1):
        turn = (number - 1) % len(names)
        for name in names[turn:] + names[:turn]:
            for way in WAYS:
                left = [row for row in rows if row.way == way and not kept.has(number, name, row)]
                if left:
                    server.configure(known[name][way])
                    measure_rows(server, kept, number, name, left, seconds)


def measure_rows(server: Server, kept: Kept, number: int, name: str, rows: list[Row], seconds: int) -> None:
    for size in SIZES:
        if any(row.size == size for row in rows):
            warm(server, size)
        for row in rows:
            if row.size == size:
                result = measure_row(server, row, seconds)
                kept.add(number, name, row, result)
                say(f"Round {number}, {name}, {row.name}: {result}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/bench postgres", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each row is measured; default 5")
    parser.add_argument("--seconds", type=int, default=5, help="length of a row, after its warm-up; default 5")
    parser.add_argument("--resume", action="store_true", help="go on where the last run ended")
    parser.add_argument("--no-write", action="store_true", help="print the tables and leave docs/ as it is")
    parser.add_argument(
        "--only",
        action="append",
        choices=[row.name for row in ROWS],
        metavar="ROW",
        help="this row alone, nothing is kept or written; may be given again; rows: %(choices)s",
    )
    parser.add_argument(
        "--change",
        action="append",
        default=[],
        metavar="SETTING=VALUE[,…]",
        help="measure ours with another value as well; nothing is kept or written; may be given again",
    )
    return parser.parse_args()


def main() -> None:
    given = arguments()
    rows = [row for row in ROWS if not given.only or row.name in given.only]
    looking = bool(given.only or given.change)
    if given.resume and (looking or not KEPT.exists()):
        raise SystemExit("--resume goes on with a whole run that was broken off, and there is none.")
    kept = Kept(None if looking else KEPT, given.resume)
    say(kept.content["heading"])
    # An end from outside takes the server with it too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        servers_up(LAB)
        with tempfile.TemporaryDirectory(prefix="offramp-bench-") as sockets:
            measure(Server(sockets), kept, rows, max(given.rounds, 1), max(given.seconds, 1), given.change)
    except KeyboardInterrupt:
        raise SystemExit("Broken off." if looking else "Broken off; --resume goes on from here.") from None
    finally:
        servers_down(LAB)
    heading, results = kept.content["heading"], Results(kept.content["results"])
    text = page(heading, results)
    print(f"\n{text}")
    if not (given.no_write or looking):
        for name, chart in charts(heading, results).items():
            (PAGE.parent / name).write_text(chart)
        write_section("postgres", f"{PICTURES}\n{text}")


if __name__ == "__main__":
    main()
