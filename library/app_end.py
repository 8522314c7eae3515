#!/usr/bin/python3
"""Write down how the deploy of a release ended, tidy up, and free the lock."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.app_store import BUILDING, FAILED, ROLLED_BACK, SERVED, SERVING, HeldError, Lock, Releases
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: app_end
short_description: Writes down how the deploy of a release ended, tidies up and frees the lock
description:
  - C(serving) remembers the release as the one to go back to when a later one fails, and removes old releases.
  - C(failed) marks it, with the reason, so that it is never gone back to. A release that served before stays as it is.
  - C(free) only frees the lock.
options:
  app:
    description: Name of the app.
    type: str
    required: true
  home:
    description: Directory of the app on the host.
    type: path
    required: true
  token:
    description: Token of the lock that app_releases took.
    type: str
    required: true
  state:
    description: How it ended.
    type: str
    choices: [serving, failed, free]
    required: true
  number:
    description: Number of the release; needed unless I(state=free).
    type: int
  leaves:
    description: Number of the release that was left for being bad.
    type: int
  keep:
    description: How many releases are kept.
    type: int
    default: 5
"""

EXAMPLES = r"""
- name: Keep the release
  app_end:
    app: shop
    home: /srv/www/shop
    number: 12
    token: "{{ token }}"
    state: serving
"""

RETURN = r"""
removed:
  description: Releases and builds that were removed.
  type: list
  elements: str
  returned: always
reason:
  description: What went wrong, on which host, in one line.
  type: str
  returned: I(state=failed) and I(state=free)
"""


def serve(releases: Releases, number: int, leaves: int | None) -> bool:
    changed = releases.change(number, state=SERVING)
    for release in releases.all():
        other = release["number"]
        if other == number:
            continue
        if release["state"] == SERVING:
            changed |= releases.change(other, state=ROLLED_BACK if other == leaves else SERVED)
        elif release["state"] == BUILDING:
            changed |= releases.change(other, state=FAILED, reason="it was cut off")
    if releases.at(".served") != number:
        releases.point(".served", number)
        changed = True
    return changed


def fail(releases: Releases, number: int, reason: str) -> bool:
    if releases.read(number).get("state") != BUILDING:
        return False
    return releases.change(number, state=FAILED, reason=reason)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "token": {"type": "str", "required": True, "no_log": False},
            "state": {"type": "str", "choices": ["serving", "failed", "free"], "required": True},
            "number": {"type": "int"},
            "leaves": {"type": "int"},
            "keep": {"type": "int", "default": 5},
            # Found by the action plugin.
            "reason": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
        required_if=[("state", "serving", ["number"]), ("state", "failed", ["number"])],
    )
    wish = module.params
    releases, lock = Releases(Path(wish["home"])), Lock(wish["app"], wish["token"])
    changed, removed = False, []
    if module.check_mode:
        changed = wish["state"] == "serving" and releases.at(".served") != wish["number"]
    elif wish["state"] == "free":
        lock.release()
    else:
        try:
            with lock.hold():
                if wish["state"] == "serving":
                    changed = serve(releases, wish["number"], wish["leaves"])
                else:
                    changed = fail(releases, wish["number"], wish["reason"])
                removed = releases.prune(wish["keep"])
                # Static files that no build has any more.
                kept = str(releases.home / "assets/kept")
                if removed:
                    module.run_command(["find", kept, "-type", "f", "-links", "1", "-delete"])
            lock.release()
        except (HeldError, OSError) as problem:
            module.fail_json(msg=f"{wish['app']}: {problem}")
    module.exit_json(changed=changed or bool(removed), removed=removed, reason=wish["reason"])


if __name__ == "__main__":
    main()
