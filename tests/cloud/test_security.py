"""What docs/security.md says is so: its tests exist, and a decision's record stays."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from identities import BUCKET, REGISTRY, Cloud

from trilho.registry import CHAMPION, Source, keys, open_registry
from trilho.storage import aws

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
THREATS = (
    "A contributor from a fork",
    "A contributor with a branch",
    "A stolen pull-request key",
    "A stolen deploy key",
    "A poisoned dataset",
    "A poisoned artifact",
    "A compromised third-party action",
    "A hostile request",
)


def test_every_threat_has_its_tests_and_says_what_is_not_stopped() -> None:
    sections = dict(re.findall(r"^### (.*?)\n(.*?)(?=^##)", PAGE, re.M | re.S))
    assert tuple(sections) == THREATS
    for threat, text in sections.items():
        assert "::test_" in text, threat
        assert "\nNot stopped" in text, threat


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/\S+?\.py)::(\w+)`", PAGE)
    assert len(named) == PAGE.count("::test_") > 30
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        known = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in known, f"{file} has no {name}"


def test_the_record_of_a_decision_can_be_rewritten_by_neither_identity(
    enforced: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very records that a deployment leaves, as the deploy identity writes them."""
    from ecs_service import publish

    clients: dict[str, Any] = {}
    monkeypatch.setattr(
        aws, "client", lambda name: clients.setdefault(name, enforced.client("deploy role", name))
    )
    registry = open_registry(REGISTRY)
    by = Source(actor="ana", run_url="https://github.com/acme/models/actions/runs/7", reason="so")
    version = publish(registry, tmp_path / "bundle", 0.5)
    registry.move_alias(CHAMPION, version.number, expected=None, source=by)
    registry.quarantine(version.digest, "it lies", by)
    told = {event.kind: event for event in registry.history()}
    assert told["promoted"].source == by
    assert version.verdict == "PROMOTE"

    records = [f"registry/{key}" for key in registry.store.list("history/")]
    records += [f"registry/{keys.version(version.number)}"]
    records += [f"registry/{keys.quarantine(version.digest)}"]
    assert len(records) == 5
    before = {r: _read(enforced, r) for r in records}
    for identity in ("pull-request user", "pull-request role", "deploy user", "deploy role"):
        s3 = enforced.client(identity, "s3")
        for record in records:
            at = {"Bucket": BUCKET, "Key": record}
            etag = enforced.client("admin", "s3").head_object(**at)["ETag"]
            for change, how in (
                (s3.put_object, {"Body": b"another"}),
                (s3.put_object, {"Body": b"another", "IfMatch": etag}),
                (s3.delete_object, {}),
            ):
                with pytest.raises(ClientError) as refused:
                    change(**at, **how)
                assert refused.value.response["Error"]["Code"] == "AccessDenied"
    assert {r: _read(enforced, r) for r in records} == before


def _read(enforced: Cloud, key: str) -> bytes:
    data: bytes = enforced.client("admin", "s3").get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return data
