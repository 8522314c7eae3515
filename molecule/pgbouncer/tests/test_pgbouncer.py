"""The connection pool as an app sees it."""

import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3]))
from filter_plugins.site_certificate import site_certificate

QUERY = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


CLIENT = "psql --host=127.0.0.1 --port=6432 --no-align --tuples-only"


@pytest.fixture
def database_password(host):
    return host.ansible.get_variables()["vault_database_passwords"]["probe"]


def connect(host, password, query=QUERY, database="probe"):
    command = f"PGCONNECT_TIMEOUT=5 PGPASSWORD=%s {CLIENT} --username=probe --command=%s %s"
    return host.run(command, password, query, database)


def test_an_app_reaches_its_database_encrypted_and_as_itself(host, database_password):
    assert connect(host, database_password).stdout.strip() == "probe|t"


@pytest.mark.parametrize("mode", ["verify-full sslrootcert=/etc/offramp/postgresql-ca.crt", "require", "disable"])
def test_an_app_gets_in_with_tls_where_it_insists_and_without(host, database_password, mode):
    assert connect(host, database_password, database=f"dbname=probe sslmode={mode}").stdout.strip() == "probe|t"
    shown = connect(host, database_password, "\\conninfo", f"dbname=probe sslmode={mode}").stdout
    assert ("TLS" in shown) == (mode != "disable")


@pytest.fixture
def another_certificate(host):
    """Return a function that has a service take up a certificate of another time, authority or host."""
    address, secret = (host.ansible.get_variables()[name] for name in ("address", "vault_ca_secret"))
    places = {"pgbouncer": "/etc/pgbouncer", "postgresql": host.check_output("ls -d /etc/postgresql/*/main")}
    files = [f"{place}/server.{kind}" for place in places.values() for kind in ("crt", "key")]
    kept = {path: host.file(path).content_string for path in files}

    def put(content):
        for path, text in content.items():
            host.check_output("printf %%s %s >%s", text, path)
        host.check_output("systemctl reload pgbouncer 'postgresql@*'")
        time.sleep(0.5)

    def change(service, secret=secret, names=("one", address, "127.0.0.1"), days=0):
        moment = time.time() + days * 86400
        made = site_certificate(secret, "postgresql", f"{service} one", names, now=moment)
        put({f"{places[service]}/server.crt": made["certificate"], f"{places[service]}/server.key": made["key"]})

    yield change
    put(kept)


def new_server_connection(host, password):
    """Connect where the pool has no connection to the server left."""
    host.check_output("systemctl restart pgbouncer")
    return connect(host, password)


@pytest.mark.parametrize("wrong", [{"secret": "another-secret-of-another-site"}, {"names": ("two", "192.0.2.1")}])
def test_a_server_whose_certificate_is_another_authoritys_or_another_hosts_is_not_talked_to(
    host, database_password, another_certificate, wrong
):
    another_certificate("postgresql", **wrong)
    refused = new_server_connection(host, database_password)
    assert refused.rc != 0
    another_certificate("postgresql")
    assert new_server_connection(host, database_password).stdout.strip() == "probe|t"


@pytest.mark.parametrize(("service", "port"), [("pgbouncer", "6432"), ("postgresql", "5432")])
def test_a_new_certificate_is_taken_up_and_cuts_nobody_off(
    host, database_password, another_certificate, eventually, service, port
):
    ask = f"openssl s_client -starttls postgres -connect 127.0.0.1:{port} </dev/null | openssl x509 -noout -serial"
    before = host.check_output(ask)
    client = (
        f"{CLIENT} --username=probe --command='SELECT pg_sleep(4)' --command='SELECT 7' 'dbname=probe sslmode=require'"
    )
    host.check_output(
        "systemd-run --quiet --unit=waiter --setenv=PGPASSWORD=%s sh -c %s", database_password, f"{client} >/root/seven"
    )
    eventually(
        lambda: "pg_sleep" in host.check_output("psql -U postgres -XAtc 'SELECT query FROM pg_stat_activity' postgres")
    )
    another_certificate(service, days=-60)
    eventually(lambda: host.check_output(ask) not in (before, ""))
    eventually(lambda: host.file("/root/seven").content_string.split()[-1:] == ["7"])


def test_tls_older_than_1_2_is_refused(host):
    # A client of Debian's would not even ask.
    ask = "openssl s_client -starttls postgres -connect 127.0.0.1:6432 -cipher DEFAULT@SECLEVEL=0 {} </dev/null"
    assert host.run(ask.format("-tls1_2")).rc == 0
    assert "alert protocol version" in host.run(ask.format("-tls1_1")).stderr


def test_a_wrong_password_is_refused(host):
    refused = connect(host, "wrong")
    assert refused.rc != 0
    assert "authentication failed" in refused.stderr


def test_a_database_that_no_app_owns_is_refused(host, database_password):
    assert connect(host, database_password, database="postgres").rc != 0


def test_many_clients_share_few_server_connections(host, database_password):
    client = f"{CLIENT} --username=probe --command='SELECT pg_sleep(0.2)' probe"
    together = f"for number in $(seq 60); do {client} & done; wait"
    host.check_output("PGPASSWORD=%s bash -c %s", database_password, together)
    used = host.check_output(
        "psql --username=postgres --no-align --tuples-only --command=%s postgres",
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'probe'",
    )
    assert 0 < int(used) <= 20


def test_no_password_is_on_disk_in_clear(host, database_password):
    assert database_password not in host.file("/etc/pgbouncer/userlist.txt").content_string
    with host.sudo("nobody"):
        assert host.run("cat /etc/pgbouncer/userlist.txt").rc != 0


def test_an_app_is_no_administrator_of_the_pool(host, database_password):
    assert connect(host, database_password, "SHOW CONFIG", database="pgbouncer").rc != 0


def test_it_comes_back_after_a_kill(host, database_password):
    host.check_output("kill -9 $(systemctl show --property=MainPID --value pgbouncer)")
    deadline = time.monotonic() + 15
    while connect(host, database_password).rc != 0:
        assert time.monotonic() < deadline, "pgbouncer did not come back"
        time.sleep(0.3)


def test_a_change_of_primary_is_a_reload_that_keeps_the_clients(host, database_password):
    """A client that is connected before the reload goes on afterwards, on the same connection."""
    before = host.check_output("systemctl show --property=MainPID --value pgbouncer")
    client = f"{CLIENT} --username=probe --command='SELECT pg_sleep(2)' --command='SELECT 7' probe"
    script = f"{client} & sleep 0.5; systemctl reload pgbouncer; wait"
    assert host.check_output("PGPASSWORD=%s bash -c %s", database_password, script).split()[-1] == "7"
    assert host.check_output("systemctl show --property=MainPID --value pgbouncer") == before
