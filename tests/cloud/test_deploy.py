"""Deployments to ECS as MiniStack plays it: what is promised when they go well, and when not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from ecs_service import CLUSTER, SERVICE, Answers, answering, publish
from embedded_aws import embedded_aws
from step import outputs
from typer.testing import CliRunner, Result
from workflows.github_api import GitHub, github_api

from trilho.bundle import Golden
from trilho.cli import app
from trilho.config import Deploy
from trilho.demo import ministack
from trilho.deploy import ecs as ecs_module
from trilho.deploy.ecs import Service
from trilho.deploy.revision import MODEL_DIGEST, MODEL_URI, MODEL_VERSION, Model
from trilho.deploy.rollback import rollback
from trilho.deploy.rollout import CHAMPION, Deployment, deploy
from trilho.deploy.smoke import SmokeError, smoke
from trilho.deploy.watch import SupersededError, ending
from trilho.errors import DeploymentError, IntegrityError, TrilhoError, UnavailableError, UsageError
from trilho.registry import MERGED, QuarantinedError, Registry, Source, open_registry

BY = Source(actor="tester")
PLAIN = {
    "name": "model",
    "image": "registry.example/serve:1",
    "memory": 512,
    "environment": [{"name": "LOG", "value": "info"}],
}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with embedded_aws(tmp_path_factory.mktemp("aws")):
        yield boto3.client("ecs")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(str(tmp_path / "registry"))


@pytest.fixture
def cluster(aws: Any) -> Any:
    """A cluster with a service of two tasks that serve no model yet."""
    aws.create_cluster(clusterName=CLUSTER)
    definition = register(aws, PLAIN)
    aws.create_service(
        cluster=CLUSTER,
        serviceName=SERVICE,
        taskDefinition=definition,
        desiredCount=2,
        deploymentConfiguration={
            "maximumPercent": 150,
            "minimumHealthyPercent": 50,
            "alarms": {"alarmNames": ["p99"], "enable": True, "rollback": True},
        },
    )
    yield aws
    aws.delete_service(cluster=CLUSTER, service=SERVICE, force=True)


@pytest.fixture
def answers(registry: Registry, cluster: Any) -> Any:
    with answering(registry) as running:
        yield running


def register(aws: Any, *containers: dict[str, Any], **more: Any) -> str:
    made = aws.register_task_definition(
        family="credit", containerDefinitions=list(containers), **more
    )
    return str(made["taskDefinition"]["taskDefinitionArn"])


def described(aws: Any) -> dict[str, Any]:
    return dict(aws.describe_services(cluster=CLUSTER, services=[SERVICE])["services"][0])


def served(aws: Any) -> dict[str, str]:
    """The environment that the service's tasks are given."""
    found = aws.describe_task_definition(taskDefinition=described(aws)["taskDefinition"])
    container = found["taskDefinition"]["containerDefinitions"][0]
    return {e["name"]: e["value"] for e in container["environment"]}


def ship(registry: Registry, version: int, url: str, **more: Any) -> Deployment:
    settings = {"timeout_minutes": 0.1, "smoke_timeout_seconds": 1.5, "smoke_max_milliseconds": 500}
    names = {"cluster": CLUSTER, "service": SERVICE, "url": url}
    given = {key: more.pop(key) for key in list(more) if key in Deploy.model_fields}
    return deploy(
        registry,
        version,
        Deploy(**(names | settings | given)),
        registry_url=registry.store.url,
        poll=0.05,
        **({"source": BY} | more),
    )


def back(registry: Registry, url: str, **more: Any) -> Deployment:
    return rollback(
        registry,
        Deploy(cluster=CLUSTER, service=SERVICE, url=url, smoke_timeout_seconds=1.5),
        registry_url=registry.store.url,
        reason="customers complain",
        poll=0.05,
        **({"source": BY} | more),
    )


# --- a deployment that goes well ---


def test_a_version_goes_live_and_becomes_champion_last(
    cluster: Any, registry: Registry, answers: Answers, tmp_path: Path
) -> None:
    version = publish(registry, tmp_path / "1", 0.3)
    before = described(cluster)["taskDefinition"]
    lines: list[str] = []

    done = ship(registry, 1, answers.url, progress=lines.append)

    environment = served(cluster)
    assert environment == {
        "LOG": "info",
        MODEL_URI: registry.store.url,
        MODEL_DIGEST: version.digest,
        MODEL_VERSION: "1",
    }
    service = described(cluster)
    assert service["runningCount"] == 2
    assert service["deploymentConfiguration"] == {
        "maximumPercent": 150,
        "minimumHealthyPercent": 50,
        "alarms": {"alarmNames": ["p99"], "enable": True, "rollback": True},
        "deploymentCircuitBreaker": {"enable": True, "rollback": True},
    }
    alias = registry.alias(CHAMPION)
    assert alias is not None
    assert (alias.version, alias.digest) == (1, version.digest)
    assert (done.changed, done.promoted) == (True, True)
    assert (done.before.task_definition, done.before.version) == (before, None)
    assert (done.after.digest, done.after.version) == (version.digest, 1)
    assert done.smoke.rows == 5
    assert done.events == lines
    assert any("2 of 2 tasks run" in line for line in lines)
    assert lines[-1] == "champion is version 1"


def test_the_same_again_changes_nothing(
    cluster: Any, registry: Registry, answers: Answers, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "1", 0.3)
    ship(registry, 1, answers.url)
    revision, history = described(cluster)["taskDefinition"], registry.history()

    again = ship(registry, 1, answers.url)

    assert (again.changed, again.promoted) == (False, False)
    assert described(cluster)["taskDefinition"] == revision
    assert registry.history() == history


def test_a_rerun_finishes_what_a_killed_run_began(
    cluster: Any,
    registry: Registry,
    answers: Answers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(registry, tmp_path / "1", 0.3)

    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    for step in ("update", "register"):  # killed before the call
        with monkeypatch.context() as patch:
            patch.setattr(Service, step, killed)
            with pytest.raises(Killed):
                ship(registry, 1, answers.url)
        assert MODEL_DIGEST not in served(cluster)
    for step in ("trilho.deploy.rollout.watch", "trilho.deploy.rollout.smoke"):
        with monkeypatch.context() as patch:
            patch.setattr(step, killed)
            with pytest.raises(Killed):
                ship(registry, 1, answers.url)
        assert registry.alias(CHAMPION) is None
    revision = described(cluster)["taskDefinition"]

    done = ship(registry, 1, answers.url)

    assert described(cluster)["taskDefinition"] == revision
    assert (done.changed, done.promoted) == (False, True)


def test_another_image_is_a_change(
    cluster: Any, registry: Registry, answers: Answers, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "1", 0.3)
    ship(registry, 1, answers.url)
    assert ship(registry, 1, answers.url, image="registry.example/serve:2").changed
    found = cluster.describe_task_definition(taskDefinition=described(cluster)["taskDefinition"])
    assert found["taskDefinition"]["containerDefinitions"][0]["image"] == "registry.example/serve:2"


# --- what the default branch makes, and whether it had its turn ---


def names(registry: Registry, alias: str) -> int | None:
    """The number of the version that an alias names."""
    found = registry.alias(alias)
    return found.version if found else None


def test_what_was_merged_is_noted_when_it_serves(
    cluster: Any, registry: Registry, answers: Answers, tmp_path: Path
) -> None:
    for number in (1, 2):
        publish(registry, tmp_path / str(number), number / 5)
    ship(registry, 1, answers.url)
    assert names(registry, MERGED) is None
    ship(registry, 1, answers.url, merged=True)  # the champion already: noted all the same
    assert names(registry, MERGED) == 1
    ship(registry, 2, answers.url)
    assert (names(registry, CHAMPION), names(registry, MERGED)) == (2, 1)
    ship(registry, 1, answers.url, merged=True)
    assert (names(registry, CHAMPION), names(registry, MERGED)) == (1, 1)


def test_a_deployment_killed_before_it_was_noted_is_finished_by_a_rerun(
    second: str,
    cluster: Any,
    registry: Registry,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    answers.bad = "none"
    move = Registry.move_alias

    def stopped(self: Registry, name: str, *arguments: Any, **options: Any) -> Any:
        if name == MERGED:
            raise trouble
        return move(self, name, *arguments, **options)

    for trouble in (UnavailableError("S3 does not answer"), Killed()):
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "move_alias", stopped)
            with pytest.raises(type(trouble)):
                ship(registry, 2, answers.url, merged=True)
        # what serves and what is champion never part
        assert served(cluster)[MODEL_DIGEST] == registry.version(2).digest
        assert (names(registry, CHAMPION), names(registry, MERGED)) == (2, None)
        assert registry.quarantined(registry.version(2).digest) is None
    assert not ship(registry, 2, answers.url, merged=True).changed
    assert (names(registry, CHAMPION), names(registry, MERGED)) == (2, 2)


def test_what_was_merged_is_noted_when_it_failed_by_its_own_fault(
    second: str,
    cluster: Any,
    registry: Registry,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    answers.status = 500
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "quarantine", killed)
        with pytest.raises(Killed):
            ship(registry, 2, answers.url, merged=True)
    assert_version_1_serves(cluster, registry, second)
    assert names(registry, MERGED) == 2
    with pytest.raises(DeploymentError, match="Version 2 is quarantined"):
        ship(registry, 2, answers.url, merged=True)
    assert_version_1_serves(cluster, registry, second)
    assert names(registry, MERGED) == 2


def test_what_was_merged_has_not_had_its_turn_when_aws_was_away(
    second: str,
    cluster: Any,
    registry: Registry,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise UnavailableError("ECS does not answer")

    answers.bad = "none"
    with monkeypatch.context() as patch:
        patch.setattr("trilho.deploy.rollout.watch", away)
        with pytest.raises(UnavailableError):
            ship(registry, 2, answers.url, merged=True)
    assert names(registry, MERGED) is None
    assert registry.quarantined(registry.version(2).digest) is None
    ship(registry, 2, answers.url, merged=True)
    assert (names(registry, CHAMPION), names(registry, MERGED)) == (2, 2)


# --- nothing of a task definition is lost ---


def test_a_rich_task_definition_keeps_all_but_the_model(aws: Any) -> None:
    sidecar = {
        "name": "telemetry",
        "image": "registry.example/otel:3",
        "essential": False,
        "environment": [{"name": MODEL_DIGEST, "value": "not this one"}],
        "memoryReservation": 64,
    }
    model = PLAIN | {
        "secrets": [{"name": "API_KEY", "valueFrom": "arn:aws:ssm:us-east-1:1:parameter/key"}],
        "mountPoints": [{"sourceVolume": "scratch", "containerPath": "/tmp", "readOnly": False}],
        "dependsOn": [{"containerName": "telemetry", "condition": "START"}],
        "linuxParameters": {"initProcessEnabled": True},
        "readonlyRootFilesystem": True,
        "healthCheck": {"command": ["CMD", "true"], "interval": 10},
        "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "/ecs/x"}},
        "stopTimeout": 30,
    }
    arn = register(
        aws,
        model,
        sidecar,
        taskRoleArn="arn:aws:iam::000000000000:role/task",
        executionRoleArn="arn:aws:iam::000000000000:role/start",
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu="512",
        memory="1024",
        volumes=[{"name": "scratch", "host": {}}],
        runtimePlatform={"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"},
        ephemeralStorage={"sizeInGiB": 30},
        proxyConfiguration={"type": "APPMESH", "containerName": "telemetry", "properties": []},
        tags=[{"key": "team", "value": "risk"}],
    )
    service = Service("models", "credit", "model")
    made = service.register(
        service.revision(arn), Model(uri="s3://b/r", digest="sha256:aa", version=7), "new:1"
    )

    old = aws.describe_task_definition(taskDefinition=arn, include=["TAGS"])
    new = aws.describe_task_definition(taskDefinition=made.arn, include=["TAGS"])
    assert new["tags"] == old["tags"] == [{"key": "team", "value": "risk"}]
    varies = {"taskDefinitionArn", "revision", "registeredAt"}
    before = {k: v for k, v in old["taskDefinition"].items() if k not in varies}
    after = {k: v for k, v in new["taskDefinition"].items() if k not in varies}
    before["containerDefinitions"][0]["image"] = "new:1"
    before["containerDefinitions"][0]["environment"] += [
        {"name": MODEL_URI, "value": "s3://b/r"},
        {"name": MODEL_DIGEST, "value": "sha256:aa"},
        {"name": MODEL_VERSION, "value": "7"},
    ]
    assert after == before


def test_every_field_that_ecs_can_register_is_copied() -> None:
    """By ECS's own model: a value for each field that exists, none for those only described."""
    client = boto3.client(
        "ecs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    shape = client.meta.service_model.shape_for("TaskDefinition")
    registrable = client.meta.service_model.operation_model("RegisterTaskDefinition").input_shape
    description = {
        name: sample(member) for name, member in shape.members.items() if name != "revision"
    } | {"taskDefinitionArn": "arn:aws:ecs:us-east-1:1:task-definition/f:3", "family": "f"}
    tags = [{"key": "team", "value": "risk"}, {"key": "aws:cloudformation:stack", "value": "s"}]
    with Stubber(client) as stub:
        stub.add_response(
            "describe_task_definition",
            {"taskDefinition": description, "tags": tags},
            {"taskDefinition": "f:3", "include": ["TAGS"]},
        )
        revision = Service("c", "s", client=client).revision("f:3")
    again = revision.revised(Model(uri="u", digest="d", version=1), None)
    assert set(again) == set(registrable.members)
    assert again["tags"] == tags[:1]
    changed = {"environment"}
    old, new = description["containerDefinitions"][0], again["containerDefinitions"][0]
    assert {k: v for k, v in new.items() if k not in changed} == {
        k: v for k, v in old.items() if k not in changed
    }
    others = set(registrable.members) - {"containerDefinitions", "tags"}
    assert {k: again[k] for k in others} == {k: description[k] for k in others}


def sample(shape: Any, depth: int = 0) -> Any:
    """Some value of a botocore shape with every member present."""
    match shape.type_name:
        case "structure":
            return {name: sample(member, depth + 1) for name, member in shape.members.items()}
        case "list":
            return [sample(shape.member, depth + 1)]
        case "map":
            return {"key": sample(shape.value, depth + 1)}
        case "integer" | "long" | "double" | "float":
            return 7
        case "boolean":
            return True
        case "timestamp":
            return "2026-01-01"
        case _:
            return (getattr(shape, "enum", None) or ["text"])[0]


def test_a_model_value_that_comes_from_a_secret_is_refused(aws: Any) -> None:
    arn = register(aws, PLAIN | {"secrets": [{"name": MODEL_DIGEST, "valueFrom": "arn:aws:ssm:x"}]})
    revision = Service("models", "credit").revision(arn)
    with pytest.raises(UsageError, match="takes TRILHO_MODEL_DIGEST from a secret"):
        revision.revised(Model(uri="u", digest="d", version=1), None)


# --- deployments that fail: the revision before, the alias where it was, the reason first ---


@pytest.fixture
def second(cluster: Any, registry: Registry, answers: Answers, tmp_path: Path) -> Any:
    """Version 1 serves; version 2 is published, and whatever is wrong is wrong with it only."""
    publish(registry, tmp_path / "1", 0.3)
    ship(registry, 1, answers.url)
    answers.bad = publish(registry, tmp_path / "2", 0.6).digest
    return described(cluster)["taskDefinition"]


def assert_version_1_serves(cluster: Any, registry: Registry, revision: str) -> None:
    service = described(cluster)
    assert service["taskDefinition"] == revision
    assert service["runningCount"] == 2
    alias = registry.alias(CHAMPION)
    assert alias is not None
    assert alias.version == 1


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("500", {"status": 500}, "/invocations answers 500: .*the model broke"),
    ("wrong numbers", {"offset": 1e-6}, "answers wrong numbers: golden row 0 gives 0.600001"),
    ("not a number", {"offset": float("nan")}, "answers wrong numbers: golden row 0 gives nan"),
    ("slow", {"delay": 0.06}, "is too slow: 3 of 5 one-row requests took more than 30 ms"),
]


@pytest.mark.parametrize(("fault", "reason"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_failed_smoke_test_brings_the_old_version_back(
    fault: dict[str, Any],
    reason: str,
    second: str,
    cluster: Any,
    registry: Registry,
    answers: Answers,
) -> None:
    for name, value in fault.items():
        setattr(answers, name, value)
    with pytest.raises(DeploymentError, match=reason) as caught:
        ship(registry, 2, answers.url, smoke_max_milliseconds=30)
    assert caught.value.exit_code == 6
    name = second.rsplit("/", 1)[-1]
    assert caught.value.message.endswith(f"{name} serves again. Version 2 is quarantined.")
    assert_version_1_serves(cluster, registry, second)
    with pytest.raises(QuarantinedError, match=r"answers|too slow"):
        ship(registry, 2, answers.url)


def test_a_service_that_goes_on_answering_with_the_old_model_fails(
    second: str, cluster: Any, registry: Registry, answers: Answers
) -> None:
    answers.stuck_at = registry.version(1).digest
    with pytest.raises(DeploymentError, match=r"does not serve sha256:.* it serves sha256:"):
        ship(registry, 2, answers.url)
    assert_version_1_serves(cluster, registry, second)
    assert registry.quarantined(registry.version(2).digest)


def test_an_address_where_nobody_answers_does_not_condemn_the_version(
    second: str, cluster: Any, registry: Registry
) -> None:
    url = f"http://127.0.0.1:{ministack.free_port()}"
    with pytest.raises(DeploymentError, match="Connection refused") as caught:
        ship(registry, 2, url)
    assert "deploy.url" in str(caught.value.hint)
    assert_version_1_serves(cluster, registry, second)
    assert registry.quarantined(registry.version(2).digest) is None


def test_a_version_whose_task_crashed_is_condemned_even_if_nobody_answered(
    second: str, cluster: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = ecs_module.connect

    def list_tasks(parsed: dict[str, Any], **_: Any) -> None:
        parsed["taskArns"] = ["t"]

    def describe_tasks(parsed: dict[str, Any], **_: Any) -> None:
        service = cluster.describe_services(cluster=CLUSTER, services=[SERVICE])["services"][0]
        parsed["tasks"] = [
            {
                "taskDefinitionArn": service["taskDefinition"],
                "stoppedReason": "Essential container exited",
                "containers": [{"name": "model", "exitCode": 3}],
            }
        ]

    def connected() -> Any:
        client = connect()
        client.meta.events.register("after-call.ecs.ListTasks", list_tasks)
        client.meta.events.register("after-call.ecs.DescribeTasks", describe_tasks)
        return client

    monkeypatch.setattr(ecs_module, "connect", connected)
    with pytest.raises(DeploymentError, match=r"exited with 3.*Version 2 is quarantined") as caught:
        ship(registry, 2, f"http://127.0.0.1:{ministack.free_port()}")
    assert "Connection refused" in caught.value.message
    assert_version_1_serves(cluster, registry, second)
    assert registry.quarantined(registry.version(2).digest)


class Breaker:
    """What ECS's circuit breaker does to tasks that cannot start, played on MiniStack.

    Without containers MiniStack's tasks cannot fail, so their failure is written into its answers.
    """

    def __init__(self, aws: Any, old: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.aws, self.old = aws, old
        self.rolls_back = True
        self.state: dict[str, Any] = {"rolloutState": "IN_PROGRESS", "runningCount": 0}
        self.draining = 0  # tasks of the old revision that never end
        self.other: str | None = None
        connect = ecs_module.connect

        def connected() -> Any:
            client = connect()
            client.meta.events.register("after-call.ecs.DescribeServices", self.fail)
            return client

        monkeypatch.setattr(ecs_module, "connect", connected)

    def fail(self, parsed: dict[str, Any], **_: Any) -> None:
        service = parsed["services"][0]
        ours = next(d for d in service["deployments"] if d["status"] == "PRIMARY")
        if ours["taskDefinition"] in (self.old, self.other):
            return
        ours |= self.state
        if self.draining:
            old = {"id": "old", "status": "ACTIVE", "taskDefinition": self.old}
            service["deployments"].append(old | {"runningCount": self.draining})
        if self.other:
            self.aws.update_service(cluster=CLUSTER, service=SERVICE, taskDefinition=self.other)
            return
        if not self.rolls_back:
            return
        ours |= {
            "rolloutState": "FAILED",
            "rolloutStateReason": "ECS deployment circuit breaker: tasks failed to start.",
        }
        self.aws.update_service(cluster=CLUSTER, service=SERVICE, taskDefinition=self.old)


def test_tasks_that_crash_are_rolled_back_with_the_reason_of_ecs(
    second: str,
    cluster: Any,
    registry: Registry,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Breaker(cluster, second, monkeypatch)
    with pytest.raises(DeploymentError, match=r"^ECS gave credit:\d+ up: .*failed to start\."):
        ship(registry, 2, answers.url)
    assert_version_1_serves(cluster, registry, second)
    assert registry.quarantined(registry.version(2).digest)


@pytest.mark.parametrize(
    ("state", "draining", "seen"),
    [
        ({"rolloutState": "IN_PROGRESS", "runningCount": 0}, 0, "0 of 2 tasks run"),
        ({"rolloutState": "IN_PROGRESS", "runningCount": 2}, 0, "2 of 2 tasks run"),
        ({"rolloutState": "COMPLETED", "runningCount": 1}, 0, "1 of 2 tasks run"),
        ({"rolloutState": "COMPLETED"}, 1, "1 still run another revision"),
    ],
)
def test_a_deployment_is_over_only_when_the_new_tasks_run_alone(
    state: dict[str, Any],
    draining: int,
    seen: str,
    second: str,
    cluster: Any,
    registry: Registry,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breaker = Breaker(cluster, second, monkeypatch)
    breaker.rolls_back, breaker.state, breaker.draining = False, state, draining
    with pytest.raises(DeploymentError, match=rf"does not run after 0 seconds: .*{seen}"):
        ship(registry, 2, answers.url, timeout_minutes=0.005)
    assert_version_1_serves(cluster, registry, second)


def test_a_failed_task_tells_how_it_ended() -> None:
    client = boto3.client(
        "ecs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    crashed = {
        "taskArn": "t",
        "taskDefinitionArn": "f:2",
        "stoppedReason": "Essential container in task exited",
        "stopCode": "EssentialContainerExited",
        "containers": [{"name": "model", "exitCode": 3, "reason": "OutOfMemoryError: killed"}],
    }
    drained = crashed | {"containers": [{"name": "model", "exitCode": 0}]}
    for tasks, told in (
        ([drained, crashed], " A task of it ended so: Essential container in task exited; "),
        ([drained, crashed | {"taskDefinitionArn": "f:1"}], ""),
        ([], ""),
    ):
        with Stubber(client) as stub:
            stub.add_response("list_tasks", {"taskArns": ["t"] * len(tasks)})
            if tasks:
                stub.add_response("describe_tasks", {"tasks": tasks})
            text = ending(Service("c", "s", client=client), "f:2")
        assert text.startswith(told)
        assert ("container 'model' exited with 3; OutOfMemoryError: killed." in text) == bool(told)


def test_a_deployment_that_somebody_else_started_meanwhile_is_left_alone(
    second: str,
    cluster: Any,
    registry: Registry,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = register(cluster, PLAIN)
    Breaker(cluster, second, monkeypatch).other = other
    with pytest.raises(SupersededError, match="Another deployment took the service over"):
        ship(registry, 2, answers.url)
    assert described(cluster)["taskDefinition"] == other
    assert registry.quarantined(registry.version(2).digest) is None


def test_an_alias_that_moved_meanwhile_is_not_overwritten(
    second: str,
    cluster: Any,
    registry: Registry,
    answers: Answers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(registry, tmp_path / "3", 0.5)
    answers.bad = "none"

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        registry.move_alias(CHAMPION, 3, expected=registry.alias(CHAMPION), source=BY)
        return smoke(*arguments, **options)

    monkeypatch.setattr("trilho.deploy.rollout.smoke", meanwhile)
    with pytest.raises(DeploymentError, match="moved by somebody else"):
        ship(registry, 2, answers.url)
    alias = registry.alias(CHAMPION)
    assert alias is not None
    assert alias.version == 3
    assert described(cluster)["taskDefinition"] == second
    assert registry.quarantined(registry.version(2).digest) is None


def test_a_failed_take_over_goes_back_to_what_served_the_champion(
    second: str,
    cluster: Any,
    registry: Registry,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run that knew the revision before was killed: it is found again."""
    model = Model(uri=registry.store.url, digest=registry.version(2).digest, version=2)
    service = Service(CLUSTER, SERVICE)
    made = service.register(service.revision(second), model)
    service.update(made.arn, service.describe())
    answers.status = 500
    with pytest.raises(DeploymentError, match="answers 500"):
        ship(registry, 2, answers.url)
    assert_version_1_serves(cluster, registry, second)


def test_a_damaged_bundle_is_refused_before_anything_changes(
    second: str, cluster: Any, registry: Registry, answers: Answers, tmp_path: Path
) -> None:
    digest = registry.version(2).digest
    blob = registry.read_manifest(digest).files["golden.json"].sha256.removeprefix("sha256:")
    path = next((tmp_path / "registry").rglob(blob))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"0.6", b"0.7"))
    with pytest.raises(IntegrityError, match=r"golden.json was changed"):
        ship(registry, 2, answers.url)
    assert described(cluster)["taskDefinition"] == second


# --- services that cannot be deployed to ---


def test_what_cannot_be_deployed_to_is_named(
    cluster: Any, registry: Registry, answers: Answers, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "1", 0.3)
    with pytest.raises(
        UsageError, match=r"cluster 'modles' does not exist; .*did you mean 'models'"
    ):
        ship(registry, 1, answers.url, cluster="modles")
    with pytest.raises(UsageError, match="no service 'credits'; there is credit; did you mean"):
        ship(registry, 1, answers.url, service="credits")
    with pytest.raises(UsageError, match="no container 'web'; it has model"):
        ship(registry, 1, answers.url, container="web")
    with pytest.raises(UsageError, match=r"deploy\.url is not set"):
        ship(registry, 1, "")
    with pytest.raises(UsageError, match="There is no version 9"):
        ship(registry, 9, answers.url)
    cluster.update_service(
        cluster=CLUSTER,
        service=SERVICE,
        taskDefinition=register(cluster, PLAIN, PLAIN | {"name": "b"}),
    )
    with pytest.raises(UsageError, match="several containers: model, b") as caught:
        ship(registry, 1, answers.url)
    assert "deploy.container" in str(caught.value.hint)
    ship(registry, 1, answers.url, container="model")
    cluster.update_service(cluster=CLUSTER, service=SERVICE, desiredCount=0)
    with pytest.raises(UsageError, match="desired count of 0"):
        ship(registry, 1, answers.url, container="model")


@pytest.mark.parametrize(
    ("code", "status", "kind", "said"),
    [
        ("AccessDeniedException", 400, UsageError, "access denied"),
        ("ExpiredTokenException", 400, UsageError, "expired"),
        ("ThrottlingException", 400, UnavailableError, "retries included"),
        ("ServerException", 500, UnavailableError, "retries included"),
    ],
)
def test_aws_refusals_are_explained(
    code: str, status: int, kind: type[TrilhoError], said: str
) -> None:
    client = boto3.client(
        "ecs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    with Stubber(client) as stub:
        stub.add_client_error("describe_services", code, "no", status)
        with pytest.raises(kind, match=said):
            Service("c", "s", client=client).describe()


def test_no_region_and_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UsageError, match="region"):
        Service("c", "s")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    with pytest.raises(UsageError, match="credentials"):
        Service("c", "s").describe()


# --- rollback ---


@pytest.fixture
def three(cluster: Any, registry: Registry, answers: Answers, tmp_path: Path) -> list[str]:
    """Three versions went live one after the other; the task definitions that served them."""
    revisions = []
    for number in (1, 2, 3):
        publish(registry, tmp_path / str(number), number / 5)
        ship(registry, number, answers.url)
        revisions.append(described(cluster)["taskDefinition"])
    return revisions


def test_rollback_goes_to_the_champion_before_and_quarantines_the_bad_one(
    three: list[str], cluster: Any, registry: Registry, answers: Answers
) -> None:
    done = back(registry, answers.url)
    assert (done.before.version, done.after.version) == (3, 2)
    assert described(cluster)["taskDefinition"] == three[1]
    alias = registry.alias(CHAMPION)
    assert alias is not None
    assert alias.version == 2
    entry = registry.quarantined(registry.version(3).digest)
    assert entry is not None
    assert entry.reason == "customers complain"
    # once more: not to version 3, which is bad, but further back
    assert back(registry, answers.url).after.version == 1
    with pytest.raises(UsageError, match="No version but 1"):
        back(registry, answers.url)


def test_rollback_to_a_named_version(
    three: list[str], cluster: Any, registry: Registry, answers: Answers
) -> None:
    assert back(registry, answers.url, to=1).after.version == 1
    assert described(cluster)["taskDefinition"] == three[0]
    with pytest.raises(UsageError, match="Version 1 is the champion already"):
        back(registry, answers.url, to=1)
    with pytest.raises(QuarantinedError, match="Version 3"):
        back(registry, answers.url, to=3)


def test_a_killed_rollback_goes_to_the_same_version_when_run_again(
    three: list[str],
    cluster: Any,
    registry: Registry,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    for step in ("quarantine", "move_alias"):
        with monkeypatch.context() as patch:
            patch.setattr(Registry, step, killed)
            with pytest.raises(Killed):
                back(registry, answers.url)
    assert back(registry, answers.url).after.version == 2


def test_a_rollback_run_again_goes_no_further_back(
    three: list[str], cluster: Any, registry: Registry, answers: Answers, tmp_path: Path
) -> None:
    def by(number: int) -> Source:
        return Source(actor="ada", run_url=f"https://github.example/o/r/actions/runs/{number}")

    def run(number: int, **more: Any) -> Deployment:
        return back(registry, answers.url, source=by(number), **more)

    assert run(7).after.version == 2
    history = registry.history()
    for to in (None, 2):  # the same run once more: it looks that all is well, and ends
        again = run(7, to=to)
        assert (again.after.version, again.changed, again.promoted) == (2, False, False)
    assert registry.history() == history
    with pytest.raises(UsageError, match="Version 2 is the champion already"):
        run(8, to=2)
    assert run(8).after.version == 1  # another run is another wish
    # a run that deployed by itself and then wants to go back has not gone back yet
    publish(registry, tmp_path / "4", 0.9)
    ship(registry, 4, answers.url, source=by(9))
    assert run(9).after.version == 1


def test_rollback_goes_to_what_was_champion_not_to_what_was_only_merged(
    three: list[str], cluster: Any, registry: Registry, answers: Answers, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "4", 0.9)
    registry.move_alias(MERGED, 4, expected=None, source=BY)
    assert back(registry, answers.url).after.version == 2


def test_a_broken_target_that_is_named_is_refused_and_the_present_version_serves_on(
    three: list[str], cluster: Any, registry: Registry, answers: Answers, tmp_path: Path
) -> None:
    digest = registry.version(2).digest
    blob = registry.read_manifest(digest).files["golden.json"].sha256.removeprefix("sha256:")
    next((tmp_path / "registry").rglob(blob)).unlink()
    with pytest.raises(IntegrityError, match=r"golden.json is missing"):
        back(registry, answers.url, to=2)
    alias = registry.alias(CHAMPION)
    assert alias is not None
    assert alias.version == 3
    assert described(cluster)["taskDefinition"] == three[2]


def test_nothing_to_roll_back(registry: Registry) -> None:
    with pytest.raises(UsageError, match="There is no champion"):
        back(registry, "http://127.0.0.1:1")


# --- the smoke test by itself ---


def test_a_url_must_be_one() -> None:
    golden = Golden(tolerance=0, rows=[{"x": 1}], expected=[0.5])
    for url in ("model.example.com", "ftp://x", "http://"):
        with pytest.raises(UsageError, match=r"must be an http or https URL"):
            smoke(url, golden, "sha256:aa")


def test_lists_of_probabilities_are_compared_one_by_one(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = Golden(tolerance=1e-9, rows=[{"x": 1}], expected=[[0.2, 0.8]])
    with answering(registry) as running:
        monkeypatch.setattr(running, "digest", lambda: "d")
        for probabilities, good in (
            ([0.2, 0.8], True),
            ([0.2, 0.8 + 1e-6], False),
            ([0.2], False),
            ([float("nan"), 0.8], False),
            ([0.2, None], False),
        ):
            answer = {"predictions": [probabilities]}
            monkeypatch.setattr(running, "invoke", lambda rows, answer=answer: (200, answer))
            if good:
                assert smoke(running.url, golden, "d").rows == 1
            else:
                with pytest.raises(SmokeError, match="wrong numbers"):
                    smoke(running.url, golden, "d")


# --- the verbs, as a workflow calls them ---

PIPELINE = """\
name: credit
registry: {registry}
data: {{path: none.csv, schema: none.yaml, target: y}}
model: {{factory: a:b}}
deploy:
  cluster: {cluster}
  service: {service}
  url: {url}
  timeout_minutes: 0.1
  smoke_timeout_seconds: 1.5
"""


class Step:
    """Runs verbs over one pipeline as steps of a workflow do, and keeps what they leave."""

    def __init__(self, folder: Path, registry: str, url: str) -> None:
        self.config, self.folder = folder / "pipeline.yaml", folder
        self.config.write_text(
            PIPELINE.format(registry=registry, cluster=CLUSTER, service=SERVICE, url=url)
        )

    def __call__(self, *arguments: str, **environment: str) -> Result:
        self.outputs.unlink(missing_ok=True)
        self.summary.unlink(missing_ok=True)
        given = {
            "GITHUB_OUTPUT": str(self.outputs),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "TRILHO_CONFIG": str(self.config),
        }
        return CliRunner().invoke(app, arguments, env=given | environment)

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def summary(self) -> Path:
        return self.folder / "summary"


@pytest.fixture
def step(
    registry: Registry, answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Step:
    monkeypatch.setattr("trilho.deploy.rollout.POLL_SECONDS", 0.05)
    return Step(tmp_path, registry.store.url, answers.url)


def test_verbs_tell_the_workflow_what_serves_and_why_not(
    step: Step, registry: Registry, answers: Answers, tmp_path: Path
) -> None:
    first = publish(registry, tmp_path / "1", 0.3)
    second = publish(registry, tmp_path / "2", 0.4)

    assert step("deploy", TRILHO_VERSION="1", TRILHO_IMAGE="").exit_code == 0
    assert "**DEPLOYED** — Version v1 serves." in step.summary.read_text()
    told = {"service-url": answers.url, "model-version": "1", "model-digest": first.digest}
    assert outputs(step.outputs) == told | {"outcome": "deployed", "previous-version": ""}
    assert step("deploy", "--version", "1").exit_code == 0
    assert outputs(step.outputs) == told | {"outcome": "unchanged", "previous-version": "1"}
    assert step("deploy", TRILHO_VERSION="v2", TRILHO_IMAGE="registry.example/s:2").exit_code == 0
    assert outputs(step.outputs)["model-digest"] == second.digest
    assert step("smoke").exit_code == 0
    assert step("rollback", TRILHO_TO="1", TRILHO_REASON="too slow").exit_code == 0
    champion = registry.alias(CHAMPION)
    assert champion
    assert (champion.version, champion.reason) == (1, "too slow")
    assert outputs(step.outputs)["previous-version"] == "2"

    third = publish(registry, tmp_path / "3", 0.5)
    answers.offset, answers.bad = 0.1, third.digest
    failed = step("deploy", "--version", "3", TRILHO_MERGED="false")
    assert isinstance(failed.exception, DeploymentError)
    shown = step.summary.read_text()
    assert shown.startswith("> [!CAUTION]")
    assert "answers wrong numbers" in shown.splitlines()[1]
    assert registry.alias(CHAMPION) == champion
    assert registry.alias(MERGED) is None


def test_a_rollback_past_a_broken_version_raises_the_alarm(
    step: Step, three: list[str], registry: Registry, answers: Answers, github: GitHub
) -> None:
    answers.offset, answers.bad = 0.1, registry.version(2).digest
    in_actions = github.environment() | {"GITHUB_ACTIONS": "true", "TRILHO_ISSUE": "true"}
    # a folder is no registry for a runner, but for this test it is
    in_actions["TRILHO_REGISTRY"] = registry.store.url

    done = step("rollback", TRILHO_REASON="complaints", **in_actions)

    assert done.exit_code == 0, done.output  # what was asked for is done: an earlier version serves
    assert names(registry, CHAMPION) == 1
    assert outputs(step.outputs)["model-version"] == "1"
    assert re.search(
        r"^::error::Version 2 cannot be gone back to: .*wrong numbers", done.stderr, re.M
    )
    alarm, _, rest = step.summary.read_text().partition("\n\n")
    assert "[!CAUTION]" in alarm
    assert "**ALARM** — Version 2 cannot be gone back to" in alarm
    assert "Version v1 serves" in rest
    (issue,) = github.opened()
    assert issue.title.endswith("rolled back from v3 to v1, past what is broken")
    assert issue.body.partition("-->")[2].strip().startswith(alarm)
    assert "Mend what was passed over" in issue.body


@pytest.fixture
def github() -> Any:
    with github_api() as api:
        yield api


def test_a_merge_deploys_only_while_it_is_the_newest(
    step: Step, cluster: Any, registry: Registry, answers: Answers, github: GitHub, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "1", 0.3)
    older, newer = "a" * 40, "b" * 40
    before = described(cluster)["taskDefinition"]
    push = github.environment() | {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": "push",
        "GITHUB_REF_NAME": "release/one",
        "TRILHO_MERGED": "true",
        "TRILHO_VERSION": "1",
    }
    github.heads["release/one"] = newer

    late = step("deploy", **push, GITHUB_SHA=older)

    assert late.exit_code == 0
    assert re.search(rf"^::notice::Nothing was deployed: {newer[:12]}", late.stderr, re.M)
    assert outputs(step.outputs) == {"outcome": "superseded", "service-url": answers.url}
    assert newer in step.summary.read_text()
    assert described(cluster)["taskDefinition"] == before
    assert registry.aliases() == []

    # only a push can be overtaken, and only what was merged
    for other in ({"GITHUB_EVENT_NAME": "workflow_dispatch"}, {"TRILHO_MERGED": "false"}):
        asked = len(github.requests)
        assert step("deploy", **(push | other), GITHUB_SHA=older).exit_code == 0
        assert len(github.requests) == asked
    assert step("deploy", **push, GITHUB_SHA=newer).exit_code == 0
    assert [request.path for request in github.requests][-1].endswith("/commits/release/one")
    assert (names(registry, CHAMPION), names(registry, MERGED)) == (1, 1)


@pytest.mark.parametrize("trouble", ["refused", "away", "no token"])
def test_a_merge_deploys_where_github_does_not_say_what_is_newest(
    trouble: str,
    step: Step,
    registry: Registry,
    answers: Answers,
    github: GitHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(registry, tmp_path / "1", 0.3)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    environment = github.environment()
    if trouble == "away":
        environment["GITHUB_API_URL"] = "http://127.0.0.1:9"
    if trouble == "no token":
        environment["GITHUB_TOKEN"] = ""
    push = {"GITHUB_EVENT_NAME": "push", "GITHUB_REF_NAME": "gone", "GITHUB_SHA": "a" * 40}
    done = step("deploy", "--merged", "--version", "1", **environment, **push)
    assert done.exit_code == 0
    assert "not known whether a newer commit was pushed" in done.stderr
    assert names(registry, MERGED) == 1


def test_a_registry_that_ends_with_the_runner_is_refused(
    step: Step, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = step.config.read_text()
    step.config.write_text(re.sub(r"registry: .*", "registry: .trilho/registry", text))
    for verb in ("deploy", "rollback", "publish"):
        done = step(verb, GITHUB_ACTIONS="true")
        assert isinstance(done.exception, UsageError)
        assert "gh variable set TRILHO_REGISTRY --body s3://" in str(done.exception.hint)
        # on a laptop it stays
        assert "folder" not in str(step(verb, GITHUB_ACTIONS="").exception)
