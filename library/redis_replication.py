#!/usr/bin/python3
"""Have two redis servers be a primary and its replica, and lose nothing that either holds."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: redis_replication
short_description: Has two redis servers be a primary and its replica
description:
  - Asks and changes what runs on this host. Files are the role's, which writes the same into them.
  - The password is read from redis's own file, and given to redis-cli in its environment.
options:
  state:
    description:
      - C(asked) says what the server is. C(near) fails unless it is a primary whose replica is up to date, or a
        replica.
      - C(primary) and C(replica) see that the server is what it is to be. A new and empty one becomes a replica; one
        that holds data of its own is refused, unless I(rejoin) has it kept beside the data, and the server stopped. A
        replica is not made primary.
      - C(handed_over) makes the replica primary, and this primary its replica, once the replica has each write.
      - C(promoted) makes a replica primary whose primary does not answer. It asks nobody when it starts, until
        I(rejoin).
      - C(fenced) stops the server. It asks the other one when it is started.
    type: str
    choices: [asked, near, primary, replica, handed_over, promoted, fenced]
    required: true
  port:
    description: TCP port of both servers.
    type: int
    default: 6379
  peer:
    description: Address of the other server.
    type: str
    default: ""
  rejoin:
    description: Take over a server that was primary.
    type: bool
    default: false
  timeout:
    description: Seconds that a change may take.
    type: int
    default: 10
author: [Offramp]
"""

EXAMPLES = r"""
- name: Have the server follow the primary
  redis_replication:
    state: replica
    peer: 192.0.2.21
"""

RETURN = r"""
role:
  description: C(master) or C(slave), as the server says it, or empty where it does not answer.
  returned: always
  type: str
behind_seconds:
  description: How long before a change, at most, a replica heard of its primary last.
  returned: always
  type: int
kept:
  description: Directory with what the primary does not have.
  returned: always
  type: str
"""

DIRECTORY = Path("/var/lib/redis")
DATA = ("appendonlydir", "dump.rdb")
# Whoever was promoted when its primary was lost knows better than that one.
ALONE = DIRECTORY / "alone"
USERS = Path("/etc/redis/users.conf")
# Of before each app had a user of its own, when everybody was the default one.
FORMER = Path("/etc/redis/password.conf")
SOCKET = Path("/run/redis/redis-server.sock")
REPLICATION = Path("/etc/redis/replication.conf")
STARTED = Path("/run/offramp/redis-started")
UNIT = "redis-server.service"
NEAR_BYTES = 1024 * 1024
# Of redis.conf: repl-timeout.
SILENCE_SECONDS = 15
# It is told of its primary each second.
SILENT_SECONDS = 5


class Server:
    """The redis of this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.peer: str = module.params["peer"]
        self.port = str(module.params["port"])
        self.kept: Path | None = None
        file = USERS if USERS.exists() else FORMER
        found = re.search(r"^masterauth (.+)$", file.read_text(), re.MULTILINE) if file.exists() else None
        self.password = found[1] if found else ""
        self.user = "offramp"
        if found and file == FORMER and shutil.which("redis-cli") and self.cli("ping") != "PONG":
            self.user = "default"
        self.info = self.ask()

    def cli(self, *words: str) -> str:
        # A server of before it spoke TLS has no socket yet.
        where = ["-s", str(SOCKET)] if SOCKET.exists() else ["-p", self.port]
        command = ["timeout", "5", "redis-cli", *where, "--user", self.user, "--no-auth-warning", *words]
        _code, out, error = self.module.run_command(command, environ_update={"REDISCLI_AUTH": self.password})
        return (out or error).strip()

    def ask(self) -> dict[str, str]:
        """Return what the server says of itself, empty where it does not answer or is not ours yet."""
        if not self.password or not shutil.which("redis-cli"):
            return {}
        said = self.cli("info")
        return dict(line.split(":", 1) for line in said.splitlines() if ":" in line and not line.startswith("#"))

    def tell(self, *words: str) -> None:
        said = self.cli(*words)
        if said != "OK":
            self.fail(f"{' '.join(words)}: {said}")

    def fail(self, message: str) -> None:
        self.module.fail_json(msg=f"redis: {message}", role=self.role, kept=str(self.kept or ""))

    def wait(self, condition: str) -> bool:
        """Wait until an attribute of this server holds."""
        deadline = time.monotonic() + self.module.params["timeout"]
        while True:
            self.info = self.ask()
            if getattr(self, condition):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)

    @property
    def role(self) -> str:
        return self.info.get("role", "")

    @property
    def keys(self) -> int:
        return sum(
            int(number)
            for name, text in self.info.items()
            if name.startswith("db")
            for number in re.findall(r"^keys=(\d+)", text)
        )

    @property
    def follows(self) -> bool:
        return self.role == "slave" and self.info["master_link_status"] == "up"

    @property
    def behind_seconds(self) -> int:
        """Return how long ago, at most, a replica heard of its primary."""
        if self.role != "slave":
            return 0
        if self.follows:
            return int(self.info["master_last_io_seconds_ago"])
        # A link ends so long after the last word of a primary that is cut off.
        return int(self.info.get("master_link_down_since_seconds", 0)) + SILENCE_SECONDS

    @property
    def is_deserted(self) -> bool:
        return not self.follows or self.behind_seconds > SILENT_SECONDS

    @property
    def is_handed_over(self) -> bool:
        return self.follows and self.info["master_host"] == self.peer

    @property
    def was_primary(self) -> bool:
        """Whether a server that does not run would start as a primary, with data."""
        follows = REPLICATION.exists() and re.search(r"^replicaof ", REPLICATION.read_text(), re.MULTILINE)
        return bool(self.password) and not follows and any((DIRECTORY / name).exists() for name in DATA)

    def replica(self) -> dict[str, str]:
        """Return what is known of the other server as this one's replica."""
        for name, text in self.info.items():
            if re.fullmatch(r"slave\d+", name):
                known = dict(pair.split("=", 1) for pair in text.split(","))
                if known["ip"] == self.peer:
                    return known
        return {}

    # What can be asked for

    def asked(self) -> bool:
        return False

    def near(self) -> bool:
        if self.role == "master":
            replica = self.replica()
            if replica.get("state") != "online":
                self.fail(f"the server at {self.peer} does not follow this one")
            lag = int(self.info["master_repl_offset"]) - int(replica["offset"])
            if lag > NEAR_BYTES:
                self.fail(f"the replica is {lag} bytes behind; wait until it is near")
        elif not self.follows:
            self.fail(f"this server {'does not answer' if not self.role else 'is a replica, and follows nobody'}")
        return False

    def primary(self) -> bool:
        if self.role == "slave":
            self.fail(
                f"this server is a replica still, and PostgreSQL's primary is here. Run  ansible-playbook "
                f"playbooks/{'switchover' if self.follows else 'failover'}.yml  once more, with the same promote"
            )
        if not self.module.params["rejoin"] or not ALONE.exists():
            return False
        if not self.module.check_mode:
            ALONE.unlink()
        return True

    def follow(self) -> bool:
        if self.role == "slave" and self.info["master_host"] == self.peer:
            return False
        # The other one has what this one has; the two of them change places, and nothing is put aside.
        if self.replica():
            self.fail(
                f"the server at {self.peer} follows this one still, and PostgreSQL's primary is there. Run  "
                "ansible-playbook playbooks/switchover.yml  once more, with the same promote"
            )
        if (self.role == "master" and self.keys) or (not self.role and self.was_primary):
            if not self.module.params["rejoin"]:
                self.fail(
                    "this server holds data of its own. To have it follow, run  ansible-playbook playbooks/rejoin.yml"
                )
            self.keep()
            return True
        if not self.role:
            return False
        if not self.module.check_mode:
            self.tell("replicaof", self.peer, self.port)
        return True

    def keep(self) -> None:
        """Move what the primary does not have beside the data; the server is started again by its role."""
        if self.module.check_mode:
            return
        self.stop()
        kept = DIRECTORY / time.strftime("kept-%Y%m%d-%H%M%S", time.gmtime())
        kept.mkdir(mode=0o700)
        shutil.chown(kept, "redis", "redis")
        for name in DATA:
            if (DIRECTORY / name).exists():
                (DIRECTORY / name).rename(kept / name)
        ALONE.unlink(missing_ok=True)
        self.kept = kept

    def stop(self) -> None:
        STARTED.unlink(missing_ok=True)
        limit = ["timeout", str(self.module.params["timeout"])]
        code, _out, error = self.module.run_command([*limit, "systemctl", "--no-ask-password", "stop", UNIT])
        if code:
            kill = ["systemctl", "--no-ask-password", "kill", "--kill-whom=all", "--signal=SIGKILL", UNIT]
            code, _out, error = self.module.run_command(kill)
        if code:
            self.fail(f"it cannot be stopped: {error.strip()}")
        STARTED.unlink(missing_ok=True)

    def hand_over(self) -> bool:
        if self.role == "slave":
            return False
        self.near()
        if self.module.check_mode:
            return True
        seconds = self.module.params["timeout"]
        self.tell("failover", "to", self.peer, self.port, "timeout", str(seconds * 1000))
        if not self.wait("is_handed_over"):
            # Refused where nothing is under way any more.
            self.cli("failover", "abort")
            self.fail(f"the replica did not take over within {seconds} s, so this server is as it was")
        # Until its file says that it follows, it asks when it starts.
        STARTED.unlink(missing_ok=True)
        return True

    def promote(self) -> bool:
        if self.role == "master":
            return False
        if self.role != "slave":
            self.fail("this server does not answer")
        if not self.module.check_mode:
            if not self.wait("is_deserted"):
                self.fail(
                    "its primary answers. A planned change is  ansible-playbook playbooks/switchover.yml  "
                    "with the same promote"
                )
            ALONE.touch()
            self.tell("replicaof", "no", "one")
        return True

    def fence(self) -> bool:
        if not self.role:
            return False
        if not self.module.check_mode:
            self.stop()
        return True


def main() -> None:
    states = {
        "asked": Server.asked,
        "near": Server.near,
        "primary": Server.primary,
        "replica": Server.follow,
        "handed_over": Server.hand_over,
        "promoted": Server.promote,
        "fenced": Server.fence,
    }
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": list(states), "required": True},
            "port": {"type": "int", "default": 6379},
            "peer": {"type": "str", "default": ""},
            "rejoin": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    server = Server(module)
    changed = states[module.params["state"]](server)
    kept = str(server.kept or "")
    module.exit_json(changed=changed, role=server.role, behind_seconds=server.behind_seconds, kept=kept)


if __name__ == "__main__":
    main()
