"""The filter yaml_put sets one value, and leaves every other line of the file as it was."""

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_plugins.yaml_put import AnyTag, yaml_put

same = settings(deadline=None, derandomize=True, database=None)

CASES = [
    ("nothing yet", "", ["a"], "x", "a: x\n"),
    ("comments alone", "# head\n", ["a", "b"], "x", "# head\na:\n  b: x\n"),
    ("a new key at the end", "a: 1\n", ["b"], "x", "a: 1\nb: x\n"),
    ("no line's end", "a: 1", ["b"], "x", "a: 1\nb: x\n"),
    ("a value in place of another", "a: x\nb: y\n", ["a"], "z", "a: z\nb: y\n"),
    ("the remark behind it", "a: x  # why\n", ["a"], "z", "a: z  # why\n"),
    ("the same value", "a: 'x'   # why\n", ["a"], "x", "a: 'x'   # why\n"),
    ("text that looks like a number", "a: x\n", ["a"], "0", 'a: "0"\n'),
    ("a list", "", ["a"], ["b.c", "d"], "a: [b.c, d]\n"),
    ("counts", "", ["a"], {"web": 2}, "a: {web: 2}\n"),
    ("names with text", "", ["a"], {"X": "1"}, 'a:\n  X: "1"\n'),
    ("an empty mapping", "a: {}\nb: 1\n", ["a", "x"], "y", "a:\n  x: y\nb: 1\n"),
    ("a mapping without a value", "a:\nb: 1\n", ["a", "x"], "y", "a:\n  x: y\nb: 1\n"),
    ("a mapping between braces", "a: {b: c}  # why\n", ["a", "x"], "y", "a: {b: c, x: y}  # why\n"),
    ("one value between braces", "a: {b: c, d: e}\n", ["a", "b"], "y", "a: {b: y, d: e}\n"),
    ("behind a block of text", "a: |\n  x\n  y\n\n# tail\n", ["b"], "z", "a: |\n  x\n  y\nb: z\n\n# tail\n"),
    ("behind folded text", "a:\n  b: >-\n    x\nc: 1\n", ["a", "d"], "z", "a:\n  b: >-\n    x\n  d: z\nc: 1\n"),
    ("an item more", "a:\n  - n: x\n", ["a", 1], {"n": "y"}, "a:\n  - n: x\n  - n: y\n"),
    ("an item more, not indented", "a:\n- n: x\nb: 1\n", ["a", 1], {"n": "y"}, "a:\n- n: x\n- n: y\nb: 1\n"),
    ("an item's remark stays its own", "a:\n  - n: x\n    # of x\n# tail\n", ["a", 1], {"n": "y"},
     "a:\n  - n: x\n    # of x\n  - n: y\n# tail\n"),
    ("the first item", "a: []\n", ["a", 0], {"n": "x"}, "a:\n  - n: x\n"),
    ("an item's key", "a:\n  - n: x\n    v: w\n  - n: y\n", ["a", 0, "v"], "u", "a:\n  - n: x\n    v: u\n  - n: y\n"),
    ("the key behind the dash", "a:\n  - n: x\n    v: 1\n", ["a", 0, "n"], "z", "a:\n  - n: z\n    v: 1\n"),
    ("a tag that means nothing here", "a: !vault |\n  12\nb: 1\n", ["c"], "x", "a: !vault |\n  12\nb: 1\nc: x\n"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "value", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_the_text_after_a_change(text, path, value, expected):
    assert yaml_put(text, path, value) == expected


def test_yaml_text_is_taken_as_it_is():
    assert yaml_put("a:\n  b: 1\n", ["a", "c"], "!vault |\n12\n34\n", rendered=True) == (
        "a:\n  b: 1\n  c: !vault |\n    12\n    34\n"
    )


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        ("a: x\n", ["a", "b"], "line 1: expected names with values"),
        ("\na: [{n: x}]\n", ["a", 1], "line 2: the list stands between brackets"),
        ("a: {b: c}\n", ["a", "x"], "line 1: what stands between braces takes one line"),
    ],
)
def test_what_cannot_be_set_is_refused_by_its_line(text, path, said):
    with pytest.raises(AnsibleFilterError, match=said):
        yaml_put(text, path, "!vault |\n12", rendered=True)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@same
@given(values=st.dictionaries(names, texts, min_size=1), remarks=st.booleans())
def test_any_text_comes_back_as_it_was(values, remarks):
    text = "# head\nbefore: {x: 1}  # kept\n" if remarks else ""
    for name, value in values.items():
        text = yaml_put(text, ["apps", name], value)
    assert yaml.safe_load(text)["apps"] == values
    assert not remarks or text.startswith("# head\nbefore: {x: 1}  # kept\n")


@same
@given(first=texts, second=texts)
def test_a_second_value_leaves_nothing_of_the_first(first, second):
    text = yaml_put(yaml_put("a: 1\nc: 2\n", ["b"], first), ["b"], second)
    assert AnyTag(text).get_single_data() == {"a": 1, "b": second, "c": 2}
