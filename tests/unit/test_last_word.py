"""What a failed run ends with."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "callback_plugins" / "last_word.py"
SPEC = importlib.util.spec_from_file_location("last_word", PATH)
last_word = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(last_word)


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ({"msg": "web1 has no disk left\nDetails follow"}, "web1 has no disk left"),
        ({"msg": "hidden", "outcome": "The old release serves"}, "The old release serves"),
        ({"msg": "non-zero return code", "rc": 1, "stderr": "reading\nno such backup\n"}, "no such backup"),
        ({"msg": "non-zero return code", "rc": 1, "stderr": ""}, "non-zero return code"),
        ({"censored": "the output has been hidden"}, ""),
    ],
)
def test_the_line_says_what_went_wrong(result, line):
    assert last_word.line_of(result) == line
