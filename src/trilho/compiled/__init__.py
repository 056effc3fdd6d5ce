"""The serving form of a model: a plan of numpy operations.

The serving image imports this package, so it needs numpy, treelite and msgspec only. The form is
data, not code: loading it executes nothing. `trilho.training.compile` writes it and proves it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trilho.compiled import (  # noqa: F401 - they register
    blocks,
    curves,
    ensembles,
    scores,
    texts,
)
from trilho.compiled.operations import BUILD, NUMBERS, TEXT, Arguments, Run, Shape, Value
from trilho.compiled.plan import FOLDER, WHOLE, Node, Plan, Ref, read
from trilho.errors import DataError, IntegrityError

__all__ = ["CHUNK", "FOLDER", "CompiledModel", "load"]

# Rows evaluated at once: large enough to amortise Python, small enough to stay in the cache, and
# fewer where the plan is so wide that they would take much memory.
CHUNK = 16_384
MAX_CELLS = 1 << 23  # of all values of a chunk together
MAX_ROW = 1 << 24  # cells of all values of one row

# From all values, the inputs first, to those that a step takes.
Take = Callable[[list[Value]], Sequence[Value]]


def load(folder: Path) -> CompiledModel:
    """Load the compiled form of a verified bundle: `folder` is the bundle's or its `compiled/`.

    Raises
    ------
    IntegrityError
        Something is missing, unknown, of the wrong shape or out of range.
    """
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    plan, arrays = read(folder)
    return CompiledModel(plan, arrays)


class CompiledModel:
    """A loaded plan; threads may share it.

    Attributes
    ----------
    task
        binary, multiclass or regression.
    columns
        Name of each input column to whether it is text.
    """

    def __init__(self, plan: Plan, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.task = plan.task
        self.columns = {i.name: i.text for i in plan.inputs}
        if len(self.columns) != len(plan.inputs) or not plan.inputs:
            raise IntegrityError("The plan repeats an input, or has none.")
        shapes = [TEXT if i.text else NUMBERS for i in plan.inputs]
        self._names = [i.name for i in plan.inputs]
        self._steps: list[tuple[Run, Take]] = []
        cells = 0
        for number, node in enumerate(plan.nodes):
            try:
                take, given = _resolve(node.inputs, shapes)
                run, shape = _build(node, given, arrays)
            except IntegrityError as error:
                where = f"Step {number} ({node.op}) of the compiled form is wrong"
                raise IntegrityError(f"{where}: {error.message}") from None
            self._steps.append((run, take))
            shapes.append(shape)
            cells += shape.width or 1
        self._output, (shape,) = _resolve([plan.output], shapes)
        if shape.text or (shape.width is None) == (plan.task == "multiclass"):
            raise IntegrityError("The plan's output does not fit its task.")
        self._width = shape.width
        if cells > MAX_ROW:
            raise IntegrityError(f"The plan makes {cells} values a row, at most {MAX_ROW} can be.")
        self._rows = max(1, MAX_CELLS // max(1, cells))

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Predict some rows.

        Parameters
        ----------
        columns
            Name to 1-d array, all of one length: float64 with NaN for missing (integers, booleans
            as 0 and 1, dates as days since 1970-01-01), objects (str, None) for text. Others than
            the model's are ignored.

        Returns
        -------
        array
            binary: (rows,) probabilities of the positive class; multiclass: (rows, classes);
            regression: (rows,) values.

        Raises
        ------
        DataError
            A column is missing, or the model cannot take one of the rows.
        """
        try:
            inputs = [columns[name] for name in self._names]
        except KeyError as error:
            raise DataError(f"Column {error.args[0]!r} is missing.") from None
        rows = len(inputs[0])
        if rows == 0:
            return np.empty(0 if self._width is None else (0, self._width))
        step = min(CHUNK, self._rows)
        if rows <= step:
            return self._run(inputs)
        chunks = [slice(start, start + step) for start in range(0, rows, step)]
        # numpy and treelite work outside of the interpreter's lock
        with ThreadPoolExecutor(min(len(chunks), os.cpu_count() or 1)) as pool:
            parts = pool.map(lambda chunk: self._run([c[chunk] for c in inputs]), chunks)
            return np.concatenate(list(parts))

    def _run(self, values: list[Value]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            for run, take in self._steps:
                values.append(run(take(values)))
            return self._output(values)[0]


def _build(
    node: Node, shapes: list[Shape], arrays: Mapping[str, NDArray[Any]]
) -> tuple[Run, Shape]:
    build = BUILD.get(node.op)
    if build is None:
        raise IntegrityError("this operation is unknown.")
    unknown = set(node.arrays.values()) - set(arrays)
    if unknown:
        raise IntegrityError(f"array {min(unknown)!r} is missing.")
    own = {argument: arrays[name] for argument, name in node.arrays.items()}
    return build(Arguments(node.args, own), shapes)


def _resolve(refs: list[Ref], shapes: list[Shape]) -> tuple[Take, list[Shape]]:
    """Turn references into a function that takes the values out of their slots."""
    given: list[Shape] = []
    for slot, column in refs:
        if not 0 <= slot < len(shapes):
            raise IntegrityError(f"it refers to value {slot}; {len(shapes)} are known there.")
        shape = shapes[slot]
        if column == WHOLE:
            given.append(shape)
        elif shape.width is not None and 0 <= column < shape.width:
            given.append(Shape(None, shape.text))
        else:
            raise IntegrityError(f"it refers to column {column} of value {slot}, which has none.")
    return _take(refs), given


def _take(refs: list[Ref]) -> Take:
    slots = [slot for slot, _ in refs]
    if all(column == WHOLE for _, column in refs):
        if len(slots) > 1:
            return itemgetter(*slots)
        return lambda values: [values[slot] for slot in slots]
    return lambda values: [
        values[slot] if column == WHOLE else values[slot][:, column] for slot, column in refs
    ]
