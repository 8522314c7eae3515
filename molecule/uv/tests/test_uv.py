"""The tool that makes the apps' environments, as they and the system meet it."""

import json
import re
import subprocess
from pathlib import Path

PINNED = Path("roles/uv/files/uv.txt")
OLDER = Path("molecule/uv/files/older.txt")


def version(requirements):
    return re.search(r"^uv==(\S+)", requirements, re.MULTILINE)[1]


def running(host):
    return host.check_output("/opt/uv/bin/uv --version").split()[1]


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def install(requirements):
    options = {"requirements": requirements, "directory": "/opt/uv"}
    return run("ansible", "web", "--module-name=uv_install", f"--args={json.dumps(options)}")


def test_the_pinned_version_runs_for_the_user_of_an_app_who_cannot_change_it(host):
    with host.sudo("nobody"):
        assert running(host) == version(PINNED.read_text())
        assert host.run("touch /opt/uv/bin/uv").rc != 0


def test_the_systems_python_knows_nothing_of_it(host):
    assert host.run("/usr/bin/python3 -c 'import uv'").rc != 0
    assert host.run("command -v uv").rc != 0


def test_a_download_that_is_not_the_pinned_one_is_refused_and_the_old_one_stays(host):
    refused = install(re.sub(r"sha256:.{8}", "sha256:00000000", OLDER.read_text()))
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stdout
    assert running(host) == version(PINNED.read_text())


def test_an_older_version_is_replaced_by_the_pinned_one_once(host):
    assert install(OLDER.read_text()).returncode == 0
    assert running(host) == version(OLDER.read_text())
    for changed in (1, 0):
        done = run("ansible-playbook", "playbooks/services.yml", "--tags=uv")
        assert re.search(rf"changed={changed}\b", done.stdout), done.stdout
        assert running(host) == version(PINNED.read_text())
