"""The model card: what a reader outside of the team must know, from what was measured."""

from __future__ import annotations

from trilho import config
from trilho.bundle import Manifest, Signature
from trilho.evaluation.results import Estimate, Evaluation, Fairness, Slice

MOST = 3  # best and worst slices shown


def write_card(
    settings: config.Pipeline, manifest: Manifest, signature: Signature, found: Evaluation
) -> str:
    """Return the card as Markdown (after Mitchell et al. 2019)."""
    sections = [
        _intended(settings, signature),
        _data(settings, manifest, signature),
        _metrics(found),
        _slices(found),
        _fairness(found),
        _limits(settings, manifest),
        _reproduce(manifest),
    ]
    return f"# Model card: {manifest.name}\n\n" + "\n\n".join(s for s in sections if s) + "\n"


def _intended(settings: config.Pipeline, signature: Signature) -> str:
    what = f"`{signature.target}`"
    if signature.positive is not None:
        what += f" (positive: `{signature.positive}`)"
    factory = settings.model.factory or settings.model.estimator
    lines = [
        "## Intended use",
        "",
        f"Predicts {what}, a {signature.task} target, for the purpose of the project "
        f"*{settings.name}*. The owner of the project should say here who may use it for which "
        "decisions, and for which not.",
        "",
        f"Built by `{factory}`.",
    ]
    if signature.threshold is not None:
        lines[-1] += f" Scores of at least {signature.threshold:.4g} decide the positive class."
    return "\n".join(lines)


def _data(settings: config.Pipeline, manifest: Manifest, signature: Signature) -> str:
    data = manifest.dataset
    dropped = [*settings.data.drop, *([settings.data.id] if settings.data.id else [])]
    unseen = f" Not seen by it: {', '.join(f'`{d}`' for d in dropped)}." if dropped else ""
    return (
        "## Data\n\n"
        f"`{settings.data.path.rpartition('/')[2]}`, {data.rows:,} rows, of which "
        f"{data.holdout_rows:,} are held out ({settings.data.split.method} split) and were never "
        f"trained on. `{data.digest}`\n\n"
        f"The model takes {len(signature.columns)} columns.{unseen}"
    )


def _metrics(found: Evaluation) -> str:
    rows = [f"| {name} | {_shown(e)} |" for name, e in found.metrics.items()]
    return "\n".join(
        [
            "## Metrics on the hold-out",
            "",
            f"{found.rows:,} rows; intervals at {found.confidence:.0%} from {found.resamples:,} "
            "bootstrap resamples.",
            "",
            "| metric | value (interval) |",
            "| --- | --- |",
            *rows,
        ]
    )


def _slices(found: Evaluation) -> str:
    judged = [s for s in found.slices if _primary(s, found) is not None]
    if not judged:
        return ""
    ranked = sorted(judged, key=lambda s: (_primary(s, found) or 0.0, s.column, s.label))
    shown = ranked if len(ranked) <= 2 * MOST else [*ranked[:MOST], *ranked[-MOST:]]
    rows = [
        f"| {s.column} = {s.label} | {s.rows:,} | {_shown(s.metrics[found.primary])} |"
        for s in shown
    ]
    return "\n".join(
        [
            "## Worst and best slices",
            "",
            f"| slice | rows | {found.primary} |",
            "| --- | --: | --- |",
            *rows,
        ]
    )


def _primary(of: Slice, found: Evaluation) -> float | None:
    estimate = of.metrics.get(found.primary)
    return None if estimate is None else estimate.value


def _fairness(found: Evaluation) -> str:
    if not found.fairness:
        return "## Fairness\n\nNo protected columns were named, so no gaps were measured."
    lines = ["## Fairness", "", "| column | selection rate gap | true positive rate gap |"]
    lines.append("| --- | --- | --- |")
    return "\n".join([*lines, *map(_gaps, found.fairness)])


def _gaps(f: Fairness) -> str:
    gaps = f"{_shown(f.selection_rate_gap)} | {_shown(f.true_positive_rate_gap)}"
    return f"| {f.column} | {gaps} |"


def _limits(settings: config.Pipeline, manifest: Manifest) -> str:
    lines = [
        "## Limits",
        "",
        "- It was judged on rows like those of its dataset; on other people, products or times it "
        "has not been tried.",
        "- A metric's interval covers the chance of the hold-out, not a change of the world; watch "
        "for drift.",
    ]
    if settings.data.split.method == "random":
        lines.append(
            "- The hold-out is a random part of the same period, so it tells nothing of how the "
            "model ages."
        )
    if manifest.serving == "compiled":
        lines.append(
            f"- It is served in a compiled form that differs from scikit-learn by at most "
            f"{manifest.largest_difference:.1e} on all rows of the proof."
        )
    else:
        lines.append(f"- It is served by scikit-learn: {manifest.serving_reason}.")
    return "\n".join(lines)


def _reproduce(manifest: Manifest) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in sorted(manifest.environment.items()))
    return (
        "## How to reproduce\n\n"
        "Run `trilho train` with the same pipeline file, project and dataset. Equal inputs have "
        f"this fingerprint:\n\n`{manifest.fingerprint}`\n\nMade with {versions}."
    )


def _shown(e: Estimate) -> str:
    if e.value is None:
        return "not defined"
    interval = "" if e.low is None or e.high is None else f" ({e.low:.4g} to {e.high:.4g})"
    return f"{e.value:.4g}{interval}"
