"""The verbs themselves, as each identity of infra/, with the policies enforced."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ecs_service
import numpy as np
import pandas as pd
import pytest
from calls import DEPLOY, PULL_REQUEST
from ecs_service import answering, publish
from identities import BUCKET, REGION, REGISTRY, Cloud, running
from manifests import manifest
from typer.testing import CliRunner

from trilho.bundle import seal
from trilho.cli import app
from trilho.config import Deploy
from trilho.deploy.rollback import rollback
from trilho.deploy.rollout import deploy
from trilho.errors import UsageError
from trilho.registry import CHAMPION, Registry, Source, open_registry
from trilho.serving.predictions import LABELLING, PREDICTIONS
from trilho.serving.settings import Settings
from trilho.serving.source import fetch
from trilho.storage import AlreadyExists, open_store


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running(tmp_path_factory.mktemp("cloud")) as made:
        yield made


@pytest.fixture(params=[f"{n} {kind}" for n in (PULL_REQUEST, DEPLOY) for kind in ("role", "user")])
def identity(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def become(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this process an identity, for every client made from then on."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.url)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)

    def switch(identity: str) -> None:
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
        for name, value in cloud.environments[identity].items():
            monkeypatch.setenv(name, value)

    return switch


def trilho(*arguments: str) -> None:
    """Run a verb here, as whoever this process is; its error is this function's."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 4, 5), result.output  # the verdict is another test's


def put_new(registry: Registry, folder: Path) -> str:
    """Store one more bundle, which everybody may."""
    (folder / "new").mkdir()
    (folder / "new" / "model.joblib").write_bytes(secrets.token_bytes(8))
    seal(folder / "new", manifest())
    return registry.put_bundle(folder / "new")


@pytest.mark.parametrize("kind", ["role", "user"])
def test_a_candidate_is_the_pull_requests_to_publish_and_a_version_is_not(
    become: Callable[[str], None], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(["role", "user"].index(kind))
    a = rng.normal(size=600)
    y = np.where(a + rng.normal(0, 0.5, 600) > 0, "bad", "good")
    pd.DataFrame({"a": a, "b": rng.normal(size=600), "y": y}).to_csv("d.csv", index=False)
    trilho("init", "d.csv", "--target", "y")
    settings = tmp_path / "pipeline.yaml"
    settings.write_text(re.sub(r"(?m)^registry:.*", f"registry: {REGISTRY}", settings.read_text()))

    become(f"{PULL_REQUEST} {kind}")
    trilho("validate")
    trilho("train")
    trilho("evaluate")
    trilho("gate")
    trilho("report")
    trilho("publish", "--candidate")
    with pytest.raises(UsageError, match=r"Cannot write .*versions/.*access denied"):
        trilho("publish", "--allow-hold")

    become("admin")
    before = [v.number for v in open_registry(REGISTRY).versions()]
    become(f"{DEPLOY} {kind}")
    trilho("publish", "--allow-hold", "--reason", "approved")
    become("admin")
    versions = open_registry(REGISTRY).versions()
    assert [v.number for v in versions] == [*before, len(before) + 1]
    assert open_registry(REGISTRY).history()[-1].reason == "approved"


def test_the_service_is_the_deploy_identitys_to_move(
    cloud: Cloud,
    become: Callable[[str], None],
    identity: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ecs_service, "CLUSTER", "trilho")
    monkeypatch.setattr(ecs_service, "SERVICE", "credit-default")
    become("admin")
    everything = open_registry(REGISTRY)
    with answering(everything) as answers:
        answers.ecs = cloud.client("admin", "ecs")
        settings = Deploy(cluster="trilho", service="credit-default", url=answers.url)
        become(f"{DEPLOY} role")
        stored = open_registry(REGISTRY)
        score = len(stored.versions()) / 100  # a bundle of its own, for each identity
        versions = [publish(stored, tmp_path / str(n), score + n / 10) for n in range(2)]
        become(identity)
        registry = open_registry(REGISTRY)
        by = Source(actor="tester")
        given: Any = {"registry_url": REGISTRY, "source": by, "poll": 0.05}
        if identity.startswith(PULL_REQUEST):
            history = everything.history()
            for attempt in (
                lambda: deploy(registry, versions[0].number, settings, **given),
                lambda: registry.move_alias(
                    CHAMPION, versions[0].number, expected=registry.alias(CHAMPION), source=by
                ),
                lambda: registry.quarantine(versions[0].digest, "no", by),
                lambda: registry.publish(put_new(registry, tmp_path), verdict="P", source=by),
            ):
                with pytest.raises(UsageError, match="access denied"):
                    attempt()
            assert everything.history() == history
            return
        for version in versions:
            done = deploy(registry, version.number, settings, **given)
            assert done.after.digest == version.digest
        back = rollback(registry, settings, reason="customers complain", **given)
        assert back.after.digest == versions[0].digest
        champion = everything.alias(CHAMPION)
        assert champion is not None
        assert champion.digest == versions[0].digest
        kinds = [event.kind for event in everything.history()][-4:]
        assert sorted(kinds) == ["promoted", "promoted", "quarantined", "rolled-back"]


def test_the_task_fetches_its_model_and_keeps_its_predictions(
    become: Callable[[str], None], tmp_path: Path
) -> None:
    become("admin")
    digest = publish(open_registry(REGISTRY), tmp_path / "one", 0.99).digest
    become("task")
    with fetch(Settings(uri=REGISTRY, digest=digest)) as fetched:
        assert (fetched.folder / "golden.json").exists()
    kept = open_store(f"s3://{BUCKET}")
    for place in (PREDICTIONS, LABELLING):
        kept.put_once(f"{place}/model=m/x.jsonl", b"first")
        with pytest.raises(AlreadyExists):
            kept.put_once(f"{place}/model=m/x.jsonl", b"second")
    with pytest.raises(UsageError, match="access denied"):
        open_registry(REGISTRY).versions()
