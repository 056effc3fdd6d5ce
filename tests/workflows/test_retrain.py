"""Training again: by the clock, by hand, by another system.

The tests tell one story in their order.
"""

from __future__ import annotations

from world import World


def test_the_clock_finds_nothing_new(live: World) -> None:
    live.repository.checkout("main")
    before = live.objects()
    run = live.run("retrain.yml", "schedule", {"schedule": "17 3 * * 1"})
    run.expect(model="success")
    assert run.output("model", "train", "verdict") == "UNCHANGED"
    assert "Nothing that decides a model changed" in run.summaries["model"]
    assert live.objects() == before


def test_force_trains_though_nothing_changed(live: World) -> None:
    runs = len(live.objects("runs/"))
    run = live.dispatch("retrain.yml", force="true")
    run.expect(model="success")  # it is the model that serves already
    assert len(live.objects("runs/")) == runs + 1
    assert run.output("model", "train", "model-digest") == live.digest(1)


def test_a_dry_run_judges_and_stores_nothing(live: World) -> None:
    before = live.objects("candidates/")
    run = live.dispatch("retrain.yml", params='{"max_iter": 45}', dry_run="true")
    run.expect(model="success")
    assert run.output("model", "train", "verdict") == "PROMOTE"
    assert "PROMOTE" in run.summaries["model"]
    assert "report" in run.artifacts
    assert live.objects("candidates/") == before
    assert live.serving == live.digest(1)


def test_parameters_by_hand_go_through_gate_and_deployment(live: World) -> None:
    run = live.dispatch("retrain.yml", params='{"max_iter": 40}', reason="More trees, for May")
    run.expect(model="success", deploy="success")
    assert live.champion == 2
    assert live.serving == live.digest(2) == run.output("model", "train", "model-digest")
    parameters = live.registry.read_manifest(live.digest(2)).parameters
    assert (parameters["max_iter"], parameters["max_leaf_nodes"]) == (40, 6)
    assert live.registry.version(2).source.reason == "More trees, for May"


def test_a_merge_after_that_deploys_nothing_older(live: World) -> None:
    live.change("docs", "# Changelog", "# Changes", "CHANGELOG.md")
    run = live.merge("docs")
    run.expect(model="success")
    assert run.output("model", "train", "verdict") == "UNCHANGED"
    assert live.champion == 2


def test_another_system_gives_its_wishes_as_an_object(live: World) -> None:
    live.repository.checkout("main")
    payload = {
        "action": "retrain",
        "branch": "main",
        "client_payload": {"reason": "drift", "params": {"max_iter": 45}, "dry-run": True},
    }
    run = live.run("retrain.yml", "repository_dispatch", payload)
    run.expect(model="success")  # and the job `deploy` did not run
    assert run.output("model", "train", "verdict") == "PROMOTE"
    assert run.output("model", "train", "model-digest") not in (live.digest(1), live.digest(2))
    assert live.champion == 2


def test_parameters_that_are_no_json_are_one_clear_error(live: World) -> None:
    run = live.dispatch("retrain.yml", params="max_iter=40")
    run.expect(model="failure")
    assert "exit status 2" in run.log
    (error,) = run.errors()
    assert "TRILHO_PARAMS" in error.message
