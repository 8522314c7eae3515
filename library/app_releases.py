#!/usr/bin/python3
"""Tell the releases of an app on this host and, for who is about to deploy it, take the lock."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ansible.module_utils.app_store import HeldError, Lock, Releases
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: app_releases
short_description: Tells the releases of an app, and takes the lock on its deploys
description:
  - Returns what is known of each release on the host. Changes nothing but the lock.
  - With I(lock), fails when somebody else deploys the app and is not done within I(wait_seconds), and says who, since
    when and what. A lock whose holder was killed frees itself 45 seconds after the holder's last step on the host.
options:
  app:
    description: Name of the app.
    type: str
    required: true
  home:
    description: Directory of the app on the host.
    type: path
    required: true
  env:
    description: Text of an environment file; the releases that have just this one are returned as I(same_env).
    type: str
  lock:
    description: Who takes the lock, as C(token), C(who), C(since) and C(what).
    type: dict
  break_lock:
    description: Take the lock whoever has it.
    type: bool
    default: false
  wait_seconds:
    description: How long to wait for the lock.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Read the releases
  app_releases:
    app: shop
    home: /srv/www/shop
"""

RETURN = r"""
releases:
  description:
    - C(number), C(build), C(version), C(who), C(when), C(what), C(state), C(reason) and C(released) of each release,
      the oldest first.
  type: list
  elements: dict
  returned: always
served:
  description: Number of the release that last worked on the whole site, null where there is none.
  type: int
  returned: always
current:
  description: Number of the release that processes start on.
  type: int
  returned: always
same_env:
  description: Numbers of the releases whose environment is I(env).
  type: list
  elements: int
  returned: always
"""


def has_env(releases: Releases, number: int, env: str) -> bool:
    path = releases.directory(number) / "env"
    return path.exists() and hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(env.encode()).digest()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "env": {"type": "str", "no_log": True},
            "lock": {
                "type": "dict",
                "no_log": False,
                "options": {
                    "token": {"type": "str", "required": True, "no_log": False},
                    "who": {"type": "str", "required": True},
                    "since": {"type": "str", "required": True},
                    "what": {"type": "str", "required": True},
                },
            },
            "break_lock": {"type": "bool", "default": False},
            "wait_seconds": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    app, home, env = module.params["app"], Path(module.params["home"]), module.params["env"]
    lock: dict[str, Any] | None = module.params["lock"]
    if lock and not module.check_mode:
        if not home.is_dir():
            module.fail_json(msg=f"{app} is not set up on this host yet: run  site.yml  first")
        try:
            Lock(app, lock["token"]).take(lock, module.params["break_lock"], module.params["wait_seconds"])
        except HeldError as problem:
            module.fail_json(msg=str(problem))
    releases = Releases(home)
    module.exit_json(
        changed=False,
        releases=releases.all(),
        served=releases.at(".served"),
        current=releases.at("current"),
        same_env=[number for number in releases.numbers() if env is not None and has_env(releases, number, env)],
    )


if __name__ == "__main__":
    main()
