"""Updates on two web hosts and two database servers under a steady load: nobody notices, and what fails stops the run.

The tests follow each other: what one leaves, the next one goes on with.
"""

import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest
from shared.tests.ledger import podman

testinfra_hosts = ["ansible://web1"]
# pytest would move a test without the host behind those with it, and then the order is lost.
pytestmark = pytest.mark.usefixtures("host", "updates")

WEB = {"web1": "10.90.69.11", "web2": "10.90.69.12"}
DB = ("db1", "db2")
HOSTS = (*WEB, *DB)
RELEASE = os.environ.get("LAB_RELEASE", "trixie")
VERSION = {"bookworm": 15, "trixie": 17}[RELEASE]
# The first comes by itself, as a security update; the others are held.
FREE = "logrotate"
HELD = {"web": ("nginx", "pgbouncer", "supervisor"), "db": (f"postgresql-{VERSION}", "redis-server")}
# A repository of packages that are Debian's own with a higher version.
REPOSITORY = """
mkdir -p /srv/updates && cd /srv/updates
apt-get download --quiet --quiet {names}
for old in *.deb; do
  dpkg-deb --raw-extract "$old" tree
  sed -i 's/^Version: .*/&+offramp1/' tree/DEBIAN/control
  dpkg-deb -Znone --build tree "new-$old"
  rm -r tree "$old"
  {{
    dpkg-deb --field "new-$old"
    printf 'Filename: ./%s\\nSize: %s\\n' "new-$old" "$(stat -c %s "new-$old")"
    printf 'SHA256: %s\\n\\n' "$(sha256sum <"new-$old" | cut -d ' ' -f 1)"
  }} >>Packages
done
{{
  printf '%s\\n' 'Origin: Debian' 'Label: Debian-Security' 'Codename: {release}-security'
  echo "Date: $(date --utc --rfc-email)"
  printf 'SHA256:\\n %s %s Packages\\n' "$(sha256sum <Packages | cut -d ' ' -f 1)" "$(stat -c %s Packages)"
}} >Release
"""
SOURCE = "deb [trusted=yes] file:/srv/updates ./"


def on(host, script, check=True):
    done = podman("exec", f"offramp-patch-{host}", "sh", "-euc", script)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def updates(tmp_path_factory):
    """Have every host know of updates, and as yet none of them."""
    names = [FREE, *HELD["web"], *HELD["db"]]
    on("web1", REPOSITORY.format(names=" ".join(names), release=RELEASE))
    path = str(tmp_path_factory.mktemp("updates"))
    podman("cp", "offramp-patch-web1:/srv/updates", path)
    for host in HOSTS:
        podman("cp", f"{path}/updates", f"offramp-patch-{host}:/srv/")
        # What Debian has published since is of no matter here.
        on(host, f"cd /etc/apt; rm -f sources.list sources.list.d/*; echo '{SOURCE}' >sources.list.d/updates.list")


def play(*words):
    environment = {name: value for name, value in os.environ.items() if name != "ANSIBLE_RUN_TAGS"}
    command = ["ansible-playbook", "playbooks/patch.yml", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"ANSIBLE_NOCOLOR": "1"})
    done.text = re.sub(r"\s+", " ", done.stdout)
    done.changed = sum(int(number) for number in re.findall(r"changed=(\d+)", done.stdout))
    return done


def updated(host):
    """Return which packages of the host's have their update."""
    names = " ".join([FREE, *HELD[host.rstrip("12")]])
    shown = on(host, f"dpkg-query --show --showformat '${{Package}} ${{Version}}\\n' {names}")
    return {line.split()[0] for line in shown.splitlines() if line.endswith("+offramp1")}


def primary():
    asked = {host: on(host, "psql -U postgres -XAtc 'SELECT pg_is_in_recovery()'") for host in DB}
    return next(host for host, recovering in asked.items() if recovering == "f")


def standby():
    return next(host for host in DB if host != primary())


class Load:
    """Clients who try each address of the site's name, as browsers do; they post, and count each answer."""

    CLIENTS, SECONDS = 6, 0.3

    def __init__(self):
        self.taken, self.seen, self.failures, self.over = [], set(), [], threading.Event()
        self.threads = [threading.Thread(target=self.visit, args=(number,)) for number in range(self.CLIENTS)]
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_problem):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def visit(self, number):
        addresses = list(WEB.values())[:: 1 if number % 2 else -1]
        while not self.over.wait(self.SECONDS):
            name = uuid.uuid4().hex
            try:
                self.post(addresses, name)
                self.taken.append(name)
            except (OSError, AssertionError) as problem:
                self.failures.append(f"{time.strftime('%H:%M:%S')} {addresses[0]}: {problem!r}")

    def post(self, addresses, name):
        with self.connected(addresses) as line:
            head = f"POST /orders HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nContent-Length: {len(name)}"
            line.sendall(f"{head}\r\n\r\n{name}".encode())
            answer = b""
            while part := line.recv(65536):
                answer += part
        status, _, body = answer.decode().partition("\r\n\r\n")
        assert status.startswith("HTTP/1.1 200 "), status.partition("\r\n")[0]
        self.seen.add(body)

    def connected(self, addresses):
        """Nothing was sent yet where one cannot be reached, so that the next one may be tried."""
        for address in addresses:
            try:
                line = socket.create_connection((address, 443), 3)
                line.settimeout(30)
                return self.tls.wrap_socket(line, server_hostname="shop.example")
            except OSError as error:
                problem = error
        raise problem

    def assert_nobody_noticed(self):
        assert self.failures == []
        assert len(self.taken) > 100
        kept = set(on(primary(), "psql -U postgres -XAtc 'SELECT name FROM orders' shop").split())
        assert set(self.taken) - kept == set()
        # The app is told who asked, whichever of the hosts was asked.
        assert len(self.seen) == 1
        assert not self.seen & set(WEB.values())


def answer_of(web):
    """Return what one web host answers to the shop's name, with the status at the end."""
    where = ["--resolve", f"shop.example:443:{WEB[web]}", "https://shop.example/"]
    words = ["curl", "--silent", "--insecure", "--noproxy", "*", "--write-out", " %{http_code}", *where]
    return subprocess.run(words, capture_output=True, text=True).stdout


@pytest.mark.parametrize("host_name", ["web1", "db1"])
def test_security_updates_come_by_themselves_and_what_would_drop_requests_is_held(host_name):
    on(host_name, "apt-get update --quiet --quiet")
    said = on(host_name, "unattended-upgrade --dry-run --verbose 2>&1")
    taken = re.search(r"Packages that will be upgraded: (.*)", said)[1].split()
    assert FREE in taken, said
    assert not set(taken) & set(HELD[host_name.rstrip("1")]), said
    assert on(host_name, "systemctl is-active apt-daily-upgrade.timer") == "active"
    assert on(host_name, "apt-config dump --format '%v%n' APT::Periodic::Unattended-Upgrade") == "1"


def test_a_preview_lists_what_would_be_done_and_does_nothing():
    done = play("--check", "--diff")
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.changed == 0
    for name in (FREE, *HELD["web"], *HELD["db"]):
        assert re.search(rf"- {name} \S+ to \S+\+offramp1", done.stdout), done.stdout[-3000:]
    assert [updated(host) for host in HOSTS] == [set()] * 4


def test_a_part_of_the_site_is_refused():
    done = play("--limit=web1")
    assert done.returncode != 0
    assert "Run it again without --limit" in done.text
    assert done.changed == 0


def test_a_host_that_fails_stops_the_run_and_is_answered_for():
    """The standby comes first, and is rebooted; of web1 the packages cannot be upgraded."""
    follower, leader = standby(), primary()
    on(follower, "touch /run/reboot-required /run/not-rebooted")
    on("web1", """echo 'DPkg::Pre-Invoke {"false";};' >/etc/apt/apt.conf.d/99broken""")
    with Load() as load:
        done = play()
    on("web1", "rm /etc/apt/apt.conf.d/99broken")
    assert done.returncode != 0
    assert f"not patched to its end, and the other web hosts answer for it; patched before: {follower};" in done.text
    assert f"not begun: web2, {leader}. PostgreSQL's primary is {leader}" in done.text
    load.assert_nobody_noticed()
    assert updated(follower) == {FREE, *HELD["db"]}
    assert on(follower, "ls /run/not-rebooted", check=False) == ""
    assert [updated(host) for host in ("web1", "web2", leader)] == [set()] * 3
    on("web1", "systemctl stop supervisor")
    assert answer_of("web1").endswith(" 200")
    assert answer_of("web1") == answer_of("web2")
    on("web1", "systemctl start supervisor")


def test_a_patch_goes_on_where_it_stopped_and_drops_no_request():
    """Now web2 is rebooted, and the primary's place is taken by its standby, for good."""
    leader = primary()
    on("web2", "touch /run/reboot-required /run/not-rebooted")
    with Load() as load:
        done = play()
    assert done.returncode == 0, done.stdout[-3000:]
    load.assert_nobody_noticed()
    assert {host: updated(host) for host in HOSTS} == {host: {FREE, *HELD[host.rstrip("12")]} for host in HOSTS}
    assert on("web2", "ls /run/not-rebooted", check=False) == ""
    assert standby() == leader
    # Commits wait for the standby again.
    assert on(primary(), "psql -U postgres -XAtc 'SHOW synchronous_standby_names'") == "standby"
    # Each answers for itself again.
    for web in WEB:
        on(web, "test ! -e /var/lib/offramp/away")
        assert answer_of(web).endswith(" 200")


def test_a_second_run_changes_nothing():
    done = play()
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.changed == 0
    assert done.text.count("Nothing is to be done.") == len(HOSTS)


def test_the_clients_of_an_only_database_server_wait_for_it(tmp_path):
    """The same servers, as a site knows them that has no standby."""
    server = primary()
    inventory = shutil.copytree(Path(__file__).parent.parent / "inventory", tmp_path / "inventory")
    hosts = (inventory / "hosts.yml").read_text().splitlines(keepends=True)
    (inventory / "hosts.yml").write_text("".join(line for line in hosts if f"{standby()}:" not in line))
    on(server, f"cd /usr/lib/postgresql/{VERSION}/bin; cp -p postgres new; mv new postgres")
    on(server, "touch /var/lib/dpkg/info/redis-server.list")
    units = f"systemctl show --property=MainPID --value postgresql@{VERSION}-main redis-server"
    before = on(server, units).split()
    with Load() as load:
        done = play("--inventory=molecule/shared/inventory/", f"--inventory={inventory}/")
    assert done.returncode == 0, done.stdout[-3000:]
    load.assert_nobody_noticed()
    assert not set(on(server, units).split()) & set(before)
