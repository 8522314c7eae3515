"""Releases on a host are numbered, kept and pruned; a deploy holds a lock that outlives it by a minute at most."""

import json
import threading
import time

import pytest
from ansible.module_utils import app_store
from ansible.module_utils.app_store import HeldError, Lock, Releases, secrets_in

ANN = {"who": "ann@laptop", "since": "10:00", "what": "main"}


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(app_store, "RUN", tmp_path / "run")
    monkeypatch.setattr(app_store, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(app_store, "LEASE_SECONDS", 0.5)
    return tmp_path / "run"


@pytest.fixture
def releases(tmp_path):
    found = Releases(tmp_path / "shop")
    (tmp_path / "shop/builds").mkdir(parents=True)
    for number in range(1, 10):
        found.directory(number).mkdir(parents=True)
        found.change(number, number=number, build=f"b{number}", state="ok")
        found.build_directory(f"b{number}").mkdir()
        (tmp_path / f"shop/builds/b{number}.json").touch()
    return found


def test_a_second_deploy_is_told_who_has_the_lock_since_when_and_for_what():
    Lock("shop", "one").take(ANN)
    with pytest.raises(HeldError, match=r"shop is being deployed by ann@laptop since 10:00 \(main\)"):
        Lock("shop", "two").take(ANN)


def test_the_lock_of_another_app_is_another_lock():
    Lock("shop", "one").take(ANN)
    Lock("blog", "two").take(ANN)


def test_a_lock_that_nobody_renews_frees_itself():
    Lock("shop", "one").take(ANN)
    time.sleep(0.6)
    Lock("shop", "two").take(ANN)
    with pytest.raises(HeldError, match="was lost to ann@laptop"), Lock("shop", "one").hold():
        pass


def test_the_lock_of_a_killed_run_is_waited_for():
    Lock("shop", "one").take(ANN)
    Lock("shop", "two").take(ANN, wait_seconds=2)


def test_who_waits_for_a_deploy_that_goes_on_is_told_of_it():
    Lock("shop", "one").take(ANN)
    with Lock("shop", "one").hold(), pytest.raises(HeldError, match="being deployed by ann@laptop"):
        Lock("shop", "two").take(ANN, wait_seconds=1)


def test_a_lock_is_kept_for_as_long_as_a_step_takes():
    Lock("shop", "one").take(ANN)
    with Lock("shop", "one").hold():
        time.sleep(1)
        with pytest.raises(HeldError):
            Lock("shop", "two").take(ANN)


def test_a_lock_can_be_broken_and_its_holder_then_stops():
    Lock("shop", "one").take(ANN)
    Lock("shop", "two").take(ANN, broken=True)
    with pytest.raises(HeldError), Lock("shop", "one").hold():
        pass


def test_a_lock_that_was_given_back_is_free_and_only_its_holder_gives_it_back():
    Lock("shop", "one").take(ANN)
    Lock("shop", "two").release()
    with pytest.raises(HeldError):
        Lock("shop", "two").take(ANN)
    Lock("shop", "one").release()
    Lock("shop", "two").take(ANN)


def test_a_step_of_a_killed_run_that_still_goes_on_is_waited_for():
    order = []
    Lock("shop", "one").take(ANN)

    def first():
        with Lock("shop", "one").hold():
            time.sleep(0.4)
            order.append("first")

    step = threading.Thread(target=first)
    step.start()
    time.sleep(0.1)
    Lock("shop", "two").take(ANN, broken=True)
    with Lock("shop", "two").hold():
        order.append("second")
    step.join()
    assert order == ["first", "second"]


def test_of_twenty_deploys_at_once_one_proceeds():
    won = []

    def begin(number):
        try:
            Lock("shop", str(number)).take(ANN)
            won.append(number)
        except HeldError:
            pass

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_the_newest_releases_are_kept_and_the_builds_of_the_others_go(releases):
    releases.point(".served", 9)
    releases.point("current", 9)
    releases.change(9, state="serving")
    releases.prune(5)
    assert releases.numbers() == [5, 6, 7, 8, 9]
    assert sorted(path.name for path in (releases.home / "builds").iterdir() if path.is_dir()) == [
        f"b{number}" for number in range(5, 10)
    ]


def test_the_release_that_serves_and_the_one_before_are_never_removed(releases):
    releases.point(".served", 3)
    releases.point("current", 3)
    releases.change(3, state="serving")
    for number in range(4, 10):
        releases.change(number, state="failed")
    releases.prune(2)
    assert releases.numbers() == [2, 3, 8, 9]


def test_a_build_that_a_kept_release_shares_is_kept(releases):
    releases.change(9, build="b1", state="serving")
    releases.point(".served", 9)
    releases.prune(2)
    assert releases.build_directory("b1").is_dir()


def test_a_release_that_is_not_whole_is_none(releases):
    releases.directory(10).mkdir()
    assert [release["number"] for release in releases.all()] == list(range(1, 10))


def test_a_link_tells_its_release(releases):
    assert releases.at("current") is None
    releases.point("current", 4)
    assert releases.at("current") == 4
    assert json.loads((releases.home / "current/release.json").read_text())["build"] == "b4"


@pytest.mark.parametrize(
    ("line", "secrets"),
    [
        ("URL='postgres://shop:p%40ssw0rd@127.0.0.1/shop'", {"p%40ssw0rd", "p@ssw0rd"}),
        (r"KEY='it'\''s-4-secret-key'", {"it's-4-secret-key"}),
        ("KEY='4 lines\nof a secret'", {"4 lines\nof a secret"}),
        ("COLOR='blue'", set()),
        ("HOSTS='shop.example,www.shop.example'", set()),
        ("PORT='5432'", set()),
        ("URL='amqp://a:b@localhost'", set()),
        ("URL='http://[broken'", set()),
    ],
)
def test_what_may_be_secret_in_an_environment_is_known(line, secrets):
    found = secrets_in(f"# A comment\nA='1'\n{line}\nZ='2'\n")
    assert secrets <= found
    assert bool(found) == bool(secrets)
