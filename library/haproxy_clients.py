#!/usr/bin/python3
"""Hold or let go the clients of a haproxy."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: haproxy_clients
short_description: Holds or lets go the clients of a haproxy
description:
  - C(held) ends every connection to the server, and has new ones wait until C(released). A client sees its connection
    end once, and its next one opened and not answered yet.
  - What a reload left to an older process, which may lead elsewhere, is ended too, by the end of that process.
  - A reload and a restart let go as well, since they start a new process.
options:
  state:
    description: What to do.
    type: str
    choices: [held, released]
    required: true
  proxy:
    description: Name of the section C(listen).
    type: str
    required: true
  server:
    description: Name of its server.
    type: str
    default: primary
  address:
    description: Address that the server has to have before the clients are let go.
    type: str
  connections:
    description: Client connections at once, when they are let go.
    type: int
author: [Offramp]
"""

EXAMPLES = r"""
- name: Have the clients wait
  haproxy_clients:
    state: held
    proxy: redis

- name: Have the clients go on
  haproxy_clients:
    state: released
    proxy: redis
    address: 192.0.2.22
    connections: 1000
"""

RETURN = "# Nothing of its own"

MASTER = "/run/haproxy-master.sock"
SECONDS = 5


class Master:
    """The command line of haproxy's master process, which knows each of its workers."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.deadline = time.monotonic() + SECONDS

    def tell(self, command: str) -> str:
        """Return the answer; during a reload there is nobody for a moment."""
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as line:
                    line.settimeout(SECONDS)
                    line.connect(MASTER)
                    line.sendall(f"{command}\n".encode())
                    line.shutdown(socket.SHUT_WR)
                    said = b""
                    while part := line.recv(65536):
                        said += part
                return said.decode(errors="replace").strip()
            except OSError as error:
                if time.monotonic() > self.deadline:
                    self.module.fail_json(msg=f"haproxy does not answer: {error}. Look at  systemctl status haproxy")
                time.sleep(0.2)

    def order(self, command: str) -> None:
        """Give a command of which no answer is the good one."""
        if said := self.tell(command):
            self.module.fail_json(msg=f"haproxy, told {command!r}, says: {said}")

    def workers(self) -> tuple[str, list[str]]:
        """Return the process id of the present worker, and of those that a reload left with their connections."""
        rows = [line.split() for line in self.tell("show proc").splitlines()]
        found = [row for row in rows if len(row) > 2 and row[1] == "worker"]
        present = next((row[0] for row in found if row[2] == "0"), "")
        return present, [row[0] for row in found if row[0] != present]


class Proxy:
    """The section in which the clients arrive."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.name: str = module.params["proxy"]
        self.server: str = module.params["server"]
        self.master = Master(module)

    def limit(self, worker: str) -> int:
        """Return how many clients a worker takes."""
        for line in self.master.tell(f"@!{worker} show stat {self.name} 1 -1").splitlines():
            values = line.split(",")
            if values[:2] == [self.name, "FRONTEND"]:
                return int(values[6])
        return -1

    def leads_to(self, worker: str) -> str:
        for line in self.master.tell(f"@!{worker} show servers state {self.name}").splitlines():
            values = line.split()
            if values[1:4:2] == [self.name, self.server]:
                return values[4]
        return ""

    def hold(self) -> bool:
        present, older = self.master.workers()
        if self.module.check_mode:
            return True
        if present:
            self.master.order(f"@!{present} set maxconn frontend {self.name} 0")
            self.master.order(f"@!{present} shutdown sessions server {self.name}/{self.server}")
        self.end(older)
        return True

    @staticmethod
    def end(workers: list[str]) -> None:
        """End processes that take no commands for what they do not listen for any more."""
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(worker), signal.SIGTERM)

    def release(self) -> bool:
        wanted = self.module.params["address"]
        deadline = time.monotonic() + SECONDS
        # A reload may be under way still, and its former worker must not let go.
        while (found := self.leads_to(present) if (present := self.master.workers()[0]) else "") != wanted:
            if self.module.check_mode:
                return True
            if time.monotonic() > deadline:
                self.module.fail_json(msg=f"haproxy leads to {found or 'nobody'}, and not to {wanted}")
            time.sleep(0.2)
        connections = self.module.params["connections"]
        older = self.master.workers()[1]
        limited = self.limit(present) != connections
        if not self.module.check_mode:
            # A connection that was still on its way to a server that is gone does not end by "shutdown sessions".
            self.end(older)
            if limited:
                self.master.order(f"@!{present} set maxconn frontend {self.name} {connections}")
        return limited or bool(older)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["held", "released"], "required": True},
            "proxy": {"type": "str", "required": True},
            "server": {"type": "str", "default": "primary"},
            "address": {"type": "str"},
            "connections": {"type": "int"},
        },
        required_if=[("state", "released", ["address", "connections"])],
        supports_check_mode=True,
    )
    proxy = Proxy(module)
    module.exit_json(changed=proxy.hold() if module.params["state"] == "held" else proxy.release())


if __name__ == "__main__":
    main()
