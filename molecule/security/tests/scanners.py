"""The scanners, each one function that returns lines of a table, which figures.yml judges."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import yaml

SCENARIO = "security"
SCENARIO_DIRECTORY = Path(__file__).parents[1]
FIGURES = yaml.safe_load(Path("tests/security/figures.yml").read_text())
WAIVED = FIGURES.pop("waived")
ADDRESSES = {"web1": 11, "db1": 21, "db2": 22, "outsider": 31}
HOSTS = ("web1", "db1", "db2")
IMAGE = "localhost/offramp-lab:scanner"
LIMIT_SECONDS = 420
EVERYONE = {("web1", 22), ("web1", 80), ("web1", 443), ("db1", 22), ("db2", 22)}
DATABASE = {("db1", 5432), ("db2", 5432), ("db1", 6379), ("db2", 6379)}
# Who may reach what: over IPv6 nothing but what is everyone's.
DECLARED = {
    ("outsider", 4): EVERYONE,
    ("web1", 4): EVERYONE | DATABASE,
    ("db1", 4): EVERYONE | DATABASE,
    ("db2", 4): EVERYONE | DATABASE,
} | {(client, 6): EVERYONE for client in ADDRESSES}
UNITS = {
    "web1": ["haproxy", "memcached", "nginx", "pgbouncer", "supervisor", "ssh", "cron"],
    "db1": ["postgresql@17-main", "redis-server", "ssh", "cron"],
}
UDP_PORTS = 200
GRADES = ("A+", "A", "A-", "B", "C", "D", "E", "F", "T", "M")


class Row(NamedTuple):
    """A line of the table. Findings name what is wrong; the score is their number where the tool gives none."""

    figure: str
    host: str
    score: object
    findings: tuple = ()

    @property
    def rule(self):
        return FIGURES[self.figure]

    @property
    def held(self):
        """A figure of its own for each unit of a host, or one for all."""
        held = self.rule["held"]
        return held[self.host.split()[-1]] if isinstance(held, dict) else held

    def reaches(self, goal):
        if self.score is None:
            return False
        if isinstance(goal, str):
            return self.score in GRADES and GRADES.index(self.score) <= GRADES.index(goal)
        return self.score >= goal if self.rule.get("compare") == "higher" else self.score <= goal

    @property
    def holds(self):
        if self.score is None:
            return "may_be_missing" in self.rule
        return self.reaches(self.rule["target"]) or self.reaches(self.held)

    @property
    def verdict(self):
        if self.score is None:
            return self.rule.get("may_be_missing", "not measured")
        if self.reaches(self.rule["target"]):
            return "reached"
        if not self.holds:
            return f"WORSE than the {self.held} it is held at"
        return f"missed, held at {self.held}: {self.rule['reason']}"

    def line(self):
        score = "none" if self.score is None else self.score
        return f"| {self.figure} | {self.host} | {score} | {self.rule['target']} {self.rule['unit']} | {self.verdict} |"


def write_table(name, rows):
    """Keep a part of the table that script/test prints in the end."""
    head = "| Tool | Where | Score | Target | |\n|---|---|---|---|---|\n"
    lines = sorted(row.line() for row in rows)
    Path(f".lab/scanner/table-{name}.md").write_text(head + "\n".join(lines) + "\n")


def counted(figure, host, findings):
    return Row(figure, host, len(findings), tuple(findings))


def environment():
    """What podman needs on this machine: lab/podman.sh."""
    conf = Path(".lab/containers.conf")
    present = conf.exists() and conf.stat().st_size
    return {**os.environ, **({"CONTAINERS_CONF": str(conf.absolute())} if present else {})}


def podman(*words, data=None, check=False):
    done = subprocess.run(
        ["podman", *words], input=data, capture_output=True, text=True, env=environment(), timeout=LIMIT_SECONDS
    )
    assert done.returncode == 0 or not check, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


def inside(host, *words, check=True, data=None):
    """Run a command on a server."""
    interactive = ["--interactive"] if data else []
    return podman("exec", *interactive, f"offramp-{SCENARIO}-{host}", *words, data=data, check=check)


def scan(host, *words, check=True):
    """Run a scanner where it stands beside a server, in its network, and is nothing of it."""
    where = ["--network", f"container:offramp-{SCENARIO}-{host}", "--cap-add", "NET_RAW"] if host else []
    mounts = ["--volume", f"{Path('.lab/scanner').absolute()}:/scanner:ro"]
    options = ["--rm", *where, *mounts, "--env", "PYTHONPATH=/scanner/tools", "--workdir", "/scanner"]
    return podman("run", *options, IMAGE, "timeout", str(LIMIT_SECONDS), *words, check=check)


def address(name, family=4):
    return f"10.90.70.{ADDRESSES[name]}" if family == 4 else f"fd00:10:90:70::{ADDRESSES[name]}"


def reached(client, family, ports):
    """Return the ports that answer, with any state that the packet filter lets through."""
    targets = {address(name, family): name for name in HOSTS if name != client}
    # Frames of its own, past the packet filter of the host that it stands beside: a hundred thousand entries in that
    # one's table of connections would fill it, and let their answers' ports in.
    done = scan(
        client, "nmap", "--send-eth", *(["-6"] if family == 6 else []), "-n", "-Pn", "-oG", "-", *ports, *targets
    )
    hosts = re.findall(r"^Host: (\S+) .*Status: Up", done.stdout, re.MULTILINE)
    assert set(hosts) == set(targets), f"{client} could not look at all: {done.stdout}"
    found = re.findall(r"^Host: (\S+) .*?Ports: ([^\t]*)", done.stdout, re.MULTILINE)
    states = [(targets[host], *each) for host, listed in found for each in re.findall(r"(\d+)/([a-z|]+)/", listed)]
    return {(name, int(port)) for name, port, state in states if state in ("open", "closed", "unfiltered")}


def reachable(client, family):
    declared = {(name, port) for name, port in DECLARED[client, family] if name != client}
    found = []
    # Twenty thousand a second, each asked for twice: the servers are on this machine.
    for kind, wanted, ports, rate in (("S", declared, "-", "20000"), ("U", set(), "", "1000")):
        every = [f"-p{ports}"] if ports else ["--top-ports", str(UDP_PORTS)]
        fast = reached(client, family, [f"-s{kind}", *every, "--min-rate", rate, "--max-retries", "1"])
        # In such a flood an answer gets lost, or another connection's is taken for one: what is not as declared is
        # asked for again, alone.
        if doubtful := fast ^ wanted:
            again = ",".join(str(port) for port in sorted({port for _, port in doubtful}))
            fast = (fast - doubtful) | (reached(client, family, [f"-s{kind}", "-p", again]) & (doubtful | wanted))
        found += [f"{name}:{port}/{'tcp' if kind == 'S' else 'udp'}" for name, port in sorted(fast ^ wanted)]
    return [counted("tcp and udp ports", f"from {client}, IPv{family}", found)]


def ssh_audit(host):
    """From the host itself: what guards sshd against strangers does not concern its algorithms."""
    heard = json.loads(
        scan(host, "python3", "-m", "ssh_audit", "--json", "--skip-rate-test", "127.0.0.1", check=False).stdout
    )
    algorithms = [one for kind in ("kex", "key", "enc", "mac") for one in heard[kind]]
    assert len(algorithms) > 4
    fails = [one["algorithm"] for one in algorithms if one["notes"].get("fail")]
    # sshd shuts out for a while who has left without logging in.
    time.sleep(30)
    policy = ["--json", "--policy", "Hardened Debian 13 (version 1)", "127.0.0.1"]
    judged = json.loads(scan(host, "python3", "-m", "ssh_audit", *policy, check=False).stdout)
    mismatches = [error["mismatched_field"] for error in judged["errors"]]
    assert judged["passed"] == (not mismatches)
    return [counted("ssh-audit", host, fails), counted("ssh-audit policy", host, mismatches)]


def sslyze(figure, client, target, *options, authority="authority.pem"):
    options = ["--mozilla_config=intermediate", f"--certinfo_ca_file=/scanner/{authority}", *options]
    said = scan(client, "python3", "-m", "sslyze", *options, target, check=False).stdout
    judged = said.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]
    deviations = re.findall(r"^ +\* (\w+):", judged, re.MULTILINE)
    assert ("OK - Compliant" in judged) == (not deviations), said[-3000:]
    assert "FAILED - Not compliant" in judged or not deviations, said[-3000:]
    return [counted(figure, target, deviations)]


def sslyze_postgresql(figure, target):
    """By the site's own authority, as the host's clients have it."""
    authority = inside("web1", "cat", "/etc/offramp/postgresql-ca.crt").stdout
    Path(".lab/scanner/postgresql-ca.pem").write_text(authority)
    return sslyze(figure, "web1", target, "--starttls", "postgres", authority="postgresql-ca.pem")


def testssl(domain):
    options = [
        "--add-ca",
        "/scanner/authority.pem",
        "--ip",
        address("web1"),
        "--color",
        "0",
        "--quiet",
        "--warnings",
        "off",
    ]
    said = scan("outsider", "testssl", *options, f"https://{domain}", check=False).stdout
    grade = re.search(r"^ Overall Grade +(\S+)", said, re.MULTILINE)
    assert grade, said[-3000:]
    return [Row("testssl.sh", domain, grade.group(1), tuple(re.findall(r"^ Grade cap.*", said, re.MULTILINE)))]


def unknown_name():
    """The server says nothing to who asks for a name that it has not, or for none; a known one proves the way."""

    def handshake(*options):
        asked = ["openssl", "s_client", "-connect", f"{address('web1')}:443", *options]
        return "BEGIN CERTIFICATE" in scan("outsider", *asked, check=False).stdout

    assert handshake("-servername", "probe.example")
    asked = {"another name": ("-servername", "unknown.example"), "no name": ("-noservername",)}
    return [counted("unknown name", "web1", [name for name, options in asked.items() if handshake(*options)])]


def gixy():
    loaded = inside("web1", "nginx", "-T").stdout
    directory = Path(".lab/scanner")
    (directory / "nginx.conf").write_text(loaded)
    (directory / "nginx-hole.conf").write_text(loaded.replace("return 444;", "return 302 https://$host$uri;", 1))

    def findings(name):
        said = scan(None, "python3", "tools/bin/gixy", "--format", "json", name, check=False).stdout
        return [f"{one['plugin']}: {one['summary']}" for one in json.loads(said)]

    assert findings("nginx-hole.conf"), "gixy does not see a redirect that strangers can split"
    return [counted("gixy", "web1", findings("nginx.conf"))]


def lynis(host):
    """Lynis is copied to the host for the time of its run; what is installed there stays as it is."""
    parts = "cd / && tar -c usr/share/lynis usr/sbin/lynis etc/lynis | base64"
    packed = podman("run", "--rm", IMAGE, "sh", "-c", parts, check=True).stdout
    waived = "\n".join(f"skip-test={test}" for test in WAIVED["lynis"])
    script = f"""
        set -e
        mkdir -p /root/lynis && cd /root/lynis && base64 -d | tar -x
        cp -r etc/lynis/. usr/sbin/lynis usr/share/lynis/ && cd usr/share/lynis
        printf '%s\\n' '{waived}' >>default.prf
        ./lynis audit system --quick --no-colors --quiet --report-file /root/lynis/report --logfile /dev/null >&2 || :
        cat /root/lynis/report
    """
    try:
        said = inside(host, "sh", "-c", script, data=packed).stdout
    finally:
        inside(host, "rm", "-rf", "/root/lynis")
    index = int(re.search(r"^hardening_index=(\d+)", said, re.MULTILINE).group(1))
    suggestions = tuple(re.findall(r"^suggestion\[\]=(.*)", said, re.MULTILINE))
    warnings = re.findall(r"^warning\[\]=(.*)", said, re.MULTILINE)
    return [Row("lynis", host, index, suggestions), counted("lynis warnings", host, warnings)]


def packages(host):
    # debsecan's list of holes is on Debian's tracker; what is fixed has a package, and apt knows it.
    inside(host, "apt-get", "update", "-qq")
    updates = re.findall(r"^Inst (\S+) .*", inside(host, "apt-get", "--simulate", "dist-upgrade").stdout, re.MULTILINE)
    verified = inside(host, "dpkg", "--verify", check=False).stdout.splitlines()
    changed = [line for line in verified if line.split()[1] != "c"]
    return [counted("security updates", host, updates), counted("changed files", host, changed)]


def exposure(host):
    rows = []
    for unit in UNITS[host]:
        said = inside(host, "systemd-analyze", "security", "--no-pager", unit, check=False).stdout
        level = re.search(r"Overall exposure level for .*: ([\d.]+)", said)
        assert level, said
        rows.append(Row("systemd-analyze security", f"{host} {unit}", float(level.group(1))))
    return rows


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    return [path for path in listed.split("\0") if path and Path(path).is_file()]


def static(*words, check=False):
    """Run a scanner of PyPI's on the repository."""
    mounts = ["--volume", f"{Path.cwd()}:/repository:ro", "--volume", f"{Path('.lab/scanner').absolute()}:/scanner:ro"]
    options = ["--rm", *mounts, "--env", "PYTHONPATH=/scanner/tools", "--workdir", "/repository"]
    return podman("run", *options, IMAGE, *words, check=check)


def unless_waived(figure, found):
    """Waivers are keyed by the rule and the file, or * for all; one that waives nothing is an error."""
    used, left = set(), []
    for rule, file in found:
        keys = {f"{rule} {file}", f"{rule} *"} & set(WAIVED[figure])
        used |= keys
        left += [] if keys else [f"{rule} {file}"]
    unused = set(WAIVED[figure]) - used
    assert not unused, f"waived, and not found: {unused}"
    return [counted(figure, "repository", left)]


def bandit():
    files = [path for path in tracked() if path.endswith(".py") and "tests" not in Path(path).parts]
    said = json.loads(
        static("python3", "/scanner/tools/bin/bandit", "--quiet", "--format", "json", *files).stdout or "{}"
    )
    assert not said["errors"]
    assert said["metrics"]["_totals"]["loc"] > 1000
    return unless_waived("bandit", [(one["test_id"], one["filename"].removeprefix("./")) for one in said["results"]])


def detect_secrets():
    """Outside the tests, whose secrets are many and made up; gitleaks looks at those."""
    made_up = ("tests/", "molecule/", "bench/", "examples/")
    files = [path for path in tracked() if not path.startswith(made_up) and not path.endswith(".lock")]
    said = json.loads(static("python3", "-m", "detect_secrets", "scan", *files, check=True).stdout)
    assert len(files) > 100
    return unless_waived(
        "detect-secrets", [(one["type"], file) for file, all_ in said["results"].items() for one in all_]
    )


def gitleaks():
    """The whole history, of a clone: a work tree of git's keeps it elsewhere."""
    look = (
        "git config --global safe.directory '*' && gitleaks detect --no-banner --source /scanner/clone"
        " --report-format json --report-path /tmp/report >&2; cat /tmp/report"
    )
    clone = Path(".lab/scanner/clone")
    subprocess.run(["rm", "-rf", clone], check=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", ".", clone], check=True)
    done = scan(None, "sh", "-c", look)
    assert "partial scan" not in done.stderr, done.stderr
    return unless_waived("gitleaks", [(one["RuleID"], one["File"]) for one in json.loads(done.stdout)])


def zizmor():
    """What of the workflows an outsider could turn to his ends."""
    done = static(
        "/scanner/tools/bin/zizmor", "--offline", "--no-exit-codes", "--format", "json-v1", ".github/workflows"
    )
    found = json.loads(done.stdout)
    return [counted("zizmor", "repository", [f"{one['ident']}: {one['desc']}" for one in found])]


def pip_audit(*source):
    """What is known of the locked packages to PyPI, or to another source of advisories."""
    rows = []
    for lock in ("requirements.lock", "tests/security/requirements.lock"):
        mounts = ["--volume", f"{Path.cwd()}:/repository:ro", "--workdir", "/repository"]
        # The image trusts what this machine trusts, in whose network a proxy may stand before PyPI.
        values = {
            "PYTHONPATH": "/repository/.lab/scanner/tools",
            "REQUESTS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt",
        }
        options = ["--rm", "--network", "host", *mounts, *(f"--env={name}={value}" for name, value in values.items())]
        command = ["python3", ".lab/scanner/tools/bin/pip-audit", "--no-deps", "--disable-pip", "--format", "json"]
        done = podman("run", *options, IMAGE, *command, *source, "--requirement", lock)
        assert done.stdout.startswith("{"), done.stderr[-2000:]
        dependencies = json.loads(done.stdout)["dependencies"]
        assert len(dependencies) > 10
        skipped = [f"{one['name']}: {one['skip_reason']}" for one in dependencies if "skip_reason" in one]
        holes = [f"{one['name']}: {hole['id']}" for one in dependencies for hole in one.get("vulns", ())]
        nowhere = len(skipped) == len(dependencies)
        rows.append(Row("pip-audit", lock, None) if nowhere else counted("pip-audit", lock, holes + skipped))
    return rows


# The longest first.
SCANS = {
    "testssl.sh probe": lambda: testssl("probe.example"),
    "testssl.sh second": lambda: testssl("second.example"),
    **{f"lynis {host}": lambda host=host: lynis(host) for host in ("web1", "db1")},
    **{f"ssh-audit {host}": lambda host=host: ssh_audit(host) for host in ("web1", "db1")},
    **{
        f"ports from {client} IPv{family}": lambda client=client, family=family: reachable(client, family)
        for client, family in DECLARED
    },
    "sslyze 443": lambda: sslyze("sslyze 443", "outsider", f"{address('web1')}:443", "--sni", "probe.example"),
    "sslyze 5432": lambda: sslyze_postgresql("sslyze 5432", f"{address('db1')}:5432"),
    "sslyze 6432": lambda: sslyze_postgresql("sslyze 6432", "127.0.0.1:6432"),
    "unknown name": unknown_name,
    "gixy": gixy,
    **{f"packages {host}": lambda host=host: packages(host) for host in HOSTS},
    **{f"systemd {host}": lambda host=host: exposure(host) for host in UNITS},
    "bandit": bandit,
    "detect-secrets": detect_secrets,
    "gitleaks": gitleaks,
    "zizmor": zizmor,
    "pip-audit": pip_audit,
}
