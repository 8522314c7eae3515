#!/usr/bin/python3
"""Hold, let go or cut off the clients of a pgbouncer."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: pgbouncer_admin
short_description: Holds, lets go or cuts off the clients of a pgbouncer
description:
  - C(paused) waits until each server connection is free, and has the clients wait from then on. When a transaction does
    not end in I(timeout), the clients go on, and the task fails.
  - C(resumed) has the clients go on. C(cut) ends every connection, for a server that answers no more. It restarts the
    pooler, for its own C(KILL) can crash it (pgbouncer/pgbouncer#1401).
  - C(written) proves that a client can write, by a message in the WAL that changes nothing.
options:
  state:
    description: What to do.
    type: str
    choices: [paused, resumed, cut, written]
    required: true
  port:
    description: The pooler's TCP port, by which its local socket is named.
    type: int
    required: true
  timeout:
    description: Seconds to wait for transactions.
    type: int
    default: 8
  database:
    description: Database that is written to.
    type: str
  user:
    description: The login that writes to it.
    type: str
  password:
    description: Its password.
    type: str
author: [Offramp]
"""

EXAMPLES = r"""
- name: Have the clients wait
  pgbouncer_admin:
    state: paused
    port: 6432
"""

RETURN = "# Nothing of its own"

# While it is there, the watch over the primary takes its silence for meant.
HELD = Path("/run/offramp/pgbouncer-held")


class Console:
    """pgbouncer's own database, which its own system user may use without a password."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.port = str(module.params["port"])

    def tell(self, command: str, seconds: int = 5) -> tuple[int, str]:
        code, out, error = self.module.run_command(
            [
                *("timeout", str(seconds), "runuser", "--user=postgres", "--", "psql", "--no-psqlrc", "--no-align"),
                *("--tuples-only", "--host=/run/postgresql", f"--port={self.port}", "--username=pgbouncer"),
                *(f"--command={command}", "pgbouncer"),
            ],
            cwd="/",
        )
        return code, (error if code else out).strip()

    def prove(self, database: str, user: str, password: str) -> None:
        """Write as a client does. A commit that waits for a standby is given up."""
        where = f"host=127.0.0.1 port={self.port} dbname={database} user={user}"
        command = "--command=SELECT pg_logical_emit_message(true, 'offramp', 'proof')"
        # In the environment: a password among the arguments could be read by every user.
        secret = {"PGPASSWORD": password, "PGCONNECT_TIMEOUT": "5"}
        code, _out, error = self.module.run_command(
            ["timeout", "8", "psql", "--no-psqlrc", command, where], environ_update=secret, cwd="/"
        )
        if code:
            self.module.fail_json(msg=f"no client can write: {error.strip() or 'no answer within 8 s'}")
        self.module.exit_json(changed=False)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["paused", "resumed", "cut", "written"], "required": True},
            "port": {"type": "int", "required": True},
            "timeout": {"type": "int", "default": 8},
            "database": {"type": "str"},
            "user": {"type": "str"},
            "password": {"type": "str", "no_log": True},
        },
        required_if=[("state", "written", ("database", "user", "password"))],
        supports_check_mode=True,
    )
    console = Console(module)
    wanted = module.params["state"]
    if module.check_mode:
        module.exit_json(changed=True)
    if wanted == "written":
        console.prove(*(module.params[name] for name in ("database", "user", "password")))
    if wanted == "paused":
        HELD.touch()
        code, said = console.tell("PAUSE", module.params["timeout"])
        # A second PAUSE is refused, and the clients wait all the same.
        if code and "already" not in said:
            console.tell("RESUME")
            HELD.unlink()
            reason = said or f"a transaction runs for more than {module.params['timeout']} s"
            module.fail_json(msg=f"the clients cannot be held: {reason}. They go on")
        module.exit_json(changed=code == 0)
    if wanted == "cut":
        module.run_command(["systemctl", "kill", "--signal=KILL", "pgbouncer.service"])
        module.run_command(["systemctl", "restart", "pgbouncer.service"], check_rc=True)
        module.exit_json(changed=True)
    # The files that it has, and not those of a reload that is still under way.
    console.tell("RELOAD")
    code, said = console.tell("RESUME")
    # It says so where nobody was held.
    if code and "not paused" not in said:
        module.fail_json(msg=f"the clients may still be held: {said}. Run  RESUME  in pgbouncer's console")
    HELD.unlink(missing_ok=True)
    module.exit_json(changed=code == 0)


if __name__ == "__main__":
    main()
