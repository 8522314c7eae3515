"""Change the operator's keys, then sshd, and keep both once new ssh connections have got in."""

from __future__ import annotations

from ansible.plugins.loader import action_loader

GuardedAction = action_loader.get("guarded", class_only=True)


class ActionModule(GuardedAction):
    """Controller's half of the sshd module."""

    module = "sshd"

    def _prove_and_keep(self) -> None:
        # Nothing is shut before the operator has come in with a key and become root.
        self._prove_operator("with the new keys")
        if self.done.pop("rest"):
            changed = self._step(step="sshd")
            if changed.get("failed") or changed.get("unreachable"):
                raise self.not_proved(
                    changed.get("msg", "the host did not answer").removesuffix("\nThe host is as it was.")
                )
            when = "with the new configuration of sshd"
            self._prove_operator(when)
            self._prove_own(when)
        self._keep()

    def _prove_operator(self, when: str) -> None:
        operator = self._task.args["operator"]
        if fault := self._gets_in("sudo -n true", user=operator):
            raise self.not_proved(
                f"{when} `{self._target(operator)} sudo -n true` does not succeed ({fault}). To mend it, have the key "
                "of this machine in ssh_operator_keys, the line that  cat ~/.ssh/id_ed25519.pub  shows, and look at "
                "ssh_settings."
            )

    def _prove_own(self, when: str) -> None:
        """Prove the login of this run, where it is not the operator's."""
        operator = self._task.args["operator"]
        if self._connection.get_option("remote_user") == operator:
            return
        if fault := self._gets_in():
            raise self.not_proved(
                f"{when} `{self._target()}`, which this run comes in by, would not get in any more ({fault}). To "
                f"mend it, write  ansible_user: {operator}  or correct ssh_root_login and ssh_settings."
            )
