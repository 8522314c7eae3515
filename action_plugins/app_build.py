"""Ship a release's archive to the host, but only to one that has not built it yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Controller's half of the app_build module."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        pattern = Path(arguments.pop("archive"))
        result = self._execute_module(module_name="app_build", module_args=arguments, task_vars=task_vars)
        if not result.get("archive_needed"):
            return result
        archive = next(iter(sorted(pattern.parent.glob(pattern.name))), None)
        if archive is None:
            story = f"{arguments['app']}: {arguments['about']['version']} is not built on this host, and its source is "
            story += "not at hand: deploy a version that the inventory names"
            return {"failed": True, "msg": story, "outcome": story}
        self._make_tmp_path()
        shell = self._connection._shell
        try:
            remote = self._transfer_file(str(archive), shell.join_path(shell.tmpdir, "release.tar.gz"))
            arguments["archive"] = remote
            return self._execute_module(module_name="app_build", module_args=arguments, task_vars=task_vars)
        finally:
            self._remove_tmp_path(shell.tmpdir)
