"""The ruleset that the module firewall builds from the roles' declarations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from library import firewall
from module_utils.ssh_connection import SshConnection

DECLARED = [
    {"port": 443, "protocol": "tcp", "sources": [], "comment": "https"},
    {"port": 5432, "protocol": "tcp", "sources": ["192.0.2.11", "2001:db8::11"], "comment": "postgresql"},
    {"port": 53, "protocol": "udp", "sources": ["192.0.2.0/24"], "comment": "names"},
]


def test_the_whole_ipv4_ruleset() -> None:
    assert firewall.rules("ipv4", DECLARED) == [
        "-A OFFRAMP -i lo -j ACCEPT",
        "-A OFFRAMP -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A OFFRAMP -m conntrack --ctstate INVALID -j DROP",
        "-A OFFRAMP -p icmp -m icmp --icmp-type 3 -j ACCEPT",
        "-A OFFRAMP -p icmp -m icmp --icmp-type 8 -m limit --limit 20/sec -j ACCEPT",
        "-A OFFRAMP -p icmp -m icmp --icmp-type 11 -j ACCEPT",
        "-A OFFRAMP -p icmp -m icmp --icmp-type 12 -j ACCEPT",
        "-A OFFRAMP -s 192.0.2.0/24 -p udp -m udp --dport 53 -j ACCEPT",
        "-A OFFRAMP -p tcp -m tcp --dport 443 -j ACCEPT",
        "-A OFFRAMP -s 192.0.2.11/32 -p tcp -m tcp --dport 5432 -j ACCEPT",
        "-A OFFRAMP -j DROP",
    ]


def test_the_whole_ipv6_ruleset() -> None:
    assert firewall.rules("ipv6", DECLARED) == [
        "-A OFFRAMP -i lo -j ACCEPT",
        "-A OFFRAMP -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A OFFRAMP -m conntrack --ctstate INVALID -j DROP",
        "-A OFFRAMP -p ipv6-icmp -j ACCEPT",
        "-A OFFRAMP -s fe80::/10 -p udp -m udp --dport 546 -j ACCEPT",
        "-A OFFRAMP -p tcp -m tcp --dport 443 -j ACCEPT",
        "-A OFFRAMP -s 2001:db8::11/128 -p tcp -m tcp --dport 5432 -j ACCEPT",
        "-A OFFRAMP -j DROP",
    ]


def test_the_order_of_declarations_does_not_matter() -> None:
    assert firewall.rules("ipv4", DECLARED) == firewall.rules("ipv4", DECLARED[::-1])


def test_a_source_of_one_family_opens_nothing_to_everyone_in_the_other() -> None:
    only_ipv4 = [{"port": 6379, "protocol": "tcp", "sources": ["192.0.2.11"]}]
    assert not any("6379" in rule for rule in firewall.rules("ipv6", only_ipv4))


def test_a_source_that_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="web1"):
        firewall.rules("ipv4", [{"port": 80, "protocol": "tcp", "sources": ["web1"]}])


def test_loading_replaces_our_chain_alone() -> None:
    text = firewall.transaction(["-A OFFRAMP -j DROP"], jumps=True)
    assert text == "*filter\n:INPUT DROP [0:0]\n:OFFRAMP - [0:0]\n-A OFFRAMP -j DROP\nCOMMIT\n"


def test_the_first_load_jumps_to_our_chain() -> None:
    assert "-A INPUT -j OFFRAMP\n" in firewall.transaction([], jumps=False)


def test_declarations_of_all_roles_are_read(tmp_path: Path) -> None:
    (tmp_path / "redis.json").write_text(json.dumps(DECLARED[1:2]))
    (tmp_path / "nginx.json").write_text(json.dumps(DECLARED[:1]))
    (tmp_path / "nginx.json.dpkg-old").write_text("not ours")
    assert firewall.read_declarations(str(tmp_path)) == DECLARED[:2]


def test_a_host_without_declarations_opens_nothing(tmp_path: Path) -> None:
    assert firewall.read_declarations(str(tmp_path / "missing")) == []


def parameters(**changed: Any) -> dict[str, Any]:
    given = {"ssh_port": 22, "ssh_sources": [], "ssh_exempt_sources": [], "own_connection": True}
    return {**given, **changed}


def test_ssh_is_limited_but_for_the_connection_of_the_run() -> None:
    ssh = firewall.Ssh.of(parameters(), SshConnection("198.51.100.7", 22))
    assert [rule for rule in firewall.rules("ipv4", [], ssh) if "--dport 22 " in rule] == [
        "-A OFFRAMP -s 198.51.100.7/32 -p tcp -m tcp --dport 22 -j ACCEPT",
        f"-A OFFRAMP -p tcp -m tcp --dport 22 {firewall.SSH_LIMIT['ipv4']} -j DROP",
        "-A OFFRAMP -p tcp -m tcp --dport 22 -j ACCEPT",
    ]


def test_over_ipv6_a_source_is_a_whole_customer() -> None:
    ssh = firewall.Ssh.of(parameters(ssh_exempt_sources=["2001:db8::/48"]), None)
    rules = firewall.rules("ipv6", [], ssh)
    assert "-A OFFRAMP -s 2001:db8::/48 -p tcp -m tcp --dport 22 -j ACCEPT" in rules
    assert any(rule.endswith("--hashlimit-name ssh --hashlimit-srcmask 64 -j DROP") for rule in rules)


def test_the_connection_of_the_run_gets_in_though_its_address_is_no_source() -> None:
    ssh = firewall.Ssh.of(parameters(ssh_sources=["192.0.2.9"]), SshConnection("198.51.100.7", 22))
    accepted = [rule for rule in firewall.rules("ipv4", [], ssh) if "--dport 22 -j ACCEPT" in rule]
    assert [rule.split()[3] for rule in accepted] == ["198.51.100.7/32", "192.0.2.9/32"]


def test_the_port_that_the_run_came_in_by_is_always_open() -> None:
    ssh = firewall.Ssh.of(parameters(), SshConnection("198.51.100.7", 2222))
    assert "-A OFFRAMP -p tcp -m tcp --dport 2222 -j ACCEPT" in firewall.rules("ipv4", [], ssh)


def test_without_a_rule_of_its_own_the_run_may_lock_itself_out() -> None:
    given = parameters(ssh_port=2222, own_connection=False)
    ssh = firewall.Ssh.of(given, SshConnection("198.51.100.7", 22))
    assert not any("--dport 22 " in rule for rule in firewall.rules("ipv4", [], ssh))


def test_what_a_role_declared_that_left_the_host_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "redis.json").write_text(json.dumps(DECLARED[1:2]))
    (tmp_path / "nginx.json").write_text(json.dumps(DECLARED[:1]))
    assert firewall.read_declarations(str(tmp_path), ["nginx"]) == DECLARED[:1]


PROVIDERS = """# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp --dport 81 -j REDIRECT --to-ports 80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [12:600]
:InstanceServices - [0:0]
-A OUTPUT -d 169.254.0.0/16 -j InstanceServices
-A InstanceServices -p tcp --dport 3260 -j ACCEPT
COMMIT
"""


def test_the_file_keeps_what_others_put_there() -> None:
    text = firewall.file_text(["-A OFFRAMP -j DROP"], PROVIDERS)
    assert text.splitlines() == [
        "# Ansible managed",
        "*nat",
        ":PREROUTING ACCEPT [0:0]",
        "-A PREROUTING -p tcp --dport 81 -j REDIRECT --to-ports 80",
        "COMMIT",
        "*filter",
        ":INPUT DROP [0:0]",
        ":FORWARD DROP [0:0]",
        ":InstanceServices - [0:0]",
        ":OUTPUT ACCEPT [12:600]",
        ":OFFRAMP - [0:0]",
        "-A OUTPUT -d 169.254.0.0/16 -j InstanceServices",
        "-A InstanceServices -p tcp --dport 3260 -j ACCEPT",
        "-A INPUT -j OFFRAMP",
        "-A OFFRAMP -j DROP",
        "COMMIT",
    ]


def test_the_file_that_we_wrote_is_written_the_same_again() -> None:
    for present in ("", PROVIDERS):
        once = firewall.file_text(["-A OFFRAMP -j DROP"], present)
        assert firewall.file_text(["-A OFFRAMP -j DROP"], once) == once


def test_the_way_back_of_a_first_load_leaves_nothing_of_ours() -> None:
    lines = firewall.Loaded([]).undoing("iptables-restore", "iptables")
    assert ":INPUT ACCEPT [0:0]" in lines
    assert lines[-3:] == ["iptables -D INPUT -j OFFRAMP", "iptables -F OFFRAMP", "iptables -X OFFRAMP"]


def test_the_way_back_is_our_chain_as_it_is_loaded_now() -> None:
    loaded = firewall.Loaded(["-A OFFRAMP -j DROP"], chain=True, jumps=True, policy="DROP")
    assert loaded.undoing("iptables-restore", "iptables") == [
        "iptables-restore --noflush <<'RULES'",
        "*filter",
        ":INPUT DROP [0:0]",
        ":OFFRAMP - [0:0]",
        "-A OFFRAMP -j DROP",
        "COMMIT",
        "RULES",
    ]


@pytest.fixture
def proc_sys(tmp_path: Path) -> Path:
    """Two interfaces, of which one accepts redirects."""
    for interface, value in (("eth0", "1"), ("lo", "0")):
        directory = tmp_path / "net/ipv4/conf" / interface
        directory.mkdir(parents=True)
        (directory / "accept_redirects").write_text(f"{value}\n")
    return tmp_path


def test_a_setting_of_the_kernel_is_set_on_each_interface_and_kept(proc_sys: Path, tmp_path: Path) -> None:
    settings, file = {"net.ipv4.conf.*.accept_redirects": 0}, tmp_path / "sysctl.conf"
    kernel = firewall.Kernel(settings, proc_sys, file)
    assert kernel.names == ["net.ipv4.conf.eth0.accept_redirects"]
    kernel.apply()
    assert "net.ipv4.conf.*.accept_redirects = 0\n" in file.read_text()
    again = firewall.Kernel(settings, proc_sys, file)
    assert (again.names, again.file_differs) == ([], False)


def test_a_kernel_that_cannot_be_set_is_no_change(proc_sys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall.Kernel, "writable", staticmethod(lambda _path: False))
    assert firewall.Kernel({"net.ipv4.conf.*.accept_redirects": 0}, proc_sys).names == []
