#!/usr/bin/python3
"""Gather the few facts that the roles use."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_facts import host_facts

DOCUMENTATION = r"""
module: host_facts
short_description: Gathers the few facts that the roles use
description:
  - Takes the place of M(ansible.builtin.setup) when a play gathers facts (C(facts_modules) in ansible.cfg), under the
    same names, in a fraction of its time.
  - C(memtotal_mb), C(processor_vcpus) and C(processor_nproc) are what may be used, the least of the machine's and of
    the limits of every control group above, version 1 and 2. C(huge_pages_mib) is what the kernel has set aside in
    huge pages for others than our own services. C(postgresql_version) is the major version of the cluster that is
    there, which an upgrade of Debian leaves as it is, and C(postgresql_release_version) the one that this Debian has,
    and that a host without a cluster gets.
author: [Offramp]
"""

EXAMPLES = r"""
- name: Look at the server
  host_facts:
"""

RETURN = r"""
ansible_facts:
  description: The facts.
  returned: always
  type: dict
"""


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.exit_json(changed=False, ansible_facts=host_facts())


if __name__ == "__main__":
    main()
