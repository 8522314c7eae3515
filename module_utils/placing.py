"""Put files in place atomically; shared by the modules that write files."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def place_file(path: Path, content: bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Write a file beside its place, with its final owner and mode, and rename it over what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def place_link(path: Path, target: str) -> None:
    """Make a symbolic link, over the link or file that is there, without a moment in which there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.symlink_to(target)
    temporary.rename(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")
