"""The database as its administrator and its clients see it."""

import time

import pytest


def sql(host, query, database="postgres"):
    return host.check_output("psql --username=postgres --no-align --tuples-only --command=%s %s", query, database)


def test_pages_have_checksums_and_text_is_utf8(host):
    assert sql(host, "SHOW data_checksums") == "on"
    assert (
        sql(host, "SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = 'probe'")
        == "UTF8|C.UTF-8"
    )


def test_the_running_server_has_the_tuned_settings(host):
    """A quarter of the server's part of the memory, less where its connections need the room."""
    assert sql(host, "SHOW shared_buffers") != "128MB"
    assert sql(host, "SELECT count(*) FROM pg_settings WHERE pending_restart") == "0"


def test_the_server_reads_its_files_without_an_error(host):
    assert sql(host, "SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL") == "0"
    assert sql(host, "SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL") == "0"


def test_no_rule_trusts_or_is_open_to_all(host):
    rules = sql(host, "SELECT auth_method, database, user_name, address FROM pg_hba_file_rules").splitlines()
    assert rules
    for rule in rules:
        method, database, role, address = rule.split("|")
        assert method in ("peer", "scram-sha-256")
        assert not (address and "all" in (database + role))


def test_an_app_owns_its_database_and_nothing_else(host):
    assert sql(host, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'probe'") == "probe"
    assert (
        sql(
            host,
            "SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication FROM pg_roles WHERE rolname = 'probe'",
        )
        == "f"
    )


def test_a_role_may_not_enter_another_roles_database(host):
    assert sql(host, "SELECT has_database_privilege('probe', 'postgres', 'CONNECT')") == "t"
    assert sql(host, "SELECT has_database_privilege('other', 'probe', 'CONNECT')") == "f"


def test_the_password_is_kept_as_a_verifier(host):
    assert sql(host, "SELECT left(rolpassword, 14) FROM pg_authid WHERE rolname = 'probe'") == "SCRAM-SHA-256$"


@pytest.mark.parametrize("user", ["nobody", "operator"])
def test_a_stranger_on_the_host_is_refused(host, user):
    with host.sudo(user):
        refused = host.run("psql --username=postgres --command='SELECT 1' postgres")
    assert refused.rc != 0
    assert "authentication failed" in refused.stderr


def test_the_log_is_where_debian_has_it(host):
    log = host.check_output("ls /var/log/postgresql/postgresql-*-main.log")
    assert "ready to accept connections" in host.file(log).content_string


def test_it_comes_back_after_a_kill(host):
    unit = host.check_output("systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1")
    host.check_output("kill -9 $(systemctl show --property=MainPID --value %s)", unit)
    deadline = time.monotonic() + 20
    while host.run("psql --username=postgres --command='SELECT 1' postgres").rc != 0:
        assert time.monotonic() < deadline, "PostgreSQL did not come back"
        time.sleep(0.3)


def test_a_lost_servers_process_number_that_is_another_program_s_keeps_it_from_nothing(host):
    """As after a power cut, when the numbers begin anew; that other one is postgres's own, and stays."""
    unit = host.check_output("systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1")
    data = sql(host, "SHOW data_directory")
    other = host.check_output("systemctl show --property=MainPID --value offramp-postgresql-room")
    host.check_output("systemctl stop %s", unit)
    host.check_output(
        "printf '%%s\\n%%s\\n' %s %s | install -o postgres -m 600 /dev/stdin %s/postmaster.pid", other, data, data
    )
    host.check_output("timeout 20 systemctl start %s", unit)
    assert sql(host, "SELECT 7") == "7"
    assert host.check_output("systemctl show --property=MainPID --value offramp-postgresql-room") == other
