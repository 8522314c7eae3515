"""Kinds of mistakes that no site may begin with, many in one inventory: each is named, with the line that mends it.

What a server has to be asked for (no sudo, no Python, an unsupported release, too little disk, memory shared out twice,
a clock that is wrong) is in molecule's scenario preflight; who is primary, in scenario standby; what cannot be mistaken
here (etcd, a renamed variable, a PostgreSQL version to choose) has no value.
"""

import re

VALUES = """\
base_operator_name: operator
ssh_operator_keys:
  - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ1dHRlcmZseWJ1dHRlcmZseWJ1dHRlcmZseWJ1dHQ you@laptop
base_timezone: Europe/Berln
base_locale: german
base_jurnal_max_mib: 256
nginx_max_body_mib: "32"
nginx_http3_enabled: "false"
nginx_trusted_proxies: [203.0.113.0/33]
firewall_ssh_port: 0
redis_port: 6380
backup_s3_endpoint: s3.example
backup_days_kept: 0
backup_calendar: every night
"""
APPS = """\
apps:
  - name: shop
    source: examples/errorlog
    domains: [shop..example]
    processes: {web: 2, worker: 1}
    health_path: health
    port: 8000
    config:
      SECRET_KEY: "{{ vault_shop_secret_key }}"
  - name: shop
    source: https://user@127.0.0.1:1/nothing.git
    port: 8000
"""
HOSTS = """\
web:
  hosts:
    web1: {ansible_host: 203.0.113.11, address: "2001:db8::11"}
    web_2: {ansible_host: 203.0.113.12, address: 192.0.2.11}
    web3: {ansible_host: 203.0.113.12, address: 192.0.2.11}
dbs:
  hosts:
    db1: {ansible_host: 203.0.113.21, ansible_port: 70000, address: 192.0.2.300}
"""
VAULT = """\
vault_ca_secret: Zr5NvKq8WbTx3LmYcH2d
vault_redis_password: w9FhJk2LmNpQr5StVxYz
vault_shop_secret_key: w9FhJk2LmNpQr5StVxYz
vault_database_passwords: {shop: changeme}
"""
SAID = {
    "a time zone": "base_timezone: Europe/Berlin",
    "a locale": 'base_locale "german"',
    "an unknown name": 'Did you mean "base_journal_max_mib"',
    "a wrong type": "nginx_max_body_mib: 32",
    "false as text": "nginx_http3_enabled: false",
    "a network": '"203.0.113.0/33" in nginx_trusted_proxies',
    "port 0": "firewall_ssh_port is 0",
    "port 70000": "ansible_port of db1",
    "a value that nobody hears": "redis_port is worked out from the inventory",
    "a bucket in part": "backup_s3_bucket is missing",
    "no retention": "no backup would be kept",
    "a schedule": 'backup_calendar, "every night"',
    "a domain": "shop..example",
    "a health path": "health_path",
    "an app twice": 'app number 2 has the name "shop"',
    "an app's port twice": "of which 8000 is taken",
    "a repository": "127.0.0.1:1/nothing.git",
    "IPv6 as the private address": "the servers speak IPv4",
    "a host's name": "rename it  web-2:",
    "an address twice": "192.0.2.11, and so has",
    "a server twice": "they are one server",
    "a group": "rename  dbs:  to  db:",
    "an IP address": '"192.0.2.300", is not an IPv4 address',
    "a secret twice": "are the same secret",
    "a placeholder": "vault_database_passwords.shop is still a placeholder",
}


def test_every_kind_is_named_at_once(site):
    for name, content in {
        "hosts.yml": HOSTS,
        "group_vars/all/site.yml": VALUES,
        "group_vars/all/apps.yml": APPS,
        "group_vars/all/vault.yml": VAULT,
    }.items():
        (site.directory / name).write_text(content)
    run = site.play(playbook="site.yml")
    assert run.code != 0
    assert run.connections == ""
    missing = [kind for kind, words in SAID.items() if not any(words in problem for problem in run.problems)]
    assert missing == [], run.text
    assert len(run.problems) >= len(SAID)
    assert all(re.search(r"^\d+\. \S.*\n   *To mend: \S", problem) for problem in run.problems)
    assert "w9FhJk2LmNpQr5StVxYz" not in run.text
    assert "changeme" not in run.text
