"""The templates of infra/: sound by themselves, and what each parameter makes of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import templates
from resolve import ACCOUNT, REGION, Resolver

from trilho.deploy.strategy import NEEDED
from trilho.infra import template as reading
from trilho.serving.predictions import LABELLING, PREDICTIONS
from trilho.serving.settings import read

ROOT = Path(__file__).parents[2]
SUBJECT = "repo:acme@1/models@2"
BOOTSTRAP = {"Bucket": "b", "GitHubSubject": SUBJECT}
FIRST = {"Image": "i@sha256:" + "0" * 64, "ModelDigest": "sha256:" + "1" * 64}
SERVICE_ROLE = f"arn:aws:iam::{ACCOUNT}:role/trilho-credit-default"


def bootstrap(**parameters: str) -> Resolver:
    return Resolver(templates.load("bootstrap"), BOOTSTRAP | parameters)


def service(**parameters: str) -> Resolver:
    below = bootstrap()
    outputs = below.template["Outputs"]
    exported = [name for name in outputs if "Export" in outputs[name]]
    imports = {f"trilho-bootstrap-{name}": below.output(name) for name in exported}
    return Resolver(templates.load("service"), FIRST | parameters, imports)


# --- sound by themselves ---


def test_cfn_lint_finds_nothing() -> None:
    files = [str(templates.INFRA / f"{kind}.yaml") for kind in templates.KINDS]
    done = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), "--include-checks", "I3510", "--", *files],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("kind", templates.KINDS)
def test_trilho_reads_it_and_cloudformation_takes_it_in_one_request(
    kind: reading.Kind,
) -> None:
    found = reading.read(kind, templates.INFRA)
    assert set(found.parameters) == set(templates.load(kind)["Parameters"])
    assert len(found.body.encode()) < reading.LARGEST
    for parameter in found.parameters.values():
        assert len(parameter.description) > 10, parameter.name


@pytest.mark.parametrize("kind", templates.KINDS)
def test_every_parameter_is_grouped_and_documented(kind: str) -> None:
    template = templates.load(kind)
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    assert sorted(grouped) == sorted(template["Parameters"])
    document = (templates.INFRA / "README.md").read_text()
    for name in grouped:
        parameter = template["Parameters"][name]
        default = parameter.get("Default")
        shown = "" if default in (None, "") else f"`{default}`"
        row = f"| `{name}` | {shown} | {parameter['Description'].strip()} |"
        assert row in document.splitlines()


def test_what_a_scanner_is_told_to_skip_has_a_reason() -> None:
    skipped = []
    for kind in templates.KINDS:
        for resource in templates.load(kind)["Resources"].values():
            skipped += resource.get("Metadata", {}).get("checkov", {}).get("skip", [])
    assert skipped
    for skip in skipped:
        assert re.fullmatch(r"CKV_AWS_\d+", skip["id"])
        assert len(skip["comment"]) > 40, skip


@pytest.mark.parametrize("name", ["RegistryPolicy", "PullRequestPolicy", "DeployPolicy"])
def test_policies_fit_into_what_iam_takes_with_the_longest_names(name: str) -> None:
    longest = bootstrap(
        Name="n" * 20,
        Service="s" * 32,
        Bucket="b" * 63,
        RegistryPrefix="p" * 40,
        DatasetBucket="d" * 63,
    )
    document = json.dumps(longest.resource(name)["PolicyDocument"], separators=(",", ":"))
    assert len(document) < 6144  # characters of a managed policy
    task = service().resource("TaskRole")["RoleName"]
    assert len(task) - len("trilho-credit-default") + 20 + 1 + 32 <= 64  # of a role's name


# --- bootstrap.yaml ---


def test_the_bucket_is_private_versioned_and_only_candidates_expire() -> None:
    bucket = bootstrap(CandidateDays="30").resource("RegistryBucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    rules = bucket["LifecycleConfiguration"]["Rules"]
    expiring = {
        rule["Prefix"]: rule["ExpirationInDays"] for rule in rules if "ExpirationInDays" in rule
    }
    assert expiring == {"registry/candidates/": "30", "predictions/": 365, "labelling/": 365}
    assert all("Prefix" in r for r in rules if "NoncurrentVersionExpiration" in r)
    declared = templates.load("bootstrap")["Resources"]["RegistryBucket"]
    assert declared["DeletionPolicy"] == "RetainExceptOnCreate"
    assert declared["UpdateReplacePolicy"] == "Retain"


def test_a_bucket_that_exists_is_not_made_but_gets_the_policy() -> None:
    made = bootstrap(CreateBucket="false", Bucket="mine")
    assert made.resource("RegistryBucket") is None
    assert made.resource("BucketPolicy")["Bucket"] == "mine"
    assert made.output("Registry") == "s3://mine/registry"


def test_identities_are_roles_or_users_and_the_policies_go_with_them() -> None:
    roles, users = bootstrap(), bootstrap(Identities="users")
    both = ["trilho-pull-request", "trilho-deploy"]
    for name, who in (
        ("RegistryPolicy", both),
        ("PullRequestPolicy", both[:1]),
        ("DeployPolicy", both[1:]),
    ):
        assert roles.resource(name)["Roles"] == users.resource(name)["Users"] == who
        assert "Users" not in roles.resource(name)
        assert "Roles" not in users.resource(name)
    assert roles.resource("PullRequestUser") is users.resource("PullRequestRole") is None
    assert roles.resource("OidcProvider")["ClientIdList"] == ["sts.amazonaws.com"]
    assert users.resource("OidcProvider") is None
    assert bootstrap(CreateOidcProvider="false").resource("OidcProvider") is None
    # no stack may hold a key
    assert "AWS::IAM::AccessKey" not in {
        r["Type"] for r in templates.load("bootstrap")["Resources"].values()
    }


def test_datasets_of_another_bucket_are_read_when_it_is_named() -> None:
    def reads(made: Resolver) -> list[str]:
        statements = made.resource("RegistryPolicy")["PolicyDocument"]["Statement"]
        return [arn for s in statements if s["Sid"] == "ReadDatasets" for arn in s["Resource"]]

    assert reads(bootstrap()) == []
    assert reads(bootstrap(DatasetBucket="raw")) == ["arn:aws:s3:::raw", "arn:aws:s3:::raw/*"]


def test_image_lifecycle_is_json_that_ecr_takes() -> None:
    policy = bootstrap(ImagesKept="7").resource("Repository")["LifecyclePolicy"]
    rules = json.loads(policy["LifecyclePolicyText"])["rules"]
    assert rules[-1]["selection"]["countNumber"] == 7


def test_both_stacks_agree_on_the_roles_that_may_be_passed() -> None:
    statements = bootstrap().resource("DeployPolicy")["PolicyDocument"]["Statement"]
    (passed,) = [s["Resource"] for s in statements if s["Action"] == "iam:PassRole"]
    assert passed == [f"{SERVICE_ROLE}-task", f"{SERVICE_ROLE}-execution"]
    task = service().resource("Task")
    assert [task["TaskRoleArn"], task["ExecutionRoleArn"]] == passed


# --- service.yaml ---


def test_the_container_is_locked_in() -> None:
    task = service().resource("Task")
    (container,) = task["ContainerDefinitions"]
    assert container["ReadonlyRootFilesystem"] is True
    assert container["Privileged"] is False
    assert container["User"] == "10001"
    assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}
    assert [mount["ContainerPath"] for mount in container["LinuxParameters"]["Tmpfs"]] == ["/tmp"]
    # the user and the port of the image
    image = (ROOT / "Dockerfile").read_text()
    assert f"--uid {container['User']} " in image
    assert f"EXPOSE {container['PortMappings'][0]['ContainerPort']}\n" in image


def test_predictions_are_kept_where_the_task_may_write_and_only_if_told_to() -> None:
    def environment(made: Resolver) -> dict[str, str]:
        (container,) = made.resource("Task")["ContainerDefinitions"]
        return {e["Name"]: e["Value"] for e in container["Environment"]}

    assert "TRILHO_PREDICTION_LOG" not in environment(service())
    told = environment(service(PredictionLog="true"))
    settings = read(told)
    assert settings.predictions is not None
    assert settings.predictions.url == "s3://b"
    statements = service().resource("TaskRole")["Policies"][0]["PolicyDocument"]["Statement"]
    (written,) = [s["Resource"] for s in statements if s["Action"] == "s3:PutObject"]
    assert written == [f"arn:aws:s3:::b/{place}/*" for place in (PREDICTIONS, LABELLING)]


@pytest.mark.parametrize(
    ("size", "cpu", "memory"),
    [("small", 256, 512), ("medium", 512, 1024), ("large", 1024, 2048), ("xlarge", 2048, 4096)],
)
def test_sizes_and_architectures_are_such_as_fargate_has(size: str, cpu: int, memory: int) -> None:
    template = templates.load("service")
    assert template["Parameters"]["Size"]["AllowedValues"] == list(template["Mappings"]["Sizes"])
    assert template["Mappings"]["Sizes"][size] == {"Cpu": str(cpu), "Memory": str(memory)}
    for architecture in ("ARM64", "X86_64"):
        task = service(Architecture=architecture, Size=size).resource("Task")
        assert task["RuntimePlatform"]["CpuArchitecture"] == architecture
        assert (task["Cpu"], task["Memory"]) == (str(cpu), str(memory))
    default = service().resource("Task")
    assert default["RuntimePlatform"]["CpuArchitecture"] == "ARM64"


def test_with_a_certificate_http_only_redirects() -> None:
    plain = service()
    (action,) = plain.resource("HttpListener")["DefaultActions"]
    assert action["Type"] == "forward"
    assert plain.resource("HttpsListener") is plain.resource("Record") is None
    secure = service(CertificateArn="arn:aws:acm:x", DomainName="m.example.com", HostedZoneId="Z1")
    (action,) = secure.resource("HttpListener")["DefaultActions"]
    assert action["RedirectConfig"] == {
        "Protocol": "HTTPS",
        "Port": "443",
        "StatusCode": "HTTP_301",
    }
    listener = secure.resource("HttpsListener")
    assert listener["Certificates"] == [{"CertificateArn": "arn:aws:acm:x"}]
    assert listener["SslPolicy"].startswith("ELBSecurityPolicy-TLS13-1-2-")
    assert secure.output("ServiceUrl") == "https://m.example.com"
    assert secure.resource("Record")["Name"] == "m.example.com"


def test_a_vpc_of_ones_own_takes_the_place_of_the_small_one() -> None:
    made, given = (
        service(),
        service(Vpc="vpc-1", PublicSubnets="subnet-a,subnet-b", TaskSubnets="subnet-c"),
    )
    network = [
        name
        for name, r in templates.load("service")["Resources"].items()
        if r["Type"].startswith("AWS::EC2::")
        and r["Type"] not in ("AWS::EC2::SecurityGroup", "AWS::EC2::SecurityGroupIngress")
    ]
    assert len(network) == 10
    for name in network:
        assert given.resource(name) is None, name
        assert made.resource(name) is not None, name
    assert given.resource("Balancer")["Subnets"] == ["subnet-a", "subnet-b"]
    where = given.resource("Service")["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert where["Subnets"] == ["subnet-c"]
    assert given.resource("Targets")["VpcId"] == "vpc-1"


def test_only_the_load_balancer_reaches_the_tasks() -> None:
    made = service(ClientCidr="192.0.2.0/24")
    assert "SecurityGroupIngress" not in made.resource("TaskGroup")
    ingress = made.resource("TasksFromBalancer")
    assert ingress["SourceSecurityGroupId"] == made.value({"Ref": "BalancerGroup"})
    clients = made.resource("BalancerGroup")["SecurityGroupIngress"]
    assert {rule["CidrIp"] for rule in clients} == {"192.0.2.0/24"}


def test_spot_keeps_one_task_that_nobody_takes_back() -> None:
    assert service().resource("Service")["CapacityProviderStrategy"] == [
        {"CapacityProvider": "FARGATE", "Weight": 1}
    ]
    assert service(Spot="true").resource("Service")["CapacityProviderStrategy"] == [
        {"CapacityProvider": "FARGATE", "Base": 1, "Weight": 0},
        {"CapacityProvider": "FARGATE_SPOT", "Weight": 1},
    ]


def test_tasks_sleep_only_if_told_when_to() -> None:
    assert service().resource("Scaling")["ScheduledActions"] == []
    asleep = service(SleepAt="cron(0 20 * * ? *)", WakeAt="cron(0 7 * * ? *)", MinTasks="3")
    sleep, wake = asleep.resource("Scaling")["ScheduledActions"]
    assert sleep["ScalableTargetAction"] == {"MinCapacity": 0, "MaxCapacity": 0}
    assert wake["ScalableTargetAction"]["MinCapacity"] == "3"


def test_a_deployment_keeps_all_tasks_and_goes_back_by_itself() -> None:
    settings = service().resource("Service")["DeploymentConfiguration"]
    assert settings["MinimumHealthyPercent"] == 100
    assert settings["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    assert settings["Alarms"]["Rollback"] is True
    assert "DesiredCount" not in service().resource("Service")  # an update would undo scaling


SHIFTING = ("GreenTargets", "TrafficRule", "TrafficRole", "UnhealthyGreenAlarm")


def test_traffic_is_shifted_between_two_target_groups_only_if_told_to() -> None:
    rolling, shifting = service(), service(TrafficShifting="true")
    for name in SHIFTING:
        assert rolling.resource(name) is None, name
    (balancer,) = rolling.resource("Service")["LoadBalancers"]
    assert "AdvancedConfiguration" not in balancer
    (balancer,) = shifting.resource("Service")["LoadBalancers"]
    advanced = balancer["AdvancedConfiguration"]
    # what `trilho deploy` asks of a service before it shifts its traffic
    assert {name[0].lower() + name[1:] for name in advanced} == set(NEEDED)
    assert advanced["RoleArn"] == f"{SERVICE_ROLE}-traffic"
    assert advanced["ProductionListenerRule"] == shifting.value({"Ref": "TrafficRule"})
    rule = shifting.resource("TrafficRule")
    assert rule["ListenerArn"] == "HttpListener"
    secure = service(TrafficShifting="true", CertificateArn="arn:aws:acm:x", DomainName="m.a.com")
    assert secure.resource("TrafficRule")["ListenerArn"] == "HttpsListener"
    assert rule["Conditions"] == [
        {"Field": "path-pattern", "PathPatternConfig": {"Values": ["/*"]}}
    ]
    # ECS refuses a rule that has not both of the groups, or traffic on more than one of them
    (action,) = rule["Actions"]
    weights = {g["TargetGroupArn"]: g["Weight"] for g in action["ForwardConfig"]["TargetGroups"]}
    assert weights == {balancer["TargetGroupArn"]: 1, advanced["AlternateTargetGroupArn"]: 0}
    # two groups that differ in nothing
    assert shifting.resource("GreenTargets") == shifting.resource("Targets")
    role = shifting.resource("TrafficRole")
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "ecs.amazonaws.com"}
    policy = "arn:aws:iam::aws:policy/AmazonECSInfrastructureRolePolicyForLoadBalancers"
    assert role["ManagedPolicyArns"] == [policy]


def test_requests_per_task_are_counted_over_both_target_groups() -> None:
    def how(made: Resolver) -> dict[str, Any]:
        policy = made.resource("ScaleByRequests")["TargetTrackingScalingPolicyConfiguration"]
        return {key: value for key, value in policy.items() if key.endswith("Specification")}

    ((name, predefined),) = how(service()).items()
    assert name == "PredefinedMetricSpecification"
    assert predefined["PredefinedMetricType"] == "ALBRequestCountPerTarget"
    ((name, custom),) = how(service(TrafficShifting="true")).items()
    assert name == "CustomizedMetricSpecification"
    metrics = {metric["Id"]: metric for metric in custom["Metrics"]}
    assert [id for id, metric in metrics.items() if metric["ReturnData"]] == ["each"]
    assert set(re.findall("[a-z]+", metrics["each"]["Expression"])) == set(metrics) - {"each"}
    groups = [
        dimension["Value"]
        for id in ("blue", "green")
        for dimension in metrics[id]["MetricStat"]["Metric"]["Dimensions"]
        if dimension["Name"] == "TargetGroup"
    ]
    assert groups == ["Targets.TargetGroupFullName", "GreenTargets.TargetGroupFullName"]


def test_every_alarm_tells_somebody() -> None:
    resources = templates.load("service")["Resources"]
    alarms = [name for name, r in resources.items() if r["Type"] == "AWS::CloudWatch::Alarm"]
    assert len(alarms) == 7
    for name in alarms:
        alarm = service(TrafficShifting="true").resource(name)
        assert alarm["AlarmActions"] == alarm["OKActions"], name
        assert len(alarm["AlarmActions"]) == 1, name
    assert service(QuietHours="0").resource("QuietAlarm") is None
    assert service().resource("AlarmMail") is None
    assert service(AlarmEmail="a@b.c").resource("AlarmMail")["Endpoint"] == "a@b.c"


def test_the_dashboard_is_json_about_metrics_that_exist() -> None:
    both = [service(TrafficShifting=shifts) for shifts in ("true", "false")]
    second, board = (json.loads(made.resource("Dashboard")["DashboardBody"]) for made in both)
    text = json.dumps(board)
    assert "${" not in text + json.dumps(second)
    assert ("healthy, second group" in json.dumps(second)) > ("healthy, second group" in text)
    for widget in board["widgets"]:
        assert widget["type"] in ("alarm", "metric", "log")
        if widget["type"] == "metric":
            assert widget["properties"]["region"] == REGION


# --- rules, which CloudFormation checks before it begins ---


def broken(kind: str, given: dict[str, str]) -> list[str]:
    """The assertions that these parameters do not hold."""
    made: Any = Resolver(templates.load(kind), given)
    told = []
    for rule in made.template["Rules"].values():
        if made._holds(rule["RuleCondition"]):
            told += [
                a["AssertDescription"] for a in rule["Assertions"] if not made._holds(a["Assert"])
            ]
    return told


@pytest.mark.parametrize(
    ("kind", "given", "missing"),
    [
        ("bootstrap", BOOTSTRAP, None),
        ("bootstrap", {"Bucket": "b"}, "needs GitHubSubject"),
        ("bootstrap", {"Bucket": "b", "Identities": "users"}, None),
        ("service", FIRST, None),
        ("service", {"Vpc": "vpc-1", "TaskSubnets": "s"}, "needs PublicSubnets"),
        ("service", {"Vpc": "vpc-1", "PublicSubnets": "s"}, "needs TaskSubnets"),
        ("service", {"CertificateArn": "arn"}, "needs DomainName"),
        ("service", {"SleepAt": "cron(x)"}, "needs WakeAt"),
    ],
)
def test_what_belongs_together_is_asked_for_together(
    kind: str, given: dict[str, str], missing: str | None
) -> None:
    told = broken(kind, given)
    assert len(told) == (missing is not None)
    assert missing is None or missing in told[0]
