#!/usr/bin/python3
"""Prove that a redis takes writes, as one of its clients."""

from __future__ import annotations

import socket

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: redis_write
short_description: Proves that a redis takes writes
description:
  - Logs in as the administrator, by the clients' way, and removes a key that nobody has, which a replica refuses.
    Needs no program of redis's.
options:
  address:
    description: Where the clients find redis.
    type: str
    default: 127.0.0.1
  port:
    description: TCP port there.
    type: int
    required: true
  password:
    description: The administrator's password.
    type: str
    required: true
  timeout:
    description: Seconds for the whole.
    type: int
    default: 5
author: [Offramp]
"""

EXAMPLES = r"""
- name: Prove that a client can write
  redis_write:
    port: 7379
    password: "{{ vault_redis_password }}"
"""

RETURN = "# Nothing of its own"


def command(*words: str) -> bytes:
    """Return a command as redis reads it."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "timeout": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    where = (module.params["address"], module.params["port"])
    answers = []
    try:
        with socket.create_connection(where, module.params["timeout"]) as line, line.makefile("rb") as read:
            for words in (("AUTH", "offramp", module.params["password"]), ("DEL", "offramp:proof")):
                line.sendall(command(*words))
                answers.append(read.readline().decode(errors="replace").strip())
    except OSError as error:
        module.fail_json(msg=f"redis at {where[0]}:{where[1]} does not answer: {error}")
    if answers[0] != "+OK" or not answers[1].startswith(":"):
        module.fail_json(msg=f"redis at {where[0]}:{where[1]} takes no write: {' '.join(answers) or 'it hung up'}")
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
