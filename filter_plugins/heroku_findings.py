"""Jinja filter heroku_findings: what in an app's source leans on Heroku, by file and line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

DOCUMENTATION = r"""
name: heroku_findings
short_description: What in an app's source leans on Heroku
description:
  - Looks for use of DYNO, PORT, dyno metadata, a disk that is emptied, a session of the database, and demands for TLS
    to a service, and for the names of the config vars that the source reads.
  - Reads text and runs nothing. What it names needs a look; that something needs none is not promised.
options:
  _input:
    description: The source, text by path.
    type: dict
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ {'app.py': 'import os; os.environ[\"DYNO\"]'} | heroku_findings }}"
"""

RETURN = r"""
_value:
  description:
    - C(look) lists mappings of C(what) and C(where), a list of C(file:line).
    - C(reads) says where each name that may be a config var's stands, C(needs) where one is read that has no default.
  type: dict
"""

SHOWN = 5
CODE = (".py", ".sh", ".toml", ".cfg", ".ini", ".yml", ".yaml", ".json", ".js", ".conf", ".env", ".txt", ".in")
NOT_CODE = re.compile(
    r"(^|/)(tests?|docs?|\.github|\.circleci|static|locale|migrations)/|(^|/)(test_|CHANGELOG|README)"
)
SHELL = ("Procfile", "bin/", "release.sh", "start.sh")

# What is looked for in code, and below what is said of it.
DYNO = re.compile(r"""['"{$]DYNO(_RAM)?\b""")
PORT = re.compile(r"""['"]PORT['"]|\$\{?PORT\b""")
METADATA = re.compile(r"""['"{$]HEROKU_[A-Z][A-Z0-9_]*""")
TLS = re.compile(
    r"sslmode|ssl_require|ssl_cert_reqs|ssl_mode|PGSSLMODE|\brediss://|REDIS_TLS_URL|django_heroku|django_on_heroku|"
    r"CERT_NONE"
)
DISK = re.compile(
    r"""\bMEDIA_ROOT\b|FileSystemStorage|UPLOAD_FOLDER|upload_to\s*=|sqlite:///|\.sqlite3?\b|['"]/app/"""
    r"""|open\([^()]*,\s*(mode=)?['"][wax][bt+]*['"]|\.write_(text|bytes)\("""
)
POOL = re.compile(r"""\.iterator\(|pg_(?:try_)?advisory_lock|['"]LISTEN |stream_results|\.cursor\(name""")
LOOK = {
    DYNO: """\
reads DYNO: it is given here as on Heroku (web.1, worker.1), DYNO_RAM is not. Where it asks whether this is Heroku, the
answer is yes""",
    PORT: """\
reads PORT: each web process is given its own, 8000 and up. It has to listen on that one and on no fixed one""",
    METADATA: """\
reads HEROKU_… (dyno metadata): none of it is set here; see that the code does without, or set a config var of that
name""",
    TLS: """\
asks for TLS to a service. To PostgreSQL it gets it (sslmode=require, ssl_require=True, django_heroku), from the pool on
its own host, and sslmode=verify-full with sslrootcert=/etc/offramp/postgresql-ca.crt. REDIS_URL leads to a forwarder on
its own host, which speaks TLS from there on: what insists on rediss:// can't connect""",
    POOL: """\
seems to lean on a session of PostgreSQL's: the pool lends a connection for one transaction, so advisory locks, LISTEN
and server-side cursors do not last longer. In Django's settings: DISABLE_SERVER_SIDE_CURSORS = True""",
    DISK: """\
writes to the disk, or seems to: a release's directory is replaced by each deploy, as on Heroku by each restart. What
has to stay belongs below /srv/www/<app>/media, which each web host has its own of, or into object storage""",
}
NAME = r"""['"]([A-Z][A-Z0-9_]{2,})['"]"""
READS = re.compile(rf"""{NAME}|\$\{{?([A-Z][A-Z0-9_]{{2,}})""")
NEEDS = re.compile(
    rf"""\benviron\[\s*{NAME}\s*\](?!\s*=[^=])"""
    rf"""|\b(?:env(?:\.[a-z_]+)?|config)\(\s*{NAME}\s*(?:,\s*cast\s*=[^,()]*)?\)"""
)
# Set by the site or by the system: no config var.
GIVEN = frozenset(
    [
        "PORT",
        "DYNO",
        "WEB_CONCURRENCY",
        "HOME",
        "PATH",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "PWD",
        "PYTHONUNBUFFERED",
        "VIRTUAL_ENV",
        "DATABASE_URL",
        "REDIS_URL",
        "MEMCACHE_SERVERS",
        "DJANGO_SETTINGS_MODULE",
        "FORWARDED_ALLOW_IPS",
    ]
)


def heroku_findings(files: Mapping[str, str]) -> dict[str, Any]:
    """Return what needs a look, and which config vars are read where."""
    places: dict[re.Pattern[str], list[str]] = {pattern: [] for pattern in LOOK}
    reads: dict[str, list[str]] = {}
    needs: dict[str, list[str]] = {}
    # An app that was made for such a pool says so.
    settled = {POOL} if any("DISABLE_SERVER_SIDE_CURSORS" in text for text in files.values()) else set()
    for path, number, line in code_lines(files):
        where = f"{path}:{number}"
        for pattern in LOOK.keys() - settled:
            # A Procfile hands PORT on, as it should.
            if pattern.search(line) and (path, pattern) != ("Procfile", PORT):
                places[pattern].append(where)
        for found in READS.finditer(line):
            reads.setdefault(found[1] or found[2], []).append(where)
        for found in NEEDS.finditer(line):
            needs.setdefault(found[1] or found[2], []).append(where)
    return {
        "look": [
            {"what": " ".join(LOOK[pattern].split()), "where": shortened(where)}
            for pattern, where in places.items()
            if where
        ],
        "reads": {name: shortened(where) for name, where in sorted(reads.items())},
        "needs": {name: shortened(where) for name, where in sorted(needs.items()) if name not in GIVEN},
    }


def code_lines(files: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    for path in sorted(files):
        is_code = path.endswith(CODE) or path.startswith(SHELL)
        if is_code and not NOT_CODE.search(path) and path not in ("app.json", "runtime.txt"):
            for number, line in enumerate(files[path].splitlines(), 1):
                if not re.match(r"\s*(#|//)", line):
                    yield path, number, line[:1000]


def shortened(where: list[str]) -> list[str]:
    more = len(where) - SHOWN
    return where[:SHOWN] + ([f"and {more} more"] if more > 0 else [])


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"heroku_findings": heroku_findings}
