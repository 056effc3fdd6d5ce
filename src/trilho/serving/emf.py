"""CloudWatch's embedded metric format: a line on stdout, from which the log's reader makes metrics.

No agent and no permission is needed for it: the line goes the way of the log. Its numbers are what
came since the line before, of all workers together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from trilho.serving.measures import PREDICTING, SECONDS, Measures
from trilho.serving.metrics import Family
from trilho.serving.predictor import Identity

Cells = npt.NDArray[np.float64]

UNITS = {
    "Requests": "Count",
    "ClientErrors": "Count",
    "ServerErrors": "Count",
    "Overloads": "Count",
    "Rows": "Count",
    "MissingValues": "Count",
    "UnknownCategories": "Count",
    "LatencyMean": "Milliseconds",
    "LatencyP50": "Milliseconds",
    "LatencyP99": "Milliseconds",
    "Queue": "Count",
    "Connections": "Count",
}


class Lines:
    """Makes the lines, each since the one before."""

    def __init__(self, namespace: str, measures: Measures, identity: Identity) -> None:
        self._namespace = namespace
        self._measures = measures
        self._identity = identity
        self._before = measures.registry.total()

    def next(self) -> bytes:
        now = self._measures.registry.total()
        values = self._values(now - self._before, now)
        self._before = now
        dimensions = {"Model": self._identity.name}
        if self._identity.version:
            dimensions["Version"] = self._identity.version
        described = {
            "Namespace": self._namespace,
            "Dimensions": [["Model"], list(dimensions)] if len(dimensions) > 1 else [["Model"]],
            "Metrics": [{"Name": name, "Unit": UNITS[name]} for name in values],
        }
        head = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [described]}
        record = {"_aws": head, **dimensions, "Digest": self._identity.digest, **values}
        return msgspec.json.encode(record) + b"\n"

    def _values(self, since: Cells, now: Cells) -> dict[str, float]:
        measures = self._measures
        predicting = [
            (cell, int(status))
            for (route, status), cell in measures.requests.series.items()
            if route in PREDICTING
        ]
        buckets, total = np.zeros(len(SECONDS) + 1), 0.0
        for route in PREDICTING:
            start = measures.seconds.cell(route)
            buckets += since[start : start + len(SECONDS) + 1]
            total += float(since[start + len(SECONDS) + 1])
        count = float(buckets.sum())
        overloads = float(since[measures.errors.cell("overload")])
        values = {
            "Requests": float(sum(since[cell] for cell, _ in predicting)),
            "ClientErrors": float(sum(since[c] for c, status in predicting if 400 <= status < 500)),
            "ServerErrors": float(since[measures.errors.cell("internal")]),
            "Overloads": overloads,
            "Rows": float(since[measures.rows.start]),
            "MissingValues": _sum(since, measures.missing),
            "UnknownCategories": _sum(since, measures.unknown),
            "Queue": float(now[measures.waiting.start]),
            "Connections": float(now[measures.connections.start]),
        }
        if count:  # without requests there is no latency, and zero would be a lie
            values["LatencyMean"] = total / count * 1000
            values["LatencyP50"] = quantile(SECONDS, buckets, 0.5) * 1000
            values["LatencyP99"] = quantile(SECONDS, buckets, 0.99) * 1000
        return values


def _sum(cells: Cells, family: Family) -> float:
    return float(sum(cells[cell] for cell in family.series.values()))


def quantile(edges: Sequence[float], buckets: Cells, share: float) -> float:
    """Return a quantile of a histogram, straight between the edges of its bucket."""
    below = np.cumsum(buckets)
    wanted = share * below[-1]
    i = int(np.searchsorted(below, wanted))
    if i >= len(edges):
        return float(edges[-1])
    low = edges[i - 1] if i else 0.0
    before = below[i - 1] if i else 0.0
    return float(low + (edges[i] - low) * (wanted - before) / buckets[i])
