"""The ruleset that the module firewall builds from the roles' declarations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from library import firewall

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


def test_the_port_that_the_run_came_in_by_is_always_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.7 50000 203.0.113.11 2222")
    rules = firewall.rules("ipv4", firewall.own_connection())
    assert "-A OFFRAMP -p tcp -m tcp --dport 2222 -j ACCEPT" in rules
