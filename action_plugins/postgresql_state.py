"""Ask one database server what it is; that it does not answer is an answer too."""

from __future__ import annotations

import contextlib
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Controller's half of the postgresql_state module. A host that cannot be reached has an empty C(state)."""

    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        # What is down is told as soon as ssh knows, not after all of the retries that a long run deserves.
        with contextlib.suppress(KeyError, AnsibleError):
            self._connection.set_option("reconnection_retries", 0)
        try:
            answer = self._execute_module(module_name="postgresql_state", task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            answer = {"unreachable": True, "msg": str(error)}
        if answer.pop("unreachable", False):
            answer = {"changed": False, "state": {}, "silent": answer.get("msg", "")}
        return {**result, **answer}
