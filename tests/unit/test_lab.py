"""What the lab makes of an inventory, and that scenarios can run side by side."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lab.hosts import refuse_those_of_another_checkout, servers_of

ROOT = Path(__file__).resolve().parents[2]
WEB1 = {"address": "10.90.7.11", "ansible_port": 22011}


def options(**values):
    return servers_of("lab", {"web1": WEB1 | values})[0].options


def published(**values):
    words = options(**values)
    return [words[at + 1] for at, word in enumerate(words) if word == "--publish"]


def test_a_host_becomes_a_container_with_its_own_name_and_addresses():
    text = " ".join(options())
    assert "--name offramp-lab-web1 --hostname web1" in text
    assert "--network offramp-lab:ip=10.90.7.11,ip6=fd00:10:90:7::11" in text


def test_only_ssh_is_published_and_only_here():
    assert published() == ["127.0.0.1:22011:22"]


def test_what_the_inventory_publishes_is_found_at_the_base_plus_the_last_number():
    publish = {"443": 8400, "80": 8000}
    assert published(lab_publish=publish) == ["127.0.0.1:22011:22", "127.0.0.1:8011:80", "127.0.0.1:8411:443"]


@pytest.mark.parametrize(("values", "expected"), [({}, False), ({"memory_mib": 512}, True)])
def test_memory_is_limited_where_the_inventory_says_so(values, expected):
    assert ("--memory 512m" in " ".join(options(**values))) is expected


def test_the_container_is_made_anew_when_what_makes_it_changes_and_not_otherwise():
    def spec(**values):
        return servers_of("lab", {"web1": WEB1 | values})[0].spec

    assert spec() == spec(apps=["whatever"])
    assert spec() != spec(memory_mib=512)


@pytest.mark.parametrize(
    ("image", "release", "expected"),
    [
        ("trixie", "trixie", "trixie"),
        ("trixie", "bookworm", "bookworm"),
        ("trixie-baked", "bookworm", "bookworm-baked"),
        ("bookworm", "trixie", "bookworm"),
    ],
)
def test_a_whole_scenario_can_be_put_on_another_release(image, release, expected):
    assert servers_of("lab", {"web1": WEB1 | {"lab_image": image}}, release)[0].image == expected


def test_a_host_without_address_or_port_is_refused_by_name():
    with pytest.raises(SystemExit, match="web1: the inventory gives it no address and no ansible_port"):
        servers_of("lab", {"web1": {}})


def test_hosts_in_two_networks_are_refused():
    hosts = {"web1": WEB1, "db1": {"address": "10.90.8.21", "ansible_port": 22021}}
    with pytest.raises(SystemExit, match="share one /24"):
        servers_of("lab", hosts)


def test_the_servers_of_another_checkout_are_left_alone(tmp_path):
    theirs = {"offramp-lab-web1": {"Labels": {"offramp.root": str(tmp_path)}}}
    with pytest.raises(SystemExit, match=f"offramp-lab-web1 belongs to the checkout in {tmp_path}"):
        refuse_those_of_another_checkout(theirs)


def test_the_servers_of_a_checkout_that_is_gone_may_be_taken(tmp_path):
    refuse_those_of_another_checkout({"offramp-lab-web1": {"Labels": {"offramp.root": f"{tmp_path}/gone"}}})


SCENARIOS = [path.parent for path in ROOT.glob("molecule/*/molecule.yml")]


def test_no_two_scenarios_share_a_port_or_a_network():
    ports, networks = Counter(), Counter()
    for folder in [ROOT / "inventory" / "lab", *(scenario / "inventory" for scenario in SCENARIOS)]:
        text = (folder / "hosts.yml").read_text()
        ports.update(set(re.findall(r"ansible_port: (\d+)", text)))
        networks.update(set(re.findall(r"address: (\d+\.\d+\.\d+)\.", text)))
    assert [port for port, times in ports.items() if times > 1] == []
    assert [network for network, times in networks.items() if times > 1] == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_has_hosts_in_both_groups(scenario):
    hosts = yaml.safe_load((scenario / "inventory" / "hosts.yml").read_text())
    assert hosts["web"]["hosts"]
    assert hosts["db"]["hosts"]
