"""The whole site, as visitors, strangers and the operator meet it.

The tests run in order: those that change the site come last, and each leaves it serving.
"""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import testinfra

testinfra_hosts = ["ansible://outsider"]
# pytest would move a test without the host behind those with it, and then the order is lost.
pytestmark = pytest.mark.usefixtures("host")

DOMAIN = "errorlog.example"
REDIS = "redis-cli --user offramp -s /run/redis/redis-server.sock"
SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "site")
INVENTORIES = ("molecule/shared/inventory", f"molecule/{SCENARIO}/inventory")
SERVICES = {
    "web1": ["nginx", "memcached", "haproxy", "pgbouncer", "supervisor"],
    "db1": ["postgresql@*-main.service", "redis-server"],
}
OPEN_TO_EVERYONE = {("web1", 22), ("web1", 80), ("web1", 443), ("db1", 22)}
OPEN_TO_WEB_HOSTS = {("web1", 11211), ("db1", 5432), ("db1", 6379)}
PORTS = [22, 80, 443, 5432, 6379, 6432, 7379, 8000, 8001, 9001, 11211]

VISITS = """
while sleep 0.2; do
  curl --silent --insecure --max-time 10 --resolve {domain}:443:{address} --output /dev/null \
    --write-out '%{{http_code}}\\n' https://{domain}/ >>/var/visits
done
"""
REACH = """
import json, socket, sys
found = []
for name, address, ports in json.load(sys.stdin):
    for port in ports:
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            continue
        found.append([name, port])
print(json.dumps(found))
"""


def server(name):
    return testinfra.get_host(f"ansible://{name}")


def ipv4(name):
    return server(name).ansible.get_variables()["address"]


def ipv6(name):
    listed = server(name).check_output("ip -6 -brief address show scope global").split()
    return next(word.split("/")[0] for word in listed if "/" in word)


def curl(host, path="/", *words, on="web1"):
    marks = " ".join(["%s"] * len(words))
    return host.run(
        f"curl --silent --show-error --insecure --max-time 10 --resolve {DOMAIN}:443:%s {marks} https://{DOMAIN}%s",
        ipv4(on),
        *words,
        path,
    )


def serves(host, on="web1"):
    answer = curl(host, "/health", on=on).stdout
    return answer.startswith("{") and set(json.loads(answer).values()) == {"ok"}


def command(*options, playbook="site.yml"):
    return ["ansible-playbook", playbook, *(f"--inventory={inventory}" for inventory in INVENTORIES), *options]


def play(*options, **which):
    done = subprocess.run(command(*options, **which), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    return done.stdout


def changes(output):
    """Return the tasks that changed a host, each with its hosts."""
    tasks = re.split(r"^(?=TASK|PLAY)", output, flags=re.MULTILINE)
    return [task for task in tasks if re.search(r"^changed: ", task, flags=re.MULTILINE)]


def main_pids(*units):
    shown = "systemctl show --property=MainPID --value %s | head -1"
    return {(name, unit): server(name).check_output(shown, unit) for name, unit in units}


def restart(*names):
    containers = [f"offramp-{SCENARIO}-{name}" for name in names]
    environment = {**os.environ}
    if Path(".lab/containers.conf").exists():
        environment["CONTAINERS_CONF"] = str(Path(".lab/containers.conf").absolute())
    subprocess.run(["podman", "restart", "--time=0", *containers], check=True, capture_output=True, env=environment)


def answers_ssh(name):
    try:
        return server(name).run("true").rc == 0
    except RuntimeError:
        return False


def post(host, message, on="web1"):
    event = json.dumps({"type": "ValueError", "message": message})
    answer = curl(host, "/api/events/", "--json", event, on=on).stdout
    return json.loads(answer)["id"]


def test_a_posted_event_is_grouped_by_the_worker_and_shown_on_the_page(host, eventually):
    post(host, "price is not a number: twelve")
    eventually(lambda: "price is not a number: twelve" in curl(host).stdout)


def test_every_static_file_of_the_page_is_served(host):
    page = curl(host).stdout
    paths = [part.split('"')[0] for part in page.split('href="')[1:] if part.startswith("/static/")]
    assert paths
    for path in paths:
        assert curl(host, path, "--fail", "--output", "/dev/null").rc == 0


@pytest.mark.parametrize("family", [ipv4, ipv6])
@pytest.mark.parametrize("client", ["outsider", "web1", "db1"])
def test_each_port_is_open_to_those_who_need_it_and_to_nobody_else(family, client):
    targets = [[name, family(name), PORTS] for name in ("web1", "db1") if name != client]
    command = "printf %s | python3 -c %s"
    found = json.loads(server(client).check_output(command, json.dumps(targets), REACH))
    expected = OPEN_TO_EVERYONE | (OPEN_TO_WEB_HOSTS if client == "web1" and family is ipv4 else set())
    assert {(name, port) for name, port in found} == {(name, port) for name, port in expected if name != client}


def test_the_check_of_a_converged_site_finds_nothing_to_change():
    assert changes(play("--check", "--diff")) == []


@pytest.mark.parametrize(
    ("on", "service"), [(on, service) for on, services in SERVICES.items() for service in services]
)
def test_a_killed_service_comes_back_and_the_site_serves(host, eventually, on, service):
    server(on).check_output("kill -9 %s", main_pids((on, service))[on, service])
    time.sleep(1)
    eventually(lambda: serves(host), seconds=20)


@pytest.mark.drill
@pytest.mark.parametrize("names", [("web1",), ("db1",), ("web1", "db1"), ("db1", "web1")], ids="-".join)
def test_a_restarted_server_comes_back_with_everything(host, eventually, names):
    restart(*names)
    eventually(lambda: serves(host), seconds=90)
    for name in names:
        eventually(lambda name=name: answers_ssh(name), seconds=30)
        assert "-P INPUT DROP" in server(name).check_output("iptables -S")
        assert server(name).check_output("systemctl list-units --failed --no-legend") == ""
    post(host, f"after a restart of {' and '.join(names)}")


def running_values(host):
    """What the running daemons say of themselves, each asked in its own way."""
    web, db = server("web1"), server("db1")
    ask_memcached = "exec 3<>/dev/tcp/127.0.0.1/11211; printf 'stats settings\\r\\nquit\\r\\n' >&3; cat <&3"
    memcached = web.check_output("bash -c %s", ask_memcached)
    ask_nginx = ("/", "--output", "/dev/null", "--write-out", "%{http_code}", "--data-binary", "@/var/large")
    host.check_output("truncate --size=1200K /var/large")
    password = db.check_output("sed -n 's/^masterauth //p' /etc/redis/users.conf")
    return {
        "memcached": next(line.split()[-1] for line in memcached.splitlines() if "maxconns" in line),
        "nginx": curl(host, *ask_nginx).stdout,
        "pgbouncer": next(
            line.split("|")[1]
            for line in web.check_output(
                "runuser -u postgres -- psql -At -h /run/postgresql -p 6432 -U pgbouncer pgbouncer -c 'SHOW CONFIG'"
            ).splitlines()
            if line.startswith("default_pool_size|")
        ),
        "postgresql": db.check_output("psql --username=postgres -Atc 'SHOW log_min_duration_statement' postgres"),
        "redis": db.check_output(
            f"REDISCLI_AUTH=%s {REDIS} config get maxmemory-policy",
            password,
        ).split()[-1],
    }


@pytest.mark.drill
def test_a_killed_run_heals_and_what_runs_is_what_was_asked_for(host, eventually):
    """Wherever a run is killed, the next one ends with the running state of a run that nobody disturbed."""
    values = {
        "memcached_max_connections": 777,
        "nginx_max_body_mib": 1,
        "pgbouncer_pool_size": 7,
        "postgresql_settings": {"log_min_duration_statement": "7s"},
        "redis_maxmemory_policy": "volatile-ttl",
    }
    options = ("--extra-vars", json.dumps(values))
    for seconds in (4.5, 7, 10):
        running = subprocess.Popen(
            command(*options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(seconds)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    play(*options)
    assert running_values(host) == {
        "memcached": "777",
        "nginx": "413",
        "pgbouncer": "7",
        "postgresql": "7s",
        "redis": "volatile-ttl",
    }
    found = changes(play(*options, "--diff"))
    assert not found, "".join(found)
    play()
    eventually(lambda: serves(host))
    assert running_values(host)["redis"] == "noeviction"


def test_a_daemon_that_runs_an_older_configuration_is_found_though_its_file_is_right(host):
    """The file is as it should be, and the daemon was never told: what a killed run leaves behind."""
    db = server("db1")
    password = db.check_output("sed -n 's/^masterauth //p' /etc/redis/users.conf")
    db.check_output("sed -i.kept 's/noeviction/allkeys-lru/' /etc/redis/redis.conf && systemctl restart redis-server")
    db.check_output("mv /etc/redis/redis.conf.kept /etc/redis/redis.conf")
    asked = f"REDISCLI_AUTH=%s {REDIS} config get maxmemory-policy"
    assert db.check_output(asked, password).split()[-1] == "allkeys-lru"
    play(playbook="playbooks/services.yml")
    assert db.check_output(asked, password).split()[-1] == "noeviction"
    assert serves(host)


@pytest.mark.drill
def test_a_third_host_is_one_line_and_another_run(host, eventually):
    """web2 joins, the app is served by both, and visitors of web1 notice nothing."""
    lasting = [("web1", "nginx"), ("web1", "pgbouncer"), ("db1", "postgresql@*-main.service"), ("db1", "redis-server")]
    before = main_pids(*lasting)
    host.check_output("systemd-run --unit=visits bash -c %s", VISITS.format(domain=DOMAIN, address=ipv4("web1")))
    third = "--inventory=molecule/site/web2"
    play(third)
    host.check_output("systemctl stop visits")
    codes = host.file("/var/visits").content_string.split()
    assert len(codes) > 20
    assert set(codes) == {"200"}
    eventually(lambda: serves(host, on="web2"))
    event = post(host, "seen by the new host", on="web2")
    eventually(lambda: json.loads(curl(host, f"/api/events/{event}/").stdout)["group"])
    eventually(lambda: "seen by the new host" in curl(host).stdout)
    assert main_pids(*lasting) == before
    assert changes(play(third)) == []
