"""The filter tuning_table says of each setting what it is, what it was, and whether the server runs with it."""

from __future__ import annotations

import inspect
import re

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template
from hypothesis import given, settings
from tuning_samples import ALL, RUNNING, SHOP, TUNING, hosts, row, setting, tuning

from filter_plugins import tuning_table as table_file
from filter_plugins.tuning_table import percent, report, size_in_words, tuning_table

many = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def shown_row(ours, its):
    """Return what the report says of one setting and its row in a running server."""
    (found,) = report({**TUNING, "settings": [ours], "running": [its]}).rows
    return found


WRITTEN = [
    # setting, unit, as a person writes it
    ("16384", "8kB", "128MB"),
    ("1", "8kB", "8kB"),
    ("131072", "8kB", "1GB"),
    ("13559", "kB", "13559kB"),
    ("4096", "kB", "4MB"),
    ("1024", "MB", "1GB"),
    ("1048576", "MB", "1TB"),
    ("1000", "MB", "1000MB"),
    ("1024", "B", "1kB"),
    ("16777216", "B", "16MB"),
    ("64", "16MB", "1GB"),
    ("-1", "kB", "-1"),
    ("-1", "8kB", "-1"),
    ("-1", "MB", "-1"),
    ("0", "ms", "0"),
    ("900", "s", "15min"),
    ("90", "s", "90s"),
    ("1440", "min", "1d"),
    ("3600000", "ms", "1h"),
    ("0.5", "ms", "500us"),
    ("2", "ms", "2ms"),
    ("0.0001", "ms", "0.0001ms"),
    ("100", None, "100"),
    ("0.9", None, "0.9"),
    ("on", None, "on"),
    ("0600", None, "0600"),
    ("", None, "''"),
    (None, None, "''"),
    ("%m [%p] ", None, "%m [%p] "),
    ("a\x1b[31m\nb\u202e", None, r"a\x1b[31m\nb\u202e"),
]


@pytest.mark.parametrize(("value", "unit", "expected"), WRITTEN)
def test_a_value_of_the_server_is_written_as_a_person_writes_it(value, unit, expected):
    found = shown_row(setting(), row(shown=value, unit=unit, boot_val=value))
    assert (found.now, found.default) == (expected, expected)


IN_FORCE = [
    # ours, the server's, its unit
    ("128MB", "16384", "8kB"),
    ("131072kB", "16384", "8kB"),
    ("16384", "16384", "8kB"),
    (" 1 GB ", "131072", "8kB"),
    ("0.5GB", "512", "MB"),
    ("13559kB", "1695", "8kB"),
    ("15min", "900", "s"),
    ("900", "900", "s"),
    ("0.5ms", "0.5", "ms"),
    ("500us", "0.5", "ms"),
    ("-1", "-1", "kB"),
    ("4", "4", None),
    ("4.0", "4", None),
    ("1.10", "1.1", None),
    ("0.123456789", "0.123457", None),
    ("true", "on", None),
    ("1", "on", None),
    ("NO", "off", None),
    ("on", "pglz", None),
    ("LZ4", "lz4", None),
    ("/bin/True", "/bin/True", None),
    ("", "", None),
    ("", None, None),
]


@pytest.mark.parametrize(("ours", "its", "unit"), IN_FORCE)
def test_what_the_server_reads_from_our_value_is_no_difference(ours, its, unit):
    assert not shown_row(setting(value=ours), row(shown=its, unit=unit)).differs


@pytest.mark.parametrize(("source", "differs"), [("default", False), ("override", False), ("configuration file", True)])
def test_what_the_server_chooses_when_told_to_choose_is_no_difference(source, differs):
    its = row("wal_buffers", "512", "8kB", boot_val="-1", source=source)
    assert shown_row(setting("wal_buffers", "-1"), its).differs == differs


NOT_IN_FORCE = [
    ("128MB", "16385", "8kB"),
    ("128MB", "128", "8kB"),
    ("15min", "901", "s"),
    ("2.5ms", "2", "ms"),
    ("16MB", "900", "s"),
    ("16parsecs", "16", "kB"),
    ("-1", "512", "8kB"),
    ("1.2", "1.1", None),
    ("10", "11", None),
    ("1kB", "1", None),
    ("on", "off", None),
    ("on", "lz4", None),
    ("off", "on", None),
    ("/bin/True", "/bin/true", None),
    ("a", "", None),
    ("a", None, None),
]


@pytest.mark.parametrize(("ours", "its", "unit"), NOT_IN_FORCE)
def test_another_value_is_told(ours, its, unit):
    assert shown_row(setting(value=ours), row(shown=its, unit=unit, boot_val="7")).differs


def lines_of(text, name):
    return [line for line in text.splitlines() if re.match(rf"[*!~ ]* {name} ", line)]


@pytest.mark.parametrize(
    ("ours", "its", "mark", "words"),
    [
        (setting(), row(), "", None),
        (setting(), row(shown="on"), "~", "~ not in force: the server runs with another value: jit"),
        (setting(), row(shown="on", pending_restart=True), "!", "! waits for a restart: jit"),
        (setting(), row(pending_restart=True), "!", "! waits for a restart: jit"),
        (setting(own=True), row(), "*", "* your own: jit"),
        (setting(own=True), row(shown="on"), "*~", "* your own: jit"),
        (setting(own=True), row(shown="on", pending_restart=True), "*!", "! waits for a restart: jit"),
        (setting(), row(shown="on", source="command line"), "~", "runs with another value: jit (command line)"),
        (setting(), row("another"), "~", "another value: jit"),
        (setting("timezone", "UTC"), row("TimeZone", "UTC"), "", None),
    ],
)
def test_what_is_remarkable_is_marked_and_said_in_words(ours, its, mark, words):
    text = tuning_table({**TUNING, "settings": [ours], "running": [its]})
    (line,) = lines_of(text, ours["name"])
    assert line.split(ours["name"])[0].strip() == mark
    assert words is None or words in text
    assert ("\n~ not in force" in text) == ("~" in mark)


def test_a_real_server_is_told_from_what_it_should_be():
    text = tuning_table(tuning(running=RUNNING, own={"work_mem": "16MB", "jit": False}))
    lines = [line for line in text.splitlines() if re.match(r"[*!~ ]  [a-z]\w+ ", line)]
    rows = {line[3:].split()[0]: line.split() for line in lines}
    assert rows["shared_buffers"][:3] == ["!", "shared_buffers", "128MB"]
    assert rows["shared_buffers"][-1] == "128MB"
    assert rows["max_connections"] == ["!", "max_connections", "100", "200", "30", "100"]
    assert rows["work_mem"] == ["*", "work_mem", "4MB", "5041kB", "16MB", "16MB"]
    assert rows["jit"] == ["*", "jit", "on", "off", "off", "off"]
    assert rows["wal_level"] == ["wal_level", "replica", "-", "replica", "replica"]
    assert rows["wal_compression"] == ["~", "wal_compression", "off", "lz4", "lz4", "pglz"]
    assert rows["checkpoint_timeout"] == ["checkpoint_timeout", "5min", "-", "15min", "15min"]
    assert rows["wal_buffers"] == ["~", "wal_buffers", "-1", "16MB", "16MB", "4MB"]
    assert "\n! waits for a restart: max_connections, shared_buffers\n" in text


def test_where_no_server_runs_there_is_no_column_for_it():
    text = tuning_table(TUNING)
    assert [line.split() for line in text.splitlines() if "pgtune" in line] == [["setting", "pgtune", "ours", "why"]]
    assert "No server runs here yet" in text
    assert "~" not in text
    assert "!" not in text


def test_a_narrow_reason_stands_below_its_setting_and_a_wide_one_beside_it():
    shown = tuning(running=RUNNING)
    reason = "for backups, standbys and recovery to a point in time"
    assert f"        {reason}" in tuning_table(shown, width=112).splitlines()
    assert re.search(rf"wal_level .* {reason}$", tuning_table(shown, width=160), re.MULTILINE)


def test_a_long_value_is_whole():
    command = "pgbackrest --stanza=main archive-push %p"
    text = tuning_table({**TUNING, "settings": [setting("archive_command", command)]})
    column = text.splitlines()[2].index("ours")
    assert " ".join(line[column : column + 16].strip() for line in text.splitlines()[4:7]) == command


def test_memory_is_listed_by_part():
    text = tuning_table(tuning(2048, ALL, [SHOP], parts={"redis": 64}))
    assert "The host's 2048 MiB\n" in text
    for part in (r"system +176 MiB +9 %  #+ +kernel", r"redis +104 MiB +5 %  #+ +your own: data", "free +0 MiB +0 %  "):
        assert re.search(f"^{part}", text, re.MULTILINE), part
    for use in ("shared memory", "page tables", "processes", "queries", "autovacuum", "maintenance", "page cache"):
        assert re.search(rf"^{use} +[\d.]+ MiB +(< )?\d+ %", text, re.MULTILINE), use


def test_what_your_own_values_break_is_told():
    text = tuning_table(tuning(own={"work_mem": "512MB"}, huge_pages=True))
    assert re.search(r"^Warning: with your own work_mem a busy server takes", text, re.MULTILINE)
    assert "\nHuge pages: The server uses 400 huge pages.\n" in text
    assert re.search(r"^queries .* \d{3,} % ", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("mib", "words"),
    [
        (0, "0 MiB"),
        (0.4, "0.4 MiB"),
        (9.96, "10.0 MiB"),
        (10.4, "10 MiB"),
        (10239, "10239 MiB"),
        (10240, "10 GiB"),
        (2**20, "1024 GiB"),
        (11000, "10.7 GiB"),
    ],
)
def test_memory_is_written_as_a_person_writes_it(mib, words):
    assert size_in_words(mib) == words


@pytest.mark.parametrize(("share", "words"), [(0, "0 %"), (1e-9, "< 1 %"), (0.01, "1 %"), (0.5, "50 %"), (2, "200 %")])
def test_a_share_that_is_there_is_never_nothing(share, words):
    assert percent(share) == words


def changed(**more):
    return {**TUNING, **more}


def without(mapping, key):
    return {name: value for name, value in mapping.items() if name != key}


PARTS = [{"name": "postgresql", "mib": 100, "own": False, "reason": ""}]
REFUSED = [
    ([1], "tuning must be a mapping with host, version,"),
    (None, "tuning must be a mapping"),
    *((without(TUNING, key), f"{key} is missing") for key in TUNING),
    (changed(host=1), "host must be text, not 1"),
    (changed(version="15"), "version must be a whole number from 10, not '15'"),
    (changed(version=True), "version must be a whole number from 10, not True"),
    (changed(version=9), "version must be a whole number from 10, not 9"),
    (changed(settings={}), "settings must be a list, not {}"),
    (changed(settings="jit"), "settings must be a list, not 'jit'"),
    (changed(settings=["jit"]), "settings[0] must be a mapping with name, value, pgtune, reason, own, not 'jit'"),
    (changed(settings=[setting(), without(setting(), "own")]), "settings[1].own is missing"),
    (changed(settings=[setting(value=1)]), "settings[0].value must be text, not 1"),
    (changed(settings=[setting(own="yes")]), "settings[0].own must be true or false, not 'yes'"),
    (changed(running=None), "running must be a list, not None"),
    (changed(running=[row(shown=1)]), "running[0].setting must be text or null, not 1"),
    (changed(running=[row(unit="furlong")]), "running[0].unit must be a unit such as 8kB, or null, not 'furlong'"),
    (changed(running=[row(pending_restart="t")]), "running[0].pending_restart must be true or false, not 't'"),
    (changed(memory=[{"name": "queries", "mib": -1, "reason": ""}]), "memory[0].mib must be a number of MiB, not -1"),
    (changed(memory=[{"name": "queries", "mib": float("nan"), "reason": ""}]), "memory[0].mib must be a number of MiB"),
    (changed(memory=[]), "memory must sum to the part of postgresql, 3361, and not to 0"),
    (changed(budget=[]), "budget must be a mapping, not []"),
    (changed(budget={"parts": PARTS}), "budget.total_mib is missing"),
    (changed(budget={"parts": PARTS, "total_mib": 200}), "budget.parts must sum to budget.total_mib, 200, and not to"),
    (changed(budget={"parts": [], "total_mib": 0}), "budget.parts must sum to budget.total_mib, 0, and not to 0"),
    (changed(budget={"parts": [{**PARTS[0], "name": "redis"}], "total_mib": 100}), "budget.parts must have a part of"),
    (changed(warnings=[1]), "warnings[0] must be text, not 1"),
    (changed(huge_pages=None), "huge_pages must be text, not None"),
]


@pytest.mark.parametrize(("bad", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_shown_is_refused_with_its_name(bad, message):
    with pytest.raises(AnsibleFilterError) as refusal:
        tuning_table(bad)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("width", [79, 1001, "112", True, None, 112.0])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(AnsibleFilterError, match=r"^width must be a whole number from 80 to 1000, not "):
        tuning_table(TUNING, width)


@many
@given(hosts)
def test_every_setting_stands_there_once_and_no_line_is_too_long(host):
    text = tuning_table(host)
    lines = text.splitlines()
    assert [line for line in lines if len(line) > 112 or line != line.rstrip()] == []
    assert "".join(lines).isprintable()
    table = text.split("\n\n")[1].splitlines()[2:]
    for made in host["settings"]:
        assert len([line for line in table if re.match(rf"[*!~ ]+{made['name']}(  |$)", line)]) == 1


@pytest.fixture(scope="module")
def templar():
    filter_loader.add_directory(str(table_file.__file__).rpartition("/")[0])
    return Templar(loader=DataLoader(), variables={"tuning": tuning(running=RUNNING)})


def test_ansible_finds_the_filter(templar):
    assert templar.template(trust_as_template("{{ tuning | tuning_table }}")) == tuning_table(tuning(running=RUNNING))


def test_ansible_shows_the_refusal(templar):
    with pytest.raises(Exception, match=r"host must be text, not 1"):
        templar.template(trust_as_template("{{ tuning | combine({'host': 1}) | tuning_table }}"))


def trusted(values):
    if isinstance(values, dict):
        return {name: trusted(value) for name, value in values.items()}
    return trust_as_template(values) if isinstance(values, str) else values


@pytest.mark.usefixtures("templar")
def test_the_example_in_the_documentation_works():
    (example,) = yaml.safe_load(table_file.EXAMPLES)
    known = Templar(loader=DataLoader(), variables={"inventory_hostname": "db1", **trusted(example["vars"])})
    text = known.template(trust_as_template(example["ansible.builtin.debug"]["msg"]))
    assert text.startswith("db1: PostgreSQL 17 has 3361 MiB of 4096 MiB of memory\n")


def test_the_documentation_is_that_of_the_signature_and_of_the_input():
    documented = yaml.safe_load(table_file.DOCUMENTATION)["options"]
    assert list(documented)[1:] == list(inspect.signature(tuning_table).parameters)[1:]
    assert documented["width"]["default"] == inspect.signature(tuning_table).parameters["width"].default
    assert list(documented["_input"]["suboptions"]) == list(TUNING)
