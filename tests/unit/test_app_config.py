"""Config vars are set and unset in the inventory, byte for byte, and no message shows a value."""

import pytest
from ansible.parsing.dataloader import DataLoader
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from action_plugins.app_config import RefusedError, changed_vars, checked, dumped, note, site_directory, write
from filter_plugins.site_apps import site_apps

HARD = (
    "100% $HOME ${x} `id` \"double\" 'single' \\ back\\'slash # ! ~ é ☃ {{ no }} {% no %} \t\r\n\nline='x'\n'\x85\u2028"
)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,10}", fullmatch=True), TEXT, min_size=1))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example({"A": HARD, "LONG": HARD * 300, "EMPTY": "", "NUMBER": "007", "BOOL": "yes", "EQUALS": "="})
def test_ansible_reads_back_what_was_written_byte_for_byte(tmp_path, values):
    path = tmp_path / "config_vars.yml"
    write(path, dumped({"shop": {**values, "GONE": None}}))
    found = DataLoader().load_from_file(str(path), cache="none")["config_vars"]["shop"]
    expected = {**values, "GONE": None}
    differing = [name for name in expected if found[name] != expected[name]]
    assert (found.keys(), differing) == (expected.keys(), [])
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("before", "values", "unset", "after"),
    [
        ({}, {"A": "1"}, [], {"shop": {"A": "1"}}),
        ({"shop": {"A": "1"}}, {"A": "2"}, [], {"shop": {"A": "2"}}),
        ({"shop": {"A": "1"}, "blog": {"A": "9"}}, {}, ["A"], {"blog": {"A": "9"}}),
        ({}, {}, ["OWN"], {"shop": {"OWN": None}}),
        ({"shop": {"OWN": None}}, {"OWN": "1"}, [], {"shop": {"OWN": "1"}}),
    ],
)
def test_what_is_set_and_unset_is_what_the_file_holds(before, values, unset, after):
    assert changed_vars(before, "shop", {"OWN": "own"}, values, unset) == after


def test_what_the_file_holds_goes_before_what_the_list_of_apps_says():
    apps = [{"name": "shop", "source": "x", "config": {"A": "1", "B": "1", "C": "1"}}]
    assert site_apps(apps, {"shop": {"B": "2", "C": None, "D": "2"}})[0]["config"] == {"A": "1", "B": "2", "D": "2"}


@pytest.mark.parametrize(
    ("wished", "unset", "message"),
    [
        ({}, [], "say what to set or unset"),
        ("A=s3cret", [], "say what to set or unset"),
        ({"A-B": "s3cret"}, [], "'A-B' is no name of a config var"),
        ({"PORT": "80"}, [], "PORT is given to each web process"),
        ({"A": True}, [], "the value of A is a bool, and has to be text"),
        ({"A": ["s3cret"]}, [], "the value of A is a list"),
        ({"A": "s3cret\0"}, [], "the value of A holds a zero byte"),
        ({"B": "s3cret"}, ["B"], "B is to be set and unset"),
        ({}, ["Z"], "shop has no config var Z; it has B"),
    ],
)
def test_a_wrong_wish_is_refused_without_its_value(wished, unset, message):
    with pytest.raises(RefusedError) as refusal:
        checked("shop", {"B": "s3cret", "GONE": None}, wished, unset)
    assert message in str(refusal.value)
    assert "s3cret" not in str(refusal.value)


def test_the_note_of_a_change_names_what_changed_and_shows_no_value():
    assert note({"B": "s3cret", "A": "s3cret"}, ["C"]) == "config: set A, B, unset C"


def test_the_file_belongs_to_the_site_and_not_to_what_it_shares(tmp_path):
    for name in ("shared", "site"):
        (tmp_path / name / "group_vars/all").mkdir(parents=True)
    (tmp_path / "site/hosts.yml").touch()
    assert site_directory([str(tmp_path / "shared"), str(tmp_path / "site/hosts.yml")]) == tmp_path / "site"


def test_an_inventory_without_a_place_for_values_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="no folder group_vars/all"):
        site_directory([str(tmp_path)])
