"""What pg_restore says of a dump is read without a server, and a dump whose rows differ never takes the place."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.pg_archive import (
    ArchiveError,
    Plan,
    archive_format,
    count_rows,
    entries,
    name_of,
    parse_extensions,
    plan,
    server_version,
)
from hypothesis import given, settings
from hypothesis import strategies as st

same = settings(deadline=None, derandomize=True, database=None)

# What pg_restore --list prints of a dump from Heroku.
LISTING = Path("tests/unit/data/heroku_dump.list").read_text()


def kept(found):
    return [line.split(" ", 3)[3].rpartition(" ")[0] for line in found.restored]


def test_what_of_a_dump_is_restored():
    found = plan(LISTING.format(version="14.9 (Ubuntu)"))
    assert kept(found) == [
        "SCHEMA - billing",
        "COMMENT - SCHEMA billing",
        "FUNCTION public touch()",
        "TABLE public users",
        "SEQUENCE public users_id_seq",
        "SEQUENCE OWNED BY public users_id_seq",
        "TABLE DATA public users",
        "SEQUENCE SET public users_id_seq",
        "CONSTRAINT public users users_pkey",
        "FK CONSTRAINT public posts posts_author_fkey",
        "COMMENT public TABLE users",
    ]


def test_what_is_left_out_and_is_not_herokus_own_is_named():
    assert plan(LISTING).left_out == ["event trigger mine", "publication everything"]


def test_extensions_and_the_rows_to_count_are_found():
    found = plan(LISTING)
    assert [line.split()[5] for line in found.extensions] == ["citext", "plpgsql"]
    assert found.tables == 2
    assert found.schemas == {"public", "heroku_ext"}


def test_a_schema_that_holds_an_extension_is_made_before():
    assert "SCHEMA - billing" not in kept(plan(LISTING, {"billing"}))
    assert "COMMENT - SCHEMA billing" not in kept(plan(LISTING, {"billing"}))


@pytest.mark.parametrize(
    ("version", "major"), [("9.6.24", 9), ("14.9 (Ubuntu 14.9-1)", 14), ("17.2", 17), ("18beta1", 18)]
)
def test_the_version_of_the_server_that_was_dumped(version, major):
    assert server_version(LISTING.format(version=version)) == major


def test_a_kind_of_several_words_is_told_from_the_schema():
    (entry,) = entries("1; 0 0 MATERIALIZED VIEW DATA public totals some owner")
    assert (entry.kind, entry.schema) == ("MATERIALIZED VIEW DATA", "public")
    (entry,) = entries("1; 0 0 TYPE public mood me")
    assert (entry.kind, entry.schema, name_of(entry)) == ("TYPE", "public", "mood")


def test_extensions_are_read_from_their_sql():
    text = '''
SET search_path = '';
CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA heroku_ext;
CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA "Odd ""name""";
'''
    assert parse_extensions(text) == [("citext", "heroku_ext"), ("uuid-ossp", 'Odd "name"')]


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"", "is no dump"),
        (b"\x1f\x8b\x08", "is no dump"),
        (b"PGDMP", "is no dump"),
        (b"--\n-- PostgreSQL", "plain SQL"),
    ],
)
def test_what_is_no_dump_is_told_by_its_first_bytes(head, said):
    with pytest.raises(ArchiveError, match=said):
        archive_format(head)


def test_the_format_of_a_dump():
    assert archive_format(b"PGDMP\x01\x10\x00") == (1, 16)


def lines(text):
    return text.encode().splitlines(keepends=True)


COPIES = Path("tests/unit/data/heroku_copies.sql").read_text()


def test_rows_are_counted_as_the_dump_has_them():
    assert count_rows(lines(COPIES)) == (
        {"public.users": 4, '"odd schema"."an ""odd"" table"': 0, "public.no_columns": 2},
        4,
    )


def test_rows_that_break_off_are_no_count():
    with pytest.raises(ArchiveError, match=r"ends amid the rows of public.users"):
        count_rows(lines(COPIES)[:5])


@same
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=20), max_size=20))
def test_a_row_is_a_line_whatever_stands_in_it(values):
    def escaped(value):
        return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")

    content = [b"COPY public.t (a) FROM stdin;\n", *(escaped(value).encode() + b"\n" for value in values), b"\\.\n"]
    assert count_rows(content) == ({"public.t": len(values)}, 1)


def module():
    path = Path("library/heroku_dump.py")
    spec = importlib.util.spec_from_file_location("heroku_dump", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def restore(monkeypatch):
    """Return a restore whose database has other rows than the dump."""
    loaded = module()
    monkeypatch.setattr(loaded, "connection", lambda _database: SimpleNamespace(close=lambda: None))
    restore = loaded.Restore.__new__(loaded.Restore)
    restore.module = SimpleNamespace(params={"replace": False})
    restore.fresh = "shop.import"
    restore.rows, restore.fills = {"public.users": 3, "public.posts": 1}, 2
    restore.rows_of = lambda table, _fresh: {"public.users": 2, "public.posts": 1}[table]
    return restore


def test_rows_that_differ_are_refused_by_table(restore):
    with pytest.raises(Exception, match=r"(?s)nothing was changed.*public.users: 3 in the dump, 2 restored") as refused:
        restore.compare(Plan(tables=2))
    assert "posts" not in str(refused.value)


def test_a_table_that_could_not_be_counted_is_refused(restore):
    with pytest.raises(Exception, match="rows cannot be counted"):
        restore.compare(Plan(tables=3))


def test_a_failure_at_any_step_removes_what_was_made_and_goes_no_further(restore):
    for failing in ("make_extensions", "restore", "compare", "analyze", "switch"):
        done = []
        for step in ("make_fresh", "make_extensions", "restore", "compare", "analyze", "switch", "drop"):

            def act(*_words, step=step, failing=failing, done=done):
                done.append(step)
                if step == failing:
                    raise RuntimeError(step)

            setattr(restore, step, act)
        restore.read = Plan
        with pytest.raises(RuntimeError, match=failing):
            restore.run()
        assert done[-2:] == [failing, "drop"], json.dumps(done)
