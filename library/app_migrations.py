#!/usr/bin/python3
"""Name the migrations that the database has and an older release does not know."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.app_store import Releases
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: app_migrations
short_description: Names the migrations that the database has and an older release of an app does not know
description:
  - Asks the Django of both releases which migrations are applied. What the serving release knows as applied and the
    older one does not know at all is ahead of it.
  - Of an app that is not Django's, nothing can be known; C(known) is then false.
  - Changes nothing. Fails where migrations are ahead, unless I(accept).
options:
  app:
    description: Name of the app.
    type: str
    required: true
  home:
    description: Directory of the app on the host.
    type: path
    required: true
  serving:
    description: Number of the release that serves.
    type: int
    required: true
  target:
    description: Number of the release that is to serve.
    type: int
    required: true
  accept:
    description: Go on although migrations are ahead.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Look for migrations that v11 does not know
  app_migrations:
    app: shop
    home: /srv/www/shop
    serving: 12
    target: 11
"""

RETURN = r"""
known:
  description: Whether it could be found out.
  type: bool
  returned: always
ahead:
  description: The migrations, as C(app.name).
  type: list
  elements: str
  returned: always
"""

APP_RUN = "/usr/local/bin/app-run"
APPLIED = re.compile(r"^\[X\]\s+(\S+)", re.MULTILINE)
KNOWN = re.compile(r"^\[[X ]\]\s+(\S+)", re.MULTILINE)


def listed(module: AnsibleModule, releases: Releases, number: int) -> str | None:
    """Return what a release's Django says of its migrations."""
    code = releases.directory(number) / "code"
    manage = sorted(code.glob("manage.py")) or sorted(code.glob("*/manage.py"))
    if not manage or not list(code.glob(".venv/lib/python*/site-packages/django")):
        return None
    line = f"python {manage[0].relative_to(code)} showmigrations --plan"
    failed, out, _said = module.run_command([APP_RUN, module.params["app"], "--release", f"v{number}", line])
    return None if failed else out


def ahead(serving: str, target: str) -> list[str]:
    known = set(KNOWN.findall(target))
    return [name for name in APPLIED.findall(serving) if name not in known]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "serving": {"type": "int", "required": True},
            "target": {"type": "int", "required": True},
            "accept": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    app, target = module.params["app"], module.params["target"]
    releases = Releases(Path(module.params["home"]))
    texts = [listed(module, releases, number) for number in (module.params["serving"], target)]
    known = None not in texts
    found = ahead(*texts) if known else []
    if found and not module.params["accept"]:
        names = ", ".join(found)
        module.fail_json(
            msg=f"the database of {app} has migrations that v{target} does not know: {names}. Its code may not work "
            "with them. If it does, go on with  -e migrations_ahead=accept",
            ahead=found,
        )
    module.exit_json(changed=False, known=known, ahead=found)


if __name__ == "__main__":
    main()
