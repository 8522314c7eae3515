"""Let tests import modules as Ansible does: module_utils of this repository inside ansible.module_utils."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

ansible.module_utils.__path__.append(str(Path(__file__).parents[2] / "module_utils"))
