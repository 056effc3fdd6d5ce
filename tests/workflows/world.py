"""A project on GitHub and AWS, in small: its repository, GitHub's API, a bucket, an ECS service.

The project is this repository with fewer rows and fewer resamples, so that a run takes seconds.
"""

from __future__ import annotations

import itertools
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from ecs_service import CLUSTER, SERVICE, Answers, answering
from github_api import GitHub, github_api
from rail import ROOT, Repository, Run, Runner, copy_tree, prepare

from trilho.demo import ministack
from trilho.registry import CHAMPION, Registry, open_registry

NAME = "octo/credit"
BUCKET = "models"
REGISTRY = f"s3://{BUCKET}/registry"
ROWS = 4000
KEYS = {"AWS_ACCESS_KEY_ID": "key-of-pull-requests", "AWS_SECRET_ACCESS_KEY": "secret-of-the-key"}
# The text of a model: parameters of the factory, as they stand in pipeline.yaml.
PLAIN = "params: {max_iter: 30, max_leaf_nodes: 6}"
BETTER = "params: {max_iter: 40, max_leaf_nodes: 8}"
BEST = "params: {max_iter: 50, max_leaf_nodes: 8}"
WORTHLESS = "params: {max_iter: 1, max_leaf_nodes: 2}"

VERBS = """
import sys
from trilho.cli import main
for verb in sys.argv[1:]:
    sys.argv = ["trilho", verb]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""

PROJECT_TEST = '''
"""The project's own tests, as model-ci runs them."""

import os

import credit_default


def test_the_project_is_importable_and_sees_no_credentials():
    assert credit_default
    seen = [name for name in os.environ if name.startswith("AWS_") and "KEY" in name]
    assert not seen
    assert "AWS_SESSION_TOKEN" not in os.environ
    assert "GITHUB_TOKEN" not in os.environ
'''


class World:
    """The project, where it runs, and what a person can do with it."""

    def __init__(
        self,
        repository: Repository,
        runner: Runner,
        github: GitHub,
        aws_url: str,
        answers: Answers,
    ) -> None:
        self.repository = repository
        self.runner = runner
        self.github = github
        self.answers = answers
        self.registry: Registry = open_registry(REGISTRY)
        self.secrets = {**KEYS, "GITHUB_TOKEN": github.token}
        self.variables = {
            "TRILHO_REGISTRY": REGISTRY,
            "TRILHO_CLUSTER": CLUSTER,
            "TRILHO_SERVICE": SERVICE,
            "TRILHO_SERVICE_URL": answers.url,
            "AWS_REGION": ministack.REGION,
            "TRILHO_ATTEST": "true",
        }
        self.environment = {
            "AWS_ENDPOINT_URL": aws_url,
            "GITHUB_API_URL": github.url,
            "GITHUB_SERVER_URL": github.server_url,
        }
        self._numbers = itertools.count(1)

    # ---- what people and the clock do

    def open_pull_request(self, branch: str | None = None, **given: Any) -> tuple[int, Run]:
        """Open a pull request of the branch that is checked out."""
        number = next(self._numbers)
        return number, self.push_again(number, action="opened", **given)

    def push_again(
        self, number: int, *, action: str = "synchronize", fork: str | None = None, **given: Any
    ) -> Run:
        """Run what GitHub runs when a commit is pushed to a pull request's branch."""
        head_repository = fork or self.repository.name
        branch, sha = self.repository.branch, self.repository.head
        self.github.pull(number, head_repository, branch, sha)
        owner = head_repository.partition("/")[0]
        pull = {
            "number": number,
            "head": {
                "ref": branch,
                "sha": sha,
                "label": f"{owner}:{branch}",
                "repo": {"full_name": head_repository, "owner": {"login": owner}},
            },
            "base": {
                "ref": "main",
                "sha": self.repository.git("rev-parse", "main"),
                "repo": {"full_name": self.repository.name},
            },
        }
        payload = {"action": action, "number": number, "pull_request": pull}
        workflow = given.pop("workflow", "pull-request.yml")
        return self.run(workflow, "pull_request", payload, **given)

    def push(self, **given: Any) -> Run:
        """Push main as it is checked out."""
        sha = self.repository.head
        self.github.heads["main"] = sha
        payload = {"ref": "refs/heads/main", "after": sha, "head_commit": {"id": sha}}
        return self.run("deploy.yml", "push", payload, **given)

    def merge(self, branch: str, **given: Any) -> Run:
        """Merge a branch into main and push."""
        self.repository.merge(branch)
        return self.push(**given)

    def dispatch(self, workflow: str, **inputs: Any) -> Run:
        """Press *Run workflow* on main."""
        self.repository.checkout("main")
        names = {name.replace("_", "-"): value for name, value in inputs.items()}
        payload = {"ref": "refs/heads/main", "inputs": names}
        return self.run(workflow, "workflow_dispatch", payload)

    def run(
        self,
        workflow: str,
        event: str,
        payload: Mapping[str, Any],
        *,
        repository: Repository | None = None,
        runner: Runner | None = None,
        secrets: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Run:
        """Run a workflow for an event, with the repository's secrets and variables by default."""
        return (runner or self.runner).run(
            repository or self.repository,
            workflow,
            event,
            payload,
            secrets=self.secrets if secrets is None else secrets,
            variables=self.variables if variables is None else variables,
            environment=self.environment,
        )

    def change(self, branch: str, old: str, new: str, path: str = "pipeline.yaml") -> None:
        """Make a branch of main on which a text is replaced in one file."""
        self.repository.checkout("main")
        self.repository.checkout(branch)
        self.repository.replace(path, old, new)
        self.repository.commit(f"Change {path}")

    def seed(self, *settings: str) -> None:
        """Deploy the next version by the verbs themselves: of main, or with settings replaced."""
        self.repository.checkout("main")
        replaced = {"TRILHO_SET": "\n".join(settings), "TRILHO_MERGED": str(not settings).lower()}
        done = subprocess.run(
            [sys.executable, "-c", VERBS, "retrain", "publish", "deploy"],
            cwd=self.repository.path,
            env=os.environ | self.variables | replaced | {"PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    @contextmanager
    def failing(self) -> Iterator[None]:
        """While it lasts, every model but the present one answers with wrong predictions."""
        good, invoke = self.serving, self.answers.invoke

        def wrong_unless_good(rows: list[dict[str, Any]]) -> tuple[int, Any]:
            self.answers.offset = 0.0 if self.serving == good else 0.25
            return invoke(rows)

        self.answers.invoke = wrong_unless_good  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.answers.invoke = invoke  # type: ignore[method-assign]
            self.answers.offset = 0.0

    # ---- what became of it

    @property
    def champion(self) -> int | None:
        alias = self.registry.alias(CHAMPION)
        return alias.version if alias else None

    @property
    def serving(self) -> str | None:
        """The digest that the ECS service's task definition names."""
        return self.answers.digest()

    def digest(self, version: int) -> str:
        return self.registry.version(version).digest

    def objects(self, folder: str = "") -> dict[str, str]:
        """The registry's objects, each with what tells one content from another."""
        pages = boto3.client("s3").get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=BUCKET, Prefix=f"registry/{folder}")
        return {o["Key"]: o["ETag"] for page in found for o in page.get("Contents", [])}

    def comment(self, number: int) -> str:
        """The one comment on a pull request."""
        (comment,) = self.github.comments_on(number)
        return comment.body


def small_project(path: Path) -> Repository:
    """Copy this repository as somebody's own, with data that train in a second."""
    copy_tree(path)
    prepare(path, NAME)
    data = path / "data" / "credit_default.csv"
    lines = data.read_text(encoding="utf-8").splitlines(keepends=True)
    data.write_text("".join(lines[: ROWS + 1]), encoding="utf-8")
    pipeline = path / "pipeline.yaml"
    text = pipeline.read_text(encoding="utf-8")
    for old, new in (
        ("params: {}", PLAIN),
        ("min_rows: 20000", "min_rows: 1000"),
        ("resamples: 2000", "resamples: 200"),
        ("min: 0.76", "min: 0.70"),
        ("max: 0.15", "max: 0.20"),
        ("roc_auc: 0.01", "roc_auc: 0.10"),
        ("    min: 0.65\n    margin: 0.05", "    min: 0.40\n    margin: 0.50"),
        ("selection_rate_gap: 0.15", "selection_rate_gap: 0.9"),
        ("true_positive_rate_gap: 0.2", "true_positive_rate_gap: 0.9"),
        ("calibration: 0.05", "calibration: 0.2"),
        # how fast this machine is, and what else it does, decides nothing here
        ("max_microseconds: 5000", "max_microseconds: 1000000\n    max_ratio: 1000"),
        ("SERVICE_URL:-}", "SERVICE_URL:-}\n  smoke_max_milliseconds: 20000"),
    ):
        assert text.count(old) == 1, f"pipeline.yaml holds {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    pipeline.write_text(text, encoding="utf-8")
    tests = path / "tests" / "project"
    tests.mkdir(parents=True)
    (tests / "test_project.py").write_text(PROJECT_TEST, encoding="utf-8")
    return Repository.create(path, NAME)


@contextmanager
def world(
    folder: Path,
    runner: Runner,
    make: Callable[[Path], Repository] = small_project,
    *,
    tls: bool = False,
) -> Iterator[World]:
    """A world of its own: nothing is published, and the service serves no model.

    `tls` serves GitHub as GitHub Enterprise is served, which is what CML can talk to.
    """
    repository = make(folder / "repository")
    # MiniStack must find no container engine: it then says what runs, and `answering` answers
    aws = ministack.start(folder / "aws", environment={"DOCKER_HOST": f"unix://{folder}/none"})
    try:
        with pytest.MonkeyPatch.context() as patch, github_api(repository.name, tls=tls) as github:
            for name in [n for n in os.environ if n.startswith(("AWS_", "TRILHO_", "GITHUB_"))]:
                patch.delenv(name)
            for name, value in aws.environment().items():
                patch.setenv(name, value)
            make_cloud()
            with answering(open_registry(REGISTRY)) as answers:
                made = World(repository, runner, github, aws.url, answers)
                if github.certificate is not None:
                    bundle = str(trusting(github.certificate, folder / "certificates.pem"))
                    made.environment |= dict.fromkeys(
                        ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"), bundle
                    )
                yield made
    finally:
        aws.stop()


def trusting(certificate: Path, bundle: Path) -> Path:
    """Write a file of certificates: this one, and those that the machine trusts."""
    known = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    trusted = Path(known).read_bytes() if known and Path(known).is_file() else b""
    bundle.write_bytes(certificate.read_bytes() + trusted)
    return bundle


def make_cloud() -> None:
    """Create the bucket, and an ECS service whose container names no model yet."""
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    ecs = boto3.client("ecs")
    ecs.create_cluster(clusterName=CLUSTER)
    definition = ecs.register_task_definition(
        family=SERVICE,
        containerDefinitions=[
            {
                "name": "model",
                "image": "registry.example/serve:1",
                "memory": 512,
                "environment": [{"name": "LOG", "value": "info"}],
            }
        ],
    )["taskDefinition"]["taskDefinitionArn"]
    ecs.create_service(
        cluster=CLUSTER, serviceName=SERVICE, taskDefinition=definition, desiredCount=1
    )
