#!/usr/bin/env python3
"""Start or remove the servers that an inventory names, as systemd containers in podman reached over ssh, or tell
where the apps on them answer.

script/up calls it for the lab and molecule for each scenario, so there is one place that knows how a server is made.
It prints every podman command that changes something. Called again it starts what is missing and leaves the rest.

Of a host it reads, literally: address, ansible_port, and where given memory_mib, lab_image (trixie, bookworm, these
-baked, scanner, and store, which the others reach by its host's name), lab_publish ({port: base}, published on
127.0.0.1 at base plus the address's last number) and lab_options (further arguments of podman run).
LAB_RELEASE=bookworm has every trixie be a bookworm instead.
The network is the /24 around the addresses, and fd00:10:90:7::/64 stands beside 10.90.7.0/24.
"""

import argparse
import hashlib
import ipaddress
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SSH = ROOT / ".lab" / "ssh"
KEY = SSH / "id_ed25519"
PREFIX = "offramp-"
# What systemd and its sandboxes, iptables and a VRRP daemon need; far less than --privileged.
CAPABILITIES = "NET_ADMIN,NET_RAW,SYS_ADMIN,SYS_PTRACE"
START_SECONDS = 60
STORE = "store"
# Images that are more than a server have a script of their own.
IMAGE_SCRIPTS = {STORE: "lab/store.sh", "scanner": "lab/scanner.sh"}


@dataclass(frozen=True)
class Server:
    """One container: what the inventory says about it."""

    lab: str
    name: str
    address: ipaddress.IPv4Address
    ssh_port: int
    image: str = "trixie"
    memory_mib: int | None = None
    publish: dict[str, int] = field(default_factory=dict)
    further: tuple[str, ...] = ()

    @property
    def container(self) -> str:
        return f"{PREFIX}{self.lab}-{self.name}"

    @property
    def mac_address(self) -> str:
        """The same after a restart, as a server's is; with a new one its neighbours would look for the old for 40 s."""
        return ":".join(f"{octet:02x}" for octet in (2, 0, *self.address.packed))

    @property
    def options(self) -> list[str]:
        """Arguments of podman run, the image at the end."""
        network, last = f"{PREFIX}{self.lab}", int(str(self.address).rpartition(".")[2])
        ports = {22: self.ssh_port} | {int(port): base + last for port, base in self.publish.items()}
        options = [
            *("--name", self.container, "--hostname", self.name, "--label", f"offramp.lab={self.lab}"),
            *("--systemd=always", "--restart=always", "--shm-size", "1g"),
            # AppArmor's profile for containers would forbid the mounts that systemd's sandboxes are made of.
            *("--cap-add", CAPABILITIES, "--security-opt", "apparmor=unconfined"),
            *("--network", f"{network}:ip={self.address},ip6={ipv6_prefix(self.address)}{last},mac={self.mac_address}"),
            *("--volume", f"{KEY}.pub:/etc/ssh/lab_authorized_keys:ro"),
        ]
        for port, outside in sorted(ports.items()):
            options += ["--publish", f"127.0.0.1:{outside}:{port}"]
        if self.memory_mib:
            options += ["--memory", f"{self.memory_mib}m"]
        if self.image == STORE:
            options += ["--network-alias", self.name, "--volume", f"{ROOT / '.lab' / 'store'}:/etc/store:ro"]
        return [*options, *self.further, f"localhost/offramp-lab:{self.image}"]

    @property
    def spec(self) -> str:
        """Changes when the container has to be made anew."""
        return hashlib.sha256(json.dumps(self.options).encode()).hexdigest()[:16]


def ipv4_subnet(address: ipaddress.IPv4Address) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network((address, 24), strict=False)


def ipv6_prefix(address: ipaddress.IPv4Address) -> str:
    """The same digits again, so that 10.90.7.11 is fd00:10:90:7::11 as well."""
    return "fd00:{}:{}:{}::".format(*str(address).split("."))


def servers_of(lab: str, hostvars: dict[str, dict[str, Any]], release: str = "trixie") -> list[Server]:
    """Read the servers of an inventory from what ansible-inventory says of its hosts; all on one release if asked."""
    servers = []
    for name, values in sorted(hostvars.items()):
        missing = [key for key in ("address", "ansible_port") if key not in values]
        if missing:
            raise SystemExit(f"{name}: the inventory gives it no {' and no '.join(missing)}")
        servers.append(
            Server(
                lab=lab,
                name=name,
                address=ipaddress.IPv4Address(values["address"]),
                ssh_port=int(values["ansible_port"]),
                image=values.get("lab_image", "trixie").replace("trixie", release),
                memory_mib=values.get("memory_mib"),
                publish=values.get("lab_publish", {}),
                further=tuple(values.get("lab_options", ())),
            )
        )
    subnets = {ipv4_subnet(server.address) for server in servers}
    if len(subnets) != 1:
        raise SystemExit(f"The servers of one lab share one /24 network, these have: {sorted(map(str, subnets))}")
    return servers


def ask(*command: str | Path) -> str:
    """Return what a command says."""
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def network_exists(network: str) -> bool:
    command = ["podman", "network", "exists", network]
    return subprocess.run(command, check=False).returncode == 0


def run(*command: str) -> None:
    """Show a command and run it; its output is of no interest unless it fails."""
    print(f"+ {shlex.join(command)}\n", end="", flush=True)
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\nfailed:\n{done.stdout}{done.stderr}")


def read_inventory(inventories: list[str] | None) -> dict[str, dict[str, Any]]:
    program = Path(sys.executable).with_name("ansible-inventory")
    listing = json.loads(ask(program, "--list", *(f"--inventory={each}" for each in inventories or ())))
    return listing["_meta"]["hostvars"]


def containers_of(lab: str) -> dict[str, dict[str, Any]]:
    listing = ask("podman", "ps", "--all", "--filter", f"label=offramp.lab={lab}", "--format", "json")
    return {container["Names"][0]: container for container in json.loads(listing or "[]")}


def refuse_those_of_another_checkout(present: dict[str, dict[str, Any]]) -> None:
    """Two checkouts on one machine use the same names: neither may pull the other's servers from under it."""
    for name, container in present.items():
        root = Path(container["Labels"].get("offramp.root", ROOT))
        if root != ROOT and root.exists():
            raise SystemExit(f"{name} belongs to the checkout in {root}: run script/down there first")


def start(server: Server, present: dict[str, Any] | None) -> str:
    """Have the server running, and return its line of known_hosts."""
    if present and present["Labels"].get("offramp.spec") != server.spec:
        print(f"{server.name}: the inventory has changed, so it is made anew")
        run("podman", "rm", "--force", "--time", "0", server.container)
        present = None
    if not present:
        labels = "--label", f"offramp.root={ROOT}", "--label", f"offramp.spec={server.spec}"
        run("podman", "run", "--detach", *labels, *server.options)
    elif present["State"] != "running":
        run("podman", "start", server.container)

    # Over podman, not over the network: so the key needs no trust.
    look = "systemctl is-system-running; cat /etc/ssh/ssh_host_ed25519_key.pub"
    deadline = time.monotonic() + START_SECONDS
    state = key = ""
    while not (state in ("running", "degraded") and key):
        time.sleep(0.2)
        command = ["podman", "exec", server.container, "sh", "-c", look]
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        state, _, key = answer.stdout.strip().partition("\n")
        if time.monotonic() > deadline:
            raise SystemExit(f"{server.name}: not up after {START_SECONDS} s: {state} {answer.stderr}")
    if state == "degraded":
        print(ask("podman", "exec", server.container, "systemctl", "--failed", "--no-legend"), file=sys.stderr)
    return f"[127.0.0.1]:{server.ssh_port} {' '.join(key.split()[:2])}\n"


def write_ssh_config(lab: str, servers: list[Server], known_hosts: list[str]) -> None:
    """Make `ssh -F .lab/ssh/<lab> <server>` work; Ansible and testinfra use the same file."""
    sockets = Path.home() / ".ansible" / "cp"
    sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
    (SSH / f"{lab}.known_hosts").write_text("".join(known_hosts))
    hosts = "".join(f"Host {server.name}\n  HostName 127.0.0.1\n  Port {server.ssh_port}\n" for server in servers)
    (SSH / lab).write_text(
        f"{hosts}Host *\n"
        "  User root\n"
        f'  IdentityFile "{KEY}"\n'
        "  IdentitiesOnly yes\n"
        f'  UserKnownHostsFile "{SSH / lab}.known_hosts"\n'
        "  StrictHostKeyChecking yes\n"
        # Ansible names a path of its own; this one is for everyone else.
        "  ControlMaster auto\n"
        "  ControlPersist 60\n"
        f'  ControlPath "{sockets}/%C"\n'
    )


def prepare_podman() -> None:
    """Have podman see what lab/podman.sh finds necessary on this machine."""
    conf = ask("bash", "-euc", '. script/lib.sh; . lab/podman.sh; printf %s "${CONTAINERS_CONF-}"')
    if conf:
        os.environ["CONTAINERS_CONF"] = conf


def up(lab: str, inventories: list[str] | None) -> None:
    prepare_podman()
    present = containers_of(lab)
    refuse_those_of_another_checkout(present)
    servers = servers_of(lab, read_inventory(inventories), os.environ.get("LAB_RELEASE", "trixie"))
    for image in sorted({server.image for server in servers}):
        script = IMAGE_SCRIPTS.get(image)
        subprocess.run([ROOT / script] if script else [ROOT / "lab/image.sh", image], check=True)

    SSH.mkdir(parents=True, exist_ok=True)
    if not KEY.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "offramp-lab", "-f", str(KEY))
    # sshd refuses a list of keys that others could write, whatever the umask here.
    KEY.with_suffix(".pub").chmod(0o644)

    network, address = f"{PREFIX}{lab}", servers[0].address
    if not network_exists(network):
        subnets = "--subnet", str(ipv4_subnet(address)), "--ipv6", "--subnet", f"{ipv6_prefix(address)}/64"
        run("podman", "network", "create", "--label", f"offramp.lab={lab}", *subnets, network)

    with ThreadPoolExecutor(len(servers)) as pool:
        known_hosts = list(pool.map(lambda server: start(server, present.get(server.container)), servers))
    write_ssh_config(lab, servers, known_hosts)


def down(lab: str) -> None:
    prepare_podman()
    if present := containers_of(lab):
        refuse_those_of_another_checkout(present)
        run("podman", "rm", "--force", "--time", "0", *sorted(present))
    if network_exists(f"{PREFIX}{lab}"):
        run("podman", "network", "rm", f"{PREFIX}{lab}")
    for file in (SSH / lab, SSH / f"{lab}.known_hosts"):
        file.unlink(missing_ok=True)


def urls(inventories: list[str] | None) -> None:
    """Print a line for each app on each server that publishes the HTTPS port: app, server, URL, path of its health."""
    for name, values in sorted(read_inventory(inventories).items()):
        if base := values.get("lab_publish", {}).get("443"):
            port = base + int(values["address"].rpartition(".")[2])
            for app in values.get("apps", []):
                print(app["name"], name, f"https://{app['domains'][0]}:{port}", app.get("health_path", "/"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Start or remove the servers that an inventory names.")
    parser.add_argument("action", choices=["up", "down", "urls"])
    parser.add_argument("--lab", default="lab", help="the lab's name: the lab, or a molecule scenario")
    parser.add_argument("--inventory", action="append", help="default: that of ansible.cfg")
    arguments = parser.parse_args()

    match arguments.action:
        case "up":
            up(arguments.lab, arguments.inventory)
        case "down":
            down(arguments.lab)
        case "urls":
            urls(arguments.inventory)


if __name__ == "__main__":
    main()
