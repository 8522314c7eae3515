"""An app that tells what it runs on, for tests."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path


def seen():
    """Return what this process was given; of the values a hash, since some are secret."""
    values = {os.fsdecode(name): os.environb[name].hex() for name in os.environb if name.startswith(b"VALUE")}
    return {
        "release": Path.cwd().name,
        "dyno": os.environ["DYNO"],
        "port": os.environ.get("PORT"),
        "values": hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest(),
        "user": os.getuid(),
        "prefix": sys.prefix,
    }


def application(environ, start_response):
    """Answer every path with what this process was given; /health fails when the config says so."""
    if environ["PATH_INFO"] == "/slow":
        time.sleep(5)
    failing = environ["PATH_INFO"] == "/health" and (os.environ.get("FAIL") or Path("broken").exists())
    start_response("500 Internal Server Error" if failing else "200 OK", [("Content-Type", "application/json")])
    return [json.dumps({**seen(), "host": environ["HTTP_HOST"]}).encode()]


def note(name):
    """Leave what this process was given where a test can read it."""
    with (Path.cwd().parents[1] / "media" / name).open("a") as file:
        file.write(json.dumps(seen()) + "\n")


if __name__ == "__main__":
    note(sys.argv[1])
    while sys.argv[1] == "worker":
        time.sleep(1)
