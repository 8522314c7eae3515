"""Ask servers that ssh does not know yet for their host keys."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

TIMEOUT_SECONDS = 10


def said(*command: str, data: str | None = None) -> str:
    return subprocess.run(command, input=data, capture_output=True, text=True, check=False).stdout


def unknown(target: dict[str, Any], known_hosts: Path) -> dict[str, Any] | None:
    """Return a server's key with its fingerprint, or nothing where ssh knows the server already."""
    host, port = str(target["host"]), int(target["port"])
    name = host if port == 22 else f"[{host}]:{port}"
    if said("ssh-keygen", "-F", name, "-f", str(known_hosts)):
        return None
    scanned = said("ssh-keyscan", "-T", str(TIMEOUT_SECONDS), "-t", "ed25519", "-p", str(port), host)
    key = next((line.split()[1:] for line in scanned.splitlines() if not line.startswith("#")), None)
    if not key:
        return {**target, "problem": f"{target['name']}: no ssh server answers at {host} port {port}"}
    line = " ".join([name, *key])
    fingerprint = said("ssh-keygen", "-l", "-f", "-", data=line).split()[1]
    return {**target, "known_as": name, "key": line, "fingerprint": fingerprint}


class ActionModule(ActionBase):
    """Return the keys of the servers that are not among the known hosts, and fail where one does not answer."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        known_hosts = Path(self._task.args["known_hosts"]).expanduser()
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(lambda target: unknown(target, known_hosts), self._task.args["targets"]))
        strangers = [each for each in found if each]
        if problems := [each["problem"] for each in strangers if "problem" in each]:
            mend = "Correct the address in the site's hosts.yml, or start the server, and run this again."
            raise AnsibleActionFail("\n".join([*problems, mend]))
        return result | {"changed": False, "unknown": strangers}
