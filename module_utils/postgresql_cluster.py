"""Debian's cluster `main` of one PostgreSQL version, as its files and programs show it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/")


class Cluster:
    """Where a cluster's programs, configuration and data are, and what its files say."""

    def __init__(self, version: int, root: Path = ROOT) -> None:
        self.version = version
        self.programs = root / f"usr/lib/postgresql/{version}/bin"
        self.configuration = root / f"etc/postgresql/{version}/main"
        self.data = self._data(root)

    def _data(self, root: Path) -> Path:
        file = self.configuration / "postgresql.conf"
        text = file.read_text(errors="replace") if file.exists() else ""
        named = re.findall(r"^\s*data_directory\s*=?\s*'([^']+)'", text, re.MULTILINE)
        return Path(named[-1]) if named else root / f"var/lib/postgresql/{self.version}/main"

    @property
    def is_installed(self) -> bool:
        return (self.programs / "postgres").exists() and (self.configuration / "postgresql.conf").exists()

    @property
    def has_databases(self) -> bool:
        """Whether there is a database of anybody's, beside those that every new cluster has."""
        return any(
            path.name.isdigit() and int(path.name) >= 16384 for path in (self.data / "base").glob("*") if path.is_dir()
        )

    @property
    def is_recovering(self) -> bool:
        """Whether the server follows another or restores a backup, by what it will read when it starts."""
        return any((self.data / name).exists() for name in ("standby.signal", "recovery.signal", "recovery.conf"))

    @property
    def postmaster(self) -> int | None:
        """Return the number of the server's first process, where it runs."""
        try:
            number = int((self.data / "postmaster.pid").read_text().split()[0])
        except (FileNotFoundError, ValueError, IndexError):
            return None
        return number if Path(f"/proc/{number}/status").exists() else None
