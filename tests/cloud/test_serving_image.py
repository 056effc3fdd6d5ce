"""`trilho infra image`: one image for one serving code, in MiniStack's ECR."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import boto3
import pytest
from docker_stand_in import Docker
from typer.testing import CliRunner, Result

from trilho.cli import app
from trilho.config import Deploy
from trilho.errors import TrilhoError, UnavailableError, UsageError
from trilho.infra import image as images
from trilho.storage import aws

ROOT = Path(__file__).parents[2]


class Engine(Docker):
    """The stand-in for docker, and a project with a repository."""

    def __init__(self, folder: Path, project: Path, repository: str) -> None:
        super().__init__(folder)
        self.project, self.repository = project, repository

    def provide(self, **more: Any) -> images.Image:
        given: Any = {"target": "compiled", "architecture": "ARM64"} | more
        return images.provide(self.repository, self.project, **given)


@pytest.fixture
def engine(ministack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    project = tmp_path / "project"
    package = project / "src" / "trilho" / "serving"
    package.mkdir(parents=True)
    for name in ("Dockerfile", ".dockerignore", "requirements-serve.txt", "requirements.txt"):
        shutil.copy(ROOT / name, project)
    (package / "app.py").write_text("served = 1\n")
    (project / "src" / "mine.py").write_text("factory = 1\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    name = f"images-{secrets.token_hex(4)}"
    made = aws.client("ecr").create_repository(repositoryName=name, imageTagMutability="IMMUTABLE")
    return Engine(tmp_path / "bin", project, made["repository"]["repositoryUri"])


def test_an_image_is_built_and_pushed_once_and_then_found(engine: Engine) -> None:
    told: list[str] = []
    made = engine.provide(progress=told.append)
    assert made.built
    name = f"{engine.repository}:{made.tag}"
    host = engine.repository.partition("/")[0]
    build, login, push, logout = engine.called
    assert build[0] == [
        *("build", "--platform", "linux/arm64", "--target", "compiled", "--tag", name),
        str(engine.project),
    ]
    assert login[0] == ["login", "--username", "AWS", "--password-stdin", host]
    assert login[1]  # and it stands in no argument
    assert (push[0], logout[0]) == (["push", name], ["logout", host])
    assert told == [f"building {name}", f"pushing {name}"]
    (there,) = aws.client("ecr").describe_images(
        repositoryName=engine.repository.partition("/")[2]
    )["imageDetails"]
    assert there["imageTags"] == [made.tag]
    assert made.name == f"{engine.repository}@{there['imageDigest']}"

    again = engine.provide()
    assert (again.name, again.tag, again.built) == (made.name, made.tag, False)
    assert engine.called == []


def test_the_tag_names_what_the_image_is_made_of_and_nothing_else(engine: Engine) -> None:
    def tags() -> tuple[str, str]:
        return (
            images.tag_of(engine.project, "compiled", "ARM64"),
            images.tag_of(engine.project, "sklearn", "ARM64"),
        )

    first = tags()
    assert first[0].startswith("compiled-arm64-")
    assert first[1].startswith("sklearn-arm64-")
    assert images.tag_of(engine.project, "compiled", "X86_64").startswith("compiled-amd64-")
    assert all(len(tag) <= 128 for tag in first)  # of a tag
    source = engine.project / "src"
    for name in ("trilho/__pycache__/a.cpython-311.pyc", "x.egg-info/PKG-INFO", "trilho/a.pyc"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("left over")
    (engine.project / "pipeline.yaml").write_text("another model")
    assert tags() == first
    for name, changes in (
        ("src/mine.py", (False, True)),
        ("requirements.txt", (False, True)),
        ("requirements-serve.txt", (True, False)),
        ("src/trilho/serving/app.py", (True, True)),
        ("src/trilho/new.py", (True, True)),
        ("Dockerfile", (True, True)),
        (".dockerignore", (True, True)),
    ):
        before = tags()
        with open(engine.project / name, "a") as file:
            file.write("# another\n")
        assert tuple(a != b for a, b in zip(before, tags(), strict=True)) == changes, name
    before = tags()
    (engine.project / "src/trilho/new.py").rename(engine.project / "src/trilho/newer.py")
    assert before[0] != tags()[0]


def test_the_dockerfile_copies_what_the_tag_is_of() -> None:
    copied = {
        line.split()[1]
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
    }
    inputs = {name for names in images.INPUTS.values() for name in names}
    assert inputs == copied | {"Dockerfile", ".dockerignore"}
    ignored = (ROOT / ".dockerignore").read_text()
    assert {"**/__pycache__", "**/*.pyc", "**/*.egg-info"} <= set(ignored.splitlines())


@pytest.mark.parametrize(
    ("operation", "said", "kind", "message"),
    [
        ("build", "exec format error", UsageError, "failed for linux/arm64: exec format error"),
        ("login", "denied", UnavailableError, "failed: denied"),
        ("push", "connection reset", UnavailableError, "failed: connection reset"),
    ],
)
def test_what_fails_is_quoted(
    engine: Engine, operation: str, said: str, kind: type[TrilhoError], message: str
) -> None:
    engine.fails(operation, said)
    with pytest.raises(kind, match=message) as caught:
        engine.provide()
    called = [arguments[0] for arguments, _ in engine.called]
    assert (called[-1] == "logout") == (operation != "build")
    assert operation != "build" or "takes QEMU" in str(caught.value.hint)


def test_somebody_who_pushed_the_same_first_has_done_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, looks = images._find, iter([True])
    made = engine.provide()
    engine.fails("push", "the tag is immutable")
    monkeypatch.setattr(
        images, "_find", lambda *given: None if next(looks, False) else find(*given)
    )
    assert engine.provide() == images.Image(name=made.name, tag=made.tag, built=True)


def test_what_is_missing_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"no image repository .*/nowhere"):
        images.provide(f"{engine.repository}nowhere/nowhere", engine.project, "compiled", "ARM64")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="neither docker nor podman"):
        engine.provide()
    (engine.project / "Dockerfile").unlink()
    with pytest.raises(UsageError, match="has no Dockerfile"):
        engine.provide()


PIPELINE = """\
name: credit
registry: {registry}
data: {{path: none.csv, schema: none.yaml, target: y}}
model: {{factory: a:b}}
deploy: {{cluster: {cluster}, service: credit}}
"""


def test_the_verb_builds_for_the_service_and_the_version(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecs_service import publish

    from trilho.registry import open_registry

    registry = open_registry(str(tmp_path / "registry"))
    publish(registry, tmp_path / "1", 0.3)  # by scikit-learn
    publish(registry, tmp_path / "2", 0.4, serving="compiled")
    (tmp_path / "pipeline.yaml").write_text(
        PIPELINE.format(registry=tmp_path / "registry", cluster=engine.repository[-8:])
    )

    def run(*arguments: str, **environment: str) -> Result:
        given = {
            "TRILHO_IMAGE_REPOSITORY": engine.repository,
            "TRILHO_CONFIG": str(tmp_path / "pipeline.yaml"),
            "GITHUB_OUTPUT": str(tmp_path / "outputs"),
        }
        command = ["infra", "image", "--folder", str(engine.project), *arguments]
        result = CliRunner().invoke(app, command, env=given | environment)
        assert result.exit_code == 0, result.output
        return result

    printed = run(TRILHO_VERSION="2").stdout.strip()
    assert printed.startswith(f"{engine.repository}@sha256:")
    assert f"\n{printed}\n" in (tmp_path / "outputs").read_text()
    assert "compiled-arm64-" in " ".join(engine.called[0][0])
    run("--version", "1", "--architecture", "X86_64")
    assert "sklearn-amd64-" in " ".join(engine.called[0][0])
    assert json.loads(run("--json").stdout)["built"] is False


@pytest.mark.parametrize(
    ("platform", "architecture"),
    [
        ({"cpuArchitecture": "ARM64"}, "ARM64"),
        ({"cpuArchitecture": "X86_64"}, "X86_64"),
        ({}, "X86_64"),
    ],
)
def test_the_processor_is_that_of_the_service(
    ministack: str, platform: dict[str, str], architecture: str
) -> None:
    ecs = boto3.client("ecs")
    name = f"c-{secrets.token_hex(4)}"
    ecs.create_cluster(clusterName=name)
    container = {"name": "model", "image": "i", "memory": 64}
    given: Any = {"runtimePlatform": platform} if platform else {}
    ecs.register_task_definition(family=name, containerDefinitions=[container], **given)
    settings = Deploy(cluster=name, service="credit")
    assert images.architecture_of(settings) == images.architecture_of(None) == "ARM64"
    ecs.create_service(cluster=name, serviceName="credit", taskDefinition=name, desiredCount=0)
    assert images.architecture_of(settings) == architecture
    ecs.delete_service(cluster=name, service="credit", force=True)
