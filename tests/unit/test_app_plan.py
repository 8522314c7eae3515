"""Which release the site is to run follows from what every host says, and from what the run is for."""

import pytest

from action_plugins.app_plan import RefusedError, decide

RUN = {"who": "ann@laptop", "since": "2026-05-04 10:00:00 UTC"}


def release(number, build, state="ok", **more):
    about = {"version": f"version of {build}", "who": "bob", "when": "then", "what": "deploy"}
    return {"number": number, "build": build, "state": state, **about, **more}


def host(*releases, same_env=None, served=None):
    serving = next((one["number"] for one in releases if one["state"] == "serving"), None)
    same = [one["number"] for one in releases] if same_env is None else same_env
    return {"releases": list(releases), "served": serving if served is None else served, "same_env": same}


def plan(states, mode="deploy", build="b2", **more):
    wanted = {"build": build, "version": f"version of {build}"}
    return decide("shop", states, mode, wanted, RUN, **more)


EMPTY = host()
OLD = host(release(1, "b1", "serving"))


@pytest.mark.parametrize("mode", ["site", "deploy"])
def test_the_first_release_is_number_one_and_its_release_command_is_due(mode):
    found = plan({"web1": EMPTY, "web2": EMPTY}, mode)
    assert (found["number"], found["build"], found["release_command"], found["serving"]) == (1, "b2", True, None)
    assert found["about"] == {"version": "version of b2", "what": "deploy", "who": "ann@laptop", "when": RUN["since"]}


def test_other_code_is_the_next_release():
    found = plan({"web1": OLD, "web2": OLD})
    assert (found["number"], found["new"], found["serving"], found["release_command"]) == (2, True, 1, True)


def test_other_config_is_the_next_release_of_the_same_code():
    changed = {**OLD, "same_env": []}
    found = plan({"web1": OLD, "web2": changed}, build="b1")
    assert (found["number"], found["build"], found["about"]["what"]) == (2, "b1", "config")


def test_what_serves_already_is_no_new_release():
    found = plan({"web1": OLD, "web2": OLD}, build="b1")
    assert (found["number"], found["new"], found["release_command"]) == (1, False, False)
    assert found["about"]["who"] == "bob"


def test_a_host_that_joins_gets_the_release_that_serves():
    found = plan({"web1": OLD, "web2": EMPTY}, build="b1")
    assert (found["number"], found["new"], found["release_command"]) == (1, False, False)


def test_a_number_is_never_given_twice_on_a_site():
    found = plan({"web1": OLD, "web2": host(release(7, "b9", "failed"))})
    assert found["number"] == 8


def test_an_interrupted_release_goes_on_under_its_number():
    states = {"web1": host(release(1, "b1", "serving"), release(2, "b2", "building")), "web2": OLD}
    found = plan(states)
    assert (found["number"], found["new"], found["release_command"]) == (2, False, True)


def test_the_release_command_of_an_interrupted_release_is_not_run_again():
    states = {"web1": host(release(1, "b1", "serving"), release(2, "b2", "building", released=True)), "web2": OLD}
    assert plan(states)["release_command"] is False


def test_a_release_that_failed_is_tried_again_under_a_new_number():
    states = {"web1": host(release(1, "b1", "serving"), release(2, "b2", "failed"))}
    assert plan(states)["number"] == 3


def test_after_a_failed_release_the_one_that_serves_is_still_the_one_that_serves():
    states = {"web1": host(release(1, "b1", "serving"), release(2, "b2", "failed"))}
    assert plan(states, build="b1")["number"] == 1


ROLLED_BACK = host(release(1, "b1"), release(2, "b2", "rolled back"), release(3, "b1", "serving"), same_env=[2])


def test_a_site_leaves_alone_what_was_rolled_back():
    found = plan({"web1": ROLLED_BACK | {"same_env": [1, 2, 3]}}, "site")
    assert (found["number"], found["build"]) == (3, "b1")
    assert "version of b2 was rolled back, and v3 goes on" in found["held"]


def test_a_deploy_takes_what_was_rolled_back_again():
    assert plan({"web1": ROLLED_BACK}, "deploy")["build"] == "b2"


def test_new_code_ends_a_rollback():
    found = plan({"web1": ROLLED_BACK}, "site", build="b3")
    assert (found["number"], found["build"], found["held"]) == (4, "b3", "")


def test_a_site_takes_new_config_but_not_the_code_that_was_rolled_back():
    found = plan({"web1": ROLLED_BACK | {"same_env": []}}, "site")
    assert (found["number"], found["build"]) == (4, "b1")


def test_a_site_leaves_config_alone_that_was_rolled_back():
    state = host(release(1, "b1"), release(2, "b1", "rolled back"), release(3, "b1", "serving"), same_env=[2])
    found = plan({"web1": state}, "site", build="b1")
    assert found["number"] == 3
    assert "this config was rolled back" in found["held"]


def test_a_change_of_config_keeps_the_code_that_serves():
    found = plan({"web1": OLD | {"same_env": []}}, "config", note="config: set A")
    assert (found["number"], found["build"], found["about"]["version"]) == (2, "b1", "version of b1")
    assert found["about"]["what"] == "config: set A"


def test_there_is_no_config_to_change_before_the_first_release():
    with pytest.raises(RefusedError, match="serves no release yet"):
        plan({"web1": EMPTY}, "config")


HISTORY = host(
    release(1, "b1"), release(2, "b2"), release(3, "b3", "failed", reason="web1: 500"), release(4, "b4", "serving")
)


def test_a_rollback_goes_to_the_release_that_served_before():
    found = plan({"web1": HISTORY}, "rollback")
    assert (found["number"], found["build"], found["env_from"], found["leaves"]) == (5, "b2", 2, 4)
    assert found["about"]["what"] == "rollback to v2"
    assert found["release_command"] is False


@pytest.mark.parametrize("name", ["v1", "1"])
def test_a_rollback_goes_to_the_release_that_is_named(name):
    assert plan({"web1": HISTORY}, "rollback", release=name)["build"] == "b1"


@pytest.mark.parametrize(
    ("states", "name", "message"),
    [
        ({"web1": HISTORY}, "v3", "v3 of shop failed when it was deployed, and is not gone back to: web1: 500"),
        ({"web1": HISTORY}, "v4", "v4 of shop is the release that serves"),
        ({"web1": HISTORY}, "v9", "shop has no release v9; those that are kept beside the serving one: v1, v2, v3"),
        ({"web1": HISTORY}, "main", "shop has no release main"),
        ({"web1": HISTORY, "web2": host(release(4, "b4", "serving"))}, "v1", "v1 of shop is not on web2"),
        ({"web1": OLD}, "", "shop has no earlier release that served"),
        ({"web1": EMPTY}, "", "shop serves no release yet"),
    ],
)
def test_a_rollback_that_cannot_be_is_refused(states, name, message):
    with pytest.raises(RefusedError) as refusal:
        plan(states, "rollback", release=name)
    assert message in str(refusal.value)


def test_a_second_rollback_goes_further_back():
    state = host(release(1, "b1"), release(2, "b2"), release(3, "b3", "rolled back"), release(4, "b2", "serving"))
    assert plan({"web1": state}, "rollback", release="v1")["build"] == "b1"


def test_a_rollback_that_was_cut_off_goes_on():
    cut = host(*HISTORY["releases"], release(5, "b2", "building", what="rollback to v2"))
    assert plan({"web1": cut, "web2": HISTORY}, "rollback")["number"] == 5
