"""What of a host is older than it could be."""

import pytest

from library.host_patches import newer_kernel, replaced_below, upgrades

SIMULATED = """
Reading package lists...
Inst openssl [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64]) []
Inst linux-image-6.12.57+deb13-amd64 (6.12.57-1 Debian:13.2/stable [amd64])
Conf openssl (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
"""


def test_what_apt_would_install_is_listed_with_its_versions():
    new = "linux-image-6.12.57+deb13-amd64 (new) to 6.12.57-1"
    assert upgrades(SIMULATED) == [new, "openssl 3.5.1-1 to 3.5.1-1+deb13u1"]


MAP = "7f00-7f01 {rights} 00000000 00:35 1234   {path}\n"
NGINX = "0::/system.slice/nginx.service\n"
INSTANCE = "0::/system.slice/system-postgresql.slice/postgresql@17-main.service\n"
HYBRID = "12:pids:/system.slice/nginx.service\n1:name=systemd:/system.slice/nginx.service\n"


@pytest.mark.parametrize(
    ("rights", "path", "cgroup", "units"),
    [
        ("r-xp", "/usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)", NGINX, {"nginx.service"}),
        ("r-xp", "/usr/sbin/nginx (deleted)", HYBRID, {"nginx.service"}),
        ("r-xp", "/usr/lib/postgresql/17/bin/postgres (deleted)", INSTANCE, {"postgresql@17-main.service"}),
        ("r-xp", "/usr/lib/x86_64-linux-gnu/libssl.so.3", NGINX, set()),
        ("rw-s", "/dev/zero (deleted)", NGINX, set()),
        ("r--p", "/usr/lib/locale/C.utf8/LC_CTYPE (deleted)", NGINX, set()),
        ("r-xp", "/srv/www/shop/builds/1/lib/x.so (deleted)", NGINX, set()),
        ("r-xp", "/usr/bin/bash (deleted)", "0::/user.slice/user-0.slice/session-1.scope\n", set()),
    ],
)
def test_a_service_is_stale_by_what_its_processes_have_loaded(tmp_path, rights, path, cgroup, units):
    process = tmp_path / "17"
    process.mkdir()
    (process / "maps").write_text(MAP.format(rights=rights, path=path))
    (process / "cgroup").write_text(cgroup)
    assert replaced_below(tmp_path) == units


def test_a_process_that_has_ended_meanwhile_is_none(tmp_path):
    (tmp_path / "17").mkdir()
    assert replaced_below(tmp_path) == set()


@pytest.mark.parametrize(
    ("running", "installed", "newer"),
    [
        ("6.12.9+deb13-amd64", ["6.12.9+deb13-amd64", "6.12.10+deb13-amd64"], "6.12.10+deb13-amd64"),
        ("6.1.0-39-cloud-amd64", ["6.1.0-40-cloud-amd64"], "6.1.0-40-cloud-amd64"),
        ("6.1.0-39-cloud-amd64", ["6.1.0-40-amd64"], ""),
        ("6.12.10+deb13-amd64", ["6.12.9+deb13-amd64", "6.12.10+deb13-amd64"], ""),
        ("6.12.10+deb13-amd64", [], ""),
        ("6.18.5", ["6.18.6"], ""),
    ],
)
def test_a_kernel_is_newer_only_beside_one_of_its_flavour(running, installed, newer):
    assert newer_kernel(running, installed) == newer
