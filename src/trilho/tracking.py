"""Mirror a training run to MLflow when `MLFLOW_TRACKING_URI` is set.

The registry stays the truth: a tracking server that is away costs a warning, never a run.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from trilho.errors import UnavailableError, UsageError
from trilho.registry import RunRecord

ARTIFACTS = ("evaluation.json", "model_card.md", "signature.json")


def wanted() -> bool:
    """Whether the environment names a tracking server."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def log_run(record: RunRecord, bundle: Path) -> str:
    """Log a run's parameters, metrics, tags and small documents to MLflow.

    The experiment is `MLFLOW_EXPERIMENT_NAME`, or the model's name. A run that was logged before
    (same trilho run id) is not logged again.

    Returns
    -------
    str
        MLflow's run id.

    Raises
    ------
    UsageError
        MLflow is not installed.
    UnavailableError
        The tracking server refused or did not answer.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise UsageError(
            "MLFLOW_TRACKING_URI is set, but MLflow is not installed.",
            hint="Install it with `pip install 'trilho[mlflow]'`, or unset the variable.",
        ) from None
    try:
        client = MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or record.name
        known = client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else client.create_experiment(name)
        logged = client.search_runs([experiment], f"tags.`trilho.run` = '{record.id}'")
        if logged:
            return str(logged[0].info.run_id)
        run = client.create_run(
            experiment, start_time=_milliseconds(record.started_at), run_name=record.id
        )
        now = _milliseconds(record.started_at) + int(record.seconds * 1000)
        client.log_batch(
            run.info.run_id,
            metrics=[Metric(k, v, now, 0) for k, v in record.metrics.items() if v is not None],
            params=[Param(k, str(v)[:6000]) for k, v in _flatten(record.parameters).items()][:100],
            tags=[RunTag(k, v) for k, v in _tags(record).items() if v],
        )
        for artifact in ARTIFACTS:
            if (bundle / artifact).exists():
                client.log_artifact(run.info.run_id, str(bundle / artifact))
        client.set_terminated(run.info.run_id, end_time=now)
    except (MlflowException, OSError) as error:
        # the address may hold a password
        reason = re.sub(r"//[^/@\s]+@", "//***@", str(error)).partition("\n")[0]
        raise UnavailableError(f"The run was not logged to MLflow: {reason}") from None
    return str(run.info.run_id)


def _tags(record: RunRecord) -> dict[str, str | None]:
    return {
        "trilho.run": record.id,
        "trilho.fingerprint": record.fingerprint,
        "trilho.digest": record.digest,
        "trilho.dataset": record.dataset.get("digest"),
        "mlflow.source.git.commit": record.source.commit,
        "mlflow.source.git.branch": record.source.branch,
        "mlflow.user": record.source.actor,
        "trilho.run_url": record.source.run_url,
    }


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _milliseconds(at: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(at).timestamp() * 1000)
