"""Measure script/up from a clone to the URL that it prints.

Clones what is committed into an empty folder and runs script/up there with empty package caches, then removes all that
was made. Names and ports of the lab are the same in every clone, so this machine has to be free of them: script/down.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.report import machine, write_section

ROOT = Path(__file__).resolve().parent.parent
STEP = re.compile(r"^\[ *(\d+) s\] (.+)$", re.MULTILINE)
TARGET_SECONDS = 360


def answer(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def refuse_remains() -> None:
    remains = {
        "servers": answer("podman", "ps", "--all", "--filter", "label=offramp.lab", "--format", "{{.Names}}"),
        "images": answer("podman", "images", "--filter", "label=offramp.recipe", "--format", "{{.Repository}}"),
    }
    for what, names in remains.items():
        if names.strip():
            sys.exit(
                f"There are {what} of Offramp on this machine, so it is not a fresh one: script/down removes them."
            )


def shown(command: list[str], clone: Path, environment: dict[str, str]) -> str:
    """Run a command in the clone, pass its output on, and return it."""
    process = subprocess.Popen(
        command, cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = []
    for line in process.stdout or []:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait():
        sys.exit(f"{' '.join(command)} failed")
    return "".join(lines)


def steps(output: str, wall: float) -> str:
    """Return a table of the steps that script/up headed, with the seconds that each took."""
    found = [(int(begin), name) for begin, name in STEP.findall(output)]
    ends = [*[begin for begin, _name in found[1:]], round(wall)]
    rows = [f"| {name} | {end - begin} s |" for (begin, name), end in zip(found, ends, strict=True)]
    return "\n".join(["| step | |", "|---|---|", *rows])


def main() -> None:
    argparse.ArgumentParser(prog="script/bench up", description=__doc__.splitlines()[0]).parse_args()
    refuse_remains()
    if answer("git", "status", "--porcelain", "--untracked-files=no").strip():
        print("There are changes that are not committed; the clone has none of them.", file=sys.stderr)
    heading = machine()
    with tempfile.TemporaryDirectory(prefix="offramp-bench-up-") as folder:
        clone = Path(folder, "offramp")
        # The environment of this repository must not lend the clone a program or a cache.
        path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if not part.startswith(str(ROOT)))
        environment = {name: value for name, value in os.environ.items() if not value.startswith(f"{ROOT}/")}
        environment |= {"PATH": path, "PIP_CACHE_DIR": f"{folder}/pip", "UV_CACHE_DIR": f"{folder}/uv"}
        start = time.monotonic()
        answer("git", "clone", "--quiet", str(ROOT), str(clone))
        try:
            output = shown(["script/up"], clone, environment)
            wall = time.monotonic() - start
        finally:
            shown(["script/down"], clone, environment)
    text = (
        f"{heading}\n\n**{wall:.0f} s** from `git clone` to the URL; target: {TARGET_SECONDS} s at most.\n\n"
        f"{steps(output, wall)}"
    )
    print(f"\n{text}\n")
    write_section("up", text)


if __name__ == "__main__":
    main()
