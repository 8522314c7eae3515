#!/usr/bin/python3
"""Build a release of an app in a directory and an environment of its own."""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import shlex
import shutil
import tomllib
from pathlib import Path

from ansible.module_utils.app_store import BUILDING, HeldError, Lock, Releases
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.placing import place_file
from ansible.module_utils.python_range import common_range

DOCUMENTATION = r"""
module: app_build
short_description: Makes a numbered release of an app, and builds its code where that is not built yet
description:
  - Writes the release to I(home)C(/releases/v)I(number), with its environment, unless it is there. What is there
    stays as it is.
  - Ships I(archive) to the host and unpacks it to I(home)C(/builds/)I(build), unless that is built there; several
    releases can share a build.
  - Makes an environment of the release's own with uv, as the app's user and with the app's config, so that nothing of
    a running release changes. Reads C(requirements.txt), C(uv.lock), C(poetry.lock) or C(Pipfile.lock); the last two
    are written as requirements with hashes by a pinned Poetry or Pipenv, for uv to install. Packages are cached between
    releases.
  - As on Heroku, a source with files of several package managers is refused, and so is a lock that does not match what
    it was made from.
  - Adds gunicorn and writes a Procfile where there is none. Collects static files of a Django app unless its config
    says C(DISABLE_COLLECTSTATIC).
  - Adds the static files to those that are kept for pages of other releases.
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
  number:
    description: Number of the release.
    type: int
    required: true
  build:
    description: Name of its build.
    type: str
    required: true
  about:
    description: What is written down of a new release, as C(version), C(who), C(when) and C(what).
    type: dict
    required: true
  env:
    description: Text of its environment file.
    type: str
    required: true
  env_from:
    description: Number of the release whose environment it takes over, in place of I(env).
    type: int
  token:
    description: Token of the lock that app_releases took.
    type: str
    required: true
  archive:
    description: The source as a tar.gz on the controller, or a pattern that finds it there.
    type: path
    required: true
  python:
    description:
      - C(system) for Debian's python3, or a version such as C(3.13). Empty is what the source asks for, in
        C(.python-version), C(runtime.txt), C(Pipfile.lock) or C(pyproject.toml) (C(requires-python), or the C(python)
        of Poetry's dependencies), else C(system).
    type: str
    default: ""
  processes:
    description: Process types that the site runs, each of which the Procfile has to have.
    type: list
    elements: str
    default: []
  static_url:
    description: URL below which the static files are served.
    type: str
    default: /static/
  static_path:
    description: Directory in the source that they are collected to.
    type: str
    default: staticfiles
  writable:
    description: Directories inside the source that keep what the app writes there, whatever release runs.
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
    number: 12
    build: 0a1b2c3d4e
    about: {version: main, who: ann@laptop, when: "2026-05-04 10:00:00 UTC", what: deploy}
    env: "A='1'\n"
    token: "{{ token }}"
    archive: .cache/sources/files-0a1b2c3d4e.tar.gz
"""

RETURN = r"""
archive_needed:
  description: The code is not built here, and no archive was given.
  type: bool
  returned: always
release_command:
  description: The Procfile has a release command.
  type: bool
  returned: always
"""

# Of role uv
UV = Path("/opt/uv")
APP_RUN = "/usr/local/bin/app-run"
SYSTEM_PYTHON = "/usr/bin/python3"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# Time that an archive has to get here.
ARCHIVE_SECONDS = 600
# What an app without a Procfile is served by.
DEFAULT_SERVER = "gunicorn==27.0.1"
# In the order in which Heroku names them, which wants exactly one.
PACKAGE_FILES = {
    "Pipfile.lock": "Pipenv",
    "requirements.txt": "pip",
    "poetry.lock": "Poetry",
    "uv.lock": "uv",
}
OTHER_FILES = {
    "Pipfile": "pipenv lock",
    "pdm.lock": "pdm export --output requirements.txt",
    "pyproject.toml": "uv lock",
}
# They say whether their lock fits, and write it as requirements, for which they need no network. uv installs: Poetry
# would ask PyPI's JSON API, which a mirror seldom has, and either takes longer.
POETRY = "--from poetry==2.5.1 --with poetry-plugin-export==1.10.0 poetry"
PIPENV = "--from pipenv==2026.10.3 pipenv"
LOCKED = ".venv/locked.txt"
# Left out, so that the site's own index is asked in PyPI's place.
PYPI_LINE = r"^(-i|--index-url) https://pypi\.org/simple/?$"
PROCFILE_TYPE = re.compile(r"^([A-Za-z0-9][A-Za-z0-9_-]*):[ \t]*\S", re.MULTILINE)


FULL = os.strerror(errno.ENOSPC)


class BuildError(Exception):
    """A build that cannot be, in words for a person."""


class Build:
    """One release of one app on this host."""

    def __init__(self, module: AnsibleModule):
        self.module = module
        self.app: str = module.params["app"]
        self.home = Path(module.params["home"])
        self.number: int = module.params["number"]
        self.build_name: str = module.params["build"]
        self.releases = Releases(self.home)
        self.directory = self.releases.build_directory(self.build_name)
        # Outside the build, which belongs to the app's user: root writes here.
        self.note = self.home / "builds" / f"{self.build_name}.json"
        self.environment = {
            "PATH": f"{UV}/bin:/usr/local/bin:/usr/bin:/bin",
            "UV_CACHE_DIR": f"{self.home}/.cache/uv",
            "UV_PYTHON_INSTALL_DIR": f"{self.home}/.python",
            "UV_NO_PROGRESS": "1",
            "SSL_CERT_FILE": CERTIFICATES,
            # HOME is the release, where none of this belongs.
            "UV_TOOL_DIR": f"{self.home}/.cache/uv-tools",
            "POETRY_CACHE_DIR": f"{self.home}/.cache/poetry",
            "PIPENV_CACHE_DIR": f"{self.home}/.cache/pipenv",
            "PIPENV_VERBOSITY": "-1",
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
    def is_prepared(self) -> bool:
        return self.releases.read(self.number).get("build") == self.build_name

    def prepare(self) -> None:
        """Write the release down, whole or not at all."""
        directory, copied = self.releases.directory(self.number), self.module.params["env_from"]
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        source = self.releases.directory(copied) / "env" if copied else None
        env = source.read_bytes() if source else self.module.params["env"].encode()
        place_file(directory / "env", env, 0o640, os.geteuid(), pwd.getpwnam(self.app).pw_gid)
        (directory / "code").symlink_to(f"../../builds/{self.build_name}")
        about = self.module.params["about"]
        self.releases.change(self.number, number=self.number, build=self.build_name, state=BUILDING, **about)

    def build(self, archive: str) -> None:
        self.note.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        try:
            self.unpack(archive)
            self.link_writable()
            self.install_packages()
            self.provide_server()
            self.check_processes()
            self.collect_static_files()
            self.keep_static_files()
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
        self.directory.mkdir(parents=True)
        shutil.chown(self.directory, self.app, self.app)
        # New times for all files: nginx tells two versions of a static file apart by time and size.
        self.as_app("unpack the source", "tar -xzm --no-same-owner", data=Path(archive).read_bytes())

    def link_writable(self) -> None:
        """Put a link to what is kept where the app writes; what the source has there is copied once."""
        for name in self.module.params["writable"]:
            kept, here = shlex.quote(f"{self.home}/media/{name}"), shlex.quote(name)
            copy = f"if [ -d {here} ]; then cp -r --no-clobber {here}/. {kept}/; fi"
            link = f'rm -rf {here} && mkdir -p "$(dirname {here})" && ln -s {kept} {here}'
            self.as_app(f"keep {name} outside the release", f"mkdir -p {kept} && {copy} && {link}")

    def install_packages(self) -> None:
        has = {path.name for path in self.directory.iterdir()}
        found = [name for name in PACKAGE_FILES if name in has]
        if len(found) != 1:
            self.explain_package_files(found, has)
        install = {
            "Pipfile.lock": self.install_with_pipenv,
            "requirements.txt": self.install_with_pip,
            "poetry.lock": self.install_with_poetry,
            "uv.lock": self.install_with_uv,
        }
        install[found[0]]()

    def make_environment(self) -> None:
        self.as_app("make an environment", f"uv venv --quiet --no-project --python {self.interpreter()} .venv")

    def hide_locked(self) -> None:
        """Make the list unreadable to others before it is written: it may hold the password of a private index."""
        self.as_app("prepare for the packages", f"install --mode=0600 /dev/null {LOCKED}")

    def install_with_pip(self) -> None:
        self.make_environment()
        self.as_app("install requirements.txt", "uv pip install --quiet -r requirements.txt")

    def install_with_uv(self) -> None:
        sync = "uv sync --quiet --locked --no-default-groups"
        self.as_app("install uv.lock", f"{sync} --python {self.interpreter()}")

    def install_with_poetry(self) -> None:
        self.make_environment()
        export = f"export --only main --with-credentials --no-interaction --no-ansi --output {LOCKED}"
        self.hide_locked()
        self.as_app("read poetry.lock", f"{self.tool(POETRY)} {export}")
        self.install_locked("poetry.lock")
        project = tomllib.loads((self.directory / "pyproject.toml").read_text())
        if "build-system" in project and project.get("tool", {}).get("poetry", {}).get("package-mode", True):
            self.as_app("install the app itself", "uv pip install --quiet --no-deps --editable .")

    def install_with_pipenv(self) -> None:
        self.make_environment()
        code, out, said = self.run_as_app(f"{self.tool(PIPENV)} verify")
        if code != 0 and "out-of-date" in out + said:
            raise BuildError(
                "Pipfile.lock was not made from this Pipfile: run `pipenv lock` and add Pipfile.lock to the source"
            )
        self.checked("check Pipfile.lock", code, out, said)
        self.hide_locked()
        self.as_app("read Pipfile.lock", f"{self.tool(PIPENV)} requirements --hash >{LOCKED}")
        self.install_locked("Pipfile.lock")

    @staticmethod
    def tool(name: str) -> str:
        return f"uv tool run --quiet --python {SYSTEM_PYTHON} {name}"

    def install_locked(self, lock: str) -> None:
        """Install what the lock lists and nothing else; uv refuses what has another hash."""
        self.as_app(f"read {lock}", f"sed --in-place --regexp-extended '\\#{PYPI_LINE}#d' {LOCKED}")
        self.as_app(f"install {lock}", f"uv pip install --quiet --no-deps -r {LOCKED}")
        self.as_app(f"forget what {lock} was read as", f"rm {LOCKED}")

    @staticmethod
    def explain_package_files(found: list[str], has: set[str]) -> None:
        if found:
            listed = " and ".join(f"{name} ({PACKAGE_FILES[name]})" for name in found)
            raise BuildError(
                f"the source has {listed}, and which of them counts cannot be known; Heroku refuses that too. "
                f"Remove what the app does not use, `git rm {found[-1]}` for example"
            )
        for name, command in OTHER_FILES.items():
            if name in has:
                raise BuildError(
                    f"the source has {name}, and packages are installed from {', '.join(PACKAGE_FILES)}: "
                    f"run `{command}` and add the file that it makes to the source"
                )
        raise BuildError(
            f"the source has none of {', '.join(PACKAGE_FILES)}; "
            "an empty requirements.txt says that no package is needed"
        )

    def interpreter(self) -> str:
        wanted = self.module.params["python"] or asked_python(self.directory)
        script = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
        system = self.must("ask for the version of python3", [SYSTEM_PYTHON, "-c", script]).strip()
        if wanted == "system" or f"{system}.".startswith(f"{wanted}."):
            return SYSTEM_PYTHON
        name = shlex.quote(wanted)
        if not re.fullmatch(r"[\d.]+", wanted) and self.system_satisfies(name):
            return SYSTEM_PYTHON
        code, _out, said = self.run_as_app(f"uv python install --no-bin {name}")
        if code != 0:
            raise BuildError(
                f"this host's python3 is {system}, and Python {wanted} could not be fetched: {last_line(said)}. "
                "Two ways out: `python: system` for this app in the inventory; or let the host reach the releases of "
                "python-build-standalone, or a copy of them that UV_PYTHON_INSTALL_MIRROR in the app's config names"
            )
        return self.as_app("find Python", f"uv python find --no-project --managed-python {name}").strip()

    def system_satisfies(self, request: str) -> bool:
        """Ask uv, which knows what a range such as >=3.11,<4 takes."""
        find = "uv python find --no-project --no-python-downloads --no-managed-python"
        code, out, _said = self.run_as_app(f"{find} {request}")
        return code == 0 and Path(out.strip()).resolve() == Path(SYSTEM_PYTHON).resolve()

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

    def keep_static_files(self) -> None:
        """Add them to those of the other releases, whose pages still ask for theirs."""
        source = self.directory / self.module.params["static_path"]
        target = self.home / "assets/kept" / self.module.params["static_url"].strip("/")
        if source.is_dir():
            copy = f"mkdir -p {target} && cp -rlf {shlex.quote(str(source))}/. {target}/"
            # A file stands where there is a directory now: what was kept goes.
            self.as_app("keep the static files", f"{copy} || {{ rm -rf {target} && {copy}; }}")

    def run_as_app(self, line: str, data: bytes | None = None) -> tuple[int, str, str]:
        keep = ",".join(name for name in self.environment if name != "PATH")
        # app-run puts the release's own programs first and ends with the system's; uv is not among either.
        line = re.sub(r"^uv ", f"{UV}/bin/uv ", line)
        return self.module.run_command(
            [APP_RUN, self.app, "--release", f"v{self.number}", "--keep", keep, line],
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


def asked_python(directory: Path) -> str:
    """Return the Python that the source asks for, in the first of the places where Heroku looks."""
    for name in (".python-version", "runtime.txt"):
        path = directory / name
        if path.exists():
            lines = (line.partition("#")[0].strip() for line in path.read_text(errors="replace").splitlines())
            return next((line.removeprefix("python-") for line in lines if line), "system")
    path = directory / "Pipfile.lock"
    if path.exists():
        requires = json.loads(path.read_text()).get("_meta", {}).get("requires", {})
        version = requires.get("python_full_version") or requires.get("python_version", "")
        return version if re.fullmatch(r"[\d.]+", version) else "system"
    path = directory / "pyproject.toml"
    if path.exists():
        pyproject = tomllib.loads(path.read_text())
        poetry = pyproject.get("tool", {}).get("poetry", {}).get("dependencies", {}).get("python", "")
        return common_range(pyproject.get("project", {}).get("requires-python", "") or poetry) or "system"
    return "system"


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


def in_one_line(problem: str) -> str:
    """Return what could not be done, and why: what is said last, unless it only follows from a full disk."""
    first, *others = problem.strip().splitlines()
    full = [line for line in others if FULL in line]
    return " ".join([first, *(line.strip() for line in (full or others)[-1:])])


def last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-30:])


def make(build: Build, archive: str | None) -> tuple[bool, bool]:
    """Have the release on this host; tell whether anything changed, and whether the archive is needed for it."""
    prepared = build.is_prepared
    if not prepared:
        build.prepare()
    if build.is_built:
        build.check_processes()
        return not prepared, False
    if archive is None:
        return True, True
    build.build(archive)
    return True, False


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "number": {"type": "int", "required": True},
            "build": {"type": "str", "required": True},
            "about": {"type": "dict", "required": True},
            "env": {"type": "str", "required": True, "no_log": True},
            "env_from": {"type": "int"},
            "token": {"type": "str", "required": True, "no_log": False},
            # Of this host by now, and absent until it is known to be needed.
            "archive": {"type": "path"},
            "python": {"type": "str", "default": ""},
            "processes": {"type": "list", "elements": "str", "default": []},
            "static_url": {"type": "str", "default": "/static/"},
            "static_path": {"type": "str", "default": "staticfiles"},
            "writable": {"type": "list", "elements": "str", "default": []},
            # May hold a password.
            "index_url": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    build = Build(module)
    if module.check_mode:
        module.exit_json(
            changed=not (build.is_prepared and build.is_built),
            archive_needed=False,
            release_command="release" in build.process_types,
        )
    lock = Lock(build.app, module.params["token"])
    try:
        with lock.hold():
            changed, needed = make(build, module.params["archive"])
        if needed:
            lock.extend(ARCHIVE_SECONDS)
    except (BuildError, HeldError, OSError) as problem:
        # What a package's own build says of a failure may hold what it was given.
        module.no_log_values |= build.releases.secrets(build.number)
        story = f"v{build.number} of {build.app} was not built"
        module.fail_json(msg=f"{story}: {problem}", outcome=f"{story}: {in_one_line(str(problem))}")
    module.exit_json(changed=changed, archive_needed=needed, release_command="release" in build.process_types)


if __name__ == "__main__":
    main()
