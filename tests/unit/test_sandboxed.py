"""The filter sandboxed; that such a unit does its work is shown in the scenarios backup and tls."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from filter_plugins.sandboxed import sandboxed
from library.unit import drop_in_text


def test_a_unit_of_a_timers_is_kept_from_what_every_service_is() -> None:
    kept_up = drop_in_text("a.service", [], "restart", "").splitlines()
    sandbox = kept_up[kept_up.index("RestartSec=1") + 1 :]
    assert "ProtectSystem=strict" in sandbox
    assert sandboxed("").splitlines()[: len(sandbox)] == sandbox


def test_what_it_opens_comes_last_and_wins() -> None:
    lines = sandboxed("\nMemoryDenyWriteExecute=no\n").splitlines()
    assert lines[-1] == "MemoryDenyWriteExecute=no"
    assert "MemoryDenyWriteExecute=yes" in lines


def test_lines_that_are_no_text_are_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="no_new_rights"):
        sandboxed(["no_new_rights"])  # type: ignore[arg-type]
