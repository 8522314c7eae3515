"""What the tests of every scenario can use."""

import os
import time
from pathlib import Path

import pytest

# The drills alone ("only"), or all but the drills (nothing), or "all".
DRILLS = os.environ.get("DRILLS", "")


def pytest_configure(config):
    """Let a test call ansible-playbook as a person does, from the repository's root; molecule stands elsewhere."""
    config.addinivalue_line("markers", "drill: a long proof, which script/test drills runs")
    config.addinivalue_line("markers", "part_of_a_drill: a proof that a drill of the scenario has in it")
    os.chdir(Path(__file__).resolve().parent.parent)


def pytest_collection_modifyitems(config, items):
    """A scenario's own tests come first: the shared ones end by killing every service. Drills may leave it anyhow."""

    def is_drill(item):
        return bool(item.get_closest_marker("drill"))

    def is_wanted(item):
        if DRILLS == "all":
            return not item.get_closest_marker("part_of_a_drill")
        return is_drill(item) == bool(DRILLS)

    wanted = [item for item in items if is_wanted(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = sorted(wanted, key=lambda item: (is_drill(item), "shared" in item.path.parts))


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
