"""What ECS says of a deployment beyond its tasks: stage, traffic, and why it was given up."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError
from msgspec import Struct

from trilho.deploy.ecs import Progress, Service
from trilho.storage.aws import explained

# An ECS (or what stands in for it) without this part of the API, or one that keeps it from us.
UNKNOWN = {
    "UnknownOperationException",
    "UnsupportedFeatureException",
    "InvalidAction",
    "NotImplemented",
    "501",
}
DENIED = {"AccessDeniedException", "AccessDenied", "UnauthorizedOperation"}
BY_SOMEBODY = {"STOP_REQUESTED", "ROLLBACK_REQUESTED"}
GOING_BACK = BY_SOMEBODY | {"ROLLBACK_IN_PROGRESS"}
FAILED = {"STOPPED", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED"}
# The stages in words; those that only begin or end another one are not told.
STAGES = {
    "SCALE_UP": "new tasks start beside the old ones",
    "TEST_TRAFFIC_SHIFT": "test traffic goes to the new tasks",
    "PRODUCTION_TRAFFIC_SHIFT": "traffic goes to the new tasks",
    "BAKE_TIME": "the old tasks stay for the bake time",
    "CLEAN_UP": "the old tasks end",
}


class Stage(Struct, frozen=True, kw_only=True):
    """How far ECS is with a deployment."""

    status: str
    line: str  # for people; empty when there is nothing to tell
    reason: str  # why it was given up; empty while it was not
    at_fault: bool  # an alarm or failing tasks ended it, and not somebody's wish or setting

    @property
    def going_back(self) -> bool:
        """Whether ECS is about to bring the old tasks back by itself."""
        return self.status in GOING_BACK

    @property
    def failed(self) -> bool:
        return self.status in FAILED

    @property
    def done(self) -> bool:
        return self.status == "SUCCESSFUL"


class Stages:
    """Follows the deployment of one task definition through ECS's record of deployments.

    Parameters
    ----------
    ecs
        The service.
    arn
        The task definition.
    progress
        Told once if ECS keeps the record from us.
    """

    def __init__(self, ecs: Service, arn: str, progress: Progress) -> None:
        self.ecs = ecs
        self.arn = arn
        self.progress = progress
        self.available = True
        self.followed: str | None = None  # the deployment that is ours
        self.targets: dict[str, str] = {}  # service revisions' task definitions
        self.stopped = False  # by somebody

    def look(self, service: dict[str, Any]) -> Stage | None:
        """Return how far the deployment is; None where ECS has no record of it."""
        if not self.available:
            return None
        with explained(f"follow the deployment of {self.ecs.cluster}/{self.ecs.name}"):
            try:
                found = self._find(service)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code not in UNKNOWN | DENIED:
                    raise
                self.available = False
                if code in DENIED:
                    self.progress(
                        "ECS tells no stages and reasons: that takes ecs:ListServiceDeployments, "
                        "ecs:DescribeServiceDeployments and ecs:DescribeServiceRevisions"
                    )
                return None
        if found is None:
            return None
        self.stopped |= found["status"] in BY_SOMEBODY
        return _stage(found, self.stopped)

    def _find(self, service: dict[str, Any]) -> dict[str, Any] | None:
        """Our deployment as ECS describes it now."""
        current = self.ecs.current_deployment(service)
        if current is not None and current not in (self.followed, self.ecs.outdated):
            found = self._describe(current)
            # another one for the same task definition leads to the same end: it is followed
            if found is not None and self._target(found) == self.arn:
                self.followed = current
                return found
        return self._describe(self.followed) if self.followed else None

    def _describe(self, arn: str) -> dict[str, Any] | None:
        found: list[Any] = list(
            self.ecs.client.describe_service_deployments(serviceDeploymentArns=[arn])[
                "serviceDeployments"
            ]
        )
        return dict(found[0]) if found else None

    def _target(self, deployment: dict[str, Any]) -> str:
        """The task definition that a deployment leads to."""
        revision = deployment.get("targetServiceRevision", {}).get("arn", "")
        if revision and revision not in self.targets:
            found = self.ecs.client.describe_service_revisions(serviceRevisionArns=[revision])
            for described in found["serviceRevisions"]:
                self.targets[revision] = described.get("taskDefinition", "")
        return self.targets.get(revision, "")


def _stage(deployment: dict[str, Any], stopped: bool) -> Stage:
    status = deployment["status"]
    said = deployment.get("rollback", {}).get("reason") or deployment.get("statusReason") or ""
    said = said.rstrip(".")
    alarms = deployment.get("alarms", {}).get("triggeredAlarmNames", [])
    breaker = deployment.get("deploymentCircuitBreaker", {})
    failed = breaker.get("status") == "TRIGGERED"
    reason = ""
    if status in GOING_BACK | FAILED:
        if alarms:
            reason = f"the alarm {', '.join(alarms)} went off"
        elif failed:
            reason = f"its circuit breaker counted {breaker.get('failureCount', 0)} failed tasks"
        elif stopped:
            reason = "somebody stopped it"
        reason = f"{reason} ({said})" if reason and said else reason or said or status
    return Stage(
        status=status,
        line=f"ECS goes back: {reason}" if status in GOING_BACK else _line(deployment),
        reason=reason,
        at_fault=bool(alarms) or failed,
    )


def _line(deployment: dict[str, Any]) -> str:
    words = STAGES.get(deployment.get("lifecycleStage", ""), "")
    share = deployment.get("targetServiceRevision", {}).get("requestedProductionTrafficWeight")
    return f"{words}, {share:g} % of the traffic by now" if words and share is not None else words
