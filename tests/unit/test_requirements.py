"""The lock and requirements.yml: nothing is fetched from anywhere that they do not name."""

import importlib.util
import json
import re
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
LOCKS = {path: (ROOT / path).read_text() for path in ("requirements.lock", "tests/security/requirements.lock")}
COLLECTIONS = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
ANSIBLE = Path(importlib.util.find_spec("ansible_collections").submodule_search_locations[0])


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda collection: collection["name"])
def test_the_ansible_package_satisfies_the_range_of_each_collection(collection):
    manifest = ANSIBLE / collection["name"].replace(".", "/") / "MANIFEST.json"
    version = json.loads(manifest.read_text())["collection_info"]["version"]
    assert version in SpecifierSet(collection["version"])


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_every_locked_package_has_a_version_and_a_hash(lock):
    packages = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", lock, flags=re.MULTILINE).strip())
    assert len(packages) > 40
    for package in packages:
        assert re.match(r"[a-z0-9.-]+==\S+", package), package
        assert "--hash=sha256:" in package, package


def test_the_environment_has_what_the_lock_names_and_nothing_else():
    installed = distributions(path=[path for path in sys.path if path.startswith(f"{sys.prefix}/")])
    packages = {re.sub(r"[-_.]+", "-", one.name).lower() + "==" + one.version for one in installed}
    assert len(packages) > 40
    assert packages - set(re.findall(r"^[a-z0-9.-]+==[^\s;]+", LOCKS["requirements.lock"], re.MULTILINE)) == set()


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_the_lock_names_no_place_to_download_from(lock):
    assert re.findall(r"https?://|--find-links|--index|/opt/", lock) == []
