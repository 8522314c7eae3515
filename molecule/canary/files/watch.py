"""Write down every command line and environment that this user can read, each once: an attacker's view of a server."""

import os
import sys
import time
from pathlib import Path

SECONDS = 0.05


def readable():
    """Return what can be read of every process, by where it stands."""
    # Every 50 ms: without an object for each name.
    for process in os.listdir("/proc"):  # noqa: PTH208
        for name in ("cmdline", "environ") if process.isdecimal() else ():
            try:
                yield f"/proc/{process}/{name}", Path(f"/proc/{process}/{name}").read_bytes()
            except OSError:
                continue


seen, parent = set(), os.getppid()
# Until nobody listens any more
while os.getppid() == parent:
    for place, content in readable():
        if content not in seen:
            seen.add(content)
            sys.stdout.buffer.write(place.encode() + b": " + content.replace(b"\0", b" ").replace(b"\n", b" ") + b"\n")
    sys.stdout.buffer.flush()
    time.sleep(SECONDS)
