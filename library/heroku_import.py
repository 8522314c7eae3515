#!/usr/bin/python3
"""Documentation of the action plugin heroku_import, which does all of its work on the controller."""

DOCUMENTATION = r"""
module: heroku_import
short_description: Writes a Heroku app's entry and its secrets into the site's inventory
description:
  - Reads the app's source (Procfile, app.json, the version of Python, the dependency files, the code) and its config
    vars, and writes the app's entry into C(group_vars/all/apps.yml) of the site whose inventory the run was given.
    Comments, order and other entries there stay.
  - Secrets go into C(group_vars/all/vault.yml). One that is encrypted is opened, and encrypted again with the password
    of the run; into a readable one each value is written encrypted by itself, or in the lab as a lookup of a file
    that git ignores. Where neither can be, nothing is written, and the message says what to do.
  - An app that is there already is changed only with I(overwrite). Keys and config vars of its entry that the import
    does not know stay.
  - Changes nothing on any server, and nothing at all in check mode.
options:
  app:
    description: Name of the app here.
    type: str
    required: true
  source:
    description: A directory or a git URL. Left out, that of the entry which is there.
    type: str
  version:
    description: Branch, tag or commit; also what the entry asks for.
    type: str
  config_json:
    description: File with what C(heroku config --json) prints. Without it the values of app.json count.
    type: path
  domains:
    description: Domains, separated by commas. Left out, those that the config vars name.
    type: str
  formation:
    description: How many of each process, as C(heroku ps:scale) prints it. Left out, as app.json says.
    type: str
  overwrite:
    description: Change the entry and the secrets of an app that is there already.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Bring an app over
  heroku_import:
    app: shop
    source: https://git.example/you/shop.git
    config_json: config.json
"""

RETURN = r"""
report:
  description: What was taken over, what was changed and why, the add-ons, and what needs a look, as text.
  type: str
  returned: once the source has been read
"""
