"""The drawing board of all plots: their size, their style, and the way to inline SVG.

Each plot is drawn in placeholder colours, which become references to the page's CSS variables, so a
plot follows the reader's light or dark scheme; text stays text, in the page's font. The same inputs
give the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trilho.report.text import figure, shorten

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


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


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
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{key}-{m[1]}"' * (m[1] in used), body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{key}-", body).replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for colour, variable in COLOURS.items():
        body = body.replace(f": {colour}", f": var(--{variable})")
    body = re.sub(r"\s*\n\s*", " ", body)
    box = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg)
    assert box is not None
    return f'viewBox="0 0 {box[1]} {box[2]}">{body}'


def rows(key: str, labels: list[str]) -> tuple[Canvas, Axes, list[float]]:
    """Return a canvas with a row for each label from the top down, its axes, the rows' heights."""
    names = [shorten(label, 26) for label in labels]
    left = min(180.0, 16 + 6.3 * max(map(len, names), default=0))
    canvas = Canvas(key, 52 + 22 * len(names), left=left, bottom=44, top=8)
    axes = canvas.axes
    places = [float(-i) for i in range(len(names))]
    axes.set_ylim(-len(names) + 0.5, 0.5)
    axes.set_yticks(places, names, color=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return canvas, axes, places


def draw_interval(
    axes: Axes, y: float, value: float, low: float | None, high: float | None, colour: str
) -> None:
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=colour, linewidth=2.5, solid_capstyle="round")
    axes.plot([value], [y], "o", color=colour, markersize=7)


def focus(axes: Axes, found: list[tuple[float, float | None, float | None]], sign: int = 1) -> None:
    """Fit the axis to most of the intervals: one of a few rows must not squeeze all others."""
    reach = sorted(abs(v - value) for value, *ends in found for v in ends if v is not None)
    room = 1.5 * reach[int(0.75 * len(reach))] if reach else 0.0
    if room:
        values = [value * sign for value, *_ in found]
        axes.set_xlim(min(values) - room, max(values) + room)


def percent_axis(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))


def signed(value: float, _: int) -> str:
    return figure(value, 6, signed=True).rstrip("0").rstrip(".") if value else "0"
