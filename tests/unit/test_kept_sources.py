"""A server keeps the sources that are sent to it, and uses none but those that were sent."""

import os
import pwd
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from ansible.module_utils.kept_sources import sources

from callback_plugins.module_cache import with_keeping

GREETING = "ansible/module_utils/greeting.py"


@pytest.fixture
def package(tmp_path):
    """Return a way to make a package with a greeting."""

    def make(greeting):
        path = tmp_path / "package.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("ansible/__init__.py", "from pkgutil import extend_path\n__version__ = '1'\n")
            archive.writestr("ansible/module_utils/__init__.py", "")
            archive.writestr(GREETING, f"GREETING = {greeting!r}\n")
            archive.writestr("sitecustomize.py", "")
        return path

    return make


def test_what_was_sent_is_kept_for_its_user_alone(package, tmp_path):
    place = sources(package("good day"), "key", tmp_path)
    assert (place / GREETING).read_text() == "GREETING = 'good day'\n"
    assert [each for each in tmp_path.rglob("*") if each.name == "sitecustomize.py"] == []
    assert place.stat().st_mode & 0o777 == 0o700
    assert (place / "ansible").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("found", ["GREETING = 'good night'\n", "GREETING = 'good d", ""])
def test_what_is_not_what_was_sent_is_replaced(package, tmp_path, found):
    (sources(package("good day"), "key", tmp_path) / GREETING).write_text(found)
    place = sources(package("good day"), "key", tmp_path)
    assert (place / GREETING).read_text() == "GREETING = 'good day'\n"
    assert [each.name for each in (place / GREETING).parent.iterdir() if "greeting" in each.name] == ["greeting.py"]


def test_a_directory_that_others_may_write_to_is_not_used(package, tmp_path):
    sources(package("good day"), "key", tmp_path).chmod(0o770)
    with pytest.raises(PermissionError):
        sources(package("good day"), "key", tmp_path)


def test_a_directory_that_leads_elsewhere_is_not_used(package, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / ".ansible").mkdir()
    (tmp_path / ".ansible/offramp-sources-key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        sources(package("good day"), "key", tmp_path)


def test_those_that_no_run_has_used_for_a_week_are_removed(package, tmp_path):
    for name, days in (("old", 8), ("recent", 6)):
        moment = time.time() - days * 24 * 3600
        os.utime(sources(package("good day"), name, tmp_path), (moment, moment))
    sources(package("good day"), "new", tmp_path)
    assert {each.name for each in (tmp_path / ".ansible").iterdir()} == {
        "offramp-sources-recent",
        "offramp-sources-new",
    }


def test_a_package_runs_what_it_brought(package):
    """As root from what is kept, and where that is another's of the same key, too; else from the package."""
    look = "import ansible.module_utils.greeting as it; print(it.GREETING, it.__file__, sep='\\n')"
    kept = Path(pwd.getpwnam("root").pw_dir, ".ansible/offramp-sources-test")
    try:
        for greeting in ("good day", "good night"):
            path = package(greeting)
            path.write_bytes(with_keeping(path.read_bytes(), "test"))
            words = [sys.executable, "-S", "-c", look]
            done = subprocess.run(words, env={"PYTHONPATH": str(path)}, capture_output=True, text=True, check=True)
            said, file = done.stdout.splitlines()
            assert said == greeting
            assert file.startswith(str(kept if os.geteuid() == 0 else path))
    finally:
        shutil.rmtree(kept, ignore_errors=True)
