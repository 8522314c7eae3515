#!/usr/bin/python3
"""Back this host up to the site's bucket, prove that what is there can be restored, and restore it.

In the bucket, below the site's prefix:
  pgbackrest/                        pgBackRest's repository: base backups and the WAL, for any second
  databases/<time>/                  one night's dumps, one object a database, beside them roles and grants
  files/<host>/<time>/               what the other services of a host declared in /etc/offramp/backup.d
  incoming/<host>/                   what is not proved yet; nobody restores from there
A set of objects counts from the moment that its manifest is there, the last of them, which is named after its verdict.
Everything is encrypted with age before it leaves the host, pgBackRest's part by pgBackRest.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/offramp/backup/config.json")
S3CFG = CONFIG.with_name("s3cfg")
DECLARED = Path("/etc/offramp/backup.d")
STATE = Path("/var/lib/offramp/backup")
SPOOL = STATE / "spool"
LOCK = Path("/run/offramp/backup.lock")
# As it was when the run began, to which that of the bucket's place belongs: a rotation may change both meanwhile.
KEY = LOCK.with_name("backup.key")
STAMP = "%Y%m%dT%H%M%SZ"
# What a restore or an import keeps, or has half done.
ASIDE = re.compile(r"\.(before|restored|import|empty)\b")
COUNTED = """
    SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'm') AND relpersistence = 'p' AND relispopulated
      AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
    ORDER BY 1"""
# The lock of the primary's that a dump holds, on whichever host it is taken.
DUMPS = 0x0FF7A111
# A timer's night, with its random delay, and what an outage may put it off by.
NIGHT = timedelta(hours=12)
# With what this host's services speak TLS. A run of site.yml renews them; who never runs it is told in time.
CERTIFICATES = ("etc/pgbouncer/server.crt", "etc/postgresql/*/main/server.crt", "etc/redis/server.crt")
CERTIFICATE_DAYS = 30
POSITION = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END"


class BackupError(Exception):
    """What went wrong, in words for the person who has to mend it."""


class LeftToAnotherError(Exception):
    """A part that is another server's to do, which keeps what comes of it."""


def now() -> datetime:
    return datetime.now(UTC)


def age(stamp: str) -> timedelta:
    return now() - datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)


def words(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours * 60:.0f} minutes" if hours < 1.5 else f"{hours:.0f} hours" if hours < 48 else f"{span.days} days"


def call(*command: str | Path, failed: str, accepted: tuple[int, ...] = (0,), **options: Any) -> str:
    """Run a command and return what it says; what it complains of is the problem."""
    # What tells of damage may quote it.
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", **options)
    if done.returncode not in accepted:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        # Some programs put pages of advice after the one line that says what is wrong.
        said = [line for line in lines if re.search(r"ERROR|FATAL|[Ee]rror:|Errno", line)] or lines
        raise BackupError(f"{failed}: {' / '.join(said[-4:]) or f'{command[0]} ended with {done.returncode}'}")
    return done.stdout


def as_postgres(*command: str | Path, failed: str, **options: Any) -> str:
    return call("runuser", "-u", "postgres", "--", *command, failed=failed, cwd="/", **options)


def through(
    commands: list[list[str]], failed: str, while_it_runs: Callable[[], Any] = lambda: None, **files: Any
) -> Any:
    """Run a pipeline of which every part has to succeed, and something else meanwhile, whose result is returned."""
    source, runs = files.pop("stdin", subprocess.DEVNULL), []
    for command in commands:
        target = files.get("stdout", subprocess.DEVNULL) if command is commands[-1] else subprocess.PIPE
        errors = os.memfd_create("errors")
        runs.append((command, errors, subprocess.Popen(command, stdin=source, stdout=target, stderr=errors, cwd=SPOOL)))
        if len(runs) > 1:
            source.close()
        source = runs[-1][2].stdout
    try:
        result = while_it_runs()
    except BaseException:
        for *_, process in runs:
            process.kill()
        raise
    finally:
        codes = [process.wait() for *_, process in runs]
    complaints = []
    for (command, errors, _), code in zip(runs, codes, strict=True):
        said = os.pread(errors, 2000, 0).decode(errors="replace").strip().splitlines()[-4:]
        os.close(errors)
        if code:
            complaints.append((code, f"{failed}: {Path(command[0]).name} ended with {code}: {' / '.join(said)}"))
    if complaints:
        # Who writes to a part that failed is ended by that; the cause is the other.
        raise BackupError(min(complaints, key=lambda complaint: complaint[0] == -signal.SIGPIPE)[1])
    return result


def certificates(root: Path = Path("/")) -> Iterator[tuple[str, str, str]]:
    """Say of each with which a service of this host speaks TLS: whose it is, until when, and whether that is soon."""
    for path in sorted(path for pattern in CERTIFICATES for path in root.glob(pattern)):
        kind = f"certificate of {path.relative_to(root).parts[1]}"
        try:
            said = call("openssl", "x509", "-noout", "-enddate", "-in", path, failed=f"{path} cannot be read")
        except BackupError as problem:
            yield kind, "not known", str(problem)
            continue
        ends = datetime.strptime(said.strip(), "notAfter=%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC)
        left = (ends - now()).days
        yield kind, f"until {ends:%Y-%m-%d}", f"ends in {left} days: run site.yml" if left < CERTIFICATE_DAYS else ""


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def last_words(log: Path) -> str:
    """Return what PostgreSQL died of."""
    lines = log.read_text(errors="replace").splitlines()[-200:] if log.exists() else []
    told = " / ".join([line for line in lines if "FATAL" in line or "PANIC" in line][-1:])
    if "before configured recovery target" in told:
        told += ". The bucket has no commit of that time or later: without a time it goes to the last that there is"
    return told


class Bucket:
    """The site's part of the bucket, through s3cmd."""

    def __init__(self, bucket: str, prefix: str, endpoint: str) -> None:
        self.root = f"s3://{bucket}/{prefix}/"
        self.endpoint = endpoint
        self.away = ""

    def reach(self, waits: tuple[int, ...] = (2, 10, 0)) -> None:
        """Fail within a minute while nobody is there; s3cmd and pgBackRest would each try for minutes, every time.

        A network that is away for a moment costs no night. A run that knows the server to be away asks no more.
        """
        host, _, port = self.endpoint.partition(":")
        for wait in () if self.away else waits:
            try:
                socket.create_connection((host, int(port or 443)), timeout=5).close()
                return
            except OSError as problem:
                reason = str(problem)
                time.sleep(wait)
        self.away = self.away or f"the bucket's server {self.endpoint} does not answer: {reason}"
        raise BackupError(self.away)

    def s3cmd(self, *arguments: str | Path, failed: str) -> str:
        self.reach()
        return call("s3cmd", f"--config={S3CFG}", "--no-progress", *arguments, failed=failed)

    def listing(self, under: str) -> dict[str, int]:
        """Return the size of each object by its name below the site's prefix."""
        said = self.s3cmd("ls", "--recursive", self.root + under, failed="the bucket does not answer")
        rows = [line.split(maxsplit=3) for line in said.splitlines()]
        return {row[3].removeprefix(self.root): int(row[2]) for row in rows if len(row) == 4}

    def put(self, paths: list[Path], under: str) -> None:
        self.s3cmd("put", *paths, f"{self.root}{under}/", failed=f"the bucket does not take {under}")

    def get(self, name: str, path: Path) -> Path:
        self.s3cmd("get", "--force", self.root + name, path, failed=f"{name} cannot be fetched")
        return path

    def get_all(self, names: list[str], into: Path, at_once: int) -> None:
        """Fetch objects into a directory, each under its own last name, over several connections."""
        into.mkdir(mode=0o700, exist_ok=True)
        shares = [share for share in (names[first::at_once] for first in range(at_once)) if share]

        def get(share: list[str]) -> None:
            objects = (self.root + name for name in share)
            self.s3cmd("get", "--force", *objects, f"{into}/", failed=f"{share[0]} and others cannot be fetched")

        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(get, shares))

    def move(self, names: list[str], under: str) -> None:
        objects = (self.root + name for name in names)
        self.s3cmd("mv", *objects, f"{self.root}{under}/", failed=f"the bucket does not rename {names[0]} and others")

    def remove(self, names: list[str]) -> None:
        if names:
            self.s3cmd("del", *(self.root + name for name in names), failed="old objects cannot be removed")


class Backup:
    """What this host keeps in the bucket."""

    def __init__(self) -> None:
        self.config = json.loads(CONFIG.read_text())
        self.bucket = Bucket(self.config["bucket"], self.config["prefix"], self.config["endpoint"])
        self.files = f"files/{self.config['host']}"
        self.accept = False
        self.scheduled = False

    @property
    def installed(self) -> str:
        return datetime.fromtimestamp(CONFIG.stat().st_mtime, UTC).strftime(STAMP)

    @property
    def tools(self) -> Path:
        return Path(f"/usr/lib/postgresql/{self.config['version']}/bin")

    @property
    def unit(self) -> str:
        return f"postgresql@{self.config['version']}-main.service"

    # Sets of objects

    def sets(self, kind: str) -> dict[str, tuple[str, dict[str, int]]]:
        """Return verdict and objects of each complete set, by its time, the oldest first."""
        found: dict[str, dict[str, int]] = {}
        for name, size in self.bucket.listing(f"{kind}/").items():
            stamp, _, item = name.removeprefix(f"{kind}/").partition("/")
            found.setdefault(stamp, {})[item] = size
        verdicts = {
            stamp: match[1]
            for stamp, items in found.items()
            for item in items
            if (match := re.fullmatch(r"manifest\.(good|bad)\.age", item))
        }
        return {stamp: (verdicts[stamp], found[stamp]) for stamp in sorted(verdicts)}

    def newest(self, kind: str, wanted: str = "latest") -> tuple[str, dict[str, Any]]:
        """Return the time and the manifest of the newest good set, or of the one that is named."""
        found = self.sets(kind)
        good = [stamp for stamp, (verdict, _) in found.items() if verdict == "good"]
        if wanted != "latest" and wanted not in found:
            raise BackupError(f"there is no {kind}/{wanted}; there are: {', '.join(good) or 'none'}")
        if not good and wanted == "latest":
            raise BackupError(f"the bucket holds no good backup of {kind} yet")
        stamp = good[-1] if wanted == "latest" else wanted
        return stamp, self.manifest(kind, stamp, found[stamp][0])

    def manifest(self, kind: str, stamp: str, verdict: str = "good") -> dict[str, Any]:
        name = f"{kind}/{stamp}/manifest.{verdict}.age"
        return self.read(self.bucket.get(name, SPOOL / "manifest.age"), name)

    def read(self, sealed: Path, name: str) -> dict[str, Any]:
        return json.loads(self.opened(sealed, name).read_text())

    def opened(self, sealed: Path, name: str) -> Path:
        plain = sealed.with_suffix("")
        with plain.open("wb") as out:
            through(
                [["age", "--decrypt", "--identity", str(KEY), str(sealed)]],
                f"{name} does not open: it is damaged, or was made with another key",
                stdout=out,
            )
        return plain

    def fetch(self, kind: str, stamp: str, item: dict[str, Any]) -> Path:
        """Fetch an object and see that it is the one that was recorded."""
        name = f"{kind}/{stamp}/{item['object']}"
        return self.compared(self.bucket.get(name, SPOOL / item["object"]), name, item)

    @staticmethod
    def compared(path: Path, name: str, item: dict[str, Any]) -> Path:
        if not path.exists():
            raise BackupError(f"{name} cannot be fetched")
        if checksum(path) != item["sha256"]:
            raise BackupError(
                f"{name} is not what was stored: it has another checksum. An older one has to be asked for by name"
            )
        return path

    def proved(self, path: Path, item: dict[str, Any], failed: str) -> None:
        opener = ["age", "--decrypt", "--identity", str(KEY), str(path)]
        through([opener, item["check"]] if item["check"] else [opener], failed)

    def send(self, kind: str, items: list[dict[str, Any]], more: dict[str, Any]) -> None:
        """Store a set under its final name once each of its objects was read back and is whole."""
        incoming, stamp = f"incoming/{self.config['host']}", now().strftime(STAMP)
        self.bucket.remove(list(self.bucket.listing(f"{incoming}/")))
        paths, names = ([f"{where}/{item['object']}" for item in items] for where in (SPOOL, incoming))
        for path, item in zip(map(Path, paths), items, strict=True):
            item |= {"bytes": path.stat().st_size, "sha256": checksum(path)}
        self.bucket.put(paths, incoming)
        for path in paths:
            Path(path).unlink()
        self.bucket.get_all(names, SPOOL, self.config["jobs"])
        for path, item in zip(map(Path, paths), items, strict=True):
            if checksum(path) != item["sha256"]:
                raise BackupError(f"{item['object']} came back from the bucket as something else")
            self.proved(path, item, f"{item['object']} came back from the bucket and is not whole")
            path.unlink()
        problems = [] if self.accept else self.suspicions(kind, items)
        plain = SPOOL / "manifest"
        plain.write_text(json.dumps({"host": self.config["host"], "problems": problems, "items": items, **more}))
        sealed = SPOOL / f"manifest.{'bad' if problems else 'good'}.age"
        with sealed.open("wb") as out:
            through([["age", "--encrypt", "--identity", str(KEY), str(plain)]], "the manifest", stdout=out)
        self.bucket.move(names, f"{kind}/{stamp}")
        self.bucket.put([sealed], f"{kind}/{stamp}")
        if problems:
            raise BackupError(f"{'; '.join(problems)}. If that is meant:  offramp-backup nightly --accept")

    def suspicions(self, kind: str, items: list[dict[str, Any]]) -> list[str]:
        """Compare a new set with the good ones of the last seven days."""
        good = [s for s, (verdict, _) in self.sets(kind).items() if verdict == "good" and age(s) < timedelta(days=7)]
        past = []
        for stamp in good:
            # One that is damaged is told of by the look at what lies there, and keeps this night from no backup.
            with contextlib.suppress(BackupError):
                past.append(self.manifest(kind, stamp))
        # Another version's dumps are compressed in another way.
        past = [one for one in past if one.get("version") in (None, self.config["version"])]
        found = []
        for item in items:
            before = [old for one in past for old in one["items"] if old["object"] == item["object"]]
            if not before or "rows" not in item:
                continue
            usual = statistics.median(old["bytes"] for old in before)
            if item["bytes"] < usual / 2:
                found.append(
                    f"the dump of {item['name']} has {item['bytes']} bytes, less than half of the usual {usual:.0f}"
                )
            if sum(before[-1]["rows"].values()) and not sum(item["rows"].values()):
                found.append(f"the database {item['name']} is empty, and was not before")
        return found

    def verify(self, kind: str) -> str:
        """Fetch every object of every set and see that it is the one that was stored."""
        # Who dumps looks after the dumps: the other's look would meet what this one removes.
        if kind == "databases" and (left := self.left_to()):
            raise LeftToAnotherError(left)
        damaged = []
        for stamp, (verdict, objects) in self.sets(kind).items():
            place, name = SPOOL / stamp, f"{kind}/{stamp}/manifest.{verdict}.age"
            # What does not come is missed below, by its name.
            with contextlib.suppress(BackupError):
                self.bucket.get_all([f"{kind}/{stamp}/{item}" for item in objects], place, self.config["jobs"])
            try:
                if not (sealed := place / Path(name).name).exists():
                    raise BackupError(f"{name} cannot be fetched")
                items = self.read(sealed, name)["items"]
            except BackupError as problem:
                damaged.append(str(problem))
                items = []
            for item in items:
                try:
                    self.compared(place / item["object"], f"{kind}/{stamp}/{item['object']}", item)
                except BackupError as problem:
                    damaged.append(str(problem))
            shutil.rmtree(place)
        if damaged:
            raise BackupError("; ".join(damaged))
        return "as they were stored"

    def prune(self, kind: str) -> None:
        """Keep the newest good set of each of the last days, weeks and months; what is bad goes after a week."""
        if kind == "databases" and self.left_to():
            return
        found, kept = self.sets(kind), set()
        good = [stamp for stamp, (verdict, _) in found.items() if verdict == "good"]
        for form, number in (("%Y%m%d", "days"), ("%G%V", "weeks"), ("%Y%m", "months")):
            last = {datetime.strptime(stamp, STAMP).strftime(form): stamp for stamp in good}
            kept |= set(list(last.values())[::-1][: self.config["kept"][number]])
        kept |= set(good[-1:])
        for stamp, (verdict, items) in found.items():
            if stamp not in kept and (verdict == "good" or age(stamp) > timedelta(days=7)):
                # The manifest first: what is half removed is no backup.
                self.bucket.remove(
                    sorted((f"{kind}/{stamp}/{item}" for item in items), key=lambda name: "/manifest." not in name)
                )

    # PostgreSQL

    def connect(self, database: str = "postgres", **where: Any) -> Any:
        import psycopg2

        if "dsn" not in where:
            where = {"user": "postgres", "port": self.config["port"], **where}
        try:
            connection = psycopg2.connect(dbname=database, **where)
        except psycopg2.OperationalError as error:
            raise BackupError(f"PostgreSQL lets nobody in: {str(error).strip()}") from None
        connection.autocommit = True
        return connection

    def ask(self, query: str, database: str = "postgres", **where: Any) -> Any:
        """Return the first value that a query gives."""
        with contextlib.closing(self.connect(database, **where)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]

    def is_standby(self) -> bool:
        return self.ask("SELECT pg_is_in_recovery()")

    def left_to(self) -> str:
        """Who else has the dumps, if not this host: a standby that streams, else the primary. Asked of the servers."""
        if self.is_standby():
            streams = self.ask("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'")
            return "" if streams else "left to the primary, which this standby does not follow at the moment"
        streams = self.ask(
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name <> 'pg_basebackup'"
        )
        return "left to the standby" if streams else ""

    @contextlib.contextmanager
    def turn(self) -> Iterator[tuple[Any, str]]:
        """Hold the primary's lock for the dumps, or say who has it; the two hosts may see who streams differently.

        The own server's is held too, so that the lock is there still when that one becomes primary meanwhile.
        """
        if left := self.left_to():
            yield None, left
            return
        with contextlib.ExitStack() as stack:
            primary = stack.enter_context(contextlib.closing(self.connect()))
            free = self.locked(primary)
            if self.is_standby():
                dsn = self.ask("SELECT current_setting('primary_conninfo')")
                primary = stack.enter_context(contextlib.closing(self.connect(dsn=dsn, application_name="backup")))
                free = free and self.locked(primary)
            yield (primary, "") if free else (None, "the other server is at it")

    @staticmethod
    def locked(connection: Any) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (DUMPS,))
            return cursor.fetchone()[0]

    def taken_elsewhere(self) -> str:
        """Which dumps of this night the other server took, before the two changed places."""
        if not self.scheduled:
            return ""
        try:
            stamp, manifest = self.newest("databases")
        except BackupError:
            return ""
        elsewhere = manifest["host"] != self.config["host"] and age(stamp) < NIGHT
        return f"{manifest['host']} took databases/{stamp} this night" if elsewhere else ""

    def names(self, **where: Any) -> list[str]:
        query = "SELECT json_agg(datname ORDER BY datname) FROM pg_database WHERE datallowconn AND NOT datistemplate"
        return [name for name in self.ask(query, **where) if not ASIDE.search(name)]

    def rows(self, connection: Any) -> dict[str, int]:
        with connection.cursor() as cursor:
            cursor.execute(COUNTED)
            tables = [table for (table,) in cursor.fetchall()]
            counts = {}
            for table in tables:
                cursor.execute(f"SELECT count(*) FROM {table}")
                counts[table] = cursor.fetchone()[0]
        return counts

    def check_version(self) -> None:
        server = self.ask("SELECT current_setting('server_version_num')::int / 10000")
        said = (
            call(self.tools / "pg_dump", "--version", failed="pg_dump") if (self.tools / "pg_dump").exists() else "none"
        )
        own = re.search(r"\(PostgreSQL\) (\d+)", said)
        if not own or int(own[1]) != server:
            raise BackupError(f"the server is PostgreSQL {server} and needs a pg_dump {server}, here is {said.strip()}")

    def dump(self) -> str:
        """Dump every database, unless the other server does."""
        with self.turn() as (primary, left):
            if left := left or self.taken_elsewhere():
                raise LeftToAnotherError(left)
            return self.dump_all(primary)

    def dump_all(self, primary: Any) -> str:
        """Dump every database in one moment, with the number of rows in each table at that moment."""
        self.check_version()
        compress = "zstd:3" if self.config["version"] >= 16 else "3"
        tool, items = str(self.tools / "pg_dump"), []
        with contextlib.ExitStack() as stack:
            opened = {name: stack.enter_context(contextlib.closing(self.connect(name))) for name in self.names()}
            begin, quiet = self.ask(f"SELECT {POSITION}"), True
            snapshots = {}
            for name, connection in opened.items():
                connection.autocommit = False
                connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT pg_export_snapshot(), pg_snapshot_xmin(now) = pg_snapshot_xmax(now) "
                        "FROM pg_current_snapshot() AS now"
                    )
                    snapshots[name], alone = cursor.fetchone()
                    quiet = quiet and alone
            end = self.ask(f"SELECT {POSITION}")
            for name, connection in opened.items():
                item = {
                    "name": name,
                    "object": f"{name}.dump.age",
                    "check": [str(self.tools / "pg_restore"), "--file=/dev/null"],
                }
                command = [
                    tool,
                    "--username=postgres",
                    f"--port={self.config['port']}",
                    "--no-password",
                    "--format=custom",
                    f"--compress={compress}",
                    f"--snapshot={snapshots[name]}",
                    f"--dbname={name}",
                ]
                with (SPOOL / item["object"]).open("wb") as out:
                    item["rows"] = through(
                        [command, ["age", "--encrypt", "--identity", str(KEY)]],
                        f"the dump of {name}",
                        lambda of=connection: self.rows(of),
                        stdout=out,
                    )
                items.append(item)
        roles = {"name": "roles", "object": "roles.sql.age", "check": ["grep", "--quiet", "cluster dump complete"]}
        command = [
            str(self.tools / "pg_dumpall"),
            "--username=postgres",
            f"--port={self.config['port']}",
            "--no-password",
            "--globals-only",
        ]
        with (SPOOL / roles["object"]).open("wb") as out:
            through([command, ["age", "--encrypt", "--identity", str(KEY)]], "the dump of roles", stdout=out)
        # With no write between the snapshots, a base backup brought to this position has the very same rows.
        self.send(
            "databases",
            [*items, roles],
            {"position": end, "exact": quiet and begin == end, "version": self.config["version"]},
        )
        self.wait_until_archived(end, primary)
        return f"{len(items)} databases"

    def wait_until_archived(self, lsn: str, primary: Any) -> None:
        """See the WAL to a position arrive in the bucket, so that a base backup can be brought to it."""
        with primary.cursor() as cursor:
            # On an idle server the segment of the position would never be full, nor switched by the time limit.
            cursor.execute("SELECT pg_logical_emit_message(false, 'offramp', 'backup')")
            cursor.execute("SELECT pg_switch_wal()")
            deadline = time.monotonic() + (seconds := 120)
            while True:
                cursor.execute("SELECT last_archived_wal >= pg_walfile_name(%s) FROM pg_stat_archiver", (lsn,))
                if cursor.fetchone()[0]:
                    return
                if time.monotonic() > deadline:
                    raise BackupError(
                        f"the WAL does not arrive in the bucket within {seconds} seconds: PostgreSQL's log says why"
                    )
                time.sleep(0.2)

    def pgbackrest(self, *arguments: str, failed: str) -> str:
        self.bucket.reach()
        return as_postgres("pgbackrest", f"--stanza={self.config['stanza']}", *arguments, failed=failed)

    def stanzas(self) -> list[dict[str, Any]]:
        told = self.pgbackrest("info", "--output=json", failed="the continuous backup cannot be asked for")
        return json.loads(told)

    def base_backups(self) -> list[dict[str, Any]]:
        return in_order(one for stanza in self.stanzas() for one in stanza.get("backup", []))

    def restorable(self) -> list[dict[str, Any]]:
        """Return the base backups of this PostgreSQL's major version: no other reads them."""
        return of_version(self.stanzas(), self.config["version"])

    def base(self) -> str:
        """Take a base backup; a full one each week, between them what has changed."""
        if self.is_standby():
            raise LeftToAnotherError("left to the primary")
        full = [one for one in self.base_backups() if one["type"] == "full" and not one["error"]]
        old = not full or now().timestamp() - full[-1]["timestamp"]["stop"] > self.config["full_days"] * 86400 - 7200
        kind = "full" if old else "incr"
        # Its control file names the timeline of a server that has just become primary only after one.
        self.ask_nothing("CHECKPOINT")
        self.pgbackrest(f"--type={kind}", "backup", failed=f"the base backup ({kind})")
        last = self.base_backups()[-1]
        if last["error"]:
            raise BackupError(
                f"the base backup {last['label']} met damaged pages in the database: "
                f"pgbackrest --stanza={self.config['stanza']} info --set={last['label']}  names the files"
            )
        return f"{last['label']}, {last['info']['repository']['delta']} bytes sent"

    def verify_base(self) -> str:
        """Have pgBackRest read every object of its own, and see that a restore would find all of the WAL."""
        if self.is_standby():
            raise LeftToAnotherError("left to the primary")
        # It ends with 0 whatever it finds, and names what is damaged in its log alone.
        told = ("--output=text", "--verbose", "--log-level-console=detail", "--job-retry=0")
        said = self.pgbackrest(*told, "verify", failed="the continuous backup is damaged")
        bad = [
            found.partition(": [")[0]
            for found in re.findall(r"P\d\d +(?:INFO|DETAIL|WARN|ERROR): (.+)", said)
            if re.search(r"invalid|missing|unusable|does not match", found)
        ]
        if not bad:
            bad = re.findall(r"status: error|(?:missing|invalid|other): [1-9]\d*", said)
        bad += [f"the segment {name} is missing" for name in self.holes()]
        if bad:
            raise BackupError(f"the continuous backup is damaged: {' / '.join(bad)}")
        return "as they were stored, without a hole in the WAL"

    def holes(self) -> list[str]:
        """Return the segments that a restore from the oldest base backup would miss."""
        names = self.bucket.listing(f"pgbackrest/archive/{self.config['stanza']}/")
        there = {match[1] for name in names if (match := re.search(r"/([0-9A-F]{24})-[0-9a-f]{40}", name))}
        size = self.ask("SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'")
        timeline = int(self.ask("SELECT pg_walfile_name(pg_current_wal_lsn())")[:8], 16)
        history = self.ask(f"SELECT pg_read_file('pg_wal/{timeline:08X}.history')") if timeline > 1 else ""
        return missing(there, {one["archive"]["start"] for one in self.base_backups()}, timeline, history, size)

    def prepare(self) -> str:
        """Have pgBackRest know this cluster, and see once that WAL arrives in the bucket."""
        if self.is_standby():
            return "the primary has it"
        told = json.loads(self.pgbackrest("info", "--output=json", failed="the bucket does not answer pgBackRest"))
        known = {str(db["system-id"]) for stanza in told for db in stanza.get("db", [])}
        mine = str(self.ask("SELECT system_identifier FROM pg_control_system()"))
        if known and mine not in known:
            if any(self.user_tables(name) for name in self.names()):
                raise BackupError(
                    "the bucket holds the continuous backup of another cluster than this one, so none is made of "
                    "this one. Either restore the other here (playbooks/restore.yml), or give this site another "
                    "backup_prefix"
                )
            return (
                "notice: this cluster is new, and the bucket holds the backups of one before it. To take that over: "
                "ansible-playbook playbooks/restore.yml. Until then nothing is archived"
            )
        made = mine not in known
        if made:
            self.pgbackrest("stanza-create", failed="pgBackRest cannot make its place in the bucket")
        if self.ask("SELECT current_setting('archive_mode')") == "off":
            return (
                "notice: WAL is archived from the next restart of PostgreSQL on, and no base backup can be taken "
                "before that: run again with -e postgresql_restart_allowed=true"
            )
        if made or not self.ask(
            "SELECT coalesce(last_archived_time > coalesce(last_failed_time, '-infinity'), false) FROM pg_stat_archiver"
        ):
            self.pgbackrest("check", failed="WAL does not arrive in the bucket")
        return "changed: made" if made else "ok"

    def user_tables(self, database: str, **where: Any) -> int:
        with contextlib.closing(self.connect(database, **where)) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM ({COUNTED}) t")
            return cursor.fetchone()[0]

    # What other services declared

    def declared(self) -> list[dict[str, Any]]:
        items = [json.loads(path.read_text()) for path in sorted(DECLARED.glob("*.json"))]
        return [{"name": item["name"], "object": f"{item['name']}.age", **item} for item in items]

    def send_files(self) -> str:
        items = self.declared()
        for item in items:
            with (SPOOL / item["object"]).open("wb") as out:
                through(
                    [item["command"], ["age", "--encrypt", "--identity", str(KEY)]],
                    f"the copy of {item['name']}",
                    stdout=out,
                )
        self.send(self.files, items, {})
        return ", ".join(item["name"] for item in items)

    def check_clock(self) -> None:
        newest = [stamp for kind in ("databases", self.files) for stamp in list(self.sets(kind))[-1:]]
        if newest and age(max(newest)) < timedelta(minutes=-10):
            raise BackupError(
                f"this host's clock says {now().strftime(STAMP)}, and the bucket has a backup of {max(newest)}: "
                "one of the two is wrong"
            )

    # Scratch clusters

    @contextlib.contextmanager
    def scratch(self, make: Callable[[Path], str], more: str = "") -> Iterator[dict[str, Any]]:
        """Start a throw-away cluster, reached over a socket of its own, and remove it whatever happens."""
        place = Path(self.config["scratch"])
        self.clear_scratch(place)
        place.mkdir(mode=0o700, parents=True)
        shutil.chown(place, "postgres", "postgres")
        data = place / "data"
        need = self.ask("SELECT sum(pg_database_size(oid))::bigint FROM pg_database")
        free = shutil.disk_usage(place).free
        if free < need * 1.2:
            raise BackupError(
                f"a restore into {place} needs {need * 1.2 / 2**20:.0f} MiB, and {free / 2**20:.0f} are free"
            )
        try:
            make(data)
            (place / "hba.conf").write_text("local all postgres peer map=administrator\n")
            (place / "settings.conf").write_text(
                f"data_directory = '{data}'\nhba_file = '{place}/hba.conf'\n"
                f"ident_file = '/etc/postgresql/{self.config['version']}/main/pg_ident.conf'\n"
                f"unix_socket_directories = '{place}'\nlisten_addresses = ''\nport = 5499\narchive_mode = off\n"
                f"shared_buffers = 32MB\nhot_standby = off\nlogging_collector = off\nfsync = off\n{more}"
            )
            for name in ("hba.conf", "settings.conf"):
                shutil.chown(place / name, "postgres", "postgres")
            try:
                as_postgres(
                    self.tools / "pg_ctl",
                    f"--pgdata={data}",
                    f"--log={place}/log",
                    # The sandbox has no memory to write code to, and here nothing is asked twice.
                    f"--options=-c config_file={place}/settings.conf -c jit=off",
                    "start",
                    failed="the restored cluster does not start",
                )
                where = {"host": str(place), "port": 5499}
                self.wait_until_recovered(data, **where)
            except BackupError as problem:
                raise BackupError(f"{problem}: {last_words(place / 'log')}") from None
            yield where
        finally:
            self.clear_scratch(place)

    def clear_scratch(self, place: Path) -> None:
        data = place / "data"
        if (data / "postmaster.pid").exists():
            with contextlib.suppress(BackupError):
                as_postgres(self.tools / "pg_ctl", f"--pgdata={data}", "--mode=immediate", "stop", failed="scratch")
        shutil.rmtree(place, ignore_errors=True)

    def wait_until_recovered(self, data: Path, **where: Any) -> None:
        """Wait while a cluster replays its WAL, in which it lets nobody in, as long as it is at work."""
        while True:
            try:
                if not self.ask("SELECT pg_is_in_recovery()", **where):
                    return
            except BackupError:
                if not (data / "postmaster.pid").exists():
                    raise BackupError("the restored cluster stopped before it was recovered") from None
            time.sleep(0.2)

    def initialised(self, data: Path) -> str:
        return as_postgres(
            self.tools / "initdb",
            f"--pgdata={data}",
            "--data-checksums",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth=peer",
            failed="a scratch cluster cannot be made",
        )

    def restored(self, data: Path, *arguments: str) -> str:
        return self.pgbackrest(
            f"--pg1-path={data}", "--archive-mode=off", *arguments, "restore", failed="pgBackRest restores nothing"
        )

    def compare(self, manifest: dict[str, Any], **where: Any) -> tuple[int, list[str]]:
        """Return how many tables were compared, and which have other rows than were recorded."""
        tables, wrong = 0, []
        for item in manifest["items"]:
            if "rows" not in item:
                continue
            with contextlib.closing(self.connect(item["name"], **where)) as connection:
                there = self.rows(connection)
            tables += len(item["rows"])
            for table in sorted(there.keys() | item["rows"].keys()):
                if there.get(table) != item["rows"].get(table):
                    found, recorded = (rows.get(table, "no table") for rows in (there, item["rows"]))
                    wrong.append(f"{item['name']}: {table} has {found}, recorded {recorded}")
        return tables, wrong

    def ask_apps(self, **where: Any) -> None:
        """Ask each app's own query, as its owner; anything but true is a restore that the app cannot use."""
        import psycopg2

        for database, query in self.config["checks"].items():
            with contextlib.closing(self.connect(database, **where)) as connection, connection.cursor() as cursor:
                try:
                    cursor.execute("SELECT set_config('role', %s, false)", (database,))
                    cursor.execute("SET statement_timeout = '10min'")
                    cursor.execute(query)
                    said = cursor.fetchone()
                except psycopg2.Error as error:
                    raise BackupError(f"backup_check of {database}, {query!r}: {str(error).strip()}") from None
            if not said or said[0] is not True:
                answer = "no row" if not said else said[0]
                raise BackupError(
                    f"backup_check of {database}, {query!r}, says {answer} of the restored data, not true"
                )

    def amcheck(self, **where: Any) -> None:
        if (self.tools / "pg_amcheck").exists():
            as_postgres(
                self.tools / "pg_amcheck",
                f"--host={where['host']}",
                f"--port={where['port']}",
                "--all",
                "--install-missing",
                "--no-dependent-toast",
                failed="the restored data is damaged",
            )

    def rehearse_dumps(self) -> str:
        if left := self.left_to():
            raise LeftToAnotherError(left)
        stamp, manifest = self.newest("databases")
        with self.scratch(self.initialised) as where:
            self.load_roles(stamp, manifest, **where)
            for item in (item for item in manifest["items"] if "rows" in item):
                if item["name"] != "postgres":
                    self.load(self.fetch("databases", stamp, item), item["name"], item["name"], **where)
            tables, wrong = self.compare(manifest, **where)
            self.refuse(wrong)
            self.ask_apps(**where)
            self.amcheck(**where)
        return f"{stamp}, {tables} tables as recorded"

    def rehearse_base(self) -> str:
        if left := self.left_to():
            raise LeftToAnotherError(left)
        stamp, manifest = self.newest("databases")
        bases = [one for one in self.base_backups() if bytes_of(one["lsn"]["stop"]) <= bytes_of(manifest["position"])]
        if not bases:
            raise BackupError(
                f"no base backup is older than the dumps of {stamp}, with which its restore would be compared"
            )
        settings = f"recovery_target_lsn = '{manifest['position']}'\nrecovery_target_action = promote\n"
        with self.scratch(lambda data: self.restored(data, f"--set={bases[-1]['label']}"), settings) as where:
            tables, wrong = self.compare(manifest, **where)
            # Where the site wrote while the dumps began, the two moments are not quite the same.
            if manifest["exact"]:
                self.refuse(wrong)
            else:
                self.refuse([line for line in wrong if "no table" in line])
            self.ask_apps(**where)
            self.amcheck(**where)
        close = "as recorded" if manifest["exact"] else f"of which {len(wrong)} were written to in that moment"
        return f"{bases[-1]['label']} and its WAL, {tables} tables, {close}"

    def rehearse_files(self) -> str:
        stamp, manifest = self.newest(self.files)
        for item in manifest["items"]:
            self.proved(
                self.fetch(self.files, stamp, item), item, f"{self.files}/{stamp}/{item['object']} is not whole"
            )
        return stamp

    @staticmethod
    def refuse(wrong: list[str]) -> None:
        if wrong:
            raise BackupError(f"the restored data is not what was recorded: {'; '.join(wrong[:5])}")

    # Restoring

    def load_roles(self, stamp: str, manifest: dict[str, Any], **where: Any) -> None:
        """Make the roles that are missing; those that are there keep their passwords."""
        import psycopg2

        item = next(item for item in manifest["items"] if item["name"] == "roles")
        plain = self.opened(self.fetch("databases", stamp, item), item["object"])
        with contextlib.closing(self.connect(**where)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT quote_ident(rolname) FROM pg_roles")
            there = {name for (name,) in cursor.fetchall()}
            for line in plain.read_text().splitlines():
                match = re.match(r"(?:CREATE|ALTER) ROLE (\"(?:[^\"]|\"\")+\"|[^ ;]+)", line)
                if (match and match[1] not in there) or line.startswith("GRANT "):
                    with contextlib.suppress(psycopg2.errors.InsufficientPrivilege):
                        cursor.execute(line)
        plain.unlink()

    def load(self, sealed: Path, name: str, owner: str, **where: Any) -> None:
        """Restore a dump into a new database."""
        plain = self.opened(sealed, sealed.name)
        sealed.unlink(missing_ok=True)
        place = [f"--host={where['host']}"] if "host" in where else []
        port = f"--port={where.get('port', self.config['port'])}"
        with contextlib.closing(self.connect(**where)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT quote_ident(%s), quote_ident(rolname) FROM pg_roles "
                "WHERE rolname IN (%s, 'postgres') ORDER BY rolname = %s DESC",
                (name, owner, owner),
            )
            quoted, role = cursor.fetchone()
            cursor.execute(
                f"CREATE DATABASE {quoted} OWNER {role} TEMPLATE template0 "
                "ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
            )
            cursor.execute(f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC")
        call(
            self.tools / "pg_restore",
            "--username=postgres",
            *place,
            port,
            "--no-password",
            "--exit-on-error",
            f"--jobs={self.config['jobs']}",
            f"--dbname={name}",
            plain,
            failed=f"the dump of {owner} does not restore",
        )
        plain.unlink()

    def swap(self, name: str, sealed: Path, recorded: dict[str, int]) -> str:
        """Put a dump in a database's place, which keeps its content under another name."""
        fresh, kept = f"{name}.restored", f"{name}.before-{now().strftime(STAMP)}"
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE IF EXISTS "{fresh}"')
            self.load(sealed, fresh, name)
            with contextlib.closing(self.connect(fresh)) as new:
                there = self.rows(new)
            self.refuse(
                [
                    f"{table} has {there.get(table)}, recorded {recorded.get(table)}"
                    for table in sorted(there.keys() | recorded.keys())
                    if there.get(table) != recorded.get(table)
                ]
            )
            with contextlib.closing(self.connect(fresh)) as new, new.cursor() as analyse:
                analyse.execute("ANALYZE")
            cursor.execute("SELECT count(*) FROM pg_database WHERE datname = %s", (name,))
            was_there = cursor.fetchone()[0]
            if was_there:
                # Nobody comes in between the two names.
                cursor.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
                cursor.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,)
                )
                cursor.execute(f'ALTER DATABASE "{name}" RENAME TO "{kept}"')
            cursor.execute(f'ALTER DATABASE "{fresh}" RENAME TO "{name}"')
            if was_there:
                cursor.execute(f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS true')
        told = f"{name}: {len(there)} tables, {sum(there.values())} rows"
        return f"{told}. What was there is in the database {kept}" if was_there else told

    def restore(self, to: str, wanted: str, database: str, overwrite: bool) -> str:
        if to:
            self.check_time(to)
            if wanted:
                raise BackupError("a time and a dump exclude each other: name one of the two")
            self.check_reach(to)
        if call("systemctl", "is-active", self.unit, failed="", accepted=(0, 3)).strip() != "active":
            if database or wanted or not overwrite:
                raise BackupError(
                    f"{self.unit} does not run, so all that can be restored is the whole cluster, without -e app and "
                    "-e dump, in place of what is there: -e overwrite=yes"
                )
            return self.restore_cluster(to)
        if self.is_standby():
            raise BackupError("this host has a standby; the primary is restored, and the standby then follows it")
        chosen = [database] if database else [name for name in self.names() if name != "postgres"]
        full = [name for name in chosen if name in self.names() and self.user_tables(name)]
        if full and not overwrite:
            raise BackupError(
                f"there is data in {', '.join(full)}, so nothing was restored. It would be kept under another name; "
                "to go on, say  -e overwrite=yes"
            )
        if to:
            self.have_archived_to_now()
            return self.restore_one(database, to) if database else self.restore_cluster(to)
        if wanted or database:
            return self.restore_dumps(wanted or "latest", database)
        return self.restore_cluster(to)

    def have_archived_to_now(self) -> None:
        """Have every moment that has passed in the bucket."""
        with contextlib.suppress(BackupError), contextlib.closing(self.connect()) as primary:
            # Only a commit after a moment ends the way there, and on a quiet site there may be none yet.
            self.ask("SELECT pg_current_xact_id()")
            self.wait_until_archived(self.ask(f"SELECT {POSITION}"), primary)

    @staticmethod
    def check_time(to: str) -> None:
        try:
            moment = datetime.fromisoformat(to)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise BackupError(f"{to!r} is no time with its zone, such as '2026-11-23 08:15:00+00'")
        if moment > now():
            raise BackupError(f"{to} is yet to come")

    def check_reach(self, to: str) -> None:
        """Refuse a moment to which only another major version could be brought, or nothing at all."""
        begins = [one["timestamp"]["stop"] for one in self.restorable()]
        if begins and datetime.fromisoformat(to).timestamp() > begins[0]:
            return
        version = self.config["version"]
        reach = f"reaches back to {datetime.fromtimestamp(begins[0], UTC)}" if begins else "has no base backup yet"
        raise BackupError(
            f"nothing was changed: the continuous backup of PostgreSQL {version} {reach}, and {to} lies before that. "
            f"What can be restored: {'; '.join([*self.older(to), *self.kept_clusters()]) or 'nothing as old as that'}"
        )

    def older(self, to: str) -> list[str]:
        """Say what the bucket has of the time before."""
        wanted = datetime.fromisoformat(to).astimezone(UTC).strftime(STAMP)
        good = [stamp for stamp, (verdict, _) in self.sets("databases").items() if verdict == "good"]
        dumps = [stamp for stamp in good if stamp <= wanted][-1:] or good[:1]
        told = [f"the dumps of {stamp}:  -e dump={stamp}" for stamp in dumps]
        if len(self.base_backups()) > len(self.restorable()):
            told.append(
                "base backups of another major version, by hand and with its programs: docs/upgrading.md, PostgreSQL "
                "15 to 17"
            )
        return told

    def kept_clusters(self) -> list[str]:
        """Say which cluster a major upgrade left in its place."""
        return [
            f"the cluster of PostgreSQL {path.parts[-3]}, as it was at the upgrade to {self.config['version']}:  "
            "playbooks/postgres_upgrade.yml -e back=true"
            for path in sorted(Path("/var/lib/postgresql").glob("*/main/PG_VERSION"))
            if int(path.parts[-3]) < self.config["version"]
        ]

    def restore_dumps(self, wanted: str, database: str) -> str:
        stamp, manifest = self.newest("databases", wanted)
        items = [
            item
            for item in manifest["items"]
            if "rows" in item and item["name"] != "postgres" and database in ("", item["name"])
        ]
        if not items:
            raise BackupError(f"the dumps of {stamp} have no database {database}")
        self.load_roles(stamp, manifest)
        told = [self.swap(item["name"], self.fetch("databases", stamp, item), item["rows"]) for item in items]
        return "\n".join([f"Restored from databases/{stamp}:", *told])

    def restore_one(self, database: str, to: str) -> str:
        """One database as it was at a time: the cluster is restored beside, and the database taken from there."""
        sealed = SPOOL / "one.dump.age"
        with self.scratch(
            lambda data: self.restored(data, "--type=time", f"--target={to}", "--target-action=promote")
        ) as where:
            if database not in self.names(**where):
                raise BackupError(f"at {to} there was no database {database}")
            with contextlib.closing(self.connect(database, **where)) as connection:
                recorded = self.rows(connection)
            command = [
                str(self.tools / "pg_dump"),
                "--username=postgres",
                f"--host={where['host']}",
                f"--port={where['port']}",
                "--format=custom",
                f"--dbname={database}",
            ]
            with sealed.open("wb") as out:
                through([command, ["age", "--encrypt", "--identity", str(KEY)]], f"the dump of {database}", stdout=out)
        return f"Restored as of {to}:\n{self.swap(database, sealed, recorded)}"

    def restore_cluster(self, to: str) -> str:
        """The whole cluster, to a time or to the last that was archived; the one that was there stays beside it."""
        if not self.restorable():
            raise BackupError(
                f"the bucket holds no base backup of PostgreSQL {self.config['version']}; a dump can be restored by "
                "name:  -e dump=latest"
            )
        unit, data = self.unit, Path(f"/var/lib/postgresql/{self.config['version']}/main")
        kept = data.with_name(f"{data.name}.before-{now().strftime(STAMP)}")
        target = ["--type=time", f"--target={to}", "--target-action=promote"] if to else []
        try:
            call("systemctl", "stop", unit, failed="PostgreSQL does not stop")
            call("mv", "--no-target-directory", data, kept, failed=f"{data} cannot be kept under another name")
            data.mkdir(mode=0o700)
            shutil.chown(data, "postgres", "postgres")
            self.pgbackrest(*target, "restore", failed="pgBackRest restores nothing")
            try:
                call("systemctl", "start", unit, failed="the restored cluster does not start")
                self.wait_until_recovered(data)
            except BackupError as problem:
                log = Path(f"/var/log/postgresql/postgresql-{self.config['version']}-main.log")
                raise BackupError(f"{problem}: {last_words(log)}. What was there is back") from None
        except BaseException:
            call("systemctl", "stop", unit, failed="PostgreSQL does not stop")
            if kept.exists():
                shutil.rmtree(data, ignore_errors=True)
                call("mv", "--no-target-directory", kept, data, failed=f"{kept} does not go back to {data}")
            with contextlib.suppress(BackupError):
                call("systemctl", "start", unit, failed="PostgreSQL, as it was, does not start")
            raise
        for name in ("restore_command", "recovery_target_time", "recovery_target_action"):
            self.ask_nothing(f"ALTER SYSTEM RESET {name}")
        return f"Restored the whole cluster{f' as of {to}' if to else ''}. What was there is in {kept}"

    def ask_nothing(self, statement: str) -> None:
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def restore_files(self, wanted: str, name: str, directory: Path | None) -> str:
        """Put back what services declared, each by its own command, or write it into a directory to look at."""
        stamp, manifest = self.newest(self.files, wanted)
        items = [item for item in manifest["items"] if name in ("", item["name"])]
        if not items:
            raise BackupError(f"{self.files}/{stamp} has no {name}")
        commands = {item["name"]: item["restore"] for item in self.declared()}
        missing = [item["name"] for item in items if item["name"] not in commands]
        if missing and not directory:
            raise BackupError(f"nothing on this host declares {', '.join(missing)}: name a directory to write it to")
        for item in items:
            plain = self.opened(self.fetch(self.files, stamp, item), item["object"])
            if directory:
                shutil.move(plain, directory / item["name"])
            else:
                with plain.open("rb") as content:
                    through([commands[item["name"]]], f"{item['name']} is not put back", stdin=content)
                plain.unlink()
        return f"From {self.files}/{stamp}: {', '.join(item['name'] for item in items)}"

    # What a person sees

    def overdue(self) -> list[tuple[str, str, str]]:
        """Return a line for each kind: what it is, what was last good, and what is wrong with that."""
        hours, lines = timedelta(hours=self.config["oldest_hours"]), []

        def judged(kind: str, stamp: str | None, told: str, most: timedelta) -> None:
            late = age(stamp or self.installed) > most
            wrong = f"none for {words(age(stamp or self.installed))}, {words(most)} are allowed" if late else ""
            lines.append((kind, f"{told}, {words(age(stamp))} ago" if stamp else "none yet", wrong))

        # Every host looks after the dumps: the one that takes them may be what is down.
        if self.config["databases_watched"]:
            good = [stamp for stamp, (verdict, _) in self.sets("databases").items() if verdict == "good"]
            judged("dumps", *([good[-1], f"databases/{good[-1]}"] if good else [None, ""]), hours)
        if self.config["databases"]:
            bases = [one for one in self.base_backups() if not one["error"]]
            stamp = datetime.fromtimestamp(bases[-1]["timestamp"]["stop"], UTC).strftime(STAMP) if bases else None
            judged("base backup", stamp, bases[-1]["label"] if bases else "", hours)
            if not self.is_standby():
                stuck = self.ask(
                    "SELECT coalesce(extract(epoch FROM now() - min(modification)), 0)::int "
                    "FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
                )
                wrong = f"WAL waits for {stuck // 60} minutes to be archived" if stuck > 600 else ""
                lines.append(("WAL", "arrives in the bucket" if not wrong else "does not arrive", wrong))
        lines += certificates()
        if self.declared():
            good = [stamp for stamp, (verdict, _) in self.sets(self.files).items() if verdict == "good"]
            judged("files", *([good[-1], f"{self.files}/{good[-1]}"] if good else [None, ""]), hours)
        for part, entry in self.state().items():
            if part.startswith("rehearsal"):
                wrong = entry.get("problem", "") or (
                    f"none for {words(age(entry['good']))}"
                    if "good" in entry and age(entry["good"]) > timedelta(days=9)
                    else ""
                )
                told = (
                    f"{entry['told']}, {words(age(entry['good']))} ago, took {entry['seconds']} s"
                    if "good" in entry
                    else "none yet"
                )
                lines.append((part, told, wrong))
            elif entry.get("problem"):
                lines.append((part, "last run failed", entry["problem"]))
        return lines

    def status(self) -> str:
        lines = self.overdue()
        width = max(len(kind) for kind, *_ in lines) if lines else 0
        text = "\n".join(
            f"{'BAD ' if wrong else 'ok  '}{kind:{width}}  {told}{f': {wrong}' if wrong else ''}"
            for kind, told, wrong in lines
        )
        if any(wrong for *_, wrong in lines):
            raise BackupError(text)
        return text

    def watch(self) -> str:
        wrong = [f"{kind}: {wrong}" for kind, _, wrong in self.overdue() if wrong]
        if wrong:
            raise BackupError("; ".join(wrong))
        return "ok"

    @staticmethod
    def state() -> dict[str, dict[str, Any]]:
        path = STATE / "state.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def attempt(self, part: str, work: Callable[[], str | None]) -> str:
        """Do one part of a run and keep what came of it; a part that fails leaves the others their turn.

        Of what is left to another server nothing is kept, so that it is not taken for done.
        """
        entry, begin = dict(self.state().get(part, {})), time.monotonic()
        try:
            entry |= {"told": work() or "ok", "good": now().strftime(STAMP), "problem": ""}
        except LeftToAnotherError as left:
            entry = {"told": str(left)}
        except BackupError as problem:
            entry["problem"] = str(problem)
        except OSError as error:
            entry["problem"] = f"{error.strerror}: {error.filename or SPOOL}"
        except Exception as error:
            entry["problem"] = f"{type(error).__name__}: {str(error).strip()}"
        # What a part that failed left would be in the way of the next, on a full disk most of all.
        for path in SPOOL.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        entry |= {"tried": now().strftime(STAMP), "seconds": round(time.monotonic() - begin, 1)}
        whole = self.state() | {part: entry}
        if "problem" not in entry:
            del whole[part]
        fresh = STATE / "state.new"
        fresh.write_text(json.dumps(whole, indent=1))
        fresh.rename(STATE / "state.json")
        problem = entry.get("problem", "")
        print(f"{part}: {problem or entry['told']} ({entry['seconds']} s)", flush=True)
        return f"{part}: {problem}" if problem else ""

    def run(self, parts: dict[str, Callable[[], str | None]]) -> None:
        wrong = [said for part, work in parts.items() if (said := self.attempt(part, work))]
        if wrong:
            raise BackupError("\n".join(wrong))

    def nightly(self) -> None:
        parts: dict[str, Callable[[], str | None]] = {"clock": self.check_clock}
        kinds = []
        if self.config["databases"]:
            parts |= {"base backup": self.base, "dumps": self.dump}
            kinds.append("databases")
        if self.declared():
            parts["files"] = self.send_files
            kinds.append(self.files)
        self.run(parts | (self.due(self.objects(kinds)) if self.scheduled else {}))
        # Only a night on which all went well removes anything.
        self.run({"retention": lambda: [self.prune(kind) for kind in kinds] and None})

    def objects(self, kinds: list[str]) -> dict[str, Callable[[], str | None]]:
        """Return the looks at what lies in the bucket."""
        parts: dict[str, Callable[[], str | None]] = {
            f"objects of {kind}": lambda kind=kind: self.verify(kind) for kind in kinds
        }
        return parts | ({"objects of the base backups": self.verify_base} if self.config["databases"] else {})

    def due(self, parts: dict[str, Callable[[], str | None]]) -> dict[str, Callable[[], str | None]]:
        """Return the parts that were not good within the days that the site says, less what a random delay takes."""
        within, state = timedelta(days=self.config["verify_days"], hours=-3), self.state()
        recent = {
            part
            for part in parts.keys() & state.keys()
            if not state[part]["problem"] and "good" in state[part] and age(state[part]["good"]) < within
        }
        return {part: work for part, work in parts.items() if part not in recent}

    def rehearse(self) -> None:
        parts: dict[str, Callable[[], str | None]] = {}
        if self.config["databases"]:
            parts |= {"rehearsal of the dumps": self.rehearse_dumps, "rehearsal of the base backup": self.rehearse_base}
        if self.declared():
            parts["rehearsal of the files"] = self.rehearse_files
        self.run(parts)

    def tell(self, run: str) -> None:
        """Hand a failed run's problems to the hook, whatever ended it."""
        problems = [f"{part}: {entry['problem']}" for part, entry in self.state().items() if entry.get("problem")]
        if run == "watch":
            with contextlib.suppress(BackupError):
                problems = [f"{kind}: {wrong}" for kind, _, wrong in self.overdue() if wrong] or problems
        lines = problems or [f"it was cut off: journalctl --unit=offramp-backup@{run}"]
        message = "\n".join([f"Backup on {self.config['host']} ({run}) failed:", *lines, "More: backup-status"])
        print(message)
        if self.config["hook"]:
            call("sh", "-c", self.config["hook"], failed="the hook", input=message + "\n", timeout=300)


def bytes_of(lsn: str) -> int:
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def in_order(backups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return pgBackRest's base backups by the time from which on they are good, the oldest first."""
    return sorted(backups, key=lambda one: one["timestamp"]["stop"])


def of_version(told: list[dict[str, Any]], version: int) -> list[dict[str, Any]]:
    """Return the base backups of a major version, of what pgBackRest tells; after a return, from before it too."""
    return in_order(
        one
        for stanza in told
        for known in [{db["id"] for db in stanza.get("db", []) if db["version"] == str(version)}]
        for one in stanza.get("backup", [])
        if one["database"]["id"] in known
    )


def missing(there: set[str], starts: set[str], timeline: int, history: str, size: int) -> list[str]:
    """Return the segments that are not there, from the oldest base backup's start on, along the server's history.

    A segment's name is its timeline and its place in the WAL. Each timeline ends with the one before that in which the
    next begins; a base backup on a timeline that leads nowhere is of no interest.
    """

    def name(timeline: int, number: int) -> str:
        return f"{timeline:08X}{number * size >> 32:08X}{number * size % 2**32 // size:08X}"

    def number(segment: str) -> int:
        return ((int(segment[8:16], 16) << 32) + int(segment[16:], 16) * size) // size

    parted = [line.split() for line in history.splitlines() if line.strip()]
    ends = {int(each[0]): bytes_of(each[1]) // size for each in parted}
    last = max((number(segment) for segment in there if int(segment[:8], 16) == timeline), default=-1)
    ends[timeline] = max(last + 1, *ends.values(), 0)
    chain: dict[int, str] = {}
    for one, end in sorted(ends.items()):
        chain |= {at: name(one, at) for at in range(len(chain), end)}
    begin = min((number(start) for start in starts if chain.get(number(start)) == start), default=len(chain))
    return [chain[at] for at in range(begin, len(chain)) if chain[at] not in there]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other run is at work on this host, clear what one that was killed left, and take the key."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(SPOOL, ignore_errors=True)
        SPOOL.mkdir(mode=0o700, parents=True)
        shutil.copy(CONFIG.with_name("age.key"), KEY)
        try:
            yield
        finally:
            KEY.unlink()
            shutil.rmtree(SPOOL, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="offramp-backup", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scheduled",
        action="store_true",
        help="as the timers do: leave out what the other server took this night, and look at what lies in the bucket",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    nightly = actions.add_parser("nightly", help="take what a night takes, now")
    nightly.add_argument(
        "--accept", action="store_true", help="take a dump that is much smaller than the last ones as good"
    )
    actions.add_parser("rehearse", help="restore the newest of each kind into a scratch cluster, compare, throw away")
    actions.add_parser("status", help="what was last good, and how old it is")
    actions.add_parser("watch", help="fail when the last good backup is too old")
    actions.add_parser("prepare", help="have the bucket know this cluster")
    actions.add_parser("verify", help="fetch every object and compare it with what was stored")
    tell = actions.add_parser("tell", help="hand the last problems to the hook")
    tell.add_argument("run")
    restore = actions.add_parser("restore", help="restore databases")
    restore.add_argument("--to", default="", help="a time, as '2026-11-23 08:15:00+00'")
    restore.add_argument("--dump", default="", help="the time in a dump's name, or latest")
    restore.add_argument("--database", default="", help="one database; else all")
    restore.add_argument("--overwrite", action="store_true")
    files = actions.add_parser("files", help="put back what other services declared; what is there is kept beside it")
    files.add_argument("--set", default="latest")
    files.add_argument("--name", default="")
    files.add_argument("--host", default="", help="from what another host of the site sent")
    files.add_argument("directory", type=Path, nargs="?", help="write it here instead")
    asked = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("this has to be run by root")
    os.umask(0o077)
    # Whoever calls it by hand may have a password or a host of something else in the environment.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    try:
        with contextlib.nullcontext() if asked.action in ("status", "tell", "watch") else alone():
            backup = Backup()
            backup.scheduled = asked.scheduled
            match asked.action:
                case "tell":
                    backup.tell(asked.run)
                case "nightly":
                    backup.accept = asked.accept
                    backup.nightly()
                case "rehearse":
                    backup.rehearse()
                case "verify":
                    kinds = ["databases"] if backup.config["databases"] else []
                    backup.run(backup.objects([*kinds, backup.files]))
                case "restore":
                    print(backup.restore(asked.to, asked.dump, asked.database, asked.overwrite))
                case "files":
                    backup.files = f"files/{asked.host or backup.config['host']}"
                    print(backup.restore_files(asked.set, asked.name, asked.directory))
                case action:
                    print(getattr(backup, action)())
    except BackupError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
