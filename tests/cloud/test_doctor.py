"""`trilho doctor`: what infra/ makes is sound, and each thing that is not is found and mended."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aws_command
import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from ecs_service import publish
from iam_policy import Request, allowed
from identities import BUCKET, REGISTRY, Cloud, bootstrap, service
from step import outputs
from typer.testing import CliRunner

from trilho.cli import app
from trilho.config import Deploy
from trilho.demo import ministack
from trilho.deploy import ecs as ecs_module
from trilho.doctor import CHECKS, Check, Context, Finding, Status, examine, policy, worst
from trilho.doctor.findings import document
from trilho.doctor.permissions import permissions
from trilho.errors import UnsoundError
from trilho.registry import CHAMPION, Registry, Source, Version, keys, open_registry
from trilho.storage import aws

USER = "trilho-deploy"
STACK = "trilho-service"
URL = "https://model.example.com"
PAGE = Path(__file__).parents[2] / "docs/doctor.md"
COUNT = itertools.count(1)
BY_ID = {check.id: check for check in CHECKS}
CLIENT = aws.client  # as it is without a test's own
AWS_AREAS = {"identity", "bucket", "registry", "service", "alarms"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """An AWS in which we are a user, whose clients are made once."""
    folder = tmp_path_factory.mktemp("aws")
    server = ministack.start(folder, environment={"DOCKER_HOST": f"unix://{folder}/none"})
    clients: dict[str, Any] = {}

    def client(name: str) -> Any:
        if name not in clients:
            clients[name] = boto3.client(name)
        return clients[name]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in server.environment().items():
            patch.setenv(name, value)
        iam = boto3.Session().client("iam")
        iam.create_user(UserName=USER)
        key = iam.create_access_key(UserName=USER)["AccessKey"]
        patch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        patch.setattr(boto3, "DEFAULT_SESSION", None)  # it knows the credentials of before
        patch.setattr(aws, "client", client)
        patch.setattr(ecs_module, "connect", lambda: client("ecs"))
        yield client
    server.stop()


@dataclass
class World:
    """A rail as infra/ makes it, with one version that serves and is champion."""

    client: Callable[[str], Any]
    bucket: str
    cluster: str
    registry: Registry
    champion: Version
    later: Version
    alarms: list[str]
    topic: str

    @property
    def service(self) -> dict[str, Any]:
        ecs = self.client("ecs")
        return dict(
            ecs.describe_services(cluster=self.cluster, services=["credit-default"])["services"][0]
        )

    def container(self) -> dict[str, Any]:
        ecs = self.client("ecs")
        found = ecs.describe_task_definition(taskDefinition=self.service["taskDefinition"])
        return dict(found["taskDefinition"]["containerDefinitions"][0])

    def run(self, container: dict[str, Any]) -> None:
        """Let the service run another task definition."""
        made = self.client("ecs").register_task_definition(
            family="credit-default", containerDefinitions=[container]
        )
        self.update(taskDefinition=made["taskDefinition"]["taskDefinitionArn"])

    def update(self, **changes: Any) -> None:
        self.client("ecs").update_service(cluster=self.cluster, service="credit-default", **changes)

    def configure(self, **changes: Any) -> None:
        self.update(deploymentConfiguration=self.service["deploymentConfiguration"] | changes)

    def context(self, **changes: Any) -> Context:
        given = {
            "registry_url": self.registry.store.url,
            "deploy": Deploy(cluster=self.cluster, service="credit-default", url=URL),
        }
        return Context(**given | changes)

    def blob(self) -> str:
        manifest = self.registry.read_manifest(self.champion.digest)
        return keys.blob(manifest.files["golden.json"].sha256)


def lower(tree: Any) -> Any:
    """CloudFormation's names as ECS spells them."""
    if isinstance(tree, dict):
        return {key[:1].lower() + key[1:]: lower(value) for key, value in tree.items()}
    return [lower(item) for item in tree] if isinstance(tree, list) else tree


def make_bucket(s3: Any, name: str) -> None:
    """A bucket with the settings of bootstrap.yaml."""
    template = bootstrap(Bucket=name)
    properties = template.resource("RegistryBucket")
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(
        Bucket=name, VersioningConfiguration=properties["VersioningConfiguration"]
    )
    (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    applied = {"ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"]}
    s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [applied]})
    s3.put_public_access_block(
        Bucket=name,
        PublicAccessBlockConfiguration=properties["PublicAccessBlockConfiguration"],
    )
    policy = template.resource("BucketPolicy")["PolicyDocument"]
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    rules = []
    for given in properties["LifecycleConfiguration"]["Rules"]:
        rule = {"ID": given["Id"], "Status": given["Status"]}
        rule["Filter"] = {"Prefix": given.get("Prefix", "")}
        if "ExpirationInDays" in given:
            rule["Expiration"] = {"Days": int(given["ExpirationInDays"])}
        if "ExpiredObjectDeleteMarker" in given:
            rule["Expiration"] = {"ExpiredObjectDeleteMarker": True}
        rules.append(rule)
    s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})


@pytest.fixture
def world(endpoint: Callable[[str], Any], tmp_path: Path) -> World:
    number = next(COUNT)
    bucket, cluster, stack = f"models-{number}", f"cluster-{number}", f"{STACK}-{number}"
    make_bucket(endpoint("s3"), bucket)
    registry = open_registry(f"s3://{bucket}/registry")
    champion, later = (publish(registry, tmp_path / f"{s}", s) for s in (0.5, 0.6))
    by = Source(actor="tester")
    registry.move_alias(CHAMPION, champion.number, expected=None, source=by)

    topic = endpoint("sns").create_topic(Name=f"{stack}-alarms")["TopicArn"]
    endpoint("sns").subscribe(TopicArn=topic, Protocol="email", Endpoint="you@example.com")
    alarms = [f"{stack}-{name}" for name in ("errors", "latency")]
    for name in [*alarms, f"{stack}-cpu"]:
        endpoint("cloudwatch").put_metric_alarm(
            AlarmName=name,
            AlarmDescription=f"The {name}.",
            AlarmActions=[topic],
            Namespace="AWS/ECS",
            MetricName=name,
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanThreshold",
        )
        endpoint("cloudwatch").set_alarm_state(AlarmName=name, StateValue="OK", StateReason="t")

    image = "1.dkr.ecr.us-east-1.amazonaws.com/trilho@sha256:" + "a" * 64
    template = service(Image=image, ModelDigest=champion.digest, ModelVersion=str(champion.number))
    (container,) = lower(template.resource("Task")["ContainerDefinitions"])
    for variable in container["environment"]:
        if variable["name"] == "TRILHO_MODEL_URI":
            variable["value"] = registry.store.url
    container |= {"memory": 512}
    settings = lower(template.resource("Service")["DeploymentConfiguration"])
    settings["alarms"]["alarmNames"] = alarms
    ecs = endpoint("ecs")
    ecs.create_cluster(clusterName=cluster)
    made = ecs.register_task_definition(family="credit-default", containerDefinitions=[container])
    ecs.create_service(
        cluster=cluster,
        serviceName="credit-default",
        taskDefinition=made["taskDefinition"]["taskDefinitionArn"],
        desiredCount=2,
        deploymentConfiguration=settings,
    )
    return World(endpoint, bucket, cluster, registry, champion, later, alarms, topic)


def look(context: Context, *ids: str) -> list[Finding]:
    """Make these checks only."""
    checks = tuple(BY_ID[id] for id in ids) or CHECKS
    return [finding for _, found in examine(context, checks) for finding in found]


def only(context: Context, id: str) -> Finding:
    (finding,) = look(context, id)
    return finding


# --- what infra/ makes ---


def test_what_infra_makes_is_sound(world: World) -> None:
    checks = [c for c in CHECKS if c.area in AWS_AREAS and c.name != "permissions"]
    findings = look(world.context(deep=True), *(c.id for c in checks))
    assert {f.status for f in findings} == {"pass"}, [f for f in findings if f.status != "pass"]
    assert {f"{f.area}/{f.check}" for f in findings} == {c.id for c in checks}


# --- each thing that can be wrong: broken alone it is found, by the command that is told mended ---


@dataclass(frozen=True)
class Case:
    check: str
    status: Status
    said: str  # a part of what is found
    harm: Callable[[World], Any]
    mend: str = "aws"  # how the remedy begins
    applied: bool = True  # the remedy is carried out, and the check passes


def s3(operation: str, **arguments: Any) -> Callable[[World], Any]:
    return lambda w: getattr(w.client("s3"), operation)(Bucket=w.bucket, **arguments)


def without(sid: str) -> Callable[[World], Any]:
    """Takes a statement out of the bucket's policy."""

    def harm(w: World) -> None:
        policy = json.loads(w.client("s3").get_bucket_policy(Bucket=w.bucket)["Policy"])
        policy["Statement"] = [s for s in policy["Statement"] if s["Sid"] != sid]
        assert len(policy["Statement"]) == 2
        w.client("s3").put_bucket_policy(Bucket=w.bucket, Policy=json.dumps(policy))

    return harm


def weaker(sid: str, **changes: Any) -> Callable[[World], Any]:
    """Changes a statement of the bucket's policy, so that it denies less."""

    def harm(w: World) -> None:
        policy = json.loads(w.client("s3").get_bucket_policy(Bucket=w.bucket)["Policy"])
        next(s for s in policy["Statement"] if s["Sid"] == sid).update(changes)
        w.client("s3").put_bucket_policy(Bucket=w.bucket, Policy=json.dumps(policy))

    return harm


def lifecycle(*rules: dict[str, Any]) -> Callable[[World], Any]:
    plain = {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}}
    given = [plain | rule for rule in rules]
    return s3("put_bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": given})


CANDIDATES = {
    "ID": "candidates",
    "Filter": {"Prefix": "registry/candidates/"},
    "Expiration": {"Days": 9},
}


def put(key: Callable[[World], str], data: bytes) -> Callable[[World], Any]:
    return lambda w: w.client("s3").put_object(Bucket=w.bucket, Key=f"registry/{key(w)}", Body=data)


def delete(key: Callable[[World], str]) -> Callable[[World], Any]:
    return lambda w: w.client("s3").delete_object(Bucket=w.bucket, Key=f"registry/{key(w)}")


def container(**changes: Any) -> Callable[[World], Any]:
    """Lets the tasks run another container; a value of None leaves the setting out."""
    return lambda w: w.run({k: v for k, v in (w.container() | changes).items() if v is not None})


def variable(name: str, value: Callable[[World], str]) -> Callable[[World], Any]:
    def harm(w: World) -> None:
        given = [e for e in w.container()["environment"] if e["name"] != name]
        w.run(w.container() | {"environment": [*given, {"name": name, "value": value(w)}]})

    return harm


def alarm(state: str, which: int = 0, suffix: str | None = None) -> Callable[[World], Any]:
    def harm(w: World) -> None:
        name = w.alarms[which] if suffix is None else w.alarms[0].replace("errors", suffix)
        w.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue=state, StateReason="t")

    return harm


def unsubscribe(w: World) -> None:
    sns = w.client("sns")
    for found in sns.list_subscriptions_by_topic(TopicArn=w.topic)["Subscriptions"]:
        sns.unsubscribe(SubscriptionArn=found["SubscriptionArn"])


def idle(w: World) -> None:
    """Takes the action from an alarm."""
    cloudwatch = w.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName=w.alarms[1],
        Namespace="N",
        MetricName="m",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
    )


def damaged_alias(w: World) -> None:
    record = json.loads(w.registry.store.get(keys.alias(CHAMPION)).data)
    put(lambda _: keys.alias(CHAMPION), json.dumps(record | {"digest": w.later.digest}).encode())(w)


BREAKER_OFF = {"deploymentCircuitBreaker": {"enable": False, "rollback": False}}
BREAKER_HALF = {"deploymentCircuitBreaker": {"enable": True, "rollback": False}}
CASES = {
    "versioning off": Case(
        "bucket/versioning",
        "fail",
        "Suspended",
        s3("put_bucket_versioning", VersioningConfiguration={"Status": "Suspended"}),
    ),
    "open to the public": Case(
        "bucket/public access",
        "fail",
        "BlockPublicAcls, IgnorePublicAcls",
        s3("delete_public_access_block"),
    ),
    "open in one way": Case(
        "bucket/public access",
        "fail",
        "not blocked: RestrictPublicBuckets",
        s3(
            "put_public_access_block",
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": False,
            },
        ),
    ),
    "plain HTTP": Case("bucket/TLS only", "fail", "without TLS", without("TlsOnly")),
    "plain HTTP, by one's name": Case(
        "bucket/TLS only",
        "fail",
        "without TLS",
        weaker("TlsOnly", Principal={"AWS": "arn:aws:iam::1:root"}),
    ),
    "plain HTTP for writes": Case(
        "bucket/TLS only", "fail", "without TLS", weaker("TlsOnly", Action="s3:GetObject")
    ),
    "no policy at all": Case("bucket/TLS only", "fail", "without TLS", s3("delete_bucket_policy")),
    "history may be rewritten": Case(
        "bucket/append-only",
        "warn",
        "WrittenOnceIsNotOverwritten",
        without("WrittenOnceIsNotOverwritten"),
    ),
    "history may be deleted": Case(
        "bucket/append-only", "warn", "NothingIsDeleted", without("NothingIsDeleted")
    ),
    "only the blobs are kept": Case(
        "bucket/append-only",
        "warn",
        "NothingIsDeleted",
        weaker("NothingIsDeleted", Resource="arn:aws:s3:::x/registry/blobs/*"),
    ),
    "no lifecycle": Case("bucket/lifecycle", "warn", "for ever", s3("delete_bucket_lifecycle")),
    "a lifecycle that eats models": Case(
        "bucket/lifecycle",
        "fail",
        "rule x deletes versions",
        lifecycle(CANDIDATES, {"Expiration": {"Days": 30}}),
    ),
    "a lifecycle that eats bundles": Case(
        "bucket/lifecycle",
        "fail",
        "rule x deletes versions",
        lifecycle(
            CANDIDATES, {"Filter": {"Prefix": "registry/blobs/"}, "Expiration": {"Days": 30}}
        ),
    ),
    "a version's record gone": Case(
        "registry/versions", "fail", "gone: 1", delete(lambda w: keys.version(1)), applied=False
    ),
    "a file gone": Case(
        "registry/integrity", "fail", "golden.json is missing", delete(World.blob), applied=False
    ),
    "a file too short": Case(
        "registry/integrity",
        "fail",
        "golden.json has 2 bytes",
        put(World.blob, b"{}"),
        applied=False,
    ),
    "a manifest changed": Case(
        "registry/integrity",
        "fail",
        "its sha256 does not match",
        put(lambda w: keys.manifest(w.champion.digest), b"{}"),
        applied=False,
    ),
    "no champion": Case(
        "registry/champion",
        "warn",
        "no champion",
        delete(lambda w: keys.alias(CHAMPION)),
        "trilho deploy --version",
        applied=False,
    ),
    "a champion that is none": Case(
        "registry/champion", "fail", "the alias says", damaged_alias, "trilho rollback", False
    ),
    "a champion in quarantine": Case(
        "registry/champion",
        "fail",
        "quarantined: it lies",
        lambda w: w.registry.quarantine(w.champion.digest, "it lies", Source(actor="t")),
        "trilho rollback",
        False,
    ),
    "nothing wanted": Case(
        "service/exists",
        "fail",
        "desired count of 0",
        lambda w: w.update(desiredCount=0),
        "Run `aws ecs update-service",
        False,
    ),
    "one task": Case(
        "service/tasks",
        "warn",
        "1 of 1 tasks",
        lambda w: w.update(desiredCount=1),
        "trilho infra up service --param MinTasks=2",
        False,
    ),
    "no circuit breaker": Case(
        "service/circuit breaker", "fail", "off", lambda w: w.configure(**BREAKER_OFF)
    ),
    "a circuit breaker that leaves it broken": Case(
        "service/circuit breaker", "fail", "does not roll", lambda w: w.configure(**BREAKER_HALF)
    ),
    "half of the tasks go": Case(
        "service/minimum healthy",
        "fail",
        "only 50 %",
        lambda w: w.configure(minimumHealthyPercent=50),
    ),
    "nobody asks for health": Case(
        "service/health check",
        "fail",
        "nobody asks",
        container(healthCheck=None),
        "trilho infra up service",
        False,
    ),
    "an image by its tag": Case(
        "service/image",
        "fail",
        "not pinned",
        container(image="1.dkr.ecr.us-east-1.amazonaws.com/trilho:latest"),
        "trilho deploy --version 1 --image 1.dkr.ecr.us-east-1.amazonaws.com/trilho@sha256:",
        False,
    ),
    "an image without a tag": Case(
        "service/image",
        "fail",
        "not pinned",
        container(image="localhost:5000/trilho"),
        "trilho deploy --version 1 --image localhost:5000/trilho@sha256:",
        False,
    ),
    "an image of nobody's repository": Case(
        "service/image",
        "fail",
        "not pinned",
        container(image="serve:1"),
        "trilho deploy --version 1 --image serve@sha256:...",
        False,
    ),
    "root": Case(
        "service/confinement", "warn", "as root", container(user=None), "trilho infra up", False
    ),
    "a disk to write on": Case(
        "service/confinement",
        "warn",
        "can be written",
        container(readonlyRootFilesystem=False),
        "trilho infra up",
        False,
    ),
    "capabilities": Case(
        "service/confinement",
        "warn",
        "capabilities",
        container(linuxParameters=None),
        "trilho infra up",
        False,
    ),
    "another model than the champion": Case(
        "service/model",
        "fail",
        "the champion is v1",
        variable("TRILHO_MODEL_DIGEST", lambda w: w.later.digest),
        "trilho deploy --version 1",
        False,
    ),
    "another registry": Case(
        "service/model",
        "fail",
        "not from s3://models",
        variable("TRILHO_MODEL_URI", lambda w: "s3://elsewhere/registry"),
        "trilho deploy --version 1",
        False,
    ),
    "alarms that only look": Case(
        "alarms/deployment",
        "fail",
        "do not end a deployment",
        lambda w: w.configure(alarms={"alarmNames": w.alarms, "enable": False, "rollback": False}),
    ),
    "alarms that bring nothing back": Case(
        "alarms/deployment",
        "fail",
        "do not end a deployment",
        lambda w: w.configure(alarms={"alarmNames": w.alarms, "enable": True, "rollback": False}),
    ),
    "no alarms": Case(
        "alarms/deployment",
        "warn",
        "no alarm ends",
        lambda w: w.configure(alarms={"alarmNames": [], "enable": False, "rollback": False}),
        "trilho infra up service",
        False,
    ),
    "an alarm gone": Case(
        "alarms/deployment",
        "fail",
        "do not exist: trilho-service",
        lambda w: w.client("cloudwatch").delete_alarms(AlarmNames=[w.alarms[0]]),
        "trilho infra up service",
        False,
    ),
    "an alarm that ends deployments rings": Case(
        "alarms/state", "fail", "undone at once", alarm("ALARM"), applied=False
    ),
    "another alarm rings": Case(
        "alarms/state", "warn", "-cpu.)", alarm("ALARM", suffix="cpu"), applied=False
    ),
    "an alarm without data": Case(
        "alarms/state", "warn", "see no data", alarm("INSUFFICIENT_DATA"), applied=False
    ),
    "an alarm switched off": Case(
        "alarms/actions",
        "fail",
        "switched off",
        lambda w: w.client("cloudwatch").disable_alarm_actions(AlarmNames=[w.alarms[0]]),
    ),
    "an alarm that tells nobody": Case(
        "alarms/actions", "warn", "do nothing", idle, "trilho infra up service", False
    ),
    "nobody hears the alarms": Case("alarms/listeners", "warn", "nobody has", unsubscribe),
}


@pytest.mark.parametrize("what", CASES)
def test_what_is_wrong_is_found_and_the_remedy_mends_it(world: World, what: str) -> None:
    case = CASES[what]
    case.harm(world)
    found = only(world.context(), case.check)
    assert (found.status, case.said in found.found) == (case.status, True), found
    assert found.mend is not None
    assert found.mend.startswith(case.mend)
    if case.mend == "aws" and not case.applied:
        aws_command.run(found.mend, world.client)  # it only looks, but it is a command that works
    if case.applied:
        aws_command.run(found.mend, world.client)
        mended = only(world.context(), case.check)
        assert mended.status == "pass", mended


def test_remedies_that_are_printed_together_do_not_undo_each_other(world: World) -> None:
    """A policy, and ECS's settings of deployments, are replaced as a whole."""
    s3("delete_bucket_policy")(world)
    world.configure(
        **BREAKER_OFF,
        minimumHealthyPercent=50,
        alarms={"alarmNames": world.alarms, "enable": False, "rollback": False},
    )
    ids = ("bucket/TLS only", "bucket/append-only", "service/circuit breaker")
    ids += ("service/minimum healthy", "alarms/deployment")
    findings = look(world.context(), *ids)
    assert "pass" not in {f.status for f in findings}
    for finding in findings:
        aws_command.run(finding.mend or "", world.client)
    assert {f.status for f in look(world.context(), *ids)} == {"pass"}


def test_only_deep_sees_a_file_whose_content_was_changed(world: World) -> None:
    size = world.registry.store.size(world.blob())
    put(World.blob, b"x" * size)(world)
    assert only(world.context(), "registry/integrity").status == "pass"
    found = only(world.context(deep=True), "registry/integrity")
    assert found.status == "fail"
    assert found.found.startswith("v1: Bundle file golden.json was changed")
    assert found.mend is not None
    assert world.blob() in found.mend


@pytest.mark.parametrize("harm", [delete(World.blob), put(World.blob, b"{}")])
def test_a_file_is_put_back_as_the_page_says(world: World, harm: Callable[[World], Any]) -> None:
    harm(world)
    mend = only(world.context(), "registry/integrity").mend or ""
    versions = aws_command.run(mend, world.client)["Versions"]
    values = {
        "$bucket": world.bucket,
        "$key": versions[0]["Key"],
        "$version": min(versions, key=lambda v: v["LastModified"])["VersionId"],
    }
    (line,) = re.findall(r"^aws s3api copy-object .*$", PAGE.read_text(), re.MULTILINE)
    for name, value in values.items():
        line = line.replace(name, value)
    aws_command.run(line, world.client)
    assert only(world.context(deep=True), "registry/integrity").status == "pass"


def test_every_check_of_aws_is_broken_by_a_case_or_a_test_of_its_own() -> None:
    own = {"identity/credentials", "identity/key age", "identity/permissions", "bucket/reachable"}
    own |= {"bucket/encryption", "service/rollout", "service/address"}
    assert {case.check for case in CASES.values()} | own == {
        check.id for check in CHECKS if check.area in AWS_AREAS
    }
    assert own.isdisjoint(case.check for case in CASES.values())


def test_a_store_that_does_not_encrypt_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 itself encrypts always; what only speaks like S3 need not."""
    gone = {"Error": {"Code": "ServerSideEncryptionConfigurationNotFoundError", "Message": ""}}

    def refuse(**_: Any) -> Any:
        raise ClientError(gone, "GetBucketEncryption")

    with monkeypatch.context() as patch:
        patch.setattr(world.client("s3"), "get_bucket_encryption", refuse)
        found = only(world.context(), "bucket/encryption")
    assert (found.status, "not encrypted" in found.found) == ("fail", True)
    assert found.mend is not None
    aws_command.run(found.mend, world.client)
    assert only(world.context(), "bucket/encryption").status == "pass"


def test_a_rollout_that_failed_or_goes_on_is_told(world: World) -> None:
    for state, status in (("FAILED", "fail"), ("IN_PROGRESS", "warn"), ("COMPLETED", "pass")):
        context = world.context()
        context.once("service", lambda s=state: world.service)["deployments"] = [
            {"status": "PRIMARY", "rolloutState": state, "rolloutStateReason": "tasks stopped"}
        ]
        found = only(context, "service/rollout")
        assert found.status == status
        assert ("tasks stopped" in found.found) == (status == "fail")
        assert (found.mend is None) == (status == "pass")


def test_fewer_tasks_than_wanted_are_told(world: World) -> None:
    for running_count, status in ((0, "fail"), (1, "warn"), (2, "pass")):
        context = world.context()
        context.once("service", lambda: world.service)["runningCount"] = running_count
        assert only(context, "service/tasks").status == status


def test_an_address_without_tls_is_a_doubt_and_none_a_failure(world: World) -> None:
    names = {"cluster": world.cluster, "service": "credit-default"}
    for url, status in ((URL, "pass"), ("http://model.example.com", "warn"), ("", "fail")):
        context = world.context(deploy=Deploy(**names, url=url))
        assert only(context, "service/address").status == status


# --- whose credentials ---


def test_a_key_grows_old(world: World) -> None:
    context = world.context()
    assert only(context, "identity/key age").status == "pass"
    context.today += timedelta(days=91)
    found = only(context, "identity/key age")
    assert found.status == "warn"
    assert "91 days" in found.found or "90 days" in found.found
    assert os.environ["AWS_ACCESS_KEY_ID"] not in found.found
    assert found.mend is not None
    assert f"aws iam create-access-key --user-name {USER}" in found.mend


def test_a_second_key_is_told_and_the_remedy_deletes_the_older(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    iam = world.client("iam")
    second = iam.create_access_key(UserName=USER)["AccessKey"]["AccessKeyId"]
    found = only(world.context(), "identity/key age")
    assert (found.status, "2 active keys" in found.found) == ("warn", True)
    assert found.mend is not None
    assert "aws iam delete-access-key" in found.mend
    iam.delete_access_key(UserName=USER, AccessKeyId=second)
    assert only(world.context(), "identity/key age").status == "pass"


def test_the_root_is_nobody_to_deploy_as(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    root = boto3.client("sts", aws_access_key_id="trilho", aws_secret_access_key="trilho-local")
    monkeypatch.setattr(aws, "client", lambda name: root if name == "sts" else world.client(name))
    found = look(world.context(), "identity/credentials", "identity/key age", "bucket/reachable")
    assert [f.status for f in found] == ["fail", "skip", "pass"]
    assert found[0].mend == "trilho infra up bootstrap"


def test_without_credentials_nothing_of_aws_passes_and_nothing_crashes(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(aws, "client", CLIENT)
    findings = look(world.context(), *(c.id for c in CHECKS if c.area in AWS_AREAS))
    (first,) = [f for f in findings if f.status == "fail"]
    assert (first.area, first.check) == ("identity", "credentials")
    assert first.mend is not None
    assert "AWS_ACCESS_KEY_ID" in first.mend
    assert {f.status for f in findings if f.check != "address"} == {"fail", "skip"}


def test_without_a_network_every_check_is_skipped_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(name: str) -> Any:
        raise EndpointConnectionError(endpoint_url="https://sts.amazonaws.com")

    class Cut:
        meta = world.client("sts").meta
        get_caller_identity = staticmethod(lambda: cut("sts"))

    monkeypatch.setattr(aws, "client", lambda name: Cut())
    checks = [c for c in CHECKS if c.area in AWS_AREAS and c.name != "address"]
    findings = look(world.context(), *(c.id for c in checks))
    assert {f.status for f in findings} == {"skip"}
    assert "Could not connect" in findings[0].found


# --- one check never hides another ---


def test_a_bucket_that_does_not_exist_fails_and_the_service_is_looked_at_all_the_same(
    world: World,
) -> None:
    context = world.context(registry_url="s3://not-there/registry")
    ids = [c.id for c in CHECKS if c.area in ("bucket", "registry", "service")]
    found = {f"{f.area}/{f.check}": f for f in look(context, *ids)}
    assert found["bucket/reachable"].status == "fail"
    assert "does not exist" in found["bucket/reachable"].found
    assert found["bucket/versioning"] == Finding(
        status="skip", area="bucket", check="versioning", found="needs bucket/reachable"
    )
    assert found["registry/versions"].status == "fail"
    assert found["service/circuit breaker"].status == "pass"


def test_a_service_that_does_not_exist_fails_once(world: World) -> None:
    context = world.context(deploy=Deploy(cluster=world.cluster, service="credit", url=URL))
    ids = [c.id for c in CHECKS if c.area in ("service", "alarms")]
    found = look(context, *ids)
    assert [f.check for f in found if f.status == "fail"] == ["exists"]
    assert "did you mean 'credit-default'?" in found[0].found
    assert {f.status for f in found[1:] if f.check != "address"} == {"skip"}


def test_a_check_that_breaks_is_a_warning_and_the_next_is_made(world: World) -> None:
    def broken(c: Context) -> Finding:
        raise ZeroDivisionError("our mistake")

    checks = (Check("x", "broken", broken), BY_ID["service/address"])
    first, second = (f for _, found in examine(world.context(), checks) for f in found)
    assert (first.status, "ZeroDivisionError: our mistake" in first.found) == ("warn", True)
    assert second.status == "pass"


# --- permissions, as IAM decides by the very policies of infra/ ---


def policies(*names: str) -> list[dict[str, Any]]:
    return [bootstrap().resource(name)["PolicyDocument"] for name in names]


DEPLOY = ("RegistryPolicy", "DeployPolicy")
PULL_REQUEST = ("RegistryPolicy", "PullRequestPolicy")


def asking(
    monkeypatch: pytest.MonkeyPatch, held: list[dict[str, Any]], refuses: bool = False
) -> Callable[..., list[Finding]]:
    """Judge by policies, which an IAM of its own decides by."""
    client = boto3.client("iam", region_name="us-east-1")

    def answer(params: dict[str, Any], **_: Any) -> Any:
        body = params["body"]
        listed = {
            kind: [v for k, v in body.items() if k.startswith(f"{kind}.member")]
            for kind in ("ActionNames", "ResourceArns")
        }
        context = {}
        for key, name in body.items():
            if key.endswith("ContextKeyName"):
                values = key.replace("ContextKeyName", "ContextKeyValues.member.1")
                context[name] = body[values]
        results = [
            {
                "EvalActionName": action,
                "EvalResourceName": arn,
                "EvalDecision": "allowed"
                if allowed(Request(action, arn, context), held)
                else "implicitDeny",
            }
            for action in listed["ActionNames"]
            for arn in listed["ResourceArns"]
        ]
        status = type("Answer", (), {"status_code": 200})()
        return status, {"EvaluationResults": results, "IsTruncated": False}

    client.meta.events.register("before-call.iam.SimulatePrincipalPolicy", answer)

    def judge(identity: Any, name: str) -> list[Finding]:
        context = Context(
            REGISTRY,
            Deploy(cluster="trilho", service="credit-default", url=URL),
            identity=identity,
        )
        from trilho.doctor.context import Caller

        arn = f"arn:aws:sts::123456789012:assumed-role/{name}/run"
        context.once("caller", lambda: Caller(arn, "123456789012", "us-east-1"))
        context.once("client iam", lambda: client)
        family = "arn:aws:iam::123456789012:role/trilho-credit-default"
        definition = {
            "family": "credit-default",
            "taskRoleArn": f"{family}-task",
            "executionRoleArn": f"{family}-execution",
        }
        from trilho.deploy.revision import Revision

        context.once("revision", lambda: Revision("arn", definition, "model"))
        return permissions(context)

    return judge


def test_the_identities_of_infra_may_do_what_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    for held, identity, name in (
        (DEPLOY, None, "trilho-deploy"),
        (PULL_REQUEST, None, "trilho-pull-request"),
    ):
        findings = asking(monkeypatch, policies(*held))(identity, name)
        assert {f.status for f in findings} == {"pass"}, findings
        whats = {f.check for f in findings}
        assert ("move the service" in whats) == (identity == "deploy" or name.endswith("deploy"))
        assert ("not move aliases" in whats) == name.endswith("pull-request")


DEPLOY_SIDS = (
    ("List", "list the registry"),
    ("Read", "read the registry"),
    ("CreateCandidates", "store candidates"),
    ("ReplaceCandidates", "judge candidates again"),
    ("Decide", "publish and quarantine"),
    ("MoveAliases", "move aliases"),
    ("WatchTheService", "watch the service"),
    ("ListItsTasks", "watch its tasks"),
    ("WatchItsTasks", "see its tasks"),
    ("FollowItsDeployments", "follow its deployments"),
    ("ReadTaskDefinitions", "read task definitions"),
    ("MoveTheService", "move the service"),
    ("RegisterRevisions", "register revisions"),
    ("PassTheTwoRoles", "pass the tasks' roles"),
)


@pytest.mark.parametrize(("sid", "check"), DEPLOY_SIDS)
def test_a_permission_that_is_missing_is_found_and_the_policy_that_is_told_grants_it(
    monkeypatch: pytest.MonkeyPatch, sid: str, check: str
) -> None:
    held = json.loads(json.dumps(policies(*DEPLOY)))
    for document_ in held:
        document_["Statement"] = [s for s in document_["Statement"] if s["Sid"] != sid]
    (found,) = [f for f in asking(monkeypatch, held)(None, "x") if f.status != "pass"]
    assert (found.status, found.check) == ("fail", check)
    assert "x may not " in found.found
    assert found.mend is not None
    granted = json.loads(found.mend)
    assert "*" not in {a for s in granted["Statement"] for a in s["Action"]}
    again = asking(monkeypatch, [*held, granted])(None, "x")
    assert {f.status for f in again} == {"pass"}, again


def test_a_pull_request_that_could_promote_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    held = policies(*DEPLOY)
    judged = asking(monkeypatch, held)("pull-request", "x")
    (found,) = [f for f in judged if f.status != "pass"]
    assert (found.status, found.check) == ("fail", "not move aliases")
    assert found.mend is not None
    again = asking(monkeypatch, [*held, json.loads(found.mend)])("pull-request", "x")
    assert {f.status for f in again} == {"pass"}


# --- permissions where IAM may not be asked: tried without a trace, where they are enforced ---


@pytest.fixture
def as_one(enforced: Cloud, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Context]:
    def become(name: str) -> Context:
        made: dict[str, Any] = {}

        def client(service: str) -> Any:
            if service not in made:
                made[service] = enforced.client(name, service)
            return made[service]

        monkeypatch.setattr(aws, "client", client)
        monkeypatch.setattr(ecs_module, "connect", lambda: client("ecs"))
        return Context(REGISTRY, Deploy(cluster="trilho", service="credit-default", url=URL))

    return become


def stored(enforced: Cloud) -> dict[str, bytes]:
    s3 = enforced.client("admin", "s3")
    found = s3.list_object_versions(Bucket=BUCKET)
    return {
        f"{o['Key']} {o['VersionId']}": o["ETag"]
        for o in found.get("Versions", []) + found.get("DeleteMarkers", [])
    }


def test_what_cannot_be_asked_is_tried_and_nothing_is_changed(
    enforced: Cloud, as_one: Callable[[str], Context]
) -> None:
    for prefix in ("blobs", "manifests", "runs", "candidates", "quarantine"):
        enforced.client("admin", "s3").put_object(
            Bucket=BUCKET, Key=f"registry/{prefix}/there.json", Body=b"x", IfNoneMatch="*"
        )
    before = stored(enforced)
    deploy = {f.check: f.status for f in permissions(as_one("deploy user"))}
    assert deploy == {
        "list the registry": "pass",
        "read the registry": "pass",
        "store candidates": "pass",
        "judge candidates again": "pass",
        "publish and quarantine": "pass",
        "move aliases": "pass",
        "watch the service": "pass",
        "watch its tasks": "pass",
        "see its tasks": "pass",
        "follow its deployments": "skip",
        "read task definitions": "pass",
        "move the service": "skip",
        "register revisions": "skip",
        "pass the tasks' roles": "skip",
    }
    for kind in ("user", "role"):
        found = permissions(as_one(f"pull-request {kind}"))
        assert {f.check: f.status for f in found} == dict.fromkeys(
            ("list the registry", "read the registry", "store candidates"), "pass"
        ) | {"judge candidates again": "pass", "not move aliases": "pass"}
    assert stored(enforced) == before


def test_a_denial_that_is_tried_is_a_failure_with_the_policy(
    enforced: Cloud, as_one: Callable[[str], Context]
) -> None:
    context = as_one("pull-request user")
    context.identity = "deploy"
    found = {f.check: f for f in permissions(context)}
    assert found["move aliases"].status == "fail"
    assert found["publish and quarantine"].status == "fail"
    assert found["watch the service"].status == "fail"
    policy = json.loads(found["move aliases"].mend or "")
    assert policy["Statement"][0]["Action"] == ["s3:PutObject"]
    assert policy["Statement"][0]["Resource"] == [f"arn:aws:s3:::{BUCKET}/registry/aliases/*"]


def test_a_pull_request_identity_that_can_do_more_is_found_by_trying(
    enforced: Cloud, as_one: Callable[[str], Context]
) -> None:
    context = as_one("deploy user")
    context.identity = "pull-request"
    found = {f.check: f.status for f in permissions(context)}
    assert found["not move aliases"] == "fail"


def test_what_may_not_be_read_is_skipped_with_the_policy_that_would_let_it(
    enforced: Cloud, as_one: Callable[[str], Context]
) -> None:
    ids = [c.id for c in CHECKS if c.area in ("bucket", "service", "alarms", "registry")]
    found = look(as_one("pull-request user"), "identity/credentials", *ids)
    by = {f"{f.area}/{f.check}": f for f in found}
    assert by["bucket/reachable"].status == "pass"
    for name in ("versioning", "TLS only", "lifecycle"):
        skipped = by[f"bucket/{name}"]
        assert skipped.status == "skip", skipped
        assert "access denied" in skipped.found
    assert json.loads(by["bucket/versioning"].mend or "")["Statement"] == [
        {
            "Effect": "Allow",
            "Action": ["s3:GetBucketVersioning"],
            "Resource": f"arn:aws:s3:::{BUCKET}",
        }
    ]
    assert by["service/exists"].status == "skip"
    assert not {f.status for f in found if f.area in ("service", "alarms")} - {"skip", "pass"}


def test_the_policy_of_an_observer_lets_every_check_be_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that the checks make is recorded, and must be granted."""
    names = {
        "HeadBucket": "s3:ListBucket",
        "ListObjectsV2": "s3:ListBucket",
        "HeadObject": "s3:GetObject",
        "GetBucketEncryption": "s3:GetEncryptionConfiguration",
        "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
        "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    }
    asked: set[str] = set()

    def record(model: Any, **_: Any) -> None:
        service = model.service_model.signing_name
        service = {"monitoring": "cloudwatch"}.get(service, service)
        asked.add(names.get(model.name, f"{service}:{model.name}"))

    for name in ("s3", "ecs", "cloudwatch", "sns", "iam", "sts"):
        world.client(name).meta.events.register("before-call", record, unique_id="doctor")
    context = world.context(deep=True, identity="observer")
    try:
        findings = look(context, *(c.id for c in CHECKS if c.area in AWS_AREAS))
    finally:
        for name in ("s3", "ecs", "cloudwatch", "sns", "iam", "sts"):
            world.client(name).meta.events.unregister("before-call", unique_id="doctor")
    granted = {a for s in json.loads(policy(context))["Statement"] for a in s["Action"]}
    assert asked - {"sts:GetCallerIdentity"} == granted
    assert not [a for a in granted if not a.partition(":")[2].startswith(("Get", "List", "Desc"))]
    assert [f.check for f in findings if f.status != "pass"] == ["permissions"]


# --- the verb ---


@pytest.fixture
def project(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "pipeline.yaml").write_text(
        "name: credit\nregistry: ${TRILHO_REGISTRY}\n"
        "data: {path: d.csv, schema: s.yaml, target: y, task: binary}\nmodel: {factory: m:make}\n"
        "deploy:\n  cluster: ${TRILHO_CLUSTER}\n  service: credit-default\n  url: https://m.example\n"
    )
    monkeypatch.setenv("TRILHO_REGISTRY", world.registry.store.url)
    monkeypatch.setenv("TRILHO_CLUSTER", world.cluster)
    monkeypatch.setenv("TRILHO_IDENTITY", "observer")
    monkeypatch.setenv("GITHUB_OUTPUT", "output")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary")
    return world


def test_the_verb_prints_a_table_with_the_remedies_and_fails_by_the_worst(project: World) -> None:
    sound = CliRunner().invoke(app, ["doctor"])
    assert sound.exit_code == 0, sound.output
    assert outputs(Path("output"))["outcome"] == "pass"
    assert "✓ pass" in sound.stderr
    assert sound.stdout == ""

    alarm("INSUFFICIENT_DATA")(project)
    doubtful = CliRunner().invoke(app, ["doctor"])
    assert doubtful.exit_code == 0
    assert outputs(Path("output"))["outcome"] == "warn"

    s3("put_bucket_versioning", VersioningConfiguration={"Status": "Suspended"})(project)
    Path("summary").unlink()
    failed = CliRunner().invoke(app, ["doctor", "--json"])
    assert isinstance(failed.exception, UnsoundError)
    assert failed.exception.exit_code == 8
    remedy = (
        f"aws s3api put-bucket-versioning --bucket {project.bucket} "
        """--versioning-configuration '{"Status": "Enabled"}'"""
    )
    assert remedy in failed.stderr.splitlines()  # whole, on one line
    told = outputs(Path("output"))
    assert (told["outcome"], told["failures"], told["warnings"]) == ("fail", "1", "1")
    summary = Path("summary").read_text()
    assert "**FAIL**" in summary
    assert f"```sh\n{remedy}\n```" in summary
    assert summary.count("| ✅ pass |") == sum(
        f["status"] == "pass" for f in json.loads(failed.stdout)["findings"]
    )


def test_a_printed_remedy_can_be_copied_even_from_githubs_log(project: World) -> None:
    """Nothing was put into it that cannot be seen, though it holds `::`."""
    s3("delete_bucket_policy")(project)
    done = CliRunner().invoke(app, ["doctor"], env={"GITHUB_ACTIONS": "true"})
    starts = "aws s3api put-bucket-policy"
    (line,) = {line for line in done.stderr.splitlines() if line.startswith(starts)}
    aws_command.run(line, project.client)
    assert only(project.context(), "bucket/TLS only").status == "pass"


def test_the_verb_prints_the_observers_policy(project: World) -> None:
    done = CliRunner().invoke(app, ["doctor", "--policy"])
    assert done.exit_code == 0
    statements = json.loads(done.stdout)["Statement"]
    assert statements[0]["Resource"] == f"arn:aws:s3:::{project.bucket}/registry/*"
    assert document(*statements) == done.stdout.strip()


def test_an_identity_that_is_none_is_refused(project: World) -> None:
    done = CliRunner().invoke(app, ["doctor", "--identity", "admin"])
    assert done.exit_code == 1
    assert "takes pull-request, deploy, observer, not 'admin'" in str(done.exception)


def test_worst_is_worst() -> None:
    def all_of(*statuses: Status) -> list[Finding]:
        return [Finding(status=s, found="") for s in statuses]

    assert worst(all_of("pass", "skip", "warn", "fail")) == "fail"
    assert worst(all_of("warn", "pass")) == "warn"
    assert worst(all_of("skip", "pass")) == "pass"
