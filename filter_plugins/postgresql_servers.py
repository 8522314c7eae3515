"""Which database server is primary, by what each of them said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: postgresql_servers
short_description: Which database server is primary, by what each of them said
description:
  - Decides from the answers of all database servers to M(postgresql_state). No file says who is primary, so that a
    failover needs no change of the inventory.
  - A server that takes writes is primary, or one that is stopped and would take them. New clusters without anybody's
    database count for nothing; where there are only such, the first host becomes primary.
options:
  _input:
    description: The results of the loop, in the order of the inventory, each with C(item) and C(state).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ (primary_asked.results | postgresql_servers).primary }}"
"""

RETURN = r"""
_value:
  description: >-
    C(primary) and C(standby), names of hosts or empty; C(superseded), a server that was primary before and holds
    a history of its own; C(silent), the hosts that did not answer; C(states) by host; C(says), one line a host; and
    C(problem), why there is no primary that can be relied on, with what to run, or empty. Where the versions
    differ, as in an upgrade that was broken off, there is a C(problem), and the C(primary) is that of the newer one.
  type: dict
"""

State = Mapping[str, Any]


def postgresql_servers(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return who is primary, or why that can't be said."""
    if not isinstance(results, Sequence) or isinstance(results, str) or not results:
        raise AnsibleFilterError(f"the answers must be a list with one for each server, not {results!r}")
    states = {entry["item"]: entry["state"] for entry in results if entry.get("state")}
    found: dict[str, Any] = {
        "primary": "",
        "standby": "",
        "superseded": "",
        "silent": [entry["item"] for entry in results if not entry.get("state")],
        "states": states,
    }
    found["says"] = [says(entry) for entry in results]
    found |= decided([entry["item"] for entry in results], states, found["silent"])
    if found.get("problem"):
        found["problem"] = "\n".join([found["problem"], *(f"  {line}" for line in found["says"])])
    return {"problem": "", **found}


def says(entry: Mapping[str, Any]) -> str:
    """Return in words what a server is."""
    host, state = entry["item"], entry.get("state")
    if not state:
        return f"{host}: does not answer"
    if not state["initialised"]:
        return f"{host}: has no cluster yet"
    kind = "standby" if state["recovering"] else "primary"
    if not state["has_databases"] and not state["recovering"]:
        kind = "new, without a database of anybody's"
    running = "" if state["running"] else ", stopped"
    return f"{host}: {kind}{running}, timeline {state['timeline']}, system identifier {state['system_identifier']}"


def decided(hosts: list[str], states: Mapping[str, State], silent: list[str]) -> dict[str, Any]:
    known = {host: state for host, state in states.items() if state["initialised"]}
    standbys = [host for host, state in known.items() if state["recovering"]]
    followed = {known[host]["system_identifier"] for host in standbys}
    # A site without apps has no database either: there the standby tells which of the two is more than a new cluster.
    primaries = [
        host
        for host, state in known.items()
        if host not in standbys and (state["has_databases"] or state["system_identifier"] in followed)
    ]
    versions = {host: state.get("version", 0) for host, state in known.items()}
    if len(set(versions.values())) > 1:
        have = " and ".join(f"{host} has {version}" for host, version in versions.items())
        return {
            "primary": max(primaries, key=versions.get, default=""),
            "problem": f"the database servers have different versions of PostgreSQL: {have}. To bring both to the "
            "newer one, run  ansible-playbook playbooks/postgres_upgrade.yml:",
        }
    identifiers = {known[host]["system_identifier"] for host in (*primaries, *standbys)}
    if len(identifiers) > 1:
        return {
            "problem": "the database servers hold the data of different sites, by their system identifiers. Take the "
            "one that does not belong here out of the group db, or, when nothing on it is needed, move its data away:"
        }
    serving = [host for host in primaries if known[host]["running"]]
    if len(serving) > 1:
        newest = max(serving, key=lambda host: known[host]["timeline"])
        others = " and ".join(host for host in serving if host != newest)
        return {
            "problem": f"there are two primaries. {newest} has the newer timeline. Look which of them holds what must "
            f"not be lost; when that is {newest}, stop PostgreSQL on {others} and run  "
            "ansible-playbook playbooks/rejoin.yml:",
        }
    if len(serving) == 1:
        others = [host for host in primaries if host not in serving]
        # One that was stopped by a failover follows when it starts, and yet has a history of its own.
        others += [host for host in standbys if is_parted(known[host], known[serving[0]])]
        return {"primary": serving[0], "standby": "".join(standbys[:1]), "superseded": "".join(others[:1])}
    if len(primaries) == 1 and not silent:
        return stopped_primary(primaries[0], standbys, known)
    if len(primaries) > 1:
        return {"problem": "both database servers were primary, and neither runs now. Start the one to keep:"}
    if standbys:
        running = next((host for host in standbys if known[host]["running"]), standbys[0])
        return {
            "problem": "there is no primary. When it is lost, or a change of primary was broken off, run  "
            f"ansible-playbook playbooks/failover.yml -e promote={running}:",
            "standby": running,
        }
    if silent:
        return {"problem": "not all database servers answer, so nobody knows which of them is primary:"}
    return {"primary": hosts[0]}


def is_parted(standby: State, primary: State) -> bool:
    return not standby["running"] and standby["timeline"] < primary["timeline"]


def stopped_primary(host: str, standbys: list[str], known: Mapping[str, State]) -> dict[str, Any]:
    """A primary that is stopped is the primary still, unless its standby was so after it."""
    newer = [other for other in standbys if known[other]["timeline"] > known[host]["timeline"]]
    if newer:
        return {"problem": f"{newer[0]} was primary after {host}, and is a standby now. Look which is to be primary:"}
    return {"primary": host, "standby": "".join(standbys[:1])}


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"postgresql_servers": postgresql_servers}
