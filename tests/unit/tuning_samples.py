"""Hosts to show, made by the filters that make them for real, and what a real server says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from filter_plugins.memory_budget import memory_budget
from filter_plugins.postgresql_settings import postgresql_settings

RUNNING = json.loads((Path(__file__).parent / "data/pg_settings_15.json").read_text())
DATABASE = ["postgresql", "redis"]
ALL = [*DATABASE, "memcached", "nginx", "pgbouncer", "supervisor"]
SHOP = {"name": "shop", "processes": {"web": 2, "worker": 1}}
BLOG = {"name": "blog", "processes": {"web": 1, "clock": 1}, "config": {"WEB_CONCURRENCY": "3"}}


def tuning(
    total_mib: int = 4096,
    services: list[str] = DATABASE,
    apps: list[dict[str, Any]] | None = None,
    parts: dict[str, int] | None = None,
    huge_pages_mib: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Return the input of both filters for one host; what is not known here is for postgresql_settings."""
    shown = {key: more.pop(key) for key in ("host", "running") if key in more}
    asked = {"version": 15, "cpus": 2, "pools": 20, "features": ["lz4"], "host_mib": total_mib, **more}
    budget = memory_budget(
        total_mib, asked["cpus"], services=services, apps=apps or [], own=parts, huge_pages_mib=huge_pages_mib
    )
    tuned = postgresql_settings(budget["postgresql_mib"], **asked)
    return {
        "host": "db1",
        "version": asked["version"],
        "settings": tuned["settings"],
        "running": [],
        "memory": tuned["memory"],
        "budget": budget,
        "warnings": tuned["warnings"],
        "huge_pages": "The server uses 400 huge pages." if asked.get("huge_pages") else "",
        **shown,
    }


def setting(name: str = "jit", value: str = "off", **more: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "pgtune": "", "reason": "why not", "own": False, **more}


def row(name: str = "jit", shown: str | None = "off", unit: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "setting": shown,
        "unit": unit,
        "boot_val": "on",
        "source": "configuration file",
        "pending_restart": False,
        **more,
    }


TUNING = tuning()
# Hosts of every kind of memory, with settings and words that nobody has checked.
MEMORY = [
    TUNING,
    tuning(1024, ALL, [SHOP]),
    tuning(8192, ALL, [SHOP, BLOG], huge_pages_mib=16, cpus=8),
    tuning(65536, ALL, [BLOG], parts={"redis": 16, "postgresql": 300}),
    tuning(2**20, ["postgresql"], huge_pages=True, cpus=64),
    tuning(own={"work_mem": "1GB"}),
]
texts = st.text(max_size=60)
values = texts | st.integers(-1, 10**9).map(str)
hosts = st.builds(
    lambda host, numbers, found, rows, warnings, huge_pages: {
        **host,
        "settings": [
            setting(f"setting_{number}x", value, reason=reason, own=own)
            for number, (value, reason, own) in zip(numbers, found, strict=False)
        ],
        "running": [
            row(f"setting_{number}x", shown, unit, pending_restart=waits)
            for number, (shown, unit, waits) in zip(numbers, rows, strict=False)
        ],
        "warnings": warnings,
        "huge_pages": huge_pages,
    },
    st.sampled_from(MEMORY),
    st.lists(st.integers(0, 10**6), max_size=6, unique=True),
    st.lists(st.tuples(values, texts, st.booleans()), max_size=6),
    st.lists(
        st.tuples(values | st.none(), st.sampled_from([None, "8kB", "kB", "MB", "B", "ms", "s", "min"]), st.booleans()),
        max_size=6,
    ),
    st.lists(texts, max_size=2),
    texts,
)
