"""The drop-in that the module unit gives each service, and the fingerprint that tells what a daemon has loaded."""

from __future__ import annotations

import subprocess
from pathlib import Path

from library import unit


def fingerprint(*paths: Path) -> str:
    command = unit.fingerprint_command([str(path) for path in paths])
    return subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, text=True).stdout


def lines(on_change: str, extra: str = "") -> list[str]:
    return unit.drop_in_text("a.service", ["/etc/a"], on_change, extra).splitlines()


def test_a_crashed_service_comes_back_after_a_second_and_is_never_given_up() -> None:
    assert {"Restart=always", "RestartSec=1", "StartLimitIntervalSec=0"} <= set(lines("restart"))


def test_a_reload_is_recorded_only_where_the_service_reloads() -> None:
    assert any(line.startswith("ExecReload=") for line in lines("reload"))
    assert not any(line.startswith("ExecReload=") for line in lines("restart"))


def test_what_a_reload_takes_up_is_recorded_at_a_start_and_at_a_reload_beside_what_needs_a_restart() -> None:
    text = unit.drop_in_text("a.service", ["/etc/a"], "restart", "", reloads=["/etc/a.crt"])
    records = [
        (line.split("=")[0], line.split(">")[-1].rstrip("'")) for line in text.splitlines() if "sha256sum" in line
    ]
    loaded, reloaded = "/run/offramp/a.service", "/run/offramp/a.service.reload"
    assert records == [("ExecStartPre", loaded), ("ExecStartPre", reloaded), ("ExecReload", reloaded)]


def test_lines_of_the_role_come_last_and_win() -> None:
    assert lines("restart", "KillMode=mixed\nRestartSec=5\n")[-2:] == ["KillMode=mixed", "RestartSec=5"]


def test_a_role_can_open_the_sandbox_and_one_of_systemds_own_has_none() -> None:
    opened = lines("restart", "MemoryDenyWriteExecute=no")
    assert opened.index("MemoryDenyWriteExecute=yes") < opened.index("MemoryDenyWriteExecute=no")
    assert "ProtectSystem=strict" not in unit.drop_in_text("a.service", [], "restart", "", sandbox=False)


def test_a_path_with_a_percent_sign_reaches_the_shell_unharmed() -> None:
    assert "/etc/100%%" in unit.drop_in_text("a.service", ["/etc/100%"], "restart", "")


def test_the_fingerprint_sees_content_new_files_and_removed_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    seen = [fingerprint(tmp_path)]
    (tmp_path / "a").write_text("two")
    seen.append(fingerprint(tmp_path))
    (tmp_path / "b c").write_text("")
    seen.append(fingerprint(tmp_path))
    (tmp_path / "a").unlink()
    seen.append(fingerprint(tmp_path))
    assert len(set(seen)) == len(seen)


def test_the_fingerprint_follows_links_and_bears_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("one")
    (tmp_path / "link").symlink_to("target")
    before = fingerprint(tmp_path / "link", tmp_path / "missing")
    assert fingerprint(tmp_path / "missing", tmp_path / "link") == before
    (tmp_path / "target").write_text("two")
    assert fingerprint(tmp_path / "link", tmp_path / "missing") != before
