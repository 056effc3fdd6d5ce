"""A cloud in which the identities of infra/ exist, with the policies of the very templates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import templates
from botocore.config import Config
from resolve import ACCOUNT, REGION, Resolver

from trilho.demo import ministack as embedded

BUCKET = f"trilho-{ACCOUNT}-{REGION}"
REGISTRY = f"s3://{BUCKET}/registry"
SUBJECT = "repo:acme@1/models@2"
ECS = f"arn:aws:ecs:{REGION}:{ACCOUNT}"
TRUST_ECS = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ecs-tasks.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}
ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def bootstrap(**parameters: str) -> Resolver:
    """bootstrap.yaml, resolved as CloudFormation would."""
    given = {"Bucket": BUCKET, "GitHubSubject": SUBJECT, **parameters}
    return Resolver(templates.load("bootstrap"), given)


def service(**parameters: str) -> Resolver:
    """service.yaml on top of it."""
    below = bootstrap()
    outputs = below.template["Outputs"]
    imports = {
        f"trilho-bootstrap-{name}": below.output(name)
        for name in outputs
        if "Export" in outputs[name]
    }
    return Resolver(templates.load("service"), parameters, imports)


@dataclass(frozen=True)
class Cloud:
    """The server's address, and by identity the variables that make a process that identity."""

    url: str
    environments: dict[str, dict[str, str]]

    def client(self, identity: str, name: str) -> Any:
        env = self.environments[identity]
        return boto3.client(
            name,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=env.get("AWS_SESSION_TOKEN"),
            config=Config(retries={"total_max_attempts": 1}),
        )


@contextmanager
def running(folder: Path) -> Iterator[Cloud]:
    """Start moto, make everything, and enforce from then on."""
    port = embedded.free_port()
    url = f"http://127.0.0.1:{port}"
    log = folder / "moto.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("moto_iam.py"), str(port)],
            env=os.environ | {"MOTO_ECS_SERVICE_RUNNING": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(url, process, log)
        environments = _make(url)
        _enforce(url)
        yield Cloud(url, environments)
    finally:
        process.kill()
        process.wait()


def _make(url: str) -> dict[str, dict[str, str]]:
    """Make bucket, service and identities; return the identities' credentials."""

    def client(name: str) -> Any:
        return boto3.client(
            name,
            endpoint_url=url,
            region_name=REGION,
            aws_access_key_id="nobody",
            aws_secret_access_key="yet",
        )

    iam, sts = client("iam"), client("sts")
    keys = {}
    iam.create_user(UserName="admin")
    iam.put_user_policy(UserName="admin", PolicyName="all", PolicyDocument=json.dumps(ALL))
    keys["admin"] = _key(iam, "admin")

    kinds = [bootstrap(Identities="oidc"), bootstrap(Identities="users")]
    for resolved in kinds:
        for name in ("PullRequestRole", "DeployRole"):
            if role := resolved.resource(name):
                trust = json.dumps(role["AssumeRolePolicyDocument"])
                iam.create_role(RoleName=role["RoleName"], AssumeRolePolicyDocument=trust)
        for name in ("PullRequestUser", "DeployUser"):
            if user := resolved.resource(name):
                iam.create_user(UserName=user["UserName"])
    for name in ("RegistryPolicy", "PullRequestPolicy", "DeployPolicy"):
        policy = kinds[0].resource(name)
        document = json.dumps(policy["PolicyDocument"])
        arn = iam.create_policy(PolicyName=policy["ManagedPolicyName"], PolicyDocument=document)[
            "Policy"
        ]["Arn"]
        for role in policy["Roles"]:
            iam.attach_role_policy(RoleName=role, PolicyArn=arn)
        for user in kinds[1].resource(name)["Users"]:
            iam.attach_user_policy(UserName=user, PolicyArn=arn)
    for role in (service().resource("TaskRole"), service().resource("ExecutionRole")):
        iam.create_role(RoleName=role["RoleName"], AssumeRolePolicyDocument=json.dumps(TRUST_ECS))
        for inline in role["Policies"]:
            document = json.dumps(inline["PolicyDocument"])
            iam.put_role_policy(
                RoleName=role["RoleName"], PolicyName=inline["PolicyName"], PolicyDocument=document
            )
    for name in ("pull-request", "deploy"):
        keys[f"{name} user"] = _key(iam, f"trilho-{name}")
        keys[f"{name} role"] = _session(sts, f"trilho-{name}", "x" * 20)
    keys["task"] = _session(sts, "trilho-credit-default-task")
    keys["execution"] = _session(sts, "trilho-credit-default-execution")

    _make_bucket(client("s3"), kinds[0])
    _make_services(client("ecs"), client("ecr"))
    return keys


def _make_bucket(s3: Any, resolved: Resolver) -> None:
    s3.create_bucket(Bucket=BUCKET)
    s3.create_bucket(Bucket="payroll")  # somebody else's
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    policy = resolved.resource("BucketPolicy")
    s3.put_bucket_policy(Bucket=policy["Bucket"], Policy=json.dumps(policy["PolicyDocument"]))


def _make_services(ecs: Any, ecr: Any) -> None:
    """The one service, and somebody else's."""
    for cluster, name in (("trilho", "credit-default"), ("finance", "payroll")):
        ecs.create_cluster(clusterName=cluster)
        role = f"arn:aws:iam::{ACCOUNT}:role/trilho-{name}"
        ecs.register_task_definition(
            family=name,
            taskRoleArn=f"{role}-task",
            executionRoleArn=f"{role}-execution",
            containerDefinitions=[
                {"name": "model", "image": "i", "memory": 512, "environment": []}
            ],
        )
        ecs.create_service(
            cluster=cluster, serviceName=name, taskDefinition=f"{name}:1", desiredCount=1
        )
        ecr.create_repository(repositoryName=cluster)


def _key(iam: Any, user: str) -> dict[str, str]:
    key = iam.create_access_key(UserName=user)["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


def _session(sts: Any, role: str, token: str | None = None) -> dict[str, str]:
    """Credentials of a role, as GitHub (with a token) or ECS get them."""
    named = {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/{role}", "RoleSessionName": "test"}
    if token is None:
        got = sts.assume_role(**named)["Credentials"]
    else:
        got = sts.assume_role_with_web_identity(**named, WebIdentityToken=token)["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": got["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": got["SecretAccessKey"],
        "AWS_SESSION_TOKEN": got["SessionToken"],
    }


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"moto did not start:\n{log.read_text()}")


def _enforce(url: str) -> None:
    request = urllib.request.Request(
        f"{url}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
    )
    with urllib.request.urlopen(request, timeout=10):
        pass
