"""Figures and names as a reader wants them, the same in every form of the report."""

from __future__ import annotations

import math
import unicodedata

from trilho.evaluation.results import METRICS

NOTHING = "–"
NAME_LENGTH = 72  # a sha256 digest fits
SENTENCE_LENGTH = 400

# Joiners are part of the spelling in some scripts; every other format character (bidirectional
# overrides, zero-width spaces, byte order marks) can only mislead a reader of the report.
JOINERS = "\u200c\u200d"

NAMES = {
    "roc_auc": "ROC AUC",
    "roc_auc_ovr": "ROC AUC, one vs rest",
    "gini": "Gini",
    "ks": "KS",
    "brier": "Brier score",
    "ece": "ECE",
    "f1": "F1",
    "mse": "MSE",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "mape": "MAPE",
}


def metric_name(metric: str) -> str:
    """Return the metric as people write it: `roc_auc` is `ROC AUC`, `f1_macro` is `F1, macro`."""
    if metric in NAMES:
        return NAMES[metric]
    for average in ("macro", "weighted"):
        if metric.endswith("_" + average):
            return f"{metric_name(metric.removesuffix('_' + average))}, {average}"
    return shorten(metric[:1].upper() + metric[1:].replace("_", " "))


def lower_is_better(metric: str) -> bool:
    return any(metrics.get(metric) is False for metrics in METRICS.values())


def visible(text: str) -> str:
    """Return `text` with every sign that cannot be seen replaced by U+FFFD; lines stay."""

    def shown(char: str) -> str:
        hidden = unicodedata.category(char)[0] == "C" and char not in JOINERS + "\n"
        return "\ufffd" if hidden else char

    return "".join(map(shown, text))


def one_line(text: str) -> str:
    """Return `text` on one visible line, white space collapsed."""
    # Only so much of an absurdly long text is looked at; `shorten` keeps far less of it.
    if len(text) > 20_000:
        text = text[:10_000] + text[-10_000:]
    return visible(" ".join(text.split()))


def shorten(text: str, length: int = NAME_LENGTH) -> str:
    """Return `text` on one line and at most `length` characters: its beginning, … and its end."""
    text = one_line(text)
    if len(text) <= length:
        return text
    tail = length // 4
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def decimals(*values: float | None) -> int:
    """Return how many decimals show the largest of the values with two to four digits."""
    largest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
    if largest == 0:
        return 4
    magnitude = math.floor(math.log10(largest))
    return min(max(3 - magnitude, 0), 4) if magnitude >= -3 else min(1 - magnitude, 8)


def figure(value: float | None, places: int | None = None, *, signed: bool = False) -> str:
    """Return a number with thousands separators and `places` decimals (chosen when None)."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size >= 1e12 or 0 < size < 1e-6:
        text = f"{size:.2e}"
    else:
        text = f"{size:,.{decimals(value) if places is None else places}f}"
    if not text.strip("0.,"):
        return text  # rounds to zero, which has no sign
    return ("−" if value < 0 else "+" if signed else "") + text


def whole(value: int) -> str:
    return f"{value:,}".replace("-", "−")


def counted(count: int, noun: str) -> str:
    """Return `1 row`, `2 rows`, `30,000 rows`."""
    return f"{whole(count)} {noun}{'' if count == 1 else 's'}"


def interval(low: float | None, high: float | None, places: int, *, signed: bool = False) -> str:
    if low is None or high is None:
        return NOTHING
    return f"{figure(low, places, signed=signed)} to {figure(high, places, signed=signed)}"


def percent(value: float | None) -> str:
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:.1%}".replace("-", "−")


def duration(microseconds: float) -> str:
    """Return a time with the unit that suits it."""
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds:.3g} µs"


def size(count: int) -> str:
    """Return a number of bytes in decimal units."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return counted(count, "byte")


def short_digest(digest: str) -> str:
    """Return the first twelve characters of a digest, enough to tell bundles apart by eye."""
    return one_line(digest).removeprefix("sha256:")[:12]


def text_bar(share: float, width: int = 20) -> str:
    """Return a bar of block characters, `share` of `width` long, in steps of an eighth."""
    if not share > 0:
        return ""
    eighths = max(1, round(min(share, 1.0) * width * 8))
    return "█" * (eighths // 8) + ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8]
