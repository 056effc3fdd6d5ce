"""Plots as inline SVG; the one package that imports matplotlib."""

from __future__ import annotations

from collections.abc import Callable

from trilho.report.charts import groups, model
from trilho.report.charts.canvas import Chart, style
from trilho.report.inputs import ReportInputs

__all__ = ["Chart", "draw"]

# the plots of each section, by the section's key
PLOTS: dict[str, list[Callable[[ReportInputs], Chart | None]]] = {
    "metrics": [model.differences, model.roc, model.precision_recall],
    "slices": [groups.slices, groups.slice_differences],
    "fairness": [groups.fairness],
    "calibration": [model.calibration],
    "scores": [model.scores],
    "thresholds": [model.thresholds],
    "confusion": [model.confusion],
    "importance": [groups.importance],
    "data-change": [groups.drift],
}


def draw(inputs: ReportInputs) -> dict[str, list[Chart]]:
    """Return the plots of each section, by the section's key; a plot without data is left out."""
    with style():
        return {
            section: [chart for plot in plots if (chart := plot(inputs)) is not None]
            for section, plots in PLOTS.items()
        }
