"""What a host lets in: what a role declared, for the hosts that it named, and nothing else.

web1 is looked at. memcached is declared for the web hosts, so web2 is a friend; the outsider and the stranger are in no
group.
"""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import testinfra
from shared.tests.runs import kill

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


def state(host):
    """Everything that the filter holds, and what the next boot loads, to the byte."""
    saved = "for tool in iptables ip6tables; do $tool-save -t filter | grep -v '^#' | sed 's/ .[0-9]*:[0-9]*.$//'; done"
    return host.check_output(f"{saved}; cat /etc/iptables/rules.v4 /etc/iptables/rules.v6")


def reaches(client, address, port):
    return client.run("python3 -c %s", CONNECT.format(address, port)).rc == 0


def command(limit, *options):
    return ["ansible-playbook", "playbooks/base.yml", f"--limit={limit}", "--tags=firewall", *options]


def converge(*options, limit="web1"):
    # What is cut off is told after this time.
    environment = os.environ | {"ANSIBLE_TIMEOUT": "4", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    return subprocess.run(command(limit, *options), env=environment, capture_output=True, text=True, check=False)


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


def test_what_a_provider_put_into_the_file_is_loaded_at_the_next_boot(host):
    file = "/etc/iptables/rules.v4"
    host.check_output("cp -p %s /root/rules.v4", file)
    host.check_output(
        "sed -i '/^:OUTPUT/a :InstanceServices - [0:0]\\n-A OUTPUT -d 169.254.0.2/32 -j InstanceServices' %s", file
    )
    host.check_output("iptables -D OFFRAMP 1")
    assert converge().returncode == 0
    text = host.file(file).content_string
    host.check_output("iptables-restore --test <%s", file)
    host.check_output("mv /root/rules.v4 %s", file)
    assert "-A OUTPUT -d 169.254.0.2/32 -j InstanceServices" in text
    assert "-A OFFRAMP -i lo -j ACCEPT" in text


def test_the_port_of_a_service_that_left_the_host_is_shut(host, addresses):
    declared = json.dumps([{"port": UNDECLARED, "protocol": "tcp", "sources": [], "comment": "gone"}])
    host.check_output("echo %s >/etc/offramp/firewall.d/gone.json", declared)
    assert converge('--extra-vars={"firewall_declared_by": ["gone", "nginx", "memcached"]}').returncode == 0
    assert reaches(another("outsider"), addresses["ipv4"], UNDECLARED)
    assert converge().returncode == 0
    assert not reaches(another("outsider"), addresses["ipv4"], UNDECLARED)
    host.check_output("rm /etc/offramp/firewall.d/gone.json")


def test_the_kernel_refuses_redirects_on_each_interface_now_and_after_a_boot(host):
    host.check_output("sysctl --quiet --write net.ipv4.conf.eth0.accept_redirects=1 net.ipv4.tcp_syncookies=0")
    assert converge().returncode == 0
    assert host.check_output("sysctl --values net.ipv4.conf.eth0.accept_redirects net.ipv4.tcp_syncookies") == "0\n1"
    assert "net.ipv4.conf.*.accept_redirects = 0" in host.file("/etc/sysctl.d/60-offramp.conf").content_string
    assert "changed=0" in converge().stdout


def test_ssh_is_limited_for_each_source_and_not_for_the_controller(addresses):
    stranger = another("stranger")
    assert [reaches(stranger, addresses["ipv4"], 22) for _ in range(12)].count(False) > 0
    assert reaches(another("outsider"), addresses["ipv4"], 22)
    new = ["ssh", *os.environ["ANSIBLE_SSH_COMMON_ARGS"].split(), "-o", "ControlPath=none", "web1", "true"]
    for _ in range(12):
        subprocess.run(new, stdin=subprocess.DEVNULL, capture_output=True, check=True)


# Each of these leaves the run's own connection outside; without its own rule nothing else would let it in.
LOCKOUTS = {
    "web1": {"firewall_ssh_port": 2222},
    "web2": {"firewall_ssh_sources": ["192.0.2.99"]},
    "outsider": {"firewall_ssh_sources": ["2001:db8::/32"]},
    "stranger": {"firewall_ssh_port": 1, "firewall_declared_by": []},
}
LOCKOUT = {"firewall_own_connection_enabled": False, "firewall_guard_seconds": 20}
CASES = ["wrong-port", "wrong-source", "ipv6-only", "drop-all"]


@pytest.fixture(scope="module")
def lockouts():
    """Run the four mistakes, each on a host of its own, at once; return each run, its seconds, and the states."""

    def run(name):
        before, begin = state(another(name)), time.monotonic()
        done = converge(f"--extra-vars={json.dumps(LOCKOUTS[name] | LOCKOUT)}", limit=name)
        return done, time.monotonic() - begin, before, state(another(name))

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(LOCKOUTS, pool.map(run, LOCKOUTS), strict=True))


@pytest.mark.parametrize("name", LOCKOUTS, ids=CASES)
def test_rules_that_would_cut_off_ssh_are_taken_back(lockouts, name):
    done, seconds, before, after = lockouts[name]
    assert done.returncode != 0
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith(f"FAILED: {name}: with the new packet filter `ssh -p"), done.stdout
    assert "firewall_ssh_port" in last
    assert "The host is as it was." in done.stdout
    assert seconds < 60
    assert after == before


def kill_before_the_proof(host, eventually, seconds):
    """Kill a run when the new rules are loaded and the proof waits for an answer."""
    values = json.dumps(LOCKOUTS["web1"] | LOCKOUT | {"firewall_guard_seconds": seconds})
    environment = os.environ | {"ANSIBLE_TIMEOUT": "30"}
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    run = subprocess.Popen(command("web1", f"--extra-vars={values}"), env=environment, **options)
    eventually(lambda: "--dport 2222" in host.check_output("iptables -S OFFRAMP"), seconds=30)
    kill(run)


def test_a_run_that_is_killed_before_the_proof_leaves_the_host_as_it_was(host, eventually):
    before = state(host)
    kill_before_the_proof(host, eventually, 6)
    assert state(host) != before
    eventually(lambda: state(host) == before, seconds=15)
    assert host.run("ls /var/lib/offramp/undo/firewall").rc != 0


@pytest.mark.drill
def test_a_run_after_a_killed_one_begins_with_what_was_there(host, eventually):
    before = state(host)
    kill_before_the_proof(host, eventually, 40)
    assert converge().returncode == 0
    assert state(host) == before
