"""What an import could not find out is refused until a person has filled it in, and nothing of it is shown."""

import json

import pytest

PLANTED = "plantedsecret0123456789"
MANIFEST = {"env": {"BANK_TOKEN": {"description": "of the bank"}, "SIGNING": {"generator": "secret"}}}


@pytest.fixture
def blog(site, tmp_path):
    """Return the run of an import into a site with an encrypted vault."""
    source = tmp_path / "blog"
    source.mkdir()
    (source / "Procfile").write_text("web: gunicorn blog:app\n")
    (source / "requirements.txt").write_text("gunicorn\n")
    (source / "app.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "config.json").write_text(
        json.dumps({"MAIL_PASSWORD": PLANTED, "DATABASE_URL": f"postgres://u:{PLANTED}@h/d"})
    )
    opened = {"ANSIBLE_VAULT_PASSWORD_FILE": str(site.encrypt("a password"))}

    def run(*words, **variables):
        return site.play(*words, **opened, **variables)

    given = f"app=blog source={source} config_json={tmp_path}/config.json domains=blog.example"
    run.imported = run("-vvv", "--diff", "-e", given, playbook="playbooks/import_heroku.yml")
    run.again = lambda *words: run(*words, "-e", given, playbook="playbooks/import_heroku.yml")
    return run


def test_the_report_names_what_is_missing_and_no_secret(blog):
    assert blog.imported.code == 0, blog.imported.text
    assert "config BANK_TOKEN has no value (of the bank): add vault_blog_bank_token to the vault" in blog.imported.text
    assert PLANTED not in blog.imported.text
    assert blog.imported.connections == ""


def test_the_site_is_refused_until_it_is_filled_in(blog, site):
    (entry,) = blog().problems
    assert "vault_blog_bank_token, which is not set" in entry
    site.edit("group_vars/all/apps.yml", '"{{ vault_blog_bank_token }}"', "given")
    # From there on it is about the servers, which there are none of.
    assert all("no ssh answers" in entry for entry in blog().problems)


def test_an_import_again_changes_nothing_and_one_that_differs_is_refused(blog):
    assert "changed=0" in blog.again().text
    refused = blog.again("-e", "formation=web=9")
    assert refused.code != 0
    assert "-e overwrite=true" in refused.text
    assert PLANTED not in refused.text


def test_a_usage_without_an_app_says_how(site):
    run = site.play(playbook="playbooks/import_heroku.yml")
    assert "name the app: -e app=shop -e source=https://git.example/shop.git" in run.text
