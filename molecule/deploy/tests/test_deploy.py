"""Deploys of an app on two web hosts under load: nobody notices one that works, nor one that fails."""

import contextlib
import functools
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
CONFIG_VARS = ROOT / "molecule/deploy/inventory/group_vars/all/config_vars.yml"
SERVERS = {"web1": "10.90.62.11", "web2": "10.90.62.12"}

# Spread over a deploy, however many of them are taken; the same ones each time. They are shares of its own time, so
# that a quick machine and a slow one have it killed at the same places.
KILLED_AT = [round(0.06 + 0.9 * (index * 0.618 % 1), 2) for index in range(10)]
# What faults.md's W1 wants answered.
LONG_LOAD_RATE, LONG_LOAD_SECONDS = 130, 385
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
    plain = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    words = command(playbook, extra, **values)
    return subprocess.run(words, cwd=ROOT, env=plain, capture_output=True, text=True, check=False)


def works(playbook, *extra, **values):
    done = play(playbook, *extra, **values)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


def begun(**values):
    """Start a deploy, and leave it to itself."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command("deploy", **values), cwd=ROOT, start_new_session=True, **quiet)


def killed(process):
    os.killpg(process.pid, 9)
    process.wait()


def contested(sources):
    """Deploy both at the same moment, and return the version that was not told that the other is at it."""
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda source: play("deploy", shop_source=source), sources))
    words = [one.stdout.strip().splitlines()[-1] for one in done if one.returncode]
    assert len(words) == 1, [one.stdout[-2000:] for one in done]
    assert "shop is being deployed by" in words[0]
    return Path(next(source for source, one in zip(sources, done, strict=True) if not one.returncode)).name


def fails(playbook, *extra, **values):
    done = play(playbook, *extra, **values)
    assert done.returncode != 0, done.stdout[-4000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture
def source(tmp_path):
    """Make the app's source in another version, with files changed or, with None, left out."""

    return functools.partial(version_of, tmp_path)


def version_of(directory, version, **files):
    path = directory / version
    shutil.copytree(SOURCE, path, ignore=shutil.ignore_patterns("__pycache__"))
    (path / "version.txt").write_text(f"{version}\n")
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return str(path)


def asking(name, path, host="shop.example", seconds=30):
    where = ("--max-time", str(seconds), "--resolve", f"{host}:443:{SERVERS[name]}")
    return ["curl", "--silent", "--noproxy", "*", "--insecure", *where, f"https://{host}{path}"]


def ask(name="web1", path="/health", host="shop.example", seconds=30):
    words = asking(name, path, host, seconds)
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

    def __init__(self, *options):
        connect = ",".join(f"{address}:443" for address in SERVERS.values())
        self.words = ["bench/load.py", "--connect", connect, "--host", "shop.example", "--rate", "100", *options]

    def __enter__(self):
        self.process = subprocess.Popen([*self.words, "--seconds", "1200"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
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


@pytest.mark.part_of_a_drill
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


def give_job(host, name):
    host.check_output(f"sh -c 'echo 20 >/srv/www/shop/media/{name}.new && chown shop: /srv/www/shop/media/{name}.new'")
    host.check_output(f"mv /srv/www/shop/media/{name}.new /srv/www/shop/media/{name}.job")
    time.sleep(1)


def test_a_job_that_a_worker_is_at_is_not_lost(host, source):
    give_job(host, "long")
    works("deploy", shop_source=source("with-a-job"))
    assert host.file("/srv/www/shop/media/long.done").exists


@pytest.mark.drill
def test_deploys_rollbacks_a_config_change_and_a_failed_deploy_under_a_long_load_cost_no_request(host, source):
    """Each third deploy is one of two that were started at the same moment."""
    end, served, late, slow = time.monotonic() + LONG_LOAD_SECONDS, [], [], ThreadPoolExecutor(2)
    give_job(host, "drill")
    with Load("--slow", "5", "--rate", str(LONG_LOAD_RATE)) as load:
        while len(served) < 10 or time.monotonic() < end:
            if len(served) % 3 == 0:
                late += [slow.submit(ask, name, "/slow?10", seconds=40) for name in SERVERS]
            version = f"drill-{len(served)}"
            if len(served) % 3 == 0:
                served.append(contested([source(f"{version}-{rival}") for rival in ("one", "other")]))
            else:
                works("deploy", shop_source=source(version))
                served.append(version)
            assert versions() == {served[-1]}
            if len(served) in (2, 5, 8):
                works("rollback")
                assert versions() == {served[-2]}
            if len(served) == 3:
                works("config", set={"COLOR": "blue"}, shop_source="/nowhere")
                CONFIG_VARS.unlink()
            if len(served) == 4:
                assert "answers /health with 500" in fails("deploy", shop_source=source("sick"))
    print(f"{len(served)} deploys, 3 rollbacks, a config change, a failed deploy")
    assert load.is_clean, load.report
    assert load.report["slow"] > 0
    assert all(json.loads(answer.result())["version"] for answer in late)
    assert host.file("/srv/www/shop/media/drill.done").exists


def test_one_host_that_fails_its_health_check_is_named_and_all_keep_the_old_release(host, other, source):
    before, number = versions(), max(releases(host)) + 1
    other.check_output("touch /srv/www/shop/media/sick-here")
    with Load() as load:
        word = fails("deploy", shop_source=source("picky"))
    other.check_output("rm /srv/www/shop/media/sick-here")
    assert word.startswith(f"FAILED: web2: v{number} of shop does not work on this host: shop-web-1 answers /health")
    assert load.is_clean, load.report
    assert "picky" in load.report["versions"]
    assert versions() == before


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


def test_a_source_that_cannot_be_fetched_changes_nothing(host):
    before, known = versions(), releases(host)
    assert "/nowhere" in fails("deploy", shop_source="/nowhere")
    assert (versions(), releases(host)) == (before, known)


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
    where = source("config")
    works("deploy", shop_source=where)
    try:
        said = works("config", set={"COLOR": "deep-blue {{ x }}"}, shop_source="/nowhere")
        assert "deep-blue" not in said
        assert {json.loads(ask(name))["color"] for name in SERVERS} == {"deep-blue {{ x }}"}
        assert "config: set COLOR" in works("releases")
        kept = CONFIG_VARS.read_text()
        assert "the inventory is as it was" in fails("config", set={"SICK": "1"})
        assert CONFIG_VARS.read_text() == kept
        assert {json.loads(ask(name))["color"] for name in SERVERS} == {"deep-blue {{ x }}"}
        works("config", unset=["COLOR"])
        assert {json.loads(ask(name))["color"] for name in SERVERS} == {None}
        assert versions() == {"config"}
    finally:
        CONFIG_VARS.unlink(missing_ok=True)


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


def single_everywhere():
    """Return what the app with one instance answers on both hosts."""
    return [json.loads(ask(name, "/", "single.example")) for name in SERVERS]


@pytest.mark.parametrize("left", ["0", "300K"], ids=["nothing-left", "little-left"])
def test_a_build_that_runs_out_of_disk_leaves_the_old_release_serving_and_nothing_behind(host, tmp_path, left):
    before, home = single_everywhere(), "/srv/www/single"
    # Else it would be the disk of the machine that runs the tests.
    assert host.mount_point(home).filesystem == "tmpfs"
    source = shutil.copytree(ROOT / "molecule/deploy/files/single", tmp_path / "large")
    # Beyond what a compressor could do about it, and of another build each time.
    (source / "data").write_bytes(os.urandom(3_000_000))
    builds = set(host.file(f"{home}/builds").listdir())
    free = int(host.check_output("df --output=avail --block-size=1 %s | tail -1", home))
    host.check_output("fallocate --length %s %s/filled", str(free - int(left.replace("K", "000"))), home)
    try:
        word = fails("deploy", app="single", single_source=str(source))
    finally:
        host.check_output("rm %s/filled", home)
    assert word.startswith("FAILED: web1: ")
    assert "of single was not built" in word
    assert "No space left on device" in word
    assert single_everywhere() == before
    assert set(host.file(f"{home}/builds").listdir()) == builds
    works("deploy", app="single", single_source=str(source))
    assert {one["build"] for one in single_everywhere()}.isdisjoint(one["build"] for one in before)


PYTHON_MIRROR = """
set -eu
rm -rf /srv/python && mkdir -p /srv/python/lists/partial /srv/python/archives/partial && cd /srv/python
sed 's/trixie/bookworm/' /etc/apt/sources.list >sources
of="-o Dir::Etc::SourceList=$PWD/sources -o Dir::Etc::SourceParts=- -o Dir::State::Lists=$PWD/lists -o Dir::Cache=$PWD"
apt-get $of update
apt-get $of download python3.11-minimal libpython3.11-minimal libpython3.11-stdlib
for package in *.deb; do dpkg-deb --extract "$package" root; done
mkdir python && mv root/usr/bin root/usr/lib python/
# uv unpacks no link that leads out of the archive.
find python -lname '/*' -delete
tar --create --gzip --file python.tar.gz python
"""


@pytest.fixture
def older_python(host, other):
    """Have Debian 12's Python on both hosts, packed as uv wants it and where uv is told to fetch it from."""
    machine = host.check_output("uname --machine")
    arch = {"family": machine, "variant": None}
    version = {"name": "cpython", "major": 3, "minor": 11, "patch": 2, "prerelease": "", "variant": None, "build": None}
    where = {"os": "linux", "libc": "gnu", "arch": arch, "url": "file:///srv/python/python.tar.gz", "sha256": None}
    for server in (host, other):
        server.check_output("sh -c %s", PYTHON_MIRROR)
        known = json.dumps({f"cpython-3.11.2-linux-{machine}-gnu": version | where})
        server.check_output("printf %%s %s >/srv/python/downloads.json", known)
    return {"single_python": "3.11", "single_config": {"UV_PYTHON_DOWNLOADS_JSON_URL": "/srv/python/downloads.json"}}


@pytest.mark.drill
def test_apps_of_two_pythons_on_one_host_are_deployed_without_a_failed_request_of_the_other(host, source, older_python):
    """One runs on Debian's own Python, the other on one that uv fetched and keeps beside it."""
    with Load() as load:
        works("deploy", app="single", **older_python)
    assert load.is_clean, load.report
    assert {one["python"] for one in single_everywhere()} == {"3.11.2"}
    answers = "/var/single"
    host.check_output("systemd-run --unit=single sh -c %s", SINGLE_LOOP.format(answers))
    works("deploy", shop_source=source("beside"))
    host.check_output("systemctl stop single")
    assert set(host.file(answers).content_string.split()) == {"200"}
    pythons = {json.loads(ask(name))["python"] for name in SERVERS}
    assert pythons == {host.check_output("/usr/bin/python3 -c %s", "import platform as p; print(p.python_version())")}


def test_a_configuration_that_supervisor_refuses_is_named_and_what_runs_is_left_alone(host, source):
    before, broken = versions(), "/etc/supervisor/conf.d/own.conf"
    host.check_output("printf '[program:own]\\nautostart=perhaps\\n' >%s", broken)
    word = fails("deploy", shop_source=source("refused"))
    host.check_output("rm %s", broken)
    assert "supervisor refuses its configuration" in word
    assert versions() == before
    works("deploy", shop_source=source("accepted"))
    assert versions() == {"accepted"}


MAIN_PID = "systemctl show --property=MainPID --value {}"
# How long each may take on a quiet machine, in seconds; beside other scenarios it takes up to so many times that.
BUSY = 4
KILLED = {
    "nginx": (MAIN_PID.format("nginx"), 3),
    "gunicorn's master": ("supervisorctl pid shop-web-1", 5),
    "gunicorn's worker": ("pgrep --parent $(supervisorctl pid shop-web-1)", 1),
    "supervisord": (MAIN_PID.format("supervisor"), 10),
}
# Milliseconds until it is another process, and the instance answers by itself and through nginx.
KILL = """
old=$({victim}); kill -9 $old; begin=$(date +%s%N)
until new=$({victim}); [ "$new" -gt 0 ] && [ "$new" != "$old" ] && curl -fs -o /dev/null http://127.0.0.1:8000/ &&
  curl -fsk -o /dev/null --resolve shop.example:443:127.0.0.1 https://shop.example/; do sleep 0.02; done 2>/dev/null
echo $((($(date +%s%N) - begin) / 1000000))
"""


@pytest.mark.drill
@pytest.mark.parametrize("name", KILLED)
def test_what_is_killed_answers_again_and_leaves_no_orphan(host, eventually, name):
    victim, seconds = KILLED[name]
    processes = "pgrep --count --full --uid shop gunicorn"
    before = host.check_output(processes)
    took = int(host.check_output("timeout 30 bash -c %s", KILL.format(victim=victim))) / 1000
    print(f"{name}: {took:.1f} s")
    assert took <= seconds * BUSY
    eventually(lambda: host.check_output(processes) == before)


@pytest.mark.drill
def test_an_app_that_spins_and_leaks_loses_a_process_and_its_host_stays_reachable(host, source):
    """A process of the app is the first that the kernel kills; its memory is that of the host, as nothing limits it."""
    lasting = [MAIN_PID.format(unit) for unit in ("nginx", "pgbouncer", "postgresql@*-main", "supervisor", "ssh")]
    works("deploy", shop_source=source("greedy"))
    before = [host.check_output(line) for line in lasting]
    killed_before = int(host.check_output("cat /var/log/shop/web-*.log | grep -c 'out of memory' || true"))
    with ThreadPoolExecutor(2) as spins, Load() as load:
        for _ in range(2):
            spins.submit(ask, "web1", "/spin?15")
        for _ in range(16):
            subprocess.run(asking("web1", "/leak?100"), capture_output=True, check=False)
            time.sleep(1)
        host.check_output("true")
    assert [host.check_output(line) for line in lasting] == before
    assert int(host.check_output("cat /var/log/shop/web-*.log | grep -c 'out of memory'")) > killed_before
    assert load.report["failed"] + load.report["truncated"] <= load.report["answers"] / 100, load.report


def test_a_single_instance_is_deployed_without_a_failed_request(host):
    answers = "/var/single"
    host.check_output("systemd-run --unit=single sh -c %s", SINGLE_LOOP.format(answers))
    works("deploy", app="single", single_config={"A": "2"})
    host.check_output("systemctl stop single")
    codes = host.file(answers).content_string.split()
    host.check_output("rm %s", answers)
    assert len(codes) > 10
    assert set(codes) == {"200"}


@pytest.fixture(scope="module")
def deploy_seconds(tmp_path_factory):
    """Say how long a deploy takes here, which is no claim about how long it may take."""
    begin = time.monotonic()
    works("deploy", shop_source=version_of(tmp_path_factory.mktemp("timed"), "timed"))
    return time.monotonic() - begin


def kill_a_deploy(source, seconds):
    with Load() as load:
        version = f"killed-after-{seconds:.1f}"
        where = source(version)
        running = begun(shop_source=where)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(seconds)
        if ended := running.poll() is not None:
            print(f"ended before {seconds:.1f} s")
        else:
            killed(running)
        works("deploy", shop_source=where, break_lock=True)
    assert load.is_clean, load.report
    assert versions() == {version}
    if ended:
        kill_a_deploy(source, seconds * 0.8)


@pytest.mark.part_of_a_drill
@pytest.mark.parametrize("share", KILLED_AT[:3])
def test_a_deploy_that_is_killed_is_completed_by_the_next(source, deploy_seconds, share):
    kill_a_deploy(source, share * deploy_seconds)


@pytest.mark.drill
@pytest.mark.parametrize("share", KILLED_AT)
def test_a_deploy_that_is_killed_at_any_moment_is_completed_by_the_next(source, deploy_seconds, share):
    kill_a_deploy(source, share * deploy_seconds)


def test_a_second_deploy_is_told_who_deploys_and_a_killed_one_frees_its_lock(host, source):
    first = begun(shop_source=source("killed"))
    lock = "/run/offramp/apps/.shop.lock"
    deadline = time.monotonic() + 20
    while not host.file(lock).exists:
        assert time.monotonic() < deadline
    begin = time.monotonic()
    word = fails("deploy", shop_source=source("too-late"))
    assert time.monotonic() - begin < 10
    assert "shop is being deployed by" in word
    killed(first)
    time.sleep(60)
    works("deploy", shop_source=source("after"))
    assert versions() == {"after"}
