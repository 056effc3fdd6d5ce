"""docs/setup-aws.md, line by line: from an empty account to the first deployment, and back."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ecs_service
import pandas as pd
import pytest
import templates
from ecs_service import answering

from trilho.demo import ministack
from trilho.registry import CHAMPION, open_registry

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/setup-aws.md").read_text(), re.M | re.S)

# GitHub's variables and environments as files; the service's address is one that answers here.
GH = """#!/bin/sh
echo "gh $*" >> "$STATE/calls"
case "$1 $2" in
  "repo view") echo acme/models ;;
  "api repos/acme/models/actions/oidc/customization/sub") echo repo:acme@1/models@2 ;;
  "api --method") ;;
  "variable set") [ "$4" = --env ] && echo "$7" > "$STATE/$5.$3" || echo "$5" > "$STATE/$3" ;;
  "variable get")
    if [ "$3" = TRILHO_SERVICE_URL ]; then echo "$ANSWERS_AT"; else cat "$STATE/$3"; fi ;;
  *) echo "gh $*: not expected" >&2; exit 1 ;;
esac
"""
# The image is not built here; its push is one that the image repository knows of.
DOCKER = """#!/bin/sh
echo "docker $*" >> "$STATE/calls"
case "$1" in
  login) [ -n "$(cat)" ] ;;
  push) python "$STATE/push.py" "$2" ;;
esac
"""
PUSH = """
import json, sys
import boto3
repository, tag = sys.argv[1].rpartition("/")[2].split(":")
config = {"digest": "sha256:" + "0" * 64, "size": 2, "mediaType": "application/json"}
manifest = {"schemaVersion": 2, "config": config, "layers": []}
manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
boto3.client("ecr").put_image(
    repositoryName=repository, imageTag=tag, imageManifest=json.dumps(manifest)
)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the repository: fewer rows, templates as the embedded AWS takes them."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "data_schemas", project / "data_schemas")
    for name in ("pipeline.yaml", "Dockerfile", ".dockerignore", "requirements-serve.txt"):
        shutil.copy(ROOT / name, project)
    (project / "src" / "trilho").mkdir(parents=True)
    rows = pd.read_csv(ROOT / "data/credit_default.csv")
    (project / "data").mkdir()
    rows.sample(6000, random_state=1).to_csv(project / "data/credit_default.csv", index=False)
    for kind in templates.KINDS:
        templates.write(project / "infra", kind, templates.for_ministack(kind))
    state = tmp_path / "state"
    state.mkdir()
    (state / "push.py").write_text(PUSH)
    for name, text in (("gh", GH), ("docker", DOCKER)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return project


@contextmanager
def somebody_who_agrees() -> Iterator[int]:
    """A terminal at which each question is answered with yes."""
    ours, theirs = pty.openpty()
    settings = termios.tcgetattr(theirs)
    settings[3] &= ~termios.ECHO  # nobody reads what it would show
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    done = threading.Event()

    def answer() -> None:
        while not done.wait(0.2):
            os.write(ours, b"y\n")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield theirs
    finally:
        done.set()
        thread.join()
        os.close(ours)
        os.close(theirs)


def test_the_commands_lead_from_an_empty_account_to_a_deployment_and_back(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecs_service, "CLUSTER", "trilho")
    monkeypatch.setattr(ecs_service, "SERVICE", "credit-default")
    assert len(BLOCKS) == 7
    state = tmp_path / "state"
    server = ministack.start(
        tmp_path / "cloud", environment={"DOCKER_HOST": f"unix://{tmp_path}/none"}
    )
    try:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "GITHUB_ACTIONS"):
            monkeypatch.delenv(name, raising=False)
        registry = open_registry("s3://trilho-000000000000-us-east-1/registry")
        with answering(registry) as answers, somebody_who_agrees() as terminal:
            environment = os.environ | {
                "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                "STATE": str(state),
                "ANSWERS_AT": answers.url,
                "TRILHO_SET": "data.checks.min_rows=1000\nevaluation.resamples=200",
                "TRILHO_ALLOW_HOLD": "true",  # so few rows may not decide it
            }
            *up, down = BLOCKS
            run("".join(up), place, environment, terminal)
            assert (state / "AWS_ROLE_ARN").read_text().strip().endswith("role/trilho-pull-request")
            deploys = state / "production.AWS_ROLE_ARN"
            assert deploys.read_text().strip().endswith("role/trilho-deploy")
            champion = registry.alias(CHAMPION)
            assert champion is not None
            assert champion.version == 1
            assert answers.digest() == champion.digest
            assert registry.history()[0].reason == "the first version"
            run(down, place, environment, terminal)
            assert registry.version(1).digest == champion.digest
    finally:
        server.stop()
    called = (state / "calls").read_text()
    assert "gh api --method PUT repos/acme/models/environments/production" in called
    assert "docker build --platform linux/arm64 --target compiled" in called


def run(script: str, folder: Path, environment: dict[str, str], terminal: int) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
