#!/usr/bin/python3
"""Install uv by version and hash, into an environment of its own."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: uv_install
short_description: Installs uv by version and hash, into an environment of its own
description:
  - Debian has no uv, and C(ansible.builtin.pip) would first unpack a pip that is used once, which takes longer than all
    the rest. Debian's pip runs from its wheel here.
  - What was installed is known by a hash over I(requirements); anything else is made anew, an interrupted install too.
options:
  requirements:
    description: Lines of a requirements file, with hashes.
    type: str
    required: true
  directory:
    description: Directory of the environment.
    type: path
    required: true
  index_url:
    description: Package index; empty for pip's own default.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Install uv
  uv_install:
    requirements: "{{ lookup('ansible.builtin.file', 'uv.txt') }}"
    directory: /opt/uv
"""

RETURN = r""" # """

PYTHON = "/usr/bin/python3"
# Of the package python3-pip-whl, which python3-venv needs
WHEELS = Path("/usr/share/python-wheels")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def install(module: AnsibleModule, directory: Path, requirements: str) -> None:
    wheel = max(WHEELS.glob("pip-*.whl"), default=None)
    if wheel is None:
        module.fail_json(msg=f"uv cannot be installed: {WHEELS} has no pip, so the package python3-venv is missing")
    environment = {"PIP_CERT": CERTIFICATES, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_CACHE_DIR": "1"}
    if module.params["index_url"]:
        # In the environment and not among the arguments, since it may hold a password.
        environment["PIP_INDEX_URL"] = module.params["index_url"]
    # What is there serves until the new one is whole; uv is one binary, which can be moved.
    fresh = Path(f"{directory}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with tempfile.NamedTemporaryFile("w", prefix="uv-", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", file.name]
        for command in (
            [PYTHON, "-m", "venv", "--without-pip", str(fresh)],
            [str(fresh / "bin/python"), f"{wheel}/pip", "install", *options],
        ):
            code, out, said = module.run_command(command, environ_update=environment)
            if code != 0:
                shutil.rmtree(fresh, ignore_errors=True)
                module.fail_json(msg=f"uv cannot be installed:\n{(said or out).strip()}")
    shutil.rmtree(directory, ignore_errors=True)
    fresh.rename(directory)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "requirements": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            # May hold a password.
            "index_url": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    directory, requirements = Path(module.params["directory"]), module.params["requirements"]
    wanted = hashlib.sha256(requirements.encode()).hexdigest()
    note = directory / "requirements.sha256"

    def is_there() -> bool:
        return note.exists() and note.read_text() == wanted

    changed = not is_there()
    if changed and not module.check_mode:
        with Path(f"{directory}.lock").open("w") as lock:
            # An install may go on although the run that began it was killed.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_there():
                install(module, directory, requirements)
                note.write_text(wanted)
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
