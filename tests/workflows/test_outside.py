"""From outside: another repository calls the rail, and single actions, at a tag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import churn
import pytest
from rail import Run, Runner, copy_of_trilho
from world import World, world


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory, runner: Runner) -> Iterator[World]:
    """A repository that is not Trilho's, on a machine where Trilho can be had by its name."""
    folder = tmp_path_factory.mktemp("outside")
    runner.known.append(copy_of_trilho(folder / "trilho", "octo/trilho"))
    with world(folder, runner, churn.make) as made:
        yield made
    runner.known.clear()


@pytest.fixture(scope="module")
def checked(outside: World) -> tuple[int, Run]:
    outside.repository.checkout("change")
    return outside.open_pull_request(workflow="check.yml")


def test_both_ways_work_beside_each_other(checked: tuple[int, Run]) -> None:
    _, run = checked
    run.expect(model="success", outcome="success", single="success")


def test_the_called_workflow_judges_reports_and_stores(
    outside: World, checked: tuple[int, Run]
) -> None:
    number, run = checked
    digest = run.output("outcome", "given", "digest")
    assert run.output("outcome", "given", "verdict") == "PROMOTE"
    assert run.output("outcome", "given", "changed") == "true"
    assert digest[7:19] in outside.comment(number)
    assert "1 passed" in run.log  # the project's own test
    assert set(run.artifacts) == {"churn-report", "churn-bundle"}
    assert f"registry/manifests/{digest.removeprefix('sha256:')}.json" in outside.objects()


def test_its_own_requirements_are_beside_the_lock(outside: World, checked: tuple[int, Run]) -> None:
    _, run = checked
    manifest = json.loads((run.artifacts["churn-bundle"] / "manifest.json").read_text())
    assert manifest["name"] == "churn"
    assert manifest["dataset"]["rows"] == churn.CUSTOMERS


def test_single_actions_give_their_outputs(outside: World, checked: tuple[int, Run]) -> None:
    _, run = checked
    assert run.output("single", "validate", "rows") == str(churn.CUSTOMERS)
    digest = run.output("single", "train", "model-digest")
    assert digest != run.output("outcome", "given", "digest")  # of other parameters
    assert run.output("single", "report", "comment-url") == ""
    assert Path(run.output("single", "report", "report-path")).name == "report.md"
    assert run.output("single", "publish", "model-version") == "1"
    assert run.output("single", "publish", "model-digest") == digest
