"""One ECS service: read it, revise its task definition, roll it over."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from trilho.config import Strategy
from trilho.deploy import strategy as strategies
from trilho.deploy.revision import Model, Revision
from trilho.errors import UsageError, nearest
from trilho.storage.aws import explained, session

if TYPE_CHECKING:
    from botocore.model import Shape
    from mypy_boto3_ecs.client import ECSClient

Progress = Callable[[str], None]
"""Takes one line of progress."""

# What ECS answers to a strategy that it does not know, or not for this service.
REFUSALS = {"InvalidParameterException", "ClientException", "UnsupportedFeatureException"}


class NoServiceError(UsageError):
    """Cluster or service does not exist."""


class Service:
    """The ECS service that runs the model.

    Parameters
    ----------
    cluster, name
        The service and its cluster, by name.
    container
        The container that serves; needed where the task definition has several.
    client
        A boto3 ECS client; one with adaptive retries is made when left out.
    strategy
        How deployments move the traffic; as the service's own settings say when left out.
    """

    def __init__(
        self,
        cluster: str,
        name: str,
        container: str | None = None,
        client: ECSClient | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        self.cluster = cluster
        self.name = name
        self.container = container
        self.client = client or connect()
        self.strategy = strategy
        self.outdated: str | None = None  # the service deployment before the one we started

    def describe(self) -> dict[str, Any]:
        """Return the service as ECS describes it now.

        Raises
        ------
        NoServiceError
            Cluster or service does not exist.
        """
        with self._explained("DescribeServices"):
            try:
                found = self.client.describe_services(cluster=self.cluster, services=[self.name])
            except self.client.exceptions.ClusterNotFoundException:
                raise NoServiceError(
                    f"ECS cluster '{self.cluster}' does not exist{self._others('cluster')}",
                    hint="Set deploy.cluster in pipeline.yaml, or AWS_REGION.",
                ) from None
        service = next((s for s in found["services"] if s.get("status") == "ACTIVE"), None)
        if service is None:
            raise NoServiceError(
                f"ECS cluster '{self.cluster}' has no service '{self.name}'"
                f"{self._others('service')}",
                hint="Set deploy.service in pipeline.yaml, or create the service first.",
            )
        return dict(service)

    def check(self, service: dict[str, Any], *, at_once: bool = False) -> None:
        """Refuse a service that a deployment cannot succeed on.

        What shifting traffic takes is not asked for where it is only to go back, `at_once`.

        Raises
        ------
        UsageError
            Saying which setting of the service is in the way.
        """
        where = f"ECS service '{self.cluster}/{self.name}'"
        controller = service.get("deploymentController", {}).get("type", "ECS")
        if controller != "ECS":
            raise UsageError(
                f"{where} is deployed by {controller}, not by ECS itself.",
                hint="Create the service with the deployment controller ECS.",
            )
        if service["desiredCount"] == 0:
            raise UsageError(
                f"{where} has a desired count of 0: nothing would run, so nothing can be tested.",
                hint=f"Run `aws ecs update-service --cluster {self.cluster} "
                f"--service {self.name} --desired-count 1`.",
            )
        if self.strategy is not None and self.strategy.method != "rolling" and not at_once:
            self._check_shifting(self.strategy.method, service)

    def _check_shifting(self, method: str, service: dict[str, Any]) -> None:
        known: Any = self._members("UpdateService")["deploymentConfiguration"]
        names: Any = known.members.get("strategy")
        if names is None or strategies.NAMES[method] not in names.enum:
            raise UsageError(
                f"The installed boto3 does not know ECS's deployment strategy '{method}'.",
                hint="Upgrade it: `pip install --upgrade boto3`.",
            )
        if lack := strategies.missing(service):
            raise UsageError(
                f"ECS service '{self.cluster}/{self.name}' cannot be deployed to by the strategy "
                f"'{method}': {lack}.",
                hint="Run `trilho infra up service --param TrafficShifting=true`, or see "
                "docs/deployment.md for what a service of your own needs; "
                "deploy.strategy.method rolling needs nothing.",
            )

    def revision(self, arn: str) -> Revision:
        """Return a task definition as it can be registered again, tags included."""
        with self._explained("DescribeTaskDefinition"):
            found: dict[str, Any] = dict(
                self.client.describe_task_definition(taskDefinition=arn, include=["TAGS"])
            )
        # Copied by ECS's own list of what can be registered: nothing is lost that we never
        # heard of, and nothing is sent that only a description has (revision, status, ...).
        members = self._members("RegisterTaskDefinition")
        definition = {
            key: value
            for key, value in found["taskDefinition"].items()
            if key in members and value not in (None, "")
        }
        # AWS sets tags of its own (CloudFormation's, for one) and takes them from nobody else
        tags = [t for t in found.get("tags", []) if not t["key"].lower().startswith("aws:")]
        if tags:
            definition["tags"] = tags
        return Revision(
            arn=found["taskDefinition"]["taskDefinitionArn"],
            definition=definition,
            container=self._serving(definition),
        )

    def find(self, family: str, digest: str, look_back: int = 20) -> Revision | None:
        """Return the latest revision of the family that serves the digest, if one is recent."""
        with self._explained("ListTaskDefinitions"):
            arns = self.client.list_task_definitions(
                familyPrefix=family, status="ACTIVE", sort="DESC", maxResults=look_back
            )["taskDefinitionArns"]
        for arn in arns:
            if arn.rsplit("/", 1)[-1].rsplit(":", 1)[0] == family:  # it is a prefix, to ECS
                revision = self.revision(arn)
                if revision.digest == digest:
                    return revision
        return None

    def register(self, revision: Revision, model: Model, image: str | None = None) -> Revision:
        """Register a revision that differs in the model's values only (and the image, if given)."""
        with self._explained("RegisterTaskDefinition"):
            made = self.client.register_task_definition(**revision.revised(model, image))
        return self.revision(made["taskDefinition"]["taskDefinitionArn"])

    def update(self, arn: str, service: dict[str, Any], *, at_once: bool = False) -> None:
        """Start a deployment of a task definition, with the circuit breaker's rollback on.

        Parameters
        ----------
        arn
            The task definition.
        service
            The service as described; its deployment settings are kept where the strategy says
            nothing of them.
        at_once
            To go back: without the steps and the waiting of the strategy.

        Raises
        ------
        UsageError
            ECS does not take the strategy.
        """
        known: Any = self._members("UpdateService")["deploymentConfiguration"]
        own = {
            key: value
            for key, value in service.get("deploymentConfiguration", {}).items()
            if key in known.members
        }
        # to go back, a service without what the strategy takes does as its own settings say
        wanted = None if at_once and strategies.missing(service) else self.strategy
        settings = strategies.configuration(wanted, own, at_once=at_once)
        with suppress(
            ClientError, BotoCoreError
        ):  # an ECS that has no record of deployments, or keeps it from us
            self.outdated = self.current_deployment(service)
        with self._explained("UpdateService"):
            try:
                answer = self.client.update_service(
                    cluster=self.cluster,
                    service=self.name,
                    taskDefinition=arn,
                    forceNewDeployment=True,  # even where a killed run left this revision failed
                    deploymentConfiguration=settings,  # type: ignore[arg-type]
                )
            except ClientError as error:
                if self.strategy is None or error.response["Error"]["Code"] not in REFUSALS:
                    raise
                raise self._refused(error.response["Error"].get("Message", "")) from None
        taken: Any = answer["service"].get("deploymentConfiguration", {})
        if not at_once and strategies.shifts(settings) and not strategies.shifts(taken):
            raise self._refused("it took the deployment, but not the strategy")

    def current_deployment(self, service: dict[str, Any]) -> str | None:
        """Return the service deployment that began last, if ECS has a record of it."""
        if current := service.get("currentServiceDeployment"):
            return str(current)
        found = self.client.list_service_deployments(cluster=self.cluster, service=self.name)
        last: Any = max(
            found["serviceDeployments"], key=lambda d: str(d.get("createdAt", "")), default={}
        )
        return last.get("serviceDeploymentArn")  # type: ignore[no-any-return]

    def _refused(self, said: str) -> UsageError:
        method = self.strategy.method if self.strategy else "of its own"
        return UsageError(
            f"ECS refuses a deployment by the strategy '{method}' to "
            f"'{self.cluster}/{self.name}': "
            f"{said.rstrip('.')}.",
            hint="Where ECS of this region or account is too old for it, set "
            "deploy.strategy.method to rolling; docs/deployment.md says what each one needs.",
        )

    def _explained(self, operation: str) -> AbstractContextManager[None]:
        return explained(
            f"{operation} for the ECS service {self.cluster}/{self.name}", needs=f"ecs:{operation}"
        )

    def _serving(self, definition: dict[str, Any]) -> str:
        names = [c["name"] for c in definition["containerDefinitions"]]
        if self.container is None and len(names) == 1:
            return str(names[0])
        if self.container in names:
            return str(self.container)
        listed = ", ".join(names)
        if self.container is None:
            raise UsageError(
                f"The task definition of '{self.cluster}/{self.name}' has several containers: "
                f"{listed}.",
                hint="Set deploy.container in pipeline.yaml to the one that serves the model.",
            )
        raise UsageError(
            f"The task definition of '{self.cluster}/{self.name}' has no container "
            f"'{self.container}'{nearest(self.container, names)}; it has {listed}.",
            hint="Set deploy.container in pipeline.yaml.",
        )

    def _members(self, operation: str) -> dict[str, Shape]:
        shape = self.client.meta.service_model.operation_model(operation).input_shape
        return dict(getattr(shape, "members", {}))

    def _others(self, kind: str) -> str:
        """Name what exists instead, where that may be listed."""
        try:
            if kind == "cluster":
                arns = self.client.list_clusters()["clusterArns"]
            else:
                arns = self.client.list_services(cluster=self.cluster, maxResults=100)[
                    "serviceArns"
                ]
        except (ClientError, BotoCoreError):
            return "."
        names = sorted(arn.rsplit("/", 1)[-1] for arn in arns)
        if not names:
            return f"; there is no {kind} at all in {self.client.meta.region_name}."
        wanted = self.cluster if kind == "cluster" else self.name
        return f"; there is {', '.join(names)}{nearest(wanted, names)}" + (
            "" if nearest(wanted, names) else "."
        )


def connect() -> ECSClient:
    """Return an ECS client that slows down when it is throttled.

    Raises
    ------
    UsageError
        No region, or a profile that does not exist.
    """
    with explained("prepare the AWS client for ecs"):
        return session().client(
            "ecs",
            config=Config(
                retries={"mode": "adaptive", "max_attempts": 8},
                connect_timeout=10,
                read_timeout=30,
            ),
        )
