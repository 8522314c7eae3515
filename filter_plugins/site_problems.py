"""Every mistake in a site's hosts and values at once, in plain words."""

from __future__ import annotations

import difflib
import ipaddress
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

DOCUMENTATION = r"""
name: site_problems
short_description: Every mistake in a site's hosts and values at once
description:
  - Looks at a whole site as the inventory describes it and returns what is wrong with it, apart from the list of apps
    (see P(app_problems#filter)). An empty list means that it is right.
  - Does no I/O. A value that could not be worked out is a mapping with C(__unresolved__), the reason.
options:
  _input:
    description: >-
      The site. C(hosts) holds each host's values by name, C(groups) the hosts of each group, C(values) the site's
      values, C(names) the names of all values that the inventory sets, C(host_names) the names set for single hosts,
      C(wired) the names that the project itself sets, C(options) the types of the roles' options by name, C(timezones)
      the time zones that exist.
    type: dict
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ {'hosts': {'web1': {}}, 'groups': {'web': ['web1']}, 'values': {}} | site_problems }}"
"""

RETURN = r"""
_value:
  description: >-
    One mapping a problem. C(path) leads to the value, C(problem) says what is wrong, C(mend) the line that mends it,
    and C(mend_path), where there is one, leads to the place of that line. C(generated) is true for a secret that
    script/secrets makes.
  type: list
  elements: dict
"""

GROUPS = {
    "web": "the servers that run the apps behind nginx",
    "db": "the server that runs PostgreSQL and redis, and one more for its standby",
}
GROUP_SYNONYMS = {
    "web": {"app", "apps", "application", "frontend", "nginx", "www"},
    "db": {"database", "databases", "postgres", "postgresql", "primary", "redis", "sql"},
}
HOST_KEYS = ("address", "memory_mib", "cpus", "memory_parts")
CONNECTION_KEYS = (
    "ansible_become",
    "ansible_become_flags",
    "ansible_become_method",
    "ansible_become_pass",
    "ansible_become_password",
    "ansible_become_user",
    "ansible_connection",
    "ansible_host",
    "ansible_host_key_checking",
    "ansible_password",
    "ansible_pipelining",
    "ansible_port",
    "ansible_private_key_file",
    "ansible_python_interpreter",
    "ansible_ssh_args",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ansible_ssh_host",
    "ansible_ssh_host_key_checking",
    "ansible_ssh_pass",
    "ansible_ssh_password",
    "ansible_ssh_port",
    "ansible_ssh_private_key_file",
    "ansible_ssh_retries",
    "ansible_ssh_timeout",
    "ansible_ssh_user",
    "ansible_timeout",
    "ansible_user",
)
# Values that a site sets and that no role lists as an option of its own.
SITE_NAMES = (
    "apps",
    "config_vars",
    "operator_addresses",
    "pool_size",
    "tls_certificates",
    "vault_ca_secret",
    "vault_redis_password",
    "vault_replication_password",
    "vault_database_passwords",
)
# What playbooks/rotate.yml keeps in the vault beside the secrets.
NO_SECRETS = ("vault_database_logins", "vault_rotation")
SECRET_LENGTH = 16
RANDOM = "<32 random letters and digits>"
PLACEHOLDER = re.compile(
    r"^\W*$|change.?(me|it|this)|replace.?(me|it|this)|fill.?(me|it|this).?in|your.?(password|secret|key|token)|"
    r"placeholder|^(password|passwort|secret|example|default|dummy|todo|tbd|xxx+|test|none|null|redis|postgres)\d*$|^<.*>$",
    re.IGNORECASE,
)
KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
SYSTEM_USERS = frozenset(
    [
        "root",
        "daemon",
        "bin",
        "sys",
        "sync",
        "games",
        "man",
        "lp",
        "mail",
        "news",
        "uucp",
        "proxy",
        "www-data",
        "backup",
        "list",
        "irc",
        "nobody",
        "messagebus",
        "sshd",
        "postgres",
        "redis",
        "memcache",
        "memcached",
        "haproxy",
        "pgbouncer",
        "nginx",
        "supervisor",
        "systemd-network",
        "systemd-resolve",
        "systemd-timesync",
    ]
)

# What a site says that names a bucket, each with an example.
BACKUP_VALUES = {
    "backup_s3_endpoint": "s3.eu-central-1.amazonaws.com",
    "backup_s3_bucket": "your-bucket",
    "backup_s3_access_key": "<the access key>",
    "backup_s3_secret_key": '"{{ vault_backup_s3_key }}"',
    "backup_cipher_key": '"{{ vault_backup_cipher_key }}"',
}
CIPHER_KEY_LENGTH = 32

NETWORKS = ("firewall_ssh_sources", "nginx_trusted_proxies", "operator_addresses")
CALENDARS = {"backup_calendar": "*-*-* 02:00:00", "backup_rehearsal_calendar": "Sun *-*-* 04:30:00"}
CALENDAR_WORDS = ("minutely", "hourly", "daily", "monthly", "weekly", "yearly", "quarterly", "semiannually")
DAYS = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)(?:day|sday|nesday|rsday|urday)?"

Problem = dict[str, Any]
Path = list[Any]


def problem(path: Path, text: str, mend: str, **more: Any) -> Problem:
    return {"path": path, "problem": text, "mend": mend, **more}


def unresolved(value: Any) -> bool:
    return isinstance(value, dict) and "__unresolved__" in value


def nearest(word: Any, known: Any, cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(str(word).lower(), [str(item) for item in known], 1, cutoff)), None)


def kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"{str(value).lower()} (yes or no)"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the text "{value}"'
    return "a list" if isinstance(value, list) else "a mapping"


# Hosts and groups


def group_problems(site: dict[str, Any]) -> Iterator[Problem]:
    """Groups that are empty, misspelt or left out."""
    groups = site["groups"]
    meant = {name: meant_group(name) for name in groups if name not in {"all", "ungrouped", *GROUPS}}
    for name, match in meant.items():
        if match:
            hosts = ", ".join(groups[name]) or "no host"
            yield problem(
                ["groups", name],
                f'the group "{name}" ({hosts}) means nothing here. Did you mean "{match}", {GROUPS[match]}?',
                f"rename  {name}:  to  {match}:",
            )
    for name, purpose in GROUPS.items():
        if not groups.get(name) and name not in meant.values():
            line = f"{name}: {{hosts: {{{name}1: {{ansible_host: 192.0.2.{10 if name == 'web' else 20}}}}}}}"
            yield problem(["groups", name], f'the group "{name}", {purpose}, has no host', f"write  {line}")
    if len(groups.get("db", [])) > 2:
        first, second, *rest = groups["db"]
        yield problem(
            ["groups", "db"],
            f'the group "db" has {len(groups["db"])} hosts ({", ".join(groups["db"])}); a site has one database '
            "server and one standby",
            f"keep {first} and {second} in db and remove {', '.join(rest)}",
        )
    placed = {
        host for name in (*GROUPS, *(name for name, match in meant.items() if match)) for host in groups.get(name, [])
    }
    for host in site["hosts"]:
        if host not in placed:
            yield problem(
                ["hosts", host],
                f"the host {host} is in neither of the groups web and db, so nothing would run on it",
                f"move it below  web: hosts:  or  db: hosts:  ({host}: {{ansible_host: …}})",
            )
        if host in GROUPS:
            yield problem(
                ["hosts", host],
                f'a host and a group are both named "{host}", and Ansible cannot tell them apart',
                f"rename the host:  {host}1:",
            )


def meant_group(name: str) -> str | None:
    """The group of ours that a group's name is an attempt at."""
    words = set(re.split(r"[^a-z]+", name.lower())) | {re.sub(r"[^a-z]", "", name.lower())}
    words |= {re.sub(r"(server|host|node)?s?$", "", word) for word in words}
    for group, synonyms in GROUP_SYNONYMS.items():
        if words & {group, *synonyms}:
            return group
    swapped = next((group for group in GROUPS if sorted(group) == sorted(name.lower())), None)
    return swapped or nearest(name, GROUPS, 0.6)


def host_problems(site: dict[str, Any]) -> Iterator[Problem]:
    """Names and addresses of hosts."""
    addresses: dict[str, str] = {}
    targets: dict[tuple[str, Any], str] = {}
    several = len(site["hosts"]) > 1
    for host, values in site["hosts"].items():
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?", host):
            better = re.sub(r"[^A-Za-z0-9.-]+", "-", host).strip("-.") or "web1"
            yield problem(
                ["hosts", host],
                f'"{host}" is no name for a host: letters, digits, hyphens and dots',
                f"rename it  {better}:",
            )
        yield from number_problems(host, values)
        target, address = values.get("ansible_host", host), values.get("address", values.get("ansible_host"))
        if values.get("ansible_connection", "ssh") in ("ssh", "smart"):
            yield from target_problems(host, values, targets)
        if unresolved(address) or unresolved(target):
            continue
        fault = address_fault(address, several)
        if fault and "address" not in values and "ansible_host" not in values:
            yield problem(
                ["hosts", host], f"the host {host} has no address", f"write  {host}: {{ansible_host: 192.0.2.10}}"
            )
        elif fault:
            key = "address" if "address" in values else "ansible_host"
            given = f"address of {host}" if key == "address" else f"{host} has no address, and its ansible_host"
            also = "" if key == "address" else " beside ansible_host"
            yield problem(
                ["hosts", host, key],
                f"{given}, {kind(address).removeprefix('the text ')}, {fault}",
                f"write the IPv4 address that the other servers reach it by{also}:  address: 192.0.2.10",
            )
        elif str(address) in addresses:
            yield problem(
                ["hosts", host, "address" if "address" in values else "ansible_host"],
                f"{host} has the address {address}, and so has {addresses[str(address)]}",
                f"give {host} its own:  address: 192.0.2.10",
            )
        else:
            addresses[str(address)] = host


def address_fault(address: Any, several: bool) -> str | None:
    """Why the other servers cannot use an address."""
    try:
        parsed = ipaddress.ip_address(address) if isinstance(address, str) else None
    except ValueError:
        parsed = None
    if parsed is None:
        return "is not an IPv4 address"
    if parsed.version == 6:
        return "is an IPv6 address; the servers speak IPv4 with one another"
    if parsed.is_unspecified or parsed.is_multicast or str(parsed) == "255.255.255.255":
        return "is not the address of a host"
    if parsed.is_loopback and several:
        return "means the host itself to every host, so the others cannot reach it"
    return None


def target_problems(host: str, values: dict[str, Any], targets: dict[tuple[str, Any], str]) -> Iterator[Problem]:
    """Where ssh goes: a name or an address, and a port."""
    target, port = values.get("ansible_host", host), values.get("ansible_port", 22)
    if unresolved(target) or unresolved(port):
        return
    number = int(port) if isinstance(port, str) and port.isdigit() else port
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 65535:
        yield problem(
            ["hosts", host, "ansible_port"],
            f"ansible_port of {host} is {kind(port)}; it takes a number from 1 to 65535",
            "write  ansible_port: 22",
        )
        return
    if "ansible_host" in values and (
        not isinstance(target, str)
        or not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.:%-]*[A-Za-z0-9])?", target)
        or bad_ipv4(target)
    ):
        if "address" in values or (isinstance(target, str) and re.search(r"[^0-9.]", target)):
            yield problem(
                ["hosts", host, "ansible_host"],
                f"ansible_host of {host} is {kind(target)}, which is no address or name",
                "write  ansible_host: 192.0.2.10",
            )
        return
    other = targets.get((target.lower(), number))
    if other:
        yield problem(
            ["hosts", host, "ansible_host"],
            f"{host} is reached at {target} port {number}, and so is {other}: they are one server",
            "give each host its own ansible_host; a server may be in both groups under one name",
        )
    targets.setdefault((target.lower(), number), host)


def bad_ipv4(text: str) -> bool:
    if not re.fullmatch(r"[0-9.]+", text):
        return False
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return True
    return False


def number_problems(host: str, values: dict[str, Any]) -> Iterator[Problem]:
    """Sizes of a host that the inventory states."""
    for key, least, example in (("memory_mib", 256, 2048), ("cpus", 1, 2)):
        value = values.get(key)
        if (
            key in values
            and not unresolved(value)
            and (isinstance(value, bool) or not isinstance(value, int) or value < least)
        ):
            yield problem(
                ["hosts", host, key],
                f"{key} of {host} is {kind(value)}; it takes a whole number, {least} or more",
                f"write  {key}: {example}  or leave it out and the server is asked",
            )


# Values


def name_problems(site: dict[str, Any]) -> Iterator[Problem]:
    """Names of values that look like known ones, misspelt."""
    options = site.get("options", {})
    known = sorted({*SITE_NAMES, *options, *site.get("wired", [])})
    everywhere = [*known, *HOST_KEYS, *CONNECTION_KEYS]
    for name in sorted(set(site.get("names", []))):
        if name in site.get("wired", []):
            yield problem(
                [name],
                f"{name} is worked out from the inventory (group_vars/all/ of the project), and this line is not heard",
                "remove the line",
            )
        if name in everywhere or name.startswith("vault_"):
            continue
        match = nearest(name, CONNECTION_KEYS if name.startswith("ansible_") else known, 0.84)
        if match and match not in site.get("names", []):
            yield problem(
                [name],
                f'the value "{name}" means nothing here. Did you mean "{match}"?',
                f"rename  {name}:  to  {match}:",
            )
    for host, names in site.get("host_names", {}).items():
        for name in sorted(names):
            if name.startswith("ansible_"):
                match = None if name in CONNECTION_KEYS else nearest(name, CONNECTION_KEYS, 0.84)
            else:
                match = None if name in everywhere or name in site.get("names", []) else host_key(name)
            if match and match not in names:
                yield problem(
                    ["hosts", host, name],
                    f'"{name}" of {host} means nothing here. Did you mean "{match}"?',
                    f"rename  {name}:  to  {match}:",
                )


def host_key(name: str) -> str | None:
    text = name.lower()
    if text in ("ip", "private_ip", "ip_address", "private_address", "internal_ip", "internal_address", "addr"):
        return "address"
    if text in ("ram", "memory", "mem", "ram_mib", "ram_mb"):
        return "memory_mib"
    if text in ("cores", "cpu", "vcpus", "cpu_count"):
        return "cpus"
    if text in ("host", "hostname", "port", "user"):
        return f"ansible_{text.removesuffix('name')}"
    return nearest(name, HOST_KEYS, 0.7)


def unresolved_problems(site: dict[str, Any]) -> Iterator[Problem]:
    """Values that refer to something which is not set, or that cannot be worked out."""
    for path, reason in walk_unresolved(site["values"], []):
        what = describe_path(path, site["values"].get("apps"))
        missing = re.search(r"'([A-Za-z_]\w*)' is undefined", reason)
        file = re.search(r"file '([^']+)'.*not (?:found|exist)|could not locate file.*: (\S+)", reason, re.IGNORECASE)
        if missing:
            yield missing_problem(site, path, what, missing.group(1))
        elif file:
            name = file.group(1) or file.group(2)
            mend = "run  script/up  which makes it" if "/.lab/" in name else "make it, or correct its name"
            yield problem(path, f"{what} needs the file {name}, which does not exist", mend)
        elif re.search("decrypt|vault (secret|password|format)", reason, re.IGNORECASE):
            mend = "give the right password:  --vault-password-file <file>  or  --ask-vault-pass"
            yield problem(path, f"{what} cannot be decrypted", mend)
        else:
            yield problem(path, f"{what} cannot be worked out: {reason}", "mend the expression between {{ and }}")


def missing_problem(site: dict[str, Any], path: Path, what: str, name: str) -> Problem:
    text, apps = f"{what} refers to {name}, which is not set.", site["values"].get("apps")
    match = nearest(name, [item for item in site.get("names", []) if item != path[0]], 0.8)
    if match and match.startswith("vault_") == name.startswith("vault_") and same_app(name, match, apps):
        return problem(path, f'{text} Did you mean "{match}"?', f"write  {match}  in place of  {name}")
    value = RANDOM if name.startswith("vault_") else "…"
    generated = bool(re.fullmatch(r"vault_backup_cipher_key|vault_\w*secret_key\w*", name))
    return problem(path, text, f"write  {name}: {value}", mend_path=[name], generated=generated)


def same_app(name: str, other: str, apps: Any) -> bool:
    """Say whether two names speak of the same app: one app's secret is no near miss for another's."""
    words = [str(app.get("name")).replace("-", "_") for app in apps or [] if isinstance(app, dict)]
    return all((f"_{word}_" in f"{name}_") == (f"_{word}_" in f"{other}_") for word in words)


def walk_unresolved(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if unresolved(value):
        yield path, str(value["__unresolved__"])
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from walk_unresolved(item, [*path, key])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk_unresolved(item, [*path, index])


def describe_path(path: Path, apps: Any) -> str:
    if path[0] != "apps" or len(path) < 2:
        return ".".join(str(part) for part in path)
    name = apps[path[1]].get("name") if isinstance(apps, list) and isinstance(apps[path[1]], dict) else None
    owner = f'app "{name}"' if isinstance(name, str) else f"app number {path[1] + 1}"
    return f"{' '.join(str(part) for part in path[2:]) or 'the entry'} of {owner}"


def app_list_problems(site: dict[str, Any]) -> Iterator[Problem]:
    names = site.get("names", [])
    if not site["values"].get("apps") and nearest("apps", [name for name in names if name != "apps"], 0.84) is None:
        yield problem(
            ["apps"],
            "the site has no apps",
            "write  apps: [{name: shop, source: https://git.example/shop.git, domains: [shop.example]}]",
        )


def type_problems(site: dict[str, Any]) -> Iterator[Problem]:
    """Values of the wrong type, by the roles' own lists of options."""
    for name, option in site.get("options", {}).items():
        value = site["values"].get(name)
        if name not in site["values"] or unresolved(value):
            continue
        fault = type_fault(value, option)
        if fault:
            shown = "" if option.get("no_log") else f" is {kind(value)};"
            yield problem([name], f"{name}{shown} it takes {fault[0]}", f"write  {name}: {fault[1]}")


TYPES: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "str": (lambda value: isinstance(value, str), "text", '"…"'),
    "int": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number", "1"),
    "float": (lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number", "1.5"),
    "bool": (lambda value: isinstance(value, bool), "true or false, without quotes", "true"),
    "list": (lambda value: isinstance(value, list), "a list", "[…]"),
    "dict": (lambda value: isinstance(value, dict), "names with values", "{name: value}"),
}


def type_fault(value: Any, option: dict[str, Any]) -> tuple[str, str] | None:
    matches, words, example = TYPES.get(str(option.get("type", "str")), (lambda _: True, "", ""))
    if not matches(value):
        if example == "1" and isinstance(value, str) and value.strip().isdigit():
            example = value.strip()
        if example == "true" and isinstance(value, str):
            example = "false" if value.lower() in ("false", "no", "off", "0") else "true"
        return words, example
    choices = option.get("choices")
    if choices and value not in choices:
        return f"one of {', '.join(map(str, choices))}", str(nearest(value, choices, 0.0) or choices[0])
    element = option.get("elements")
    for item in value if element and isinstance(value, list) else []:
        if not unresolved(item) and type_fault(item, {"type": element}):
            words, example = TYPES[element][1:]
            return f"a list of {words}", f"[{example}]"
    return None


def range_problems(site: dict[str, Any]) -> Iterator[Problem]:
    """Numbers of the right type that could not work."""
    options = site.get("options", {})
    for name, value in site["values"].items():
        if name not in options or isinstance(value, bool) or not isinstance(value, int):
            continue
        if name.endswith("_port") and not 1 <= value <= 65535:
            yield problem([name], f"{name} is {value}; a port is 1 to 65535", f"write  {name}: 22  or remove the line")
        elif name in ("backup_days_kept", "backup_base_kept") and value < 1:
            text = f"{name} is {value}, so that no backup would be kept"
            yield problem([name], text, f"write  {name}: 7  or remove the line")
        elif value < 0:
            yield problem([name], f"{name} is {value}; it takes 0 or more", f"write  {name}: 0  or remove the line")


def text_problems(site: dict[str, Any]) -> Iterator[Problem]:
    """Networks and times that are none."""
    values = site["values"]
    for name in NETWORKS:
        for index, item in enumerate(values[name] if isinstance(values.get(name), list) else []):
            if isinstance(item, str) and not is_network(item):
                yield problem(
                    [name, index],
                    f'"{item}" in {name} is neither an address nor a network',
                    "write  203.0.113.7  or  203.0.113.0/24",
                )
    for name, example in CALENDARS.items():
        value = values.get(name)
        if isinstance(value, str) and not is_calendar(value):
            yield problem(
                [name],
                f'{name}, "{value}", is no time of systemd\'s OnCalendar',
                f'write  {name}: "{example}"  (systemd-analyze calendar shows what a text means)',
            )


def is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def is_calendar(text: str) -> bool:
    words = text.split()
    if words and re.fullmatch(r"[A-Z]\w+(/\w+)*|UTC", words[-1]) and not re.match(DAYS, words[-1]):
        words.pop()
    if len(words) == 1 and words[0] in CALENDAR_WORDS:
        return True
    patterns = [
        rf"{DAYS}([,.]+{DAYS})*,?",
        r"([\d*/,.~]+-)?[\d*/,.~]+[-~][\d*/,.~]+",
        r"[\d*/,.]+:[\d*/,.]+(:[\d*/,.]+)?",
    ]
    found = [next((index for index, each in enumerate(patterns) if re.fullmatch(each, word)), None) for word in words]
    times = [int(number) for word in words if ":" in word for number in re.findall(r"\d+", word)]
    return bool(found) and None not in found and found == sorted(set(found)) and all(time < 60 for time in times)


def base_problems(site: dict[str, Any]) -> Iterator[Problem]:
    """The operator's account, the time zone and the locale."""
    values = site["values"]
    name = values.get("base_operator_name")
    if isinstance(name, str) and (not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name) or name in SYSTEM_USERS):
        why = "is a user that Debian or a service keeps for itself" if name in SYSTEM_USERS else "is no name for a user"
        yield problem(
            ["base_operator_name"], f'base_operator_name "{name}" {why}', "write  base_operator_name: operator"
        )
    yield from key_problems(site)
    zone, zones = values.get("base_timezone"), site.get("timezones") or []
    if isinstance(zone, str) and zones and zone not in zones:
        match = nearest_zone(zone, zones)
        hint = f' Did you mean "{match}"?' if match else ""
        yield problem(
            ["base_timezone"],
            f'the time zone "{zone}" does not exist.{hint}',
            f"write  base_timezone: {match or 'Etc/UTC'}",
        )
    locale = values.get("base_locale")
    if isinstance(locale, str) and not re.fullmatch(r"C\.UTF-8|[a-z]{2,3}_[A-Z]{2}(\.UTF-8)(@[a-z]+)?", locale):
        better = re.match(r"([A-Za-z]{2,3})[_-]([A-Za-z]{2})\b", locale)
        mend = f"{better.group(1).lower()}_{better.group(2).upper()}.UTF-8" if better else "C.UTF-8"
        yield problem(["base_locale"], f'base_locale "{locale}" is no locale with UTF-8', f"write  base_locale: {mend}")


def nearest_zone(zone: str, zones: list[str]) -> str | None:
    cities = {item.rsplit("/", 1)[-1].lower(): item for item in sorted(zones, reverse=True)}
    text = zone.strip().replace(" ", "_").lower()
    whole = difflib.get_close_matches(text, {item.lower(): item for item in zones}, 1, 0.8)
    city = difflib.get_close_matches(text.rsplit("/", 1)[-1], cities, 1, 0.8)
    if whole:
        return next(item for item in zones if item.lower() == whole[0])
    return cities[city[0]] if city else None


def key_problems(site: dict[str, Any]) -> Iterator[Problem]:
    if "ssh_operator_keys" in site.get("options", {}) and not site["values"].get("ssh_operator_keys"):
        yield problem(
            ["ssh_operator_keys"],
            "nobody could log in as the operator: ssh_operator_keys is missing or empty",
            'write  ssh_operator_keys: ["ssh-ed25519 AAAA… you@laptop"]  with what  cat ~/.ssh/id_ed25519.pub  shows',
        )
    keys = site["values"].get("ssh_operator_keys")
    for index, key in enumerate(keys if isinstance(keys, list) else []):
        if unresolved(key):
            continue
        fault = key_fault(key)
        if fault:
            yield problem(
                ["ssh_operator_keys", index],
                f"operator key number {index + 1} {fault}",
                "write the one line that  cat ~/.ssh/id_ed25519.pub  shows, in quotes",
            )


def key_fault(key: Any) -> str | None:
    if not isinstance(key, str):
        return None
    if "PRIVATE KEY" in key:
        return "is a PRIVATE key, which nobody else may see"
    if re.fullmatch(r"[~./]\S*", key.strip()):
        return "is the name of a file, not the key in it"
    words = key.split()
    start = next((index for index, word in enumerate(words) if word.startswith(KEY_TYPES)), None)
    if start is None or len(words) < start + 2 or "\n" in key.strip():
        return "is not a public ssh key on one line"
    if not re.fullmatch(r"AAAA[A-Za-z0-9+/]{40,}={0,2}", words[start + 1]):
        return "is cut short or an example, not a whole public ssh key"
    return None


# Backups


def backup_problems(site: dict[str, Any]) -> Iterator[Problem]:
    """A bucket that is named in part."""
    values = site["values"]
    given = [name for name in BACKUP_VALUES if values.get(name)]
    if not given:
        return
    for name, example in BACKUP_VALUES.items():
        if not values.get(name):
            yield problem(
                [given[0]],
                f"{given[0]} is set, so there are to be backups, but {name} is missing",
                f"write  {name}: {example}",
            )
    endpoint, key = values.get("backup_s3_endpoint"), values.get("backup_cipher_key")
    if isinstance(endpoint, str) and not re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", endpoint):
        host = re.sub(r"^\w+://|/.*$", "", endpoint)
        yield problem(
            ["backup_s3_endpoint"],
            f'backup_s3_endpoint, "{endpoint}", is not a host name alone',
            f"write  backup_s3_endpoint: {host or BACKUP_VALUES['backup_s3_endpoint']}",
        )
    if isinstance(key, str) and 0 < len(key) < CIPHER_KEY_LENGTH:
        yield problem(
            ["backup_cipher_key"],
            f"backup_cipher_key has {len(key)} characters; it takes {CIPHER_KEY_LENGTH} or more",
            f"write  vault_backup_cipher_key: {RANDOM}  before the first backup is made",
        )


# Certificates


def tls_problems(site: dict[str, Any]) -> Iterator[Problem]:
    """A certificate authority that is to be asked, and could not be."""
    values = site["values"]
    if values.get("tls_source") != "acme":
        return
    email = values.get("tls_acme_email")
    if email and isinstance(email, str) and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", email):
        yield problem(
            ["tls_acme_email"],
            f'tls_acme_email, "{email}", is no address that a certificate authority could write to',
            "write  tls_acme_email: you@your-domain  or leave it out",
        )
    url = values.get("tls_acme_directory_url")
    if isinstance(url, str) and not re.fullmatch(r"https://\S+", url):
        yield problem(
            ["tls_acme_directory_url"],
            f'tls_acme_directory_url, "{url}", is no https address',
            "remove it, and Let's Encrypt is asked",
        )


# Secrets


def secret_problems(site: dict[str, Any]) -> Iterator[Problem]:
    """Secrets that are missing, placeholders, short or used twice. No message shows one."""
    values, names = site["values"], site.get("names", [])
    owned: dict[tuple[Any, ...], Any] = {
        (name,): values.get(name) for name in ("vault_ca_secret", "vault_redis_password")
    }
    if len(site["groups"].get("db", [])) > 1:
        owned[("vault_replication_password",)] = values.get("vault_replication_password")
    passwords = values.get("vault_database_passwords")
    apps = values.get("apps")
    databases = [app["name"] for app in apps if wants_database(app)] if isinstance(apps, list) else []
    if isinstance(passwords, dict) and not unresolved(passwords):
        owned |= {
            ("vault_database_passwords", app): passwords.get(app) for app in dict.fromkeys([*databases, *passwords])
        }
    elif not unresolved(passwords) and not (passwords is None and nearest_unused("vault_database_passwords", names)):
        text = (
            "is missing"
            if passwords is None
            else f"is {kind(passwords) if passwords in ([], True, False) else 'not names with values'}"
        )
        lines = ", ".join(f"{app}: {RANDOM}" for app in databases or ["shop"])
        yield problem(
            ["vault_database_passwords"],
            f"vault_database_passwords {text}",
            f"write  vault_database_passwords: {{{lines}}}",
            generated=True,
        )
    for path, value in owned.items():
        if not unresolved(value):
            yield from owned_secret_problems(path, value, names)
    yield from other_secret_problems(values, owned)
    yield from twice_problems(values, owned)
    yield from misspelt_vault_problems(names)


def wants_database(app: Any) -> bool:
    if not isinstance(app, dict) or not isinstance(app.get("name"), str):
        return False
    services = app.get("services", ["postgresql"])
    return isinstance(services, list) and "postgresql" in services


def nearest_unused(name: str, names: list[str]) -> str | None:
    return nearest(name, [item for item in names if item != name], 0.84)


def misspelt_vault_problems(names: list[str]) -> Iterator[Problem]:
    for name in SITE_NAMES:
        match = nearest_unused(name, [item for item in names if item.startswith("vault_") and item not in SITE_NAMES])
        if name.startswith("vault_") and name not in names and match:
            yield problem(
                [match],
                f'the secret "{match}" means nothing here. Did you mean "{name}"?',
                f"rename  {match}:  to  {name}:",
            )


def owned_secret_problems(path: tuple[Any, ...], value: Any, names: list[str]) -> Iterator[Problem]:
    label, key = ".".join(map(str, path)), path[-1]
    mend = f"write  {key}: {RANDOM}"
    if value is None or value == "":
        if len(path) == 1 and key not in names and nearest_unused(key, names):
            return
        whose = f'the database password of app "{key}"' if len(path) > 1 else f"the secret {label}"
        below = "  below vault_database_passwords" if len(path) > 1 else ""
        yield problem(list(path), f"{whose} is missing", f"{mend}{below}", generated=True)
    elif not isinstance(value, str):
        yield problem(list(path), f"the secret {label} is not text", f'write it in quotes:  {key}: "…"')
    elif PLACEHOLDER.search(value):
        yield problem(list(path), f"the secret {label} is still a placeholder", mend)
    elif len(value) < SECRET_LENGTH:
        yield problem(
            list(path), f"the secret {label} has {len(value)} characters; it takes {SECRET_LENGTH} or more", mend
        )
    elif re.search(r"\s", value):
        yield problem(list(path), f"the secret {label} holds a space or a line's end", mend)


def other_secret_problems(values: dict[str, Any], owned: dict[tuple[Any, ...], Any]) -> Iterator[Problem]:
    """Secrets that only the apps know: others made some of them, so their length is judged only for keys that sign."""
    for path, value in vault_leaves(values):
        if path in owned:
            continue
        label = ".".join(map(str, path))
        if value is None or value == "" or PLACEHOLDER.search(value):
            state = "is empty" if not value else "is still a placeholder"
            yield problem(list(path), f"the secret {label} {state}", f"write  {path[-1]}: <the secret>")
        elif str(path[-1]).lower().endswith("secret_key") and len(value) < SECRET_LENGTH:
            yield problem(
                list(path),
                f"the secret {label} has {len(value)} characters; it takes {SECRET_LENGTH} or more",
                f"write  {path[-1]}: <50 random letters and digits>",
            )


def vault_leaves(values: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for name, value in values.items():
        if name.startswith("vault_") and name not in NO_SECRETS:
            yield from leaves(value, (name,))


def leaves(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if unresolved(value):
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    elif value is None or isinstance(value, str):
        yield path, value


def twice_problems(values: dict[str, Any], owned: dict[tuple[Any, ...], Any]) -> Iterator[Problem]:
    """One secret in two places, where at least one of them is the site's own to choose."""
    holders: dict[str, list[tuple[Any, ...]]] = {}
    for path, value in vault_leaves(values):
        if value and not PLACEHOLDER.search(value):
            holders.setdefault(value, []).append(path)
    for paths in holders.values():
        ours = [path for path in paths if path in owned or str(path[-1]).lower().endswith("secret_key")]
        if len(paths) > 1 and ours:
            last = ours[-1]
            names = " and ".join(".".join(map(str, path)) for path in paths)
            yield problem(list(last), f"{names} are the same secret", f"write another  {last[-1]}: {RANDOM}")


def site_problems(site: dict[str, Any]) -> list[Problem]:
    """Return every problem of a site but those of its list of apps."""
    checks = (
        group_problems,
        host_problems,
        name_problems,
        app_list_problems,
        unresolved_problems,
        type_problems,
        range_problems,
        text_problems,
        base_problems,
        backup_problems,
        tls_problems,
        secret_problems,
    )
    return list(itertools.chain.from_iterable(check(site) for check in checks))


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"site_problems": site_problems}
