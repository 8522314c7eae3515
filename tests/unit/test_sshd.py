"""What the module sshd leaves of the groups for the Diffie-Hellman exchange, and how files come back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from library import sshd

MODULI = """# Time Type Tests Tries Size Generator Modulus
20240101000000 2 6 100 2047 2 ABCD
20240101000000 2 6 100 3071 2 ABCD
20240101000000 2 6 100 8191 5 ABCD
"""


def test_groups_that_are_too_short_go() -> None:
    kept = sshd.kept_groups(MODULI, 3072)
    assert [line.split()[4] for line in kept.splitlines()[1:]] == ["3071", "8191"]
    assert kept.startswith("# Time")


def test_files_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sshd, "AT_BOOT", tmp_path / "drop-in")
    changed, new, saved = tmp_path / "it's here", tmp_path / "new", tmp_path / "saved"
    changed.write_text("as it was")
    changed.chmod(0o640)
    lines = sshd.undoing([changed, new], saved)
    saved.mkdir()
    subprocess.run(["cp", "-a", changed, saved / "0"], check=True)
    changed.write_text("other")
    new.write_text("other")
    subprocess.run(["sh", "-euc", "\n".join(lines), "undo", "boot"], check=True)
    assert (changed.read_text(), changed.stat().st_mode & 0o777) == ("as it was", 0o640)
    assert not new.exists()
