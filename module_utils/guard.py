"""A change that takes itself back unless it is kept: shared by the modules that could lock the operator out.

Before the change, C(arm) leaves a script on the host that undoes it, and a timer that runs the script. Whatever becomes
of the controller, of the network, or of the change itself, the host is then as it was. Only C(keep) stops the timer.

A run has to do with its own change alone. Where the controller's main process is killed, the one that waits for the
proof lives on, and gives up when another run may long have changed something else.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.placing import place_file

ROOT = Path("/var/lib/offramp/undo")


def script_text(directory: Path, lines: list[str]) -> str:
    """Return what undoes a change, once: whoever comes second finds the script gone.

    Called with C(boot), by the start of a service, it waits for nobody: who holds the lock may wait for that start.
    Called with C(locked), by who holds the lock, it does not wait either.
    """
    return "\n".join(
        [
            "#!/bin/sh",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            f"exec 9>{directory}.lock",
            'case "$1" in locked) ;; boot) flock -n 9 || exit 0 ;; *) flock 9 ;; esac',
            f"[ -e {directory}/undo ] || exit 0",
            *lines,
            f"rm -rf {directory}",
            "",
        ]
    )


class Guard:
    """What undoes one kind of change on this host, for the run of this name."""

    def __init__(self, module: Any, name: str, run: str, root: Path = ROOT):
        self.module = module
        self.run = run
        self.directory = root / name
        self.script = self.directory / "undo"
        self.owner = self.directory / "run"
        self.unit = f"offramp-undo-{name}"

    @property
    def pending(self) -> bool:
        """Whether a change waits to be kept or undone, of this run or of one that was killed."""
        return self.script.exists()

    @property
    def ours(self) -> bool:
        """Whether the change that waits is this run's. Whoever acts on it looks while he holds the lock."""
        return self.pending and self.owner.read_text() == self.run

    @staticmethod
    def gone(what: str, seconds: int) -> str:
        """Say why what was changed is not there to be kept."""
        return f"{what} went back: {seconds} s had passed, or another run began. To mend it, run it again, alone."

    def arm(self, lines: list[str], seconds: int) -> None:
        """Have the lines run after so many seconds, or after the lock that the caller holds until he has written."""
        self.stop_timer()
        place_file(self.owner, self.run.encode(), 0o600)
        place_file(self.script, script_text(self.directory, lines).encode(), 0o700)
        # Transient, so that nothing of it is left once it has run.
        self.call(
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit={self.unit}",
            f"--on-active={seconds}",
            "--timer-property=AccuracySec=100ms",
            "/bin/sh",
            str(self.script),
        )

    def keep(self) -> bool:
        """Forget how to undo it; return false where that has been done already."""
        with self.lock():
            if not self.ours:
                return False
            self.stop_timer()
            shutil.rmtree(self.directory)
        return True

    def undo(self) -> None:
        """Undo it now, or see the end of it where the timer was sooner."""
        with self.lock():
            if self.ours:
                self._undo()

    def undo_left(self) -> None:
        """Undo what another run left that was killed before it had proved it."""
        if self.pending:
            with self.lock():
                if self.pending:
                    self._undo()

    def _undo(self) -> None:
        self.stop_timer()
        self.call("/bin/sh", str(self.script), "locked")

    def stop_timer(self) -> None:
        self.module.run_command(["systemctl", "stop", f"{self.unit}.timer"])

    def call(self, *command: str) -> None:
        code, out, error = self.module.run_command(list(command))
        if code != 0:
            self.module.fail_json(msg=f"{' '.join(command)}: {(error or out).strip()}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        self.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.directory.with_name(f"{self.directory.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
