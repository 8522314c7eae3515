"""Huge pages of the default size: how many there are, how many of them are ours, and how to have another number."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ansible.module_utils.placing import place_file

ROOT = Path("/")
NUMBER = "proc/sys/vm/nr_hugepages"
SYSCTL = "etc/sysctl.d/60-offramp-huge-pages.conf"
OURS = "etc/offramp/huge_pages"


class HugePages:
    """The huge pages of this host. What is not recorded as ours belongs to others and stays."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.total = self._said("HugePages_Total")
        self.page_kib = self._said("Hugepagesize")
        recorded = self._read(OURS).strip()
        self.ours = min(int(recorded) if recorded.isdigit() else 0, self.total)
        self.others = self.total - self.ours

    def _read(self, path: str) -> str:
        try:
            return (self.root / path).read_text()
        except OSError:
            return ""

    def _said(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)", self._read("proc/meminfo"), re.MULTILINE)
        return int(found[1]) if found else 0

    @property
    def others_mib(self) -> int:
        return self.others * self.page_kib // 1024

    @property
    def forbidden(self) -> str:
        """Return why nobody can have another number, nothing where one can."""
        if not self.page_kib:
            return "the kernel has no huge pages"
        # A container's /proc/sys can only be read, even by root.
        if not os.access(self.root / NUMBER, os.W_OK):
            return "the kernel lets nobody set vm.nr_hugepages here, as in a container"
        return ""

    def is_as(self, pages: int) -> bool:
        """Say whether that many are ours, now and at the next boot."""
        return self.ours == pages and all(self._read(path) == text for path, text in self._files(pages).items())

    def have(self, pages: int) -> str:
        """Have that many of ours, and return why not when it cannot be; then all is as it was."""
        wanted = self.others + pages
        self._set(wanted)
        found = self._said("HugePages_Total")
        if found < wanted:
            self._set(self.total)
            return (
                f"the kernel found {max(found - self.others, 0)} of {pages} huge pages of {self.page_kib // 1024} MiB "
                "in one piece each; after a reboot it may find all"
            )
        for path, text in self._files(pages).items():
            if text:
                place_file(self.root / path, text.encode(), 0o644)
            else:
                (self.root / path).unlink(missing_ok=True)
        return ""

    def _files(self, pages: int) -> dict[str, str]:
        """Return the text of each of our files; nothing where there is to be no file."""
        if not pages:
            return {OURS: "", SYSCTL: ""}
        heading = f"# Ansible managed: {pages} for PostgreSQL, {self.others} for others"
        return {OURS: f"{pages}\n", SYSCTL: f"{heading}\nvm.nr_hugepages = {self.others + pages}\n"}

    def _set(self, total: int) -> None:
        if total != self._said("HugePages_Total"):
            (self.root / NUMBER).write_text(f"{total}\n")
