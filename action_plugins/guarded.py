"""Keep a change that could lock the operator out only once a new ssh connection has got in.

The base of the plugins of such modules. The module arms the way back on the host before it changes anything
(module_utils/guard.py); this is the controller's half.
"""

from __future__ import annotations

import contextlib
import signal
import time
import uuid
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

# After the timer on the host, by which it is as it was.
GRACE_SECONDS = 5
# For new connections until one gets in; what hangs does not. A reload leaves sshd for a moment without its port.
PROOF_SECONDS, AGAIN_SECONDS = 15, 4


class NotProvedError(Exception):
    """Somebody who has to get in does not, in words for a person."""


def in_a_line(text: str) -> str:
    return " ".join(text.removeprefix("Failed to connect to the host via ssh: ").split())


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer; a plugin runs in the main thread of a process of its own."""

    def ring(*_: Any) -> None:
        raise TimeoutError(f"nothing came of it in {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class ActionModule(ActionBase):
    """Runs the steps of a guarded module. A subclass names the module and says who has to get in."""

    _requires_connection = True
    _supports_check_mode = True
    module = ""
    not_proved = NotProvedError

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        self.task_vars = task_vars or {}
        self.run_name = uuid.uuid4().hex
        self.done = done = self._step()
        if done.get("armed"):
            try:
                self._prove_and_keep()
            except (NotProvedError, AnsibleConnectionFailure) as problem:
                return {**result, **done, "failed": True, "changed": False, "msg": f"{problem}\n{self._go_back()}"}
        return {**result, **done}

    def _prove_and_keep(self) -> None:
        """Raise NotProvedError unless the change of the first step may stay, and keep it."""
        raise NotImplementedError

    def _step(self, **arguments: Any) -> dict[str, Any]:
        return self._execute_module(
            module_name=self.module,
            module_args={**self._task.args, **arguments, "run": self.run_name},
            task_vars=self.task_vars,
        )

    def _keep(self) -> None:
        kept = self._step(step="keep")
        if kept.get("failed") or kept.get("unreachable"):
            raise NotProvedError(kept.get("msg", "the host did not answer"))

    def _go_back(self) -> str:
        """Have the host as it was, over the connection that is still open, or wait until it has done so itself."""
        with contextlib.suppress(AnsibleConnectionFailure):
            gone = self._step(step="undo")
            if not gone.get("failed") and not gone.get("unreachable"):
                return "The host is as it was."
        time.sleep(self._guard_seconds() + GRACE_SECONDS)
        with contextlib.suppress(AnsibleConnectionFailure):
            gone = self._step(step="undo")
            if not gone.get("failed") and not gone.get("unreachable"):
                return "The host has gone back by itself, and is as it was."
        return (
            f"The host goes back by itself {self._guard_seconds()} s after the change, and still does not answer: "
            "look at it by your provider's console."
        )

    def _guard_seconds(self) -> int:
        return int(self._task.args.get("guard_seconds", 40))

    def _gets_in(self, command: str = "true", user: str | None = None) -> str:
        """Return what keeps a new connection out, and nothing when it gets in and the command succeeds."""
        connection = self._connection
        if connection.transport != "ssh":
            # Nothing that is done to ssh or the packet filter keeps out who comes another way.
            return ""
        # The one that is open proves nothing: the kernel and sshd let it live on.
        options = {
            "ssh_args": f"-o ControlMaster=no -o ControlPath=none {connection.get_option('ssh_args') or ''}",
            "reconnection_retries": 0,
        }
        if user:
            options |= {"remote_user": user, "password": None}
        present = {name: connection.get_option(name) for name in options}
        try:
            for name, value in options.items():
                connection.set_option(name, value)
            again_until = time.monotonic() + AGAIN_SECONDS
            with at_most(PROOF_SECONDS):
                while (fault := self._fault(command)) and time.monotonic() < again_until:
                    time.sleep(1)
        except TimeoutError as problem:
            fault = str(problem)
        finally:
            for name, value in present.items():
                connection.set_option(name, value)
        return fault

    def _fault(self, command: str) -> str:
        try:
            code, out, error = self._connection.exec_command(command, sudoable=False)
        except AnsibleError as problem:
            return in_a_line(str(problem))
        return "" if code == 0 else in_a_line((error or out).decode(errors="replace")) or f"{command} ended with {code}"

    def _target(self, user: str | None = None) -> str:
        """The connection as a person would type it."""
        connection = self._connection
        with contextlib.suppress(KeyError, AnsibleError):
            port = connection.get_option("port")
            user = user or connection.get_option("remote_user")
            words = ["ssh", *(["-p", str(port)] if port else [])]
            return " ".join(
                [*words, f"{user}@{connection.get_option('host')}" if user else connection.get_option("host")]
            )
        return "ssh"
