"""What the service counts and times, and where on its way through the service that happens."""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trilho.serving.columns import NUMERIC, Batch
from trilho.serving.messages import KINDS, Response
from trilho.serving.metrics import Registry, exposition, head, line
from trilho.serving.predictor import Prediction, Predictor

SECONDS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
ROWS = (1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0)
STATUSES = ("200", "400", "401", "404", "405", "408", "413", "415", "431", "500", "503")
# The routes by name; those that predict, the rest, and what stands for all paths that are none.
PREDICTING = ("/invocations", "/v2/infer")
ROUTES = (
    *("/ping", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2/model/ready"),
    *("/model", "/version", "/metrics", "/openapi.json", "/docs", "/v2", "/v2/model"),
)
OTHER = "other"
SCORE_BINS = 20
FEW_ROWS = 16


class Measures:
    """The metrics of one service.

    Others may define further ones on `registry` until its `open` is called.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.registry = define = Registry()
        routes = [*PREDICTING, *ROUTES, OTHER]
        signature = predictor.signature
        identity = predictor.identity
        self._info = {
            "name": identity.name,
            "version": identity.version or "",
            "digest": identity.digest,
        }
        self.requests = define.counter(
            "trilho_requests_total", "Requests answered.", route=routes, status=STATUSES
        )
        self.errors = define.counter(
            "trilho_errors_total", "Requests answered with an error, by its kind.", kind=KINDS
        )
        self.seconds = define.histogram(
            "trilho_request_seconds",
            "From a request's last byte to its answer, waiting included.",
            SECONDS,
            route=PREDICTING,
        )
        self.waited = define.histogram(
            "trilho_queue_seconds", "What predictions waited before their turn.", SECONDS
        )
        self.waiting = define.gauge("trilho_queue_requests", "Predictions that wait.")
        self.connections = define.gauge("trilho_connections", "Open connections.")
        self.buffered = define.gauge("trilho_buffered_bytes", "Request bodies in memory.")
        self.ready = define.gauge("trilho_ready_workers", "Workers that are ready.")
        self.evicted = define.counter(
            "trilho_evicted_connections_total",
            "Slow or idle connections closed to make room, and connections refused.",
        )
        self.rows = define.counter("trilho_rows_total", "Rows predicted.")
        self.batch = define.histogram("trilho_request_rows", "Rows of a prediction.", ROWS)
        score, self._edges = _score(predictor)
        self.score = define.histogram("trilho_score", score, self._edges)
        self._cuts = np.array(self._edges)
        labels = [str(label) for label in signature.classes or []]
        self.decisions = define.counter(
            "trilho_decisions_total", "Rows by the class decided.", decision=labels
        )
        self._decided = {
            label: self.decisions.cell(str(label)) for label in signature.classes or []
        }
        optional = [column.name for column in signature.columns if not column.required]
        self.missing = define.counter(
            "trilho_input_missing_total", "Rows in which a column was missing.", column=optional
        )
        known = {
            column.name: frozenset(column.categories)
            for column in signature.columns
            if column.categories is not None and column.kind == "string"
        }
        self.unknown = define.counter(
            "trilho_input_unknown_total",
            "Rows with a category that was not in the training data.",
            column=known,
        )
        numeric = {column.name for column in signature.columns if column.kind in NUMERIC}
        self._missing_numbers = [
            (i, self.missing.cell(name))
            for i, name in enumerate(predictor.columns.numeric)
            if name in optional and name in numeric
        ]
        self._missing_dates = [
            (column.name, self.missing.cell(column.name))
            for column in signature.columns
            if column.kind == "date" and not column.required
        ]
        self._texts = [
            (
                column.name,
                None if column.required else self.missing.cell(column.name),
                known.get(column.name),
                self.unknown.cell(column.name) if column.name in known else 0,
            )
            for column in signature.columns
            if column.kind == "string" and (not column.required or column.name in known)
        ]
        self._cell: dict[tuple[str, int], int] = {
            (route, int(status)): self.requests.cell(route, status)
            for route in routes
            for status in STATUSES
        }
        self._time = {route: self.seconds.cell(route) for route in PREDICTING}

    def answered(self, response: Response, route: str, seconds: float) -> None:
        """Count a request and its time."""
        cells = self.registry.cells
        cells[self._cell[route, response.status]] += 1
        start = self._time.get(route)
        if start is not None:
            cells[start + bisect_left(SECONDS, seconds)] += 1
            cells[start + len(SECONDS) + 1] += seconds
        if response.problem is not None:
            cells[self.errors.cell(response.problem)] += 1

    def turn(self, seconds: float) -> None:
        """Count what a request waited for its turn."""
        cells, start = self.registry.cells, self.waited.start
        cells[start + bisect_left(SECONDS, seconds)] += 1
        cells[start + len(SECONDS) + 1] += seconds

    def predicted(self, prediction: Prediction, sizes: list[int]) -> None:
        """Count what was predicted, for requests of so many rows."""
        cells = self.registry.cells
        rows = prediction.batch.rows
        cells[self.rows.start] += rows
        for size in sizes:
            cells[self.batch.start + bisect_left(ROWS, size)] += 1
        cells[self.batch.start + len(ROWS) + 1] += rows
        scores = prediction.scores if prediction.scores.ndim == 1 else prediction.scores.max(axis=1)
        start, edges = self.score.start, self._edges
        if rows <= FEW_ROWS:  # faster than numpy
            for score in scores.tolist():
                if math.isfinite(score):
                    cells[start + bisect_left(edges, score)] += 1
                    cells[start + len(edges) + 1] += score
        else:
            scores = scores[np.isfinite(scores)]
            places = np.bincount(self._cuts.searchsorted(scores), minlength=len(edges) + 1)
            for i in np.flatnonzero(places).tolist():
                cells[start + i] += int(places[i])
            cells[start + len(edges) + 1] += float(scores.sum())
        if prediction.decisions is not None:
            for label, cell in self._decided.items():
                cells[cell] += prediction.decisions.count(label)
        self._looked_at(prediction.batch)

    def _looked_at(self, batch: Batch) -> None:
        cells = self.registry.cells
        if self._missing_numbers:
            empty = np.isnan(batch.matrix)
            if empty.any():
                for i, cell in self._missing_numbers:
                    cells[cell] += int(empty[i].sum())
        for name, cell in self._missing_dates:
            cells[cell] += int(np.isnan(batch.columns[name]).sum())
        for name, missing, known, unknown in self._texts:
            values = batch.columns[name].tolist()
            empty_texts = values.count(None) if missing is not None else 0
            if missing is not None and empty_texts:
                cells[missing] += empty_texts
            if known is not None:
                strange = sum(value not in known for value in values) - empty_texts
                if strange:
                    cells[unknown] += strange

    def text(self) -> bytes:
        """Return Prometheus's text format: sums over the workers, and figures of each process."""
        lines = [*head("trilho_model_info", "The model that answers.", "gauge")]
        lines.append(line("trilho_model_info", self._info, 1))
        lines += exposition(self.registry)
        lines += _processes(self.registry.processes())
        return "".join(lines).encode()


def _score(predictor: Predictor) -> tuple[str, tuple[float, ...]]:
    """Return what the histogram of scores is of, and its edges."""
    task = predictor.signature.task
    if task != "regression":
        what = "probability of the positive class" if task == "binary" else "largest probability"
        return f"The {what}.", tuple(i / SCORE_BINS for i in range(1, SCORE_BINS + 1))
    low, high = predictor.golden_range
    step = (high - low) / SCORE_BINS or 1.0
    return "The predicted value.", tuple(
        float(f"{low + i * step:.6g}") for i in range(SCORE_BINS + 1)
    )


def _processes(pids: list[int]) -> Iterator[str]:
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    figures: list[tuple[str, str, str, list[tuple[str, float]]]] = [
        ("process_resident_memory_bytes", "Resident memory of a worker.", "gauge", []),
        ("process_cpu_seconds_total", "Processor time of a worker.", "counter", []),
        ("process_open_fds", "Open files and connections of a worker.", "gauge", []),
        ("process_threads", "Threads of a worker.", "gauge", []),
    ]
    for worker, pid in enumerate(pids):
        process = Path(f"/proc/{pid}")
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            files = len(os.listdir(process / "fd"))  # noqa: PTH208 - names only
        except OSError:  # it has just died, or this is no Linux
            continue
        values = (
            int(fields[21]) * page,
            (int(fields[11]) + int(fields[12])) / ticks,
            files,
            int(fields[17]),
        )
        for (*_, found), value in zip(figures, values, strict=True):
            found.append((str(worker), value))
    for name, text, kind, found in figures:
        yield from head(name, text, kind)
        for worker_name, value in found:
            yield line(name, {"worker": worker_name}, value)
