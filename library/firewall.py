#!/usr/bin/python3
"""Build the host's packet filter from what its roles declared, and load it atomically."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.guard import Guard
from ansible.module_utils.placing import place_file
from ansible.module_utils.ssh_connection import SshConnection, ssh_connection

DOCUMENTATION = r"""
module: firewall
short_description: Builds the packet filter from what the roles declared, and loads it so that nobody is locked out
description:
  - Reads the declarations in I(declarations) and builds one chain per address family, IPv4 and IPv6.
  - Inbound is dropped unless declared; loopback, answers, and the ICMP that path MTU and IPv6 need stay open.
  - The rules are tested by C(iptables-restore --test) and loaded in one transaction, without a flush, so that there is
    no moment open or shut. Chains of others (fail2ban, container engines) are left alone, also in the file.
  - Before the load a timer is armed on the host that puts the rules back which are loaded now. Then the controller
    opens a new ssh connection. When it gets in, the timer is stopped and the rules are written for the next boot; when
    it does not, or is killed, the host is as it was. A run that changes no rule has none of this.
  - Compares with what the kernel has loaded, and not only with the file; the file is what the next boot loads, by
    Debian's C(netfilter-persistent), which is kept enabled.
options:
  declarations:
    description:
      - Directory of JSON files, one a role, each a list of mappings with C(port) (integer), C(protocol) (C(tcp) or
        C(udp)), C(sources) (addresses or networks; empty means everyone) and C(comment).
    type: path
    required: true
  declared_by:
    description: Roles that this host has. What another one declared is no longer opened. Default is whoever declared.
    type: list
    elements: str
  ssh_port:
    description: Port of the ssh server. The port that this run came in by is one too.
    type: int
    default: 22
  ssh_sources:
    description: Addresses and networks that may reach ssh, empty means everyone; ten new connections a minute each.
    type: list
    elements: str
    default: []
  ssh_exempt_sources:
    description: Addresses and networks that reach ssh whatever I(ssh_sources) says, and as often as they like.
    type: list
    elements: str
    default: []
  own_connection:
    description: Whether the address that this run comes from is one of I(ssh_exempt_sources).
    type: bool
    default: true
  kernel_settings:
    description: Settings of the kernel by their name in sysctl, in which C(*) stands for each interface. They are set
      where the host allows it, and written for the next boot.
    type: dict
    default: {}
  guard_seconds:
    description: Seconds after which the rules go back unless the controller has got in.
    type: int
    default: 40
  step:
    description: What to do of it; the controller's half of this module gives C(keep) and C(undo).
    type: str
    choices: [load, keep, undo]
    default: load
  run:
    description: Name of this run, which the controller's half gives, so that no other run keeps or undoes its rules.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Open | Load the ruleset
  firewall:
    declarations: /etc/offramp/firewall.d
    ssh_exempt_sources: [198.51.100.0/24]
"""

RETURN = r"""
changed_families:
  description: Address families whose loaded rules or file differed.
  type: list
  elements: str
  returned: always
changed_kernel_settings:
  description: Settings of the kernel that differed and were set, or would be.
  type: list
  elements: str
  returned: always
boot_enabled:
  description: Whether loading at boot had to be enabled.
  type: bool
  returned: always
armed:
  description: Whether the rules go back unless they are kept.
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


# Attempts at ssh, which nobody in earnest makes so often. IPv6 gives a customer a whole /64 of addresses.
SSH_LIMIT = {
    "ipv4": "-m hashlimit --hashlimit-above 10/min --hashlimit-burst 10 --hashlimit-mode srcip --hashlimit-name ssh",
    "ipv6": "-m hashlimit --hashlimit-above 10/min --hashlimit-burst 10 --hashlimit-mode srcip --hashlimit-name ssh "
    "--hashlimit-srcmask 64",
}
KERNEL_FILE = Path("/etc/sysctl.d/60-offramp.conf")


@dataclass(frozen=True)
class Ssh:
    """Who may reach ssh: whoever is in sources, a few times a minute, and the exempt ones as they like."""

    ports: tuple[int, ...] = ()
    sources: list[str] = field(default_factory=list)
    exempt: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, parameters: dict[str, Any], connection: SshConnection | None) -> Ssh:
        ports, exempt = {parameters["ssh_port"]}, list(parameters["ssh_exempt_sources"])
        if connection and parameters["own_connection"]:
            ports.add(connection.port)
            exempt.append(connection.source)
        return cls(tuple(sorted(ports)), parameters["ssh_sources"], exempt)

    @property
    def declarations(self) -> list[dict[str, Any]]:
        return [{"port": port, "protocol": "tcp", "sources": self.sources} for port in self.ports]

    def rules(self, family: str) -> list[str]:
        """Return the rules that come before those which open the port."""
        lines = []
        for port in self.ports:
            match = f"-p tcp -m tcp --dport {port}"
            lines += [f"-A {CHAIN} -s {network} {match} -j ACCEPT" for network in networks(family, self.exempt)]
            lines.append(f"-A {CHAIN} {match} {SSH_LIMIT[family]} -j DROP")
        return lines


def networks(family: str, sources: list[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Return those of one family, each once, in their order."""
    found = {ipaddress.ip_network(source, strict=False) for source in sources}
    return sorted(network for network in found if network.version == FAMILIES[family]["version"])


def read_declarations(directory: str, declared_by: list[str] | None = None) -> list[dict[str, Any]]:
    """Return the declarations of a directory, sorted so that the order of files does not matter."""
    return [
        declared
        for path in sorted(Path(directory).glob("*.json"))
        if declared_by is None or path.stem in declared_by
        for declared in json.loads(path.read_text())
    ]


def rules(family: str, declarations: list[dict[str, Any]], ssh: Ssh | None = None) -> list[str]:
    """Return the chain's rules in the very form in which the kernel lists them."""
    ssh = ssh or Ssh()
    lines = [
        f"-A {CHAIN} -i lo -j ACCEPT",
        f"-A {CHAIN} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A {CHAIN} -m conntrack --ctstate INVALID -j DROP",
        *(f"-A {CHAIN} {match} -j ACCEPT" for match in ESSENTIALS[family]),
        *ssh.rules(family),
    ]
    opened = set()
    for declared in [*declarations, *ssh.declarations]:
        match = f"-p {declared['protocol']} -m {declared['protocol']} --dport {int(declared['port'])}"
        if not declared["sources"]:
            opened.add((int(declared["port"]), match, ""))
        for network in networks(family, declared["sources"]):
            opened.add((int(declared["port"]), match, f"-s {network} "))
    lines += [f"-A {CHAIN} {source}{match} -j ACCEPT" for _port, match, source in sorted(opened)]
    return [*lines, f"-A {CHAIN} -j DROP"]


def file_text(chain_rules: list[str], present: str = "") -> str:
    """Return what iptables-restore loads at boot: our chain, and what others have put into the file."""
    others: dict[str, list[str]] = {"filter": []}
    table = "filter"
    for line in present.splitlines():
        if line.startswith("*"):
            table = line[1:]
            others.setdefault(table, [])
        elif line and not line.startswith(("#", "COMMIT")):
            others[table].append(line)
    ours = (":INPUT ", f":{CHAIN} ", f"-A {CHAIN} ", f"-A INPUT -j {CHAIN}")
    foreign = [line for line in others.pop("filter") if not line.startswith(ours)]
    chains = {line.split()[0]: line for line in foreign if line.startswith(":")}
    for chain in (":FORWARD", ":OUTPUT"):
        chains.setdefault(chain, f"{chain} ACCEPT [0:0]")
    lines = ["# Ansible managed"]
    for name, content in others.items():
        lines += [f"*{name}", *content, "COMMIT"]
    lines += ["*filter", ":INPUT DROP [0:0]", *(chains[chain] for chain in sorted(chains)), f":{CHAIN} - [0:0]"]
    lines += [line for line in foreign if not line.startswith(":")]
    return "\n".join([*lines, f"-A INPUT -j {CHAIN}", *chain_rules, "COMMIT", ""])


def transaction(chain_rules: list[str], jumps: bool) -> str:
    """Return what replaces only our chain, in one step; with --noflush the chains of others stay."""
    lines = ["*filter", ":INPUT DROP [0:0]", f":{CHAIN} - [0:0]", *chain_rules]
    if not jumps:
        lines.append(f"-A INPUT -j {CHAIN}")
    return "\n".join([*lines, "COMMIT", ""])


@dataclass(frozen=True)
class Loaded:
    """What of one family is loaded that concerns us."""

    rules: list[str]
    chain: bool = False
    jumps: bool = False
    policy: str = "ACCEPT"

    def undoing(self, restore: str, tool: str) -> list[str]:
        """Return shell lines that bring it back, whatever is loaded then, and leave the rules of others alone."""
        policy = f":INPUT {self.policy} [0:0]"
        if not self.chain:
            # One after the other, and each may fail: what is in the way may have gone by itself.
            lines = [*here_document(restore, ["*filter", policy, "COMMIT"])]
            return [*lines, f"{tool} -D INPUT -j {CHAIN}", f"{tool} -F {CHAIN}", f"{tool} -X {CHAIN}"]
        body = ["*filter", policy, f":{CHAIN} - [0:0]", *self.rules, "COMMIT"]
        lines = here_document(restore, body)
        return lines if self.jumps else [*lines, f"{tool} -D INPUT -j {CHAIN}"]


def here_document(restore: str, body: list[str]) -> list[str]:
    return [f"{restore} --noflush <<'RULES'", *body, "RULES"]


class Family:
    """The packet filter of one address family."""

    def __init__(self, module: AnsibleModule, name: str, declarations: list[dict[str, Any]], ssh: Ssh):
        self.module = module
        self.name = name
        self.tools = FAMILIES[name]
        self.wanted = rules(name, declarations, ssh)

    def look(self) -> Loaded:
        if self.module.check_mode and not self.module.get_bin_path(self.tools["list"]):
            # A fresh host, on which the package is not installed yet.
            return Loaded([])
        code, out, error = self.module.run_command([self.tools["list"], "-S"])
        if code != 0:
            self.module.fail_json(msg=f"{self.tools['list']} -S: {error.strip()}")
        lines = out.splitlines()
        return Loaded(
            rules=[line for line in lines if line.startswith(f"-A {CHAIN} ")],
            chain=f"-N {CHAIN}" in lines,
            jumps=f"-A INPUT -j {CHAIN}" in lines,
            policy=next(line.split()[2] for line in lines if line.startswith("-P INPUT ")),
        )

    def compare(self) -> None:
        self.loaded = self.look()
        self.stale = self.loaded.rules != self.wanted or not self.loaded.jumps or self.loaded.policy != "DROP"
        path = Path(self.tools["file"])
        present = path.read_text() if path.exists() else ""
        self.text = file_text(self.wanted, present)
        self.differs = self.stale or self.text != present

    def restore(self, *flags: str) -> None:
        text = transaction(self.wanted, self.loaded.jumps)
        code, _out, error = self.module.run_command([self.tools["restore"], "--noflush", *flags], data=text)
        if code != 0:
            self.module.fail_json(msg=f"{self.tools['restore']} refuses the rules: {error.strip()}")

    def undoing(self) -> list[str]:
        return self.loaded.undoing(self.tools["restore"], self.tools["list"])

    def write(self) -> None:
        """Have the next boot load it."""
        if self.differs:
            place_file(Path(self.tools["file"]), self.text.encode(), 0o640)

    def diff(self) -> dict[str, str]:
        return {
            "before_header": f"{self.name} rules loaded",
            "after_header": f"{self.name} rules declared",
            "before": "".join(f"{line}\n" for line in self.loaded.rules),
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


class Kernel:
    """Settings of the kernel, of which a container may set none."""

    def __init__(self, settings: dict[str, Any], root: Path = Path("/proc/sys"), file: Path = KERNEL_FILE):
        self.text = (
            "".join(
                [
                    "# Ansible managed\n# Role firewall\n",
                    *(f"{name} = {value}\n" for name, value in sorted(settings.items())),
                ]
            )
            if settings
            else ""
        )
        self.file = file
        self.file_differs = self.text != (file.read_text() if file.exists() else "")
        self.differing: dict[Path, str] = {}
        for name, value in settings.items():
            for path in sorted(root.glob(name.replace(".", "/"))):
                if path.read_text().strip() != str(value) and self.writable(path):
                    self.differing[path] = str(value)
        self.names = [".".join(path.relative_to(root).parts) for path in self.differing]

    @staticmethod
    def writable(path: Path) -> bool:
        try:
            with path.open("r+"):
                return True
        except OSError:
            return False

    def apply(self) -> None:
        for path, value in self.differing.items():
            path.write_text(value)
        if self.file_differs and self.text:
            place_file(self.file, self.text.encode(), 0o644)
        elif self.file_differs:
            self.file.unlink()


def load(module: AnsibleModule, families: list[Family], guard: Guard) -> bool:
    """Load what differs, with the way back armed; return whether that was needed."""
    stale = [family for family in families if family.stale]
    # Both families are proved before either is loaded.
    for family in stale:
        family.restore("--test")
    if stale:
        with guard.lock():
            if guard.pending:
                module.fail_json(msg=guard.gone("the rules", module.params["guard_seconds"]))
            guard.arm([line for family in stale for line in family.undoing()], module.params["guard_seconds"])
            for family in stale:
                family.restore()
    return bool(stale)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "declarations": {"type": "path", "required": True},
            "declared_by": {"type": "list", "elements": "str"},
            "ssh_port": {"type": "int", "default": 22},
            "ssh_sources": {"type": "list", "elements": "str", "default": []},
            "ssh_exempt_sources": {"type": "list", "elements": "str", "default": []},
            "own_connection": {"type": "bool", "default": True},
            "kernel_settings": {"type": "dict", "default": {}},
            "guard_seconds": {"type": "int", "default": 40},
            "step": {"type": "str", "choices": ["load", "keep", "undo"], "default": "load"},
            "run": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    guard = Guard(module, "firewall", module.params["run"])
    step = module.params["step"]
    if step == "undo":
        guard.undo()
        module.exit_json(changed=False)
    if step == "keep" and not guard.keep():
        module.fail_json(msg=guard.gone("the rules", module.params["guard_seconds"]))
    if step == "load" and not module.check_mode:
        guard.undo_left()
    try:
        declarations = read_declarations(module.params["declarations"], module.params["declared_by"])
        ssh = Ssh.of(module.params, ssh_connection())
        families = [Family(module, name, declarations, ssh) for name in FAMILIES]
    except (ValueError, KeyError, TypeError) as problem:
        module.fail_json(msg=f"{module.params['declarations']}: a declaration is not valid: {problem!r}")
    for family in families:
        family.compare()
    changed = [family for family in families if family.differs]
    kernel = Kernel(module.params["kernel_settings"])
    armed = False
    if not module.check_mode:
        armed = step == "load" and load(module, families, guard)
        kernel.apply()
        if not armed:
            for family in families:
                family.write()
    boot_enabled = not armed and enable_at_boot(module)
    result: dict[str, Any] = {
        "changed": bool(changed) or boot_enabled or bool(kernel.names) or kernel.file_differs,
        "changed_families": [family.name for family in changed],
        "changed_kernel_settings": kernel.names,
        "boot_enabled": boot_enabled,
        "armed": armed,
    }
    if module._diff:
        result["diff"] = [family.diff() for family in changed]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
