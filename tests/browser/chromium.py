"""A headless Chromium, driven through its debugging pipe: Debian's package and the standard library suffice."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIME_LIMIT_SECONDS = 30
FLAGS = [
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-default-browser-check",
    "--window-size=1100,900",
    # The lab's certificate is signed by itself.
    "--ignore-certificate-errors",
    "--remote-debugging-pipe",
]


class Chromium:
    """One tab of a browser with a profile of its own. `errors` is what a developer would find red in its console."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._calls = 0
        self._unread = b""
        self._session: str | None = None

    def __enter__(self) -> Chromium:
        self._profile = tempfile.TemporaryDirectory(prefix="offramp-browser-", ignore_cleanup_errors=True)
        browser_reads, self._commands = os.pipe()
        self._messages, browser_writes = os.pipe()
        # The browser reads from 3 and writes to 4, so its ends move out of the way first.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (browser_reads, browser_writes)]

        def place_ends() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        # As root Chromium refuses to start with its sandbox.
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [self.find(), *FLAGS, *sandbox, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place_ends,
            pass_fds=(3, 4),
        )
        for end in (browser_reads, browser_writes, *ends):
            os.close(end)
        try:
            tab = next(t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
            self._session = self._call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._call(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._messages)
        self._profile.cleanup()

    @staticmethod
    def find() -> str:
        path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if path is None:
            raise FileNotFoundError("no Chromium on PATH: install Debian's package chromium")
        return path

    def visit(self, url: str) -> None:
        failure = self._call("Page.navigate", url=url).get("errorText")
        if failure:
            raise ConnectionError(f"{url}: {failure}")
        self._wait_for_load(url)

    def click(self, text: str) -> None:
        """Click the middle of the link that has this text, as a hand with a mouse would."""
        x, y = self.run(
            "(() => { const link = [...document.links].find(a => a.textContent.trim() === " + json.dumps(text) + ");"
            " link.scrollIntoView(); const r = link.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        before = self.run("location.href")
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self._wait(lambda: self.run("location.href") != before, f"a click on {text!r} led nowhere")
        self._wait_for_load(text)

    def text(self) -> str:
        """What a person can read on the page."""
        return self.run("document.body.innerText")

    def run(self, script: str) -> Any:
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _wait_for_load(self, what: str) -> None:
        loaded = "document.readyState === 'complete' && location.href !== 'about:blank'"
        self._wait(lambda: self.run(loaded), f"{what} did not load")

    @staticmethod
    def _wait(condition: Callable[[], bool], failure: str) -> None:
        deadline = time.monotonic() + TIME_LIMIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(failure)
            time.sleep(0.05)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        command = {"id": self._calls, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == self._calls:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            if not select.select([self._messages], [], [], TIME_LIMIT_SECONDS)[0]:
                raise TimeoutError("Chromium does not answer")
            chunk = os.read(self._messages, 1 << 16)
            if not chunk:
                raise ConnectionError("Chromium has ended")
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Runtime.exceptionThrown":
                self.errors.append(params["exceptionDetails"]["text"])
            case "Network.loadingFailed" if not params.get("canceled"):
                self.errors.append(params["errorText"])
