"""Plots with a row for each group of rows, or each column."""

from __future__ import annotations

from matplotlib.ticker import FuncFormatter

from trilho.evaluation.results import Estimate
from trilho.report import quality
from trilho.report.charts.canvas import (
    ACCENT,
    BAD,
    INK,
    LINE,
    ROWS,
    SECOND,
    SOFT,
    TONES,
    UNSURE,
    Chart,
    draw_interval,
    focus,
    percent_axis,
    rows,
    signed,
)
from trilho.report.contents import DRIFT_MUCH, DRIFT_SOME
from trilho.report.inputs import ReportInputs
from trilho.report.text import figure, lower_is_better, metric_name, shorten


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
    canvas, axes, ys = rows("slices", [label for label, *_ in shown])
    whole_model = evaluation.metrics.get(metric)
    if whole_model is not None and whole_model.value is not None:
        axes.axvline(whole_model.value, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    for y, (_, e, value, tone) in zip(ys, shown, strict=True):
        draw_interval(axes, y, value, e.low, e.high, TONES[tone] if tone == "bad" else ACCENT)
    focus(axes, [(value, e.low, e.high) for _, e, value, _ in shown])
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
    canvas, axes, ys = rows("slice-differences", [label for label, *_ in shown])
    axes.axvline(0, color=INK, linewidth=1)
    for y, (_, d, tone) in zip(ys, shown, strict=True):
        assert d.difference is not None
        low, high = (None if v is None else v * sign for v in (d.low, d.high))
        draw_interval(axes, y, d.difference * sign, low, high, TONES[tone])
    focus(axes, [(d.difference or 0.0, d.low, d.high) for _, d, _ in shown], sign)
    axes.xaxis.set_major_formatter(FuncFormatter(signed))
    axes.set_xlabel("difference: right is better")
    worse = sum(tone == "bad" for *_, tone in found)
    return canvas.chart(
        "Difference from the champion", f"{worse} of {len(found)} slices are worse."
    )


def fairness(inputs: ReportInputs) -> Chart | None:
    groups = [
        (f"{f.column} = {g.label}", g)
        for f in (inputs.evaluation.fairness if inputs.evaluation else [])
        for g in f.groups
    ][:ROWS]
    if not groups:
        return None
    canvas, axes, ys = rows("fairness", [label for label, _ in groups])
    for y, (_, g) in zip(ys, groups, strict=True):
        both = [v for v in (g.selection_rate, g.true_positive_rate) if v is not None]
        axes.plot(both, [y] * len(both), color=LINE, linewidth=2)
        if g.selection_rate is not None:
            axes.plot([g.selection_rate], [y], "o", color=SECOND, markersize=8)
        if g.true_positive_rate is not None:
            axes.plot([g.true_positive_rate], [y], "D", color=ACCENT, markersize=7)
    axes.set_xlim(0, 1)
    percent_axis(axes, "x")
    axes.set_xlabel("circle: share selected; diamond: share of positives found")
    return canvas.chart(
        "Rates by group", f"Selection and true positive rates of {len(groups)} groups."
    )


def importance(inputs: ReportInputs) -> Chart | None:
    evaluation = inputs.evaluation
    if evaluation is None or not evaluation.importance:
        return None
    features = sorted(evaluation.importance, key=lambda i: -i.mean)[:ROWS]
    canvas, axes, ys = rows("importance", [i.feature for i in features])
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
    canvas, axes, ys = rows("drift", [column for column, _ in found])
    colours = [BAD if p >= DRIFT_MUCH else UNSURE if p >= DRIFT_SOME else ACCENT for _, p in found]
    axes.barh(ys, [psi for _, psi in found], height=0.62, color=colours)
    for limit in (DRIFT_SOME, DRIFT_MUCH):
        axes.axvline(limit, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlim(0, max(found[0][1] * 1.05, DRIFT_MUCH * 1.1))
    axes.set_xlabel(f"population stability index; dashed: {DRIFT_SOME} some, {DRIFT_MUCH} much")
    return canvas.chart(
        "Drift by column",
        f"{shorten(found[0][0])} moved most, with an index of {figure(found[0][1], 3)}.",
    )
