"""A site with mistakes is refused with all of them at once, within seconds, and no server hears of it."""

import re
import socket
import subprocess

import pytest

# No benchmark: that nobody waits for a server that keeps silent. On a quiet machine each takes 2 to 8 s.
PATIENCE_SECONDS = 40


def assert_refused(run, *says):
    """Assert that the whole of each text stands in one of the problems, or in the message where there is no list."""
    assert run.code != 0, run.text
    assert run.connections == "", run.text
    assert run.seconds < PATIENCE_SECONDS
    places = run.problems or [run.text]
    missing = [words for words in says if not any(words in place for place in places)]
    assert missing == [], run.text


def test_all_mistakes_are_listed_at_once_with_file_line_and_mending(site):
    site.edit("group_vars/all/apps.yml", "domains:", "domain:")
    site.edit("group_vars/all/apps.yml", "vault_shop_secret_key", "vault_shop_secret")
    site.edit("group_vars/all/apps.yml", "examples/errorlog", "examples/errorlgo")
    site.edit("group_vars/all/site.yml", "base_timezone: Etc/UTC", "base_timezon: Etc/UTC")
    site.edit("group_vars/all/vault.yml", "k7NwqVb2mXz9LpRt4sYc", "changeme")
    site.edit("hosts.yml", "192.0.2.21", "192.0.2.11")
    run = site.play()
    apps, vault = site.path("group_vars/all/apps.yml"), site.path("group_vars/all/vault.yml")
    assert_refused(
        run,
        f'{apps}:4: app "shop" has an unknown key "domain". Did you mean "domains"?',
        "To mend: write  domains: [shop.example]",
        f'{apps}:7: config SECRET_KEY of app "shop" refers to vault_shop_secret, which is not set',
        "To mend: write  vault_shop_secret_key  in place of  vault_shop_secret",
        f'{apps}:3: source of app "shop", "examples/errorlgo", cannot be read',
        "To mend: write  source: examples/errorlog",
        f'{site.path("group_vars/all/site.yml")}:4: the value "base_timezon" means nothing here',
        f"{vault}:5: the secret vault_database_passwords.shop is still a placeholder",
        f"{site.path('hosts.yml')}:6: db1 has the address 192.0.2.11, and so has web1",
    )
    assert len(run.problems) == 6
    assert "6 problems in " in run.text
    assert "changeme" not in run.text


def test_nothing_of_the_site_runs_after_a_refusal(site):
    site.edit("group_vars/all/apps.yml", "domains:", "domain:")
    run = site.play(playbook="site.yml")
    assert_refused(run, 'unknown key "domain"')
    assert run.text.count("PLAY [") == 1


def test_limit_and_check_mode_do_not_hide_a_mistake_of_another_host(site):
    site.edit("hosts.yml", "address: 192.0.2.21", "address: 192.0.2.300")
    assert_refused(site.play("--limit", "web1", "--check"), "address of db1")


def test_tags_do_not_leave_the_preflight_out(site):
    site.edit("group_vars/all/apps.yml", "domains:", "domain:")
    assert_refused(site.play("--tags", "nginx"), 'unknown key "domain"')


def test_an_inventory_without_hosts_is_refused(site):
    (site.directory / "hosts.yml").write_text("web:\ndb:\n")
    run = site.play()
    assert_refused(run, '"web"', '"db"', "ansible_host: 192.0.2.10")
    assert len(run.problems) == 2


def test_a_misspelt_group_is_refused(site):
    site.edit("hosts.yml", "db:\n", "database:\n")
    assert_refused(site.play(), f'{site.path("hosts.yml")}:4: the group "database"', "rename  database:  to  db:")


def test_a_certificate_that_could_not_be_served_is_refused(site, tmp_path):
    """Its key is another's, and it lacks the app's name."""
    for name in ("one", "two"):
        words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", f"/CN={name}"]
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.crt")]
        subprocess.run(
            [*words, "-addext", f"subjectAltName=DNS:{name}.example", *files], check=True, capture_output=True
        )
    values = site.directory / "group_vars/all/tls.yml"
    values.write_text(
        "tls_source: own\ntls_certificates:\n  shop:\n"
        f"    certificate: \"{{{{ lookup('ansible.builtin.file', '{tmp_path}/one.crt') }}}}\"\n"
        f"    key: \"{{{{ lookup('ansible.builtin.file', '{tmp_path}/two.key') }}}}\"\n"
    )
    run = site.play()
    assert_refused(
        run,
        f"{values}:3: the key of shop does not belong to its certificate",
        f"{values}:4: the certificate of shop lacks the name shop.example; it has one.example",
    )
    assert len(run.problems) == 2
    assert (tmp_path / "two.key").read_text().splitlines()[1] not in run.text


def test_a_source_of_certificates_that_does_not_exist_is_refused(site):
    site.edit("group_vars/all/site.yml", "base_timezone", "tls_source: letsencrypt\ntls_acme_email: you\nbase_timezone")
    assert_refused(site.play(), "it takes one of acme, own, self-signed")


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_vault_that_does_not_open_is_named_and_stays_closed(site, password):
    site.encrypt("the right one")
    (site.directory.parent / "wrong").write_text("wrong")
    run = site.play(*(["--vault-password-file", site.directory.parent / "wrong"] if password else []))
    assert_refused(
        run, site.path("group_vars/all/vault.yml"), "the vault password is missing or wrong", "--ask-vault-pass"
    )
    assert run.seconds < PATIENCE_SECONDS
    assert "w9FhJk2LmNpQr5StVxYz" not in run.text


def test_a_mistake_inside_an_encrypted_file_names_the_file_and_shows_no_secret(site):
    site.edit("group_vars/all/vault.yml", "w9FhJk2LmNpQr5StVxYz", "k7NwqVb2mXz9LpRt4sYc")
    password = site.encrypt("the right one")
    run = site.play("--vault-password-file", password)
    assert_refused(run, f"ansible-vault edit {site.path('group_vars/all/vault.yml')}", "are the same secret")
    assert "k7NwqVb2mXz9LpRt4sYc" not in run.text


def test_a_tab_in_a_file_is_refused_with_its_line(site):
    site.edit("group_vars/all/site.yml", "  - ssh", "\t- ssh")
    assert_refused(site.play(), "site.yml:3", "tab")


def test_a_key_written_twice_is_refused_with_its_line(site):
    site.edit("group_vars/all/site.yml", "base_timezone: Etc/UTC\n", "base_timezone: Etc/UTC\nbase_timezone: Etc/UTC\n")
    assert_refused(site.play(), "site.yml:5", "base_timezone")


@pytest.mark.parametrize(
    ("old", "new"),
    [("    db1:", "\tdb1:"), ("db:\n  hosts:\n", "db:\n  hosts:\n    db1: {ansible_host: 203.0.113.9}\n")],
    ids=["tab", "twice"],
)
def test_a_list_of_hosts_that_cannot_be_read_is_refused_with_its_line(site, old, new):
    site.edit("hosts.yml", old, new)
    run = site.play()
    assert_refused(run)
    assert re.search(r"Origin: \S+/hosts.yml:[67]:", run.text), run.text


def test_lines_that_end_as_on_windows_do_no_harm(site):
    for file in site.directory.rglob("*.yml"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    run = site.play()
    assert run.connections != "", run.text


def repository(directory):
    """Make a git repository with one branch and one tag."""
    git = ["git", "-C", str(directory), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    directory.mkdir()
    (directory / "Procfile").write_text("web: python3 -m http.server\n")
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "first"], ["tag", "v1.0"]):
        subprocess.run([*git, *words], check=True)
    return directory


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_version_that_the_source_lacks_is_refused_with_the_nearest(site, tmp_path, scheme):
    source = repository(tmp_path / "shop")
    site.edit("group_vars/all/apps.yml", "examples/errorlog", f"{scheme}{source}\n    version: v1.1")
    run = site.play()
    assert_refused(run, 'no branch, tag or commit "v1.1". Did you mean "v1.0"?', "write  version: v1.0")
    site.edit("group_vars/all/apps.yml", "processes: {web: 2, worker: 1}", "processes: {web: 2}")
    site.edit("group_vars/all/apps.yml", "v1.1", "v1.0")
    assert site.play().connections != ""


def test_a_repository_that_never_answers_is_given_up_on(site):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"git://127.0.0.1:{silent.getsockname()[1]}/shop.git"
        site.edit("group_vars/all/apps.yml", "examples/errorlog", address)
        assert_refused(site.play(), "no answer within 6 seconds")


def test_a_repository_that_is_not_there_is_refused(site):
    site.edit("group_vars/all/apps.yml", "examples/errorlog", "git://127.0.0.1:1/shop.git")
    assert_refused(site.play(), "cannot be read", "Connection refused", "git ls-remote git://127.0.0.1:1/shop.git")


def test_a_good_site_gets_to_its_servers_and_lists_those_that_cannot_be_reached(site):
    run = site.play(playbook="site.yml")
    assert run.code != 0
    assert "192.0.2" not in run.connections
    assert len(run.problems) == 2
    assert "web1: no ssh answers at 203.0.113.11 port 22" in run.problems[0]
    assert "db1: no ssh answers at 203.0.113.21 port 22" in run.problems[1]
    assert run.text.count("PLAY [") == 2


def test_hosts_outside_the_limit_are_not_contacted(site):
    run = site.play("--limit", "db1")
    assert "203.0.113.21" in run.connections
    assert "203.0.113.11" not in run.connections


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "you@203.0.113.11: Permission denied (publickey).",
            ["does not let the user", "write the user that you log in as"],
        ),
        ("Host key verification failed.", ["is not known to this machine yet", "answer yes"]),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", ["installed anew", "ssh-keygen -R '203.0.113.11'"]),
    ],
)
def test_what_ssh_says_is_told_in_plain_words(site, words, says):
    run = site.play("--limit", "web1", SSH_SAYS=words)
    assert run.code != 0
    assert [part for part in says if part not in run.problems[0]] == []
