#!/usr/bin/python3
"""Documentation of the action plugin site_init, which does all of its work on the controller."""

DOCUMENTATION = r"""
module: site_init
short_description: Writes the inventory of a new site
description:
  - Makes C(hosts.yml), C(group_vars/all/site.yml) and C(group_vars/all/apps.yml) from those of C(inventory/example).
  - A site that is there already keeps every line of its files, whatever else is given.
  - Every mistake in what is given is told at once, and nothing is written until there is none.
options:
  site:
    description: Name of the site, a folder of C(inventory/); with a slash in it, the path of its folder.
    type: str
    required: true
  web:
    description: >-
      The web servers, with commas between them, each as C(host[:port][=private address]). The host is an address or a
      name that ssh reaches, the port that of ssh.
    type: str
  db:
    description: The database server and its standby, in the same form. Left out, the first web server has the database.
    type: str
  key:
    description: File with the operator's public key.
    type: path
  user:
    description: Who logs in for the first run, root or one who may use sudo.
    type: str
author: [Offramp]
"""

EXAMPLES = r"""
- name: Write the inventory
  site_init:
    site: mysite
    web: 203.0.113.11=10.0.0.11
    db: 203.0.113.21=10.0.0.21
    key: ~/.ssh/id_ed25519.pub
    user: root
"""

RETURN = r"""
directory:
  description: The site's folder.
  returned: success
  type: str
targets:
  description: Where ssh goes for each server, with C(name), C(host) and C(port).
  returned: success
  type: list
  elements: dict
"""
