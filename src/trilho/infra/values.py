"""What nobody should have to type: parameters that follow from what is there already."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from trilho.deploy.ecs import Service
from trilho.deploy.revision import MODEL_DIGEST, MODEL_VERSION
from trilho.errors import UsageError
from trilho.infra.stack import Stack, State
from trilho.registry import CHAMPION, Version, open_registry
from trilho.storage import aws
from trilho.storage.aws import explained

ISSUER = "token.actions.githubusercontent.com"
# what `trilho deploy` moves, and no stack may move back
RUNNING = ("Image", "ModelDigest", "ModelVersion")


class Values(Struct, frozen=True):
    """Parameters, and what to tell about those that were found out."""

    values: dict[str, str]
    notes: list[str]


def bootstrap(name: str, given: dict[str, str], state: State | None) -> Values:
    """Return the bootstrap stack's parameters: those given, and those that follow."""
    if given.get("Name", name) != name:
        raise UsageError("Name is given by --name, which names the stacks as well.")
    if state is not None:
        return Values(given, [])
    values = {"Name": name, "Bucket": _bucket_name(name)} | given
    notes = []
    if "CreateBucket" not in values and _exists(values["Bucket"]):
        values["CreateBucket"] = "false"
        notes.append(f"the bucket {values['Bucket']} exists already: it is used as it is")
    if (
        values.get("Identities", "oidc") == "oidc"
        and "CreateOidcProvider" not in values
        and _knows_github()
    ):
        values["CreateOidcProvider"] = "false"
        notes.append(f"the account knows {ISSUER} already")
    return Values(values, notes)


def service(name: str, given: dict[str, str], state: State | None) -> Values:
    """Return the service stack's parameters: those given, and those that follow.

    A new service begins with the champion, else with the newest version that is not quarantined,
    in the newest image of the repository.
    """
    if state is not None:
        if moved := [key for key in RUNNING if key in given]:
            raise UsageError(
                f"{moved[0]} of a running service is not moved by its stack.",
                hint="Run `trilho deploy --version N`, with --image for another image: it tests "
                "what it deploys, and goes back when it fails.",
            )
        return Values(given, [])
    base = Stack(given.get("Bootstrap", f"{name}-bootstrap"))
    found = base.state()
    if found is None or "Registry" not in found.outputs:
        raise UsageError(
            f"There is no stack {base.name} that the service could be built on.",
            hint="Run `trilho infra up bootstrap` first.",
        )
    values = {"Bootstrap": base.name} | given
    notes = []
    if "ModelDigest" not in values:
        version = _first_version(found.outputs["Registry"])
        values |= {"ModelDigest": version.digest, "ModelVersion": str(version.number)}
        notes.append(f"it begins with version {version.number}, {version.digest}")
    if "Image" not in values:
        values["Image"] = newest_image(found.outputs["RepositoryUri"])
        notes.append(f"it runs the image pushed last, {values['Image']}")
    return Values(values, notes)


def running(state: State) -> dict[str, str]:
    """Return image and model that the service runs now, where they are not the stack's own."""
    cluster, name = state.outputs["Cluster"], state.outputs["Service"]
    ecs = Service(cluster, name, "model")
    revision = ecs.revision(ecs.describe()["taskDefinition"])
    environment = revision.environment
    now = {
        "Image": revision.image,
        "ModelDigest": environment.get(MODEL_DIGEST, ""),
        "ModelVersion": environment.get(MODEL_VERSION, ""),
    }
    return {} if all(state.parameters.get(key) == now[key] for key in now) else now


def newest_image(repository: str) -> str:
    """Return the tagged image that was pushed last, by digest.

    Raises
    ------
    UsageError
        The repository has none.
    """
    name = repository.partition("/")[2]
    with explained(f"list the images of {repository}", needs="ecr:DescribeImages"):
        pages = aws.client("ecr").get_paginator("describe_images").paginate(repositoryName=name)
        images: list[dict[str, Any]] = [
            image for page in pages for image in page["imageDetails"] if image.get("imageTags")
        ]
    if not images:
        raise UsageError(
            f"The image repository {repository} is empty.",
            hint="Build and push the serving image first: docs/setup-aws.md, step 3.",
        )
    return f"{repository}@{max(images, key=lambda i: i['imagePushedAt'])['imageDigest']}"


def _first_version(url: str) -> Version:
    registry = open_registry(url)
    if champion := registry.alias(CHAMPION):
        return registry.version(champion.version)
    for version in reversed(registry.versions()):
        if registry.quarantined(version.digest) is None:
            return version
    raise UsageError(
        f"The registry {url} has no version that the service could begin with.",
        hint=f"Make one: `TRILHO_REGISTRY={url} trilho retrain`, then `trilho publish`.",
    )


def _bucket_name(name: str) -> str:
    with explained("ask whose account this is", needs="sts:GetCallerIdentity"):
        sts = aws.client("sts")
        return f"{name}-{sts.get_caller_identity()['Account']}-{sts.meta.region_name}"


def _exists(bucket: str) -> bool:
    from botocore.exceptions import ClientError

    with explained(f"look for the bucket {bucket}", needs="s3:ListBucket on the bucket"):
        try:
            aws.client("s3").head_bucket(Bucket=bucket)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 404:
                return False
            if status in (301, 403):
                raise UsageError(
                    f"The bucket name {bucket} is taken, by another account or in another region.",
                    hint="Choose one with --param Bucket=NAME.",
                ) from None
            raise
    return True


def _knows_github() -> bool:
    with explained("list the OIDC providers", needs="iam:ListOpenIDConnectProviders"):
        found = aws.client("iam").list_open_id_connect_providers()["OpenIDConnectProviderList"]
    return any(provider["Arn"].endswith(f"/{ISSUER}") for provider in found)
