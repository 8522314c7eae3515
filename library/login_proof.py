#!/usr/bin/python3
"""Prove that a server takes a password, or refuses it."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: login_proof
short_description: Proves that a server takes a password, or refuses it
description:
  - Logs in as a client does. A server that does not answer has neither taken nor refused anything, and fails the task.
options:
  service:
    description: What answers there.
    type: str
    choices: [postgresql, redis]
    required: true
  address:
    description: Where it is.
    type: str
    default: 127.0.0.1
  port:
    description: TCP port there.
    type: int
    required: true
  socket:
    description: Of redis, a socket that is taken instead where there is one.
    type: path
    default: ""
  user:
    description: Login of PostgreSQL, or user of redis.
    type: str
    default: ""
  database:
    description: Database that it logs in to.
    type: str
    default: ""
  password:
    description: The password; empty takes that of I(passfile).
    type: str
    default: ""
  passfile:
    description: A file of passwords, as C(.pgpass).
    type: str
    default: ""
  authority:
    description: File with the authority by which PostgreSQL's certificate is checked; empty for no check.
    type: str
    default: ""
  state:
    description: What the server is to do with it.
    type: str
    choices: [taken, refused]
    default: taken
author: [Offramp]
"""

EXAMPLES = r"""
- name: Prove that the old password is refused
  login_proof:
    service: postgresql
    port: 6432
    user: shop
    database: shop
    password: "{{ old }}"
    state: refused
"""

RETURN = "# Nothing of its own"

REFUSALS = re.compile(
    r"authentication failed|not permitted to log in|no pg_hba.conf entry|no such user|WRONGPASS|role .* does not exist"
)


def postgresql(module: AnsibleModule) -> tuple[bool, str]:
    given = module.params
    where = f"host={given['address']} port={given['port']} dbname={given['database']} user={given['user']}"
    where += " connect_timeout=5"
    if given["authority"]:
        where += f" sslmode=verify-full sslrootcert={given['authority']}"
    # In the environment: a password among the arguments could be read by every user.
    secret = {"PGPASSWORD": given["password"]} if given["password"] else {"PGPASSFILE": given["passfile"]}
    command = ["timeout", "8", "psql", "--no-psqlrc", "--no-password", "--command=SELECT 1", where]
    code, _out, error = module.run_command(command, environ_update=secret, cwd="/")
    return code == 0, error.strip()


def redis(module: AnsibleModule) -> tuple[bool, str]:
    words = [b"AUTH", module.params["user"].encode(), module.params["password"].encode()]
    asked = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    try:
        if Path(module.params["socket"]).is_socket():
            line = socket.socket(socket.AF_UNIX)
            line.settimeout(5)
            line.connect(module.params["socket"])
        else:
            line = socket.create_connection((module.params["address"], module.params["port"]), 5)
        with line:
            line.sendall(asked)
            said = line.makefile("rb").readline().decode(errors="replace").strip()
    except OSError as error:
        return False, str(error)
    return said == "+OK", said


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "choices": ["postgresql", "redis"], "required": True},
            "address": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int", "required": True},
            "socket": {"type": "path", "default": ""},
            "user": {"type": "str", "default": ""},
            "database": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
            "passfile": {"type": "str", "default": ""},
            "authority": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["taken", "refused"], "default": "taken"},
        },
        supports_check_mode=True,
    )
    taken, said = {"postgresql": postgresql, "redis": redis}[module.params["service"]](module)
    where = f"{module.params['service']} at {module.params['address']}:{module.params['port']}"
    if module.params["state"] == "taken" and not taken:
        module.fail_json(msg=f"{where} does not take the password: {said or 'no answer'}")
    if module.params["state"] == "refused" and taken:
        module.fail_json(msg=f"{where} still takes the old password")
    if module.params["state"] == "refused" and not REFUSALS.search(said):
        module.fail_json(msg=f"{where} neither takes nor refuses the old password: {said or 'no answer'}")
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
