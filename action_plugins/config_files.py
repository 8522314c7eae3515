"""Render the templates of a config_files task on the controller and hand all files to the module at once."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class Variables(dict[str, Any]):
    """The variables of a task, of which the lookup makes a deep copy for each template, and changes the top alone."""

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return dict(self)


class ActionModule(ActionBase):
    """Controller's half of the config_files module."""

    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = dict(self._task.args)
        arguments["files"] = [self._rendered(entry, task_vars) for entry in arguments.get("files", [])]
        return self._execute_module(module_name="config_files", module_args=arguments, task_vars=task_vars)

    def _rendered(self, entry: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        rendered = dict(entry)
        if "template" in rendered and "content" in rendered:
            raise AnsibleActionFail(f"config_files: {rendered.get('path')}: give template or content, not both")
        if "template" in rendered:
            lookup = self._shared_loader_obj.lookup_loader.get(
                "ansible.builtin.template", loader=self._loader, templar=self._templar
            )
            rendered["content"] = lookup.run([rendered.pop("template")], variables=Variables(task_vars))[0]
        if rendered.pop("secret", False) and "content" in rendered:
            rendered["secret_content"] = rendered.pop("content")
        return rendered
