"""Plots as inline SVG: drawn by matplotlib, coloured by the page's style sheet.

The one module that imports matplotlib. Each plot is drawn in placeholder colours, which become
references to the page's CSS variables, so a plot follows the reader's light or dark scheme; text
stays text, in the page's font. The same inputs give the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trilho.evaluation.results import Difference, Estimate, Evaluation
from trilho.report import quality
from trilho.report.contents import DRIFT_MUCH, DRIFT_SOME
from trilho.report.inputs import ReportInputs
from trilho.report.text import figure, lower_is_better, metric_name, percent, shorten, whole

# placeholder -> name of the CSS variable
COLOURS = {
    "#010101": "ink",
    "#010102": "soft",
    "#010103": "line",
    "#010104": "accent",
    "#010105": "second",
    "#010106": "good",
    "#010107": "bad",
    "#010108": "unsure",
}
INK, SOFT, LINE, ACCENT, SECOND, GOOD, BAD, UNSURE = COLOURS
TONES = {"good": GOOD, "bad": BAD, "unsure": UNSURE, "muted": SOFT}

WIDTH = 400.0  # pixels; small enough that its text is still read on a telephone
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a column called $x$ is not mathematics
    "font.family": ["DejaVu Sans"],  # matplotlib's own, to measure by: the same on every machine
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": SOFT,
    "axes.labelsize": 11,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.75,
    "lines.linewidth": 2,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.size": 0,
}
ROWS = 24  # rows of a plot that has one row a thing; the table beside has them all


@dataclass(frozen=True)
class Chart:
    """A plot; `alt` says in a sentence what it shows."""

    title: str
    alt: str
    svg: str


def draw(inputs: ReportInputs) -> dict[str, list[Chart]]:
    """Return the plots of each section, by the section's key."""
    plots: dict[str, list[Callable[[ReportInputs], Chart | None]]] = {
        "metrics": [differences, roc, precision_recall],
        "slices": [slices, slice_differences],
        "fairness": [fairness],
        "calibration": [calibration],
        "scores": [scores],
        "thresholds": [thresholds],
        "confusion": [confusion],
        "importance": [importance],
        "data-change": [drift],
    }
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's own settings must not change the report
        mpl.rcParams.update(STYLE)
        return {
            section: [chart for plot in some if (chart := plot(inputs)) is not None]
            for section, some in plots.items()
        }


class Canvas:
    """A figure of a fixed size in pixels with one pair of axes, and the way to its SVG."""

    def __init__(
        self, key: str, height: float, *, left: float = 52, bottom: float = 44, top: float = 10
    ) -> None:
        self.key = key
        self.figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        FigureCanvasSVG(self.figure)
        self.height = height
        self.axes = self.add(left, bottom, height - bottom - top)

    def add(self, left: float, bottom: float, height: float) -> Axes:
        w, h = WIDTH, self.height
        return self.figure.add_axes((left / w, bottom / h, (w - left - 16) / w, height / h))

    def chart(self, title: str, alt: str) -> Chart:
        mpl.rcParams["svg.hashsalt"] = self.key
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            # the reader's browser has fonts for signs that matplotlib's own lacks
            warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
            self.figure.savefig(buffer, format="svg", metadata=nothing)
        return Chart(title, alt, _inline(buffer.getvalue(), self.key))


def _inline(svg: str, key: str) -> str:
    """Make matplotlib's file a part of a page: no prologue, own identifiers, the page's colours."""
    body = svg[svg.index("<g id=") : svg.rindex("</svg>")]
    if at := re.search(r"<defs>\s*<clipPath.*?</defs>", svg, re.DOTALL):
        body = body if at[0] in body else at[0] + body
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{key}-{m[1]}"' * (m[1] in used), body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{key}-", body).replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for colour, variable in COLOURS.items():
        body = body.replace(f": {colour}", f": var(--{variable})")
    body = re.sub(r"\s*\n\s*", " ", body)
    height = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg)
    assert height is not None
    return f'viewBox="0 0 {height[1]} {height[2]}">{body}'


@contextmanager
def _rows(
    key: str, labels: list[str], *, per_row: float = 22
) -> Iterator[tuple[Canvas, Axes, list[float]]]:
    """Give a canvas with a row for each label, the first on top, and the rows' heights."""
    names = [shorten(label, 26) for label in labels]
    left = min(180.0, 16 + 6.3 * max(map(len, names), default=0))
    canvas = Canvas(key, 52 + per_row * len(names), left=left, bottom=44, top=8)
    axes = canvas.axes
    places = [float(-i) for i in range(len(names))]
    axes.set_ylim(-len(names) + 0.5, 0.5)
    axes.set_yticks(places, names, color=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    yield canvas, axes, places


def _interval(
    axes: Axes, y: float, value: float, low: float | None, high: float | None, colour: str
) -> None:
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=colour, linewidth=2.5, solid_capstyle="round")
    axes.plot([value], [y], "o", color=colour, markersize=7)


def _percent_axis(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))


def _signed(value: float, _: int) -> str:
    return figure(value, 6, signed=True).rstrip("0").rstrip(".") if value else "0"


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
    with _rows("differences", [metric_name(name) for name, _, _ in found]) as (canvas, axes, ys):
        axes.axvline(0, color=INK, linewidth=1)
        for y, (name, d, scale) in zip(ys, found, strict=True):
            assert d.difference is not None
            low, high = (None if v is None else v * scale for v in (d.low, d.high))
            tone = quality.judge(name, d).tone
            _interval(axes, y, d.difference * scale, low, high, TONES[tone])
        axes.xaxis.set_major_formatter(FuncFormatter(_signed))
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
    with _rows("metrics", [metric_name(name) for name, _, _ in found]) as (canvas, axes, ys):
        for y, (_, e, value) in zip(ys, found, strict=True):
            _interval(axes, y, value, e.low, e.high, ACCENT)
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


def slices(inputs: ReportInputs) -> Chart | None:
    """Forest plot of the slices; beside a champion coloured by what became of each."""
    evaluation, comparison = inputs.evaluation, inputs.comparison
    if evaluation is None:
        return None
    metric = quality.slice_metric(evaluation)
    before = {(s.column, s.label): s.metrics for s in comparison.slices} if comparison else {}
    found: list[tuple[str, Estimate, float, str]] = []
    for s in evaluation.slices:
        e = s.metrics.get(metric)
        if e is not None and e.value is not None:
            d = before.get((s.column, s.label), {}).get(metric)
            tone = quality.judge(metric, d).tone if d is not None else "none"
            found.append((f"{s.column} = {s.label}", e, e.value, tone))
    if not found:
        return None
    found.sort(key=lambda item: item[3] != "bad")
    shown = found[:ROWS]
    with _rows("slices", [label for label, *_ in shown]) as (canvas, axes, ys):
        whole_model = evaluation.metrics.get(metric)
        if whole_model is not None and whole_model.value is not None:
            axes.axvline(whole_model.value, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        for y, (_, e, value, tone) in zip(ys, shown, strict=True):
            _interval(axes, y, value, e.low, e.high, TONES[tone] if tone == "bad" else ACCENT)
        _focus(axes, [(value, e.low, e.high) for _, e, value, _ in shown])
        axes.set_xlabel(f"{metric_name(metric)}; dashed: all rows")
    more = f" The first {ROWS} of {len(found)} are drawn." if len(found) > ROWS else ""
    return canvas.chart(
        f"{metric_name(metric)} by slice",
        f"{len(found)} slices, from {figure(min(v for *_, v, _ in found))} "
        f"to {figure(max(v for *_, v, _ in found))}.{more}",
    )


def slice_differences(inputs: ReportInputs) -> Chart | None:
    """Forest plot of each slice's difference from the champion, right is better."""
    evaluation, comparison = inputs.evaluation, inputs.comparison
    if evaluation is None or comparison is None:
        return None
    metric = quality.slice_metric(evaluation)
    found = [
        (f"{s.column} = {s.label}", d, quality.judge(metric, d).tone)
        for s in comparison.slices
        if (d := s.metrics.get(metric)) is not None and d.difference is not None
    ]
    if not found:
        return None
    found.sort(key=lambda item: item[2] != "bad")
    shown = found[:ROWS]
    sign = -1 if lower_is_better(metric) else 1
    with _rows("slice-differences", [label for label, *_ in shown]) as (canvas, axes, ys):
        axes.axvline(0, color=INK, linewidth=1)
        for y, (_, d, tone) in zip(ys, shown, strict=True):
            assert d.difference is not None
            low, high = (None if v is None else v * sign for v in (d.low, d.high))
            _interval(axes, y, d.difference * sign, low, high, TONES[tone])
        _focus(axes, [(d.difference or 0.0, d.low, d.high) for _, d, _ in shown], sign)
        axes.xaxis.set_major_formatter(FuncFormatter(_signed))
        axes.set_xlabel("difference: right is better")
    worse = sum(tone == "bad" for *_, tone in found)
    return canvas.chart(
        "Difference from the champion", f"{worse} of {len(found)} slices are worse."
    )


def _focus(
    axes: Axes, found: list[tuple[float, float | None, float | None]], sign: int = 1
) -> None:
    """Fit the axis to most of the intervals: one of a few rows must not squeeze all others."""
    reach = sorted(abs(v - value) for value, *ends in found for v in ends if v is not None)
    room = 1.5 * reach[int(0.75 * len(reach))] if reach else 0.0
    if room:
        values = [value * sign for value, *_ in found]
        axes.set_xlim(min(values) - room, max(values) + room)


def fairness(inputs: ReportInputs) -> Chart | None:
    groups = [
        (f"{f.column} = {g.label}", g)
        for f in (inputs.evaluation.fairness if inputs.evaluation else [])
        for g in f.groups
    ][:ROWS]
    if not groups:
        return None
    with _rows("fairness", [label for label, _ in groups]) as (canvas, axes, ys):
        for y, (_, g) in zip(ys, groups, strict=True):
            both = [v for v in (g.selection_rate, g.true_positive_rate) if v is not None]
            axes.plot(both, [y] * len(both), color=LINE, linewidth=2)
            if g.selection_rate is not None:
                axes.plot([g.selection_rate], [y], "o", color=SECOND, markersize=8)
            if g.true_positive_rate is not None:
                axes.plot([g.true_positive_rate], [y], "D", color=ACCENT, markersize=7)
        axes.set_xlim(0, 1)
        _percent_axis(axes, "x")
        axes.set_xlabel("circle: share selected; diamond: share of positives found")
    return canvas.chart(
        "Rates by group", f"Selection and true positive rates of {len(groups)} groups."
    )


def calibration(inputs: ReportInputs) -> Chart | None:
    """Reliability curve over the number of rows in each bin."""
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
    below.bar(x, [b.rows for b in bins], width=0.02, color=SECOND)
    below.set(xlim=(0, 1), xlabel="mean predicted probability", ylabel="rows")
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
        axes.xaxis.set_major_formatter(FuncFormatter(_signed))
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
    _percent_axis(axes, "y")
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


def importance(inputs: ReportInputs) -> Chart | None:
    evaluation = inputs.evaluation
    if evaluation is None or not evaluation.importance:
        return None
    features = sorted(evaluation.importance, key=lambda i: -i.mean)[:ROWS]
    with _rows("importance", [i.feature for i in features]) as (canvas, axes, ys):
        axes.barh(ys, [i.mean for i in features], height=0.62, color=ACCENT)
        for y, i in zip(ys, features, strict=True):
            axes.plot([i.mean - i.sd, i.mean + i.sd], [y, y], color=INK, linewidth=1)
        axes.axvline(0, color=LINE, linewidth=1)
        axes.set_xlabel(f"loss of {metric_name(evaluation.primary)} when shuffled, one SD")
    return canvas.chart(
        "Permutation importance",
        f"{shorten(features[0].feature)} matters most, by {figure(features[0].mean)}.",
    )


def drift(inputs: ReportInputs) -> Chart | None:
    data = inputs.comparison.data if inputs.comparison else None
    found = [(c.column, c.psi) for c in (data.columns if data else []) if c.psi is not None]
    if not found:
        return None
    found.sort(key=lambda item: -item[1])
    found = found[:ROWS]
    with _rows("drift", [column for column, _ in found]) as (canvas, axes, ys):
        colours = [
            BAD if p >= DRIFT_MUCH else UNSURE if p >= DRIFT_SOME else ACCENT for _, p in found
        ]
        axes.barh(ys, [psi for _, psi in found], height=0.62, color=colours)
        for limit in (DRIFT_SOME, DRIFT_MUCH):
            axes.axvline(limit, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlim(0, max(found[0][1] * 1.05, DRIFT_MUCH * 1.1))
        axes.set_xlabel(f"population stability index; dashed: {DRIFT_SOME} some, {DRIFT_MUCH} much")
    return canvas.chart(
        "Drift by column",
        f"{shorten(found[0][0])} moved most, with an index of {figure(found[0][1], 3)}.",
    )
