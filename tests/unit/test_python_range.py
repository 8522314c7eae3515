"""Poetry's way of writing a range means what the common one does."""

import pytest

from module_utils.python_range import common_range


@pytest.mark.parametrize(
    ("text", "common"),
    [
        ("^3.11", ">=3.11,<4"),
        ("^3.11.2", ">=3.11.2,<4"),
        ("~3.11", "~=3.11.0"),
        ("~3.11.2", "~=3.11.2"),
        ("3.11.*", "==3.11.*"),
        (">= 3.11, < 4", ">=3.11,<4"),
        (">=3.11 <3.14", ">=3.11,<3.14"),
        ("~3.9 || ^3.11", ">=3.11,<4"),
        ("*", ""),
        ("", ""),
    ],
)
def test_a_range_is_written_in_the_common_way(text, common):
    assert common_range(text) == common
