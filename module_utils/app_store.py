"""An app's releases on one host, and the lock of who deploys it; shared by the modules that deploy."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible.module_utils.placing import place_file, place_link

RUN = Path("/run/offramp/apps")
# A lock outlives the last sign of its holder by this much: the time that the other hosts may take between two steps.
LEASE_SECONDS = 45
RENEW_SECONDS = 10
# What a release can be. Those that served and were not left for being bad can be gone back to.
BUILDING, FAILED, SERVING, SERVED, ROLLED_BACK = "building", "failed", "serving", "ok", "rolled back"

# A line of an environment file, in which a quote within a value is written '\''
VALUE = re.compile(r"^[A-Za-z_]\w*='((?:[^']|'\\'')*)'$", re.MULTILINE)
# A shorter one would be found within other words.
SHORTEST_SECRET, SHORTEST_PASSWORD = 12, 4


class HeldError(Exception):
    """Somebody else deploys, in words for a person."""


@contextlib.contextmanager
def flocked(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def secrets_in(env: str) -> set[str]:
    """Return what may be secret in an environment file: long values with letters and digits, passwords in URLs."""
    found = set()
    for match in VALUE.finditer(env):
        value = match[1].replace("'\\''", "'")
        with contextlib.suppress(ValueError):
            password = urlsplit(value).password or ""
            found |= {text for text in (password, unquote(password)) if len(text) >= SHORTEST_PASSWORD}
        if len(value) >= SHORTEST_SECRET and re.search(r"\d", value) and re.search(r"[A-Za-z]", value):
            found.add(value)
    return found


class Lock:
    """Who deploys an app on this host. It is held while a step of the deploy runs here, and for a while after each."""

    def __init__(self, app: str, token: str):
        self.app, self.token = app, token
        self.path = RUN / f".{app}.lock"

    def take(self, holder: dict[str, str], broken: bool = False, wait_seconds: float = 0) -> None:
        """Take it, once it is free if that is soon, or say who has it."""
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                return self._take(holder, broken)
            except HeldError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def _take(self, holder: dict[str, str], broken: bool) -> None:
        with self._guard():
            other = self._holder()
            if other and not broken:
                raise HeldError(
                    f"{self.app} is being deployed by {other['who']} since {other['since']} ({other['what']}). Wait "
                    f"until that has ended. If it was cut off, its lock frees itself {LEASE_SECONDS} s after its last "
                    "step; or break it now with  -e break_lock=true"
                )
            self._write({**holder, "token": self.token})

    def release(self) -> None:
        with self._guard():
            if self._mine():
                self.path.unlink()

    def extend(self, seconds: float) -> None:
        """Keep it without a step that runs here, as while an archive is on its way."""
        with self._guard():
            if self._mine():
                self._write(self._read(), seconds)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep it for as long as a step takes."""
        deadline = time.monotonic() + RENEW_SECONDS
        while True:
            with self._guard():
                other, mine = self._holder(), self._read()
                if not other and mine.get("token") == self.token:
                    self._write(mine)
                    break
            if time.monotonic() > deadline:
                who = f"to {other['who']}, since {other['since']}" if other else "while it was not in use"
                raise HeldError(f"the lock on deploys of {self.app} was lost {who}")
            time.sleep(0.2)
        done = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(done,), daemon=True)
        renewing.start()
        try:
            # Of a run that was killed, a step may still go on.
            with self._step():
                yield
        finally:
            done.set()
            renewing.join()
            self.extend(LEASE_SECONDS)

    def _renew(self, done: threading.Event) -> None:
        while not done.wait(RENEW_SECONDS):
            self.extend(LEASE_SECONDS)

    def _guard(self) -> contextlib.AbstractContextManager[None]:
        return flocked(RUN / f".{self.app}.guard")

    def _step(self) -> contextlib.AbstractContextManager[None]:
        return flocked(RUN / f".{self.app}.step")

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    @property
    def holder(self) -> dict[str, Any]:
        """Who has it, where it is not this one."""
        return self._holder() or {}

    def _holder(self) -> dict[str, Any] | None:
        """Return who else has it."""
        found = self._read()
        return found if found and found["token"] != self.token and found["until"] > time.time() else None

    def _mine(self) -> bool:
        return self._read().get("token") == self.token

    def _write(self, content: dict[str, Any], seconds: float | None = None) -> None:
        text = json.dumps({**content, "until": time.time() + (LEASE_SECONDS if seconds is None else seconds)})
        place_file(self.path, text.encode(), 0o600, os.geteuid(), os.getegid())


class Releases:
    """The numbered releases below an app's home: each has its config and points at a build, which several can share."""

    def __init__(self, home: Path):
        self.home = home

    def directory(self, number: int) -> Path:
        return self.home / "releases" / f"v{number}"

    def secrets(self, *numbers: int | None) -> set[str]:
        """Return what is not to be told of what a program of these releases said."""
        paths = [self.directory(number) / "env" for number in numbers if number is not None]
        return {secret for path in paths if path.exists() for secret in secrets_in(path.read_text(errors="replace"))}

    def build_directory(self, build: str) -> Path:
        return self.home / "builds" / build

    def numbers(self) -> list[int]:
        found = (re.fullmatch(r"v(\d+)", path.name) for path in (self.home / "releases").glob("v*"))
        return sorted(int(match[1]) for match in found if match)

    def read(self, number: int) -> dict[str, Any]:
        try:
            return json.loads((self.directory(number) / "release.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def all(self) -> list[dict[str, Any]]:
        """Return what is known of each release that is whole, the oldest first."""
        return [release for number in self.numbers() if (release := self.read(number))]

    def change(self, number: int, /, **what: Any) -> bool:
        before = self.read(number)
        after = {**before, **what}
        if before == after:
            return False
        text = json.dumps(after, indent=1, sort_keys=True)
        place_file(self.directory(number) / "release.json", text.encode(), 0o644, os.geteuid(), os.getegid())
        return True

    def at(self, link: str) -> int | None:
        """Return the number of the release that a link points at."""
        match = re.fullmatch(r"v(\d+)", (self.home / link).resolve().name) if (self.home / link).is_dir() else None
        return int(match[1]) if match else None

    def point(self, link: str, number: int) -> None:
        place_link(self.home / link, f"releases/v{number}")

    def superfluous(self, keep: int) -> list[int]:
        """Return the releases that are not among the newest, nor serve, nor did so before."""
        numbers = self.numbers()
        serving = self.at(".served")
        needed = {*numbers[-keep:], serving, self.at("current")}
        before = [release["number"] for release in self.all() if release["state"] == SERVED]
        needed |= {max((number for number in before if number != serving), default=serving)}
        return [number for number in numbers if number not in needed]

    def prune(self, keep: int) -> list[str]:
        """Remove what is superfluous, and the builds that no release needs any more."""
        gone = [self.directory(number) for number in self.superfluous(keep)]
        for path in gone:
            shutil.rmtree(path)
        used = {release["build"] for release in self.all()}
        builds = [path for path in (self.home / "builds").glob("*") if path.name.removesuffix(".json") not in used]
        for path in builds:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return [path.name for path in [*gone, *builds]]
