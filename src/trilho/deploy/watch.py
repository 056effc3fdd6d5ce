"""Watch a deployment of an ECS service until it succeeded, failed or took too long."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
)

from trilho.deploy.ecs import Progress, Service
from trilho.errors import DeploymentError, UnavailableError


class SupersededError(DeploymentError):
    """Somebody else's deployment took the service over while ours was under way."""


def watch(
    ecs: Service,
    arn: str,
    service: dict[str, Any],
    *,
    timeout: float,
    poll: float = 3,
    progress: Progress = lambda _: None,
    before: str | None = None,
) -> None:
    """Wait until the task definition runs alone, in the number that is desired.

    Parameters
    ----------
    arn
        The task definition of the deployment under way.
    service
        The service as it was before, so that older events are not told again.
    timeout
        Seconds until it must run.
    poll
        Seconds between two looks.
    progress
        Called with a line for each change of the counts and each event of the service.
    before
        The task definition that ECS goes back to when the deployment fails.

    Raises
    ------
    DeploymentError
        It failed, with ECS's reason and how the tasks ended; or it took too long.
    SupersededError
        Another deployment took over.
    UnavailableError
        ECS did not answer until the time was over.
    """
    seen = {e["id"] for e in service.get("events", [])}
    line = ""

    def runs_alone() -> bool:
        nonlocal line
        service = ecs.describe()
        for event in reversed(service.get("events", [])):
            if event["id"] not in seen:
                seen.add(event["id"])
                progress(event["message"])
        ours, others, done = _state(service, arn)
        now = f"{ours} of {service['desiredCount']} tasks run {arn.rsplit('/', 1)[-1]}" + (
            f", {others} still run another revision" if others else ""
        )
        if now != line:
            line = now
            progress(now)
        _check(ecs, service, arn, before)
        return done

    try:
        Retrying(
            stop=stop_after_delay(timeout),
            wait=wait_fixed(poll),
            retry=retry_if_result(lambda done: not done)
            | retry_if_exception_type(UnavailableError),
        )(runs_alone)
    except RetryError as error:
        if error.last_attempt.failed:
            error.reraise()
        raise DeploymentError(
            f"{arn.rsplit('/', 1)[-1]} does not run after {timeout:.0f} seconds: {line}."
            f"{ending(ecs, arn)}",
            hint="Look at the service's events and logs, or raise deploy.timeout_minutes.",
        ) from None


def given_up(service: dict[str, Any]) -> bool:
    """Whether ECS stopped trying to start the revision that the service names."""
    return any(
        d["status"] == "PRIMARY" and d.get("rolloutState") == "FAILED"
        for d in service.get("deployments", [])
    )


def _check(ecs: Service, service: dict[str, Any], arn: str, before: str | None) -> None:
    """Raise when the deployment of `arn` failed or is not the service's deployment any more."""
    name = arn.rsplit("/", 1)[-1]
    deployments = service.get("deployments", [])
    primary: dict[str, Any] = next((d for d in deployments if d["status"] == "PRIMARY"), {})
    failed = next(
        (
            d
            for d in deployments
            if d["taskDefinition"] == arn and d.get("rolloutState") == "FAILED"
        ),
        None,
    )
    running = primary.get("taskDefinition", service["taskDefinition"])
    if failed is not None and (failed is primary or running != arn):
        reason = failed.get("rolloutStateReason") or "the deployment failed"
        raise DeploymentError(f"ECS gave {name} up: {reason.rstrip('.')}.{ending(ecs, arn)}")
    if running != arn:
        if running == before:
            raise DeploymentError(
                f"ECS rolled {name} back to {running.rsplit('/', 1)[-1]}.{ending(ecs, arn)}"
            )
        raise SupersededError(
            f"Another deployment took the service over: it now runs "
            f"{running.rsplit('/', 1)[-1]}, not {name}.",
            hint="Let that one end, then run this again.",
        )


def ending(ecs: Service, arn: str) -> str:
    """How the newest task of the revision that failed ended, as a sentence; empty if none did."""
    try:
        tasks = ecs.client.list_tasks(
            cluster=ecs.cluster, serviceName=ecs.name, desiredStatus="STOPPED"
        )["taskArns"]
        if not tasks:
            return ""
        described = ecs.client.describe_tasks(cluster=ecs.cluster, tasks=tasks[:100])["tasks"]
    except (ClientError, BotoCoreError):
        return ""  # a detail of a failure must not hide the failure
    ended = [t for t in described if t.get("taskDefinitionArn") == arn and _crashed(dict(t))]
    if not ended:
        return ""
    task = max(ended, key=lambda t: str(t.get("stoppedAt") or t.get("createdAt") or ""))
    parts = [task.get("stoppedReason", "").rstrip(".")]
    for container in task.get("containers", []):
        if code := container.get("exitCode"):
            parts.append(f"container '{container['name']}' exited with {code}")
        if reason := container.get("reason"):
            parts.append(reason.rstrip("."))
    return f" A task of it ended so: {'; '.join(p for p in parts if p)}."


def _crashed(task: dict[str, Any]) -> bool:
    """Whether a task stopped by its own fault, rather than by the service's wish."""
    codes = [container.get("exitCode") for container in task.get("containers", [])]
    return task.get("stopCode") == "TaskFailedToStart" or any(codes)


def _state(service: dict[str, Any], arn: str) -> tuple[int, int, bool]:
    """Tasks that run the revision, tasks that run another one, and whether the rollout is over."""
    deployments = service.get("deployments", [])
    ours = [d for d in deployments if d["taskDefinition"] == arn and d["status"] == "PRIMARY"]
    others = sum(d["runningCount"] for d in deployments if d not in ours)
    running = sum(d["runningCount"] for d in ours)
    # "COMPLETED" alone is not enough: a first deployment may say so before its tasks run
    completed = bool(ours) and ours[0].get("rolloutState", "COMPLETED") == "COMPLETED"
    done = completed and running == service["desiredCount"] and others == 0
    return running, others, done
