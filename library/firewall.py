#!/usr/bin/python3
"""Build the host's packet filter from what its roles declared, and load it atomically."""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.placing import place_file

DOCUMENTATION = r"""
module: firewall
short_description: Builds the packet filter from what the roles declared, tests it and loads it atomically
description:
  - Reads every declaration in I(declarations) and builds one chain per address family, IPv4 and IPv6.
  - Inbound is dropped unless declared; loopback, answers, and the ICMP that path MTU and IPv6 need stay open.
  - The rules are tested by C(iptables-restore --test) and loaded in one transaction, without a flush, so that there is
    no moment open or shut. Chains of others (fail2ban, container engines) are left alone.
  - Compares with what the kernel has loaded, and not only with the file; the file is what the next boot loads, by
    Debian's C(netfilter-persistent), which is kept enabled.
options:
  declarations:
    description:
      - Directory of JSON files, one a role, each a list of mappings with C(port) (integer), C(protocol) (C(tcp) or
        C(udp)), C(sources) (addresses or networks; empty means everyone) and C(comment).
    type: path
    required: true
  always:
    description: Declarations that are added to those of the directory, in the same form.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Open | Load the ruleset
  firewall:
    declarations: /etc/offramp/firewall.d
    always:
      - {port: 22, protocol: tcp, sources: [], comment: ssh}
"""

RETURN = r"""
changed_families:
  description: Address families whose loaded rules or file differed.
  type: list
  elements: str
  returned: always
boot_enabled:
  description: Whether loading at boot had to be enabled.
  type: bool
  returned: always
"""

CHAIN = "OFFRAMP"
BOOT_UNIT = "netfilter-persistent.service"
FAMILIES = {
    "ipv4": {"version": 4, "restore": "iptables-restore", "list": "iptables", "file": "/etc/iptables/rules.v4"},
    "ipv6": {"version": 6, "restore": "ip6tables-restore", "list": "ip6tables", "file": "/etc/iptables/rules.v6"},
}
# RFC 4890 and RFC 1191: without these, IPv6 finds no neighbour and large packets vanish.
ESSENTIALS = {
    "ipv4": [
        "-p icmp -m icmp --icmp-type 3",
        "-p icmp -m icmp --icmp-type 8 -m limit --limit 20/sec",
        "-p icmp -m icmp --icmp-type 11",
        "-p icmp -m icmp --icmp-type 12",
    ],
    # The answer to a DHCPv6 request comes from another address than the request went to.
    "ipv6": ["-p ipv6-icmp", "-s fe80::/10 -p udp -m udp --dport 546"],
}


def read_declarations(directory: str) -> list[dict[str, Any]]:
    """Return all declarations of a directory, sorted so that the order of files does not matter."""
    return [declared for path in sorted(Path(directory).glob("*.json")) for declared in json.loads(path.read_text())]


def own_connection() -> list[dict[str, Any]]:
    """Return a declaration for the ssh port that this very run came in by, whatever the declarations say."""
    connection = os.environ.get("SSH_CONNECTION", "").split()
    return [{"port": connection[3], "protocol": "tcp", "sources": []}] if len(connection) == 4 else []


def rules(family: str, declarations: list[dict[str, Any]]) -> list[str]:
    """Return the chain's rules in the very form in which the kernel lists them."""
    lines = [
        f"-A {CHAIN} -i lo -j ACCEPT",
        f"-A {CHAIN} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A {CHAIN} -m conntrack --ctstate INVALID -j DROP",
        *(f"-A {CHAIN} {match} -j ACCEPT" for match in ESSENTIALS[family]),
    ]
    opened = set()
    for declared in declarations:
        match = f"-p {declared['protocol']} -m {declared['protocol']} --dport {int(declared['port'])}"
        if not declared["sources"]:
            opened.add((int(declared["port"]), match, ""))
        for source in declared["sources"]:
            network = ipaddress.ip_network(source, strict=False)
            if network.version == FAMILIES[family]["version"]:
                opened.add((int(declared["port"]), match, f"-s {network} "))
    lines += [f"-A {CHAIN} {source}{match} -j ACCEPT" for _port, match, source in sorted(opened)]
    return [*lines, f"-A {CHAIN} -j DROP"]


def file_text(chain_rules: list[str]) -> str:
    """Return what iptables-restore loads at boot, when nothing else is there."""
    return "\n".join(
        [
            "# Ansible managed",
            "*filter",
            ":INPUT DROP [0:0]",
            ":FORWARD ACCEPT [0:0]",
            ":OUTPUT ACCEPT [0:0]",
            f":{CHAIN} - [0:0]",
            f"-A INPUT -j {CHAIN}",
            *chain_rules,
            "COMMIT",
            "",
        ]
    )


def transaction(chain_rules: list[str], jumps: bool) -> str:
    """Return what replaces only our chain, in one step; with --noflush the chains of others stay."""
    lines = ["*filter", ":INPUT DROP [0:0]", f":{CHAIN} - [0:0]", *chain_rules]
    if not jumps:
        lines.append(f"-A INPUT -j {CHAIN}")
    return "\n".join([*lines, "COMMIT", ""])


class Family:
    """The packet filter of one address family."""

    def __init__(self, module: AnsibleModule, name: str, declarations: list[dict[str, Any]]):
        self.module = module
        self.name = name
        self.tools = FAMILIES[name]
        self.wanted = rules(name, declarations)

    def loaded(self) -> tuple[list[str], bool, bool]:
        if self.module.check_mode and not self.module.get_bin_path(self.tools["list"]):
            # A fresh host, on which the package is not installed yet.
            return [], False, False
        code, out, error = self.module.run_command([self.tools["list"], "-S"])
        if code != 0:
            self.module.fail_json(msg=f"{self.tools['list']} -S: {error.strip()}")
        lines = out.splitlines()
        own = [line for line in lines if line.startswith(f"-A {CHAIN} ")]
        return own, f"-A INPUT -j {CHAIN}" in lines, "-P INPUT DROP" in lines

    def file_differs(self) -> bool:
        path = Path(self.tools["file"])
        return not path.exists() or path.read_text() != file_text(self.wanted)

    def restore(self, text: str, *flags: str) -> None:
        code, _out, error = self.module.run_command([self.tools["restore"], *flags], data=text)
        if code != 0:
            self.module.fail_json(msg=f"{self.tools['restore']} {' '.join(flags)} refuses the rules: {error.strip()}")

    def compare(self) -> None:
        self.own, self.jumps, drops = self.loaded()
        self.stale = self.own != self.wanted or not self.jumps or not drops
        self.differs = self.stale or self.file_differs()

    def test(self) -> None:
        if self.stale:
            self.restore(transaction(self.wanted, self.jumps), "--noflush", "--test")

    def load(self) -> None:
        if self.stale:
            self.restore(transaction(self.wanted, self.jumps), "--noflush")
        place_file(Path(self.tools["file"]), file_text(self.wanted).encode(), 0o640)

    def diff(self) -> dict[str, str]:
        return {
            "before_header": f"{self.name} rules loaded",
            "after_header": f"{self.name} rules declared",
            "before": "".join(f"{line}\n" for line in self.own),
            "after": "".join(f"{line}\n" for line in self.wanted),
        }


def enable_at_boot(module: AnsibleModule) -> bool:
    """Have the rules loaded at boot; return whether that had to be changed."""
    if module.run_command(["systemctl", "is-enabled", BOOT_UNIT])[0] == 0:
        return False
    if not module.check_mode:
        code, _out, error = module.run_command(["systemctl", "enable", BOOT_UNIT])
        if code != 0:
            module.fail_json(msg=f"systemctl enable {BOOT_UNIT}: {error.strip()}")
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "declarations": {"type": "path", "required": True},
            "always": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        declarations = module.params["always"] + own_connection() + read_declarations(module.params["declarations"])
        families = [Family(module, name, declarations) for name in FAMILIES]
    except (ValueError, KeyError, TypeError) as problem:
        module.fail_json(msg=f"{module.params['declarations']}: a declaration is not valid: {problem!r}")
    for family in families:
        family.compare()
    changed = [family for family in families if family.differs]
    if not module.check_mode:
        # Both families are proved before either is loaded.
        for family in changed:
            family.test()
        for family in changed:
            family.load()
    boot_enabled = enable_at_boot(module)
    result: dict[str, Any] = {
        "changed": bool(changed) or boot_enabled,
        "changed_families": [family.name for family in changed],
        "boot_enabled": boot_enabled,
    }
    if module._diff:
        result["diff"] = [family.diff() for family in changed]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
