"""Ask one server what the preflight has to know; a server that cannot be asked is an answer too."""

from __future__ import annotations

import contextlib
import getpass
import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import filter_loader

SERVICES = {
    "web": {80: "nginx", 443: "nginx", 6432: "pgbouncer", 7379: "haproxy", 11211: "memcached"},
    "db": {5432: "postgres", 6379: "redis-server"},
}


class ActionModule(ActionBase):
    """Controller's half of the server_check module. It never fails: it returns C(problems)."""

    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        # A server that is down is told as soon as ssh knows, not after all of the retries that a long run deserves.
        with contextlib.suppress(KeyError, AnsibleError):
            self._connection.set_option("reconnection_retries", 0)
        groups, apps = task_vars["group_names"], self._task.args.get("apps", [])
        expected = {
            "address": self._task.args.get("address"),
            "groups": [group for group in groups if group in SERVICES],
            "host": task_vars["inventory_hostname"],
            "memory_mib": self._task.args.get("memory_mib"),
            "port": self._option("port", 22),
            "programs": {str(port): name for group in groups for port, name in SERVICES.get(group, {}).items()},
            "target": self._option("host", task_vars["inventory_hostname"]),
            "user": self._option("remote_user", getpass.getuser()),
            "users": {str(port): app["user"] for app in apps for port in app["ports"]} if "web" in groups else {},
        }
        ports = [int(port) for port in (*expected["programs"], *expected["users"])]
        arguments = {"address": expected["address"], "ports": ports}
        answer = self._ask(arguments, task_vars)
        if "report" not in answer and self._connection.become and not answer.get("unreachable"):
            # Without root much can be said all the same, so that all is said at once.
            failure = answer["failure"]
            self._connection.set_become_plugin(None)
            answer = self._ask(arguments, task_vars)
            answer["become_failure"] = failure
        problems = filter_loader.get("server_problems").j2_function(answer, expected)
        result.update(changed=False, problems=problems, ansible_facts=answer.pop("ansible_facts", {}))
        return result

    def _option(self, name: str, default: Any) -> Any:
        try:
            return self._connection.get_option(name) or default
        except (KeyError, AnsibleError):
            return default

    def _ask(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        before = time.time()
        try:
            answer = self._execute_module(module_name="server_check", module_args=arguments, task_vars=task_vars)
        except AnsibleError as error:
            return {"failure": str(error), "unreachable": isinstance(error, AnsibleConnectionFailure)}
        if "report" not in answer:
            texts = (answer.get(key) for key in ("module_stderr", "module_stdout", "msg"))
            return {"failure": "\n".join(str(text) for text in texts if text), "unreachable": answer.get("unreachable")}
        after = time.time()
        # Only what the time of the connection cannot explain is a wrong clock.
        clock = answer["report"]["clock"]
        answer["report"]["skew_seconds"] = max(clock - after, 0) - max(before - clock, 0)
        return {"report": answer["report"], "ansible_facts": answer.get("ansible_facts", {})}
