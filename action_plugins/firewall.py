"""Load the packet filter, and keep it once a new ssh connection has got in."""

from __future__ import annotations

from ansible.plugins.loader import action_loader

GuardedAction = action_loader.get("guarded", class_only=True)


class ActionModule(GuardedAction):
    """Controller's half of the firewall module."""

    module = "firewall"

    def _prove_and_keep(self) -> None:
        if fault := self._gets_in():
            raise self.not_proved(
                f"with the new packet filter `{self._target()}` would not get in any more ({fault}). "
                "To mend it, correct firewall_ssh_port and firewall_ssh_sources, and what the roles declare."
            )
        self._keep()
