"""Turn the sources of apps into archives, on the controller."""

from __future__ import annotations

import datetime
import difflib
import getpass
import gzip
import hashlib
import io
import json
import os
import re
import secrets
import socket
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Never part of a release, when there is no .gitignore to say so.
NEVER = {".git", ".hg", ".svn", ".venv", "venv", "__pycache__", "node_modules", ".tox", ".mypy_cache", ".pytest_cache"}
# What the role wants to know before a server has the archive.
READ = {"procfile": ("Procfile",), "python_version": (".python-version", "runtime.txt")}
SECONDS = 300
# What git asks for a name and password; they stand in its environment, which nobody else can read.
HELPER = """!f() {
  [ "$1" != get ] || printf 'username=%s\\npassword=%s\\n' "$OFFRAMP_GIT_USER" "$OFFRAMP_GIT_PASSWORD"
}; f"""


class SourceError(Exception):
    """A source or version that cannot be had, in words for a person."""


def without_login(url: str) -> str:
    return re.sub(r"://\S+@", "://…@", url)


def git_login(words: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Take the login out of a URL among git's arguments, which every user can read, and return it as environment."""
    urls = [word for word in words if re.match(r"https?://[^/@]+@", word)]
    if not urls:
        return list(words), {}
    parts = urlsplit(urls[0])
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    settings = [("credential.username", unquote(user))]
    if password:
        # No other helper is asked, nor told what to keep.
        settings = [("credential.helper", ""), ("credential.helper", HELPER)]
    first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    environment = {"GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, (name, value) in enumerate(settings, first):
        environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    environment |= {"OFFRAMP_GIT_USER": unquote(user), "OFFRAMP_GIT_PASSWORD": unquote(password)}
    return [plain if word == urls[0] else word for word in words], environment


def git(*words: str, directory: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run git without ever asking a question."""
    words, login = git_login(words)
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **login}
    environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
    # Set by git itself while it runs a hook, and meant for another repository.
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environment.pop(name, None)
    # A clone that belongs to the operator is as good when root runs us.
    command = ["git", "-c", "safe.directory=*", *(["-C", str(directory)] if directory else []), *words]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        raise SourceError("git is not installed here on the controller: apt install git") from None
    except subprocess.TimeoutExpired:
        raise SourceError(f"git {words[0]} did not end within {SECONDS} s") from None
    if check and done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SourceError(f"git {words[0]}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done


def is_url(source: str) -> bool:
    """Tell a git URL, also in the short form of ssh, from a directory."""
    return re.match(r"[a-z][a-z0-9+.-]*://", source) is not None or re.match(r"[\w.-]+@[\w.-]+:", source) is not None


def looks_like_commit(version: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{4,40}", version) is not None


def choose(version: str, references: Mapping[str, str], source: str) -> str | None:
    """Return the commit of a branch or tag; None when the version may be a commit itself."""
    if not version:
        if "HEAD" not in references:
            raise SourceError(f"{source} has no commits yet")
        return references["HEAD"]
    # A tag that has a message points at a commit through an object of its own.
    for name in (f"refs/tags/{version}^{{}}", f"refs/tags/{version}", f"refs/heads/{version}", version):
        if name in references:
            return references[name]
    return None


def lacks(version: str, references: Mapping[str, str], source: str) -> SourceError:
    names = sorted(
        {re.sub(r"^refs/(heads|tags)/|\^\{\}$", "", name) for name in references if name.startswith("refs/")} - {""}
    )
    near = difflib.get_close_matches(version, names, n=3, cutoff=0.5) or names[:3]
    there_is = f"; nearest are {', '.join(near)}" if near else "; it has neither branches nor tags"
    return SourceError(f"{source} has no branch, tag or commit {version!r}{there_is}")


def read_references(text: bytes) -> dict[str, str]:
    lines = (line.split("\t", 1) for line in text.decode(errors="replace").splitlines() if "\t" in line)
    return {name: commit for commit, name in lines}


class Cache:
    """Archives on the controller, each with a note of what it holds."""

    def __init__(self, directory: Path):
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def keep(self, key: str, fill: Any) -> tuple[Path, dict[str, str]]:
        archive, note = self.directory / f"{key}.tar.gz", self.directory / f"{key}.json"
        if not (archive.exists() and note.exists()):
            with tempfile.TemporaryDirectory(dir=self.directory) as temporary:
                fresh = Path(temporary) / "fresh"
                fill(fresh)
                facts = read_facts(fresh)
                fresh.rename(archive)
                fresh.write_text(json.dumps(facts))
                fresh.rename(note)
        return archive, json.loads(note.read_text())


def read_facts(archive: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isfile() and any(name in names for names in READ.values()):
                found[name] = tar.extractfile(member).read().decode(errors="replace")
    return {fact: next((found[name] for name in names if name in found), "") for fact, names in READ.items()}


def write_gzip(path: Path, content: bytes) -> None:
    # Without a time in its head, equal content gives an equal file.
    with (
        path.open("wb") as file,
        gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="", compresslevel=6) as zipped,
    ):
        zipped.write(content)


def archive_commit(repository: Path, commit: str, prefix: str, fresh: Path) -> None:
    submodules = [
        line.split("\t", 1)[1]
        for line in git("ls-tree", "-r", f"{commit}:{prefix}", directory=repository).stdout.decode().splitlines()
        if line.startswith("160000 ")
    ]
    if submodules:
        raise SourceError(f"it holds the submodule {submodules[0]}, and a release is made without submodules")
    write_gzip(fresh, git("archive", "--format=tar", f"{commit}:{prefix}", directory=repository).stdout)


def from_url(source: str, version: str, cache: Cache) -> dict[str, Any]:
    repository = cache.directory / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.git"
    if not (repository / "HEAD").exists():
        git("init", "--quiet", "--bare", str(repository))
    commit = version if re.fullmatch(r"[0-9a-f]{40}", version) else None
    if commit is None or not has_commit(repository, commit):
        references = read_references(git("ls-remote", "--", source).stdout)
        commit = choose(version, references, source)
        if commit is None:
            commit = fetch_commit(repository, source, version, references)
        elif not has_commit(repository, commit):
            git("fetch", "--quiet", "--no-tags", "--depth=1", "--", source, commit, directory=repository)
    archive, facts = cache.keep(
        f"{repository.stem}-{commit}", lambda fresh: archive_commit(repository, commit, "", fresh)
    )
    return {"id": commit[:10], "archive": str(archive), "version": described(version, commit), **facts}


def has_commit(repository: Path, commit: str) -> bool:
    return git("cat-file", "-e", f"{commit}^{{commit}}", directory=repository, check=False).returncode == 0


def fetch_commit(repository: Path, source: str, version: str, references: Mapping[str, str]) -> str:
    """Fetch all branches, since only who has them all can say what an abbreviated commit means."""
    if not looks_like_commit(version):
        raise lacks(version, references, source)
    heads = "+refs/heads/*:refs/heads/*"
    deepen = ["--unshallow"] if (repository / "shallow").exists() else []
    git("fetch", "--quiet", *deepen, "--", source, heads, "+refs/tags/*:refs/tags/*", directory=repository)
    found = git("rev-parse", "--verify", "--quiet", f"{version}^{{commit}}", directory=repository, check=False)
    if found.returncode != 0:
        raise lacks(version, references, source)
    return found.stdout.decode().strip()


def described(version: str, commit: str) -> str:
    if not version or looks_like_commit(version):
        return commit[:10]
    return f"{version} ({commit[:10]})"


def from_directory(source: str, version: str, directory: Path, cache: Cache) -> dict[str, Any]:
    if not directory.exists():
        raise SourceError(f"there is no directory {directory}")
    if not directory.is_dir():
        raise SourceError(f"{directory} is no directory")
    asked = git("rev-parse", "--is-bare-repository", "--show-prefix", directory=directory, check=False)
    bare, _newline, prefix = asked.stdout.decode().partition("\n")
    if version:
        if asked.returncode != 0:
            raise SourceError(f"{directory} is no git repository, and cannot have a version {version!r}")
        return from_repository(source, version, directory, prefix.strip(), cache)
    if asked.returncode == 0 and bare == "true":
        return from_repository(source, "HEAD", directory, "", cache)
    # A directory that the repository around it ignores as a whole is no part of it.
    files = sorted(tracked_files(directory) if asked.returncode == 0 else ()) or sorted(walked_files(directory))
    if not files:
        raise SourceError(f"{directory} holds no files that belong into a release")
    digest = hashed(directory, files)
    archive, facts = cache.keep(f"files-{digest}", lambda fresh: archive_files(directory, files, fresh))
    return {"id": digest[:10], "archive": str(archive), "version": f"files ({digest[:10]})", **facts}


def from_repository(source: str, version: str, directory: Path, prefix: str, cache: Cache) -> dict[str, Any]:
    found = git("rev-parse", "--verify", "--quiet", f"{version}^{{commit}}", directory=directory, check=False)
    if version.startswith("-") or found.returncode != 0:
        raise lacks(version, read_references(git("ls-remote", "--", ".", directory=directory).stdout), source)
    commit = found.stdout.decode().strip()
    if git("cat-file", "-e", f"{commit}:{prefix}", directory=directory, check=False).returncode != 0:
        raise SourceError(f"{version} of the repository has no directory {prefix}")
    key = hashlib.sha256(f"{directory}\0{prefix}".encode()).hexdigest()[:16]
    # Below the top of a work tree, git would take the prefix to be meant from there.
    top = Path(git("rev-parse", "--absolute-git-dir", directory=directory).stdout.decode().strip())
    archive, facts = cache.keep(f"{key}-{commit}", lambda fresh: archive_commit(top, commit, prefix, fresh))
    return {"id": commit[:10], "archive": str(archive), "version": described(version, commit), **facts}


def tracked_files(directory: Path) -> Iterator[str]:
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", directory=directory).stdout
    for name in {os.fsdecode(name) for name in listed.split(b"\0") if name}:
        path = directory / name
        # A nested repository is listed by its directory alone; a deleted file is still tracked.
        if path.is_symlink() or path.is_file():
            yield name


def walked_files(directory: Path) -> Iterator[str]:
    for here, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if name not in NEVER]
        for name in [*names, *(name for name in directories if (Path(here) / name).is_symlink())]:
            path = Path(here) / name
            if path.is_symlink() or path.is_file():
                yield str(path.relative_to(directory))


def is_program(path: Path) -> bool:
    return bool(path.lstat().st_mode & stat.S_IXUSR)


def hashed(directory: Path, files: list[str]) -> str:
    """Hash names, kinds and content, not times or owners: those differ between two clones."""
    digest = hashlib.sha256()
    for name in files:
        path = directory / name
        if path.is_symlink():
            kind, content = "link", os.fsencode(path.readlink())
        else:
            kind, content = "program" if is_program(path) else "file", path.read_bytes()
        digest.update(f"{kind}\0{len(content)}\0".encode() + os.fsencode(name) + b"\0")
        digest.update(content)
    return digest.hexdigest()


def archive_files(directory: Path, files: list[str], fresh: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in files:
            path = directory / name
            member = tarfile.TarInfo(name)
            if path.is_symlink():
                member.type, member.linkname = tarfile.SYMTYPE, str(path.readlink())
                tar.addfile(member)
                continue
            content = path.read_bytes()
            member.size, member.mode = len(content), 0o755 if is_program(path) else 0o644
            tar.addfile(member, io.BytesIO(content))
    write_gzip(fresh, buffer.getvalue())


def resolve(source: str, version: str, base: Path, cache: Cache) -> dict[str, Any]:
    """Return the archive and id of one source."""
    if is_url(source):
        return from_url(source, version, cache)
    return from_directory(source, version, (base / Path(source).expanduser()).resolve(), cache)


def resolve_all(apps: Any, base: Path, cache: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what each app's source is, and the problems of those that cannot be had."""
    sources: dict[str, Any] = {}
    problems: list[str] = []
    kept = Cache(cache)
    for app in apps:
        try:
            sources[app["name"]] = resolve(app["source"], app.get("version") or "", base, kept)
        except (SourceError, OSError) as problem:
            problems.append(without_login(f"{app['name']}: {problem}"))
    return sources, problems


def this_run() -> dict[str, str]:
    """Return who runs this and since when, and a token that no other run has."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "who": f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}",
        "since": f"{now:%Y-%m-%d %H:%M:%S} UTC",
        "token": secrets.token_hex(8),
    }


class ActionModule(ActionBase):
    """The app_source action: no part of it runs on a server."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = self._task.args
        missing = [name for name in ("apps", "base", "cache") if arguments.get(name) is None]
        if missing:
            raise AnsibleActionFail(f"app_source: {', '.join(missing)} is needed")
        sources, problems = resolve_all(arguments["apps"], Path(arguments["base"]), Path(arguments["cache"]))
        if problems:
            message = "There is no source for " + "\n".join(problems)
            return {"failed": True, "msg": message, "problems": problems, "sources": sources}
        return {"changed": False, "sources": sources, "run": this_run()}
