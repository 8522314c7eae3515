"""A scheduled job is a timer, and one with another time or command is another job."""

from library.app_gone import apps_here
from library.app_jobs import files_of

JOB = {"calendar": "*-*-* 03:30:00", "command": 'python tidy.py "100%" $HOME'}


def test_a_job_is_a_timer_a_service_and_a_command_that_no_unit_can_misread():
    files = {path.name: text for path, text in files_of("shop", [JOB]).items()}
    timer = next(text for name, text in files.items() if name.endswith(".timer"))
    service = next(text for name, text in files.items() if name.endswith(".service"))
    command = next(text for name, text in files.items() if name.startswith("shop."))
    assert "OnCalendar=*-*-* 03:30:00" in timer
    assert "100%" not in service
    assert command == 'python tidy.py "100%" $HOME\n'


def test_a_job_at_another_time_is_another_job():
    assert not files_of("shop", [JOB]).keys() & files_of("shop", [{**JOB, "calendar": "*-*-* 04:00:00"}]).keys()


def test_two_apps_share_no_job():
    assert not files_of("shop", [JOB]).keys() & files_of("shop-2", [JOB]).keys()


def test_the_apps_on_a_host_are_those_whose_programs_are_ours(tmp_path):
    (tmp_path / "shop.conf").write_text("; Ansible managed\n; app: shop\n\n[program:shop-web-1]\n")
    (tmp_path / "theirs.conf").write_text("[program:theirs]\n")
    assert apps_here(tmp_path) == {"shop": tmp_path / "shop.conf"}
