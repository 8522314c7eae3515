#!/usr/bin/python3
"""Have a running redis know its users."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: redis_users
short_description: Has a running redis know its users
description:
  - Compares what runs on this host with what it is to know, and changes it, without a restart and without a cut for
    those who stay. A user that is not named goes, with its connections.
  - A redis that does not run, or is not there yet, reads its file when it starts.
options:
  users:
    description: Every user's rules, by the user's name, as filter P(redis_users#filter) makes them.
    type: dict
    required: true
  password:
    description: The administrator's password, with which a replica logs in to its primary as well.
    type: str
    required: true
  other:
    description: Another one that is good too, while a rotation is under way; empty for none.
    type: str
    default: ""
  port:
    description: Port of a redis that has no socket yet, being of before it spoke TLS.
    type: int
    required: true
author: [Offramp]
"""

EXAMPLES = r"""
- name: Have what runs know them
  redis_users:
    users: "{{ site_app_list | redis_users(vault_redis_password) }}"
    password: "{{ vault_redis_password }}"
    port: 6379
"""

RETURN = r"""
users:
  description: Names of the users that were changed, or would be.
  returned: always
  type: list
  elements: str
"""

ADMINISTRATOR = "offramp"
FILE = Path("/etc/redis/users.conf")
# Of before each app had a user of its own.
FORMER = Path("/etc/redis/password.conf")
SOCKET = Path("/run/redis/redis-server.sock")


def quoted(text: str) -> str:
    """Return a text as redis-cli reads it from its input, whatever is in it."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


class Redis:
    """The redis of this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.where = ["-s", str(SOCKET)] if SOCKET.exists() else ["-p", str(module.params["port"])]
        self.login: tuple[str, str] = ("", "")

    def ask(self, *commands: str, login: tuple[str, str] | None = None) -> str:
        user, password = login or self.login
        # By its input and its environment, which other users do not see.
        words = ["timeout", "5", "redis-cli", *self.where, "--user", user, "--no-auth-warning"]
        given = {"REDISCLI_AUTH": password}
        return self.module.run_command(words, data="\n".join(commands), environ_update=given)[1].strip()

    def gets_in(self) -> bool:
        """Whether redis answers; fails where it does and takes no password that there is."""
        given = self.module.params
        written = [
            (user, found)
            for user, path, pattern in (
                (ADMINISTRATOR, FILE, r"^masterauth (.+)$"),
                ("default", FORMER, r"^requirepass (.+)$"),
            )
            if path.exists()
            for found in re.findall(pattern, path.read_text(), re.MULTILINE)
        ]
        logins = [(ADMINISTRATOR, one) for one in (given["password"], given["other"]) if one] + written
        answers = {login: self.ask("ping", login=login) for login in dict.fromkeys(logins)}
        if not any(answers.values()):
            return False
        known = next((login for login in answers if answers[login] == "PONG"), None)
        if known is None:
            self.module.fail_json(
                msg="redis takes neither the vault's password nor that of its own file. Restart redis-server"
            )
        self.login = known
        return True

    def users(self) -> dict[str, str]:
        found = (line.split(" ", 2) for line in self.ask("acl list").splitlines())
        # A default, which redis names for users that it was told of and not for those of its file.
        return {words[1]: words[2].replace(" sanitize-payload", "", 1) for words in found if words[0] == "user"}

    def as_it_writes(self, wanted: dict[str, str]) -> dict[str, str]:
        """Return rules as redis itself writes them, each version in another way, of users that are there for a moment.

        Nobody can log in as one of these.
        """
        names = {name: f"offramp-compared-{number}" for number, name in enumerate(wanted)}
        self.do(*(f"acl setuser {names[name]} reset {rules} off" for name, rules in wanted.items()))
        found = self.users()
        self.do(f"acl deluser {' '.join(names.values())}")
        return {name: found[names[name]].replace("off ", f"{wanted[name].split()[0]} ", 1) for name in wanted}

    def leads(self) -> bool:
        """Whether it follows its primary as the administrator, with the present password."""
        said = self.ask("config get masteruser", "config get masterauth").splitlines()
        return said == ["masteruser", ADMINISTRATOR, "masterauth", self.module.params["password"]]

    def do(self, *commands: str) -> None:
        said = self.ask(*commands)
        if not re.fullmatch(r"(OK|\d+)(\s+(OK|\d+))*", said):
            self.module.fail_json(msg=f"redis does not take its users: {said}")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "dict", "required": True, "no_log": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "other": {"type": "str", "default": "", "no_log": True},
            "port": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    redis = Redis(module)
    if not (FILE.exists() or FORMER.exists()) or not shutil.which("redis-cli") or not redis.gets_in():
        module.exit_json(changed=False, users=[])
    wanted = module.params["users"]
    present, written = redis.users(), redis.as_it_writes(wanted)
    differing = [name for name in wanted if written[name] != present.get(name)]
    gone = sorted(present.keys() - wanted.keys())
    leads = redis.leads()
    if not module.check_mode:
        if ADMINISTRATOR in differing:
            # First and alone: who comes in as another user may take these rights from itself.
            redis.do(f"acl setuser {ADMINISTRATOR} reset {wanted[ADMINISTRATOR]}")
            redis.login = (ADMINISTRATOR, module.params["password"])
        changes = [f"acl setuser {name} reset {wanted[name]}" for name in differing if name != ADMINISTRATOR]
        changes += [f"acl deluser {name}" for name in gone]
        if not leads:
            password = quoted(module.params["password"])
            changes += [f"config set masteruser {ADMINISTRATOR}", f"config set masterauth {password}"]
        if changes:
            redis.do(*changes)
    module.exit_json(changed=bool(differing or gone or not leads), users=[*differing, *gone])


if __name__ == "__main__":
    main()
