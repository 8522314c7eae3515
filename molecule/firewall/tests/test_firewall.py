"""What a host lets in: what a role declared, for the hosts that it named, and nothing else.

web1 is looked at. memcached is declared for the web hosts, so web2 is a friend; the outsider is in no group.
"""

import subprocess

import pytest
import testinfra

testinfra_hosts = ["ansible://web1"]

MEMCACHED, HTTPS, UNDECLARED = 11211, 443, 7003
CONNECT = "import socket; socket.create_connection(('{}', {}), 2)"
LISTEN = f"""
import socket, time
options = dict(family=socket.AF_INET6, dualstack_ipv6=True)
kept = [socket.create_server(("", port), **options) for port in ({UNDECLARED},)]
time.sleep(900)
"""


def another(name):
    return testinfra.get_host(f"ansible://{name}")


@pytest.fixture(scope="module", autouse=True)
def listener(host):
    """Listen on a port that nobody declared, on all addresses of both families."""
    host.check_output("systemd-run --unit=listener python3 -c %s", LISTEN)
    yield
    host.check_output("systemctl stop listener")


@pytest.fixture(scope="module")
def addresses(host):
    """Return the host's IPv4 and IPv6 addresses."""
    listed = host.check_output("ip -brief address show scope global").split()
    return {
        "ipv4": next(a for a in listed if "." in a).split("/")[0],
        "ipv6": next(a for a in listed if "::" in a).split("/")[0],
    }


def reaches(client, address, port):
    return client.run("python3 -c %s", CONNECT.format(address, port)).rc == 0


def converge(*options):
    command = ["ansible-playbook", "playbooks/base.yml", "--limit=web1", "--tags=firewall", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_what_is_declared_for_everyone_is_open_to_an_outsider(addresses, family):
    assert reaches(another("outsider"), addresses[family], HTTPS)


def test_what_is_declared_for_some_is_open_to_them_alone(addresses):
    assert reaches(another("web2"), addresses["ipv4"], MEMCACHED)
    assert not reaches(another("outsider"), addresses["ipv4"], MEMCACHED)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("client", ["web2", "outsider"])
def test_what_nobody_declared_is_shut(addresses, family, client):
    assert not reaches(another(client), addresses[family], UNDECLARED)


def test_the_host_reaches_itself(host, addresses):
    assert reaches(host, "127.0.0.1", UNDECLARED)
    assert reaches(host, addresses["ipv6"], UNDECLARED)


def test_the_rules_are_loaded_at_boot_before_the_network(host):
    order = host.check_output("systemctl show --property=Before --value netfilter-persistent").split()
    assert "network-pre.target" in order
    assert host.check_output("systemctl is-enabled netfilter-persistent") == "enabled"


@pytest.mark.parametrize(("tool", "family"), [("iptables", "v4"), ("ip6tables", "v6")])
def test_the_next_boot_loads_what_is_loaded_now(host, tool, family):
    saved = host.file(f"/etc/iptables/rules.{family}").content_string.splitlines()
    loaded = host.check_output(f"{tool} -S").splitlines()
    assert [line for line in saved if line.startswith("-A")] == [line for line in loaded if line.startswith("-A")]


def test_a_hole_made_by_hand_is_seen_and_closed(host, addresses):
    host.check_output("iptables -I OFFRAMP 1 -p tcp --dport %s -j ACCEPT", str(UNDECLARED))
    outsider = another("outsider")
    assert reaches(outsider, addresses["ipv4"], UNDECLARED)
    assert f"--dport {UNDECLARED}" in converge("--check", "--diff").stdout
    assert reaches(outsider, addresses["ipv4"], UNDECLARED)
    assert converge().returncode == 0
    assert not reaches(outsider, addresses["ipv4"], UNDECLARED)


def test_loading_at_boot_that_was_switched_off_is_switched_on_again(host):
    host.check_output("systemctl disable netfilter-persistent")
    assert converge().returncode == 0
    assert host.check_output("systemctl is-enabled netfilter-persistent") == "enabled"


def test_chains_of_others_survive(host):
    host.check_output("iptables -N somebody-else && iptables -I INPUT 1 -j somebody-else")
    host.check_output("iptables -D OFFRAMP 1")
    assert converge().returncode == 0
    rules = host.check_output("iptables -S").splitlines()
    host.check_output("iptables -D INPUT -j somebody-else && iptables -X somebody-else")
    assert "-A INPUT -j somebody-else" in rules
    assert "-A OFFRAMP -i lo -j ACCEPT" in rules


def test_a_flushed_filter_is_loaded_again(host):
    host.check_output("iptables -P INPUT ACCEPT && iptables -F")
    assert converge().returncode == 0
    rules = host.check_output("iptables -S").splitlines()
    assert "-P INPUT DROP" in rules
    assert "-A INPUT -j OFFRAMP" in rules
