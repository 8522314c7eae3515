"""Decide which numbered release of an app the whole site is to run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase

# What stands on one host and not yet on another is decided by the one that stands first here.
STATES = ("failed", "rolled back", "serving", "ok", "building")

States = Mapping[str, Mapping[str, Any]]


class RefusedError(Exception):
    """A wish that cannot be fulfilled, in words for a person."""


class Site:
    """The releases of an app as the whole site has them."""

    def __init__(self, app: str, states: States):
        self.app, self.states = app, states
        self.known: dict[int, dict[str, Any]] = {}
        for state in states.values():
            for release in state["releases"]:
                self._learn(release)
        self.newest = max(self.known, default=0)
        served = [state["served"] for state in states.values() if state["served"] in self.known]
        self.serving: int | None = max(served, default=None)

    def _learn(self, release: Mapping[str, Any]) -> None:
        seen = self.known.setdefault(release["number"], dict(release))
        seen["state"] = min(seen["state"], release["state"], key=STATES.index)
        seen["released"] = seen.get("released", False) or release.get("released", False)
        seen["reason"] = seen.get("reason") or release.get("reason", "")

    def on(self, number: int) -> dict[str, dict[str, Any]]:
        """Return a release as each host that has it knows it."""
        return {
            host: release
            for host, state in self.states.items()
            for release in state["releases"]
            if release["number"] == number
        }

    def has_env(self, number: int) -> bool:
        """Tell whether its environment is that of the inventory, on every host that has it."""
        return all(number in self.states[host]["same_env"] for host in self.on(number))

    def has_build(self, number: int, build: str) -> bool:
        return all(release["build"] == build for release in self.on(number).values())

    def is_there(self, number: int, build: str) -> bool:
        """Tell whether a release is just what is wanted, and may go on."""
        usable = self.known[number]["state"] in ("serving", "building")
        return usable and self.has_build(number, build) and self.has_env(number)


def decide(
    app: str,
    states: States,
    mode: str,
    wanted: Mapping[str, str],
    run: Mapping[str, str],
    release: str = "",
    note: str = "",
) -> dict[str, Any]:
    """Return the release that the site is to run."""
    site = Site(app, states)
    if mode == "rollback":
        return rollback(site, run, release)
    serving = site.known.get(site.serving) if site.serving else None
    build, version, held = wanted["build"], wanted["version"], ""
    if mode == "config" and not serving:
        raise RefusedError(f"{app} serves no release yet: playbooks/deploy.yml makes the first one")
    if mode == "config":
        build, version = serving["build"], serving["version"]
    elif serving and mode == "site":
        left = [number for number, known in site.known.items() if known["state"] == "rolled back"]
        if build != serving["build"] and any(site.has_build(number, build) for number in left):
            held = f"{app}: {version} was rolled back, and v{site.serving} goes on: playbooks/deploy.yml takes it again"
            build, version = serving["build"], serving["version"]
        if any(site.has_build(number, build) and site.has_env(number) for number in left) and not site.is_there(
            site.serving, build
        ):
            held = f"{app}: this config was rolled back, and that of v{site.serving} goes on"
            return plan(site, site.serving, build, held=held)
    for number in (site.serving, site.newest):
        if number and site.is_there(number, build):
            return plan(site, number, build, held=held)
    same_code = serving is not None and build == serving["build"]
    about = {"version": version, "what": note or ("config" if same_code else "deploy"), **signed(run)}
    return plan(site, site.newest + 1, build, about, held=held)


def rollback(site: Site, run: Mapping[str, str], release: str) -> dict[str, Any]:
    if site.serving is None:
        raise RefusedError(f"{site.app} serves no release yet: there is nothing to go back from")
    target = named(site, release) if release else before(site)
    known = site.known[target]
    if known["state"] == "failed":
        raise RefusedError(
            f"v{target} of {site.app} failed when it was deployed, and is not gone back to: {known['reason']}"
        )
    if target == site.serving:
        raise RefusedError(f"v{target} of {site.app} is the release that serves")
    lacking = sorted(set(site.states) - set(site.on(target)))
    if lacking:
        raise RefusedError(
            f"v{target} of {site.app} is not on {', '.join(lacking)}, as on a host that was added after it. Deploy its "
            f"code anew instead, which is {known['version']}: playbooks/deploy.yml -e app={site.app} -e version=…"
        )
    what = f"rollback to v{target}"
    newest = site.known[site.newest]
    # One that was cut off goes on.
    if newest["state"] == "building" and newest["what"] == what:
        return plan(site, site.newest, known["build"], env_from=target, left=True)
    about = {"version": known["version"], "what": what, **signed(run)}
    return plan(site, site.newest + 1, known["build"], about, env_from=target, left=True)


def named(site: Site, release: str) -> int:
    match = re.fullmatch(r"v?(\d+)", release)
    if match and int(match[1]) in site.known:
        return int(match[1])
    kept = ", ".join(f"v{number}" for number in sorted(site.known) if number != site.serving) or "none"
    raise RefusedError(f"{site.app} has no release {release}; those that are kept beside the serving one: {kept}")


def before(site: Site) -> int:
    """Return the release that served before this one and was not left for being bad."""
    good = [number for number, known in site.known.items() if known["state"] == "ok" and number < site.serving]
    if not good:
        raise RefusedError(f"{site.app} has no earlier release that served: name one with  -e release=v…")
    return max(good)


def signed(run: Mapping[str, str]) -> dict[str, str]:
    return {"who": run["who"], "when": run["since"]}


def plan(
    site: Site,
    number: int,
    build: str,
    about: Mapping[str, str] | None = None,
    env_from: int | None = None,
    held: str = "",
    left: bool = False,
) -> dict[str, Any]:
    known = site.known.get(number, {})
    done = known.get("state") == "serving" or known.get("released", False)
    return {
        "app": site.app,
        "number": number,
        "new": number not in site.known,
        "build": build,
        "about": dict(about) if about else {key: known[key] for key in ("version", "what", "who", "when")},
        "env_from": env_from,
        "serving": site.serving,
        "release_command": not done and env_from is None,
        # Of a rollback: what serves now is left for being bad.
        "leaves": site.serving if left else None,
        "held": held,
    }


class ActionModule(ActionBase):
    """The app_plan action: no part of it runs on a server."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = dict(self._task.args)
        begun = arguments.pop("begun")
        states = {host: task_vars["hostvars"][host][begun] for host in task_vars["ansible_play_hosts"]}
        try:
            return {"changed": False, **decide(states=states, **arguments)}
        except RefusedError as problem:
            return {"failed": True, "msg": str(problem)}
