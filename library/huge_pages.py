#!/usr/bin/python3
"""Set huge pages aside for a service, beside those that others have."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.huge_pages import HugePages

DOCUMENTATION = r"""
module: huge_pages
short_description: Sets huge pages aside, now and at each boot
description:
  - Raises or lowers C(vm.nr_hugepages) so that I(pages) are there beside those that others have, and keeps it for the
    next boot. What is ours is recorded in C(/etc/offramp/huge_pages).
  - Where the kernel does not allow it (in a container), or has not as much memory in one piece, everything stays as it
    was and I(notice) says so. A service that asks for huge pages with C(try) then starts on ordinary ones.
options:
  pages:
    description: How many pages of the default size the service takes; 0 gives them back.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Set huge pages aside
  huge_pages:
    pages: 2120
"""

RETURN = r"""
notice:
  description: Why there are none, in a sentence; empty when all are there.
  type: str
  returned: always
reserved:
  description: How many pages are there for the service, or would be in check mode.
  type: int
  returned: always
"""


def keep(host: HugePages, pages: int, check_mode: bool) -> dict[str, Any]:
    if host.is_as(pages):
        return {"changed": False, "notice": "", "reserved": pages}
    if notice := host.forbidden:
        return {"changed": False, "notice": notice, "reserved": 0}
    notice = "" if check_mode else host.have(pages)
    return {"changed": not notice, "notice": notice, "reserved": host.ours if notice else pages}


def main() -> None:
    module = AnsibleModule(argument_spec={"pages": {"type": "int", "required": True}}, supports_check_mode=True)
    if module.params["pages"] < 0:
        module.fail_json(msg=f"pages must be 0 or more, not {module.params['pages']}")
    try:
        module.exit_json(**keep(HugePages(), module.params["pages"], module.check_mode))
    except OSError as problem:
        module.fail_json(msg=f"huge pages: {problem}")


if __name__ == "__main__":
    main()
