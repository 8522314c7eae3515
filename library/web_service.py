#!/usr/bin/python3
"""Take a web host out of service, have it back, or put its nginx onto a new binary; no request is dropped."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from pathlib import Path

from ansible.module_utils.app_store import Releases
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.connections import connections
from ansible.module_utils.placing import place_file

DOCUMENTATION = r"""
module: web_service
short_description: Takes a web host out of service, and has it back
description:
  - C(away) has nginx hand requests to the other web hosts, and waits until the app instances of this one have none
    left. C(back) waits until each instance of an app that was deployed answers its health check, through nginx too,
    and has nginx hand requests to them again.
  - C(away) outlives a reboot.
  - C(renewed) has nginx go on as a new process, with the program that is on the disk now, which takes over the
    sockets of the old one.
options:
  state:
    description: What to do.
    type: str
    choices: [away, back, renewed]
    required: true
  apps:
    description: Complete apps, as the filter site_apps returns them.
    type: list
    elements: dict
    default: []
  timeout:
    description: Seconds to wait for the end of requests, or for the apps.
    type: int
    default: 60
author: [Offramp]
"""

EXAMPLES = r"""
- name: Have the other web hosts answer for this one
  web_service:
    state: away
    apps: "{{ site_app_list }}"
"""

RETURN = "# Nothing of its own"

AWAY = Path("/var/lib/offramp/away")
NGINX_PID, NGINX_OLD_PID = Path("/run/nginx.pid"), Path("/run/nginx.pid.oldbin")
# A request that nginx was about to hand over when it was told not to has arrived by then.
SETTLE_SECONDS = 0.5


class Unverified(http.client.HTTPSConnection):
    """TLS to this host by a name of its site's, whoever has issued the certificate."""

    def __init__(self, name: str, timeout: float):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        super().__init__("127.0.0.1", 443, timeout=timeout, context=context)
        self.name = name

    def connect(self) -> None:
        line = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._context.wrap_socket(line, server_hostname=self.name)


class Instance:
    """One way to an app: one of its instances, or nginx."""

    def __init__(self, app: dict, port: int = 0):
        self.app, self.port = app, port
        self.name = (app["domains"] or ["localhost"])[0]

    def problem(self) -> str:
        """Return what is wrong, or nothing."""
        line = (
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=10) if self.port else Unverified(self.name, 10)
        )
        headers = {"Host": self.name, "User-Agent": "offramp", "X-Handed-Over": "yes"}
        if self.port:
            headers |= {"X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1"}
        where = f"on port {self.port}" if self.port else "through nginx"
        try:
            line.request("GET", self.app["health_path"], headers=headers)
            status = line.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"{self.app['name']} gives no answer {where} ({error or type(error).__name__})"
        finally:
            line.close()
        # An app that shows its maintenance page is not asked.
        if 200 <= status < 400 or (not self.port and self.shut):
            return ""
        return f"{self.app['name']} answers {self.app['health_path']} with {status} {where}"

    @property
    def shut(self) -> bool:
        return (Path(self.app["home"]) / "maintenance.html").exists()


class Web:
    """This host's nginx, and the apps behind it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.apps: list[dict] = module.params["apps"]
        self.seconds: int = module.params["timeout"]

    def away(self) -> bool:
        if AWAY.exists():
            return False
        if not self.module.check_mode:
            place_file(AWAY, b"", 0o644)
            time.sleep(SETTLE_SECONDS)
            deadline = time.monotonic() + self.seconds
            while any(connections(port) for app in self.apps for port in app["ports"]) and time.monotonic() < deadline:
                time.sleep(0.1)
        return True

    def back(self) -> bool:
        """Prove that what was deployed serves, whether or not others answer for it."""
        served = [app for app in self.apps if app["ports"] and Releases(Path(app["home"])).at(".served")]
        ways = [Instance(app, port) for app in served for port in app["ports"]]
        ways += [Instance(app) for app in served if app["domains"]]
        deadline = time.monotonic() + self.seconds
        while problems := [problem for way in ways if (problem := way.problem())]:
            if time.monotonic() > deadline:
                out = ". The other web hosts answer for this one" if AWAY.exists() else ""
                self.module.fail_json(msg=f"{problems[0]}, {self.seconds} s after its start{out}")
            time.sleep(0.5)
        there = AWAY.exists()
        if not self.module.check_mode:
            AWAY.unlink(missing_ok=True)
        return there

    def renewed(self) -> bool:
        """Do what nginx documents for a new program: start it beside the old one, and have the old one end."""
        if self.module.check_mode:
            return True
        old = NGINX_PID.read_text().strip()
        self.module.run_command(["/bin/kill", "-USR2", old], check_rc=True)
        deadline = time.monotonic() + 10
        while not (self.read(NGINX_PID) not in ("", old) and self.read(NGINX_OLD_PID) == old):
            if time.monotonic() > deadline:
                self.module.fail_json(
                    msg="nginx did not start anew, and goes on as it is: see /var/log/nginx/error.log"
                )
            time.sleep(0.1)
        # The new workers take connections by then.
        time.sleep(SETTLE_SECONDS)
        self.module.run_command(["/bin/kill", "-QUIT", old], check_rc=True)
        # Until the old one has ended, systemd takes it for the service.
        deadline = time.monotonic() + self.seconds
        while Path(f"/proc/{old}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        return True

    @staticmethod
    def read(path: Path) -> str:
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["away", "back", "renewed"], "required": True},
            "apps": {"type": "list", "elements": "dict", "default": []},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=getattr(Web(module), module.params["state"])())


if __name__ == "__main__":
    main()
