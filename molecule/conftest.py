"""What the tests of every scenario can use."""

import os
import time
from pathlib import Path

import pytest


def pytest_configure():
    """Let a test call ansible-playbook as a person does, from the repository's root; molecule stands elsewhere."""
    os.chdir(Path(__file__).resolve().parent.parent)


def pytest_collection_modifyitems(items):
    """A scenario's own tests come first: the shared ones end by killing every service."""
    items.sort(key=lambda item: "shared" in item.path.parts)


@pytest.fixture
def eventually():
    """Call a check until it holds, and fail with what it last said."""

    def wait(check, seconds=15):
        deadline = time.monotonic() + seconds
        while not (result := check()) and time.monotonic() < deadline:
            time.sleep(0.25)
        if not result:
            pytest.fail(f"not within {seconds} s")
        return result

    return wait
