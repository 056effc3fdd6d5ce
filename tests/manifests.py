"""Manifests of made-up bundles."""

from __future__ import annotations

from trilho.bundle import DatasetInfo, Manifest

HASH = "sha256:" + "0" * 64


def manifest(**fields: object) -> Manifest:
    defaults: dict[str, object] = {
        "name": "credit",
        "task": "binary",
        "fingerprint": HASH,
        "dataset": DatasetInfo(digest=HASH, rows=4, holdout_rows=1),
        "lock": None,
        "split": HASH,
        "serving": "compiled",
        "metrics": {"roc_auc": 0.75},
        "parameters": {"max_iter": 10},
        "environment": {"python": "3.11"},
        "files": {},
    }
    return Manifest(**(defaults | fields))  # type: ignore[arg-type]
