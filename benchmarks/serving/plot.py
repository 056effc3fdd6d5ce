"""The plot of the results."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import ROOT
from benchmarks.serving.load import Load
from benchmarks.serving.models import KINDS

FILE = ROOT / "benchmarks/serving.svg"


COLOURS = ("#1f6feb", "#8b949e")


def rate(load: Load) -> float:
    return load.rate


def p99(load: Load) -> float:
    return load.p99


def draw(found: dict[tuple[str, str], Load], file: Path = FILE) -> None:
    """Draw rows a second and p99 of each server, on logarithmic scales."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "trilho"
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for name, _ in found))
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 0.55 * len(names) + 1.2), sharey=True)
    for panel, title, value in (
        (panels[0], "one row, 8 connections: answers a second", rate),
        (panels[1], "p99, milliseconds", p99),
    ):
        for i, kind in enumerate(KINDS):
            places = [row + (i - 0.5) * 0.38 for row in range(len(names))]
            values = [value(found[name, kind]) for name in names]
            bars = panel.barh(places, values, 0.36, label=kind.upper(), color=COLOURS[i])
            labels = [f"{v:,.3g}" if v < 100 else f"{v:,.0f}" for v in values]
            panel.bar_label(bars, labels, padding=3)
        panel.set_xscale("log")
        panel.margins(x=0.25)
        panel.set_title(title, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    panels[0].legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
