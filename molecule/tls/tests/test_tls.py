"""Certificates from a real ACME server, Debian's pebble, which asks a DNS server of its own, as the world does."""

import json
import os
import re
import subprocess

import pytest
import testinfra

testinfra_hosts = ["web1"]

SITE, SECOND, LATER = "probe.example", "second.example", "later.example"
WEB1, WEB2, NOBODY = "10.90.79.11", "10.90.79.12", "10.90.79.1"
PEBBLE = {
    "pebble": {
        "listenAddress": f"{WEB1}:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/root/pebble/server.pem",
        "privateKey": "/root/pebble/server.key",
        "httpPort": 80,
        "tlsPort": 443,
        "certificateValidityPeriod": 7776000,
    }
}
RUN_PEBBLE = f"""
apt-get -qq install --no-install-recommends pebble >/dev/null
cd /root/pebble
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 30 -subj /CN=pebble \
  -addext subjectAltName=IP:{WEB1} -keyout server.key -out server.pem 2>/dev/null
iptables -I INPUT -p tcp --dport 14000 -j ACCEPT
doh=()  # Debian 12's has none, and knows no such option.
if pebble-challtestsrv -help 2>&1 | grep --quiet -e -doh; then doh=(-doh ''); fi
systemd-run --quiet --unit=names pebble-challtestsrv -defaultIPv4 {WEB1} -defaultIPv6 '' -http01 '' -https01 '' \
  -tlsalpn01 '' "${{doh[@]}}" -dns01 127.0.0.1:8053 -management 127.0.0.1:8055
systemd-run --quiet --unit=pebble --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0 \
  --setenv=PEBBLE_AUTHZREUSE=0 \
  pebble -config /root/pebble/config.json -dnsserver 127.0.0.1:8053
until curl --silent --insecure --output /dev/null https://{WEB1}:14000/dir; do sleep 0.2; done
"""


@pytest.fixture(scope="module")
def other():
    return testinfra.get_host("ssh://web2", ssh_config=f".lab/ssh/{os.environ['MOLECULE_SCENARIO_NAME']}")


def resolve(host, **addresses):
    """Have the server resolve these of our names and no others."""
    lines = "".join(f"{address} {name.replace('_', '.')}\n" for name, address in addresses.items())
    host.check_output("sed '/[.]example$/d' /etc/hosts >/root/hosts && printf %s >>/root/hosts", lines)
    host.check_output("cat /root/hosts >/etc/hosts")


def play(*words, playbook="playbooks/tls.yml"):
    command = ["ansible-playbook", playbook, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})


def changes(done):
    assert done.returncode == 0, done.stdout
    return sum(int(count) for count in re.findall(r"changed=(\d+)", done.stdout))


def served(host, name=SITE):
    """What the certificate says that a visitor gets."""
    text = host.check_output(
        "openssl s_client -connect 127.0.0.1:443 -servername %s </dev/null 2>/dev/null "
        "| openssl x509 -noout -issuer -serial -ext subjectAltName",
        name,
    )
    return {
        "issuer": re.search(r"issuer=.*?CN ?= ?(.+)", text).group(1),
        "serial": re.search(r"serial=(\w+)", text).group(1),
        "names": sorted(re.findall(r"DNS:([^,\s]+)", text)),
    }


def head(host, *words):
    visit = f"curl --silent --insecure --head --resolve {SITE}:443:127.0.0.1 https://{SITE}/"
    return host.check_output(" ".join([visit, *words])).lower()


@pytest.fixture(scope="module", autouse=True)
def history(host, other):
    """Ask for certificates before any name resolves, once all do, and again."""
    seen = {"certificate": served(host), "head": head(host)}
    host.check_output("mkdir -p /root/pebble && printf %s >/root/pebble/config.json", json.dumps(PEBBLE))
    host.check_output("bash -euc %s", RUN_PEBBLE)
    trust = host.check_output("cat /root/pebble/server.pem")
    for server in (host, other):
        server.check_output("printf '%%s\\n' %s >/etc/ssl/acme-server.pem", trust)
    seen["unresolved"] = play()
    for server in (host, other):
        resolve(server, probe_example=WEB1, second_example=WEB1)
    seen["first"], seen["second"] = play(), play()
    yield seen
    host.check_output("systemctl stop pebble names")


@pytest.fixture
def with_apps(tmp_path):
    """Return what has a playbook run with the app probe on the given domains."""

    def words(*domains):
        file = tmp_path / "apps.json"
        probe = {"name": "probe", "source": "molecule/app/files/probe", "domains": list(domains)}
        other = {"name": "other", "source": "molecule/app/files/plain", "domains": [SECOND]}
        file.write_text(json.dumps({"apps": [probe, other]}))
        return f"--extra-vars=@{file}"

    return words


def test_nginx_starts_with_a_certificate_of_its_own_and_no_hsts(history):
    assert history["certificate"]["issuer"] == SITE
    assert "strict-transport-security" not in history["head"]


def test_a_name_that_does_not_resolve_is_told_and_keeps_nothing_from_being_set_up(history):
    assert changes(history["unresolved"]) == 0
    assert f"{SITE} does not resolve" in history["unresolved"].stdout
    assert f"{SECOND} does not resolve" in history["unresolved"].stdout


def test_the_first_certificate_is_issued_and_served(host, history):
    assert changes(history["first"]) == 2
    assert served(host)["issuer"].startswith("Pebble")
    assert served(host)["names"] == [SITE]
    assert "strict-transport-security: max-age=63072000" in head(host)


def test_a_challenge_that_reaches_another_web_host_is_passed_on(host, other):
    """Both names lead to web1 alone, and web2 has its own certificate all the same."""
    assert served(other)["issuer"].startswith("Pebble")
    assert served(other)["serial"] != served(host)["serial"]


def test_a_second_run_changes_nothing(host, history):
    assert changes(history["second"]) == 0
    before = served(host)
    assert changes(play("--tags=nginx", playbook="playbooks/services.yml")) == 0
    assert served(host) == before


def test_a_renewal_is_served_and_costs_no_request(host, eventually):
    before = served(host)["serial"]
    host.check_output("mkdir -p /srv/www/probe/assets/now/static && echo body >/srv/www/probe/assets/now/static/a.css")
    visitor = (
        "touch /root/going; while [ -e /root/going ]; do "
        f"curl --silent --insecure --output /dev/null --write-out '%{{http_code}}\\n' --resolve {SITE}:443:127.0.0.1 "
        f"https://{SITE}/static/a.css || echo failed; done >/root/codes"
    )
    host.check_output("systemd-run --quiet --unit=visitor bash -c %s", visitor)
    host.check_output(
        "REQUESTS_CA_BUNDLE=/etc/ssl/acme-server.pem "
        "certbot renew --quiet --force-renewal --no-random-sleep-on-renew --cert-name probe"
    )
    eventually(lambda: served(host)["serial"] != before)
    host.check_output("sleep 1; rm /root/going; sleep 1")
    assert host.check_output("sort -u /root/codes") == "200"
    assert int(host.check_output("wc -l </root/codes")) > 10


def test_certbots_own_timer_renews_from_its_sandbox_by_the_same_authority(host, eventually):
    assert host.check_output("systemctl is-active certbot.timer") == "active"
    before = served(host)["serial"]
    settings = "/etc/letsencrypt/renewal/probe.conf"
    host.check_output("sed -i '1i renew_before_expiry = 99 days' %s", settings)
    host.check_output("systemctl start certbot.service")
    eventually(lambda: served(host)["serial"] != before)
    host.check_output("sed -i /renew_before_expiry/d %s", settings)


def test_the_daily_look_asks_from_its_sandbox_for_what_is_missing(host, eventually):
    before = served(host)["serial"]
    host.check_output("certbot delete --non-interactive --quiet --cert-name probe")
    host.check_output("systemctl start offramp-tls.service")
    eventually(lambda: served(host)["serial"] != before)


@pytest.mark.parametrize("unit", ["certbot.service", "offramp-tls.service"])
def test_the_sandbox_of_who_asks_for_certificates_is_tight(host, unit):
    rated = host.run("systemd-analyze security --no-pager --threshold=25 %s", unit)
    assert rated.rc == 0, rated.stdout


def test_the_status_tells_what_is_really_served(host):
    line = host.check_output("tls-status").splitlines()[-1]
    assert re.search(r"^probe +(89|90) days, until .*Pebble.* probe\.example$", line)


def test_a_certificate_that_nginx_did_not_take_up_is_seen_and_loaded_by_the_daily_look(host, eventually):
    """As when a deploy hook failed, and nginx takes a while to reload. The next run then sets right what is there."""
    names = f"-days 80 -subj /CN=by-hand -addext subjectAltName=DNS:{SITE}"
    host.check_output(
        "cd /etc/ssl/private && rm probe.key probe.crt && openssl req -x509 -newkey ec "
        f"-pkeyopt ec_paramgen_curve:prime256v1 -noenc {names} -keyout probe.key -out probe.crt 2>/dev/null"
    )
    status = host.run("tls-status")
    assert status.rc == 1
    assert "older than the one on disk" in status.stdout
    slow = "p=$(systemctl show --value --property=MainPID nginx); kill -STOP $p; sleep 3; kill -CONT $p"
    host.check_output("systemd-run --quiet sh -c %s", slow)
    host.run("systemctl start offramp-tls.service")
    assert served(host)["issuer"] == "by-hand"
    assert changes(play("--tags=nginx", "--limit=web1", playbook="playbooks/services.yml")) > 0
    eventually(lambda: served(host)["issuer"].startswith("Pebble"))


def test_the_daily_look_fails_where_an_end_is_near(host):
    host.check_output("systemctl start offramp-tls.service")
    host.check_output('sed -i \'s/"warning_days": 21/"warning_days": 99/\' /etc/offramp/tls.json')
    assert host.run("systemctl start offramp-tls.service").rc != 0
    assert "<- ends in" in host.check_output("journalctl --unit offramp-tls.service --output cat --lines 20")
    host.check_output('sed -i \'s/"warning_days": 99/"warning_days": 21/\' /etc/offramp/tls.json')
    host.check_output("systemctl start offramp-tls.service")


def test_a_domain_that_is_added_later_gets_into_the_certificate(host, other, with_apps):
    """It leads to the other web host."""
    apps = with_apps(SITE, LATER)
    assert changes(play("--tags=nginx", apps, playbook="playbooks/services.yml")) > 0
    for server in (host, other):
        resolve(server, probe_example=WEB1, second_example=WEB1, later_example=WEB2)
    assert changes(play(apps)) > 0
    assert served(host)["names"] == [LATER, SITE]
    assert served(other, LATER)["names"] == [LATER, SITE]


def test_a_refused_challenge_fails_the_run_with_the_reason_and_leaves_what_was_served(host, with_apps):
    """The name leads here as this host sees it, and nowhere as the authority does."""
    before = served(host)
    host.check_output(
        "curl --silent --fail --data %s 127.0.0.1:8055/add-a", json.dumps({"host": SITE, "addresses": [NOBODY]})
    )
    done = play("--limit=web1", with_apps(SITE))
    host.check_output("curl --silent --fail --data %s 127.0.0.1:8055/clear-a", json.dumps({"host": SITE}))
    assert done.returncode != 0, done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert "authority refused" in last
    assert SITE in last
    assert "connection refused" in last.lower()
    assert served(host) == before
    assert served(host, SECOND)["issuer"].startswith("Pebble")


def test_an_app_that_is_gone_is_no_longer_renewed(host, tmp_path):
    file = tmp_path / "apps.json"
    file.write_text(json.dumps({"apps": [{"name": "probe", "source": "molecule/app/files/probe", "domains": [SITE]}]}))
    apps = f"--extra-vars=@{file}"
    assert changes(play("--limit=web1", "--tags=nginx", apps, playbook="playbooks/services.yml")) > 0
    assert changes(play("--limit=web1", apps)) > 0
    assert "second.example" not in host.check_output("certbot certificates 2>/dev/null")
    assert changes(play("--limit=web1", "--tags=nginx", apps, playbook="playbooks/services.yml")) == 0


def test_http3_is_spoken_and_offered_where_nginx_is_built_with_it(host):
    if host.system_info.release.startswith("12"):
        assert "alt-svc" not in head(host)
        return
    assert 'alt-svc: h3=":443"' in head(host)
    assert head(host, "--http3-only").startswith("http/3")


def test_the_sites_own_certificate_is_served_and_its_key_is_told_nowhere(host, tmp_path):
    words = ["req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "30", "-subj", "/CN=own", "-addext"]
    certificates = {}
    for app, name in (("probe", SITE), ("other", SECOND)):
        key, certificate = tmp_path / f"{app}.key", tmp_path / f"{app}.crt"
        out = [f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(["openssl", *words, *out], check=True, capture_output=True)
        certificates[app] = {"certificate": certificate.read_text(), "key": key.read_text()}
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"tls_source": "own", "tls_certificates": certificates}))
    done = play(
        "--tags=nginx", "--limit=web1", "-vvv", "--diff", f"--extra-vars=@{file}", playbook="playbooks/services.yml"
    )
    assert changes(done) > 0
    assert served(host)["issuer"] == "own"
    secret = certificates["probe"]["key"].splitlines()[3]
    assert secret not in done.stdout + done.stderr
    key = host.file("/etc/ssl/private/probe.key")
    assert (key.user, key.mode, key.is_symlink) == ("root", 0o600, False)
    assert (
        changes(play("--tags=nginx", "--limit=web1", f"--extra-vars=@{file}", playbook="playbooks/services.yml")) == 0
    )
