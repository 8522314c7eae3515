"""Two apps on two web hosts: what their processes are given, and what happens when they end, change or fail."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import testinfra

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SOURCE = ROOT / "molecule/app/files/probe"
HARD = "100% $HOME ${x} `id` \"double\" 'single' \\ back\\'slash # ! ~ é ☃ {{ no }} \t\r\n\nline='x'\n'"
VALUES = {"VALUE_HARD": HARD, "VALUE_LONG": HARD * 300, "VALUE_EMPTY": ""}
ASK = "import urllib.request as u; print(u.urlopen(u.Request('http://127.0.0.1:{}{}'), timeout=10).read().decode())"

testinfra_hosts = ["ansible://web1"]


@pytest.fixture
def other():
    """Return the second web host."""
    return testinfra.get_host("ansible://web2", ansible_inventory=os.environ.get("ANSIBLE_INVENTORY"))


def digest(values):
    encoded = {name: value.encode().hex() for name, value in values.items()}
    return hashlib.sha256(json.dumps(encoded, sort_keys=True).encode()).hexdigest()


def ask(host, port=8000, path="/"):
    return json.loads(host.check_output("python3 -c %s", ASK.format(port, path)))


def noted(host, name):
    file = host.file(f"/srv/www/probe/media/{name}")
    return [json.loads(line) for line in file.content_string.splitlines()] if file.exists else []


def pid(host, program):
    return int(host.check_output("supervisorctl pid %s", program))


def pids(host):
    return {program: pid(host, program) for program in ("probe-web-1", "probe-web-2", "probe-worker-1", "plain-web-1")}


def workers(host, master):
    # ps and pgrep call it a failure to find none.
    return host.run("ps -o pid= --ppid %s", str(master)).stdout.split()


def gunicorns(host, user):
    return int(host.run("pgrep --count --full --uid %s gunicorn", user).stdout)


def eventually(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.2)


def deploy(**values):
    command = ["ansible-playbook", "playbooks/app.yml", f"--extra-vars={json.dumps(values)}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def changed_source(tmp_path, name, content):
    source = tmp_path / "probe"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / name).write_text(content)
    return source


def locked_source(tmp_path, manager):
    source = tmp_path / "locked"
    shutil.copytree(ROOT / "molecule/app/files/locked" / manager, source)
    shutil.copy(ROOT / "molecule/app/files/locked/app.py", source)
    return source


def release_of(source, tmp_path):
    sys.path.insert(0, str(ROOT))
    from action_plugins.app_source import Cache, resolve

    return resolve(str(source), "", ROOT, Cache(tmp_path / "cache"))["id"]


def test_every_value_reaches_web_worker_release_and_one_off_byte_for_byte(host):
    host.check_output("app-run probe python probe.py one-off")
    seen = [ask(host), ask(host, 8001), *(noted(host, name)[-1] for name in ("worker", "release", "one-off"))]
    assert [process["values"] for process in seen] == [digest(VALUES)] * 5
    assert [process["dyno"].partition(".")[0] for process in seen] == ["web", "web", "worker", "release", "run"]
    assert len({process["user"] for process in seen}) == 1
    assert len({process["prefix"] for process in seen}) == 1


def test_each_web_instance_has_its_number_and_port(host):
    assert [(ask(host, port)["dyno"], ask(host, port)["port"]) for port in (8000, 8001)] == [
        ("web.1", "8000"),
        ("web.2", "8001"),
    ]


@pytest.mark.parametrize("stranger", ["nobody", "plain"])
def test_a_stranger_reads_no_value_of_the_app(host, stranger):
    process = pid(host, "probe-web-1")
    with host.sudo(stranger):
        for path in ("/srv/www/probe/current/env", "/srv/www/probe/.served/env", f"/proc/{process}/environ"):
            assert host.run("cat %s", path).rc != 0
        refused = host.run("app-run probe env")
    assert refused.rc != 0
    assert "only root and probe may do this" in refused.stderr


def test_no_value_stands_on_a_command_line(host):
    assert "a-password-for-tests" not in host.check_output("ps -eo args")


def test_the_app_cannot_change_its_environment_or_its_current_release(host):
    with host.sudo("probe"):
        assert host.run("echo X=1 >> /srv/www/probe/current/env").rc != 0
        assert host.run("ln -sfn /tmp /srv/www/probe/current").rc != 0


def test_an_app_without_a_procfile_is_served_by_gunicorn_as_a_user_of_its_own(host):
    assert host.check_output("python3 -c %s", ASK.format(8020, "/")) == "plain"
    users = {host.check_output("ps -o user= -p %s", str(pid(host, name))) for name in ("probe-web-1", "plain-web-1")}
    assert users == {"probe", "plain"}


def test_the_release_command_ran_once_for_the_site(host, other):
    assert len(noted(host, "release")) == 1
    assert noted(other, "release") == []
    assert ask(other)["release"] == ask(host)["release"]


def test_a_killed_instance_comes_back_with_one_set_of_workers(host):
    before = pid(host, "probe-web-1")
    host.check_output("kill -9 %s", str(before))
    eventually(lambda: pid(host, "probe-web-1") not in (0, before), 5)
    eventually(lambda: len(workers(host, pid(host, "probe-web-1"))) == 2, 5)
    assert ask(host)["values"] == digest(VALUES)
    # Two masters with two workers each.
    assert gunicorns(host, "probe") == 6


def test_a_killed_worker_is_replaced_beside_those_that_go_on(host):
    master = pid(host, "probe-web-1")
    killed, other = workers(host, master)
    host.check_output("kill -9 %s", killed)
    eventually(lambda: len(now := workers(host, master)) == 2 and killed not in now, 5)
    assert other in workers(host, master)
    assert ask(host)["values"] == digest(VALUES)


def test_a_killed_supervisor_comes_back_with_one_set_of_processes(host):
    before = pids(host)
    host.check_output("kill -9 $(systemctl show --property=MainPID --value supervisor)")
    eventually(lambda: host.run("supervisorctl pid probe-web-1").stdout.strip().isdecimal(), 10)
    eventually(lambda: host.run("python3 -c %s", ASK.format(8001, "/health")).rc == 0, 10)
    eventually(lambda: gunicorns(host, "probe") == 6, 10)
    assert not set(pids(host).values()) & set(before.values())


def test_a_release_that_fails_its_health_check_leaves_the_old_one_serving(host, other, tmp_path):
    serving, untouched = ask(host)["release"], pids(other)
    failed = deploy(probe_source=str(changed_source(tmp_path, "broken", "")))
    assert failed.returncode != 0
    assert "probe-web-1 answers /health with 500" in failed.stdout
    assert "v1 serves" in failed.stdout.splitlines()[-1]
    assert [ask(host, port, "/health")["release"] for port in (8000, 8001)] == [serving] * 2
    assert pids(other) == untouched


def test_a_config_that_fails_the_health_check_leaves_the_old_one_serving(host, other):
    untouched = pids(other)
    failed = deploy(probe_config={"FAIL": "1"})
    assert failed.returncode != 0
    assert "v1 serves" in failed.stdout.splitlines()[-1]
    assert "FAIL" not in host.file("/srv/www/probe/current/env").content_string
    assert ask(host, 8000, "/health")["values"] == digest(VALUES)
    assert pids(other) == untouched


def test_a_process_that_an_interrupted_run_left_behind_is_found(host):
    """It runs on another release than the link names, as after a run that was killed in the middle of a switch."""
    serving, before = ask(host)["release"], pids(host)
    assert host.file("/srv/www/probe/releases/v1/code").linked_to.endswith(serving)
    host.check_output("ln -sfn releases/v2 /srv/www/probe/current")
    host.check_output("supervisorctl restart probe-web-2")
    eventually(lambda: host.run("python3 -c %s", ASK.format(8001, "/")).rc == 0, 10)
    assert ask(host, 8001)["release"] != serving
    host.check_output("ln -sfn releases/v1 /srv/www/probe/current")
    done = deploy()
    assert done.returncode == 0, done.stdout
    assert [ask(host, port)["release"] for port in (8000, 8001)] == [serving] * 2
    after = pids(host)
    assert {name for name in after if after[name] != before[name]} == {"probe-web-2"}


def test_a_build_that_was_interrupted_is_made_anew_and_rolled_out(host, other, tmp_path):
    """A half-made release stands where the new one belongs; the app beside it notices nothing."""
    source = changed_source(tmp_path, "note.txt", str(time.time()))
    release = release_of(source, tmp_path)
    host.check_output("mkdir /srv/www/probe/builds/%s", release)
    host.check_output("touch /srv/www/probe/builds/%s/half", release)
    beside, released = pid(host, "plain-web-1"), len(noted(host, "release"))
    done = deploy(probe_source=str(source))
    assert done.returncode == 0, done.stdout
    assert {ask(server, port)["release"] for server in (host, other) for port in (8000, 8001)} == {release}
    assert not host.file(f"/srv/www/probe/builds/{release}/half").exists
    assert (pid(host, "plain-web-1"), len(noted(host, "release"))) == (beside, released + 1)
    assert noted(host, "worker")[-1]["release"] == release


@pytest.mark.parametrize(
    ("manager", "file", "mended"), [("poetry", "pyproject.toml", "poetry lock"), ("pipenv", "Pipfile", "pipenv lock")]
)
def test_an_app_is_built_from_the_lock_of_poetry_or_pipenv_and_one_that_is_out_of_date_is_refused(
    host, other, tmp_path, manager, file, mended
):
    source = locked_source(tmp_path, manager)
    done = deploy(plain_source=str(source))
    assert done.returncode == 0, done.stdout
    for server in (host, other):
        assert server.check_output("python3 -c %s", ASK.format(8020, "/")) == "itsdangerous 2.1.2"
    (source / file).write_text((source / file).read_text().replace("2.1.2", "2.2.0"))
    refused = deploy(plain_source=str(source))
    assert refused.returncode != 0
    assert f"`{mended}`" in refused.stdout.splitlines()[-1]
    assert host.check_output("python3 -c %s", ASK.format(8020, "/")) == "itsdangerous 2.1.2"
