"""The action heroku_import writes into a site's inventory, in each way in which a site may keep its secrets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

from action_plugins.heroku_import import Importer, RefusedError

BIN = Path(sys.executable).parent
PLANTED = "plantedsecret0123456789"
CONFIG = {
    "DATABASE_URL": f"postgres://u:{PLANTED}@h/d",
    "API_TOKEN": PLANTED,
    "ODD_KEY": f"{PLANTED}{{{{ x }}}}'\"\\\n%ü",
    "LOG_LEVEL": "INFO",
}
APPS = """\
apps:
  # The first
  - name: blog
    source: examples/errorlog   # as it was
"""
HOSTS = "web: {hosts: {web1: {ansible_host: 192.0.2.1}}}\ndb: {hosts: {db1: {ansible_host: 192.0.2.2}}}\n"
LAB = "vault_redis_password: \"{{ lookup('ansible.builtin.password', lab_directory ~ '/secrets/redis') }}\"\n"


class Loader:
    """As much of Ansible's loader as the action uses."""

    def __init__(self, password: str | None) -> None:
        self._vault = VaultLib([("default", VaultSecret(password.encode()))] if password else [])

    def load(self, text, **_options):
        class Opened(yaml.SafeLoader):
            """Opens each value that is encrypted."""

        Opened.add_constructor("!vault", lambda _loader, node: self._vault.decrypt(node.value).decode())
        return Opened(text).get_single_data()


@pytest.fixture
def site(tmp_path):
    """Return a site of one app, with an app beside it that has every file that is read."""
    site = tmp_path / "site"
    (site / "group_vars/all").mkdir(parents=True)
    (site / "hosts.yml").write_text(HOSTS)
    (site / "group_vars/all/apps.yml").write_text(APPS)
    source = tmp_path / "source"
    source.mkdir()
    (source / "Procfile").write_text("web: gunicorn shop:app\n")
    (source / "requirements.txt").write_text("gunicorn\n")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return site


def importer(site, opens="right", lab="", **arguments):
    given = {
        "app": "shop",
        "source": str(site.parent / "source"),
        "config_json": str(site.parent / "config.json"),
        "domains": "shop.example",
        **arguments,
    }
    return Importer(given, [str(site)], Loader(opens), lab)


def run(site, *, overwrite=False, dry=False, **arguments):
    return importer(site, **arguments).run(overwrite, dry)


def vault(site):
    return site / "group_vars/all/vault.yml"


def apps(site):
    return (site / "group_vars/all/apps.yml").read_text()


def encrypted(text, vault_id=None):
    return VaultLib([]).encrypt(text, secret=VaultSecret(b"right"), vault_id=vault_id).decode()


def decrypted(path):
    return VaultLib([("default", VaultSecret(b"right"))]).decrypt(path.read_bytes()).decode()


def rendered(site, **variables):
    """Return the app as Ansible itself reads it from the site."""
    file = site.parent / "password"
    file.write_text("right")
    command = [
        BIN / "ansible",
        "-i",
        site,
        "db1",
        "-c",
        "local",
        "-m",
        "ansible.builtin.debug",
        "-a",
        "msg={{ apps[1] | to_json }}",
    ]
    environment = {**os.environ, "ANSIBLE_VAULT_PASSWORD_FILE": str(file)}
    extra = ["-e", json.dumps(variables)]
    done = subprocess.run([*command, *extra], env=environment, capture_output=True, text=True, check=True)
    return json.loads(yaml.safe_load(done.stdout.partition("=> ")[2])["msg"])


def test_a_new_app_is_added_and_what_was_there_stays(site):
    vault(site).write_text(encrypted("# ours\nvault_redis_password: abc\n"))
    result = run(site)
    assert result["changed"]
    assert apps(site).startswith(APPS)
    assert "config API_TOKEN: in the vault" in result["report"]
    assert decrypted(vault(site)).startswith("# ours\nvault_redis_password: abc\n")


def test_ansible_reads_every_value_back_byte_for_byte(site):
    vault(site).write_text(encrypted("vault_redis_password: abc\n"))
    run(site)
    assert rendered(site)["config"] == {name: CONFIG[name] for name in ("API_TOKEN", "ODD_KEY", "LOG_LEVEL")}


def test_a_vault_stays_encrypted_with_its_own_label(site):
    vault(site).write_text(encrypted("a: b\n", vault_id="prod"))
    run(site)
    assert vault(site).read_text().startswith("$ANSIBLE_VAULT;1.2;AES256;prod\n")
    assert yaml.safe_load(decrypted(vault(site)))["vault_shop_api_token"] == PLANTED


def test_a_site_with_a_password_and_no_vault_gets_an_encrypted_one_for_its_owner_alone(site):
    run(site)
    assert yaml.safe_load(decrypted(vault(site)))["vault_shop_api_token"] == PLANTED
    assert vault(site).stat().st_mode & 0o777 == 0o600


def test_a_database_password_is_made_once(site):
    run(site)
    first = yaml.safe_load(decrypted(vault(site)))["vault_database_passwords"]["shop"]
    run(site, overwrite=True, version="")
    assert len(first) == 40
    assert yaml.safe_load(decrypted(vault(site)))["vault_database_passwords"]["shop"] == first


def test_into_a_readable_vault_each_value_goes_encrypted_by_itself(site):
    vault(site).write_text("# ours\nvault_redis_password: abc\n")
    run(site)
    assert vault(site).read_text().startswith("# ours\nvault_redis_password: abc\n")
    assert PLANTED not in vault(site).read_text()
    assert rendered(site)["config"]["ODD_KEY"] == CONFIG["ODD_KEY"]
    assert not run(site)["changed"]


def test_a_readable_vault_without_a_password_is_left_alone(site):
    vault(site).write_text("vault_redis_password: abc\n")
    with pytest.raises(RefusedError, match="nothing is written there in clear"):
        run(site, opens=None)
    assert vault(site).read_text() == "vault_redis_password: abc\n"
    assert apps(site) == APPS


def test_no_vault_and_no_password_says_what_makes_one(site):
    with pytest.raises(RefusedError, match=r"run  script/secrets \S*site"):
        run(site, opens=None)
    assert apps(site) == APPS


def test_the_lab_keeps_secrets_in_files_that_git_ignores(site):
    vault(site).write_text(LAB)
    lab = site.parent / "lab"
    run(site, opens=None, lab=str(lab), domains="")
    assert PLANTED not in vault(site).read_text() + apps(site)
    assert (lab / "secrets/shop-api-token").stat().st_mode & 0o777 == 0o600
    assert rendered(site, lab_directory=str(lab))["config"]["ODD_KEY"] == CONFIG["ODD_KEY"]
    assert "domains: [shop.localhost]" in apps(site)
    assert not run(site, opens=None, lab=str(lab), domains="")["changed"]


def test_a_lab_that_git_would_keep_gets_no_secret(site):
    vault(site).write_text(LAB)
    subprocess.run(["git", "init", "--quiet", site.parent], check=True)
    with pytest.raises(RefusedError, match="not ignored by git"):
        run(site, opens=None, lab=str(site.parent / "lab"))
    assert not (site.parent / "lab").exists()


def test_check_mode_reports_and_writes_nothing(site):
    before = sorted(site.parent.rglob("*"))
    result = run(site, dry=True)
    assert result["changed"]
    assert "taken over:" in result["report"]
    assert apps(site) == APPS
    assert sorted(site.parent.rglob("*")) == before


def test_a_second_import_changes_nothing(site):
    run(site)
    before = vault(site).read_bytes(), apps(site)
    result = run(site)
    assert not result["changed"]
    assert (vault(site).read_bytes(), apps(site)) == before


def test_an_app_that_is_there_is_changed_only_when_told(site):
    run(site)
    before = vault(site).read_bytes(), apps(site)
    refused = run(site, formation="web=5")
    assert refused["failed"]
    assert "differs in processes" in refused["msg"]
    assert "-e overwrite=true" in refused["msg"]
    assert (vault(site).read_bytes(), apps(site)) == before
    assert run(site, formation="web=5", overwrite=True)["changed"]
    assert "processes: {web: 5}" in apps(site)


def test_a_secret_that_changed_is_taken_over_only_when_told(site):
    run(site)
    (site.parent / "config.json").write_text(json.dumps({**CONFIG, "API_TOKEN": "another" * 3}))
    assert "other secrets in the vault" in run(site)["msg"]
    run(site, overwrite=True)
    assert yaml.safe_load(decrypted(vault(site)))["vault_shop_api_token"] == "another" * 3


def test_what_a_person_added_to_the_entry_stays(site):
    run(site)
    file = site / "group_vars/all/apps.yml"
    file.write_text(apps(site) + "    health_path: /up  # answers without the database\n")
    result = run(site, formation="web=5", overwrite=True)
    assert "health_path: /up  # answers without the database\n" in apps(site)
    assert "kept of the entry that was there, keys: health_path" in result["report"]


def test_an_entry_that_the_site_would_refuse_is_not_written(site):
    with pytest.raises(RefusedError, match="cannot name a system user"):
        run(site, app="My_Shop")
    with pytest.raises(RefusedError, match='an app cannot be named "postgres"'):
        run(site, app="postgres")
    assert apps(site) == APPS
    assert not vault(site).exists()


@pytest.mark.parametrize("text", [f"not json {PLANTED}", f'["{PLANTED}"]', f'{{"A": {{"B": "{PLANTED}"}}}}'])
def test_a_config_file_of_another_shape_is_refused_without_its_content(site, text):
    (site.parent / "config.json").write_text(text)
    with pytest.raises(RefusedError, match=r"config_json: .* heroku config --json") as refused:
        run(site)
    assert PLANTED not in str(refused.value)


def test_a_source_that_cannot_be_had_is_named_without_its_password(site):
    with pytest.raises(RefusedError, match="source: there is no directory /nowhere"):
        run(site, source="/nowhere")
    with pytest.raises(RefusedError, match="source: git") as refused:
        run(site, source=f"file://me:{PLANTED}@/nowhere/shop.git")
    assert PLANTED not in str(refused.value)


def test_no_secret_is_in_what_a_run_shows(site):
    with (site / "group_vars/all/apps.yml").open("a") as file:
        file.write(f"    config: {{BLOG_TOKEN: {PLANTED}}}\n")
    result = run(site)
    assert "BLOG_TOKEN" in result["diff"]["before"]
    assert PLANTED not in json.dumps(result)


def test_of_several_inventories_the_one_with_the_apps_is_written(site, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "hosts.yml").write_text(HOSTS)
    given = {"app": "shop", "source": str(tmp_path / "source"), "domains": "shop.example"}
    found = Importer(given, [str(site), str(other), "host,"], Loader("right"), "")
    assert found.site == site


@pytest.mark.parametrize(("present", "number"), [("", 1), ("    services: [postgresql]\n", None)])
def test_an_app_gets_a_database_of_redis_that_no_other_app_has(site, present, number):
    (site / "group_vars/all/apps.yml").write_text(APPS + present)
    (site.parent / "source/shop.py").write_text('import os\nos.environ["REDIS_URL"]\nos.environ["REDISCLOUD_URL"]\n')
    vault(site).write_text(encrypted("vault_redis_password: abc\n"))
    run(site)
    entry = yaml.safe_load(apps(site))["apps"][1]
    assert entry.get("redis_database") == number
    run(site)
    assert yaml.safe_load(apps(site))["apps"][1] == entry
