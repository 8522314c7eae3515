"""A change that takes itself back: what is left on the host to undo it, and who may say that it stays."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from module_utils import guard as guard_module
from module_utils.guard import Guard, script_text
from module_utils.ssh_connection import SshConnection, ssh_connection


class Module:
    """A host whose systemd does nothing, so that only what the guard writes counts."""

    def run_command(self, command: list[str]) -> tuple[int, str, str]:
        if command[0] == "/bin/sh":
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout, done.stderr
        return 0, "", ""

    def fail_json(self, **result: Any) -> None:
        raise AssertionError(result["msg"])


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(Module(), "thing", "a run", tmp_path / "undo")


@pytest.fixture
def another(tmp_path: Path) -> Guard:
    """The same kind of change on the same host, by a run that was killed or is yet to come."""
    return Guard(Module(), "thing", "another run", tmp_path / "undo")


def test_a_change_is_undone_once(guard: Guard, tmp_path: Path) -> None:
    log = tmp_path / "log"
    guard.arm([f"echo undone >>{log}"], 40)
    assert guard.pending
    guard.undo()
    guard.undo()
    assert log.read_text() == "undone\n"
    assert not guard.pending


def test_a_kept_change_is_not_undone(guard: Guard, tmp_path: Path) -> None:
    guard.arm([f"touch {tmp_path}/undone"], 40)
    assert guard.keep()
    guard.undo()
    assert not (tmp_path / "undone").exists()


def test_what_has_gone_back_cannot_be_kept(guard: Guard) -> None:
    guard.arm(["true"], 40)
    guard.undo()
    assert not guard.keep()


def test_a_change_is_neither_kept_nor_undone_by_another_run(guard: Guard, another: Guard, tmp_path: Path) -> None:
    guard.arm([f"touch {tmp_path}/undone"], 40)
    another.undo()
    assert not another.keep()
    assert not (tmp_path / "undone").exists()
    assert guard.keep()


def test_who_waits_for_a_proof_cannot_keep_what_a_later_run_changed(guard: Guard, another: Guard) -> None:
    guard.arm(["true"], 40)
    another.undo_left()
    another.arm(["true"], 40)
    assert not guard.keep()
    guard.undo()
    assert another.ours


def test_a_run_begins_with_what_was_there_before_one_that_was_killed(
    guard: Guard, another: Guard, tmp_path: Path
) -> None:
    guard.arm([f"touch {tmp_path}/undone"], 40)
    another.undo_left()
    assert (tmp_path / "undone").exists()
    assert not another.pending


def test_the_timer_waits_while_something_is_written(guard: Guard, tmp_path: Path) -> None:
    guard.arm([f"touch {tmp_path}/undone"], 40)
    with guard.lock():
        timer = subprocess.Popen(["/bin/sh", str(guard.script)])
        with pytest.raises(subprocess.TimeoutExpired):
            timer.wait(0.3)
        assert not (tmp_path / "undone").exists()
    assert timer.wait(10) == 0
    assert (tmp_path / "undone").exists()


def test_a_service_that_starts_waits_for_nobody_who_may_wait_for_it(guard: Guard, tmp_path: Path) -> None:
    guard.arm([f"touch {tmp_path}/undone"], 40)
    boot = ["/bin/sh", str(guard.script), "boot"]
    with guard.lock():
        assert subprocess.run(boot, timeout=10, check=False).returncode == 0
        assert not (tmp_path / "undone").exists()
    assert subprocess.run(boot, timeout=10, check=False).returncode == 0
    assert (tmp_path / "undone").exists()


def test_the_script_names_where_it_lies() -> None:
    assert str(guard_module.ROOT / "ssh" / "undo") in script_text(guard_module.ROOT / "ssh", [])


def process(proc: Path, number: int, parent: int, environment: str) -> None:
    (proc / str(number)).mkdir()
    (proc / str(number) / "stat").write_text(f"{number} (a ) name) S {parent} 1 1")
    (proc / str(number) / "environ").write_bytes(environment.replace(" / ", "\0").encode())


def test_the_connection_is_found_above_sudo(tmp_path: Path) -> None:
    process(tmp_path, os.getpid(), 77, "HOME=/root")
    process(tmp_path, 77, 76, "LANG=C / SSH_CONNECTION=198.51.100.7 50000 203.0.113.11 2222")
    assert ssh_connection(tmp_path) == SshConnection("198.51.100.7", 2222)


def test_a_run_that_came_in_another_way_has_no_connection(tmp_path: Path) -> None:
    process(tmp_path, os.getpid(), 1, "HOME=/root")
    assert ssh_connection(tmp_path) is None
