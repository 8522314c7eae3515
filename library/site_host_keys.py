#!/usr/bin/python3
"""Documentation of the action plugin site_host_keys, which does all of its work on the controller."""

DOCUMENTATION = r"""
module: site_host_keys
short_description: Asks servers that ssh does not know yet for their host keys
description:
  - Reads the ed25519 key of each server that is not among the known hosts, by C(ssh-keyscan). It trusts none of them -
    whoever compares the fingerprints does.
  - Fails with the names of all servers that do not answer.
options:
  targets:
    description: The servers, each with C(name), C(host) and C(port), as M(site_init) returns them.
    type: list
    elements: dict
    required: true
  known_hosts:
    description: File of known hosts.
    type: path
    required: true
author: [Offramp]
"""

EXAMPLES = r"""
- name: Ask the servers for their keys
  site_host_keys:
    targets: [{name: web1, host: 203.0.113.11, port: 22}]
    known_hosts: ~/.ssh/known_hosts
"""

RETURN = r"""
unknown:
  description: >-
    The servers that ssh does not know, each with C(known_as), its name among the known hosts, C(key), its line there,
    and C(fingerprint).
  returned: success
  type: list
  elements: dict
"""
