"""PostgreSQL really starts with what the filters give it, for hosts of every kind, and refuses what is planted.

The trial server is a cluster of its own beside the site's: it starts with each host's settings and ends again.
"""

import json
import os
import re
import subprocess

import pytest

from filter_plugins.postgresql_settings import postgresql_settings

INVENTORIES = (
    "molecule/shared/inventory",
    f"molecule/{os.environ.get('MOLECULE_SCENARIO_NAME', 'postgresql')}/inventory",
)
TRIAL = "/var/lib/postgresql/trial"

# Memory of the server in MiB, and what differs from the usual host.
HOSTS = {
    "the smallest": (230, {"pools": 20}),
    "small with many CPUs": (512, {"pools": 20, "cpus": 64}),
    "an odd size": (777, {"pools": 33, "cpus": 3, "reserve": 17}),
    "a desktop": (1024, {"workload": "desktop", "cpus": 8}),
    "no pooler": (2048, {"workload": "oltp", "cpus": 2}),
    "a small warehouse": (2048, {"workload": "dw", "cpus": 4, "storage": "hdd", "pools": 10}),
    "everything mixed on a disk that seeks": (3333, {"workload": "mixed", "storage": "hdd", "cpus": 5, "pools": 40}),
    "many connections": (4096, {"pools": 490}),
    "data that fits": (4096, {"data_size": "less_ram", "pools": 90, "cpus": 2}),
    "a tiny disk": (4096, {"disk_mib": 2000, "pools": 90, "cpus": 4}),
    "huge pages that are not there": (9000, {"huge_pages": True, "pools": 90, "cpus": 8}),
    "a large warehouse": (
        32768,
        {"workload": "dw", "cpus": 32, "storage": "san", "data_size": "greater_ram", "pools": 20},
    ),
    "a large shop": (32768, {"workload": "oltp", "cpus": 16, "storage": "nvme", "pools": 190, "disk_mib": 2_000_000}),
    "a restored server": (1024, {"pools": 20, "floors": {"max_connections": 300, "max_locks_per_transaction": 128}}),
    "values of one's own": (
        1024,
        {"pools": 20, "own": {"work_mem": "16MB", "log_statement": "ddl", "shared_buffers": "99MB"}},
    ),
}


def sql(host, query, database="postgres"):
    return host.check_output("psql --username=postgres --no-align --tuples-only --command=%s %s", query, database)


def play(*options, playbook="playbooks/services.yml", tags="postgresql"):
    inventories = [f"--inventory={inventory}" for inventory in INVENTORIES]
    command = ["ansible-playbook", playbook, *inventories, "--limit=one", f"--tags={tags}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def setting(name, value):
    return "--extra-vars", json.dumps({"postgresql_settings": {name: value}})


@pytest.fixture(scope="module")
def version(host):
    return int(host.check_output("ls /usr/lib/postgresql"))


@pytest.fixture(scope="module")
def trial(host, version):
    """Make the trial cluster, and give what starts it with a file of settings, asks it, and ends it."""
    programs = f"/usr/lib/postgresql/{version}/bin"
    with host.sudo("postgres"):
        host.check_output(f"rm -rf {TRIAL} && {programs}/initdb --no-sync --pgdata={TRIAL} --auth=peer")

    def start(settings):
        text = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        text += f"port = 5999\nlisten_addresses = ''\nunix_socket_directories = '{TRIAL}'\n"
        ask = "SELECT json_object_agg(name, current_setting(name)) FROM pg_settings"
        shared = "SELECT pg_size_bytes(current_setting('shared_memory_size')) / 1048576"
        script = f"""
            cat >{TRIAL}/postgresql.auto.conf
            {programs}/pg_ctl --pgdata={TRIAL} --log={TRIAL}/log --silent --wait start || {{ cat {TRIAL}/log; exit 1; }}
            psql --host={TRIAL} --port=5999 --no-align --tuples-only --command="{ask}" --command="{shared}" postgres
            {programs}/pg_ctl --pgdata={TRIAL} --silent --mode=immediate stop
        """
        with host.sudo("postgres"):
            answer = host.run("printf %%s %s | bash -c %s", text, script)
        assert answer.rc == 0, answer.stdout + answer.stderr
        *printed, mib = answer.stdout.strip().splitlines()
        return json.loads("".join(printed)), int(mib)

    yield start
    host.check_output(f"rm -rf {TRIAL}")


def features(host, version):
    configure = host.check_output(f"/usr/lib/postgresql/{version}/bin/pg_config --configure")
    return [name for name in ("lz4", "zstd") if f"--with-{name}" in configure]


@pytest.mark.parametrize("name", HOSTS)
def test_the_server_starts_with_the_settings_of(host, version, trial, name):
    memory, options = HOSTS[name]
    given = postgresql_settings(memory, version=version, features=features(host, version), **options)
    settings = {entry["name"]: entry["value"] for entry in given["settings"]}
    runs_on, shared_mib = trial(settings)
    # What the server rounds or prints in another unit is the same; what it replaced by its own would not be.
    exact = ("max_connections", "wal_level", "jit", "huge_pages", "max_worker_processes", "random_page_cost")
    assert {key: runs_on[key] for key in exact} == {key: settings[key] for key in exact}
    counted = {entry["name"]: entry["mib"] for entry in given["memory"]}
    assert shared_mib <= counted["shared memory"] + 1
    assert sum(counted.values()) <= memory + 1 or given["warnings"]


def test_a_value_that_the_server_refuses_leaves_all_as_it_was(host, version):
    file = f"/etc/postgresql/{version}/main/conf.d/offramp.conf"
    before = host.file(file).content_string, sql(host, "SELECT pg_postmaster_start_time()")
    code, said = play(*setting("max_files_per_process", "plenty"))
    assert code != 0
    assert 'invalid value for parameter "max_files_per_process": "plenty"' in said
    assert "refuses its new settings, so nothing was changed" in said
    assert (host.file(file).content_string, sql(host, "SELECT pg_postmaster_start_time()")) == before


@pytest.mark.usefixtures("host")
def test_a_value_that_no_filter_would_let_through_names_the_key():
    code, said = play(*setting("shared_buffers", "plenty"))
    assert code != 0
    assert "own.shared_buffers must be a size such as 64MB, not 'plenty'" in said


def test_a_setting_that_needs_a_restart_waits_until_it_is_allowed(host):
    started, before = sql(host, "SELECT pg_postmaster_start_time()"), sql(host, "SHOW max_connections")
    code, said = play(*setting("max_connections", 77))
    assert code == 0, said
    assert "these wait for a restart: max_connections" in " ".join(said.split())
    assert sql(host, "SELECT pg_postmaster_start_time()") == started
    assert sql(host, "SHOW max_connections") == before
    code, said = play(*setting("max_connections", 77), "--extra-vars=postgresql_restart_allowed=true")
    assert code == 0, said
    assert sql(host, "SHOW max_connections") == "77"
    # What a standby would need by now is not lowered again.
    code, said = play("--extra-vars=postgresql_restart_allowed=true")
    assert code == 0, said
    assert sql(host, "SHOW max_connections") == "77"


def test_a_setting_that_needs_none_is_taken_up_at_once(host):
    code, said = play(*setting("work_mem", "3MB"))
    assert code == 0, said
    assert sql(host, "SHOW work_mem") == "3MB"
    assert "# your own" in host.file(host.check_output("ls /etc/postgresql/*/main/conf.d/offramp.conf")).content_string


def huge_pages(host):
    """Return how many huge pages the kernel has, and how many MiB of the running server are in them."""
    total = int(host.check_output("cat /proc/sys/vm/nr_hugepages"))
    process = host.check_output("systemctl show --property=MainPID --value 'postgresql@*-main.service'")
    return total, int(host.check_output("awk '/^HugetlbPages/ {print $2}' /proc/%s/status", process)) // 1024


def test_huge_pages_are_set_aside_when_the_server_can_take_them_and_given_back(host):
    if host.run("test -w /proc/sys/vm/nr_hugepages").rc:
        pytest.skip("an ordinary user's container may not set vm.nr_hugepages; as root this runs")
    before, _ = huge_pages(host)
    code, said = play(*setting("huge_pages", "try"))
    assert code == 0, said
    assert "its memory in huge pages" in " ".join(said.split())
    assert huge_pages(host) == (before, 0)

    allowed = "--extra-vars=postgresql_restart_allowed=true"
    code, said = play(*setting("huge_pages", "try"), allowed)
    assert code == 0, said
    total, used = huge_pages(host)
    assert total > before
    assert used > 0
    kept = host.check_output("cat /etc/sysctl.d/60-offramp-huge-pages.conf")
    assert kept.endswith(f"vm.nr_hugepages = {total}")
    code, said = play(*setting("huge_pages", "try"))
    assert re.search(r"^one .* changed=0 .* failed=0 ", said, re.MULTILINE), said

    code, said = play(allowed)
    assert code == 0, said
    assert huge_pages(host) == (before, 0)
    assert not host.file("/etc/sysctl.d/60-offramp-huge-pages.conf").exists


def test_the_report_changes_nothing_and_tells_each_setting(host, tmp_path):
    page = f"--extra-vars=postgresql_report_directory={tmp_path}"
    code, said = play(*setting("work_mem", "3MB"), page, playbook="playbooks/tuning.yml", tags="all")
    assert code == 0, said
    assert re.search(r"work_mem +4MB +4MB +3MB ", said)
    assert "your own" in said
    assert "PostgreSQL's" in (tmp_path / "one.html").read_text()
    assert sql(host, "SELECT count(*) FROM pg_settings WHERE pending_restart") == "0"
