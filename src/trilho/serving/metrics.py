"""Counters, gauges and histograms of all workers in one piece of shared memory.

All series exist from the start, so each is a fixed cell; a worker writes only to its own row of
cells, so nothing is locked, and whoever is asked adds the rows up. A worker that takes a dead one's
place goes on with its row: counters never go back.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Family(NamedTuple):
    """One metric: its series are cells from `start` on.

    A series of a histogram has a cell for each bucket, one for what is above all of them, and one
    for the sum of what was observed.
    """

    name: str
    help: str
    kind: str  # counter | gauge | histogram
    start: int
    edges: tuple[float, ...]
    labels: tuple[str, ...]
    series: dict[tuple[str, ...], int]  # the labels' values to the first cell

    def cell(self, *values: str) -> int:
        """Return the series' cell, of a histogram the first."""
        return self.series[values]


class Registry:
    """The metrics of a service; define all of them, then `open` the memory.

    `cells` is this worker's row: `cells[family.cell("a")] += 1`.
    """

    def __init__(self) -> None:
        self.families: list[Family] = []
        self.width = 1  # the first cell holds the process's number
        self.cells: Any = None  # a memoryview of doubles: the type checker cannot say so
        self._all: npt.NDArray[np.float64] = np.zeros((0, 0))

    def counter(self, name: str, help: str, **labels: Iterable[str]) -> Family:
        return self._define(name, help, "counter", (), labels)

    def gauge(self, name: str, help: str, **labels: Iterable[str]) -> Family:
        return self._define(name, help, "gauge", (), labels)

    def histogram(
        self, name: str, help: str, edges: Sequence[float], **labels: Iterable[str]
    ) -> Family:
        """Define a histogram; `edges` are the upper bounds of its buckets, rising."""
        return self._define(name, help, "histogram", tuple(edges), labels)

    def _define(
        self, name: str, help: str, kind: str, edges: tuple[float, ...], labels: Any
    ) -> Family:
        assert self.cells is None, "define all metrics before the memory is opened"
        size = len(edges) + 2 if kind == "histogram" else 1
        start = self.width
        series: dict[tuple[str, ...], int] = {}
        for values in product(*labels.values()):
            series[values] = self.width
            self.width += size
        family = Family(name, help, kind, start, edges, tuple(labels), series)
        self.families.append(family)
        return family

    def open(self, workers: int) -> None:
        """Make the memory, which processes forked from here on share."""
        memory = mmap.mmap(-1, max(1, workers * self.width * 8))
        count = workers * self.width
        self._all = np.frombuffer(memory, np.float64, count).reshape(workers, self.width)
        self._memory = memory

    def use(self, worker: int) -> None:
        """Write to this worker's row from now on."""
        row = self.width * 8
        self.cells = memoryview(self._memory)[worker * row : (worker + 1) * row].cast("d")
        self.cells[0] = os.getpid()

    def processes(self) -> list[int]:
        """Return the number of each worker's process."""
        return list(map(int, self.column(0)))

    def column(self, cell: int) -> list[float]:
        """Return one cell of every worker."""
        values: list[float] = self._all[:, cell].tolist()
        return values

    def total(self) -> npt.NDArray[np.float64]:
        """Return the sum of all workers' rows."""
        total: npt.NDArray[np.float64] = self._all.sum(axis=0)
        return total


def exposition(registry: Registry) -> Iterator[str]:
    """Yield the lines of Prometheus's text format, summed over the workers."""
    total = registry.total().tolist()
    for family in registry.families:
        yield from head(family.name, family.help, family.kind)
        for values, start in family.series.items():
            labels = dict(zip(family.labels, values, strict=True))
            if family.kind != "histogram":
                yield line(family.name, labels, total[start])
                continue
            count = 0.0
            for i, edge in enumerate([*map(_number, family.edges), "+Inf"]):
                count += total[start + i]
                yield line(f"{family.name}_bucket", labels | {"le": edge}, count)
            yield line(f"{family.name}_sum", labels, total[start + len(family.edges) + 1])
            yield line(f"{family.name}_count", labels, count)


def head(name: str, help: str, kind: str) -> Iterator[str]:
    escaped = help.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {name} {escaped}\n"
    yield f"# TYPE {name} {kind}\n"


def line(name: str, labels: dict[str, str], value: float) -> str:
    inner = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
    return f"{name}{{{inner}}} {_number(value)}\n" if inner else f"{name} {_number(value)}\n"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
