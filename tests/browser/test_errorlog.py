"""errorlog as its users see it: reported to by curl, looked at in a browser."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium

GROUPED_WITHIN_SECONDS = 30


@pytest.fixture
def browser() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


def curl(*words: str) -> Any:
    # curl knows that every name under .localhost is this machine; Python asks the resolver, which may not.
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--insecure", "--max-time", "10", *words]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert result.returncode == 0, f"{command}: {result.stdout.decode()}"
    return json.loads(result.stdout)


def report(url: str, **event: Any) -> str:
    """Post an event and wait until a worker has put it into a group."""
    event_id = curl(f"{url}/api/events/", "--json", json.dumps(event))["id"]
    deadline = time.monotonic() + GROUPED_WITHIN_SECONDS
    while curl(f"{url}/api/events/{event_id}/")["group"] is None:
        assert time.monotonic() < deadline, f"event {event_id} was in no group after {GROUPED_WITHIN_SECONDS} s"
        time.sleep(0.2)
    return event_id


def visit_until(browser: Chromium, url: str, text: str) -> None:
    """Load a page until it shows the text: it may be up to 5 s old."""
    deadline = time.monotonic() + 10
    browser.visit(url)
    while text not in browser.text():
        assert time.monotonic() < deadline, f"{url} does not show {text!r} but:\n{browser.text()}"
        time.sleep(0.5)
        browser.visit(url)


def test_an_event_that_was_posted_is_on_the_page_and_behind_its_link(
    url: str, browser: Chromium, screenshots: Path
) -> None:
    error = f"PaymentDeclined{uuid.uuid4().hex[:6]}"
    for order in (4711, 4712):
        event_id = report(
            url,
            type=error,
            message=f"card refused for order {order}",
            stacktrace='Traceback (most recent call last):\n  File "shop/checkout.py", line 87, in pay',
            extra={"order": order, "server": "shop-1"},
        )

    visit_until(browser, url, error)
    browser.screenshot(screenshots / "groups.png")
    browser.click(error)
    page = browser.text()
    browser.screenshot(screenshots / "group.png")

    assert event_id in page
    assert "card refused for order 4711" in page
    assert "card refused for order 4712" in page
    assert browser.errors == []


def test_the_page_wears_its_stylesheet_under_a_hashed_name(url: str, browser: Chromium) -> None:
    browser.visit(url)

    sheet = browser.run("document.querySelector('link[rel=stylesheet]').href")
    assert sheet.startswith(f"{url}/static/events/style.")
    assert sheet != f"{url}/static/events/style.css"
    assert browser.run("getComputedStyle(document.body).maxWidth") == "960px"
    assert browser.errors == []


def test_a_message_that_is_html_is_shown_as_text(url: str, browser: Chromium) -> None:
    error = f"Markup{uuid.uuid4().hex[:6]}"
    message = "<img src=nowhere onerror=\"document.title='run'\">"
    report(url, type=error, message=message)

    visit_until(browser, url, error)

    assert message in browser.text()
    assert browser.run("document.title") == "errorlog"
    assert browser.errors == []
