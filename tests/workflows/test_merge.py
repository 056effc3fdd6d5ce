"""Merges: what the reviewer saw is what is deployed, in order, or nothing changes.

The tests tell one story in their order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import boto3
import pytest
from docker_stand_in import Docker
from ecs_service import CLUSTER, SERVICE
from world import BEST, BETTER, PLAIN, World

from trilho.registry import MERGED


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Docker:
    return Docker(tmp_path_factory.mktemp("engine") / "bin")


@pytest.fixture(scope="module")
def project(empty: World, docker: Docker) -> Iterator[World]:
    """It builds its serving image itself."""
    made = boto3.client("ecr").create_repository(repositoryName="serving")
    empty.variables["TRILHO_BUILD_IMAGE"] = "true"
    empty.variables["TRILHO_IMAGE_REPOSITORY"] = made["repository"]["repositoryUri"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{docker.folder}{os.pathsep}{os.environ['PATH']}")
        yield empty


def image() -> str:
    """The image that the service runs."""
    ecs = boto3.client("ecs")
    service = ecs.describe_services(cluster=CLUSTER, services=[SERVICE])["services"][0]
    found = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])
    return found["taskDefinition"]["containerDefinitions"][0]["image"]


def revisions() -> int:
    """How many revisions the service's task definition has."""
    found = boto3.client("ecs").list_task_definitions(familyPrefix=SERVICE)
    return len(found["taskDefinitionArns"])


def test_the_first_merge_trains_publishes_and_deploys(project: World, docker: Docker) -> None:
    run = project.push()
    run.expect(model="success", deploy="success")
    digest = run.output("model", "train", "model-digest")
    assert run.output("model", "train", "verdict") == "PROMOTE"
    assert run.output("deploy", "publish", "model-version") == "1"
    assert run.output("deploy", "deploy", "outcome") == "deployed"
    assert run.output("deploy", "deploy", "service-url") == project.answers.url
    assert run.output("deploy", "deploy", "previous-version") == ""
    assert project.champion == 1
    assert project.serving == project.digest(1) == digest
    assert "DEPLOYED" in run.summaries["deploy"]
    assert [arguments[0] for arguments, _ in docker.called] == ["build", "login", "push", "logout"]
    assert image() == run.output("deploy", "image", "image")
    assert image().startswith(f"{project.variables['TRILHO_IMAGE_REPOSITORY']}@sha256:")


def test_a_merge_deploys_the_bundle_of_its_pull_request(project: World, docker: Docker) -> None:
    before = image()
    project.change("better", PLAIN, BETTER)
    _, review = project.open_pull_request()
    review.expect(model="success")
    seen = review.output("model", "train", "model-digest")
    runs = project.objects("runs/")

    run = project.merge("better")
    run.expect(model="success", deploy="success")
    assert run.output("model", "train", "model-digest") == seen
    assert project.objects("runs/") == runs  # nothing was trained
    assert project.serving == project.digest(2) == seen
    assert project.champion == 2
    assert run.output("deploy", "deploy", "previous-version") == "1"
    assert image() == before  # a new model needs no new image
    assert docker.called == []
    summary = run.summaries["deploy"]
    assert project.digest(1)[7:19] in summary
    assert seen[7:19] in summary


def test_a_merge_that_decides_nothing_deploys_nothing(project: World) -> None:
    project.change("docs", "# Changelog", "# Changes", "CHANGELOG.md")
    before = revisions()
    run = project.merge("docs")
    run.expect(model="success")  # and the job `deploy` did not run
    assert run.output("model", "train", "verdict") == "UNCHANGED"
    assert run.output("model", "train", "model-digest") == project.digest(2)
    assert revisions() == before


def test_a_deployment_that_fails_is_rolled_back_and_says_why(project: World) -> None:
    project.change("fails-in-service", BETTER, BEST)
    with project.failing():  # it answers, and wrongly
        run = project.merge("fails-in-service")
    run.expect(model="success", deploy="failure")
    assert "exit status 6" in run.log
    assert project.serving == project.digest(2)
    assert project.champion == 2
    assert project.registry.quarantined(run.output("model", "train", "model-digest")) is not None
    assert "ROLLED BACK" in run.summaries["deploy"].lstrip()[:40], run.summaries["deploy"]
    assert any("golden row" in e.message for e in run.errors()), run.errors()


def test_after_a_failure_other_merges_are_not_red(project: World) -> None:
    project.change("more-docs", "# Changes", "# Changes, all", "CHANGELOG.md")
    run = project.merge("more-docs")
    run.expect(model="success")
    assert run.output("model", "train", "verdict") == "UNCHANGED"
    assert run.output("model", "train", "model-digest") == project.digest(2)
    assert "quarantined" in run.summaries["model"]
    assert project.serving == project.digest(2)


def test_of_two_merges_at_once_the_older_gives_way(project: World) -> None:
    repository = project.repository
    project.change("first", BEST, "params: {max_iter: 20, max_leaf_nodes: 8}")
    repository.merge("first")
    project.change("second", "max_iter: 20", "max_iter: 25")
    newest = repository.merge("second")
    before = revisions()

    # the older run comes to its deployment when the newer commit is there already
    repository.git("checkout", "--quiet", "-B", "older", "main~1")
    project.github.heads["main"] = newest
    payload = {"ref": "refs/heads/main", "after": repository.head}
    older = project.run("deploy.yml", "push", payload)
    older.expect(model="success", deploy="success")
    assert older.output("deploy", "deploy", "outcome") == "superseded"
    assert project.serving == project.digest(2)
    assert project.champion == 2
    assert revisions() == before
    assert any(newest[:12] in a.message for a in older.annotations if a.level == "notice")

    repository.checkout("main")
    newer = project.push()
    newer.expect(model="success", deploy="success")
    assert newer.output("deploy", "deploy", "outcome") == "deployed"
    assert project.serving == newer.output("model", "train", "model-digest")
    assert project.registry.alias(MERGED).version == project.champion  # type: ignore[union-attr]


def test_nothing_was_left_behind(project: World) -> None:
    service = boto3.client("ecs").describe_services(cluster=CLUSTER, services=[SERVICE])
    assert [d["status"] for d in service["services"][0]["deployments"]] == ["PRIMARY"]
