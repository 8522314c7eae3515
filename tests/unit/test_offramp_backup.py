"""The backup's program: what can be told of it without a bucket."""

from importlib import machinery, util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "roles/backup/files/offramp_backup.py"
SIZE = 16 * 2**20
LOADER = machinery.SourceFileLoader("offramp_backup", str(PATH))
program = util.module_from_spec(util.spec_from_loader("offramp_backup", LOADER))
LOADER.exec_module(program)


def segments(timeline, *numbers):
    return {f"{timeline:08X}{number // 256:08X}{number % 256:08X}" for number in numbers}


FIRST, SECOND = segments(1, 2, 3, 4), segments(2, 5, 6)
# The second timeline began in the middle of segment 5.
HISTORY = "1\t0/5800000\tno recovery target specified\n"


@pytest.mark.parametrize(
    ("there", "starts", "timeline", "history", "expected"),
    [
        (FIRST, segments(1, 2), 1, "", set()),
        (FIRST - segments(1, 3), segments(1, 2), 1, "", segments(1, 3)),
        (FIRST - segments(1, 2), segments(1, 2), 1, "", segments(1, 2)),
        # What is older than the oldest base backup is needed by no restore.
        (FIRST - segments(1, 3), segments(1, 4), 1, "", set()),
        (FIRST - segments(1, 3), set(), 1, "", set()),
        (FIRST | SECOND, segments(1, 2), 2, HISTORY, set()),
        # The primary died before it had archived the last one, or the new one has not archived its first.
        (FIRST - segments(1, 4) | SECOND, segments(1, 2), 2, HISTORY, segments(1, 4)),
        (FIRST | segments(2, 6), segments(1, 2), 2, HISTORY, segments(2, 5)),
        (FIRST | SECOND - segments(2, 6), segments(2, 5), 2, HISTORY, set()),
        # A timeline that was left by a restore to an earlier moment
        (FIRST | segments(1, 5, 7) | SECOND, segments(1, 2, 7), 2, HISTORY, set()),
        # Names go up to 255 in their last part.
        (segments(1, 254, 255, 257), segments(1, 254), 1, "", segments(1, 256)),
    ],
)
def test_a_hole_in_the_wal_is_named(there, starts, timeline, history, expected):
    assert set(program.missing(there, starts, timeline, history, SIZE)) == expected


def test_nothing_archived_yet_is_no_hole():
    assert program.missing(set(), set(), 1, "", SIZE) == []
    assert program.missing(FIRST, segments(1, 2), 2, HISTORY, SIZE) == []
