"""Have a server keep the sources that are sent to it, so that Python compiles each once, and not in every task.

callback_plugins/module_cache.py puts this into ansible/__init__.py of each package. What is imported next comes from
the directory below, and not from the package: the same bytes, beside which Python keeps what it compiled. It is
root's alone. For others, and where it cannot be written, the package serves as ever.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
import zipfile
import zlib
from pathlib import Path

WEEK_SECONDS = 7 * 24 * 3600
PREFIX = "offramp-sources-"


def is_the_same(path: Path, info: zipfile.ZipInfo) -> bool:
    try:
        return zlib.crc32(path.read_bytes()) == info.CRC
    except FileNotFoundError:
        return False


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def sources(package: str, key: str, home: str) -> Path:
    """Return the directory that has all sources of a package, whose key they have; OSError where there can be none.

    Those of other keys that no run has used for a week are removed.
    """
    place = Path(home, ".ansible", f"{PREFIX}{key}")
    if not place.exists():
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for other in place.parent.glob(f"{PREFIX}*"):
            if other.lstat().st_mtime < time.time() - WEEK_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(f"{place} is not this user's alone")
    with zipfile.ZipFile(package) as archive:
        for info in archive.infolist():
            path = place / info.filename
            if info.filename.startswith("ansible/") and not is_the_same(path, info):
                write(path, archive.read(info))
    os.utime(place)
    return place
