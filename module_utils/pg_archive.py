"""Read what pg_restore says of a dump; does no I/O of its own beyond the stream that it is handed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

MAGIC = b"PGDMP"
# Schemas that Heroku makes for itself; the second one holds the extensions, and apps refer to it.
HEROKU_OWN = "_heroku"
HEROKU_EXTENSIONS = "heroku_ext"
# Made by Heroku's administrator in every database, to watch over the extensions.
HEROKU_TRIGGERS = {"extension_before_drop", "log_create_ext", "log_drop_ext", "validate_extension"}
# What takes a superuser to make, or speaks to another server: of no use here, and named in the report.
NOT_HERE = ("EVENT TRIGGER", "PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA", "SUBSCRIPTION")
# Kinds of more than one word. The others are one word, so that what follows is the schema.
KINDS = (
    "ACCESS METHOD",
    "ACL LANGUAGE",
    "BLOB COMMENTS",
    "BLOB METADATA",
    "CHECK CONSTRAINT",
    "DATABASE PROPERTIES",
    "DEFAULT ACL",
    "EVENT TRIGGER",
    "FK CONSTRAINT",
    "FOREIGN DATA WRAPPER",
    "FOREIGN TABLE",
    "INDEX ATTACH",
    "LARGE OBJECT",
    "MATERIALIZED VIEW",
    "MATERIALIZED VIEW DATA",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "PROCEDURAL LANGUAGE",
    "PUBLICATION TABLE",
    "PUBLICATION TABLES IN SCHEMA",
    "ROW SECURITY",
    "SECURITY LABEL",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "SHELL TYPE",
    "STATISTICS DATA",
    "SUBSCRIPTION TABLE",
    "TABLE ATTACH",
    "TABLE DATA",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "USER MAPPING",
)
ENTRY = re.compile(
    rf"(?P<id>\d+); \d+ \d+ (?P<kind>{'|'.join(sorted(KINDS, key=len, reverse=True))}|\S+) (?P<schema>\S+) (?P<rest>.*)"
)
IDENTIFIER = r'(?:"(?:[^"]|"")+"|[a-z_\u0080-\uffff][a-z0-9_$\u0080-\uffff]*)'
EXTENSION = re.compile(
    rf"^CREATE EXTENSION IF NOT EXISTS (?P<name>{IDENTIFIER}) WITH SCHEMA (?P<schema>{IDENTIFIER});$", re.MULTILINE
)
COPY = re.compile(rf"COPY (?P<table>{IDENTIFIER}\.{IDENTIFIER}) (?:\(.*\))? FROM stdin;\n")


class ArchiveError(Exception):
    """A dump that cannot be restored, in words for a person."""


@dataclass(frozen=True)
class Entry:
    """One line of a dump's table of contents."""

    line: str
    kind: str
    schema: str
    rest: str


@dataclass
class Plan:
    """What of a dump is restored, in pg_restore's own lines, and what is not."""

    restored: list[str] = field(default_factory=list)
    extensions: list[str] = field(default_factory=list)
    # How many tables the dump has data of, those that are not restored included.
    tables: int = 0
    schemas: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)


def archive_format(head: bytes) -> tuple[int, int]:
    """Return the version of the archive's format, from its first bytes."""
    if head.startswith((b"--", b"\n--", b"SET ", b"CREATE ")):
        raise ArchiveError("is plain SQL; the custom format is needed, as heroku pg:backups:download fetches it")
    if not head.startswith(MAGIC) or len(head) < 7:
        raise ArchiveError("is no dump in PostgreSQL's custom format; heroku pg:backups:download fetches one")
    return head[5], head[6]


def server_version(listing: str) -> int:
    """Return the major version of the server that was dumped; 9.6 counts as 9."""
    found = re.search(r"^;\s+Dumped from database version: (\d+)", listing, re.MULTILINE)
    return int(found[1]) if found else 0


def entries(listing: str) -> list[Entry]:
    """Return the lines of pg_restore --list."""
    found = (ENTRY.fullmatch(line) for line in listing.splitlines())
    return [Entry(entry[0], entry["kind"], entry["schema"], entry["rest"]) for entry in found if entry]


def name_of(entry: Entry) -> str:
    """Return an entry's name, without the owner that stands behind it."""
    return entry.rest.rpartition(" ")[0]


def plan(listing: str, extension_schemas: Iterable[str] = ()) -> Plan:
    """Say what is restored; schemas that hold extensions are there before, and made by us."""
    made = {"public", HEROKU_EXTENSIONS, *extension_schemas}
    result = Plan()
    for entry in entries(listing):
        name = name_of(entry)
        result.tables += entry.kind == "TABLE DATA"
        if entry.kind == "EXTENSION":
            result.extensions.append(entry.line)
        elif entry.kind == "SCHEMA" and name in made:
            result.schemas.add(name)
        elif is_herokus(entry, name) or is_about_what_we_make(entry, made):
            continue
        elif entry.kind in NOT_HERE:
            result.left_out.append(f"{entry.kind.lower()} {name}")
        else:
            result.restored.append(entry.line)
    return result


def is_herokus(entry: Entry, name: str) -> bool:
    # "COMMENT - EVENT TRIGGER log_drop_ext": what a remark is about is the first part of its name.
    trigger = name.removeprefix("EVENT TRIGGER ")
    return (
        entry.schema == HEROKU_OWN
        or (entry.kind == "SCHEMA" and name == HEROKU_OWN)
        or (entry.kind in ("EVENT TRIGGER", "COMMENT") and trigger in HEROKU_TRIGGERS)
    )


def is_about_what_we_make(entry: Entry, made: set[str]) -> bool:
    """Say whether it is a remark or a right on an extension or a schema that the app's role does not own."""
    if entry.kind in ("ACL", "DEFAULT ACL", "SECURITY LABEL"):
        return True
    about = entry.rest.split(" ")
    schemas = {*made, HEROKU_OWN}
    return entry.kind == "COMMENT" and (
        about[0] == "EXTENSION" or about[:2] == ["EVENT", "TRIGGER"] or (about[0] == "SCHEMA" and about[1] in schemas)
    )


def unquoted(identifier: str) -> str:
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier


def parse_extensions(sql: str) -> list[tuple[str, str]]:
    """Return name and schema of each extension, from the SQL that would make them."""
    return [(unquoted(found["name"]), unquoted(found["schema"])) for found in EXTENSION.finditer(sql)]


def count_rows(lines: Iterable[bytes]) -> tuple[dict[str, int], int]:
    """Count each table's rows, by its quoted name, in the SQL that would fill them; and how often one is filled."""
    counts: dict[str, int] = {}
    table, rows, fills = None, 0, 0
    for line in lines:
        if table is None:
            found = COPY.fullmatch(line.decode(errors="replace")) if line.startswith(b"COPY ") else None
            if found:
                table, rows = found["table"], 0
        elif line == b"\\.\n":
            # A partitioned table may be filled in parts.
            counts[table] = counts.get(table, 0) + rows
            table, fills = None, fills + 1
        else:
            rows += 1
    if table is not None:
        raise ArchiveError(f"ends amid the rows of {table}")
    return counts, fills
