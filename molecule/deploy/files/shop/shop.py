"""An app whose answers tell what they come from, and are long enough to be cut short."""

import hashlib
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path

VERSION = Path("version.txt").read_text().strip()
# Beside the builds, as on a host.
MEDIA = Path.cwd().parents[1] / "media"
PADDING = "x" * 50_000
LEAKED = []


def seen():
    where = {"build": Path.cwd().name, "dyno": os.environ["DYNO"], "python": platform.python_version()}
    return {"version": VERSION, "color": os.environ.get("COLOR"), **where}


def is_sick():
    return VERSION == "sick" or os.environ.get("SICK") or (VERSION == "picky" and (MEDIA / "sick-here").exists())


def application(environ, start_response):
    """Answer / with much text, /echo with a hash of what was sent, /slow late; /leak and /spin never give back."""
    path, status = environ["PATH_INFO"], "200 OK"
    body = {**seen(), "scheme": environ.get("HTTP_X_FORWARDED_PROTO"), "host": environ["HTTP_HOST"]}
    if path == "/health" and is_sick():
        status = "500 Internal Server Error"
    if path == "/slow":
        time.sleep(float(environ["QUERY_STRING"]))
    if path == "/leak":
        LEAKED.append(b"x" * int(environ["QUERY_STRING"]) * 2**20)
    if path == "/spin":
        until = time.monotonic() + float(environ["QUERY_STRING"])
        while time.monotonic() < until:
            pass
    if path == "/echo":
        body["sha256"] = hashlib.sha256(environ["wsgi.input"].read()).hexdigest()
    text = json.dumps({**body, "padding": PADDING if path == "/" else ""}).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]


def work():
    """Do one job after the other, each a file with the seconds that it takes, and end between two."""
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    while not stopping:
        for job in sorted(MEDIA.glob("*.job"))[:1]:
            until = time.monotonic() + float(job.read_text())
            job.rename(job.with_suffix(".taken"))
            while time.monotonic() < until:
                time.sleep(0.1)
            job.with_suffix(".taken").rename(job.with_suffix(".done"))
        time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work()
    else:
        with (MEDIA / "released").open("a") as log:
            log.write(f"{VERSION}\n")
        if VERSION == "unmigratable":
            sys.exit("relation orders is not what it was")
