"""End a run that failed with what went wrong, below Ansible's recap."""

from __future__ import annotations

from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: last_word
type: aggregate
short_description: Ends a failed run with what went wrong
description:
  - The last line of a run that failed says what went wrong and where, so that nobody has to look for it above.
"""


def line_of(content: dict[str, Any]) -> str:
    """Return the line of a result that says most; of a command that is its own last one, and not that it failed."""
    said = str(content.get("stderr") or "").strip()
    if said and content.get("msg") == "non-zero return code":
        return said.splitlines()[-1]
    text = str(content.get("outcome") or content.get("msg") or "").strip()
    return text.splitlines()[0] if text else ""


class CallbackModule(CallbackBase):
    """Remember the last failure, which is the one that ended the run."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "last_word"

    def __init__(self) -> None:
        super().__init__()
        self.host = self.line = ""

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            self._remember(result, "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._remember(result, "could not be reached")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self.line and (stats.failures or stats.dark):
            # What is told on every host may begin with the one that it is about.
            about = self.line.partition(": ")[0]
            where = "" if about in stats.processed else f"{self.host}: "
            self._display.display(f"FAILED: {where}{self.line}", color="red")

    def _remember(self, result: Any, default: str) -> None:
        # The method that gives it was made public in 2.20.
        content = getattr(result, "result", None) or result._result
        self.line = line_of(content) or default
        self.host = result._host.get_name()
