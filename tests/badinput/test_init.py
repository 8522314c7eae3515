"""A new site: every mistake in the answers at once and nothing written, and what is there is never written again."""

import json
import os
import subprocess

import pytest
import yaml
from conftest import BIN, ROOT

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ1dHRlcmZseWJ1dHRlcmZseWJ1dHRlcmZseWJ1dHQ you@laptop"
# Nothing listens at this port.
WEB, DB = "127.0.0.1:1=192.0.2.11", "127.0.0.2:1=192.0.2.21"


@pytest.fixture
def init(tmp_path):
    """Return a run of init.yml that asks nothing."""
    (tmp_path / "key.pub").write_text(KEY + "\n")
    (tmp_path / "password").write_text("a password\n")

    def run(*words, **answers):
        given = {"site": tmp_path / "site", "web": WEB, "db": DB, "key": tmp_path / "key.pub", "user": "root"} | answers
        done = subprocess.run(
            [BIN / "ansible-playbook", "playbooks/init.yml", *words, "-e", json.dumps(given, default=str)],
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "password"),
                "NO_COLOR": "1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        done.stdout += done.stderr
        return done

    return run


def test_every_mistake_is_told_at_once_and_nothing_is_written(init, tmp_path):
    (tmp_path / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    done = init(site="my site", web="", db="203.0.113.21=", key=tmp_path / "key")
    assert done.returncode != 0
    assert "4 mistakes, and nothing was written" in done.stdout
    for said in (
        '"my site" is no name for a site',
        "there is no server that runs the app",
        '"203.0.113.21=" is no server',
        "is a private key, which never leaves your machine",
    ):
        assert said in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.pub", "password"]


def test_a_single_mistake_is_no_several(init):
    assert "1 mistake, and nothing was written" in init(web="").stdout


@pytest.mark.parametrize("site", ["example", "inventory/lab/"])
def test_the_projects_own_inventories_are_no_new_site(init, site):
    before = subprocess.run(["git", "status", "--short"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "is the project's own" in init(site=site).stdout
    after = subprocess.run(["git", "status", "--short"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert after == before


def test_a_site_is_written_with_its_secrets_and_servers_that_do_not_answer_are_named(init, tmp_path):
    done = init()
    assert done.returncode != 0
    assert "web1: no ssh server answers at 127.0.0.1 port 1" in done.stdout
    assert "db1: no ssh server answers at 127.0.0.2 port 1" in done.stdout
    hosts = yaml.safe_load((tmp_path / "site/hosts.yml").read_text())
    assert hosts["web"]["hosts"] == {"web1": {"ansible_host": "127.0.0.1", "ansible_port": 1, "address": "192.0.2.11"}}
    assert hosts["db"]["hosts"] == {"db1": {"ansible_host": "127.0.0.2", "ansible_port": 1, "address": "192.0.2.21"}}
    values = yaml.safe_load((tmp_path / "site/group_vars/all/site.yml").read_text())
    assert [KEY] in values.values()
    assert (tmp_path / "site/group_vars/all/vault.yml").read_text().startswith("$ANSIBLE_VAULT")


def test_a_second_run_keeps_what_is_there(init, tmp_path):
    init()
    apps = tmp_path / "site/group_vars/all/apps.yml"
    apps.write_text(apps.read_text() + "# mine\n")
    before = {path: path.read_bytes() for path in (tmp_path / "site").rglob("*.yml")}
    done = init(web="203.0.113.99")
    assert {path: path.read_bytes() for path in (tmp_path / "site").rglob("*.yml")} == before
    assert "changed=0" in done.stdout


def test_one_server_has_both(init, tmp_path):
    init(db="")
    hosts = yaml.safe_load((tmp_path / "site/hosts.yml").read_text())
    assert list(hosts["web"]["hosts"]) == list(hosts["db"]["hosts"]) == ["web1"]


def test_a_preview_writes_nothing(init, tmp_path):
    done = init("--check", "--diff")
    assert "+web:" in done.stdout
    assert not (tmp_path / "site").exists()
