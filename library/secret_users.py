#!/usr/bin/python3
"""See that no process has a secret in its environment any more."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: secret_users
short_description: Sees that no process has a secret any more
description:
  - Looks into the environment of every process of the host, where an app's secrets are, and fails with the names of
    those that have it, such as a job that began before.
options:
  secrets:
    description: The secrets, which may stand there as they are, or quoted in a URL.
    type: list
    elements: str
    required: true
author: [Offramp]
"""

EXAMPLES = r"""
- name: See that no process has the old password
  secret_users:
    secrets: ["{{ old }}"]
"""

RETURN = "# Nothing of its own"


def users(secrets: list[str]) -> list[str]:
    """Return number and name of each process that has one of the secrets."""
    forms = {form.encode() for secret in secrets for form in (secret, quote(secret, safe=""))}
    having = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            if any(form in environment for form in forms):
                having.append(f"{process.name} ({(process / 'comm').read_text().strip()})")
        except OSError:
            # It has ended.
            continue
    return having


def main() -> None:
    module = AnsibleModule(
        argument_spec={"secrets": {"type": "list", "elements": "str", "required": True, "no_log": True}},
        supports_check_mode=True,
    )
    having = users(module.params["secrets"])
    if having:
        module.fail_json(
            msg=f"these processes have the old secret: {', '.join(having)}. Until they end, both are good; run the "
            "same command again then"
        )
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
