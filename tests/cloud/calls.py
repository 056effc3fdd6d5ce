"""What an identity might try besides writing the registry, and who may."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from identities import ACCOUNT, BUCKET, ECS

PULL_REQUEST, DEPLOY = "pull-request", "deploy"
BOTH: tuple[str, ...] = (PULL_REQUEST, DEPLOY)
NOBODY: tuple[str, ...] = ()
ONLY_DEPLOY: tuple[str, ...] = (DEPLOY,)


@dataclass(frozen=True)
class Call:
    """One call, and the identities for which it must work."""

    service: str
    operation: str
    who: tuple[str, ...]
    arguments: dict[str, Any]

    def on(self, client: Any) -> Any:
        return getattr(client, self.operation)(**self.arguments)


def s3(operation: str, who: tuple[str, ...] = NOBODY, **arguments: Any) -> Call:
    return Call("s3", operation, who, {"Bucket": BUCKET} | arguments)


def create(key: str) -> Call:
    return s3("put_object", Key=key, Body=b"", IfNoneMatch="*")


def ecs(operation: str, who: tuple[str, ...] = NOBODY, **arguments: Any) -> Call:
    return Call("ecs", operation, who, arguments)


def register(who: tuple[str, ...] = NOBODY, **arguments: Any) -> Call:
    """A revision as `trilho deploy` registers it, but for these arguments."""
    definition: dict[str, Any] = {
        "family": "credit-default",
        "taskRoleArn": role("trilho-credit-default-task"),
        "executionRoleArn": role("trilho-credit-default-execution"),
        "containerDefinitions": [{"name": "model", "image": "i", "memory": 512}],
    }
    return ecs("register_task_definition", who, **definition | arguments)


def update(who: tuple[str, ...] = NOBODY, **arguments: Any) -> Call:
    service = {"cluster": "trilho", "service": "credit-default"}
    return ecs("update_service", who, **service | arguments)


def ecr(operation: str, who: tuple[str, ...] = NOBODY, **arguments: Any) -> Call:
    return Call("ecr", operation, who, {"repositoryName": "trilho"} | arguments)


def other(service: str, operation: str, **arguments: Any) -> Call:
    return Call(service, operation, NOBODY, arguments)


def role(name: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:role/{name}"


TAGS = [{"key": "team", "value": "risk"}]
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"digest": "sha256:" + "0" * 64, "size": 2, "mediaType": "application/json"},
    "layers": [],
}
IMAGE = {"imageTag": "t", "imageManifest": json.dumps(MANIFEST)}
REVISION = "credit-default:1"
ADMINISTRATOR = "arn:aws:iam::aws:policy/AdministratorAccess"
EXPIRE_ALL = {"Rules": [{"ID": "x", "Status": "Enabled", "Prefix": "", "Expiration": {"Days": 1}}]}
OPEN = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": f"arn:aws:s3:::{BUCKET}",
            }
        ],
    }
)

CALLS: dict[str, Call] = {
    # the bucket
    "list the registry": s3("list_objects_v2", BOTH, Prefix="registry/"),
    "find the bucket": s3("head_bucket", BOTH),
    "read predictions": s3("get_object", Key="predictions/known.json"),
    "write predictions": create("predictions/x.json"),
    "write beside the registry": create("registry2/versions/1"),
    "write at the root": create("x.json"),
    "list old versions": s3("list_object_versions"),
    "replace the bucket policy": s3("put_bucket_policy", Policy=OPEN),
    "drop the bucket policy": s3("delete_bucket_policy"),
    "suspend versioning": s3(
        "put_bucket_versioning", VersioningConfiguration={"Status": "Suspended"}
    ),
    "expire everything": s3(
        "put_bucket_lifecycle_configuration", LifecycleConfiguration=EXPIRE_ALL
    ),
    "delete the bucket": s3("delete_bucket"),
    "make a bucket": s3("create_bucket", Bucket="one-more"),
    "list another bucket": s3("list_objects_v2", Bucket="payroll"),
    # the service
    "see the service": ecs(
        "describe_services", ONLY_DEPLOY, cluster="trilho", services=["credit-default"]
    ),
    "see its tasks": ecs("list_tasks", ONLY_DEPLOY, cluster="trilho", serviceName="credit-default"),
    "list its deployments": ecs(
        "list_service_deployments", ONLY_DEPLOY, cluster="trilho", service="credit-default"
    ),
    "follow a deployment": ecs(
        "describe_service_deployments",
        ONLY_DEPLOY,
        serviceDeploymentArns=[f"{ECS}:service-deployment/trilho/credit-default/1"],
    ),
    "see where it leads": ecs(
        "describe_service_revisions",
        ONLY_DEPLOY,
        serviceRevisionArns=[f"{ECS}:service-revision/trilho/credit-default/1"],
    ),
    "read a revision": ecs(
        "describe_task_definition", ONLY_DEPLOY, taskDefinition=REVISION, include=["TAGS"]
    ),
    "list revisions": ecs("list_task_definitions", ONLY_DEPLOY, familyPrefix="credit-default"),
    "register a revision": register(ONLY_DEPLOY),
    "register one with tags": register(ONLY_DEPLOY, tags=TAGS),
    "move the service": update(ONLY_DEPLOY, taskDefinition=REVISION),
    "force a deployment": update(ONLY_DEPLOY, forceNewDeployment=True),
    "register another family": register(family="payroll"),
    "pass another task role": register(taskRoleArn=role("trilho-payroll-task")),
    "pass another execution role": register(executionRoleArn=role("trilho-payroll-task")),
    "pass its own role": register(taskRoleArn=role("trilho-deploy")),
    "tag what is registered": ecs(
        "tag_resource", resourceArn=f"{ECS}:task-definition/{REVISION}", tags=TAGS
    ),
    "run another family": update(taskDefinition="payroll:1"),
    "move another service": update(cluster="finance", service="payroll", desiredCount=0),
    "see another service": ecs("describe_services", cluster="finance", services=["payroll"]),
    "see another's tasks": ecs("list_tasks", cluster="finance"),
    "list another's deployments": ecs(
        "list_service_deployments", cluster="finance", service="payroll"
    ),
    "follow another's deployment": ecs(
        "describe_service_deployments",
        serviceDeploymentArns=[f"{ECS}:service-deployment/finance/payroll/1"],
    ),
    "see where another's leads": ecs(
        "describe_service_revisions",
        serviceRevisionArns=[f"{ECS}:service-revision/finance/payroll/1"],
    ),
    "stop a deployment": ecs(
        "stop_service_deployment",
        serviceDeploymentArn=f"{ECS}:service-deployment/trilho/credit-default/1",
    ),
    "delete the service": ecs(
        "delete_service", cluster="trilho", service="credit-default", force=True
    ),
    "make a service": ecs(
        "create_service", cluster="trilho", serviceName="two", taskDefinition=REVISION
    ),
    "run a task beside it": ecs("run_task", cluster="trilho", taskDefinition=REVISION),
    "forget a revision": ecs("deregister_task_definition", taskDefinition=REVISION),
    "delete the cluster": ecs("delete_cluster", cluster="trilho"),
    # images
    "log in to ECR": Call("ecr", "get_authorization_token", ONLY_DEPLOY, {}),
    "see images": ecr("describe_images", ONLY_DEPLOY),
    "push an image": ecr("put_image", ONLY_DEPLOY, **IMAGE),
    "push elsewhere": ecr("put_image", repositoryName="finance", **IMAGE),
    "delete images": ecr("batch_delete_image", imageIds=[{"imageTag": "t"}]),
    "make tags mutable": ecr("put_image_tag_mutability", imageTagMutability="MUTABLE"),
    "delete the repository": ecr("delete_repository", force=True),
    # itself, and what watches it
    "say who it is": Call("sts", "get_caller_identity", BOTH, {}),
    "take another role": other(
        "sts", "assume_role", RoleArn=role("trilho-deploy"), RoleSessionName="test"
    ),
    "make itself a key": other("iam", "create_access_key", UserName="trilho-deploy"),
    "grant itself more": other(
        "iam", "attach_user_policy", UserName="trilho-pull-request", PolicyArn=ADMINISTRATOR
    ),
    "rewrite its policy": other(
        "iam",
        "create_policy_version",
        PolicyArn=f"arn:aws:iam::{ACCOUNT}:policy/trilho-registry",
        PolicyDocument=OPEN,
        SetAsDefault=True,
    ),
    "see the stacks": other("cloudformation", "list_stacks"),
    "read the logs": other("logs", "describe_log_groups"),
    "silence an alarm": other("cloudwatch", "delete_alarms", AlarmNames=["trilho-service-errors"]),
}
