"""What is known of a PostgreSQL server comes from its own programs and files."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from ansible.module_utils.postgresql_cluster import Cluster

from library import postgresql_check, postgresql_probe

CONTROL = """\
pg_control version number:            1700
Database cluster state:               in production
wal_level setting:                    replica
max_connections setting:              120
max_worker_processes setting:         10
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
track_commit_timestamp setting:       off
"""


def test_floors_are_what_the_control_file_says() -> None:
    assert postgresql_probe.floors(CONTROL) == {
        "max_connections": 120,
        "max_worker_processes": 10,
        "max_wal_senders": 10,
        "max_prepared_transactions": 0,
        "max_locks_per_transaction": 64,
    }
    assert postgresql_probe.floors("") == {}


@pytest.mark.parametrize(
    ("configure", "forbidden", "features"),
    [
        ("", "0", []),
        ("'--with-lz4' '--with-zstd'", "0", ["lz4", "zstd"]),
        ("'--with-lz4' '--with-liburing'", "0", ["lz4", "liburing"]),
        ("'--with-lz4' '--with-liburing'", "1", ["lz4"]),
        ("'--with-liburing'", "2", []),
    ],
)
def test_a_feature_needs_the_build_and_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configure: str, forbidden: str, features: list[str]
) -> None:
    (tmp_path / "disabled").write_text(f"{forbidden}\n")
    monkeypatch.setattr(postgresql_probe, "IO_URING_DISABLED", tmp_path / "disabled")
    assert postgresql_probe.features(configure) == features


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    (tmp_path / "etc/postgresql/17/main").mkdir(parents=True)
    (tmp_path / "var/lib/postgresql/17/main/base/1").mkdir(parents=True)
    return Cluster(17, tmp_path)


def test_a_cluster_that_was_just_made_has_nobodys_database(cluster: Cluster) -> None:
    (cluster.data / "base/5").mkdir()
    assert not cluster.has_databases
    (cluster.data / "base/16384").mkdir()
    assert cluster.has_databases


@pytest.mark.parametrize("name", ["standby.signal", "recovery.signal"])
def test_a_server_that_will_follow_another_is_known_while_it_is_down(cluster: Cluster, name: str) -> None:
    assert not cluster.is_recovering
    (cluster.data / name).touch()
    assert cluster.is_recovering


def test_data_that_was_moved_is_found(tmp_path: Path) -> None:
    configuration = tmp_path / "etc/postgresql/17/main"
    configuration.mkdir(parents=True)
    (configuration / "postgresql.conf").write_text("# data_directory = '/no'\ndata_directory = '/srv/pg'\t# moved\n")
    assert Cluster(17, tmp_path).data == Path("/srv/pg")


def cluster_of(root: Path, version: int, start: str = "auto", ours: bool = True, data: bool = True) -> Path:
    """Make the files of a cluster, and return its data."""
    programs, configuration = root / f"usr/lib/postgresql/{version}/bin", root / f"etc/postgresql/{version}/main"
    database = root / f"var/lib/postgresql/{version}/main/base" / ("16384" if data else "5")
    for directory in (programs, configuration / "conf.d", database):
        directory.mkdir(parents=True)
    (programs / "postgres").touch()
    (configuration / "postgresql.conf").touch()
    (configuration / "start.conf").write_text(f"# auto or manual\n\n{start}\n")
    if ours:
        (configuration / "conf.d/offramp.conf").touch()
    (database.parent.parent / "PG_VERSION").write_text(f"{version}\n")
    return database.parent.parent


@pytest.mark.parametrize(
    ("clusters", "version"),
    [
        pytest.param([], None, id="a bare host"),
        pytest.param([{"version": 17, "ours": False, "data": False}], 17, id="Debian's own"),
        pytest.param(
            [{"version": 15}, {"version": 17, "ours": False, "data": False}], 15, id="Debian was upgraded beneath it"
        ),
        pytest.param(
            [{"version": 15, "ours": False}, {"version": 17, "ours": False, "data": False}], 15, id="data wins"
        ),
        pytest.param([{"version": 15}, {"version": 17, "start": "manual"}], 15, id="an upgrade under way"),
        pytest.param([{"version": 15}, {"version": 17}], 17, id="an upgrade cut off in the moment of the change"),
        pytest.param([{"version": 15, "start": "manual"}, {"version": 17}], 17, id="an upgrade that was done"),
        pytest.param(
            [{"version": 15, "start": "manual"}, {"version": 17, "data": False}], 17, id="a site without data"
        ),
    ],
)
def test_of_two_clusters_the_one_that_serves_is_the_hosts(
    tmp_path: Path, clusters: list[dict], version: int | None
) -> None:
    for each in clusters:
        cluster_of(tmp_path, **each)
    found = Cluster.found(tmp_path)
    assert (found.version if found else None) == version


def test_a_standby_without_a_database_is_the_hosts_all_the_same(tmp_path: Path) -> None:
    (cluster_of(tmp_path, 15, ours=False, data=False) / "standby.signal").touch()
    cluster_of(tmp_path, 17, ours=False, data=False)
    assert Cluster.found(tmp_path).version == 15


def test_a_server_that_has_ended_does_not_run(cluster: Cluster) -> None:
    assert cluster.postmaster is None
    (cluster.data / "postmaster.pid").write_text("2147483646\n/data\n")
    assert cluster.postmaster is None
    # After a crash of the host another program may have the number.
    (cluster.data / "postmaster.pid").write_text(f"{os.getpid()}\n/data\n")
    assert cluster.postmaster is None


def test_a_server_that_runs_is_found_by_its_number(cluster: Cluster, tmp_path: Path) -> None:
    program = shutil.copy("/bin/sleep", tmp_path / "postgres")
    with subprocess.Popen([program, "60"]) as server:
        (cluster.data / "postmaster.pid").write_text(f"{server.pid}\n/data\n")
        # A process has its new name a moment after it was started.
        deadline = time.monotonic() + 5
        while not (found := cluster.postmaster) and time.monotonic() < deadline:
            time.sleep(0.01)
        server.kill()
    assert found == server.pid


def test_a_volume_that_is_not_there_yet_is_the_one_above(tmp_path: Path) -> None:
    assert postgresql_probe.disk_mib(tmp_path / "a/b/c") == postgresql_probe.disk_mib(tmp_path) > 0


def test_before_version_15_huge_pages_are_estimated_and_never_too_few() -> None:
    """2 GB of buffers with 200 connections took 2125 MB in version 15, 16 GB took 16776."""
    for gib, taken in ((2, 2125), (16, 16776)):
        values = {
            "shared_buffers": gib * 131072,
            "max_connections": 200,
            "max_worker_processes": 8,
            "max_locks_per_transaction": 64,
        }
        assert taken <= postgresql_check.estimated_huge_pages(values, 2048) * 2 <= taken * 1.05
