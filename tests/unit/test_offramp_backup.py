"""The backup's program: what can be told of it without a bucket."""

import socket
import time
from importlib import machinery, util
from pathlib import Path

import pytest

from filter_plugins.site_certificate import site_certificate

PATH = Path(__file__).resolve().parents[2] / "roles/backup/files/offramp_backup.py"
SIZE = 16 * 2**20
LOADER = machinery.SourceFileLoader("offramp_backup", str(PATH))
program = util.module_from_spec(util.spec_from_loader("offramp_backup", LOADER))
LOADER.exec_module(program)


def segments(timeline, *numbers):
    return {f"{timeline:08X}{number // 256:08X}{number % 256:08X}" for number in numbers}


FIRST, SECOND = segments(1, 2, 3, 4), segments(2, 5, 6)
# The second timeline began in the middle of segment 5.
HISTORY = "1\t0/5800000\tno recovery target specified\n"


@pytest.mark.parametrize(
    ("there", "starts", "timeline", "history", "expected"),
    [
        (FIRST, segments(1, 2), 1, "", set()),
        (FIRST - segments(1, 3), segments(1, 2), 1, "", segments(1, 3)),
        (FIRST - segments(1, 2), segments(1, 2), 1, "", segments(1, 2)),
        # What is older than the oldest base backup is needed by no restore.
        (FIRST - segments(1, 3), segments(1, 4), 1, "", set()),
        (FIRST - segments(1, 3), set(), 1, "", set()),
        (FIRST | SECOND, segments(1, 2), 2, HISTORY, set()),
        # The primary died before it had archived the last one, or the new one has not archived its first.
        (FIRST - segments(1, 4) | SECOND, segments(1, 2), 2, HISTORY, segments(1, 4)),
        (FIRST | segments(2, 6), segments(1, 2), 2, HISTORY, segments(2, 5)),
        (FIRST | SECOND - segments(2, 6), segments(2, 5), 2, HISTORY, set()),
        # A timeline that was left by a restore to an earlier moment
        (FIRST | segments(1, 5, 7) | SECOND, segments(1, 2, 7), 2, HISTORY, set()),
        # Names go up to 255 in their last part.
        (segments(1, 254, 255, 257), segments(1, 254), 1, "", segments(1, 256)),
    ],
)
def test_a_hole_in_the_wal_is_named(there, starts, timeline, history, expected):
    assert set(program.missing(there, starts, timeline, history, SIZE)) == expected


def test_nothing_archived_yet_is_no_hole():
    assert program.missing(set(), set(), 1, "", SIZE) == []
    assert program.missing(FIRST, segments(1, 2), 2, HISTORY, SIZE) == []


def test_a_certificate_that_ends_soon_and_one_that_cannot_be_read_are_named(tmp_path):
    made = {"redis": 0, "pgbouncer": -340 * 86400}
    for service, before in made.items():
        pem = site_certificate("a-secret", service, service, ["db1"], now=time.time() + before)["certificate"]
        (tmp_path / "etc" / service).mkdir(parents=True)
        (tmp_path / "etc" / service / "server.crt").write_text(pem)
    (tmp_path / "etc/postgresql/17/main").mkdir(parents=True)
    (tmp_path / "etc/postgresql/17/main/server.crt").write_text("nothing")
    wrong = {kind: wrong for kind, _, wrong in program.certificates(tmp_path)}
    assert wrong["certificate of redis"] == ""
    assert "run site.yml" in wrong["certificate of pgbouncer"]
    assert "cannot be read" in wrong["certificate of postgresql"]


def told(version, number, *stops):
    backups = [{"database": {"id": number}, "timestamp": {"stop": stop}} for stop in stops]
    return {"id": number, "version": version}, backups


@pytest.mark.parametrize(("version", "expected"), [(15, [1, 2, 7]), (17, [4, 5]), (16, [])])
def test_base_backups_of_another_major_version_do_not_count(version, expected):
    """From 15 to 17, and back to 15."""
    stanzas = [told("15", 1, 2, 1), told("17", 2, 4, 5), told("15", 3, 7)]
    stanza = {"db": [db for db, _ in stanzas], "backup": [one for _, backups in stanzas for one in backups]}
    assert [one["timestamp"]["stop"] for one in program.of_version([stanza], version)] == expected


def test_a_bucket_whose_server_does_not_answer_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        program.Bucket("bucket", "site", endpoint).reach()
    away = program.Bucket("bucket", "site", endpoint)
    for _ in range(2):
        with pytest.raises(program.BackupError, match=rf"the bucket's server {endpoint} does not answer: .*refused"):
            away.reach(waits=(0, 0))


def test_a_run_goes_on_with_the_key_that_it_began_with(tmp_path, monkeypatch):
    for name in ("CONFIG", "LOCK", "SPOOL", "KEY"):
        monkeypatch.setattr(program, name, tmp_path / name.lower())
    installed = tmp_path / "age.key"
    installed.write_text("old")
    with program.alone():
        installed.write_text("new")
        assert program.KEY.read_text() == "old"
        # What a part leaves in its spool goes when the next begins; the key does not.
        assert program.KEY.parent != program.SPOOL
    assert not program.KEY.exists()
    with program.alone():
        assert program.KEY.read_text() == "new"
