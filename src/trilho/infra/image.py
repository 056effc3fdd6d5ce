"""The serving image: built once for its inputs, and found again by the tag that names them."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from botocore.exceptions import ClientError
from msgspec import Struct

from trilho.config import Deploy
from trilho.deploy.ecs import NoServiceError, Service
from trilho.errors import UnavailableError, UsageError
from trilho.storage import aws
from trilho.storage.aws import explained

Target = Literal["compiled", "sklearn"]
Architecture = Literal["ARM64", "X86_64"]
# What each stage of the Dockerfile is made of.
INPUTS: dict[Target, tuple[str, ...]] = {
    "compiled": ("Dockerfile", ".dockerignore", "requirements-serve.txt", "src/trilho"),
    "sklearn": ("Dockerfile", ".dockerignore", "requirements.txt", "src"),
}
# ECS's names of processors, and the container engines'.
PLATFORMS: dict[Architecture, str] = {"ARM64": "linux/arm64", "X86_64": "linux/amd64"}
ENGINES = ("docker", "podman")
MINUTES = 30


class Image(Struct, frozen=True, kw_only=True):
    """A serving image in the repository."""

    name: str  # by digest, as a task definition takes it
    tag: str
    built: bool  # False: it was there


def tag_of(folder: Path, target: Target, architecture: Architecture) -> str:
    """Return the tag of the image that the files of a folder make.

    Raises
    ------
    UsageError
        The folder lacks one of the inputs.
    """
    digest = hashlib.sha256()
    for name in INPUTS[target]:
        path = folder / name
        if not path.exists():
            raise UsageError(
                f"{folder} has no {name}, of which the serving image is made.",
                hint="Name the folder of the Dockerfile with --folder.",
            )
        files = [path] if path.is_file() else [f for f in sorted(path.rglob("*")) if _counts(f)]
        for file in files:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return f"{target}-{PLATFORMS[architecture].rpartition('/')[2]}-{digest.hexdigest()}"


def _counts(path: Path) -> bool:
    """Whether a file of the source gets into the image; .dockerignore keeps the others out."""
    made = {"__pycache__"} & set(path.parts) or path.suffix == ".pyc"
    return path.is_file() and not made and not any(p.endswith(".egg-info") for p in path.parts)


def architecture_of(settings: Deploy | None) -> Architecture:
    """Return the processor that the service's tasks run on; the templates' before there is one."""
    if settings is None:
        return "ARM64"
    ecs = Service(settings.cluster, settings.service, settings.container)
    try:
        service = ecs.describe()
    except NoServiceError:
        return "ARM64"
    platform = ecs.revision(service["taskDefinition"]).definition.get("runtimePlatform", {})
    return "ARM64" if platform.get("cpuArchitecture") == "ARM64" else "X86_64"  # ECS's default


def provide(
    repository: str,
    folder: Path,
    target: Target,
    architecture: Architecture,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Image:
    """Return the image of this code, built and pushed first if the repository has none.

    Parameters
    ----------
    repository
        HOST/NAME of an ECR repository with immutable tags.
    folder
        Where the Dockerfile is.
    target
        Its stage: for compiled models, or for those that only scikit-learn can serve.
    architecture
        The processor of the tasks: ARM64 or X86_64.

    Raises
    ------
    UsageError
        No repository, no engine, or inputs that do not build.
    UnavailableError
        The push failed.
    """
    tag = tag_of(folder, target, architecture)
    if found := _find(repository, tag):
        return Image(name=f"{repository}@{found}", tag=tag, built=False)
    engine = next((name for name in ENGINES if shutil.which(name)), None)
    if engine is None:
        raise UsageError(
            f"{repository} has no image {tag}, and there is neither docker nor podman to build it.",
            hint="Run this where one of them is.",
        )
    name = f"{repository}:{tag}"
    platform = PLATFORMS[architecture]
    progress(f"building {name}")
    build = [engine, "build", "--platform", platform, "--target", target, "--tag", name]
    if (said := _run([*build, str(folder)])) is not None:
        raise UsageError(
            f"`{engine} build` failed for {platform}: {said}",
            hint=f"To build for {platform} on another processor takes QEMU; a runner of that "
            "processor, such as ubuntu-24.04-arm, needs none.",
        )
    progress(f"pushing {name}")
    host = repository.partition("/")[0]
    user, password = _login(repository)
    said = _run([engine, "login", "--username", user, "--password-stdin", host], says=password)
    try:
        said = said or _run([engine, "push", name])
    finally:
        _run([engine, "logout", host])
    # asked in any case: somebody else may have pushed the same meanwhile, and the tag is immutable
    if not (found := _find(repository, tag)):
        raise UnavailableError(
            f"`{engine} push` to {repository} failed: {said or 'the image is not there'}"
        )
    return Image(name=f"{repository}@{found}", tag=tag, built=True)


def _find(repository: str, tag: str) -> str | None:
    """The digest of a tag, if the repository has it."""
    with explained(f"look for {repository}:{tag}", needs="ecr:DescribeImages"):
        try:
            images: list[Any] = aws.client("ecr").describe_images(
                repositoryName=repository.partition("/")[2], imageIds=[{"imageTag": tag}]
            )["imageDetails"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ImageNotFoundException":
                return None
            if error.response["Error"]["Code"] == "RepositoryNotFoundException":
                raise UsageError(
                    f"There is no image repository {repository}.",
                    hint="`trilho infra up bootstrap` makes it, and prints its name.",
                ) from None
            raise
    return str(images[0]["imageDigest"]) if images else None


def _login(repository: str) -> tuple[str, str]:
    with explained(f"log in to {repository}", needs="ecr:GetAuthorizationToken"):
        (data,) = aws.client("ecr").get_authorization_token()["authorizationData"]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    return user, password


def _run(command: list[str], *, says: str | None = None) -> str | None:
    """Run an engine; return the end of what it said if it failed."""
    try:
        done = subprocess.run(  # noqa: S603
            command, input=says, capture_output=True, text=True, timeout=MINUTES * 60, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {MINUTES} minutes."
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or f"exit {done.returncode}"
