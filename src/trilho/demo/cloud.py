"""What the demo needs of the embedded AWS: a bucket, and an ECS service to deploy to."""

from __future__ import annotations

from typing import Any

from trilho.demo.keeper import CLUSTER, SERVICE
from trilho.demo.ministack import REGION
from trilho.storage.aws import client

BUCKET = "trilho-demo"
REGISTRY = f"s3://{BUCKET}/registry"
CLUSTER_ARN = f"arn:aws:ecs:{REGION}:000000000000:cluster/{CLUSTER}"
IMAGE = "trilho-serving:demo"
PORT = 8080


def create(environment: dict[str, str], containers: bool) -> None:
    """Create bucket, cluster, task definition and service.

    Parameters
    ----------
    environment
        What a task needs to reach the embedded AWS from inside a container.
    containers
        Tasks are real containers behind a load balancer; the service then waits with no task until
        there is a model, for one without a model cannot start.
    """
    client("s3").create_bucket(Bucket=BUCKET)
    ecs = client("ecs")
    ecs.create_cluster(clusterName=CLUSTER)
    container = {
        "name": "model",
        "image": IMAGE,
        "command": ["serve"],
        "essential": True,
        "portMappings": [{"containerPort": PORT, "protocol": "tcp"}],
        # the embedded load balancer needs no time to notice that a task is leaving
        "environment": [{"name": "TRILHO_DRAIN_SECONDS", "value": "1"}]
        + [{"name": name, "value": value} for name, value in environment.items()],
    }
    definition = ecs.register_task_definition(
        family=SERVICE,
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        cpu="256",
        memory="512",
        containerDefinitions=[container],
    )["taskDefinition"]["taskDefinitionArn"]
    ecs.create_service(
        cluster=CLUSTER,
        serviceName=SERVICE,
        taskDefinition=definition,
        desiredCount=0 if containers else 1,
        launchType="FARGATE",
        loadBalancers=_load_balancer() if containers else [],
        networkConfiguration={
            "awsvpcConfiguration": {"subnets": ["subnet-demo"], "assignPublicIp": "DISABLED"}
        },
    )


def scale(count: int) -> None:
    """Set how many tasks the service should run."""
    client("ecs").update_service(cluster=CLUSTER, service=SERVICE, desiredCount=count)


def _load_balancer() -> list[dict[str, Any]]:
    elb = client("elbv2")
    group = elb.create_target_group(
        Name=SERVICE, Protocol="HTTP", Port=PORT, VpcId="vpc-demo", TargetType="ip"
    )["TargetGroups"][0]["TargetGroupArn"]
    balancer = elb.create_load_balancer(Name=SERVICE, Subnets=["subnet-demo"])["LoadBalancers"][0]
    elb.create_listener(
        LoadBalancerArn=balancer["LoadBalancerArn"],
        Protocol="HTTP",
        Port=80,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": group}],
    )
    return [{"targetGroupArn": group, "containerName": "model", "containerPort": PORT}]
