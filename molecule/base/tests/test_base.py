"""What every host has after the role base."""

import re
import subprocess

HOLD_LOCK = """
import fcntl, time
with open("/var/lib/dpkg/lock-frontend", "w") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    time.sleep(6)
"""


def test_the_operator_is_root_by_sudo_without_a_password(host):
    with host.sudo("operator"):
        assert host.check_output("sudo --non-interactive id --user --name") == "root"


def test_the_operator_has_no_password_to_guess(host):
    assert host.check_output("getent shadow operator").split(":")[1] in ("*", "!")


def test_another_account_gets_no_sudo(host):
    with host.sudo("nobody"):
        assert host.run("sudo --non-interactive true").rc != 0


def test_no_other_account_looks_into_the_operators_home(host):
    with host.sudo("nobody"):
        assert host.run("ls ~operator").rc != 0


def test_a_file_of_a_package_that_was_changed_is_told_within_the_week(host):
    host.check_output("cp -p /usr/bin/curl /root/saved && printf x >>/usr/bin/curl")
    try:
        host.check_output("run-parts /etc/cron.weekly")
        assert "/usr/bin/curl" in host.check_output("journalctl --output=cat --identifier=debsums")
    finally:
        host.check_output("mv /root/saved /usr/bin/curl")


def test_programs_see_utf8_and_the_time_zone(host):
    assert host.check_output("bash --login -c 'locale charmap'") == "UTF-8"
    assert host.check_output("date +%Z") == "UTC"


def test_the_journal_runs_with_its_limit(host):
    """The figure is the running journald's own word, from when it started."""
    log = host.check_output("journalctl --no-pager --output=cat --identifier=systemd-journald --grep='max '")
    assert re.search(r"max 512(\.0)?M", log.splitlines()[-1])


def test_a_program_that_crashes_leaves_no_dump_even_where_it_asks_for_one(host):
    assert host.check_output("ulimit -Hc") == "0"
    with host.sudo("operator"):
        assert host.check_output("sudo -n -i sh -c 'ulimit -Hc'") == "0"


def test_a_module_that_is_blocked_has_no_way_into_the_kernel(host):
    lines = host.file("/etc/modprobe.d/offramp.conf").content_string.splitlines()
    assert "install sctp /bin/false" in lines
    assert "blacklist usb-storage" in lines


def test_a_killed_install_leaves_services_startable(host):
    assert not host.file("/usr/sbin/policy-rc.d").exists


def test_an_interrupted_install_and_a_held_lock_are_overcome(host):
    """What a power cut in the middle of an install leaves, while a first boot's update still holds the lock."""
    host.check_output("apt-get remove --quiet --yes logrotate")
    host.check_output("touch /var/lib/dpkg/updates/0001")
    assert "dpkg was interrupted" in host.run("apt-get install --yes logrotate").stderr
    host.check_output("systemd-run --unit=lock-holder python3 -c %s", HOLD_LOCK)
    done = subprocess.run(["ansible-playbook", "playbooks/base.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert host.run("logrotate --version").rc == 0
    assert host.check_output("ls /var/lib/dpkg/updates") == ""
