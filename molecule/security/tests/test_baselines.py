"""What the dev-sec baselines ask of nginx and PostgreSQL, asked of what runs; docs/security.md has what does not apply.

Each test has the number of its control in the baseline; some controls are other tests' in this scenario.
"""

import pytest
from scanners import inside

DATABASES = pytest.mark.parametrize("server", ["db1", "db2"])


def said(host, *words):
    return inside(host, *words).stdout.strip()


def asked(server, query):
    return said(server, "psql", "-U", "postgres", "-XAtc", query, "postgres").splitlines()


def headers(path="/"):
    """Return what nginx says of itself and of the app in an answer, by the names in small letters."""
    url = f"https://probe.example{path}"
    answer = said("web1", "curl", "-sk", "-o", "/dev/null", "-D", "-", "--resolve", "probe.example:443:127.0.0.1", url)
    return dict(line.lower().split(": ", 1) for line in answer.splitlines() if ": " in line)


def test_nginx_01_what_reads_requests_has_no_rights():
    workers = said("web1", "ps", "-C", "nginx", "-o", "user=,args=").splitlines()
    assert {line.split()[0] for line in workers if "worker process" in line} == {"www-data"}


def test_nginx_02_its_configuration_is_roots_alone():
    listed = said("web1", "find", "/etc/nginx/nginx.conf", "/etc/nginx/conf.d", "-type", "f", "-printf", "%u:%g %m\\n")
    assert set(listed.splitlines()) == {"root:root 640"}


def test_nginx_03_nothing_of_debians_own_site_is_served():
    for name in ("127.0.0.1", "web1", "unknown.example"):
        done = inside("web1", "curl", "-s", "-H", f"Host: {name}", "http://127.0.0.1/", check=False)
        # The connection ends, or is reset, without an answer.
        assert (done.stdout, done.returncode) in (("", 52), ("", 56))


def test_nginx_04_there_is_one_of_it():
    assert said("web1", "ps", "-C", "nginx", "-o", "args=").count("master process") == 1


@pytest.mark.parametrize("path", ["/", "/nowhere", "/static/nothing", "/%"])
def test_nginx_05_no_answer_tells_its_version(path):
    assert headers(path)["server"] == "nginx"


@pytest.mark.parametrize(("name", "value"), [("x-frame-options", "sameorigin"), ("x-content-type-options", "nosniff")])
def test_nginx_08_and_10_browsers_are_told_what_not_to_do(name, value):
    assert headers()[name] == value


@DATABASES
def test_postgres_02_it_is_a_release_and_no_trial(server):
    assert all(part.isdigit() for part in asked(server, "SHOW server_version")[0].split()[0].split("."))


@DATABASES
def test_postgres_03_there_is_one_cluster(server):
    assert len(said(server, "pg_lsclusters", "--no-header").splitlines()) == 1


@DATABASES
def test_postgres_04_no_language_gets_past_the_database(server):
    found = asked(server, "SELECT lanname FROM pg_language WHERE NOT lanpltrusted ORDER BY 1")
    assert found == ["c", "internal"]


@DATABASES
def test_postgres_05_and_06_whoever_logs_in_from_elsewhere_has_a_scram_password(server):
    """The administrator has none, and comes by the host's own socket alone."""
    query = "SELECT rolname FROM pg_authid WHERE rolcanlogin AND coalesce(rolpassword, '') NOT LIKE 'SCRAM-SHA-256$%'"
    assert asked(server, query) == ["postgres"]
    network = "SELECT count(*) FROM pg_hba_file_rules WHERE type <> 'local' AND user_name && '{postgres,all}'"
    assert asked(server, network) == ["0"]


@DATABASES
def test_postgres_07_one_role_may_make_others(server):
    query = "SELECT rolname FROM pg_roles WHERE rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls"
    assert asked(server, query) == ["postgres"]


@DATABASES
def test_postgres_08_no_app_reads_the_verifiers(server):
    query = "SELECT rolname FROM pg_roles WHERE rolcanlogin AND has_table_privilege(oid, 'pg_authid', 'SELECT')"
    assert asked(server, query) == ["postgres"]


@DATABASES
def test_postgres_09_and_10_data_and_rules_are_its_own(server):
    data = asked(server, "SHOW data_directory")[0]
    assert said(server, "stat", "--format=%U %a", data) == "postgres 700"
    assert said(server, "find", data, "-maxdepth", "1", "(", "-perm", "/022", "-o", "!", "-user", "postgres", ")") == ""
    rules = asked(server, "SHOW hba_file")[0]
    assert said(server, "stat", "--format=%U %a", rules) == "postgres 640"
    written_by_others = ("find", rules.rpartition("/")[0], "-perm", "/022", "-not", "-type", "l")
    assert said(server, *written_by_others) == ""
