"""The filter heroku_app turns files and config vars into an entry, and says of each thing what became of it."""

import json
from types import SimpleNamespace

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_plugins.app_problems import app_problems
from filter_plugins.heroku_app import heroku_app, literal
from filter_plugins.site_apps import APP_KEYS, site_apps
from filter_plugins.yaml_put import yaml_put

same = settings(deadline=None, derandomize=True, database=None)

try:
    from ansible.template import trust_as_template
except ImportError:
    trust_as_template = str

PROCFILE = "release: python manage.py migrate\nweb: gunicorn shop.wsgi\nworker: celery -A shop worker\n"


def shop(files=None, manifest=None, **more):
    files = {"Procfile": PROCFILE, "requirements.txt": "Django\n", **(files or {})}
    if manifest is not None:
        files["app.json"] = json.dumps(manifest)
    result = heroku_app({"name": "my-shop", "source": "/srv/shop", "files": files, **more})
    said = {section: "\n".join(lines) for section, lines in result["report"].items()}
    return SimpleNamespace(**result, said=said, config=result["entry"].get("config", {}))


def test_a_whole_app():
    app = shop(
        {".python-version": "3.12\n", "shop.py": 'KEY = os.environ["SECRET_KEY"]'},
        {
            "formation": {"web": {"quantity": 3}, "worker": {"quantity": 1}},
            "addons": ["heroku-postgresql:essential-0", {"plan": "heroku-redis:mini"}],
        },
        version="main",
        config={
            "DATABASE_URL": "postgres://a:b@c/d",
            "REDIS_URL": "rediss://:a@b:1",
            "SECRET_KEY": "0123456789abcdef",
            "LOG_LEVEL": "INFO",
            "HEROKU_APP_NAME": "shop",
        },
        domains=["shop.example"],
    )
    assert app.entry == {
        "name": "my-shop",
        "source": "/srv/shop",
        "version": "main",
        "domains": ["shop.example"],
        "processes": {"web": 3, "worker": 1},
        "python": "3.12",
        "services": ["postgresql", "redis"],
        "config": {"LOG_LEVEL": "INFO", "SECRET_KEY": "{{ vault_my_shop_secret_key }}"},
    }
    assert app.secrets == {"vault_my_shop_secret_key": "0123456789abcdef"}
    assert app.missing == []


# Processes


@pytest.mark.parametrize(
    ("formation", "counts"),
    [
        ("web=3:Basic worker=2:Standard-1X", {"web": 3, "worker": 2}),
        ("web=2,worker=0", {"web": 2}),
        ("worker=1", {"web": 2, "worker": 1}),
    ],
)
def test_counts_as_heroku_prints_them(formation, counts):
    assert shop(formation=formation).entry["processes"] == counts


def test_a_formation_that_is_none_is_refused():
    with pytest.raises(AnsibleFilterError, match="'worker', which is no count"):
        shop(formation="web=1 worker=many")


def test_one_web_process_becomes_two_so_that_one_can_answer():
    app = shop(manifest={"formation": {"web": {"quantity": 1}}})
    assert app.entry["processes"] == {"web": 2}
    assert "web: 2 in place of 1" in app.said["changed"]


def test_more_than_a_host_takes_is_cut_and_said():
    app = shop(formation="web=2 worker=50")
    assert app.entry["processes"]["worker"] == 20
    assert "20 in place of 50" in app.said["changed"]


def test_without_a_formation_a_worker_is_one_and_a_console_none():
    app = shop({"Procfile": "web: a\r\nworker: b\r\nconsole: c\r\n"})
    assert app.entry["processes"] == {"web": 2, "worker": 1}
    assert "not kept running: console" in app.said["changed"]


def test_a_process_that_must_be_single_runs_once_on_the_site():
    app = shop({"Procfile": "web: a\nbeat: celery beat"})
    assert app.entry["single"] == ["beat"]
    assert "once on the whole site, however many web hosts: beat" in app.said["changed"]


def test_the_release_command_is_no_process():
    app = shop()
    assert "release" not in app.entry["processes"]
    assert "python manage.py migrate" in app.said["taken over"]


# Python


@pytest.mark.parametrize(
    ("files", "python"),
    [
        ({".python-version": "3.12\n"}, "3.12"),
        ({".python-version": "# ours\npython-3.12.4\n"}, "3.12.4"),
        ({"runtime.txt": "python-3.11.9\n"}, "3.11.9"),
        ({".python-version": "3.13", "runtime.txt": "python-3.11.9"}, "3.13"),
        ({"Pipfile.lock": '{"_meta": {"requires": {"python_version": "3.10"}}}'}, "3.10"),
        ({"pyproject.toml": '[project]\nrequires-python = ">=3.11"'}, None),
        ({"pyproject.toml": '[project]\nrequires-python = "==3.12.*"'}, "3.12"),
        ({"pyproject.toml": '[project]\nrequires-python = ">=3.10,<3.13"'}, "3.12"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "^3.11"'}, None),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "~3.11"'}, "3.11"),
        ({"uv.lock": 'requires-python = "==3.9.*"'}, "3.9"),
        ({".python-version": "pypy3.10"}, None),
        ({"pyproject.toml": "not toml ["}, None),
        ({}, None),
    ],
)
def test_the_python_that_the_app_asks_for(files, python):
    assert shop(files).entry.get("python") == python


def test_a_python_that_is_read_by_no_rule_needs_a_look():
    assert "'pypy3.10'" in shop({".python-version": "pypy3.10"}).said["to look at"]


# Config vars


def test_what_heroku_gives_and_what_nothing_reads_is_left_out():
    app = shop(
        config={
            "HEROKU_RELEASE_VERSION": "v1",
            "BUILDPACK_URL": "x",
            "PORT": "1",
            "MEMCACHIER_SERVERS": "a:1",
            "PAPERTRAIL_API_TOKEN": "x",
        }
    )
    assert app.config == {}
    assert app.said["changed"].count("left out") == 5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("REDISCLOUD_URL", "haproxy_redis_port"),
        ("REDIS_TLS_URL", "haproxy_redis_port"),
        ("DATABASE_CONNECTION_POOL_URL", "pgbouncer_port"),
        ("HEROKU_POSTGRESQL_PINK_URL", "pgbouncer_port"),
        ("MEMCACHIER_SERVERS", "topology_memcached_servers"),
        ("MEMCACHEDCLOUD_SERVERS", "topology_memcached_servers"),
    ],
)
def test_another_name_that_the_app_reads_leads_to_the_sites_service(name, expected):
    app = shop({"a.py": f'os.environ["{name}"]'}, config={name: "postgres://old:secret@old/old"})
    assert expected in app.config[name]
    assert "old" not in app.config[name]
    assert "a.py:1" in app.said["changed"]


def test_a_name_with_a_default_is_left_out_where_the_app_reads_ours_too():
    app = shop(
        {"a.py": 'os.environ.get("MEMCACHE_SERVERS") or os.environ.get("MEMCACHIER_SERVERS")'},
        config={"MEMCACHIER_SERVERS": "a:1"},
    )
    assert app.config == {}


def test_a_user_that_memcached_has_none_of_is_empty_where_the_app_insists():
    app = shop({"a.py": 'os.environ["MEMCACHIER_USERNAME"]'}, config={"MEMCACHIER_USERNAME": "x"})
    assert app.config == {"MEMCACHIER_USERNAME": ""}


def test_a_database_of_another_kind_stays_as_it_is():
    app = shop(config={"DATABASE_URL": "mysql://a:b@c/d"})
    assert app.config == {"DATABASE_URL": "{{ vault_my_shop_database_url }}"}
    assert "postgresql" not in app.entry["services"]


def test_a_second_database_is_named():
    app = shop(config={"DATABASE_URL": "postgres://a/b", "HEROKU_POSTGRESQL_PINK_URL": "postgres://c/d"})
    assert "second PostgreSQL" in app.said["to look at"]
    app = shop(config={"DATABASE_URL": "postgres://a/b", "HEROKU_POSTGRESQL_PINK_URL": "postgres://a/b"})
    assert "second PostgreSQL" not in app.said.get("to look at", "")


def test_a_value_of_heroku_wins_over_app_json():
    manifest = {"env": {"LOG_LEVEL": {"value": "DEBUG"}, "EXTRA": {"value": "1"}}}
    assert shop(manifest=manifest, config={"LOG_LEVEL": "INFO"}).config == {"LOG_LEVEL": "INFO"}
    assert shop(manifest=manifest).config == {"LOG_LEVEL": "DEBUG", "EXTRA": "1"}


def test_a_generated_secret_is_kept_where_there_is_one_and_else_made():
    manifest = {"env": {"SIGNING": {"generator": "secret"}}}
    assert shop(manifest=manifest, config={"SIGNING": "kept"}).secrets == {"vault_my_shop_signing": "kept"}
    assert shop(manifest=manifest, config={}).secrets == {"vault_my_shop_signing": None}


@pytest.mark.parametrize("about", [{}, {"required": True}, {"description": "of the bank"}])
def test_a_required_var_without_a_value_is_missing_and_refers_to_the_vault(about):
    app = shop(manifest={"env": {"API_URL": about}})
    assert app.missing == ["API_URL"]
    assert app.config == {"API_URL": "{{ vault_my_shop_api_url }}"}
    assert "add vault_my_shop_api_url" in app.said["missing"]


def test_what_the_vault_has_already_is_not_missing():
    app = shop(manifest={"env": {"API_URL": {}}}, vault=["vault_my_shop_api_url"])
    assert app.missing == []
    assert app.config == {"API_URL": "{{ vault_my_shop_api_url }}"}


def test_an_optional_var_without_a_value_is_left_out():
    assert shop(manifest={"env": {"API_URL": {"required": False}}}).config == {}


def test_one_secret_under_two_names_is_kept_once():
    app = shop(config={"SECRET_KEY": "0123456789abcdef", "DJANGO_SECRET_KEY": "0123456789abcdef"})
    assert len(app.secrets) == 1
    assert len(set(app.config.values())) == 1


def test_names_that_differ_by_their_case_alone_keep_two_values():
    app = shop(config={"Api_Key": "one", "API_KEY": "two"})
    assert sorted(app.secrets.values()) == ["one", "two"]


def test_a_var_that_the_source_needs_and_nobody_sets_is_named():
    app = shop({"a.py": 'os.environ["API_URL"]'}, config={"OTHER": "1"})
    assert "a.py:1: reads API_URL without a default" in app.said["to look at"]


def test_a_password_in_the_source_goes_into_the_vault():
    app = shop(source="https://me:0123456789@git.example/shop.git")
    assert app.entry["source"] == "{{ vault_my_shop_source }}"
    assert "0123456789" not in json.dumps(app.report)


def test_an_app_json_that_is_none_is_refused():
    with pytest.raises(AnsibleFilterError, match=r"app.json of my-shop is no JSON"):
        shop({"app.json": "{"})


# Domains


def test_domains_are_those_that_the_config_vars_name():
    app = shop(config={"ALLOWED_HOSTS": ".herokuapp.com,www.shop.example", "SITE_URL": "https://shop.example/x"})
    assert app.entry["domains"] == ["shop.example", "www.shop.example"]


def test_domains_that_nothing_names_are_missing():
    assert "domains: no config var names one" in shop().said["missing"]


@pytest.mark.parametrize(
    ("hosts", "after"),
    [
        (".herokuapp.com", ".herokuapp.com,shop.example"),
        ("shop.example", "shop.example"),
        (".shop.example", ".shop.example"),
        ("*", "*"),
    ],
)
def test_a_domain_that_the_app_would_refuse_is_allowed(hosts, after):
    assert shop(config={"ALLOWED_HOSTS": hosts}, domains=["shop.example"]).config["ALLOWED_HOSTS"] == after


# The rest


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"Aptfile": "gdal"}, "Aptfile"),
        ({"package.json": '{"scripts": {"heroku-postbuild": "x"}}'}, "no Node runs here"),
        ({"bin/post_compile": "x"}, "not run here"),
        ({"app.json": '{"buildpacks": [{"url": "heroku/nodejs"}]}'}, "heroku/nodejs"),
        ({"app.json": '{"scripts": {"postdeploy": "python seed.py"}}'}, "app-run my-shop python seed.py"),
        ({"app.json": '{"cron": [{"command": "x", "schedule": "0 3 1 * *"}]}'}, "scheduled job"),
        ({"app.json": '{"stack": "container"}'}, "stack container"),
        ({"app.json": '{"addons": ["memcachier", "memcachedcloud"]}'}, "are one memcached here"),
    ],
)
def test_what_the_build_or_the_site_has_no_place_for_is_named(files, said):
    assert said in shop(files).said["to look at"]


@pytest.mark.parametrize("file", ["requirements.txt", "uv.lock", "poetry.lock", "Pipfile.lock"])
def test_the_one_file_that_names_the_packages_is_taken_over(file):
    app = heroku_app({"name": "shop", "source": "/x", "files": {"Procfile": PROCFILE, file: "{}"}})
    assert any(f"packages from {file}" in line for line in app["report"]["taken over"])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["requirements.txt", "poetry.lock"], "the source has requirements.txt and poetry.lock, of which Heroku takes"),
        (["Pipfile"], "pipenv lock"),
        ([], "needs one of Pipfile.lock, requirements.txt, poetry.lock, uv.lock"),
    ],
)
def test_packages_that_the_build_will_refuse_are_named(files, said):
    app = heroku_app({"name": "shop", "source": "/x", "files": {"Procfile": PROCFILE, **dict.fromkeys(files, "")}})
    assert any(said in line for line in app["report"]["to look at"])


def test_a_job_of_app_json_is_taken_over_into_the_schedule():
    app = shop(manifest={"cron": [{"command": "echo '{{ x }}', 1", "schedule": "30 3 * * 1-5"}]})
    job = {"at": "Mon,Tue,Wed,Thu,Fri 03:30", "command": "echo '{{ '{' }}{ x }}', 1"}
    assert app.entry["schedule"] == [job]
    assert "scheduled job" in app.said["taken over"]
    assert yaml.safe_load(yaml_put("", ["apps", 0, "schedule"], [job]))["apps"][0]["schedule"] == [job]


@pytest.mark.parametrize(
    "manifest", [[], "x", {"env": []}, {"addons": None, "formation": [], "scripts": 1}, {"cron": 1}, {"cron": [1]}]
)
def test_an_app_json_of_any_shape_breaks_nothing(manifest):
    if isinstance(manifest, dict):
        assert shop(manifest=manifest).entry["name"] == "my-shop"
    else:
        with pytest.raises(AnsibleFilterError, match="no mapping"):
            shop(manifest=manifest)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@same
@given(config=st.dictionaries(names, texts, max_size=8), source=texts)
def test_every_var_is_accounted_for_and_the_entry_is_one_that_the_site_takes(config, source):
    app = shop({"a.py": source}, config=config)
    assert set(app.entry) <= set(APP_KEYS)
    assert site_apps([app.entry])
    assert app_problems([app.entry]) == []
    said = json.dumps(app.report)
    for name in config:
        assert name in app.config or f"config {name}" in said


@same
@given(value=st.text(min_size=8), name=names)
def test_a_secret_is_in_no_entry_and_no_report(value, name):
    planted = f"planted{value}0planted"
    app = shop(config={f"{name}_TOKEN": planted})
    assert planted not in json.dumps([app.entry, app.report], ensure_ascii=False)
    assert app.secrets in ({}, {f"vault_my_shop_{name.lower()}_token": planted})


@same
@given(texts | st.text("{}%#'\"\\\n -x"))
def test_the_template_engine_takes_a_literal_as_it_is(value):
    templar = Templar(loader=DataLoader(), variables={})
    assert templar.template(trust_as_template(literal(value))) == value
