"""Keep from run to run what Ansible makes of each module before it sends it to a server."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ansible import constants
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: module_cache
type: aggregate
short_description: Keeps from run to run what is sent to the servers
description:
  - Ansible packs each module with all that it imports, and throws the packages away when a run ends. To make them anew
    takes a fifth of a second each, and a run of this site uses two dozen.
  - They are kept below O(local_tmp) of Ansible's configuration, for this user alone, under the hash of every file that
    they are made of. The first are made by script/setup (script/pack_modules.py). No argument of a task is in them. What no run has used for a week is removed.
  - An Ansible that keeps them elsewhere makes them anew, as it does by itself.
"""

# Where ansible.executor.module_common looks within a run's own directory.
NAME = "ansiballz_cache"
PREFIX = "offramp-modules-"
WEEK_SECONDS = 7 * 24 * 3600


def sources() -> Iterator[Path]:
    """Every file of which a module may be made, but those of installed packages, whose versions say what they are."""
    for directory in [*constants.DEFAULT_MODULE_PATH, *constants.DEFAULT_MODULE_UTILS_PATH]:
        yield from sorted(Path(directory).rglob("*.py"))
    for directory in constants.COLLECTIONS_PATHS:
        yield from sorted(Path(directory).glob("ansible_collections/*/*/*.json"))


def versions() -> Iterator[str]:
    yield sys.version
    yield sys.prefix
    for package in ("ansible", "ansible-core"):
        try:
            yield importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield ""


def key() -> str:
    """Return a hash of all that the packages are made of; they name the place of each file, too."""
    found = hashlib.sha256("\n".join(versions()).encode())
    for path in sources():
        found.update(f"\n{path}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def is_ours_alone(directory: Path) -> bool:
    status = directory.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def keep(run: Path, place: Path) -> None:
    """Have a run find the packages of the runs before it."""
    kept = place / f"{PREFIX}{key()}"
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_ours_alone(kept):
        return
    os.utime(kept)
    (run / NAME).symlink_to(kept)
    for other in place.glob(f"{PREFIX}*"):
        if other.lstat().st_mtime < time.time() - WEEK_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


class CallbackModule(CallbackBase):
    """Give the run the packages before its first task."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "module_cache"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        run = Path(constants.DEFAULT_LOCAL_TMP)
        try:
            keep(run, run.parent)
        except OSError as problem:
            # Slower, and nothing worse.
            self._display.v(f"the modules are made anew: {problem}")
