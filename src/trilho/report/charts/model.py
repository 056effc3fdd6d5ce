"""Plots of the model as a whole."""

from __future__ import annotations

from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trilho.evaluation.results import Difference, Estimate, Evaluation
from trilho.report import quality
from trilho.report.charts.canvas import (
    ACCENT,
    GOOD,
    INK,
    SECOND,
    SOFT,
    TONES,
    WIDTH,
    Canvas,
    Chart,
    draw_interval,
    percent_axis,
    rows,
    signed,
)
from trilho.report.inputs import ReportInputs
from trilho.report.text import figure, lower_is_better, metric_name, percent, shorten, whole


def differences(inputs: ReportInputs) -> Chart | None:
    """Forest plot: each metric's difference from the champion, turned so that right is better."""
    evaluation, comparison = inputs.evaluation, inputs.comparison
    if evaluation is None or comparison is None:
        return _alone(evaluation)
    # metrics of a regression have scales of their own: shown relative to the champion
    relative = evaluation.task == "regression"
    found: list[tuple[str, Difference, float]] = []
    for name in quality.ordered(evaluation, list(comparison.metrics)):
        d = comparison.metrics[name]
        scale = (100 / abs(d.champion) if d.champion else 0.0) if relative else 1.0
        if d.difference is not None and scale:
            found.append((name, d, -scale if lower_is_better(name) else scale))
    if not found:
        return _alone(evaluation)
    canvas, axes, ys = rows("differences", [metric_name(name) for name, _, _ in found])
    axes.axvline(0, color=INK, linewidth=1)
    for y, (name, d, scale) in zip(ys, found, strict=True):
        assert d.difference is not None
        low, high = (None if v is None else v * scale for v in (d.low, d.high))
        tone = quality.judge(name, d).tone
        draw_interval(axes, y, d.difference * scale, low, high, TONES[tone])
    axes.xaxis.set_major_formatter(FuncFormatter(signed))
    unit = " in percent" if relative else ""
    axes.set_xlabel(f"difference from the champion{unit}: right of zero is better")
    better, worse = (
        sum(quality.judge(name, d).tone == tone for name, d, _ in found) for tone in ("good", "bad")
    )
    return canvas.chart(
        "Difference from the champion",
        f"Of {len(found)} metrics {better} are better, {worse} worse, the others within noise.",
    )


def _alone(evaluation: Evaluation | None) -> Chart | None:
    """Forest plot of a candidate without a champion: metrics of which 1 is the best."""
    found: list[tuple[str, Estimate, float]] = []
    if evaluation is not None:
        for name in quality.ordered(evaluation, list(evaluation.metrics)):
            e = evaluation.metrics[name]
            if e.value is not None and 0 <= e.value <= 1 and not lower_is_better(name):
                found.append((name, e, e.value))
    if not found:
        return None
    canvas, axes, ys = rows("metrics", [metric_name(name) for name, _, _ in found])
    for y, (_, e, value) in zip(ys, found, strict=True):
        draw_interval(axes, y, value, e.low, e.high, ACCENT)
    axes.set_xlim(0, 1)
    axes.set_xlabel("value with its interval")
    return canvas.chart("Metrics of the candidate", f"{len(found)} metrics with their intervals.")


def _unit_square(key: str, x: str, y: str) -> Canvas:
    canvas = Canvas(key, 300)
    canvas.axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=x, ylabel=y)
    canvas.axes.grid()
    canvas.axes.xaxis.set_major_locator(MaxNLocator(5))
    canvas.axes.yaxis.set_major_locator(MaxNLocator(5))
    return canvas


def roc(inputs: ReportInputs) -> Chart | None:
    curve = inputs.evaluation.roc if inputs.evaluation else None
    if curve is None or not curve.x:
        return None
    canvas = _unit_square("roc", "false positive rate", "true positive rate")
    canvas.axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    canvas.axes.fill_between(curve.x, curve.y, color=ACCENT, alpha=0.1, linewidth=0)
    canvas.axes.plot(curve.x, curve.y, color=ACCENT)
    assert inputs.evaluation is not None
    area = inputs.evaluation.metrics.get("roc_auc")
    shown = f" Area {figure(area.value)}." if area is not None else ""
    return canvas.chart("ROC curve", f"The candidate's ROC curve above the diagonal.{shown}")


def precision_recall(inputs: ReportInputs) -> Chart | None:
    evaluation = inputs.evaluation
    curve = evaluation.precision_recall if evaluation else None
    if evaluation is None or curve is None or not curve.x:
        return None
    canvas = _unit_square("precision-recall", "recall", "precision")
    canvas.axes.fill_between(curve.x, curve.y, color=ACCENT, alpha=0.1, linewidth=0)
    canvas.axes.plot(curve.x, curve.y, color=ACCENT)
    alt = "Precision against recall of the candidate."
    if evaluation.confusion and evaluation.rows and len(evaluation.confusion) == 2:
        base = sum(evaluation.confusion[1]) / evaluation.rows
        canvas.axes.axhline(base, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        alt += f" Guessing would have a precision of {percent(base)}."
    return canvas.chart("Precision and recall", alt)


def calibration(inputs: ReportInputs) -> Chart | None:
    """Reliability curve, over the distribution of the scores."""
    bins = [b for b in (inputs.evaluation.calibration if inputs.evaluation else []) if b.rows]
    if not bins:
        return None
    canvas = Canvas("calibration", 360, bottom=120)
    axes = canvas.axes
    x = [b.mean_predicted for b in bins]
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(x, [b.observed for b in bins], "-o", color=ACCENT, markersize=6)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="observed share")
    axes.grid()
    axes.set_xticklabels([])
    below = canvas.add(52, 44, 60)
    evaluation = inputs.evaluation
    if evaluation is not None and evaluation.task == "binary" and evaluation.score_histogram:
        edges = quality.score_edges(evaluation)
        counts = evaluation.score_histogram
        below.bar(edges[:-1], counts, width=0.9 / len(counts), align="edge", color=SECOND)
    else:
        below.bar(x, [b.rows for b in bins], width=0.02, color=SECOND)
    below.set(xlim=(0, 1), xlabel="predicted probability", ylabel="rows")
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.yaxis.set_major_formatter(FuncFormatter(lambda v, _: whole(int(v))))
    off = max(abs(b.observed - b.mean_predicted) for b in bins)
    return canvas.chart(
        "Reliability",
        f"Observed against predicted share in {len(bins)} bins; the largest distance is "
        f"{percent(off)}.",
    )


def scores(inputs: ReportInputs) -> Chart | None:
    evaluation = inputs.evaluation
    if evaluation is None or not evaluation.score_histogram:
        return None
    edges = quality.score_edges(evaluation)
    counts = evaluation.score_histogram
    canvas = Canvas("scores", 280, left=60)
    axes = canvas.axes
    width = edges[1] - edges[0]
    axes.bar(edges[:-1], counts, width=width * 0.92, align="edge", color=ACCENT)
    axes.grid(axis="y")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: whole(int(v))))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(edges[0], edges[-1])
    title, label = quality.SCORES.get(evaluation.task, quality.SCORES["binary"])
    if evaluation.task == "regression":
        axes.axvline(0, color=INK, linewidth=1)
        axes.xaxis.set_major_formatter(FuncFormatter(signed))
    elif evaluation.task == "binary" and evaluation.threshold is not None:
        axes.axvline(evaluation.threshold, color=INK, linewidth=1.5)
        label += f"; the line is the threshold, {figure(evaluation.threshold, 3)}"
    axes.set(xlabel=label[0].lower() + label[1:], ylabel="rows")
    return canvas.chart(title, f"Histogram of {whole(sum(counts))} rows in {len(counts)} bins.")


def thresholds(inputs: ReportInputs) -> Chart | None:
    evaluation = inputs.evaluation
    if evaluation is None or len(evaluation.thresholds) < 2:
        return None
    table = evaluation.thresholds
    x = [t.threshold for t in table]
    canvas = Canvas("thresholds", 320)
    axes = canvas.axes
    lines = (
        ("precision", [t.precision for t in table], SECOND, "-"),
        ("recall", [t.recall for t in table], ACCENT, "-"),
        ("F1", [t.f1 for t in table], GOOD, "-"),
        ("selected", [t.selected for t in table], SOFT, (0, (4, 3))),
    )
    for name, values, colour, style in lines:
        y = [float("nan") if v is None else v for v in values]
        axes.plot(x, y, color=colour, linestyle=style, label=name)
    if evaluation.threshold is not None:
        axes.axvline(evaluation.threshold, color=INK, linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="threshold; the upright line is in use")
    axes.grid()
    percent_axis(axes, "y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=4, frameon=False,
                handlelength=1.6, columnspacing=1.4)  # fmt: skip
    axes.set_position((52 / WIDTH, 44 / 320, (WIDTH - 68) / WIDTH, 240 / 320))
    return canvas.chart(
        "What a threshold would do",
        "Precision, recall, F1 and the share selected, for each threshold.",
    )


def confusion(inputs: ReportInputs) -> Chart | None:
    """Heat map of the shares of each true class; beyond 30 classes nobody could read it."""
    evaluation = inputs.evaluation
    matrix = evaluation.confusion if evaluation else None
    if evaluation is None or not matrix or len(matrix) > 30:
        return None
    k = len(matrix)
    names = [shorten(c, 12) for c in evaluation.classes or map(str, range(k))]
    left = 34 + 6.4 * max(map(len, names))
    side = WIDTH - left - 16
    height = min(side, 60.0 * k) + 62
    canvas = Canvas("confusion", height, left=left, bottom=14, top=48)
    axes = canvas.axes
    for i, row in enumerate(matrix):
        total = sum(row) or 1
        for j, count in enumerate(row):
            share = count / total
            box = Rectangle((j, i), 0.96, 0.96, facecolor=ACCENT, alpha=0.06 + 0.6 * share)
            axes.add_patch(box)
            if k <= 10:
                axes.text(j + 0.48, i + 0.48, whole(count), ha="center", va="center", color=INK)
    axes.set(xlim=(0, k), ylim=(k, 0))
    step = 1 if k <= 10 else 2
    turned = 90 if k > 4 and max(map(len, names)) > 3 else 0
    axes.set_xticks([j + 0.48 for j in range(0, k, step)], names[::step], rotation=turned)
    axes.set_yticks([i + 0.48 for i in range(0, k, step)], names[::step])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set(xlabel="predicted", ylabel="truth")
    for spine in axes.spines.values():
        spine.set_visible(False)
    right = sum(row[i] for i, row in enumerate(matrix))
    share = right / (sum(map(sum, matrix)) or 1)
    return canvas.chart(
        "Confusion matrix",
        f"{k} classes, {percent(share)} of the rows right; shade: share of the true class.",
    )
