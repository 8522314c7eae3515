#!/usr/bin/python3
"""Build a release of an app in a directory and an environment of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: app_build
short_description: Builds a release of an app, once
description:
  - Ships I(archive) to the host and unpacks it to I(home)C(/releases/)I(release), unless that release is built there.
  - Makes an environment of the release's own with uv, as the app's user and with the app's config, so that nothing of
    a running release changes. Reads C(requirements.txt), else C(uv.lock). Packages are cached between releases.
  - Adds gunicorn and writes a Procfile where there is none. Collects static files of a Django app unless its config
    says C(DISABLE_COLLECTSTATIC).
  - A build that was interrupted or failed leaves nothing that a later one takes for built.
options:
  app:
    description: Name of the app, and of its user.
    type: str
    required: true
  home:
    description: Directory of the app on the host.
    type: path
    required: true
  release:
    description: Name of the release.
    type: str
    required: true
  archive:
    description: The source as a tar.gz on the controller.
    type: path
    required: true
  python:
    description: C(system) for Debian's python3, or a version such as C(3.13).
    type: str
    default: system
  processes:
    description: Process types that the site runs, each of which the Procfile has to have.
    type: list
    elements: str
    default: []
  index_url:
    description: Package index for uv; empty for their own default.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Build the release
  app_build:
    app: shop
    home: /srv/www/shop
    release: 0a1b2c3d4e
    archive: .cache/sources/files-0a1b2c3d4e.tar.gz
"""

RETURN = r"""
release_command_due:
  description: The Procfile has a release command, and the site does not serve this release yet.
  type: bool
  returned: always
serves:
  description: Name of the release that this host serves, empty where there is none.
  type: str
  returned: always
archive_needed:
  description: The release is not built here, and no archive was given.
  type: bool
  returned: always
"""

# Of role uv
UV = Path("/opt/uv")
APP_RUN = "/usr/local/bin/app-run"
SYSTEM_PYTHON = "/usr/bin/python3"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# What an app without a Procfile is served by.
DEFAULT_SERVER = "gunicorn==27.0.1"
OTHER_LOCKS = {
    "poetry.lock": "poetry export --output requirements.txt",
    "Pipfile.lock": "pipenv requirements > requirements.txt",
    "pdm.lock": "pdm export --output requirements.txt",
    "pyproject.toml": "uv lock",
}
PROCFILE_TYPE = re.compile(r"^([A-Za-z0-9][A-Za-z0-9_-]*):[ \t]*\S", re.MULTILINE)


class BuildError(Exception):
    """A build that cannot be, in words for a person."""


class Build:
    """One release of one app on this host."""

    def __init__(self, module: AnsibleModule):
        self.module = module
        self.app: str = module.params["app"]
        self.home = Path(module.params["home"])
        self.release: str = module.params["release"]
        self.directory = self.home / "releases" / self.release
        # Outside the release, which belongs to the app's user: root writes here.
        self.note = self.home / "releases" / f"{self.release}.json"
        self.environment = {
            "PATH": f"{UV}/bin:/usr/local/bin:/usr/bin:/bin",
            "UV_CACHE_DIR": f"{self.home}/.cache/uv",
            "UV_PYTHON_INSTALL_DIR": f"{self.home}/.python",
            "UV_NO_PROGRESS": "1",
            "SSL_CERT_FILE": CERTIFICATES,
        }
        if module.params["index_url"]:
            # In the environment and not among the arguments, since it may hold a password.
            self.environment["UV_DEFAULT_INDEX"] = module.params["index_url"]

    @property
    def is_built(self) -> bool:
        try:
            note = json.loads(self.note.read_text())
        except (FileNotFoundError, ValueError):
            return False
        # An upgrade of Debian takes the interpreter away from under an environment.
        return note["python"] in ("", self.interpreter_of(self.directory / ".venv")) and self.directory.is_dir()

    @staticmethod
    def interpreter_of(environment: Path) -> str:
        """Return path of an environment's real interpreter, or nothing when it is gone."""
        interpreter = environment / "bin/python"
        return str(interpreter.resolve()) if interpreter.exists() else "gone"

    @property
    def process_types(self) -> list[str]:
        try:
            return PROCFILE_TYPE.findall((self.directory / "Procfile").read_text(errors="replace"))
        except FileNotFoundError:
            return []

    @property
    def serves(self) -> str:
        link = self.home / "current"
        return link.resolve().name if link.is_dir() else ""

    @property
    def release_command_due(self) -> bool:
        return "release" in self.process_types and self.serves != self.release

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for a build that goes on, although the run that began it was killed."""
        with os.fdopen(os.open(self.home / ".lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def build(self, archive: str) -> None:
        self.note.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        try:
            self.unpack(archive)
            self.install_packages()
            self.provide_server()
            self.check_processes()
            self.collect_static_files()
            # The note must not be on disk before what it vouches for.
            self.must("sync the release to disk", ["sync", "--file-system", str(self.directory)])
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        environment = self.directory / ".venv"
        temporary = self.note.with_suffix(".new")
        temporary.write_text(json.dumps({"python": self.interpreter_of(environment) if environment.exists() else ""}))
        temporary.rename(self.note)

    def unpack(self, archive: str) -> None:
        self.directory.mkdir()
        shutil.chown(self.directory, self.app, self.app)
        # New times for all files: nginx tells two versions of a static file apart by time and size.
        self.as_app("unpack the source", "tar -xzm --no-same-owner", data=Path(archive).read_bytes())

    def install_packages(self) -> None:
        has = {path.name for path in self.directory.iterdir()}
        if "requirements.txt" in has:
            self.as_app("make an environment", f"uv venv --quiet --no-project --python {self.interpreter()} .venv")
            self.as_app("install requirements.txt", "uv pip install --quiet -r requirements.txt")
        elif {"uv.lock", "pyproject.toml"} <= has:
            sync = "uv sync --quiet --locked --no-default-groups"
            self.as_app("install uv.lock", f"{sync} --python {self.interpreter()}")
        else:
            self.explain_missing_requirements(has)

    @staticmethod
    def explain_missing_requirements(has: set[str]) -> None:
        for name, command in OTHER_LOCKS.items():
            if name in has:
                raise BuildError(
                    f"the source has {name}, and packages are installed from requirements.txt or uv.lock: "
                    f"run `{command}` and add the file to the source"
                )
        raise BuildError(
            "the source has neither requirements.txt nor uv.lock; "
            "an empty requirements.txt says that no package is needed"
        )

    def interpreter(self) -> str:
        wanted: str = self.module.params["python"]
        script = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
        system = self.must("ask for the version of python3", [SYSTEM_PYTHON, "-c", script]).strip()
        if wanted == "system" or f"{system}.".startswith(f"{wanted}."):
            return SYSTEM_PYTHON
        code, _out, said = self.run_as_app(f"uv python install --no-bin {shlex.quote(wanted)}")
        if code != 0:
            raise BuildError(
                f"this host's python3 is {system}, and Python {wanted} could not be fetched: {last_line(said)}. "
                "Two ways out: `python: system` for this app in the inventory; or let the host reach the releases of "
                "python-build-standalone, or a copy of them that UV_PYTHON_INSTALL_MIRROR in the app's config names"
            )
        return self.as_app("find Python", f"uv python find --no-project --managed-python {shlex.quote(wanted)}").strip()

    def provide_server(self) -> None:
        if (self.directory / "Procfile").exists():
            return
        if not (self.directory / ".venv/bin/gunicorn").exists():
            self.as_app("install gunicorn", f"uv pip install --quiet {DEFAULT_SERVER}")
        module = find_wsgi_module(self.directory)
        if module is None:
            raise BuildError(
                "the source has neither a Procfile nor a WSGI module (wsgi.py below a package, wsgi.py, app.py or "
                "main.py): write a Procfile with a line such as `web: gunicorn shop.wsgi`"
            )
        self.as_app("write a Procfile", f"echo 'web: gunicorn {module}' >Procfile")

    def check_processes(self) -> None:
        unknown = sorted(set(self.module.params["processes"]) - set(self.process_types))
        if unknown:
            raise BuildError(
                f"the inventory asks for {', '.join(unknown)}, and the Procfile has "
                f"{', '.join(self.process_types) or 'no process types'}"
            )

    def collect_static_files(self) -> None:
        manage = sorted(self.directory.glob("manage.py")) or sorted(self.directory.glob("*/manage.py"))
        if not manage or not list(self.directory.glob(".venv/lib/python*/site-packages/django")):
            return
        if self.as_app("read the config", 'printf %s "$DISABLE_COLLECTSTATIC"') not in ("", "0"):
            return
        path = manage[0].relative_to(self.directory)
        code, out, said = self.run_as_app(f"python {path} collectstatic --noinput --verbosity 0")
        # Without django.contrib.staticfiles there is no such command, and nothing to collect.
        if code != 0 and "Unknown command: 'collectstatic'" not in said:
            raise BuildError(
                f"could not collect static files (DISABLE_COLLECTSTATIC: '1' in the app's config goes without):\n"
                f"{last_lines(out + said)}"
            )

    def run_as_app(self, line: str, data: bytes | None = None) -> tuple[int, str, str]:
        keep = ",".join(name for name in self.environment if name != "PATH")
        # app-run puts the release's own programs first and ends with the system's; uv is not among either.
        line = re.sub(r"^uv ", f"{UV}/bin/uv ", line)
        return self.module.run_command(
            [APP_RUN, self.app, "--release", self.release, "--keep", keep, line],
            environ_update=self.environment,
            data=data,
            binary_data=True,
        )

    def as_app(self, what: str, line: str, data: bytes | None = None) -> str:
        return self.checked(what, *self.run_as_app(line, data))

    def must(self, what: str, command: list[str]) -> str:
        return self.checked(what, *self.module.run_command(command, environ_update=self.environment))

    @staticmethod
    def checked(what: str, code: int, out: str, said: str) -> str:
        if code != 0:
            raise BuildError(f"could not {what}:\n{last_lines(out + said)}")
        return out


def find_wsgi_module(directory: Path) -> str | None:
    """Return what gunicorn is to serve, as it is named on its command line."""
    for path in sorted(directory.glob("*/wsgi.py")):
        return f"{path.parent.name}.wsgi"
    for name in ("wsgi", "app", "main"):
        path = directory / f"{name}.py"
        if path.exists():
            found = re.search(r"^(application|app)\b\s*[:=]|^def (application|app)\(", path.read_text(), re.MULTILINE)
            if found:
                return f"{name}:{found[1] or found[2]}"
    return None


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip().removeprefix("cause: ") if lines else "no reason given"


def last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-30:])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            # Of this host by now, and absent until it is known to be needed.
            "archive": {"type": "path"},
            "python": {"type": "str", "default": "system"},
            "processes": {"type": "list", "elements": "str", "default": []},
            # May hold a password.
            "index_url": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    build = Build(module)
    changed = not build.is_built
    archive = module.params["archive"]
    needed = changed and archive is None and not module.check_mode
    if changed and not needed and not module.check_mode:
        try:
            with build.alone():
                changed = not build.is_built
                if changed:
                    build.build(archive)
        except (BuildError, OSError) as problem:
            module.fail_json(msg=f"{build.app}: release {build.release} was not built: {problem}")
    elif not changed:
        try:
            build.check_processes()
        except BuildError as problem:
            module.fail_json(msg=f"{build.app}: release {build.release}: {problem}")
    module.exit_json(
        changed=changed,
        archive_needed=needed,
        serves=build.serves,
        release_command_due=build.release_command_due,
    )


if __name__ == "__main__":
    main()
