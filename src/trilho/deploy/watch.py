"""Watch a deployment of an ECS service until it succeeded, failed or took too long."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    wait_fixed,
)

from trilho.deploy import strategy
from trilho.deploy.ecs import Progress, Service
from trilho.deploy.stages import Stage, Stages
from trilho.errors import DeploymentError, UnavailableError


class SupersededError(DeploymentError):
    """Somebody else's deployment took the service over while ours was under way."""


class StoppedError(SupersededError):
    """Somebody stopped our deployment, or it met a fault that is not the version's."""


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
        Seconds until it must run; what the strategy waits on purpose comes on top.
    poll
        Seconds between two looks.
    progress
        Called with a line for each change of stage or counts, and each event of the service.
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
    stages = Stages(ecs, arn, progress)
    told: dict[str, str] = {}
    waiting = 0.0

    def tell(what: str, line: str) -> None:
        if line and told.get(what) != line:
            told[what] = line
            progress(line)

    def runs_alone() -> bool:
        nonlocal waiting
        service = ecs.describe()
        settings = service.get("deploymentConfiguration", {})
        waiting = strategy.waiting_minutes(settings) * 60
        for event in reversed(service.get("events", [])):
            if event["id"] not in seen:
                seen.add(event["id"])
                progress(event["message"])
        stage = stages.look(service)
        if stage is not None:
            tell("strategy", strategy.in_words(settings) if strategy.shifts(settings) else "")
            tell("stage", stage.line)
        tell("tasks", _counts(service, arn))
        if stage is not None and stage.failed:
            raise _given_up(ecs, service, arn, before, stage)
        if stage is not None and stage.going_back:
            return False  # until the old tasks are back, it is ECS's turn
        _check(ecs, service, arn, before)
        return _done(service, arn) and (stage is None or stage.done)

    def too_late(state: RetryCallState) -> bool:
        return (state.seconds_since_start or 0) >= timeout + waiting

    try:
        Retrying(
            stop=too_late,
            wait=wait_fixed(poll),
            retry=retry_if_result(lambda done: not done)
            | retry_if_exception_type(UnavailableError),
        )(runs_alone)
    except RetryError as error:
        if error.last_attempt.failed:
            error.reraise()
        last = "; ".join(told[what] for what in ("stage", "tasks") if what in told)
        raise DeploymentError(
            f"{arn.rsplit('/', 1)[-1]} does not run after {timeout + waiting:.0f} seconds: {last}."
            f"{ending(ecs, arn)}",
            hint="Look at the service's events and logs, or raise deploy.timeout_minutes.",
        ) from None


def given_up(service: dict[str, Any]) -> bool:
    """Whether ECS stopped trying to start the revision that the service names."""
    return any(
        d["status"] == "PRIMARY" and d.get("rolloutState") == "FAILED"
        for d in service.get("deployments", [])
    )


def _given_up(
    ecs: Service, service: dict[str, Any], arn: str, before: str | None, stage: Stage
) -> DeploymentError:
    """The error for a deployment that ECS ended without success."""
    name = arn.rsplit("/", 1)[-1]
    if stage.status == "STOPPED" and service["taskDefinition"] not in (arn, before):
        return _superseded(service["taskDefinition"], name)
    how = {
        "STOPPED": f"ECS stopped the deployment of {name}",
        "ROLLBACK_FAILED": f"ECS gave {name} up and could not go back",
    }.get(stage.status, f"ECS rolled {name} back")
    ended = ending(ecs, arn)
    kind = DeploymentError if stage.at_fault or ended else StoppedError
    return kind(f"{how}: {stage.reason}.{ended}")


def _superseded(running: str, name: str) -> SupersededError:
    return SupersededError(
        f"Another deployment took the service over: it now runs "
        f"{running.rsplit('/', 1)[-1]}, not {name}.",
        hint="Let that one end, then run this again.",
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
        raise _superseded(running, name)


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


def _counts(service: dict[str, Any], arn: str) -> str:
    """How many tasks run which revision, and how many could not."""
    ours, others = _split(service, arn)
    running = sum(d["runningCount"] for d in ours)
    failed = sum(d.get("failedTasks", 0) for d in ours)
    rest = sum(d["runningCount"] for d in others)
    return (
        f"{running} of {service['desiredCount']} tasks run {arn.rsplit('/', 1)[-1]}"
        + (f", {failed} failed to" if failed else "")
        + (f", {rest} still run another revision" if rest else "")
    )


def _done(service: dict[str, Any], arn: str) -> bool:
    """Whether the rollout of a revision is over, and it runs alone."""
    ours, others = _split(service, arn)
    running = sum(d["runningCount"] for d in ours)
    # "COMPLETED" alone is not enough: a first deployment may say so before its tasks run
    completed = bool(ours) and ours[0].get("rolloutState", "COMPLETED") == "COMPLETED"
    alone = not any(d["runningCount"] for d in others)
    return completed and running == service["desiredCount"] and alone


def _split(service: dict[str, Any], arn: str) -> tuple[list[Any], list[Any]]:
    """The deployment of a revision, and all others that still have tasks or wait for some."""
    deployments = service.get("deployments", [])
    ours = [d for d in deployments if d["taskDefinition"] == arn and d["status"] == "PRIMARY"]
    return ours, [d for d in deployments if d not in ours]
