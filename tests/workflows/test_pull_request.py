"""Pull requests: what the reviewer sees, what is stored, and that nothing else happens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import cml_repository
import pytest
from rail import Run, Runner
from world import BEST, BETTER, PLAIN, WORTHLESS, World, world

from trilho.bundle import read_manifest

DATA = "data/credit_default.csv"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, runner: Runner) -> Iterator[World]:
    """A project whose version 1 is in service, at a GitHub that CML can talk to."""
    folder = tmp_path_factory.mktemp("world")
    with world(folder, runner, tls=True) as made:
        made.seed()
        yield made


@pytest.fixture(scope="module")
def opened(live: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Run]:
    """A pull request with a better model, on a runner that can have CML."""
    live.change("better", PLAIN, BETTER)
    if shutil.which("npm"):
        cml = cml_repository.make(tmp_path_factory.mktemp("cml") / "repository")
        action = ".github/actions/setup-cml/action.yml"
        live.repository.replace(action, "/no/cml", str(cml.path))
        live.repository.replace(action, "a3a66c74b218b08710f42bf599b066e37cb4cba7", cml.head)
        live.repository.commit("Fetch CML from where it can be had")
    return live.open_pull_request()


@pytest.fixture(scope="module")
def unchanged(live: World) -> tuple[int, Run, bool]:
    """A pull request that touches the docs only; by a role instead of secrets."""
    live.change("docs", "# Changelog", "# Changes", "CHANGELOG.md")
    role = {"AWS_ROLE_ARN": "arn:aws:iam::000000000000:role/trilho-pull-requests"}
    before = live.objects()
    number, run = live.open_pull_request(
        secrets={"GITHUB_TOKEN": live.github.token}, variables=live.variables | role
    )
    return number, run, live.objects() == before


def short(digest: str) -> str:
    """A digest as reports show it."""
    return digest.removeprefix("sha256:")[:12]


def stored(world: World, digest: str) -> str:
    """The verdict of the candidate that the registry holds."""
    (key,) = [k for k in world.objects("candidates/") if digest in content(world, k)]
    return str(json.loads(content(world, key))["verdict"])


def content(world: World, key: str) -> str:
    return world.registry.store.get(key.removeprefix("registry/")).data.decode()


def test_the_reviewer_sees_the_digest_that_is_stored(live: World, opened: tuple[int, Run]) -> None:
    number, run = opened
    run.expect(model="success")
    digest = run.output("model", "train", "model-digest")
    assert run.output("model", "train", "verdict") == "PROMOTE"
    assert run.output("model", "train", "changed") == "true"
    assert run.output("model", "validate", "rows") == "4000"
    assert stored(live, digest) == "PROMOTE"
    comment = live.comment(number)
    assert "PROMOTE" in comment
    assert short(digest) in comment
    assert f"/actions/runs/{run.id}" in comment
    assert "PROMOTE" in run.summaries["model"]
    assert short(digest) in run.summaries["model"]
    assert not run.errors()


def test_the_run_that_trained_the_bundle_attests_it(
    opened: tuple[int, Run], unchanged: tuple[int, Run, bool]
) -> None:
    digest = opened[1].output("model", "train", "model-digest")
    assert f"attested manifest.json {digest}" in opened[1].summaries["model"]
    assert "Attest who made the bundle" in opened[1].steps["model"]
    assert "Attest who made the bundle" not in unchanged[1].steps["model"]  # skipped


def test_artifacts_hold_the_report_and_the_bundle(opened: tuple[int, Run]) -> None:
    _, run = opened
    assert set(run.artifacts) == {"report", "bundle"}
    report = run.artifacts["report"]
    assert {p.name for p in report.iterdir()} == {"report.md", "report.html", "numbers.json"}
    digest = run.output("model", "train", "model-digest")
    assert json.loads((report / "numbers.json").read_text())["digest"] == digest
    assert read_manifest(run.artifacts["bundle"])[1] == digest


def test_a_pull_request_moves_nothing_that_serves(live: World, opened: tuple[int, Run]) -> None:
    assert live.champion == 1
    assert live.serving == live.digest(1)
    assert set(live.objects("versions/")) == {"registry/versions/000001.json"}


def test_the_project_is_tested_without_credentials(opened: tuple[int, Run]) -> None:
    _, run = opened
    assert run.steps["model"]["Test the project"] == "success"
    assert "1 passed" in run.log  # the test looks for credentials


def test_a_second_push_updates_the_one_comment(live: World, opened: tuple[int, Run]) -> None:
    number, first = opened
    (comment,) = live.github.comments_on(number)
    live.repository.checkout("better")
    live.repository.replace("pipeline.yaml", BETTER, BEST)
    live.repository.commit("A still better one")
    run = live.push_again(number)
    run.expect(model="success")
    (updated,) = live.github.comments_on(number)
    assert updated.id == comment.id
    digest = run.output("model", "train", "model-digest")
    assert digest != first.output("model", "train", "model-digest")
    assert short(digest) in updated.body
    assert stored(live, digest) == "PROMOTE"


@pytest.mark.skipif(shutil.which("npm") is None, reason="CML needs Node.js and npm")
def test_cml_posts_the_comment(live: World, opened: tuple[int, Run]) -> None:
    number, run = opened
    assert run.steps["model"]["Set up CML"] == "success"
    assert "CML watermark" in live.comment(number)


def test_a_change_of_the_docs_ends_at_once_with_the_champions_digest(
    live: World, unchanged: tuple[int, Run, bool]
) -> None:
    number, run, nothing_stored = unchanged
    run.expect(model="success")
    assert run.output("model", "train", "verdict") == "UNCHANGED"
    assert run.output("model", "train", "changed") == "false"
    assert run.output("model", "train", "model-digest") == live.digest(1)
    assert nothing_stored  # no run, no candidate: nothing was trained
    assert "UNCHANGED" in live.comment(number)
    assert "stays champion" in run.summaries["model"]
    assert set(run.artifacts) == {"report"}


def test_a_role_takes_the_place_of_the_secrets(unchanged: tuple[int, Run, bool]) -> None:
    _, run, _ = unchanged
    assert run.steps["model"]["Assume the AWS role"] == "success"
    assert run.output("model", "train", "verdict") == "UNCHANGED"  # the registry was read
    assert "1 passed" in run.log  # the project's tests, which look for credentials


def test_where_cml_cannot_be_had_the_report_is_posted_all_the_same(
    live: World, unchanged: tuple[int, Run, bool]
) -> None:
    number, run, _ = unchanged
    assert run.steps["model"]["Set up CML"] == "failure"
    assert run.steps["model"]["Report"] == "success"
    assert "CML watermark" not in live.comment(number)
    assert any("CML" in a.message for a in run.annotations if a.level == "warning")


def test_broken_data_are_annotated_at_their_line_and_reported(live: World) -> None:
    live.repository.checkout("main")
    live.repository.checkout("broken-data")
    path = live.repository.path / DATA
    lines = path.read_text().splitlines(keepends=True)
    cells = lines[41].split(",")
    cells[5] = "-7"  # AGE
    lines[41] = ",".join(cells)
    path.write_text("".join(lines))
    live.repository.commit("Update the data")
    candidates = live.objects("candidates/")
    number, run = live.open_pull_request()
    run.expect(model="failure")
    assert "exit status 3" in run.log
    assert run.steps["model"]["Validate the data"] == "failure"
    assert "Train and judge" not in run.steps["model"]
    assert [(e.file, e.line) for e in run.errors() if e.file] == [(DATA, 42)]
    assert "AGE" in live.comment(number)
    assert "report.md" in {p.name for p in run.artifacts["report"].iterdir()}
    assert live.objects("candidates/") == candidates


def test_a_rejected_model_is_reported_and_fails_the_check(live: World) -> None:
    live.change("worthless", PLAIN, WORTHLESS)
    number, run = live.open_pull_request()
    run.expect(model="failure")
    assert "exit status 4" in run.log
    assert run.output("model", "train", "verdict") == "REJECT"
    assert "REJECT" in live.comment(number)
    assert "REJECT" in run.summaries["model"]
    # the merge of somebody who may merge in spite of it is judged by the same bundle
    assert stored(live, run.output("model", "train", "model-digest")) == "REJECT"
    assert live.champion == 1


def test_a_held_model_fails_the_check_unless_it_is_allowed(live: World) -> None:
    live.change("undecided", PLAIN, BETTER)
    live.repository.replace("pipeline.yaml", "roc_auc: 0.10", "roc_auc: 0.0")
    live.repository.commit("Accept no loss at all")
    number, run = live.open_pull_request()
    run.expect(model="failure")
    assert "exit status 5" in run.log
    assert run.output("model", "train", "verdict") == "HOLD"
    assert "HOLD" in live.comment(number)

    old = "tests: tests/project"
    live.repository.replace(
        ".github/workflows/pull-request.yml", old, f"{old}\n      allow-hold: true"
    )
    live.repository.commit("Let it pass")
    run = live.push_again(number)
    run.expect(model="success")
    assert run.output("model", "train", "verdict") == "HOLD"
    assert "HOLD" in live.comment(number)


def test_without_secrets_the_job_says_which_to_set_and_where(live: World) -> None:
    live.change("no-secrets", PLAIN, BETTER)
    number, run = live.open_pull_request(secrets={"GITHUB_TOKEN": live.github.token})
    run.expect(model="failure")
    said = " ".join(e.message for e in run.errors())
    assert "AWS_ACCESS_KEY_ID" in said
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert "AWS_ROLE_ARN" in said
    assert "Settings → Secrets and variables → Actions" in said
    assert "Traceback" not in run.log
    assert live.comment(number)  # the data, at least, were judged


def test_without_a_registry_the_job_says_which_variable_to_set(live: World) -> None:
    live.change("no-registry", PLAIN, BETTER)
    number, run = live.open_pull_request(
        secrets={"GITHUB_TOKEN": live.github.token}, variables={"AWS_REGION": "us-east-1"}
    )
    run.expect(model="failure")
    assert run.steps["model"]["Train and judge"] == "success"
    assert "PROMOTE" in live.comment(number)  # judged alone, and reported
    (error,) = run.errors()
    assert "gh variable set TRILHO_REGISTRY" in error.message
