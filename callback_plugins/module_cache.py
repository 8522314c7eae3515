"""Keep from run to run what Ansible makes of each module before it sends it to a server."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.metadata
import io
import os
import shutil
import stat
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ansible import constants
from ansible.executor import module_common
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: module_cache
type: aggregate
short_description: Keeps from run to run what is sent to the servers
description:
  - Ansible packs each module with all that it imports, and throws the packages away when a run ends. To make them anew
    takes a fifth of a second each, and a run of this site uses two dozen.
  - They are kept below O(local_tmp) of Ansible's configuration, for this user alone, under the hash of every file that
    they are made of. The first are made by script/setup (script/pack_modules.py). No argument of a task is in them.
    What no run has used for a week is removed.
  - A server compiles all that it is sent, in each task anew, which takes it a fifth of a second. Where it is root who
    does so, it keeps the sources in C(/root/.ansible), and Python keeps what it compiled beside them. Each package
    brings what does that, C(module_utils/kept_sources.py).
  - An Ansible that keeps them elsewhere makes them anew, as it does by itself.
"""

# Where ansible.executor.module_common looks within a run's own directory.
NAME = "ansiballz_cache"
PREFIX = "offramp-modules-"
WEEK_SECONDS = 7 * 24 * 3600
# What a server runs first of each package, and what follows there.
FIRST = "ansible/__init__.py"
BY_ROOT = """
if os.geteuid() == 0:
    try:
        __path__.insert(0, str(sources(os.path.dirname(__path__[0]), "{key}", os.path.expanduser("~root")) / "ansible"))
    except OSError:
        pass
"""


def sources() -> Iterator[Path]:
    """Every file of which a module may be made, but those of installed packages, whose versions say what they are."""
    yield Path(__file__)
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


def with_keeping(package: bytes, key: str) -> bytes:
    """Return a package, a zip file, which has a server keep its sources."""
    code = Path(__file__).parents[1].joinpath("module_utils/kept_sources.py").read_bytes()
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as old, zipfile.ZipFile(made, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            # The first statement of a file is where it may look into the future.
            new.writestr(info, code + data + BY_ROOT.format(key=key).encode() if info.filename == FIRST else data)
    return made.getvalue()


def have_servers_keep(key: str) -> None:
    """Have every package that Ansible writes from now on keep its sources on the server."""
    dump = module_common._CachedModule.dump

    def dump_with_keeping(package: module_common._CachedModule, path: str) -> None:
        changed = with_keeping(base64.b64decode(package.zip_data), key)
        dump(dataclasses.replace(package, zip_data=base64.b64encode(changed)), path)

    module_common._CachedModule.dump = dump_with_keeping


def is_ours_alone(directory: Path) -> bool:
    status = directory.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def keep(run: Path, place: Path) -> None:
    """Have a run find the packages of the runs before it."""
    made_of = key()
    kept = place / f"{PREFIX}{made_of}"
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_ours_alone(kept):
        return
    os.utime(kept)
    have_servers_keep(made_of)
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
        except (OSError, AttributeError) as problem:
            # Slower, and nothing worse.
            self._display.v(f"the modules are made anew: {problem}")
