"""The list of releases is a table that a person can read."""

from filter_plugins.release_lines import release_lines

FIRST = {
    "number": 9,
    "state": "ok",
    "version": "main (0a1b2c3d4e)",
    "when": "2026-05-04",
    "who": "ann",
    "what": "deploy",
}
SECOND = {**FIRST, "number": 10, "state": "failed", "version": "files", "reason": "web1: health check"}


def test_each_release_is_a_line_with_the_newest_first():
    assert release_lines([FIRST, SECOND]) == [
        "v10  failed  files              2026-05-04  ann  deploy (web1: health check)",
        "v9   ok      main (0a1b2c3d4e)  2026-05-04  ann  deploy",
    ]


def test_no_releases_are_no_lines():
    assert release_lines([]) == []
