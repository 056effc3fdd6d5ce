"""The stacks of infra/, made, changed and removed on the embedded AWS by `trilho infra`."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ecs_service
import msgspec
import pytest
import templates
from ecs_service import answering, publish
from embedded_aws import send_clients_to
from resolve import Resolver
from typer.testing import CliRunner, Result

from trilho.cli import app
from trilho.cli import infra as verbs
from trilho.config import Deploy
from trilho.demo import ministack
from trilho.deploy import strategy
from trilho.deploy.revision import MODEL_DIGEST, MODEL_VERSION
from trilho.deploy.rollout import deploy
from trilho.errors import ConflictError, DeploymentError, TrilhoError, UsageError
from trilho.infra import stack as stacks
from trilho.infra import teardown
from trilho.registry import Registry, Source, open_registry
from trilho.storage import aws as storage

ACCOUNT = "000000000000"
BUCKET = f"trilho-{ACCOUNT}-us-east-1"
SUBJECT = "GitHubSubject=repo:acme@1/models@2"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"digest": "sha256:" + "0" * 64, "size": 2, "mediaType": "application/json"},
        "layers": [],
    }
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("aws")
    running = ministack.start(folder, environment={"DOCKER_HOST": f"unix://{folder}/none"})
    yield running.url
    running.stop()


@pytest.fixture
def aws(
    server: str, aws_environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Any]:
    """An empty AWS; gives clients by the service's name."""
    reset = urllib.request.Request(f"{server}/_ministack/reset", method="POST")
    with urllib.request.urlopen(reset, timeout=30):
        pass
    send_clients_to(server, aws_environment)
    monkeypatch.setattr(stacks, "POLL_SECONDS", 0.02)
    return storage.client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The templates as the embedded AWS takes them."""
    made = tmp_path / "infra"
    for kind in templates.KINDS:
        templates.write(made, kind, templates.for_ministack(kind))
    return made


def infra(*arguments: str, says: str = "") -> Result:
    """Run `trilho infra …`; what a verb raises is raised here."""
    result = CliRunner().invoke(app, ["infra", *arguments], input=says)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def up(folder: Path) -> Callable[..., Result]:
    def run(kind: str, *parameters: str, yes: bool = True, says: str = "") -> Result:
        given = [text for p in parameters for text in ("-p", p)]
        agreed = ["--yes"] if yes else []
        return infra("up", kind, "--folder", str(folder), *given, *agreed, says=says)

    return run


def changes(result: Result) -> set[str]:
    """The resources that a plan has shown."""
    actions = ("+ add", "~ change", "- remove")
    lines = [line for line in result.stderr.splitlines() if line.startswith(actions)]
    return {line.split()[2] for line in lines}


def push_image(aws: Callable[[str], Any], tag: str) -> str:
    answer = aws("ecr").put_image(repositoryName="trilho", imageTag=tag, imageManifest=MANIFEST)
    return str(answer["image"]["imageId"]["imageDigest"])


def served(aws: Callable[[str], Any]) -> dict[str, str]:
    """The environment that the service's tasks are given."""
    found = aws("ecs").describe_services(cluster="trilho", services=["credit-default"])
    task = found["services"][0]["taskDefinition"]
    definition = aws("ecs").describe_task_definition(taskDefinition=task)["taskDefinition"]
    return {e["name"]: e["value"] for e in definition["containerDefinitions"][0]["environment"]}


# --- bootstrap ---


def test_bootstrap_makes_what_its_template_says(
    aws: Callable[[str], Any], up: Callable[..., Result]
) -> None:
    made = up("bootstrap", SUBJECT)
    s3 = aws("s3")
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    assert all(s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values())
    (repository,) = aws("ecr").describe_repositories()["repositories"]
    assert repository["imageTagMutability"] == "IMMUTABLE"
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    (group,) = aws("logs").describe_log_groups(logGroupNamePrefix="/trilho/")["logGroups"]
    assert group["retentionInDays"] == 365
    # CloudFormation makes of the template what the tests of IAM make of it
    given = {"Bucket": BUCKET, "GitHubSubject": SUBJECT.partition("=")[2]}
    resolved = Resolver(templates.load("bootstrap"), given, account=ACCOUNT)
    policy = json.loads(s3.get_bucket_policy(Bucket=BUCKET)["Policy"])
    assert policy == resolved.resource("BucketPolicy")["PolicyDocument"]
    iam = aws("iam")
    for name in ("RegistryPolicy", "PullRequestPolicy", "DeployPolicy"):
        wanted = resolved.resource(name)
        arn = f"arn:aws:iam::{ACCOUNT}:policy/{wanted['ManagedPolicyName']}"
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        found = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]
        assert found["Document"] == wanted["PolicyDocument"], name
    for name in ("PullRequestRole", "DeployRole"):
        wanted = resolved.resource(name)
        role = iam.get_role(RoleName=wanted["RoleName"])["Role"]
        assert role["AssumeRolePolicyDocument"] == wanted["AssumeRolePolicyDocument"]
    host = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
    assert made.stdout.splitlines() == [
        "gh variable set AWS_REGION --body us-east-1",
        f"gh variable set TRILHO_REGISTRY --body s3://{BUCKET}/registry",
        f"gh variable set TRILHO_IMAGE_REPOSITORY --body {host}/trilho",
        f"gh variable set AWS_ROLE_ARN --body arn:aws:iam::{ACCOUNT}:role/trilho-pull-request",
        "gh variable set AWS_ROLE_ARN --env production "
        f"--body arn:aws:iam::{ACCOUNT}:role/trilho-deploy",
    ]


def test_up_again_changes_nothing_and_a_parameter_changes_only_what_it_is_about(
    aws: Callable[[str], Any], up: Callable[..., Result]
) -> None:
    first = up("bootstrap", SUBJECT)
    again = up("bootstrap")
    assert changes(again) == set()
    assert "is as bootstrap.yaml says" in again.stderr
    assert again.stdout == first.stdout
    changed = up("bootstrap", "LogDays=90")
    assert changes(changed) == {"Logs"}
    (group,) = aws("logs").describe_log_groups(logGroupNamePrefix="/trilho/")["logGroups"]
    assert group["retentionInDays"] == 90
    assert changes(up("bootstrap", "LogDays=90")) == set()


def test_users_get_their_keys_by_hand_and_no_secret_is_shown(
    aws: Callable[[str], Any], up: Callable[..., Result]
) -> None:
    made = up("bootstrap", "Identities=users")
    assert "aws iam create-access-key --user-name trilho-pull-request" in made.stdout
    assert "gh secret set AWS_SECRET_ACCESS_KEY --env production" in made.stdout
    assert aws("iam").list_roles()["Roles"] == []
    assert aws("iam").list_access_keys(UserName="trilho-deploy")["AccessKeyMetadata"] == []
    secret = aws("iam").create_access_key(UserName="trilho-deploy")["AccessKey"]["SecretAccessKey"]
    again = up("bootstrap")
    assert "# trilho-deploy has a key of 20" in again.stdout
    assert "create-access-key --user-name trilho-deploy" not in again.stdout
    assert secret not in again.output
    # CloudFormation would not delete a user that has keys
    gone = infra("down", "bootstrap", "--yes")
    assert "trilho-deploy has 1 access key" in gone.stderr
    assert aws("iam").list_users()["Users"] == []


def test_an_oidc_provider_that_is_there_is_used(
    aws: Callable[[str], Any], up: Callable[..., Result]
) -> None:
    aws("iam").create_open_id_connect_provider(
        Url="https://token.actions.githubusercontent.com", ClientIDList=["sts.amazonaws.com"]
    )
    made = up("bootstrap", SUBJECT)
    assert "the account knows token.actions.githubusercontent.com already" in made.stderr
    (stack,) = aws("cloudformation").describe_stacks()["Stacks"]
    given = {p["ParameterKey"]: p["ParameterValue"] for p in stack["Parameters"]}
    assert given["CreateOidcProvider"] == "false"


# --- asking, refusing, failing ---


def test_nothing_happens_unless_somebody_agrees(
    aws: Callable[[str], Any], up: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="nobody to ask"):
        up("bootstrap", SUBJECT, yes=False)
    assert aws("cloudformation").describe_stacks()["Stacks"] == []
    monkeypatch.setattr(verbs, "_somebody_is_there", lambda: True)
    for answer, stands in (("n\n", False), ("\n", False), ("y\n", True)):
        shown = up("bootstrap", SUBJECT, yes=False, says=answer)
        assert {"RegistryBucket", "DeployRole"} <= changes(shown)
        assert bool(aws("cloudformation").describe_stacks()["Stacks"]) == stands
        assert ("Nothing was changed." in shown.stderr) != stands


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["GitHubSubjekt=x"], r"no parameter 'GitHubSubjekt'; did you mean 'GitHubSubject'\?"),
        (["GitHubSubject"], "--param takes KEY=VALUE"),
        (["Name=other"], "Name is given by --name"),
        ([], "Identities=oidc needs GitHubSubject"),
        ([SUBJECT, "GitHubSubject=repo:acme/*"], "GitHubSubject"),
        ([SUBJECT, "LogDays=8"], "LogDays"),
    ],
)
def test_a_wrong_parameter_is_named_and_nothing_is_left(
    aws: Callable[[str], Any], up: Callable[..., Result], parameters: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        up("bootstrap", *parameters)
    assert aws("cloudformation").describe_stacks()["Stacks"] == []
    assert aws("s3").list_buckets()["Buckets"] == []


def test_templates_are_looked_for_where_they_are_said_to_be(
    aws: Callable[[str], Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"no template .*/nowhere/bootstrap\.yaml"):
        infra("up", "bootstrap", "--folder", str(tmp_path / "nowhere"), "--yes")
    (tmp_path / "service.yaml").write_text("Parameters: [}")
    with pytest.raises(UsageError, match="not a CloudFormation template"):
        infra("up", "service", "--folder", str(tmp_path), "--yes")


def broken(folder: Path) -> None:
    """Add a resource that fails when CloudFormation comes to it."""
    template = templates.for_ministack("bootstrap")
    template["Resources"]["Second"] = {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {"EvaluationPeriods": 1, "ComparisonOperator": "LessThanThreshold"},
        "DependsOn": ["Logs"],
    }
    templates.write(folder, "bootstrap", template)


def test_a_stack_that_failed_says_why_and_how_to_go_on(
    aws: Callable[[str], Any], up: Callable[..., Result], folder: Path
) -> None:
    broken(folder)
    why = r"Second \(CloudWatch Alarm\): .*are required"
    with pytest.raises(DeploymentError, match=f"could not be created.*: {why}") as failed:
        up("bootstrap", SUBJECT)
    assert failed.value.exit_code == 6
    templates.write(folder, "bootstrap", templates.for_ministack("bootstrap"))
    with pytest.raises(UsageError, match=rf"failed earlier \(ROLLBACK_COMPLETE\).*: {why}") as left:
        up("bootstrap", SUBJECT)
    assert left.value.hint is not None
    assert "trilho infra down bootstrap" in left.value.hint
    assert "ROLLBACK_COMPLETE" in infra("status").output
    infra("down", "bootstrap", "--yes")
    up("bootstrap", SUBJECT)


def test_a_failed_update_leaves_the_stack_as_it_was(
    aws: Callable[[str], Any], up: Callable[..., Result], folder: Path
) -> None:
    up("bootstrap", SUBJECT)
    broken(folder)
    with pytest.raises(DeploymentError, match=r"could not be changed.*Second") as error:
        up("bootstrap", "LogDays=90")
    assert error.value.exit_code == 6
    assert error.value.hint == "What it was before is back."
    (group,) = aws("logs").describe_log_groups(logGroupNamePrefix="/trilho/")["logGroups"]
    assert group["retentionInDays"] == 365
    templates.write(folder, "bootstrap", templates.for_ministack("bootstrap"))
    assert changes(up("bootstrap", "LogDays=90")) == {"Logs"}


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        ("UPDATE_IN_PROGRESS", ConflictError, 7),
        ("DELETE_IN_PROGRESS", ConflictError, 7),
        ("UPDATE_ROLLBACK_FAILED", UsageError, 2),
        ("ROLLBACK_FAILED", UsageError, 2),
        ("DELETE_FAILED", UsageError, 2),
    ],
)
def test_a_stack_that_stands_in_the_way_is_left_alone(
    aws: Callable[[str], Any],
    up: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    error: type[TrilhoError],
    code: int,
) -> None:
    up("bootstrap", SUBJECT)
    look = stacks.Stack.state

    def pretend(stack: stacks.Stack, id: str | None = None) -> Any:
        state = look(stack, id)
        return msgspec.structs.replace(state, status=status) if state else None

    monkeypatch.setattr(stacks.Stack, "state", pretend)
    with pytest.raises(error, match=status) as raised:
        up("bootstrap", "LogDays=90")
    assert raised.value.exit_code == code
    assert raised.value.hint


# --- the service ---


@pytest.fixture
def registry(aws: Callable[[str], Any], up: Callable[..., Result]) -> Registry:
    """A registry in the bucket of a bootstrap stack."""
    up("bootstrap", SUBJECT)
    return open_registry(f"s3://{BUCKET}/registry")


def test_a_service_needs_a_bootstrap_an_image_and_a_version(
    aws: Callable[[str], Any], up: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no stack trilho-bootstrap"):
        up("service")
    up("bootstrap", SUBJECT)
    with pytest.raises(UsageError, match="no version that the service could begin with"):
        up("service")
    publish(open_registry(f"s3://{BUCKET}/registry"), tmp_path / "one", 0.7)
    with pytest.raises(UsageError, match=r"image repository .*/trilho is empty"):
        up("service")
    push_image(aws, "one")
    up("service")


def test_service_makes_what_its_template_says(
    aws: Callable[[str], Any], up: Callable[..., Result], registry: Registry, tmp_path: Path
) -> None:
    bad = publish(registry, tmp_path / "1", 0.6)
    good = publish(registry, tmp_path / "2", 0.7)
    worse = publish(registry, tmp_path / "3", 0.5)
    registry.quarantine(worse.digest, "no good", Source(actor="tester"))
    image = push_image(aws, "one")
    made = up("service")
    assert f"it begins with version {good.number}, {good.digest}" in made.stderr
    assert served(aws) == {
        "TRILHO_MODEL_URI": f"s3://{BUCKET}/registry",
        MODEL_DIGEST: good.digest,
        MODEL_VERSION: str(good.number),
        "AWS_REGION": "us-east-1",
    }
    (service,) = aws("ecs").describe_services(cluster="trilho", services=["credit-default"])[
        "services"
    ]
    deployment = service["deploymentConfiguration"]
    assert deployment["minimumHealthyPercent"] == 100
    assert deployment["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
    assert deployment["alarms"] == {
        "alarmNames": ["trilho-service-errors", "trilho-service-latency"],
        "enable": True,
        "rollback": True,
    }
    task = aws("ecs").describe_task_definition(taskDefinition=service["taskDefinition"])
    definition = task["taskDefinition"]
    (container,) = definition["containerDefinitions"]
    assert container["image"].endswith(f"/trilho@{image}")
    assert container["readonlyRootFilesystem"] is True
    assert container["user"] == "10001"
    assert container["linuxParameters"]["capabilities"]["drop"] == ["ALL"]
    assert container["healthCheck"]["command"][-1] == "trilho.serving.health"
    assert definition["taskRoleArn"].endswith("role/trilho-credit-default-task")
    alarms = {a["AlarmName"] for a in aws("cloudwatch").describe_alarms()["MetricAlarms"]}
    kinds = ("errors", "latency", "unhealthy", "cpu", "memory", "quiet")
    assert alarms == {f"trilho-service-{kind}" for kind in kinds}
    body = aws("cloudwatch").get_dashboard(DashboardName="trilho-service")["DashboardBody"]
    assert len(json.loads(body)["widgets"]) == 6
    assert [line.split(" --body ")[0] for line in made.stdout.splitlines()] == [
        "gh variable set TRILHO_CLUSTER",
        "gh variable set TRILHO_SERVICE",
        "gh variable set TRILHO_SERVICE_URL",
    ]
    assert bad.number == 1


def test_what_shifts_traffic_is_made_and_taken_away_again(
    aws: Callable[[str], Any], up: Callable[..., Result], registry: Registry, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "1", 0.6)
    push_image(aws, "one")
    up("service")
    up("service", "TrafficShifting=true")
    (service,) = aws("ecs").describe_services(cluster="trilho", services=["credit-default"])[
        "services"
    ]
    assert strategy.missing(service) is None
    (balancer,) = service["loadBalancers"]
    groups = aws("elbv2").describe_target_groups()["TargetGroups"]
    assert {g["TargetGroupArn"] for g in groups} == {
        balancer["targetGroupArn"],
        balancer["advancedConfiguration"]["alternateTargetGroupArn"],
    }
    up("service", "TrafficShifting=false")
    assert len(aws("elbv2").describe_target_groups()["TargetGroups"]) == 1


def test_an_update_of_the_stack_keeps_the_model_that_was_deployed_since(
    aws: Callable[[str], Any],
    up: Callable[..., Result],
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ecs_service, "CLUSTER", "trilho")
    monkeypatch.setattr(ecs_service, "SERVICE", "credit-default")
    first = publish(registry, tmp_path / "1", 0.6)
    push_image(aws, "one")
    up("service")
    assert served(aws)[MODEL_DIGEST] == first.digest
    second = publish(registry, tmp_path / "2", 0.7)
    with answering(registry) as answers:
        settings = Deploy(cluster="trilho", service="credit-default", url=answers.url)
        for version in (first, second):
            deploy(
                registry,
                version.number,
                settings,
                registry_url=registry.store.url,
                source=Source(actor="tester"),
                poll=0.05,
            )
    assert served(aws)[MODEL_DIGEST] == second.digest
    # what does not touch the task is changed without a deployment
    quiet = up("service", "QuietHours=12")
    assert changes(quiet) == {"QuietAlarm"}
    assert served(aws)[MODEL_DIGEST] == second.digest
    # what touches it takes the running model along
    larger = up("service", "Size=medium")
    assert {"Task", "Service"} <= changes(larger)
    assert f"the running model goes on: version {second.number}, {second.digest}" in larger.stderr
    assert served(aws)[MODEL_DIGEST] == second.digest
    assert served(aws)[MODEL_VERSION] == str(second.number)
    assert changes(up("service", "Size=medium")) == set()
    # and no stack moves the model past the tests
    for key in ("Image=x@sha256:" + "0" * 64, f"ModelDigest={first.digest}", "ModelVersion=1"):
        with pytest.raises(UsageError, match="not moved by its stack"):
            up("service", key)
    # a new service begins with the champion, not with the newest
    publish(registry, tmp_path / "3", 0.8)
    infra("down", "service", "--yes")
    up("service")
    assert served(aws)[MODEL_DIGEST] == second.digest


# --- down ---


def test_down_leaves_the_bucket_unless_it_is_named(
    aws: Callable[[str], Any], up: Callable[..., Result], registry: Registry, tmp_path: Path
) -> None:
    version = publish(registry, tmp_path / "1", 0.6)
    push_image(aws, "one")
    up("service")
    with pytest.raises(UsageError, match="trilho-service stands on trilho-bootstrap"):
        infra("down", "bootstrap", "--yes")
    with pytest.raises(UsageError, match="nobody to ask"):
        infra("down", "service")
    infra("down", "service", "--yes")
    for wrong in ("trilho", BUCKET + "x"):
        with pytest.raises(UsageError, match=f"the bucket of trilho-bootstrap is {BUCKET}"):
            infra("down", "bootstrap", "--yes", "--delete-bucket", wrong)
    gone = infra("down", "bootstrap", "--yes")
    assert f"kept: {BUCKET}" in gone.stderr
    assert open_registry(registry.store.url).version(1) == version
    assert "There is no stack trilho-bootstrap" in infra("down", "bootstrap", "--yes").stderr
    # the next bootstrap takes the bucket up again
    again = up("bootstrap", SUBJECT)
    assert f"the bucket {BUCKET} exists already" in again.stderr
    assert "RegistryBucket" not in {
        r["LogicalResourceId"]
        for r in aws("cloudformation").list_stack_resources(StackName="trilho-bootstrap")[
            "StackResourceSummaries"
        ]
    }
    assert open_registry(registry.store.url).version(1) == version
    # told its name, with old versions and markers in it
    aws("s3").put_object(Bucket=BUCKET, Key="predictions/x", Body=b"1")
    aws("s3").put_object(Bucket=BUCKET, Key="predictions/x", Body=b"2")
    aws("s3").delete_object(Bucket=BUCKET, Key="predictions/x")
    objects, size = teardown.count(BUCKET)
    last = infra("down", "bootstrap", "--yes", "--delete-bucket", BUCKET)
    assert f"holds {objects} objects" in last.stderr
    assert size > 0
    assert aws("s3").list_buckets()["Buckets"] == []


def test_a_bucket_that_was_left_can_be_deleted_later_and_twice(
    aws: Callable[[str], Any], up: Callable[..., Result]
) -> None:
    up("bootstrap", SUBJECT)
    infra("down", "bootstrap", "--yes")
    aws("s3").create_bucket(Bucket="somebody-elses")
    with pytest.raises(UsageError, match="--delete-bucket names somebody-elses"):
        infra("down", "bootstrap", "--yes", "--delete-bucket", "somebody-elses")
    infra("down", "bootstrap", "--yes", "--delete-bucket", BUCKET)
    assert [b["Name"] for b in aws("s3").list_buckets()["Buckets"]] == ["somebody-elses"]
    with pytest.raises(UsageError, match="does not exist"):
        infra("down", "bootstrap", "--yes", "--delete-bucket", BUCKET)


def test_two_rails_stand_side_by_side(
    aws: Callable[[str], Any], up: Callable[..., Result], folder: Path
) -> None:
    up("bootstrap", SUBJECT)
    infra("up", "bootstrap", "--folder", str(folder), "--yes", "--name", "second", "-p", SUBJECT)
    names = {s["StackName"] for s in aws("cloudformation").describe_stacks()["Stacks"]}
    assert names == {"trilho-bootstrap", "second-bootstrap"}
    status = json.loads(infra("status", "--name", "second", "--json").stdout)
    assert status["second-bootstrap"]["status"] == "CREATE_COMPLETE"
    assert status["second-bootstrap"]["outputs"]["Registry"].startswith("s3://second-")
    assert status["second-service"] is None


# --- the lines for GitHub ---


def test_the_lines_put_a_key_into_github_without_showing_it(tmp_path: Path) -> None:
    from trilho.infra import handover

    outputs = {
        "Registry": "s3://b/registry",
        "RepositoryUri": "host/trilho",
        "Environment": "production",
        "PullRequestUser": "trilho-pull-request",
        "DeployUser": "trilho-deploy",
    }
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "aws").write_text('#!/bin/sh\nprintf "AKIA-%s\\tsecret/of+%s\\n" "$4" "$4"\n')
    (commands / "gh").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n'
        f'[ "$1" = variable ] || {{ printf "< "; cat; echo; }} >> {tmp_path}/called\n'
    )
    for command in commands.iterdir():
        command.chmod(0o755)
    lines = "\n".join(handover.bootstrap(outputs, "eu-west-1", {}))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        env={"PATH": f"{commands}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "called").read_text().splitlines() == [
        "variable set AWS_REGION --body eu-west-1",
        "variable set TRILHO_REGISTRY --body s3://b/registry",
        "variable set TRILHO_IMAGE_REPOSITORY --body host/trilho",
        "secret set AWS_ACCESS_KEY_ID",
        "< AKIA-trilho-pull-request",
        "secret set AWS_SECRET_ACCESS_KEY",
        "< secret/of+trilho-pull-request",
        "secret set AWS_ACCESS_KEY_ID --env production",
        "< AKIA-trilho-deploy",
        "secret set AWS_SECRET_ACCESS_KEY --env production",
        "< secret/of+trilho-deploy",
    ]
