"""Where results go: a section of docs/benchmarks.md, headed by the machine that they were measured on."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs/benchmarks.md"


def machine() -> str:
    """Say on what and when, without a name of the machine."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    cpus = f"{len(os.sched_getaffinity(0))} CPUs" + (f" ({model[1]})" if model else "")
    return (
        f"{time.strftime('%Y-%m-%d')}: {cpus}, {int(memory[1]) / 2**20:.0f} GiB of memory, "
        f"Linux {platform.release()}, load before the start {os.getloadavg()[0]:.1f}."
    )


def write_section(name: str, text: str) -> None:
    """Put a text between the section's two marks."""
    page = PAGE.read_text()
    begin, end = f"<!-- {name}: written by script/bench {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}")
    print(f"Written to {PAGE.relative_to(PAGE.parent.parent)}")
