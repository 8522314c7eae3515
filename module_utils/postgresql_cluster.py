"""Debian's cluster `main` of one PostgreSQL version, as its files and programs show it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/")
# A host has the one of its Debian release, and two from an upgrade on until the older one is removed.
MAJORS = (18, 17, 16, 15)
OF_RELEASE = {"12": 15, "13": 17}


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

    @classmethod
    def found(cls, root: Path = ROOT) -> Cluster | None:
        """Return the host's cluster, of two the one that serves: ours that starts by itself, else the one with data."""
        installed = (cls(version, root) for version in MAJORS)
        clusters = [cluster for cluster in installed if cluster.is_installed and cluster.is_initialised]
        return max(clusters, key=cls._rank, default=None)

    def _rank(self) -> tuple[bool, bool, bool, int]:
        serves = self.has_our_settings and self.starts_by_itself
        return serves, self.has_databases or self.is_standby, self.postmaster is not None, self.version

    @property
    def has_our_settings(self) -> bool:
        return (self.configuration / "conf.d/offramp.conf").exists()

    @property
    def starts_by_itself(self) -> bool:
        """Whether the host starts it, by the file in which Debian keeps that."""
        file = self.configuration / "start.conf"
        text = file.read_text(errors="replace") if file.exists() else ""
        return (re.findall(r"^\s*(\w+)", re.sub(r"#.*", "", text), re.MULTILINE) or ["auto"])[0] == "auto"

    @property
    def is_installed(self) -> bool:
        return (self.programs / "postgres").exists() and (self.configuration / "postgresql.conf").exists()

    @property
    def is_initialised(self) -> bool:
        return (self.data / "PG_VERSION").exists()

    @property
    def has_databases(self) -> bool:
        """Whether there is a database of anybody's, beside those that every new cluster has."""
        return any(
            path.name.isdigit() and int(path.name) >= 16384 for path in (self.data / "base").glob("*") if path.is_dir()
        )

    @property
    def is_standby(self) -> bool:
        """Whether the server follows another, by the file that makes it do so when it starts."""
        return self.standby_signal.exists()

    @property
    def standby_signal(self) -> Path:
        return self.data / "standby.signal"

    @property
    def unit(self) -> str:
        return f"postgresql@{self.version}-main.service"

    @property
    def timeline(self) -> int:
        """Return the newest timeline of the cluster's own; the control file names it only after a checkpoint."""
        files = (self.data / "pg_wal").glob("[0-9A-F]*.history")
        return max([1, *(int(path.stem, 16) for path in files if re.fullmatch(r"[0-9A-F]{8}", path.stem))])

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
        # After a crash of the host another process may have the number.
        name = Path(f"/proc/{number}/comm")
        try:
            return number if name.read_text().strip() == "postgres" else None
        except OSError:
            return None
