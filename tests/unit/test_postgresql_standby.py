"""A server counts as a standby once it follows, and a command of a run that is dead does no harm when it ends late."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.postgresql_cluster import Cluster
from ansible.module_utils.testing import patch_module_args

from library import postgresql_demote, postgresql_standby


class Servers:
    """Stands in for Administrator: what the own server, the primary and the control file say, and what was done."""

    def __init__(self, own: list[str] | None, primary: list[str] | None, state: str = "in production") -> None:
        self.own, self.primary, self.state = own, primary, state
        self.done: list[str] = []
        self.log = self.said = ""

    def ask(self, _query: str, conninfo: str = "") -> list[str] | None:
        return self.primary if conninfo else self.own

    def control(self) -> dict[str, str]:
        return {"Database cluster state": self.state, "Latest checkpoint location": "0/13000028"}

    def systemctl(self, *words: str, seconds: int) -> tuple[int, str]:
        assert seconds > 0
        self.done.append(" ".join(words))
        return 0, ""


@pytest.mark.parametrize(
    ("own", "primary", "streams"),
    [
        (["19"], ["19"], True),
        # No slot, or no WAL: the primary has ended the connection, or it is new.
        (["19"], [], False),
        # The histories have parted: it streams up to there.
        (["19"], ["20"], False),
        (["19"], None, False),
        ([], [], False),
        (None, None, False),
    ],
)
def test_a_standby_streams_when_the_primary_says_so_too(
    own: list[str] | None, primary: list[str] | None, streams: bool
) -> None:
    standby = postgresql_standby.Standby.__new__(postgresql_standby.Standby)
    standby.local, standby.primary = Servers(own, primary), "host=192.0.2.21"
    assert standby.streams() is streams


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    (tmp_path / "var/lib/postgresql/17/main").mkdir(parents=True)
    cluster = Cluster(17, tmp_path)
    monkeypatch.setattr(postgresql_demote.Cluster, "found", lambda: cluster)
    monkeypatch.setattr(postgresql_demote.shutil, "chown", lambda *_words: None)
    return cluster


def demoted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], servers: Servers, **options: Any
) -> Any:
    monkeypatch.setattr(postgresql_demote, "Administrator", lambda *_words: servers)
    with patch_module_args(options), pytest.raises(SystemExit):
        postgresql_demote.main()
    return json.loads(capsys.readouterr().out)


def test_a_change_that_comes_late_stops_no_standby(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.standby_signal.touch()
    monkeypatch.setattr(Cluster, "postmaster", 7)
    servers = Servers(None, None)
    assert demoted(monkeypatch, capsys, servers)["failed"]
    assert servers.done == []


def test_a_change_that_comes_late_starts_nothing_that_another_run_killed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Cluster, "postmaster", 7)
    servers = Servers(None, None)
    assert "cleanly" in demoted(monkeypatch, capsys, servers)["msg"]
    assert servers.done == ["stop postgresql@17-main.service"]
    assert not cluster.is_standby


def test_a_primary_that_stopped_says_where_and_follows_from_then_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = demoted(monkeypatch, capsys, Servers(None, None, "shut down"))
    assert (done["changed"], done["lsn"]) == (True, "0/13000028")
    assert cluster.is_standby


def test_a_lost_primary_that_is_about_to_start_again_is_stopped(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = Servers(None, None)
    assert demoted(monkeypatch, capsys, servers, state="fenced")["changed"]
    assert servers.done == ["stop postgresql@17-main.service"]
    assert cluster.is_standby
