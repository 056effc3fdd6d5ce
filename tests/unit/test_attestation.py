"""Attestations, verified by a `gh` that stands in for GitHub's.

What the real one promises, and the stand-in keeps: `gh attestation verify FILE --repo OWNER/NAME
--signer-workflow OWNER/NAME/PATH --format json` prints a list of what it verified, each with
`verificationResult.statement.subject[].digest.sha256`, and ends with 0; with 1 when nothing
verifies, the reason on standard error; with 4 when it may not ask. Versions before 2.67 end with 0
and print nothing when there is nothing.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ecs_service import publish
from typer.testing import CliRunner
from workflows.github_api import github_api

from trilho.bundle import sha256_bytes
from trilho.cli import app
from trilho.errors import IntegrityError, UsageError
from trilho.github.approval import approvers
from trilho.github.attestation import verify
from trilho.registry import CHAMPION, Source, open_registry

MANIFEST = b'{"name": "credit"}'
DIGEST = sha256_bytes(MANIFEST)
CD = "acme/models/.github/workflows/model-cd.yml"
Gh = Callable[..., None]


def verified(digest: str = DIGEST) -> str:
    subject = {"name": "manifest.json", "digest": {"sha256": digest.removeprefix("sha256:")}}
    return json.dumps([{"verificationResult": {"statement": {"subject": [subject]}}}])


@pytest.fixture
def gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gh:
    """Puts a `gh` on PATH that answers so where the signer is named, and else verifies nothing."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    monkeypatch.setenv("GITHUB_REPOSITORY", "acme/models")
    monkeypatch.setenv("GITHUB_TOKEN", "ghs_of_the_job")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for gh")
    monkeypatch.delenv("GH_TOKEN", raising=False)

    def install(out: str = "", code: int = 0, said: str = "", signer: str = "model-cd.yml") -> None:
        (place / "gh").write_text(
            "#!/bin/sh\n"
            f'echo "$@" >> {tmp_path}/calls; env > {tmp_path}/environment\n'
            f'cp "$3" {tmp_path}/seen\n'
            'case "$*" in\n'
            f"  *{signer}*) printf %s {shlex.quote(out)}; echo {shlex.quote(said)} >&2; "
            f"exit {code} ;;\n"
            '  *) echo "no attestations found" >&2; exit 1 ;;\n'
            "esac\n"
        )
        (place / "gh").chmod(0o755)

    return install


def test_what_a_workflow_of_ours_attested_is_accepted(gh: Gh, tmp_path: Path) -> None:
    gh(verified())
    assert verify(MANIFEST, DIGEST) == CD
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first.endswith(
        "--repo acme/models --signer-workflow acme/models/.github/workflows/model-ci.yml "
        "--format json"
    )
    assert f"--signer-workflow {CD} " in second
    assert (tmp_path / "seen").read_bytes() == MANIFEST
    environment = (tmp_path / "environment").read_text()
    assert "GH_TOKEN=ghs_of_the_job" in environment
    assert "not for gh" not in environment


def test_workflows_of_another_repository_sign_by_its_name(
    gh: Gh, monkeypatch: pytest.MonkeyPatch
) -> None:
    gh(verified())
    monkeypatch.setenv("TRILHO_SIGNER", "octo/trilho")
    assert verify(MANIFEST, DIGEST) == "octo/trilho/.github/workflows/model-cd.yml"


@pytest.mark.parametrize(
    "answer",
    [
        {"code": 1, "said": "verification failed: ghs_of_the_job"},
        {"out": ""},  # the old versions that end well with nothing
        {"out": "[]"},
        {"out": "{}"},
        {"out": "not JSON"},
        {"out": verified("sha256:" + "0" * 64)},
        {"out": '[{"verificationResult": null}]'},
        {"out": verified(), "signer": "other.yml"},
    ],
)
def test_everything_else_is_refused(gh: Gh, answer: dict[str, Any]) -> None:
    gh(**answer)
    with pytest.raises(IntegrityError, match=f"No workflow of acme/models attested.*{DIGEST}") as e:
        verify(MANIFEST, DIGEST)
    assert "ghs_of_the_job" not in e.value.message


def test_an_attestation_of_another_manifest_is_none_of_this(gh: Gh) -> None:
    gh(verified())
    with pytest.raises(IntegrityError, match="was changed"):
        verify(MANIFEST, "sha256:" + "0" * 64)


def test_what_keeps_it_from_being_asked_is_named(
    gh: Gh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="`gh`, which verifies it, is not installed"):
        verify(MANIFEST, DIGEST)
    gh(code=4, said="run: gh auth login", signer="model-ci.yml")
    with pytest.raises(UsageError, match="may not ask for it: run: gh auth login") as refused:
        verify(MANIFEST, DIGEST)
    assert "attestations: read" in (refused.value.hint or "")
    monkeypatch.delenv("GITHUB_REPOSITORY")
    with pytest.raises(UsageError, match="of which repository"):
        verify(MANIFEST, DIGEST)


@pytest.fixture
def project(gh: Gh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry with a version; returns its digest."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline.yaml").write_text(
        f"name: credit\nregistry: {tmp_path}/registry\n"
        "data: {path: d.csv, schema: s.yaml, target: y}\nmodel: {factory: m:make}\n"
        "deploy: {cluster: models, service: credit, url: http://127.0.0.1:9}\n"
    )
    version = publish(open_registry(str(tmp_path / "registry")), tmp_path / "bundle", 0.5)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return version.digest


def test_deploy_refuses_what_nobody_attested_before_it_asks_aws(
    gh: Gh, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("trilho.deploy.rollout.deploy", lambda *a, **k: asked.append(a) or 1 / 0)
    gh(code=1)
    refused = CliRunner().invoke(app, ["deploy", "--version", "1", "--require-attestation"])
    assert isinstance(refused.exception, IntegrityError)
    assert refused.exception.exit_code == 3
    assert not asked

    gh(verified(project))
    monkeypatch.setenv("TRILHO_REQUIRE_ATTESTATION", "true")
    done = CliRunner().invoke(app, ["deploy", "--version", "1"])
    assert isinstance(done.exception, ZeroDivisionError)
    assert f"attested by {CD}" in done.stderr
    assert len(asked) == 1


def test_publish_refuses_what_nobody_attested_before_it_loads_it(
    gh: Gh, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr("trilho.pipeline.making.fetch", lambda *a, **k: None)
    monkeypatch.setattr(
        "trilho.pipeline.store_candidate", lambda *a, **k: loaded.append(a) or 1 / 0
    )
    gh(code=1)
    arguments = ["publish", "--require-attestation"]
    run = tmp_path / ".trilho/run"
    run.mkdir(parents=True)
    (tmp_path / "bundle").rename(run / "bundle")
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, IntegrityError), refused.exception
    assert not loaded
    gh(verified(project))
    assert isinstance(CliRunner().invoke(app, arguments).exception, ZeroDivisionError)
    assert len(loaded) == 1


# --- who approved ---


def test_who_approved_stands_in_the_history(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with github_api() as github:
        for name, value in github.environment().items():
            monkeypatch.setenv(name, value)
        assert approvers() == []
        monkeypatch.setenv("GITHUB_RUN_ID", "7")
        github.approvals = [
            {"state": "approved", "user": {"login": "bo"}, "environments": []},
            {"state": "rejected", "user": {"login": "cy"}, "environments": []},
            {"state": "approved", "user": {"login": "ana"}, "environments": []},
        ]
        assert approvers() == ["ana", "bo"]
    registry = open_registry(str(tmp_path / "registry"))
    version = publish(registry, tmp_path / "bundle", 0.5)
    by = Source(actor="ana", approved_by=["bo"])
    registry.move_alias(CHAMPION, version.number, expected=None, source=by)
    assert registry.history()[-1].source.approved_by == ["bo"]
    # a record of nobody's approval is what it always was, byte by byte
    (first, *_) = registry.store.list("history/")
    assert b"approved_by" not in registry.store.get(first).data
