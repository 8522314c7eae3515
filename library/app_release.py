#!/usr/bin/python3
"""Run the release command of an app, before the app is switched to its release."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.app_store import HeldError, Lock, Releases
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: app_release
short_description: Runs an app's release command, such as its migrations
description:
  - Runs the Procfile's C(release) command in the environment of a release that app_build has built.
  - Meant for one host of the site, after every host has built the release and before any serves it.
  - Changes something whenever it runs, and is skipped in check mode.
options:
  app:
    description: Name of the app.
    type: str
    required: true
  home:
    description: Directory of the app on the host.
    type: path
    required: true
  number:
    description: Number of the release.
    type: int
    required: true
  token:
    description: Token of the lock that app_releases took.
    type: str
    required: true
  environment:
    description: What the command is given beside, or in place of, the app's own variables.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Run the release command
  app_release:
    app: shop
    home: /srv/www/shop
    number: 12
    token: "{{ token }}"
  when: inventory_hostname == app_release_host
"""

RETURN = r"""
output:
  description: What the command said.
  type: str
  returned: when it ran
"""

APP_RUN = "/usr/local/bin/app-run"
LINES = 20


def run_command(module: AnsibleModule, releases: Releases) -> None:
    app, number, environment = module.params["app"], module.params["number"], module.params["environment"]
    keep = ["--keep", ",".join(environment)] if environment else []
    command = [APP_RUN, app, "--release", f"v{number}", *keep, "--process", "release"]
    code, out, said = module.run_command(command, environ_update=environment)
    # What an app says of a failure may hold what it was given.
    module.no_log_values |= releases.secrets(number)
    output = (out + said).strip()
    if code != 0:
        end = output.splitlines()[-LINES:] or ["it said nothing"]
        story = f"the release command of {app} v{number} failed with exit code {code}, and nothing was switched"
        module.fail_json(msg="\n".join([f"{story}. The end of its output:", *end]), outcome=f"{story}: {end[-1]}")
    releases.change(number, released=True)
    module.exit_json(changed=True, output=output)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "number": {"type": "int", "required": True},
            "token": {"type": "str", "required": True, "no_log": False},
            "environment": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    releases = Releases(Path(module.params["home"]))
    if module.check_mode:
        module.exit_json(changed=True)
    try:
        with Lock(module.params["app"], module.params["token"]).hold():
            run_command(module, releases)
    except (HeldError, OSError) as problem:
        module.fail_json(msg=str(problem))


if __name__ == "__main__":
    main()
