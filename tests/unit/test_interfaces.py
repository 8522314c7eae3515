"""Each role's interface is a contract: what it takes is declared, described and typed, and nothing else is used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(path for path in Path("roles").iterdir() if path.is_dir())
every_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def options(role: Path) -> dict[str, dict[str, Any]]:
    """The options of all of a role's entry points."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    return {name: option for entry in specs.values() for name, option in entry.get("options", {}).items()}


def defaults(role: Path) -> dict[str, Any]:
    path = role / "defaults/main.yml"
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


def texts(role: Path) -> str:
    folders = ("tasks", "templates", "vars", "handlers")
    return "\n".join(path.read_text() for name in folders for path in (role / name).rglob("*") if path.is_file())


@every_role
def test_every_option_has_a_type_and_a_description(role: Path) -> None:
    for name, option in options(role).items():
        assert {"type", "description"} <= option.keys(), name
        assert option["type"] != "list" or "elements" in option, name


@every_role
def test_a_default_is_the_one_that_is_documented(role: Path) -> None:
    documented = {name: option["default"] for name, option in options(role).items() if "default" in option}
    assert documented == defaults(role)


@every_role
def test_an_option_is_either_required_or_has_a_default(role: Path) -> None:
    for name, option in options(role).items():
        assert option.get("required", False) != ("default" in option), name


@every_role
def test_every_variable_that_the_role_uses_is_declared(role: Path) -> None:
    used = set(re.findall(rf"(?<![\w/.-])(?<!facts\['){role.name}_[a-z0-9_]+\b", texts(role)))
    plugins = {path.stem for folder in ("library", "filter_plugins") for path in Path(folder).glob("*.py")}
    set_by_tasks = set(re.findall(r"^\s+(?:register|loop_var): (\w+)$|^    (\w+): ", texts(role), re.MULTILINE))
    local = {name for names in set_by_tasks for name in names}
    assert used - plugins - local <= options(role).keys()


@every_role
def test_every_option_is_used(role: Path) -> None:
    unused = {name for name in options(role) if not re.search(rf"\b{name}\b", texts(role))}
    assert unused == set()


@every_role
def test_a_role_reads_no_other_hosts_variables(role: Path) -> None:
    assert not re.search(r"\b(hostvars|groups)\b\s*\[", texts(role))


@every_role
def test_a_readme_says_what_the_role_promises(role: Path) -> None:
    assert (role / "README.md").read_text().startswith(f"# {role.name}\n")


def test_only_the_topology_reads_groups_and_other_hosts() -> None:
    readers = {
        str(path)
        for path in Path("group_vars").rglob("*.yml")
        if re.search(r"\b(hostvars|groups)\b\s*\[|, hostvars\b", path.read_text())
    }
    assert readers == {"group_vars/all/topology.yml"}


def test_a_key_is_a_value_or_a_wire_and_never_both() -> None:
    """Playbook-side group_vars win over the inventory's, so a site could not override a key that stands in both."""

    def keys(folder: str) -> set[str]:
        files = Path(folder).rglob("*.yml")
        return {key for path in files for key in (yaml.safe_load(path.read_text()) or {})}

    values = {key for site in Path("inventory").iterdir() for key in keys(str(site / "group_vars"))}
    assert keys("group_vars") & values == set()
