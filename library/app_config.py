#!/usr/bin/python3
"""Documentation of the action plugin app_config, which does all of its work on the controller."""

DOCUMENTATION = r"""
module: app_config
short_description: Sets and unsets config vars of an app in the site's inventory
description:
  - Writes C(group_vars/all/config_vars.yml) of the inventory, encrypted where the run has a vault password, and touches
    no other file. What stands there goes before C(config) of the list C(apps).
  - The variables C(set) (values by name) and C(unset) (a list of names) say what to do. They are read as given
    and not as templates, so that every value arrives byte for byte.
  - Unsetting what the list C(apps) sets leaves an empty entry there, which takes it away.
  - Shows no value. C(state=checked) looks for mistakes only, and its result holds nothing secret; the result of
    C(state=written) does, and belongs under C(no_log).
options:
  app:
    description: Name of the app.
    type: str
    required: true
  apps:
    description: The list C(apps) of the inventory.
    type: list
    elements: dict
  state:
    description: Whether to look for mistakes, to write, or to put back what was there.
    type: str
    choices: [checked, written, restored]
    default: written
  previous:
    description: Text of the file before. Without it, C(state=restored) does nothing.
    type: str
"""

EXAMPLES = r"""
- name: Set a colour
  app_config:
    app: shop
    apps: "{{ apps }}"
  vars:
    set: {COLOR: blue}
  run_once: true
  no_log: true
  register: edited
"""

RETURN = r"""
note:
  description: What was changed, by name.
  type: str
  returned: C(state=checked) and C(state=written)
config_vars:
  description: The whole content of the file.
  type: dict
  returned: C(state=written)
previous:
  description: Text of the file before; empty where there was none.
  type: str
  returned: C(state=written)
"""
