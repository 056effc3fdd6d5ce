"""The serving form of a model: a plan of numpy operations and treelite's trees.

The serving image imports this package, so it needs numpy, treelite and msgspec only. The form is
data, not code: loading it executes nothing. `trilho.training.compile` writes it and proves it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trilho.compiled.operations import BUILD, NUMBERS, TEXT, Arguments, Run, Shape, Value
from trilho.compiled.plan import FOLDER, WHOLE, Node, Plan, Ref, read
from trilho.errors import DataError, IntegrityError

__all__ = ["CHUNK", "FOLDER", "CompiledModel", "load"]

# Rows evaluated at once: large enough to amortise Python, small enough to stay in the cache.
CHUNK = 16_384

Take = Callable[[list[Value]], Value]


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
    return CompiledModel(plan, arrays, folder)


class CompiledModel:
    """A loaded plan; threads may share it.

    Attributes
    ----------
    task
        binary, multiclass or regression.
    columns
        Name of each input column to whether it is text.
    """

    def __init__(self, plan: Plan, arrays: Mapping[str, NDArray[Any]], folder: Path) -> None:
        self.task = plan.task
        self.columns = {i.name: i.text for i in plan.inputs}
        if len(self.columns) != len(plan.inputs) or not plan.inputs:
            raise IntegrityError("The plan repeats an input, or has none.")
        shapes = [TEXT if i.text else NUMBERS for i in plan.inputs]
        self._names = [i.name for i in plan.inputs]
        self._steps: list[tuple[Run, list[Take]]] = []
        for number, node in enumerate(plan.nodes):
            try:
                takes, given = _resolve(node.inputs, shapes)
                run, shape = _build(node, given, arrays, folder)
            except IntegrityError as error:
                where = f"Step {number} ({node.op}) of the compiled form is wrong"
                raise IntegrityError(f"{where}: {error.message}") from None
            self._steps.append((run, takes))
            shapes.append(shape)
        (self._output,), (shape,) = _resolve([plan.output], shapes)
        if shape.text or (shape.width is None) == (plan.task == "multiclass"):
            raise IntegrityError("The plan's output does not fit its task.")
        self._width = shape.width

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
        if rows <= CHUNK:
            return self._run(inputs)
        chunks = [slice(start, start + CHUNK) for start in range(0, rows, CHUNK)]
        # numpy and treelite work outside of the interpreter's lock
        with ThreadPoolExecutor(min(len(chunks), os.cpu_count() or 1)) as pool:
            parts = pool.map(lambda chunk: self._run([c[chunk] for c in inputs]), chunks)
            return np.concatenate(list(parts))

    def _run(self, values: list[Value]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            for run, takes in self._steps:
                values.append(run([take(values) for take in takes]))
            return self._output(values)


def _build(
    node: Node, shapes: list[Shape], arrays: Mapping[str, NDArray[Any]], folder: Path
) -> tuple[Run, Shape]:
    build = BUILD.get(node.op)
    if build is None:
        raise IntegrityError("this operation is unknown.")
    unknown = set(node.arrays.values()) - set(arrays)
    if unknown:
        raise IntegrityError(f"array {min(unknown)!r} is missing.")

    def file(name: str) -> bytes:
        if "/" in name or "\\" in name or name.startswith("."):
            raise IntegrityError(f"file name {name!r} is not possible.")
        try:
            return (folder / name).read_bytes()
        except (OSError, ValueError):
            raise IntegrityError(f"file {name!r} is missing.") from None

    own = {argument: arrays[name] for argument, name in node.arrays.items()}
    return build(Arguments(node.args, own, file), shapes)


def _resolve(refs: list[Ref], shapes: list[Shape]) -> tuple[list[Take], list[Shape]]:
    """Turn references into functions that take the values out of their slots."""
    takes: list[Take] = []
    given: list[Shape] = []
    for slot, column in refs:
        if not 0 <= slot < len(shapes):
            raise IntegrityError(f"it refers to value {slot}; {len(shapes)} are known there.")
        shape = shapes[slot]
        if column == WHOLE:
            takes.append(_take_whole(slot))
            given.append(shape)
        elif shape.width is not None and 0 <= column < shape.width:
            takes.append(_take_column(slot, column))
            given.append(Shape(None, shape.text))
        else:
            raise IntegrityError(f"it refers to column {column} of value {slot}, which has none.")
    return takes, given


def _take_whole(slot: int) -> Take:
    return lambda values: values[slot]


def _take_column(slot: int, column: int) -> Take:
    return lambda values: values[slot][:, column]
