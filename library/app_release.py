#!/usr/bin/python3
"""Run the release command of an app, before the app is switched to its release."""

from __future__ import annotations

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
  release:
    description: Name of the release.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Run the release command
  app_release:
    app: shop
    release: 0a1b2c3d4e
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


def main() -> None:
    module = AnsibleModule(
        argument_spec={"app": {"type": "str", "required": True}, "release": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    app, release = module.params["app"], module.params["release"]
    if module.check_mode:
        module.exit_json(changed=True)
    code, out, said = module.run_command([APP_RUN, app, "--release", release, "--process", "release"])
    output = (out + said).strip()
    if code != 0:
        end = "\n".join(output.splitlines()[-LINES:])
        module.fail_json(
            msg=f"{app}: the release command of {release} failed with exit code {code}, and no process was switched. "
            f"The end of its output:\n{end}"
        )
    module.exit_json(changed=True, output=output)


if __name__ == "__main__":
    main()
