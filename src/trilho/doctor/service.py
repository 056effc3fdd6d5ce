"""The ECS service: whether a bad deployment would be undone, and whether it runs the champion."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from trilho.deploy.revision import MODEL_URI
from trilho.doctor.context import Context
from trilho.doctor.findings import Finding, Unknown, aws, bad, doubt, good
from trilho.errors import UsageError
from trilho.registry import CHAMPION
from trilho.storage.aws import explained

# of the circuit breaker, and of the alarms
BREAKER = {"enable": True, "rollback": True}


def exists(c: Context) -> Finding:
    wanted, service = c.wanted, c.service
    try:
        c.ecs.check(service)
    except UsageError as error:
        return bad(error.message, error.hint)
    return good(f"{wanted.cluster}/{wanted.service}, deployed by ECS itself")


def tasks(c: Context) -> Finding:
    service = c.service
    desired, running = service["desiredCount"], service["runningCount"]
    shown = f"{running} of {desired} tasks run"
    if running == 0:
        return bad(f"{shown}: nobody answers", _events(c))
    if running < desired:
        return doubt(shown, _events(c))
    if desired == 1:
        return doubt(
            f"{shown}: when its zone fails, nobody answers",
            "trilho infra up service --param MinTasks=2",
        )
    return good(shown)


def rollout(c: Context) -> Finding:
    """Whether the last deployment came to its end."""
    found = c.service.get("deployments", [])
    first = next((d for d in found if d["status"] == "PRIMARY"), None)
    state = (first or {}).get("rolloutState", "COMPLETED")
    reason = (first or {}).get("rolloutStateReason") or ""
    if state == "FAILED":
        return bad(f"the last deployment failed: {reason}", "trilho deploy --version champion")
    if state == "IN_PROGRESS":
        return doubt("a deployment is under way: what is said of tasks may change", _events(c))
    return good("the last deployment came to its end")


def circuit_breaker(c: Context) -> Finding:
    settings = c.service.get("deploymentConfiguration", {})
    breaker = settings.get("deploymentCircuitBreaker", {})
    if breaker.get("enable") and breaker.get("rollback"):
        return good("on, with rollback")
    return bad(
        "on, but it does not roll back" if breaker.get("enable") else "off: a bad task is retried",
        deployments_mended(c),
    )


def minimum_healthy(c: Context) -> Finding:
    percent = c.service.get("deploymentConfiguration", {}).get("minimumHealthyPercent", 100)
    if percent >= 100:
        return good(f"{percent} % of the tasks stay while a deployment runs")
    return bad(
        f"only {percent} % of the tasks stay while a deployment runs",
        deployments_mended(c),
    )


def health_check(c: Context) -> Finding:
    """Whether ECS would notice a task that does not answer."""
    if _container(c).get("healthCheck"):
        return good("the container says whether it is well")
    mend = "trilho infra up service  # or add to the container: " + (
        '"healthCheck": {"command": ["CMD", "python", "-m", "trilho.serving.health"]}'
    )
    if c.service.get("loadBalancers"):
        return doubt("only the load balancer asks whether a task is well", mend)
    return bad("nobody asks whether a task is well", mend)


def image(c: Context) -> Finding:
    found = c.revision.image
    if "@sha256:" in found:
        return good(found)
    name = found.rpartition(":")[0] if ":" in found.rpartition("/")[2] else found
    return bad(
        f"{found} is not pinned by digest: what it means may change behind the service's back",
        f"trilho deploy --version {_number(c)} --image {name}@{_digest(c, found)}",
    )


def confinement(c: Context) -> Finding:
    """Whether the container has no more rights than it needs."""
    container = _container(c)
    missing = []
    if not container.get("readonlyRootFilesystem"):
        missing.append("its file system can be written")
    if container.get("user", "").partition(":")[0] in ("", "0", "root"):
        missing.append("it may run as root")
    if container.get("privileged"):
        missing.append("it is privileged")
    drop = container.get("linuxParameters", {}).get("capabilities", {}).get("drop", [])
    if "ALL" not in drop:
        missing.append("it keeps capabilities")
    if missing:
        return doubt(", ".join(missing), "trilho infra up service")
    return good("read-only, not root, no capabilities")


def model(c: Context) -> Finding:
    """Whether the tasks that run serve the champion."""
    alias = c.registry.alias(CHAMPION)
    uri = c.revision.environment.get(MODEL_URI)
    if uri is not None and uri.rstrip("/") != c.registry_url.rstrip("/"):
        return bad(
            f"the tasks read their model from {uri}, not from {c.registry_url}",
            f"trilho deploy --version {_number(c)}",
        )
    serving = _serving(c)
    if not serving:
        raise Unknown("no task runs")
    shown = ", ".join(f"{count} × {digest or 'no model'}" for digest, count in serving.items())
    if alias is None:
        return doubt(f"{shown}, and there is no champion", "trilho deploy --version 1")
    if set(serving) == {alias.digest}:
        return good(f"all tasks serve the champion, v{alias.version}")
    return bad(
        f"the champion is v{alias.version}, {alias.digest}, but these serve: {shown}",
        f"trilho deploy --version {alias.version}",
    )


def address(c: Context) -> Finding:
    url = c.wanted.url
    if not url:
        return bad(
            "the pipeline names no address, so no deployment can be tested",
            "gh variable set TRILHO_SERVICE_URL --body https://...",
        )
    if url.startswith("https://"):
        return good(url)
    return doubt(
        f"{url} is not encrypted: who is on the way reads and writes along",
        "trilho infra up service --param CertificateArn=... --param DomainName=...",
    )


def _serving(c: Context) -> dict[str | None, int]:
    """Digest to the number of tasks that serve it."""
    ecs, wanted = c.ecs.client, c.wanted
    with explained(f"list the tasks of {wanted.cluster}/{wanted.service}"):
        arns = ecs.list_tasks(
            cluster=wanted.cluster, serviceName=wanted.service, desiredStatus="RUNNING"
        )["taskArns"]
        if not arns:
            return {}
        found = ecs.describe_tasks(cluster=wanted.cluster, tasks=arns)["tasks"]
    counts: dict[str | None, int] = {}
    revisions: dict[str, str | None] = {}
    for task in found:
        arn = task["taskDefinitionArn"]
        if arn not in revisions:
            revisions[arn] = c.ecs.revision(arn).digest
        counts[revisions[arn]] = counts.get(revisions[arn], 0) + 1
    return counts


def _container(c: Context) -> dict[str, Any]:
    containers = c.revision.definition["containerDefinitions"]
    return dict(next(d for d in containers if d["name"] == c.revision.container))


def _number(c: Context) -> str:
    """The version to deploy: the champion, or one to fill in."""
    alias = c.registry.alias(CHAMPION)
    return str(alias.version) if alias else "1"


def _digest(c: Context, image: str) -> str:
    """The digest that a tag of ECR has now; one to fill in where that cannot be asked."""
    if ".dkr.ecr." not in image:
        return "sha256:..."
    repository, _, tag = image.partition("/")[2].partition(":")
    try:
        found = c.client("ecr").describe_images(
            repositoryName=repository, imageIds=[{"imageTag": tag or "latest"}]
        )["imageDetails"]
        return str(found[0]["imageDigest"])
    except (ClientError, BotoCoreError, IndexError, KeyError):
        return "sha256:..."


def deployments_mended(c: Context) -> str:
    """The command that sets all that a deployment should hold; ECS replaces it as a whole."""
    wanted = c.wanted
    settings: dict[str, Any] = dict(c.service.get("deploymentConfiguration", {}))
    settings["deploymentCircuitBreaker"] = settings.get("deploymentCircuitBreaker", {}) | BREAKER
    if settings.get("minimumHealthyPercent", 100) < 100:
        settings |= {"minimumHealthyPercent": 100, "maximumPercent": 200}
    if settings.get("alarms", {}).get("alarmNames"):
        settings["alarms"] = settings["alarms"] | BREAKER
    return aws(
        "ecs",
        "update-service",
        cluster=wanted.cluster,
        service=wanted.service,
        deployment_configuration=settings,
    )


def _events(c: Context) -> str:
    wanted = c.wanted
    return aws(
        "ecs",
        "describe-services",
        cluster=wanted.cluster,
        services=wanted.service,
        query="services[0].events[:5].message",
    )
