"""Who gets in, how, and that no mistake locks the operator out.

On Debian 13 (one) and 12 (old), each of which is the other's stranger.
"""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import testinfra
from shared.tests.ledger import podman
from shared.tests.runs import kill

testinfra_hosts = ["ansible://one", "ansible://old"]

CONFIGURATION = "/etc/ssh/sshd_config.d/00-offramp.conf"
POLICIES = {"one": "Hardened Debian 13 (version 1)", "old": "Hardened Debian 12 (version 3)"}
STRANGERS = {"one": "old", "old": "one"}
# Everything that may change, and what sshd has in force
STATE = (
    "cd /etc/ssh && sha256sum sshd_config.d/* ssh_host_* moduli /home/operator/.ssh/authorized_keys && "
    "ls /etc/systemd/system/ssh.service.d"
)
THEIRS = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA theirs@example"
LISTEN = "import socket, time; kept = socket.create_server(('', 25)); time.sleep(60)"
NEW = ["-o", "ControlPath=none", "-o", "ControlMaster=no", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
FAST = {"ANSIBLE_TIMEOUT": "3", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
SILENT = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "check": False}


def another(name):
    return testinfra.get_host(f"ansible://{name}")


def name_of(host):
    return host.backend.get_pytest_id().removeprefix("ansible://")


def command(limit, values):
    variables = [f"--extra-vars={json.dumps(values)}"] if values else []
    return ["ansible-playbook", "playbooks/base.yml", f"--limit={limit}", "--tags=ssh", *variables]


def converge(limit, **values):
    return subprocess.run(command(limit, values), env=os.environ | FAST, **SILENT)


def login(host, user, *words):
    """Log in by a connection of its own, as a person at the controller does."""
    options = os.environ["ANSIBLE_SSH_COMMON_ARGS"].split()
    return subprocess.run(["ssh", *options, *NEW, f"{user}@{name_of(host)}", *words], **SILENT)


def locked_out(limit, **values):
    """Run with a mistake; return the run, and the seconds that it took."""
    begin = time.monotonic()
    done = converge(limit, ssh_guard_seconds=20, **values)
    return done, time.monotonic() - begin


def test_it_passes_the_policy_for_its_release(host):
    port = str(host.ansible.get_variables()["ansible_port"])
    done = subprocess.run(["ssh-audit", "-P", POLICIES[name_of(host)], "-p", port, "127.0.0.1"], **SILENT)
    assert done.returncode == 0, done.stdout


def test_an_audit_finds_no_failure(host):
    port = str(host.ansible.get_variables()["ansible_port"])
    done = subprocess.run(["ssh-audit", "--level=fail", "-b", "-p", port, "127.0.0.1"], **SILENT)
    assert "[fail]" not in done.stdout
    assert done.returncode in (0, 2), done.stdout


def test_only_the_declared_keys_open_the_operators_account(host):
    declared = host.ansible.get_variables()["ssh_operator_keys"]
    keys = host.file("/home/operator/.ssh/authorized_keys")
    assert keys.content_string.splitlines() == sorted(declared)
    assert (keys.user, keys.mode) == ("operator", 0o600)


def test_the_operator_gets_in_and_becomes_root(host):
    assert login(host, "operator", "sudo -n id -un").stdout.strip() == "root"


@pytest.mark.parametrize("user", ["root", "operator", "nobody"])
def test_a_stranger_is_offered_nothing_but_keys(host, user):
    stranger, address = another(STRANGERS[name_of(host)]), host.ansible.get_variables()["address"]
    refused = stranger.run(
        "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR %s@%s true "
        "|| false",
        user,
        address,
    )
    assert refused.rc == 1
    assert "Permission denied (publickey)" in refused.stderr


def test_a_tunnel_leads_to_what_the_server_reaches_and_opens_no_port_of_it(host):
    options = os.environ["ANSIBLE_SSH_COMMON_ARGS"].split()
    whom = f"operator@{name_of(host)}"
    through = subprocess.run(["ssh", *options, *NEW, "-W", "127.0.0.1:22", whom], timeout=30, **SILENT)
    assert through.stdout.startswith("SSH-2.0-")
    back = ["-o", "ExitOnForwardFailure=yes", "-R", "2222:127.0.0.1:22"]
    refused = subprocess.run(["ssh", *options, *NEW, *back, whom, "echo in"], timeout=30, **SILENT)
    assert "in" not in refused.stdout
    assert "remote port forwarding failed" in refused.stderr


def test_a_key_that_was_left_in_a_services_home_opens_nothing_and_a_colleague_gets_in(host):
    keys = "cp -r /home/operator/.ssh /home/left && chown -R left: /home/left/.ssh"
    host.check_output(f"useradd --user-group --create-home --home-dir /home/left --shell /bin/bash left && {keys}")
    try:
        assert "Permission denied" in login(host, "left", "true").stderr
        host.check_output("usermod --append --groups sudo left")
        assert login(host, "left", "id -un").stdout.strip() == "left"
    finally:
        host.check_output("userdel --remove --force left")


def test_a_second_run_makes_no_connection_of_its_own(host):
    before = login(host, "root", "journalctl -u ssh --no-pager | grep -c 'Accepted publickey for operator'").stdout
    done = converge(name_of(host))
    assert "changed=0" in done.stdout, done.stdout
    after = login(host, "root", "journalctl -u ssh --no-pager | grep -c 'Accepted publickey for operator'").stdout
    assert before == after


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PermitRotLogin": "no"}, "sshd refuses the configuration"),
        ({"Port": "2222"}, "does not succeed"),
        pytest.param(*({"AllowUsers": "somebody-else"}, "does not succeed"), marks=pytest.mark.drill),
        pytest.param(*({"Port": "25"}, "The host is as it was"), marks=pytest.mark.drill),
    ],
    ids=["typo", "wrong-port", "allow-users", "port-taken"],
)
def test_a_configuration_that_would_lock_out_is_taken_back(host, settings, said):
    host.check_output("systemd-run --unit=taken --collect python3 -c %s", LISTEN)
    before = host.check_output(STATE)
    done, seconds = locked_out(name_of(host), ssh_settings=settings)
    host.check_output("systemctl stop taken")
    assert done.returncode != 0
    last = done.stdout.strip().splitlines()[-1]
    assert said in done.stdout, done.stdout
    assert last.startswith(f"FAILED: {name_of(host)}: "), last
    assert "ssh_settings" in last or "ssh_operator_keys" in last
    assert seconds < 60
    assert host.check_output(STATE) == before
    assert login(host, "root", "true").returncode == 0
    assert login(host, "operator", "true").returncode == 0


@pytest.mark.drill
def test_nothing_is_shut_before_the_operator_has_got_in(host):
    """The keys are somebody else's, so that the one of this machine does not open the operator's account."""
    extra = "/etc/ssh/sshd_config.d/05-theirs.conf"
    host.check_output(
        f"printf 'Match User operator\\nAuthorizedKeysFile .ssh/authorized_keys\\n' >{extra} && systemctl reload ssh"
    )
    try:
        before = host.check_output(STATE)
        done, _seconds = locked_out(name_of(host), ssh_settings={"Banner": "/etc/issue"}, ssh_operator_keys=[THEIRS])
        assert done.returncode != 0
        assert "ssh_operator_keys" in done.stdout.strip().splitlines()[-1]
        assert host.check_output(STATE) == before
    finally:
        host.check_output(f"rm {extra} && systemctl reload ssh")


def beside_ssh(host, script):
    """Look at a server by another way than the one that is at stake, where every new login hangs."""
    return podman("exec", f"offramp-ssh-{name_of(host)}", "sh", "-c", script)


def run_without_a_proof(host, eventually, seconds):
    """Start a run; return it once its change is there: every new login hangs, so that the proof does not come."""
    values = {"ssh_settings": {"ForceCommand": "/bin/sleep 60"}, "ssh_guard_seconds": seconds}
    run = subprocess.Popen(
        command(name_of(host), values), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    eventually(lambda: beside_ssh(host, f"grep -q ForceCommand {CONFIGURATION}").returncode == 0, seconds=30)
    return run


@pytest.mark.drill
def test_a_run_that_is_killed_before_the_proof_leaves_the_host_as_it_was(host, eventually):
    """The timer on the host knows nothing of the controller."""
    before = beside_ssh(host, STATE).stdout
    kill(run_without_a_proof(host, eventually, 12))
    assert beside_ssh(host, STATE).stdout != before
    eventually(lambda: beside_ssh(host, "ls /var/lib/offramp/undo/ssh").returncode != 0, seconds=20)
    assert beside_ssh(host, STATE).stdout == before
    eventually(lambda: login(host, "operator", "echo in").stdout.strip() == "in")


@pytest.mark.drill
def test_a_host_that_loses_power_before_the_proof_starts_sshd_as_it_was(host, eventually):
    """What the way back does at a boot, before sshd reads its configuration."""
    before = beside_ssh(host, STATE).stdout
    kill(run_without_a_proof(host, eventually, 40))
    changed = beside_ssh(host, STATE).stdout
    assert changed != before
    # A boot forgets the timer, and reads the units anew.
    assert beside_ssh(host, "systemctl stop offramp-undo-ssh.timer && systemctl daemon-reload").returncode == 0
    # The module and the way back have sshd started while they hold the lock: a start that waited for it would hang.
    locked = "flock /var/lib/offramp/undo/ssh.lock timeout 20 systemctl restart ssh"
    assert beside_ssh(host, locked).returncode == 0
    assert beside_ssh(host, STATE).stdout == changed
    assert beside_ssh(host, "systemctl restart ssh").returncode == 0
    assert beside_ssh(host, STATE).stdout == before
    assert login(host, "operator", "echo in").stdout.strip() == "in"


@pytest.mark.drill
def test_what_is_left_of_a_killed_run_keeps_its_hands_off_a_later_one(host, eventually):
    """What waits for the proof outlives the main process, and gives up while the later run waits for its own."""
    before = beside_ssh(host, STATE).stdout
    run = run_without_a_proof(host, eventually, 40)
    run.kill()
    run.wait()
    # What is left of it gives up 15 s after its change, which is then within the later run's 12.
    time.sleep(4)
    slow = '[ "$USER" = root ] || sleep $(cat /run/slow); eval "$SSH_ORIGINAL_COMMAND"'
    host.check_output("echo 12 >/run/slow")
    done = converge(name_of(host), ssh_settings={"ForceCommand": f"/bin/sh -c '{slow}'"})
    host.check_output("echo 0 >/run/slow")
    assert done.returncode == 0, done.stdout
    assert "changed=1" in converge(name_of(host)).stdout
    assert beside_ssh(host, STATE).stdout == before


def test_what_sshd_has_loaded_counts_and_not_the_file_alone(host):
    host.check_output(
        f"cp -p {CONFIGURATION} /root/saved && echo 'Banner /etc/issue' >>{CONFIGURATION} && systemctl reload ssh"
    )
    # A reload is a signal: sshd reads the file a moment later.
    time.sleep(2)
    host.check_output(f"mv /root/saved {CONFIGURATION}")
    assert "changed=1" in converge(name_of(host)).stdout
    assert "Debian" not in login(host, "operator", "true").stderr
    assert "changed=0" in converge(name_of(host)).stdout


def attempts(stranger, address, count=20):
    """Try to log in so often; return how often it was refused by sshd, and the seconds until its last answer."""
    begin = answered = time.monotonic()
    for number in range(count):
        done = stranger.run(
            "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "
            "-o ConnectTimeout=2 root@%s true || false",
            address,
        )
        if "Permission denied" not in done.stderr:
            return number, answered - begin
        answered = time.monotonic()
    return count, answered - begin


@pytest.mark.drill
def test_who_guesses_is_shut_out_and_the_controller_is_not(host, eventually):
    stranger, address = another(STRANGERS[name_of(host)]), host.ansible.get_variables()["address"]
    refused, seconds = attempts(stranger, address)
    assert refused < 20
    assert seconds <= 10
    options = os.environ["ANSIBLE_SSH_COMMON_ARGS"].split()
    bad = ["ssh", *options, *NEW, "-o", "PubkeyAuthentication=no", f"root@{name_of(host)}", "true"]
    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(lambda _: subprocess.run(bad, **SILENT), range(20)):
            assert "Permission denied" in done.stderr
    assert login(host, "root", "true").returncode == 0
    # How to have it again at once: docs/lockout.md
    host.check_output("systemctl restart ssh")
    eventually(lambda: attempts(stranger, address, 1)[0] == 1, seconds=20)


@pytest.mark.drill
def test_root_is_let_in_until_the_site_comes_in_as_the_operator(host):
    name = name_of(host)
    assert login(host, "root", "true").returncode == 0
    done = converge(name, ansible_user="operator")
    assert done.returncode == 0, done.stdout
    assert "Permission denied" in login(host, "root", "true").stderr
    assert "changed=0" in converge(name, ansible_user="operator").stdout
    locked, _seconds = locked_out(name, ansible_user="operator", ssh_settings={"DenyUsers": "operator"})
    assert locked.returncode != 0
    assert login(host, "operator", "sudo -n true").returncode == 0
    done = converge(name, ansible_user="operator", ssh_root_login="prohibit-password")
    assert done.returncode == 0, done.stdout
    assert login(host, "root", "true").returncode == 0
