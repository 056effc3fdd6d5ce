"""What becomes of merges, verb by verb as the workflows call them, with real models and ECS."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pytest
from ecs_service import CLUSTER, SERVICE, Answers, answering
from embedded_aws import embedded_aws
from step import outputs
from typer.testing import CliRunner

from trilho.cli import app
from trilho.errors import RejectedError, TrilhoError, UnavailableError, UsageError
from trilho.init import init
from trilho.registry import CHAMPION, MERGED, QuarantinedError, Registry, open_registry

BUCKET = "merges"
PIPELINE = """\
name: credit
registry: {registry}
data: {{path: data.csv, schema: data_schemas/data.yaml, target: y, id: id}}
model:
  estimator: sklearn.ensemble.HistGradientBoostingClassifier
  params: {{max_iter: {trees}}}
gates: {{limits: {{}}, champion: {{}}, calibration: 1}}
deploy:
  cluster: {cluster}
  service: {service}
  url: {url}
  timeout_minutes: 0.1
  smoke_timeout_seconds: 1.5
"""


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with embedded_aws(tmp_path_factory.mktemp("aws")):
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout without its pipeline file."""
    folder = tmp_path_factory.mktemp("repository")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2))
    y = (x[:, 0] + rng.normal(0, 0.5, 600) > 0).astype(int)
    frame = pd.DataFrame({"id": range(600), "a": x[:, 0], "b": x[:, 1], "y": y})
    frame.to_csv(folder / "data.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        init(Path("data.csv"), "y", Path())
    return folder


@dataclass
class Job:
    """A job of a workflow: its own run folder, and what its verbs left."""

    folder: Path
    environment: dict[str, str]
    outputs: dict[str, str] = field(default_factory=dict)
    said: str = ""

    def run(self, *arguments: str, **environment: str) -> TrilhoError | None:
        """Run a verb as a step; return the error that it ended with."""
        files = {"GITHUB_OUTPUT": "outputs", "GITHUB_STEP_SUMMARY": "summary"}
        for name in files.values():
            (self.folder / name).unlink(missing_ok=True)
        given = {name: str(self.folder / file) for name, file in files.items()}
        given |= {"TRILHO_RUN": str(self.folder / "run"), "GITHUB_ACTIONS": "true"}
        done = CliRunner().invoke(app, arguments, env=given | self.environment | environment)
        self.outputs = outputs(self.folder / "outputs")
        self.said = done.stderr
        if done.exception is None or isinstance(done.exception, SystemExit):
            assert done.exit_code == 0, done.stderr
            return None
        assert isinstance(done.exception, TrilhoError), done.exception
        return done.exception

    @property
    def summary(self) -> str:
        path = self.folder / "summary"
        return path.read_text() if path.exists() else ""

    @property
    def report(self) -> str:
        return Path(self.outputs["report-path"]).read_text()


class Rail:
    """The workflows over one registry and one service: what they call, in their order."""

    def __init__(self, folder: Path, registry: Registry, answers: Answers) -> None:
        self.folder, self.registry, self.answers = folder, registry, answers
        self.runs = 0

    def push(self, trees: int | None = None) -> Job:
        """Merge another model into main, or something that decides nothing."""
        if trees is not None:
            (self.folder / "pipeline.yaml").write_text(
                PIPELINE.format(
                    registry=self.registry.store.url,
                    trees=trees,
                    cluster=CLUSTER,
                    service=SERVICE,
                    url=self.answers.url,
                )
            )
        return self.deliver(TRILHO_MERGED="true")

    def dispatch(self, **environment: str) -> Job:
        """Start a training by hand."""
        return self.deliver(**environment)

    def deliver(self, **environment: str) -> Job:
        """Train and, if something changed, publish and deploy in a job of its own."""
        job = self.job(**environment)
        if error := job.run("retrain"):
            raise error
        if job.outputs["changed"] == "false":
            return job
        digest = job.outputs["model-digest"]
        assert job.run("publish", "--candidate") is None
        return self.deploy(TRILHO_EXPECT=digest, **environment)

    def deploy(self, **environment: str) -> Job:
        """The second job: publish what was approved, and deploy it."""
        job = self.job(**environment)
        for verb in ("publish", "deploy"):
            if error := job.run(verb):
                raise error
        return job

    def back(self) -> None:
        assert self.job().run("rollback", "--reason", "customers complain") is None

    def job(self, **environment: str) -> Job:
        self.runs += 1
        folder = self.folder / "jobs" / str(self.runs)
        folder.mkdir(parents=True)
        who = {"GITHUB_ACTOR": "ada", "GITHUB_REPOSITORY": "o/r", "GITHUB_RUN_ID": str(self.runs)}
        return Job(folder, who | environment)

    @property
    def state(self) -> tuple[int | None, int | None]:
        """The versions that are champion and merged; what serves is the champion."""
        champion, merged = (self.registry.alias(name) for name in (CHAMPION, MERGED))
        assert self.answers.digest() == (champion.digest if champion else None)
        return (champion.version if champion else None, merged.version if merged else None)


@pytest.fixture(params=["folder"])
def rail(
    request: pytest.FixtureRequest,
    aws: None,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Rail]:
    for name in ("GITHUB_SHA", "GITHUB_EVENT_NAME", "GITHUB_REF_NAME", "GITHUB_EVENT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("trilho.deploy.rollout.POLL_SECONDS", 0.05)
    folder = tmp_path / "checkout"
    shutil.copytree(repository, folder)
    monkeypatch.chdir(folder)
    url = str(tmp_path / "registry") if request.param == "folder" else f"s3://{BUCKET}/models"
    registry = open_registry(url)
    ecs = boto3.client("ecs")
    ecs.create_cluster(clusterName=CLUSTER)
    container = {"name": "model", "image": "serve:1", "memory": 512}
    container["environment"] = [{"name": "LOG", "value": "info"}]
    made = ecs.register_task_definition(family="credit", containerDefinitions=[container])
    ecs.create_service(
        cluster=CLUSTER,
        serviceName=SERVICE,
        taskDefinition=made["taskDefinition"]["taskDefinitionArn"],
        desiredCount=1,
    )
    with answering(registry) as answers:
        yield Rail(folder, registry, answers)
    ecs.delete_service(cluster=CLUSTER, service=SERVICE, force=True)


def digest_of(rail: Rail, version: int) -> str:
    return rail.registry.version(version).digest


@pytest.mark.parametrize("rail", ["folder", "s3"], indirect=True)
def test_merges_that_decide_nothing_deploy_nothing(rail: Rail) -> None:
    first = rail.push(2)
    assert first.outputs["outcome"] == "deployed"
    assert (first.outputs["model-version"], rail.state) == ("1", (1, 1))

    docs = rail.push()
    assert docs.outputs["verdict"] == "UNCHANGED"
    assert docs.outputs["changed"] == "false"
    assert docs.outputs["model-digest"] == digest_of(rail, 1)
    assert Path(docs.outputs["html-path"]).exists()
    assert not (docs.folder / "run" / "bundle").exists()  # not even fetched
    text = "Nothing that decides a model changed: v1 stays champion."
    assert text in docs.report
    assert digest_of(rail, 1) in docs.report
    assert docs.summary == docs.report
    assert len([line for line in docs.report.splitlines() if line]) <= 4
    figures = json.loads((docs.folder / "run/numbers.json").read_bytes())
    assert (figures["verdict"], figures["digest"]) == ("UNCHANGED", digest_of(rail, 1))
    assert docs.run("report") is None  # the next step of the workflow, over the same run folder
    assert text in docs.report

    assert rail.push(4).outputs["previous-version"] == "1"
    assert rail.state == (2, 2)
    # back to the first by a revert: judged again, and deployed as the version that it was
    assert rail.push(2).outputs["model-version"] == "1"
    assert rail.state == (1, 1)
    assert len(rail.registry.versions()) == 2


def test_what_was_trained_by_hand_is_not_undone_by_the_next_merge(rail: Rail) -> None:
    rail.push(2)
    other = rail.dispatch(TRILHO_PARAMS='{"max_iter": 4}')
    assert (other.outputs["model-version"], rail.state) == ("2", (2, 1))
    docs = rail.push()
    assert (docs.outputs["verdict"], docs.outputs["model-digest"]) == (
        "UNCHANGED",
        digest_of(rail, 2),
    )
    assert "v2 stays champion. v1, which these inputs make, had its turn." in docs.report
    assert "::warning" not in docs.said
    # the schedule finds nothing new, neither in main's inputs nor in those given by hand
    for given in ({}, {"TRILHO_PARAMS": '{"max_iter": 4}'}):
        assert rail.dispatch(**given).outputs["verdict"] == "UNCHANGED"
    assert rail.state == (2, 1)


def test_after_a_rollback_a_merge_that_decides_nothing_is_green_with_a_warning(rail: Rail) -> None:
    rail.push(2)
    rail.push(4)
    rail.back()
    assert rail.state == (1, 2)
    docs = rail.push()
    assert (docs.outputs["verdict"], docs.outputs["model-digest"]) == (
        "UNCHANGED",
        digest_of(rail, 1),
    )
    assert "::warning::Nothing that decides a model changed: v1 stays champion. v2," in docs.said
    for said in ("[!WARNING]", "v2, which these inputs make", "by ada: customers complain"):
        assert said in docs.report
    assert rail.state == (1, 2)


def test_inputs_that_make_a_quarantined_bundle_are_rejected_at_once(rail: Rail) -> None:
    rail.push(2)
    given = {"TRILHO_PARAMS": '{"max_iter": 4}'}
    rail.dispatch(**given)
    rail.back()
    digest = digest_of(rail, 2)
    for more in ({}, {"TRILHO_FORCE": "true"}):  # by force it is trained, and is the same again
        job = rail.job(**given, **more)
        error = job.run("retrain")
        assert isinstance(error, QuarantinedError)
        assert error.exit_code == 4
        assert f"{digest} is in quarantine since 20" in error.message
        assert "(ada): customers complain" in error.message
        assert (job.folder / "run/bundle").exists() == bool(more)
        if not more:
            assert job.outputs["verdict"] == "REJECT"
            assert job.outputs["model-digest"] == digest
            assert "customers complain" in job.report
            assert "[!CAUTION]" in job.report
    error = rail.job(**given).run("publish")
    assert isinstance(error, QuarantinedError)
    assert rail.state == (1, 1)


def test_after_a_failed_deployment_a_merge_that_decides_nothing_is_green(rail: Rail) -> None:
    rail.push(2)
    job = rail.job(TRILHO_PARAMS='{"max_iter": 4}')
    job.run("retrain")
    rail.answers.bad, rail.answers.offset = job.outputs["model-digest"], 0.5
    with pytest.raises(TrilhoError, match="answers wrong numbers") as caught:
        rail.push(4)
    assert caught.value.exit_code == 6
    assert rail.state == (1, 2)
    docs = rail.push()
    assert docs.outputs["verdict"] == "UNCHANGED"
    assert "::warning::" in docs.said
    assert "wrong numbers" in docs.report
    rail.answers.bad = "none"
    assert rail.push(6).outputs["outcome"] == "deployed"  # a better one is deployed as ever
    assert rail.state == (3, 3)


def test_a_first_deployment_that_failed_leaves_no_champion(rail: Rail) -> None:
    rail.answers.bad, rail.answers.status = None, 500
    with pytest.raises(TrilhoError, match="answers 500"):
        rail.push(2)
    docs = rail.push()
    assert docs.outputs["verdict"] == "UNCHANGED"
    assert docs.outputs["model-digest"] == ""
    assert "there is no champion. v1, which these inputs make, had its turn and is" in docs.report


def test_a_deployment_that_aws_failed_goes_on_when_it_is_run_again(
    rail: Rail, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise UnavailableError("ECS does not answer")

    rail.push(2)
    with monkeypatch.context() as patch:
        patch.setattr("trilho.deploy.rollout.watch", away)
        with pytest.raises(UnavailableError) as caught:
            rail.push(4)
    assert caught.value.exit_code == 7
    again = rail.push()  # all jobs again; it is not taken for something that had its turn
    assert again.outputs["model-version"] == "2"
    assert rail.state == (2, 2)


def test_a_deployment_killed_before_it_was_noted_is_finished_by_its_job(
    rail: Rail, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(TrilhoError):
        pass

    move = Registry.move_alias

    def killed(self: Registry, name: str, *arguments: Any, **options: Any) -> Any:
        if name == MERGED:
            raise KilledError("killed")
        return move(self, name, *arguments, **options)

    rail.push(2)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "move_alias", killed)
        with pytest.raises(KilledError):
            rail.push(4)
    assert rail.state == (2, 1)
    again = rail.deploy(TRILHO_MERGED="true", TRILHO_EXPECT=digest_of(rail, 2))
    assert again.outputs["outcome"] == "unchanged"
    assert rail.state == (2, 2)


def test_force_trains_what_did_not_change(rail: Rail) -> None:
    rail.push(2)
    job = rail.job(TRILHO_FORCE="true")
    assert job.run("retrain") is None
    assert job.outputs["verdict"] == "PROMOTE"
    assert job.outputs["changed"] == "false"  # the very same model
    assert (job.folder / "run/bundle").exists()
    assert "UNCHANGED" not in job.report


def test_a_report_tells_of_the_inputs_that_it_is_asked_for(rail: Rail) -> None:
    rail.push(2)
    job = rail.push()
    assert "UNCHANGED" in job.report
    assert "nothing to report" in str(job.run("report", "--params", '{"max_iter": 4}'))
    assert job.run("report") is None
    assert "UNCHANGED" in job.report
    # from the training on, in the same folder, it tells of what was trained
    assert job.run("train") is None
    assert job.run("report") is None
    assert "NO VERDICT" in job.report
    assert job.run("retrain") is None
    assert "UNCHANGED" in job.report
    assert job.run("retrain", "--force") is None
    assert "PROMOTE" in job.report


def test_only_what_was_approved_is_published(rail: Rail) -> None:
    rail.push(2)
    digest = digest_of(rail, 1)
    approved = rail.job(TRILHO_PARAMS='{"max_iter": 4}')
    approved.run("retrain")
    approved.run("publish", "--candidate")
    seen = approved.outputs["model-digest"]
    assert seen != digest
    assert approved.outputs == {"verdict": "PROMOTE", "model-digest": seen}

    error = rail.job(TRILHO_EXPECT=seen).run("publish")  # without the parameters it is the first
    assert isinstance(error, RejectedError)
    assert f"{seen} was approved, but these inputs make {digest}" in error.message
    assert len(rail.registry.versions()) == 1

    job = rail.job(TRILHO_EXPECT=seen, TRILHO_PARAMS='{"max_iter": 4}', TRILHO_REASON="better")
    for _ in range(2):  # published already: the same version
        assert job.run("publish") is None
        assert job.outputs == {"verdict": "PROMOTE", "model-digest": seen, "model-version": "2"}
    assert rail.registry.version(2).source.reason == "better"
    assert len(rail.registry.versions()) == 2


def test_publish_never_trains(rail: Rail, monkeypatch: pytest.MonkeyPatch) -> None:
    rail.push(2)
    monkeypatch.setattr("trilho.training.run.train", None)
    job = rail.job(TRILHO_PARAMS='{"max_iter": 4}')
    error = job.run("publish")
    assert isinstance(error, UsageError)
    assert "none is stored for these inputs" in error.message
    assert "publish --candidate" in str(error.hint)
    assert not (job.folder / "run/bundle").exists()
