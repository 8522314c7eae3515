"""A source and a version become one archive that no longer changes, or a problem in plain words."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from action_plugins.app_source import Cache, SourceError, git_login, is_url, resolve, resolve_all

IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@shop.example", "GIT_CONFIG_GLOBAL": "/dev/null"}
IDENTITY |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in IDENTITY.items() if "AUTHOR" in name}


def git(directory, *words):
    environment = {**os.environ, **IDENTITY}
    done = subprocess.run(["git", *words], cwd=directory, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with two commits, the tag v1 on the first one, and an app below the directory app."""
    directory = tmp_path / "repository"
    (directory / "app").mkdir(parents=True)
    git(tmp_path, "init", "-q", "-b", "main", "repository")
    (directory / ".gitignore").write_text("*.log\n")
    (directory / "Procfile").write_text("web: one\n")
    (directory / "app/Procfile").write_text("web: app\n")
    (directory / "app/.python-version").write_text("3.13\n")
    commit(directory, "first")
    git(directory, "tag", "-a", "v1", "-m", "one")
    (directory / "Procfile").write_text("web: two\n")
    commit(directory, "second")
    return directory


def commit(directory, message):
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", message)
    return git(directory, "rev-parse", "HEAD")


@pytest.fixture
def find(tmp_path):
    cache = Cache(tmp_path / "cache")
    return lambda source, version="": resolve(str(source), version, tmp_path, cache)


def content(found):
    with tarfile.open(found["archive"]) as tar:
        return {member.name: tar.extractfile(member).read().decode() for member in tar if member.isfile()}


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("https://git.example/shop.git", True),
        ("ssh://git@git.example/shop", True),
        ("git@git.example:shop.git", True),
        ("file:///srv/git/shop.git", True),
        ("examples/errorlog", False),
        ("/srv/shop", False),
        ("~/shop", False),
        ("shop:v2", False),
    ],
)
def test_a_url_is_told_from_a_directory(source, url):
    assert is_url(source) is url


@pytest.mark.parametrize("version", ["", "HEAD", "main"])
def test_a_branch_of_a_url_is_its_newest_commit(repository, find, version):
    found = find(repository.as_uri(), version)
    assert found["id"] == git(repository, "rev-parse", "HEAD")[:10]
    assert found["procfile"] == "web: two\n"


def test_a_tag_with_a_message_is_the_commit_that_it_is_on(repository, find):
    found = find(repository.as_uri(), "v1")
    assert found["id"] == git(repository, "rev-parse", "v1^{commit}")[:10]
    assert found["version"] == f"v1 ({found['id']})"
    assert content(found)["Procfile"] == "web: one\n"


@pytest.mark.parametrize("length", [7, 12, 40])
def test_a_commit_may_be_abbreviated(repository, find, length):
    full = git(repository, "rev-parse", "v1^{commit}")
    assert find(repository.as_uri(), full[:length])["procfile"] == "web: one\n"


def test_an_older_commit_is_found_after_a_branch_was_fetched_alone(repository, find):
    find(repository.as_uri(), "main")
    assert find(repository.as_uri(), git(repository, "rev-parse", "--short", "v1^{commit}"))["procfile"] == "web: one\n"


def test_a_branch_that_moved_is_asked_for_anew(repository, find):
    find(repository.as_uri(), "main")
    (repository / "Procfile").write_text("web: three\n")
    commit(repository, "third")
    assert find(repository.as_uri(), "main")["procfile"] == "web: three\n"


def test_a_known_commit_needs_no_repository_any_more(repository, find):
    full = git(repository, "rev-parse", "HEAD")
    first = find(repository.as_uri(), full)
    source = repository.as_uri()
    repository.rename(repository.with_name("gone"))
    assert find(source, full) == first


def test_a_directory_gives_what_git_tracks_or_does_not_ignore_as_it_is_now(repository, find):
    (repository / "debug.log").write_text("x")
    (repository / "new.py").write_text("x")
    (repository / "Procfile").write_text("web: edited\n")
    (repository / "app/Procfile").unlink()
    found = content(find(repository))
    assert set(found) == {".gitignore", "Procfile", "app/.python-version", "new.py"}
    assert found["Procfile"] == "web: edited\n"


def test_a_directory_below_a_repository_is_an_app_of_its_own(repository, find):
    found = find(repository / "app")
    assert set(content(found)) == {"Procfile", ".python-version"}
    assert (found["procfile"], found["python_version"]) == ("web: app\n", "3.13\n")


def test_a_directory_with_a_version_gives_that_commit(repository, find):
    assert find(repository, "v1")["procfile"] == "web: one\n"
    assert content(find(repository / "app", "v1")) == {"Procfile": "web: app\n", ".python-version": "3.13\n"}


def test_a_directory_without_git_gives_all_but_what_belongs_into_no_release(tmp_path, find):
    plain = tmp_path / "plain"
    for name in ("app.py", "static/site.css", ".venv/bin/python", "pkg/__pycache__/a.pyc", "node_modules/x/y.js"):
        (plain / name).parent.mkdir(parents=True, exist_ok=True)
        (plain / name).write_text(name)
    (plain / "link").symlink_to("static")
    found = find("plain")
    assert set(content(found)) == {"app.py", "static/site.css"}
    with tarfile.open(found["archive"]) as tar:
        assert tar.getmember("link").linkname == "static"


def test_the_id_depends_on_names_modes_and_content_alone(tmp_path, find):
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "run").write_text("x")
    ids = [find(plain)["id"]]
    os.utime(plain / "run", (1, 1))
    assert find(plain)["id"] == ids[0]
    (plain / "run").chmod(0o755)
    ids.append(find(plain)["id"])
    (plain / "run").write_text("y")
    ids.append(find(plain)["id"])
    (plain / "run").rename(plain / "ran")
    ids.append(find(plain)["id"])
    assert len(set(ids)) == 4


def test_equal_files_give_an_equal_archive(repository, tmp_path):
    archives = [resolve(str(repository), "", tmp_path, Cache(tmp_path / name))["archive"] for name in ("a", "b")]
    assert Path(archives[0]).read_bytes() == Path(archives[1]).read_bytes()


def test_an_interrupted_archive_is_made_anew(repository, find):
    found = find(repository)
    Path(found["archive"]).write_bytes(b"half")
    Path(found["archive"]).with_name(Path(found["archive"]).name.replace(".tar.gz", ".json")).unlink()
    assert content(find(repository))["Procfile"] == "web: two\n"


def test_a_missing_directory_is_named(tmp_path, find):
    with pytest.raises(SourceError, match=f"there is no directory {tmp_path}/nowhere"):
        find("nowhere")


def test_a_version_that_the_source_lacks_is_answered_with_the_nearest(repository, find):
    git(repository, "branch", "release-2")
    for source in (repository.as_uri(), repository):
        with pytest.raises(SourceError, match="has no branch, tag or commit 'relaese-2'; nearest are release-2"):
            find(source, "relaese-2")


def test_a_commit_that_the_source_lacks_is_refused(repository, find):
    for source in (repository.as_uri(), repository):
        with pytest.raises(SourceError, match="has no branch, tag or commit 'abcdef1234'"):
            find(source, "abcdef1234")


def test_a_repository_that_is_not_there_is_told_in_gits_words(tmp_path, find):
    with pytest.raises(SourceError, match="git ls-remote: "):
        find((tmp_path / "nowhere").as_uri(), "main")


def test_a_version_of_a_directory_without_git_is_refused(tmp_path, find):
    (tmp_path / "plain").mkdir()
    with pytest.raises(SourceError, match="no git repository, and cannot have a version 'main'"):
        find("plain", "main")


def test_a_version_that_looks_like_an_option_is_no_option(repository, find):
    for source in (repository.as_uri(), repository):
        with pytest.raises(SourceError, match="has no branch, tag or commit '--all'"):
            find(source, "--all")


def test_a_submodule_is_refused_by_name(repository, find, tmp_path):
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(repository), str(other))
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "part")
    commit(repository, "third")
    with pytest.raises(SourceError, match="submodule part"):
        find(repository.as_uri(), "main")


def test_all_problems_are_told_at_once(tmp_path, repository):
    apps = [
        {"name": "good", "source": str(repository)},
        {"name": "lost", "source": "nowhere", "version": ""},
        {"name": "old", "source": str(repository), "version": "v0"},
    ]
    sources, problems = resolve_all(apps, tmp_path, tmp_path / "cache")
    assert list(sources) == ["good"]
    assert [problem.split(":")[0] for problem in problems] == ["lost", "old"]


@pytest.mark.parametrize("login", ["deploy:a-t%2Fken", "a-t%2Fken"])
def test_a_login_in_a_url_is_on_no_command_line(login):
    words, environment = git_login(("ls-remote", "--", f"http://{login}@127.0.0.1:1/shop.git"))
    assert words == ["ls-remote", "--", "http://127.0.0.1:1/shop.git"]
    assert "a-t/ken" in environment.values()


@pytest.mark.parametrize("login", ["deploy:a-t%2Fken", "a-t%2Fken", "deploy:a-t/ken"])
def test_a_login_in_a_url_is_in_no_message(login, tmp_path):
    url = f"http://{login}@127.0.0.1:1/shop.git"
    _sources, problems = resolve_all([{"name": "shop", "source": url}], tmp_path, tmp_path / "cache")
    assert "127.0.0.1:1" in problems[0]
    assert "a-t" not in problems[0]


def test_git_is_told_the_login_when_it_asks(tmp_path):
    _words, environment = git_login(("ls-remote", "https://deploy:p%25w@shop.example/shop.git"))
    said = subprocess.run(
        ["git", "credential", "fill"],
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", **environment},
        input="url=https://shop.example/shop.git\n\n",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert {"username=deploy", "password=p%w"} <= set(said)
