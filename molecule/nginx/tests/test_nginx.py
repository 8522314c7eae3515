"""The web server as a visitor sees it. An instance of the app is played by Python's http.server where one is needed."""

import json
import re
import subprocess
import time

import pytest

SITE = "probe.example"
BACKEND = """
import http.server, json
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(200); self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Echo).serve_forever()
"""


def curl(host, *words):
    marks = " ".join(["%s"] * len(words))
    return host.run(
        f"curl --silent --insecure --max-time 10 --resolve {SITE}:443:127.0.0.1 --resolve {SITE}:80:127.0.0.1 {marks}",
        *words,
    )


@pytest.fixture(scope="module", autouse=True)
def app(host):
    """Run an app that answers with the request that it got, on the second port alone; the first refuses connections."""
    host.check_output("systemd-run --unit=echo python3 -c %s", BACKEND.replace("PORT", "8001"))
    deadline = time.monotonic() + 10
    while not host.socket("tcp://127.0.0.1:8001").is_listening:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield
    host.check_output("systemctl stop echo")


def seen_by_app(host, *words):
    return json.loads(curl(host, *words, f"https://{SITE}/page?x=1").stdout)


def test_http_is_redirected_to_https(host):
    answer = curl(host, "--head", f"http://{SITE}/page").stdout
    assert "301" in answer.splitlines()[0]
    assert f"Location: https://{SITE}/page" in answer


def test_http2_is_spoken(host):
    assert curl(host, "--output", "/dev/null", "--write-out", "%{http_version}", f"https://{SITE}/").stdout == "2"


def test_an_instance_that_is_down_costs_no_request(host):
    codes = {
        curl(host, "--output", "/dev/null", "--write-out", "%{http_code}", f"https://{SITE}/").stdout for _ in range(10)
    }
    assert codes == {"200"}


def test_the_app_learns_the_real_client_and_scheme(host):
    headers = seen_by_app(host)["headers"]
    assert headers["Host"] == SITE
    assert headers["X-Forwarded-Proto"] == "https"
    assert headers["X-Forwarded-For"] == "127.0.0.1"


def test_a_client_cannot_forge_its_address_or_scheme(host):
    headers = seen_by_app(host, "--header", "X-Forwarded-For: 192.0.2.99", "--header", "X-Forwarded-Proto: http")[
        "headers"
    ]
    assert headers["X-Forwarded-For"] == "127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "https"


def test_a_request_has_the_same_id_for_the_client_the_app_and_the_log(host):
    answer = curl(host, "--include", f"https://{SITE}/page")
    head, body = answer.stdout.replace("\r", "").split("\n\n", 1)
    given = next(line.split(": ")[1] for line in head.splitlines() if line.lower().startswith("x-request-id"))
    assert json.loads(body)["headers"]["X-Request-ID"] == given
    assert given in host.file("/var/log/nginx/access.log").content_string


def test_a_large_text_is_compressed(host):
    padding = "a" * 3000
    answer = curl(
        host, "--head", "--request", "GET", "--header", "Accept-Encoding: gzip", f"https://{SITE}/?{padding}"
    ).stdout
    assert "content-encoding: gzip" in answer.lower()


def test_static_files_come_from_the_release_without_the_app(host):
    host.check_output("mkdir -p /srv/www/probe/assets/now/static && echo body > /srv/www/probe/assets/now/static/a.css")
    assert curl(host, f"https://{SITE}/static/a.css").stdout == "body\n"


def test_a_static_file_of_another_release_is_still_there(host):
    host.check_output(
        "mkdir -p /srv/www/probe/assets/kept/static && echo old > /srv/www/probe/assets/kept/static/a.0a1b.css"
    )
    assert curl(host, f"https://{SITE}/static/a.0a1b.css").stdout == "old\n"


def test_an_instance_that_is_taken_out_is_asked_nothing_unless_no_other_answers(host):
    """The second instance alone is up: asked for, or as a last resort."""
    marks = "/run/offramp/upstream/probe"
    for mark in ("without-1", "without-2"):
        host.check_output("mkdir -p %s && touch %s/%s", marks, marks, mark)
        codes = {
            curl(host, "--output", "/dev/null", "--write-out", "%{http_code}", f"https://{SITE}/").stdout
            for _ in range(4)
        }
        host.check_output("rm %s/%s", marks, mark)
        assert codes == {"200"}


def test_a_static_file_that_was_not_collected_is_asked_of_the_app(host):
    assert json.loads(curl(host, f"https://{SITE}/static/missing.css").stdout)["path"] == "/static/missing.css"


def test_nothing_outside_the_static_files_is_reachable_by_a_path(host):
    host.check_output(
        "mkdir -p /srv/www/probe/assets/now/static && echo secret > /srv/www/probe/assets/now/settings.py"
    )
    answer = curl(host, "--path-as-is", f"https://{SITE}/static/../settings.py")
    assert "secret" not in answer.stdout
    assert "secret" not in curl(host, "--path-as-is", f"https://{SITE}/static../settings.py").stdout


def test_a_directory_is_not_listed(host):
    host.check_output(
        "mkdir -p /srv/www/probe/assets/now/static/inner && touch /srv/www/probe/assets/now/static/inner/b.css"
    )
    for path in ("/static/", "/static/inner/"):
        assert "b.css" not in curl(host, f"https://{SITE}{path}").stdout


def test_a_visitor_learns_no_version_and_gets_no_request_echoed(host):
    assert re.findall(r"(?im)^server: (.*?)\s*$", curl(host, "--head", f"https://{SITE}/").stdout) == ["nginx"]
    refused = curl(host, "--request", "TRACE", f"https://{SITE}/")
    assert "405" in refused.stdout
    assert "nginx/" not in refused.stdout


def test_another_name_gets_no_certificate_and_no_answer(host):
    assert host.run("curl --silent --insecure --resolve other.example:443:127.0.0.1 https://other.example/").rc == 35
    closed_or_reset = (52, 56)
    assert host.run("curl --silent --header 'Host: other.example' http://127.0.0.1/").rc in closed_or_reset


def test_too_large_a_body_is_refused(host):
    host.check_output("truncate --size=40M /tmp/large")
    answer = curl(
        host, "--output", "/dev/null", "--write-out", "%{http_code}", "--data-binary", "@/tmp/large", f"https://{SITE}/"
    )
    assert answer.stdout == "413"


def test_the_key_is_readable_by_root_alone(host):
    key = host.file("/etc/ssl/private/probe.key")
    assert (key.user, key.mode) == ("root", 0o600)


def test_a_configuration_that_nginx_refuses_is_taken_back_before_it_is_loaded(host):
    state = "cat /etc/nginx/nginx.conf /etc/nginx/conf.d/* && pgrep nginx"
    before = host.check_output(state)
    refused = {"nginx_trusted_proxies": ["no-address"]}
    words = ["ansible-playbook", "playbooks/services.yml", "--tags=nginx", f"--extra-vars={json.dumps(refused)}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no-address" in done.stdout
    assert host.check_output(state) == before
    assert "301" in curl(host, "--head", f"http://{SITE}/").stdout


def test_a_killed_master_comes_back_and_no_old_worker_keeps_the_port(host):
    host.check_output("kill -9 $(systemctl show --property=MainPID --value nginx)")
    deadline = time.monotonic() + 15
    while "301" not in curl(host, "--head", f"http://{SITE}/").stdout:
        assert time.monotonic() < deadline, "nginx did not come back"
        time.sleep(0.3)
    assert host.check_output("pgrep --count --full 'nginx: master'") == "1"


def test_security_headers_are_sent_and_no_hsts_with_a_certificate_that_no_browser_trusts(host):
    for path in ("/", "/static/a.css"):
        answer = curl(host, "--include", f"https://{SITE}{path}").stdout.lower()
        assert "x-content-type-options: nosniff" in answer
        assert "x-frame-options: sameorigin" in answer
        assert "referrer-policy: strict-origin-when-cross-origin" in answer
        assert "strict-transport-security" not in answer


def test_old_protocols_and_ciphers_are_refused(host):
    hello = f"openssl s_client -connect 127.0.0.1:443 -servername {SITE}"
    assert host.run(f"{hello} -tls1_2 </dev/null").rc == 0
    assert host.run(f"{hello} -tls1_1 -cipher ALL:@SECLEVEL=0 </dev/null").rc != 0
    assert host.run(f"{hello} -tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256 </dev/null").rc != 0


def test_the_key_exchange_is_one_that_a_quantum_computer_does_not_undo(host):
    if host.system_info.release.startswith("12"):
        pytest.skip("Debian 12's OpenSSL has none")
    said = host.check_output(f"openssl s_client -connect 127.0.0.1:443 -servername {SITE} </dev/null")
    assert "X25519MLKEM768" in said


def test_a_domain_that_is_added_gets_into_the_certificate(host, tmp_path):
    hello = f"openssl s_client -connect 127.0.0.1:443 -servername {SITE} </dev/null"
    names = f"{hello} | openssl x509 -noout -ext subjectAltName"
    file = tmp_path / "apps.json"
    file.write_text(json.dumps({"apps": [{"name": "probe", "source": "x", "domains": [SITE, "later.example"]}]}))
    words = ["ansible-playbook", "playbooks/services.yml", "--tags=nginx"]
    subprocess.run([*words, f"--extra-vars=@{file}"], capture_output=True, check=True)
    assert "later.example" in host.check_output(names)
    subprocess.run(words, capture_output=True, check=True)
    assert "later.example" not in host.check_output(names)


def test_a_server_that_its_package_started_is_put_into_its_sandbox(host):
    drop_in, record = "/etc/systemd/system/nginx.service.d", "/run/offramp/nginx.service"
    host.check_output("rm -r %s %s && systemctl daemon-reload && systemctl restart nginx", drop_in, record)
    words = ["ansible-playbook", "playbooks/services.yml", "--tags=nginx"]
    subprocess.run(words, capture_output=True, check=True)
    assert "NoNewPrivs:\t1" in host.check_output("cat /proc/$(cat /run/nginx.pid)/status")
