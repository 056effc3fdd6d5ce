"""What the checks look at, each thing asked for once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

from trilho.config import Deploy
from trilho.deploy.ecs import Service
from trilho.deploy.revision import Revision
from trilho.doctor.findings import Unknown
from trilho.errors import TrilhoError
from trilho.github.api import Api
from trilho.registry import Registry, open_registry
from trilho.storage import aws
from trilho.storage.aws import explained

Identity = Literal["pull-request", "deploy", "observer"]
T = TypeVar("T")


def _quietly(_: str) -> None:
    pass


@dataclass(frozen=True)
class Caller:
    """Whose credentials these are."""

    arn: str
    account: str
    region: str

    @property
    def partition(self) -> str:
        return self.arn.split(":")[1]

    @property
    def kind(self) -> str:
        """`root`, `user`, `assumed-role`, ..."""
        return self.arn.split(":")[5].partition("/")[0]

    @property
    def name(self) -> str:
        """Of the user or the role, without its path."""
        parts = self.arn.split(":")[5].split("/")
        return parts[1] if self.kind == "assumed-role" else parts[-1]

    @property
    def principal(self) -> str | None:
        """The user or role that policies are attached to, as IAM names it."""
        if self.kind == "assumed-role":
            return f"arn:{self.partition}:iam::{self.account}:role/{self.name}"
        return self.arn if self.kind == "user" else None


@dataclass
class Context:
    """One examination: what is examined, and what was found out on the way.

    Parameters
    ----------
    registry_url
        Where models live.
    deploy
        The service, where the pipeline names one.
    deep
        Whether to read every stored file and compare its content.
    identity
        Which of the identities these credentials are; None goes by the name of the caller, as
        infra/bootstrap.yaml gives names.
    environment
        The GitHub environment that deploys.
    folder
        The project's.
    today
        For the age of keys and versions.
    tell
        Takes a line of progress.
    """

    registry_url: str
    deploy: Deploy | None = None
    deep: bool = False
    identity: Identity | None = None
    environment: str = "production"
    folder: Path = Path()
    today: datetime = field(default_factory=lambda: datetime.now(UTC))
    tell: Callable[[str], None] = _quietly
    unmet: set[str] = field(default_factory=set)  # checks that came to no answer
    _known: dict[str, Any] = field(default_factory=dict)

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Return what `make` makes; made once, and a failure is not repeated either."""
        if key not in self._known:
            try:
                self._known[key] = make()
            except (TrilhoError, Unknown) as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, TrilhoError | Unknown):
            raise found
        return cast(T, found)

    def client(self, service: str) -> Any:
        return self.once(f"client {service}", lambda: aws.client(service))

    @property
    def bucket(self) -> str | None:
        """The registry's bucket; None where it is a folder."""
        parts = urlsplit(self.registry_url)
        return parts.netloc if parts.scheme == "s3" else None

    @property
    def prefix(self) -> str:
        """What the registry's keys begin with in the bucket, without a slash at the end."""
        return urlsplit(self.registry_url).path.strip("/")

    @property
    def caller(self) -> Caller:
        def ask() -> Caller:
            with explained("ask whose credentials these are"):
                sts = self.client("sts")
                found = sts.get_caller_identity()
            return Caller(found["Arn"], found["Account"], sts.meta.region_name)

        return self.once("caller", ask)

    @property
    def acts_as(self) -> Identity:
        """The identity, told or known by its name; who is neither may deploy, or should."""
        if self.identity is not None:
            return self.identity
        return "pull-request" if self.caller.name.endswith("-pull-request") else "deploy"

    @property
    def registry(self) -> Registry:
        return self.once("registry", lambda: open_registry(self.registry_url))

    @property
    def ecs(self) -> Service:
        wanted = self.wanted
        return self.once(
            "ecs",
            lambda: Service(
                wanted.cluster, wanted.service, wanted.container, strategy=wanted.strategy
            ),
        )

    @property
    def wanted(self) -> Deploy:
        """The service that the pipeline names."""
        if self.deploy is None:
            raise Unknown("the pipeline has no 'deploy' section")
        return self.deploy

    @property
    def service(self) -> dict[str, Any]:
        """The service as ECS describes it."""
        return self.once("service", lambda: self.ecs.describe())

    @property
    def revision(self) -> Revision:
        """The task definition that the service is told to run."""
        return self.once("revision", lambda: self.ecs.revision(self.service["taskDefinition"]))

    @property
    def github(self) -> Api:
        """GitHub's API, if there are a repository and a token."""

        def connect() -> Api:
            env = os.environ
            repository = env.get("GITHUB_REPOSITORY", "")
            if not repository:
                raise Unknown(
                    "GITHUB_REPOSITORY is not set, so it is not clear which repository is meant",
                    "export GITHUB_REPOSITORY=$(gh repo view --json nameWithOwner "
                    "--jq .nameWithOwner)",
                )
            token = (env.get("GITHUB_TOKEN") or env.get("GH_TOKEN") or "").strip()
            if not token:
                raise Unknown(
                    "neither GITHUB_TOKEN nor GH_TOKEN is set", "export GH_TOKEN=$(gh auth token)"
                )
            return Api(env.get("GITHUB_API_URL") or "https://api.github.com", repository, token)

        return self.once("github", connect)
