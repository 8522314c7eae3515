"""The cache as the apps and a stranger see it."""

import pytest
import testinfra

testinfra_hosts = ["ansible://one"]

ASK = """
import socket
connection = socket.create_connection(("{}", 11211), 2)
connection.sendall(b"set k 0 0 5\\r\\nvalue\\r\\nget k\\r\\nquit\\r\\n")
print(connection.makefile().read())
"""


@pytest.fixture
def address(host):
    return host.ansible.get_variables()["address"]


@pytest.fixture
def stranger():
    return testinfra.get_host("ansible://stranger")


def test_it_keeps_a_value_for_the_hosts_own_apps(host):
    assert "value" in host.check_output("python3 -c %s", ASK.format("127.0.0.1"))


def test_it_keeps_a_value_on_the_address_that_other_web_hosts_use(host, address):
    assert "value" in host.check_output("python3 -c %s", ASK.format(address))


def test_a_stranger_gets_no_connection(stranger, address):
    assert stranger.run("python3 -c %s", ASK.format(address)).rc != 0


def test_it_answers_no_udp(host):
    assert "11211" not in host.check_output("ss --listening --udp --numeric --no-header")
