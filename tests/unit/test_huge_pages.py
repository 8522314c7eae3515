"""Huge pages are set aside beside those of others, kept for the next boot, and left alone where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.huge_pages import NUMBER, OURS, SYSCTL, HugePages

from library.huge_pages import keep

MEMINFO = "HugePages_Total:    {total}\nHugePages_Free:    0\nHugepagesize:       2048 kB\n"


class Kernel(HugePages):
    """A kernel that finds at most so many pages."""

    most = 10_000

    def _set(self, total: int) -> None:
        super()._set(total)
        (self.root / "proc/meminfo").write_text(MEMINFO.format(total=min(total, self.most)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {"proc/meminfo": MEMINFO.format(total=7), NUMBER: "7\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "etc/offramp").mkdir(parents=True)
    (tmp_path / "etc/sysctl.d").mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def no_other_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fchown", lambda *_: None)


def test_ours_are_beside_those_of_others_and_kept_for_the_next_boot(root: Path) -> None:
    assert keep(Kernel(root), 100, check_mode=False) == {"changed": True, "notice": "", "reserved": 100}
    assert (root / NUMBER).read_text() == "107\n"
    assert (root / SYSCTL).read_text().endswith("vm.nr_hugepages = 107\n")
    assert Kernel(root).others_mib == 14


def test_a_second_run_changes_nothing(root: Path) -> None:
    keep(Kernel(root), 100, check_mode=False)
    assert keep(Kernel(root), 100, check_mode=False) == {"changed": False, "notice": "", "reserved": 100}


def test_another_number_replaces_ours_and_leaves_the_others(root: Path) -> None:
    for pages in (100, 60, 80):
        keep(Kernel(root), pages, check_mode=False)
        assert (root / NUMBER).read_text() == f"{pages + 7}\n"


def test_none_gives_ours_back(root: Path) -> None:
    keep(Kernel(root), 100, check_mode=False)
    assert keep(Kernel(root), 0, check_mode=False)["changed"]
    assert (root / NUMBER).read_text() == "7\n"
    assert not (root / SYSCTL).exists()
    assert not (root / OURS).exists()


def test_without_enough_memory_in_one_piece_all_is_as_it_was(root: Path) -> None:
    kernel = Kernel(root)
    kernel.most = 50
    kept = keep(kernel, 100, check_mode=False)
    assert kept == {"changed": False, "notice": kept["notice"], "reserved": 0}
    assert "found 43 of 100 huge pages of 2 MiB" in kept["notice"]
    assert (root / NUMBER).read_text() == "7\n"
    assert not (root / SYSCTL).exists()


def test_check_mode_only_says_what_would_be(root: Path) -> None:
    assert keep(Kernel(root), 100, check_mode=True) == {"changed": True, "notice": "", "reserved": 100}
    assert (root / NUMBER).read_text() == "7\n"
    assert not (root / SYSCTL).exists()


def test_a_kernel_without_huge_pages_is_left_alone(root: Path) -> None:
    (root / "proc/meminfo").write_text("MemTotal: 1 kB\n")
    kept = keep(Kernel(root), 100, check_mode=False)
    assert (kept["changed"], kept["reserved"]) == (False, 0)
    assert "no huge pages" in kept["notice"]
