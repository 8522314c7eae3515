"""The module config_files: many files in one go, all or none, and no secret shown."""

from __future__ import annotations

import grp
import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from library import config_files

ME = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def run(capsys: pytest.CaptureFixture[str], *files: dict[str, Any], **options: Any) -> dict[str, Any]:
    arguments = {
        "files": [{**ME, **file, "path": str(file["path"])} for file in files],
        "_ansible_diff": True,
        "_ansible_check_mode": options.pop("check_mode", False),
        **options,
    }
    with patch_module_args(arguments), pytest.raises(SystemExit):
        config_files.main()
    return json.loads(capsys.readouterr().out)


def test_a_second_run_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wishes = (
        {"path": tmp_path / "conf.d", "state": "directory", "mode": "0750"},
        {"path": tmp_path / "conf.d" / "a", "content": "one\n", "mode": "0640"},
        {"path": tmp_path / "link", "link": "conf.d"},
        {"path": tmp_path / "gone", "state": "absent"},
    )
    (tmp_path / "gone").write_text("old")
    assert run(capsys, *wishes)["changed_paths"] == [str(wish["path"]) for wish in wishes]
    assert run(capsys, *wishes)["changed"] is False
    assert (tmp_path / "link" / "a").read_text() == "one\n"
    assert (tmp_path / "conf.d" / "a").stat().st_mode & 0o777 == 0o640


def test_a_drifted_mode_is_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wish = {"path": tmp_path / "a", "content": "x", "mode": "0600"}
    run(capsys, wish)
    (tmp_path / "a").chmod(0o644)
    assert run(capsys, wish)["changed"] is True
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_refused_files_are_all_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept").write_text("old")
    (tmp_path / "removed").write_text("needed")
    (tmp_path / "link").symlink_to("kept")
    result = run(
        capsys,
        {"path": tmp_path / "kept", "content": "new"},
        {"path": tmp_path / "new" / "file", "content": "new"},
        {"path": tmp_path / "removed", "state": "absent"},
        {"path": tmp_path / "link", "link": "new"},
        check=["sh", "-c", "echo line 7: no such directive >&2; exit 1"],
    )
    assert result["failed"] is True
    assert "line 7: no such directive" in result["msg"]
    assert (tmp_path / "kept").read_text() == "old"
    assert (tmp_path / "removed").read_text() == "needed"
    assert (tmp_path / "link").readlink() == Path("kept")
    assert not (tmp_path / "new" / "file").exists()


def test_the_checker_sees_the_new_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a"
    assert "failed" not in run(capsys, {"path": path, "content": "good"}, check=["grep", "-q", "good", str(path)])


def test_the_checker_is_not_run_when_nothing_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0o644)
    assert "failed" not in run(capsys, {"path": tmp_path / "a", "content": "x"}, check=["false"])


def test_check_mode_says_what_would_change_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(
        capsys,
        {"path": tmp_path / "d" / "a", "content": "x", "owner": "no-such-user-yet"},
        check=["false"],
        check_mode=True,
    )
    assert result["changed"] is True
    assert list(tmp_path.iterdir()) == []


def test_a_secret_is_in_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").write_text("old-secret")
    with_secret = {"path": tmp_path / "a", "secret_content": "new-secret"}
    result = json.dumps(run(capsys, with_secret))
    assert "old-secret" not in result
    assert "new-secret" not in result
    assert (tmp_path / "a").read_text() == "new-secret"


def test_the_diff_shows_what_is_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").write_text("before\n")
    (diff,) = run(capsys, {"path": tmp_path / "a", "content": "after\n"})["diff"]
    assert (diff["before"], diff["after"]) == ("before\n", "after\n")


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"path": "a", "content": "x"}, "is a directory"),
        ({"path": "file", "state": "directory"}, "is a file"),
        ({"path": "b"}, "needs template or content"),
        ({"path": "b", "content": "x", "owner": "nobody-here"}, "no user or group 'nobody-here'"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wish: dict[str, str], message: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "file").write_text("kept")
    first = {"path": tmp_path / "first", "content": "x"}
    result = run(capsys, first, {**wish, "path": tmp_path / wish["path"]})
    assert message in result["msg"]
    assert not (tmp_path / "first").exists()
    assert (tmp_path / "file").read_text() == "kept"
