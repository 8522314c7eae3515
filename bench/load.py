#!/usr/bin/env python3
"""Keep a site under a constant load, and count every answer.

bench/load.py --connect 192.0.2.11:443,192.0.2.12:443 --host shop.example [--rate 100] [--seconds 60] [--slow 5]

Clients that keep their connections, clients that do not, and clients that post, together at the given rate, each
against each server in turn. With --slow, one more for each server asks for what takes that many seconds, and is idle
for as many in between; its times are not among the quantiles. It ends at SIGTERM, or when the seconds are over, and
prints one line of JSON: answers counted, those that failed (another status, a reset, no answer), those cut short, the
slowest, and the first few failures. Its exit code is 1 when there was a failure.

A server may close a connection that has no request under way, as HTTP allows; a client then takes a new one. What was
sent and not answered is a failure, whatever the method.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import ssl
import sys
import time
from dataclasses import dataclass, field

TIMEOUT_SECONDS = 30


class LoadError(Exception):
    """An answer that was none."""


@dataclass
class Counts:
    """What came of the requests."""

    answers: int = 0
    slow: int = 0
    failed: int = 0
    truncated: int = 0
    reconnected: int = 0
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)

    def fail(self, kind: str, problem: str) -> None:
        if kind == "truncated":
            self.truncated += 1
        else:
            self.failed += 1
        if len(self.failures) < 10:
            self.failures.append(f"{time.strftime('%H:%M:%S')} {problem}")

    def report(self) -> dict[str, object]:
        ordered = sorted(self.seconds) or [0.0]
        keys = "answers", "slow", "failed", "truncated", "reconnected", "versions"
        shown = {key: getattr(self, key) for key in keys}
        quantiles = {"p50": ordered[len(ordered) // 2], "p99": ordered[len(ordered) * 99 // 100], "max": ordered[-1]}
        return {**shown, **{name: round(value, 3) for name, value in quantiles.items()}, "failures": self.failures}


class Client:
    """One visitor of one server."""

    def __init__(self, address: str, host: str, counts: Counts, keep: bool, post: bool, slow: float = 0):
        self.server, _, port = address.rpartition(":")
        self.port, self.host, self.counts, self.keep, self.post = int(port), host, counts, keep, post
        self.path = f"/slow?{slow}" if slow else "/echo" if post else "/"
        self.slow = slow
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def visit(self) -> None:
        begin = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self.ask()
            self.counts.answers += 1
            if self.slow:
                self.counts.slow += 1
            else:
                self.counts.seconds.append(time.monotonic() - begin)
        except (LoadError, OSError, TimeoutError, asyncio.IncompleteReadError) as problem:
            truncated = isinstance(problem, asyncio.IncompleteReadError) and bool(problem.partial)
            what = f"{'POST' if self.post else 'GET'} {self.path} {self.server}, kept {self.keep}: {problem!r}"
            self.counts.fail("truncated" if truncated else "failed", what)
            await self.close()

    async def ask(self) -> None:
        if self.reader is not None and self.reader.at_eof():
            self.counts.reconnected += 1
            await self.close()
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(
                self.server, self.port, ssl=self.tls, server_hostname=self.host
            )
        body = os.urandom(20_000) if self.post else b""
        lines = [
            f"{'POST' if self.post else 'GET'} {self.path} HTTP/1.1",
            f"Host: {self.host}",
            f"Content-Length: {len(body)}",
            f"Connection: {'keep-alive' if self.keep else 'close'}",
        ]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        text = await self.reader.readexactly(int(headers["content-length"]))
        if not self.keep or headers.get("connection") == "close":
            await self.close()
        if head[0].split()[1] != "200":
            raise LoadError(head[0])
        answer = json.loads(text)
        if self.post and answer["sha256"] != hashlib.sha256(body).hexdigest():
            raise LoadError("it did not get what was sent")
        self.counts.versions[answer["version"]] = self.counts.versions.get(answer["version"], 0) + 1

    async def close(self) -> None:
        writer, self.reader, self.writer = self.writer, None, None
        if writer is not None:
            writer.close()


async def load(addresses: list[str], host: str, rate: float, seconds: float, slow: float) -> Counts:
    counts, stop = Counts(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    kinds = [(True, False), (True, True), (False, False), (False, True)]
    clients = [Client(address, host, counts, *kind) for address in addresses for kind in kinds for _ in range(2)]
    end = time.monotonic() + seconds

    async def drive(client: Client, delay: float, period: float) -> None:
        due = time.monotonic() + delay
        while not stop.is_set() and time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(due - time.monotonic(), 0)):
                    await stop.wait()
            if not stop.is_set():
                due += period
                await client.visit()

    drives = [drive(client, index / rate, len(clients) / rate) for index, client in enumerate(clients)]
    if slow:
        late = [Client(address, host, counts, keep=True, post=False, slow=slow) for address in addresses]
        drives += [drive(client, 0, 2 * slow) for client in late]
    await asyncio.gather(*drives)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connect", required=True, help="servers as address:port, with commas between")
    parser.add_argument("--host", required=True, help="domain of the app")
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--slow", type=float, default=0, help="seconds that some requests take")
    words = parser.parse_args()
    counts = asyncio.run(load(words.connect.split(","), words.host, words.rate, words.seconds, words.slow))
    print(json.dumps(counts.report()), flush=True)
    sys.exit(bool(counts.failed or counts.truncated))


if __name__ == "__main__":
    main()
