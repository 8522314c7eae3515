"""Pack the modules that site.yml sends to servers, so that a controller's first run does not wait for it.

script/setup calls this, from the repository's root. callback_plugins/module_cache.py says where the packages are kept,
and when they are made anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from ansible import constants
from ansible.executor.module_common import modify_module
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader, module_loader
from ansible.template import Templar

from callback_plugins.module_cache import keep

ROOT = Path(__file__).resolve().parent.parent

# What a play sends without naming it: its facts, and what template, shell and package are on the server.
BEHIND = {f"ansible.builtin.{name}" for name in ("apt", "command", "copy", "file", "stat")}


def files() -> Iterator[Path]:
    """Every file of tasks that site.yml may read."""
    for play in yaml.safe_load((ROOT / "site.yml").read_text()):
        yield ROOT / play["ansible.builtin.import_playbook"]
    yield from sorted(ROOT.glob("roles/*/tasks/**/*.yml"))
    yield from sorted(ROOT.glob("roles/*/handlers/*.yml"))


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys(inner)


def modules() -> list[Path]:
    """The modules that the tasks name: ours by a plain name, others by a full one."""
    ours = {path.stem for path in (ROOT / "library").glob("*.py")}
    named = {key for file in files() for key in keys(yaml.safe_load(file.read_text())) if key in ours or "." in key}
    wanted = named | BEHIND | set(constants.FACTS_MODULES)
    found = [module_loader.find_plugin_with_context(name, ".py") for name in sorted(wanted)]
    return sorted({Path(each.plugin_resolved_path) for each in found if each.resolved})


def pack(path: Path) -> None:
    modify_module(
        module_name=path.stem,
        module_path=str(path),
        module_args={},
        templar=Templar(loader=DataLoader()),
        module_compression=constants.DEFAULT_MODULE_COMPRESSION,
    )


def main() -> None:
    init_plugin_loader()
    run = Path(constants.DEFAULT_LOCAL_TMP)
    try:
        keep(run, run.parent)
    except OSError as problem:
        sys.exit(f"Every run will pack its modules anew: {problem}")
    with ProcessPoolExecutor() as pool:
        list(pool.map(pack, modules()))


main()
