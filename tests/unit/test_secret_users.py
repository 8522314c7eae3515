"""The module secret_users finds who has a secret, as it is and as a URL quotes it."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import quote

import pytest

from library.secret_users import users

OLD = "old/+%@:?#planted"


@pytest.mark.parametrize("value", [OLD, f"postgres://shop:{quote(OLD, safe='')}@127.0.0.1:6432/shop"])
def test_a_process_that_has_it_is_named_until_it_ends(value: str) -> None:
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(
        command, env={"DATABASE_URL": value}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert [one.partition(" ")[0] for one in users([OLD])] == [str(process.pid)]
        process.communicate("\n")
    assert users([OLD]) == []
