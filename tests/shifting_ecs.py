"""An ECS whose deployments shift traffic, in this process: no emulator has these strategies.

What is real: boto3, its checks of what is sent and its reading of what comes back, by botocore's
own model of ECS. What is played is the answers, and this is their contract, as AWS documents it:

- `UpdateService` keeps the deployment configuration and begins a *service deployment*; the service
  then names its new task definition, and the deployment as its `currentServiceDeployment`.
- A service deployment leads to a *service revision*, which names a task definition. It has a
  status, a lifecycle stage, and the share of the production traffic that its target gets.
- It ends as SUCCESSFUL, or, given up, as STOPPED, ROLLBACK_SUCCESSFUL or ROLLBACK_FAILED with a
  reason, the alarms that went off and the state of the circuit breaker. When it was rolled back,
  the service names the old task definition again.
- `ListServiceDeployments` lists the newest ones, in no order that anything relies on.
- What is not allowed, not known or not understood is answered by an error code and a message.

The service takes one step of `script` each time that it is described.
"""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config

CLUSTER, SERVICE = "models", "credit"
ARN = "arn:aws:ecs:us-east-1:1:"
ELB = "arn:aws:elasticloadbalancing:us-east-1:1:"
BALANCER = {
    "targetGroupArn": f"{ELB}targetgroup/blue/1",
    "containerName": "model",
    "containerPort": 8080,
}
ADVANCED = {
    "alternateTargetGroupArn": f"{ELB}targetgroup/green/2",
    "productionListenerRule": f"{ELB}listener-rule/app/b/1/2/3",
    "roleArn": "arn:aws:iam::1:role/shift",
}
OWN = {
    "maximumPercent": 200,
    "minimumHealthyPercent": 100,
    "strategy": "ROLLING",
    "deploymentCircuitBreaker": {"enable": True, "rollback": False},
}
ENDED = ("SUCCESSFUL", "STOPPED", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED")
Step = dict[str, Any]
"""`status`, `stage` and `share` of the deployment, its `new` and the `old` tasks, `failed` ones;
`more`: other members of the deployment; `back`: the service names the old revision again."""

CANARY: list[Step] = [
    {"status": "PENDING", "new": 0},
    {"status": "IN_PROGRESS", "stage": "SCALE_UP", "share": 0, "new": 1, "failed": 1},
    {"status": "IN_PROGRESS", "stage": "PRODUCTION_TRAFFIC_SHIFT", "share": 5, "new": 2},
    {"status": "IN_PROGRESS", "stage": "PRODUCTION_TRAFFIC_SHIFT", "share": 5, "new": 2},
    {"status": "IN_PROGRESS", "stage": "BAKE_TIME", "share": 100, "new": 2},
    {"status": "IN_PROGRESS", "stage": "CLEAN_UP", "share": 100, "new": 2, "old": 0},
    {"status": "SUCCESSFUL", "share": 100, "new": 2, "old": 0},
]


class Error(Exception):
    """An error that ECS answers."""


class ShiftingEcs:
    """One service of two tasks; `client` speaks to it."""

    def __init__(self, script: list[Step] | None = None, **deployment_configuration: Any) -> None:
        self.script = list(script or CANARY)
        self.definitions: list[dict[str, Any]] = []
        self.deployments: list[dict[str, Any]] = []
        self.targets: list[str] = []  # by deployment, its task definition
        self.called: list[tuple[str, dict[str, Any]]] = []
        self.refuses: dict[str, tuple[str, str]] = {}  # operation: code and message
        self.ignores_strategies = False
        self.names_the_current = True  # in DescribeServices; else it has to be listed
        self.configuration: dict[str, Any] = OWN | deployment_configuration
        self.balancers: list[dict[str, Any]] = [BALANCER | {"advancedConfiguration": ADVANCED}]
        self.step: Step = {"status": "SUCCESSFUL", "new": 2, "old": 0}
        self.definition = self.before = self.target = self._register(
            {"containerDefinitions": [PLAIN]}
        )
        self.client: Any = boto3.client(
            "ecs",
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",
            config=Config(retries={"total_max_attempts": 1}),
        )
        self.client.meta.events.register("before-send.ecs", self._send)

    def sent(self, operation: str) -> list[dict[str, Any]]:
        """What was sent to an operation, in order."""
        return [body for name, body in self.called if name == operation]

    def begin(self, arn: str) -> None:
        """Begin a deployment, whoever wants it."""
        self.before, self.definition, self.target = self.definition, arn, arn
        self.targets.append(arn)
        self.deployments.append({})
        self.step = {"status": "PENDING", "new": 0}

    def _send(self, request: Any, **_: Any) -> AWSResponse:
        operation = request.headers["X-Amz-Target"].decode().rpartition(".")[2]
        body = json.loads(request.body)
        self.called.append((operation, body))
        status = 200
        if operation in self.refuses:
            code, message = self.refuses[operation]
            status, answer = 400, {"__type": code, "message": message}
        else:
            answer = getattr(self, operation)(**body)
        raw = BytesIO(json.dumps(answer).encode())
        raw.stream = lambda **__: iter([raw.read()])  # type: ignore[attr-defined]
        headers = {"content-type": "application/x-amz-json-1.1"}
        return AWSResponse(request.url, status, headers, raw)

    # --- the operations, by their names ---

    def UpdateService(  # noqa: N802
        self, taskDefinition: str, deploymentConfiguration: Any, **_: Any
    ) -> Any:
        if not self.ignores_strategies:
            self.configuration = deploymentConfiguration
        self.begin(taskDefinition)
        return {"service": self._service()}

    def DescribeServices(self, **_: Any) -> Any:  # noqa: N802
        if self.deployments and self.script:
            self.step = self.script.pop(0)
            if self.step.get("back"):
                self.definition = self.before
        return {"services": [self._service()]}

    def ListServiceDeployments(self, **_: Any) -> Any:  # noqa: N802
        found = [self._described(number) for number in range(len(self.deployments))]
        return {"serviceDeployments": [{"createdAt": n, **d} for n, d in enumerate(found)]}

    def DescribeServiceDeployments(self, serviceDeploymentArns: list[str]) -> Any:  # noqa: N802
        numbers = [int(arn.rsplit("/", 1)[1]) for arn in serviceDeploymentArns]
        return {"serviceDeployments": [self._described(number) for number in numbers]}

    def DescribeServiceRevisions(self, serviceRevisionArns: list[str]) -> Any:  # noqa: N802
        return {
            "serviceRevisions": [
                {
                    "serviceRevisionArn": arn,
                    "taskDefinition": self.targets[int(arn.rsplit("/", 1)[1])],
                }
                for arn in serviceRevisionArns
            ]
        }

    def RegisterTaskDefinition(self, **definition: Any) -> Any:  # noqa: N802
        return self._definition(self._register(definition))

    def DescribeTaskDefinition(self, taskDefinition: str, **_: Any) -> Any:  # noqa: N802
        return self._definition(taskDefinition)

    def ListTaskDefinitions(self, **_: Any) -> Any:  # noqa: N802
        return {"taskDefinitionArns": [d["taskDefinitionArn"] for d in reversed(self.definitions)]}

    def ListTasks(self, **_: Any) -> Any:  # noqa: N802
        return {"taskArns": []}

    # --- what it keeps ---

    def _register(self, definition: dict[str, Any]) -> str:
        arn = f"{ARN}task-definition/credit:{len(self.definitions) + 1}"
        self.definitions.append({"family": "credit"} | definition | {"taskDefinitionArn": arn})
        return arn

    def _definition(self, arn: str) -> dict[str, Any]:
        (found,) = (d for d in self.definitions if d["taskDefinitionArn"] == arn)
        return {"taskDefinition": found}

    def _service(self) -> dict[str, Any]:
        counts = {self.before: self.step.get("old", 2), self.target: self.step["new"]}
        tasks = [
            {
                "id": arn,
                "status": "PRIMARY" if arn == self.definition else "ACTIVE",
                "taskDefinition": arn,
                "runningCount": count,
                "failedTasks": self.step.get("failed", 0) if arn == self.target else 0,
            }
            for arn, count in counts.items()
            if count or arn == self.definition
        ]
        current = (
            {"currentServiceDeployment": self._described(len(self.deployments) - 1)["arn"]}
            if self.deployments and self.names_the_current
            else {}
        )
        return {
            "status": "ACTIVE",
            "desiredCount": 2,
            "taskDefinition": self.definition,
            "deploymentConfiguration": self.configuration,
            "loadBalancers": self.balancers,
            "deployments": tasks,
            "events": [],
        } | current

    def _described(self, number: int) -> dict[str, Any]:
        last = number == len(self.deployments) - 1
        if last and self.deployments[number].get("status") not in ENDED:
            step = self.step
            self.deployments[number] = {
                "status": step["status"],
                "lifecycleStage": step.get("stage", "RECONCILE_SERVICE"),
                "targetServiceRevision": {
                    "arn": f"{ARN}service-revision/{CLUSTER}/{SERVICE}/{number}",
                    "requestedProductionTrafficWeight": step.get("share", 0),
                },
            } | step.get("more", {})
        arn = f"{ARN}service-deployment/{CLUSTER}/{SERVICE}/{number}"
        return self.deployments[number] | {"serviceDeploymentArn": arn, "arn": arn}


PLAIN = {"name": "model", "image": "registry.example/serve:1", "memory": 512, "environment": []}
