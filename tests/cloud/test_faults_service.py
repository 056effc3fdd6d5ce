"""Bundles that the service itself refuses: its real process beside an embedded AWS, and the drill.

The old version answers all the while: `python -m trilho.serving` repeats the golden rows before it
is ready, and what is not ready takes no traffic.
"""

from __future__ import annotations

import functools
import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import joblib
import pytest
import served
import sklearn.base
from served import ROW, ROWS, expected, make_bundle, manifest
from sklearn.dummy import DummyClassifier
from step import outputs
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed
from typer.testing import CliRunner, Result

from trilho import bundle
from trilho.cli import app
from trilho.config import Deploy
from trilho.demo import background, cloud, ministack
from trilho.demo.keeper import CLUSTER, SERVICE, State
from trilho.deploy import ecs
from trilho.deploy.drill import GROUND
from trilho.deploy.rollout import CHAMPION, deploy
from trilho.errors import DeploymentError, UsageError
from trilho.registry import QuarantinedError, Registry, Source, open_registry
from trilho.storage import aws

BY = Source(actor="tester")
GOLDEN = [expected(row) for row in ROWS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keeper")


@pytest.fixture(scope="module")
def keeper(folder: Path) -> Iterator[State]:
    """Version 1 serves, in a process of its own."""
    state = background.start(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_PROFILE", raising=False)
        for name, value in ministack.client_environment(state.aws_url).items():
            patch.setenv(name, value)
        # to make a client takes longer than what is asked of it
        patch.setattr(aws, "client", functools.cache(aws.client))
        patch.setattr(ecs, "connect", functools.cache(ecs.connect))
        cloud.create({}, containers=False)
        make_bundle(folder / "1")
        ship(state, publish(folder / "1"), wait=20)
        yield state
    background.stop(folder)


@pytest.fixture
def registry(keeper: State) -> Registry:
    return open_registry(cloud.REGISTRY)


def publish(folder: Path) -> int:
    registry = open_registry(cloud.REGISTRY)
    digest = registry.put_bundle(folder)
    return registry.publish(digest, verdict="PROMOTE", source=BY).number


def ship(keeper: State, version: int, wait: float = 3) -> None:
    settings = Deploy(
        cluster=CLUSTER,
        service=SERVICE,
        url=keeper.service_url,
        smoke_timeout_seconds=wait,
        smoke_max_milliseconds=20_000,
    )
    registry = open_registry(cloud.REGISTRY)
    deploy(registry, version, settings, registry_url=cloud.REGISTRY, source=BY, poll=0.05)


def ask(keeper: State) -> dict[str, Any]:
    address = urlsplit(keeper.service_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, 10)
    try:
        content = {"content-type": "application/json"}
        connection.request("POST", "/invocations", json.dumps([ROW]), content)
        return dict(json.loads(connection.getresponse().read()))
    finally:
        connection.close()


def until(condition: Callable[[], bool]) -> None:
    Retrying(
        stop=stop_after_delay(30),
        wait=wait_fixed(0.05),
        retry=retry_if_result(lambda held: not held),
    )(condition)


def float_difference(folder: Path, patch: pytest.MonkeyPatch) -> None:
    make_bundle(folder, golden=[*GOLDEN[:-1], GOLDEN[-1] + 2e-9])  # the tolerance is 1e-9


def another_encoder(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(served, "CITY", {"Porto": 2.0, "Lisboa": 1.0})
    make_bundle(folder, golden=GOLDEN)


def another_scikit_learn(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """An archive of another version, whose numbers there were slightly other ones."""
    make_bundle(folder, golden=[0.5 + 1e-6] * len(ROWS))
    model = DummyClassifier(strategy="prior").fit([[0], [1]], ["no", "yes"])
    patch.setattr(sklearn.base, "__version__", "1.2.2")
    joblib.dump(model, folder / "model.joblib")
    bundle.seal(folder, manifest("binary", "sklearn"))


BROKEN = [float_difference, another_encoder, another_scikit_learn]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_service_whose_golden_rows_differ_never_serves(
    broken: Any, keeper: State, registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        broken(folder / broken.__name__, patch)
    version = publish(folder / broken.__name__)
    log = folder / "service.log"
    before = log.stat().st_size

    with pytest.raises(DeploymentError, match=r"^http://\S+ does not serve sha256") as caught:
        ship(keeper, version)

    assert f"serves again. Version {version} is quarantined." in caught.value.message
    assert ask(keeper)["model"]["version"] == "1"
    alias = registry.alias(CHAMPION)
    assert alias is not None
    assert alias.version == 1
    # scikit-learn takes its time; whatever it does, the old version answers
    until(lambda: b"not the one the model was proven in" in log.read_bytes()[before:])
    assert ask(keeper)["model"]["version"] == "1"


PIPELINE = """\
name: tiny
registry: {registry}
data: {{path: none.csv, schema: none.yaml, target: y}}
model: {{factory: a:b}}
deploy:
  cluster: {cluster}
  service: {production}
  url: https://model.example.com
  smoke_timeout_seconds: 3
  smoke_max_milliseconds: 20000
"""


class Drill:
    """`trilho drill` as a step of a workflow runs it."""

    def __init__(self, folder: Path, keeper: State) -> None:
        self.folder, self.keeper = folder, keeper
        self.named = {
            "TRILHO_DRILL_CLUSTER": CLUSTER,
            "TRILHO_DRILL_SERVICE": SERVICE,
            "TRILHO_DRILL_SERVICE_URL": keeper.service_url,
        }

    def __call__(self, production: str = "production", **named: str) -> Result:
        config = self.folder / "pipeline.yaml"
        names = {"registry": cloud.REGISTRY, "cluster": CLUSTER, "production": production}
        config.write_text(PIPELINE.format(**names))
        environment = {
            "TRILHO_CONFIG": str(config),
            "GITHUB_OUTPUT": str(self.folder / "outputs"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
        }
        return CliRunner().invoke(app, ["drill"], env=environment | self.named | named)


@pytest.fixture
def drill(keeper: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drill:
    monkeypatch.setattr("trilho.deploy.rollout.POLL_SECONDS", 0.05)
    return Drill(tmp_path, keeper)


def stored() -> dict[str, str]:
    """The objects of the registry itself."""
    pages = aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=cloud.BUCKET)
    objects = (o for page in pages for o in page["Contents"])
    return {o["Key"]: o["ETag"] for o in objects if f"/{GROUND}/" not in o["Key"]}


def definition() -> str:
    found = aws.client("ecs").describe_services(cluster=CLUSTER, services=[SERVICE])["services"][0]
    return str(found["taskDefinition"])


def test_a_drill_times_the_way_back_and_leaves_nothing_that_could_be_deployed(
    drill: Drill, keeper: State, registry: Registry, tmp_path: Path
) -> None:
    before, revision = stored(), definition()

    for _ in range(2):  # each drill is another one
        done = drill()
        assert done.exit_code == 0, done.output

    assert ask(keeper)["model"]["version"] == "1"
    assert definition() == revision
    assert stored() == before
    told = outputs(tmp_path / "outputs")
    assert told["outcome"] == "recovered"
    assert told["model-version"] == "1"
    assert 0 < float(told["recovery-seconds"]) < 60
    summary = (tmp_path / "summary").read_text()
    assert "**RECOVERED** — What served before served again" in summary
    assert "| Time to recover |" in summary
    assert "does not serve sha256:" in summary
    assert "quarantined" not in summary
    # what was broken is no version, neither there nor here
    ground = open_registry(f"{cloud.REGISTRY}/{GROUND}")
    assert ground.versions() == []
    broken = [f"sha256:{Path(key).stem}" for key in ground.store.list("manifests/")]
    assert len(broken) == 2
    for digest in broken:
        with pytest.raises(QuarantinedError):
            ground.publish(digest, verdict="PROMOTE", source=BY)
        with pytest.raises(UsageError, match="There is no bundle"):
            registry.publish(digest, verdict="PROMOTE", source=BY)
    active = aws.client("ecs").list_task_definitions(familyPrefix=SERVICE, status="INACTIVE")
    assert len(active["taskDefinitionArns"]) == 2


def test_a_drill_goes_nowhere_but_where_it_was_told(drill: Drill, keeper: State) -> None:
    before, revision = stored(), definition()
    for named in ("CLUSTER", "SERVICE", "SERVICE_URL"):
        missing = drill(**{f"TRILHO_DRILL_{named}": ""})
        assert isinstance(missing.exception, UsageError)
        assert "a staging service by name" in missing.exception.message
    own = drill(production=SERVICE)
    assert isinstance(own.exception, UsageError)
    assert f"{CLUSTER}/{SERVICE} is the pipeline's own service" in own.exception.message
    arn = f"arn:aws:ecs:us-east-1:000000000000:service/{CLUSTER}/{SERVICE}"
    assert "own service" in str(drill(production=SERVICE, TRILHO_DRILL_SERVICE=arn).exception)
    url = drill(TRILHO_DRILL_SERVICE_URL="https://model.example.com/")
    assert "https://model.example.com/ is the pipeline's own service" in str(url.exception)
    silent = drill(TRILHO_DRILL_SERVICE_URL=f"http://127.0.0.1:{ministack.free_port()}")
    assert "The drill did not begin" in str(silent.exception)
    assert (stored(), definition()) == (before, revision)


def test_a_drill_says_so_when_what_is_broken_is_taken_for_whole(
    drill: Drill, keeper: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bundle that is whole stands for an image that does not check."""
    revision = definition()
    monkeypatch.setattr("trilho.deploy.drill._off", lambda expected: expected)
    done = drill()
    assert isinstance(done.exception, DeploymentError)
    assert done.exception.message.startswith("The broken version was taken for a whole one.")
    assert definition() == revision
    assert outputs(tmp_path / "outputs") == {"outcome": "failed"}
    assert "**THE DRILL FAILED** — The broken version" in (tmp_path / "summary").read_text()
    until(lambda: ask(keeper)["model"]["version"] == "1")  # its process starts anew
