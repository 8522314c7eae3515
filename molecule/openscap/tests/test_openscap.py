"""What OpenSCAP says of a host by ANSSI BP-028, the profiles of the French agency for the security of systems.

Debian 12, for which they are written: of Debian 13 there are none yet.
"""

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "security/tests"))
from scanners import WAIVED, Row, podman, write_table

CONTENT = "/usr/share/xml/scap/ssg/content/ssg-debian12-ds.xml"
PROFILES = ("minimal", "intermediary", "enhanced")
ID = "xccdf_org.ssgproject.content_{}_{}"


def on(name, *words, data=None):
    interactive = ["--interactive"] if data else []
    return podman("exec", *interactive, f"offramp-openscap-{name}", *words, data=data, check=True).stdout


def evaluated(profile, skipped):
    """Return the score, and the rules that the host does not follow."""
    rules = [word for rule in skipped for word in ("--skip-rule", ID.format("rule", rule))]
    named = ID.format("profile", f"anssi_bp28_{profile}")
    # 2 is that some rule is not followed.
    script = 'oscap xccdf eval --progress --results /root/results.xml "$@" /root/profiles.xml || [ $? = 2 ]'
    said = on("one", "sh", "-c", script, "oscap", "--profile", named, *rules)
    score = re.search(
        r"<score system=.urn:xccdf:scoring:default.[^>]*>([0-9.]+)", on("one", "cat", "/root/results.xml")
    )
    results = dict(re.findall(r"content_rule_([^:\s]+):(\w+)", said, re.MULTILINE))
    assert sum(result == "pass" for result in results.values()) >= 15, said[-2000:]
    return int(float(score[1])), {rule for rule, result in results.items() if result == "fail"}


@pytest.fixture(scope="module")
def rows():
    on("one", "apt-get", "install", "-qq", "--no-install-recommends", "openscap-scanner")
    on("one", "sh", "-c", "cat >/root/profiles.xml", data=on("outsider", "cat", CONTENT))
    found = {}
    for profile in PROFILES:
        score, left = evaluated(profile, WAIVED["openscap"])
        found[profile] = Row(f"openscap {profile}", "one, Debian 12", score, tuple(sorted(left)))
    write_table("openscap", found.values())
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_the_host_is_as_the_profile_has_it(rows, profile):
    row = rows[profile]
    assert row.holds, f"{row.line()}\n" + "\n".join(row.findings)


def test_no_rule_is_waived_that_the_host_follows(rows):
    assert rows
    broken = set().union(*(evaluated(profile, ())[1] for profile in PROFILES))
    assert set(WAIVED["openscap"]) <= broken
    assert all(WAIVED["openscap"].values())
