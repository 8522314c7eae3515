"""Find out what went wrong, on whichever host it did, for every host to write down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase


def reason(task_vars: Mapping[str, Any]) -> str:
    """Return in one line what went wrong where."""
    for host in task_vars["ansible_play_hosts_all"]:
        failure = task_vars["hostvars"][host].get("ansible_failed_result")
        if failure and (text := failure.get("outcome") or failure.get("msg")):
            return f"{host}: {str(text).strip().splitlines()[0]}"
    return "a host could not be reached"


class ActionModule(ActionBase):
    """Controller's half of the app_end module."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments["state"] != "serving":
            arguments["reason"] = reason(task_vars or {})
        return self._execute_module(module_name="app_end", module_args=arguments, task_vars=task_vars)
