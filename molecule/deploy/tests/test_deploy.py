"""Deploys of an app on two web hosts under load: nobody notices one that works, nor one that fails."""

import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import testinfra

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SOURCE = ROOT / "molecule/deploy/files/shop"
SERVERS = {"web1": "10.90.62.11", "web2": "10.90.62.12"}

# Twenty moments where there is time for it, with DEPLOY_KILLS=20; the same ones each time.
KILLED_AFTER = [round(1 + 15 * (index * 0.618 % 1), 1) for index in range(int(os.environ.get("DEPLOY_KILLS", "3")))]
SINGLE_LOOP = (
    "while sleep 0.1; do curl -sk -o /dev/null -w '%{{http_code}}\\n' --max-time 10"
    " --resolve single.example:443:127.0.0.1 https://single.example/ >>{}; done"
)

testinfra_hosts = ["ansible://web1"]
# pytest would move a test without the host behind those with it, and then the order is lost.
pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def other():
    return testinfra.get_host("ansible://web2", ansible_inventory=os.environ.get("ANSIBLE_INVENTORY"))


def command(playbook, extra=(), **values):
    values.setdefault("app", "shop")
    return ["ansible-playbook", f"playbooks/{playbook}.yml", f"--extra-vars={json.dumps(values)}", *extra]


def play(playbook, *extra, **values):
    return subprocess.run(command(playbook, extra, **values), cwd=ROOT, capture_output=True, text=True, check=False)


def works(playbook, *extra, **values):
    done = play(playbook, *extra, **values)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


def fails(playbook, *extra, **values):
    done = play(playbook, *extra, **values)
    assert done.returncode != 0, done.stdout[-4000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture
def source(tmp_path):
    """Make the app's source in another version, with files changed or, with None, left out."""

    def make(version, **files):
        path = tmp_path / version
        shutil.copytree(SOURCE, path, ignore=shutil.ignore_patterns("__pycache__"))
        (path / "version.txt").write_text(f"{version}\n")
        for name, text in files.items():
            (path / name.replace("_", ".")).write_text(text)
        return str(path)

    return make


def ask(name="web1", path="/health", host="shop.example", seconds=30):
    where = ("--max-time", str(seconds), "--resolve", f"{host}:443:{SERVERS[name]}")
    words = ["curl", "--silent", "--noproxy", "*", "--insecure", *where, f"https://{host}{path}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def versions():
    """Return what the instances of both hosts answer."""
    return {json.loads(ask(name))["version"] for name in SERVERS for _ in range(6)}


def releases(host):
    """Return state by number."""
    listed = host.check_output("cat /srv/www/shop/releases/*/release.json")
    decoder, found = json.JSONDecoder(), []
    while listed.strip():
        one, end = decoder.raw_decode(listed.strip())
        found.append(one)
        listed = listed.strip()[end:]
    return {one["number"]: one["state"] for one in found}


class Load:
    """A constant load from outside, which counts every answer."""

    def __enter__(self):
        connect = ",".join(f"{address}:443" for address in SERVERS.values())
        words = ["bench/load.py", "--connect", connect, "--host", "shop.example", "--rate", "100", "--seconds", "900"]
        self.process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        time.sleep(1)
        return self

    def __exit__(self, *_problem):
        self.process.terminate()
        self.report = json.loads(self.process.communicate(timeout=60)[0])
        print(self.report)

    @property
    def is_clean(self):
        return (self.report["failed"], self.report["truncated"]) == (0, 0) and self.report["answers"] > 0


def test_a_deploy_is_numbered_and_served_by_every_instance(host, source):
    before = max(releases(host))
    begin = time.monotonic()
    works("deploy", shop_source=source("second"))
    print(f"deployed in {time.monotonic() - begin:.1f} s")
    assert versions() == {"second"}
    assert releases(host)[before + 1] == "serving"
    assert releases(host)[before] == "ok"


def test_a_deploy_with_nothing_new_changes_nothing(host, source):
    where = source("second")
    before = releases(host)
    said = works("deploy", shop_source=where)
    assert "changed: " not in said
    assert releases(host) == before


def test_deploys_a_rollback_and_a_failed_deploy_under_load_cost_no_request(source):
    slow = ThreadPoolExecutor(2)
    with Load() as load:
        late = [slow.submit(ask, name, "/slow?10", seconds=40) for name in SERVERS]
        for number in range(2):
            works("deploy", shop_source=source(f"load-{number}"))
        works("rollback")
        assert "answers /health with 500" in fails("deploy", shop_source=source("sick"))
    assert load.is_clean, load.report
    assert [json.loads(answer.result())["version"] for answer in late] == ["second"] * 2
    assert versions() == {"load-0"}


def test_a_job_that_a_worker_is_at_is_not_lost(host, source):
    host.check_output("sh -c 'echo 20 >/srv/www/shop/media/long.job'")
    host.check_output("chown shop: /srv/www/shop/media/long.job")
    time.sleep(1)
    works("deploy", shop_source=source("with-a-job"))
    assert host.file("/srv/www/shop/media/long.done").exists


@pytest.mark.parametrize(
    ("version", "files", "said"),
    [
        (
            "unmigratable",
            {},
            "the release command of shop v{} failed with exit code 1, and nothing was switched: relation",
        ),
        (
            "unimportable",
            {"Procfile": "web: gunicorn missing:application\nworker: x\nbeat: x\n"},
            "ends again and again",
        ),
        (
            "mute",
            {"Procfile": "web: sleep 1000\nworker: sleep 1000\nbeat: sleep 1000\n"},
            "gives no answer on port 8000",
        ),
        ("unbuildable", {"requirements_txt": "no-such-package-anywhere==1"}, "v{} of shop was not built"),
    ],
)
def test_a_release_that_fails_leaves_the_old_one_serving_and_says_why(host, source, version, files, said):
    before = versions()
    word = fails("deploy", shop_source=source(version, **files))
    number = max(releases(host))
    assert said.format(number) in word
    assert word.startswith("FAILED: web")
    assert versions() == before
    assert releases(host)[number] == "failed"


def test_a_migration_that_waits_for_a_lock_gives_up_and_the_old_release_serves(host, source):
    before = versions()
    held = "BEGIN; LOCK TABLE orders; SELECT pg_sleep(25)"
    host.check_output("systemd-run --unit=held --uid=postgres psql --dbname=shop --command=%s", held)
    word = fails("deploy", shop_source=source("locked-out"))
    # The server does not see at once that the client is gone, and would keep the lock.
    gone = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK TABLE%'"
    host.check_output("psql --username=postgres --dbname=shop --command=%s", gone)
    assert "canceling statement due to lock timeout" in word
    assert versions() == before


def test_a_config_var_is_set_unset_and_put_back_where_the_app_does_not_work_with_it(source):
    where, file = source("config"), ROOT / "molecule/deploy/inventory/group_vars/all/config_vars.yml"
    works("deploy", shop_source=where)
    try:
        said = works("config", set={"COLOR": "deep-blue {{ x }}"}, shop_source="/nowhere")
        assert "deep-blue" not in said
        assert {json.loads(ask(name))["color"] for name in SERVERS} == {"deep-blue {{ x }}"}
        assert "config: set COLOR" in works("releases")
        kept = file.read_text()
        assert "the inventory is as it was" in fails("config", set={"SICK": "1"})
        assert file.read_text() == kept
        assert {json.loads(ask(name))["color"] for name in SERVERS} == {"deep-blue {{ x }}"}
        works("config", unset=["COLOR"])
        assert {json.loads(ask(name))["color"] for name in SERVERS} == {None}
        assert versions() == {"config"}
    finally:
        file.unlink(missing_ok=True)


def test_a_command_runs_once_with_the_release_of_the_app():
    said = works("run", command='echo "run by $USER"')
    assert "run by shop" in said, said[-1500:]


def test_the_maintenance_page_comes_and_goes_by_command(host):
    works("maintenance", state="on")
    shown = host.run("curl -sik --resolve shop.example:443:127.0.0.1 https://shop.example/").stdout
    works("maintenance", state="off")
    assert shown.startswith("HTTP/2 503")
    assert "retry-after: 300" in shown.lower()
    assert "Back soon" in shown
    assert json.loads(ask("web1"))["version"]


def test_a_client_that_asks_without_end_is_told_to_slow_down(host):
    """A thousand requests at once are more than one client is given."""
    burst = "curl -sk -Z --parallel-max 50 -o /dev/null -w '%{http_code}\\n' --resolve shop.example:443:127.0.0.1"
    codes = host.run(f"{burst} 'https://shop.example/health?[1-2000]' | sort | uniq -c").stdout.split()
    assert set(codes[1::2]) == {"200", "429"}


def test_scheduled_jobs_and_single_processes_are_on_one_host(host, other):
    timers = [server.check_output("systemctl list-timers --no-legend 'offramp-job.shop.*'") for server in (host, other)]
    assert [bool(timer) for timer in timers] == [True, False]
    beats = [server.run("supervisorctl pid shop-beat-1").rc for server in (host, other)]
    assert beats[0] == 0
    assert beats[1] != 0
    name = timers[0].split()[-2].replace(".timer", ".service")
    host.check_output("systemctl start %s", name)
    assert host.file("/srv/www/shop/media/scheduled").content_string == "100% of shop\n"


def test_a_single_instance_is_deployed_without_a_failed_request(host):
    answers = "/var/single"
    host.check_output("systemd-run --unit=single sh -c %s", SINGLE_LOOP.format(answers))
    works("deploy", app="single", single_config={"A": "2"})
    host.check_output("systemctl stop single")
    codes = host.file(answers).content_string.split()
    assert len(codes) > 10
    assert set(codes) == {"200"}


@pytest.mark.parametrize("moment", KILLED_AFTER)
def test_a_deploy_that_is_killed_at_any_moment_is_completed_by_the_next(source, moment):
    with Load() as load:
        version = f"killed-after-{moment}"
        where = source(version)
        running = subprocess.Popen(
            command("deploy", shop_source=where),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(moment)
        os.killpg(running.pid, 9)
        running.wait()
        works("deploy", shop_source=where, break_lock=True)
    assert load.is_clean, load.report
    assert versions() == {version}


def test_a_second_deploy_is_told_who_deploys_and_a_killed_one_frees_its_lock(host, source):
    first = subprocess.Popen(
        command("deploy", shop_source=source("killed")),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    lock = "/run/offramp/apps/.shop.lock"
    deadline = time.monotonic() + 20
    while not host.file(lock).exists:
        assert time.monotonic() < deadline
    begin = time.monotonic()
    word = fails("deploy", shop_source=source("too-late"))
    assert time.monotonic() - begin < 10
    assert "shop is being deployed by" in word
    os.killpg(first.pid, 9)
    first.wait()
    time.sleep(60)
    works("deploy", shop_source=source("after"))
    assert versions() == {"after"}
