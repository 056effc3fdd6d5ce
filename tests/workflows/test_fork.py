"""A fork's pull request: no secret, no registry, no write; another workflow posts its comment."""

from __future__ import annotations

from typing import Any

import pytest
from rail import Run
from world import BETTER, NAME, PLAIN, World

FORK = "stranger/credit"


@pytest.fixture(scope="module")
def forked(empty: World) -> tuple[int, Run]:
    """A fork's pull request, run as GitHub does: with variables, without secrets."""
    empty.change("theirs", PLAIN, BETTER)
    secrets = {"GITHUB_TOKEN": empty.github.read_token}
    return empty.open_pull_request(fork=FORK, secrets=secrets)


def completed(world: World, run: Run, head: str = FORK) -> dict[str, Any]:
    """The event of a completed run of the branch `theirs`."""
    owner = head.partition("/")[0]
    return {
        "action": "completed",
        "workflow": {"name": "Pull request"},
        "workflow_run": {
            "id": run.id,
            "name": "Pull request",
            "event": "pull_request",
            "conclusion": "success",
            "head_branch": "theirs",
            "head_sha": world.repository.git("rev-parse", "theirs"),
            "head_repository": {"full_name": head, "owner": {"login": owner}},
            "html_url": f"https://github.com/{NAME}/actions/runs/{run.id}",
            "pull_requests": [],  # always empty for forks
        },
    }


def test_it_is_judged_alone_and_writes_nothing(empty: World, forked: tuple[int, Run]) -> None:
    number, run = forked
    run.expect(model="success")
    assert run.output("model", "train", "verdict") == "PROMOTE"
    assert empty.objects() == {}
    assert not empty.github.comments_on(number)
    assert not [r for r in empty.github.requests if r.method != "GET"]
    steps = run.steps["model"]
    assert not {"Store the candidate", "Set up CML", "Assume the AWS role"} & steps.keys()
    assert set(run.artifacts) == {"report", "bundle"}


def test_the_default_branch_posts_its_numbers(empty: World, forked: tuple[int, Run]) -> None:
    number, run = forked
    empty.repository.checkout("main")
    posted = empty.run("report-fork.yml", "workflow_run", completed(empty, run))
    posted.expect(report="success")
    comment = empty.comment(number)
    assert "PROMOTE" in comment
    assert run.output("model", "train", "model-digest")[7:19] in comment


def test_a_doctored_artifact_posts_nothing(empty: World, forked: tuple[int, Run]) -> None:
    number, run = forked
    before = empty.comment(number)
    numbers = run.artifacts["report"] / "numbers.json"
    honest = numbers.read_text()
    numbers.write_text(honest.replace('"PROMOTE"', '"PROMOTE, says @ana"'))
    empty.repository.checkout("main")
    try:
        posted = empty.run("report-fork.yml", "workflow_run", completed(empty, run))
    finally:
        numbers.write_text(honest)
    posted.expect(report="failure")
    assert empty.comment(number) == before


def test_a_run_without_a_report_ends_quietly(empty: World, forked: tuple[int, Run]) -> None:
    number, run = forked
    before = empty.comment(number)
    empty.repository.checkout("main")
    ended_early = completed(empty, Run(id=run.id + 10_000))
    posted = empty.run("report-fork.yml", "workflow_run", ended_early)
    posted.expect(report="success")
    assert empty.comment(number) == before


def test_it_leaves_other_pull_requests_alone(empty: World, forked: tuple[int, Run]) -> None:
    empty.repository.checkout("main")
    own = completed(empty, forked[1], head=NAME)
    assert empty.run("report-fork.yml", "workflow_run", own).results == {}
