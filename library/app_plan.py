#!/usr/bin/python3
"""Documentation of the action plugin app_plan, which does all of its work on the controller."""

DOCUMENTATION = r"""
module: app_plan
short_description: Decides which numbered release of an app the whole site is to run
description:
  - Runs once for the site, on the controller, on what app_releases said of every host.
  - A release that has the wanted build and environment already, and serves or was interrupted, is taken as it is;
    else the next number is given.
  - After a rollback, C(site) leaves what was rolled back alone and C(deploy) takes it again. C(config) takes the build
    that serves. C(rollback) takes build and environment of an earlier release.
options:
  app:
    description: Name of the app.
    type: str
    required: true
  mode:
    description: What the run is for.
    type: str
    choices: [site, deploy, config, rollback]
    required: true
  begun:
    description: Name of the variable that holds each host's result of app_releases.
    type: str
    required: true
  wanted:
    description: The build that the inventory asks for, as C(build) and C(version).
    type: dict
    required: true
  run:
    description: Who runs this and since when, as C(who) and C(since).
    type: dict
    required: true
  release:
    description: Where a rollback goes, such as C(v12); empty for the release that served before.
    type: str
    default: ""
  note:
    description: What to write down of a change of config.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Decide on the release
  app_plan:
    app: shop
    mode: deploy
    begun: __app_begun
    wanted: {build: 0a1b2c3d4e, version: main}
    run: {who: ann@laptop, since: "2026-05-04 10:00:00 UTC"}
  run_once: true
"""

RETURN = r"""
number:
  description: Number of the release that the site is to run.
  type: int
  returned: always
new:
  description: No host has it yet.
  type: bool
  returned: always
build:
  description: Name of its build.
  type: str
  returned: always
about:
  description: What is written down of it, as C(version), C(who), C(when) and C(what).
  type: dict
  returned: always
env_from:
  description: Number of the release whose environment it takes over, null where it takes that of the inventory.
  type: int
  returned: always
serving:
  description: Number of the release that serves now, null where there is none.
  type: int
  returned: always
release_command:
  description: The release command is due, where the Procfile has one.
  type: bool
  returned: always
held:
  description: Why the release is not what the inventory asks for; empty where it is.
  type: str
  returned: always
"""
