"""Elementwise arithmetic over columns, as data: a list of steps, each a name from a fixed table.

Every function has two forms: over arrays (numpy), and over one row's Python numbers, which is ten
times faster there and gives the same bits. Where Python's own arithmetic would not give numpy's
bits (the C library's `exp` is not numpy's), the row form calls numpy too.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trilho.errors import IntegrityError

Number = float | bool


class Function(NamedTuple):
    arity: int
    batch: Callable[..., Any]
    row: Callable[..., Number]


def _divide(a: float, b: float) -> float:
    if b:
        return a / b
    if not a or a != a:
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def _maximum(a: float, b: float) -> float:
    return a if a >= b or a != a else b


def _minimum(a: float, b: float) -> float:
    return a if a <= b or a != a else b


def _fmax(a: float, b: float) -> float:
    return a if a >= b or b != b else b


def _fmin(a: float, b: float) -> float:
    return a if a <= b or b != b else b


def _sqrt(a: float) -> float:
    return math.sqrt(a) if a >= 0 else (a if a != a else math.nan)


def _where(condition: Number, a: Number, b: Number) -> Number:
    return a if condition else b


def _same(ufunc: np.ufunc) -> Function:
    """A function whose row form is numpy's own, on one number."""

    def row(*numbers: Number) -> Number:
        return ufunc(*numbers).item()  # type: ignore[no-any-return]

    return Function(ufunc.nin, ufunc, row)


FUNCTIONS: dict[str, Function] = {
    "add": Function(2, np.add, operator.add),
    "subtract": Function(2, np.subtract, operator.sub),
    "multiply": Function(2, np.multiply, operator.mul),
    "divide": Function(2, np.divide, _divide),
    "maximum": Function(2, np.maximum, _maximum),
    "minimum": Function(2, np.minimum, _minimum),
    "fmax": Function(2, np.fmax, _fmax),
    "fmin": Function(2, np.fmin, _fmin),
    "negative": Function(1, np.negative, operator.neg),
    "positive": Function(1, np.positive, operator.pos),
    "absolute": Function(1, np.absolute, abs),
    "square": Function(1, np.square, lambda a: a * a),
    "reciprocal": Function(1, np.reciprocal, lambda a: _divide(1.0, a)),
    "sqrt": Function(1, np.sqrt, _sqrt),
    "greater": Function(2, np.greater, operator.gt),
    "greater_equal": Function(2, np.greater_equal, operator.ge),
    "less": Function(2, np.less, operator.lt),
    "less_equal": Function(2, np.less_equal, operator.le),
    "equal": Function(2, np.equal, operator.eq),
    "not_equal": Function(2, np.not_equal, operator.ne),
    "logical_and": Function(2, np.logical_and, lambda a, b: bool(a) and bool(b)),
    "logical_or": Function(2, np.logical_or, lambda a, b: bool(a) or bool(b)),
    "logical_xor": Function(2, np.logical_xor, lambda a, b: bool(a) != bool(b)),
    "logical_not": Function(1, np.logical_not, operator.not_),
    "isnan": Function(1, np.isnan, math.isnan),
    "isfinite": Function(1, np.isfinite, math.isfinite),
    "isinf": Function(1, np.isinf, math.isinf),
    "where": Function(3, np.where, _where),
    "float": Function(1, lambda a: np.asarray(a, np.float64), float),
} | {
    ufunc.__name__: _same(ufunc)
    for ufunc in (
        *(np.floor_divide, np.remainder, np.power, np.copysign, np.hypot, np.arctan2),
        *(np.floor, np.ceil, np.trunc, np.rint, np.sign, np.cbrt),
        *(np.exp, np.exp2, np.expm1, np.log, np.log1p, np.log2, np.log10),
        *(np.sin, np.cos, np.tan, np.arcsin, np.arccos, np.arctan, np.sinh, np.cosh, np.tanh),
    )
}

NONE: Any = -1
Step = Sequence[Any]  # [name, operand, ...]; operands index inputs, then constants, then steps


class Formula:
    """Steps over `inputs` columns and some constants that give `len(outputs)` columns.

    Raises
    ------
    IntegrityError
        A step is unknown, has the wrong number of operands, or looks ahead.
    """

    def __init__(
        self, inputs: int, constants: NDArray[np.float64], steps: list[Step], outputs: list[int]
    ) -> None:
        self._constants = [float(c) for c in constants]
        self._outputs = outputs
        self._batch: list[tuple[Callable[..., Any], tuple[int, ...]]] = []
        self._row: list[tuple[Callable[..., Number], int, int, int]] = []
        known = inputs + len(self._constants)
        for step in steps:
            name, operands = (
                (step[0], list(step[1:])) if isinstance(step, list) and step else (0, [])
            )
            function = FUNCTIONS.get(name) if isinstance(name, str) else None
            if function is None:
                raise IntegrityError(f"A formula names an unknown function {name!r}.")
            if len(operands) != function.arity:
                raise IntegrityError(
                    f"A formula gives {name} {len(operands)} operands, expected {function.arity}."
                )
            _check_range(operands, known)
            first, second, third = (*operands, NONE, NONE)[:3]
            self._batch.append((function.batch, tuple(operands)))
            self._row.append((function.row, first, second, third))
            known += 1
        _check_range(outputs, known)

    @property
    def width(self) -> int:
        return len(self._outputs)

    def batch(self, columns: Sequence[NDArray[np.float64]], rows: int) -> NDArray[np.float64]:
        """Return an array of shape (rows, width)."""
        values: list[Any] = [*columns, *self._constants]
        for function, operands in self._batch:
            values.append(function(*[values[i] for i in operands]))
        block = np.empty((rows, len(self._outputs)))
        for j, i in enumerate(self._outputs):
            block[:, j] = values[i]
        return block

    def row(self, numbers: list[float]) -> NDArray[np.float64]:
        """Return an array of shape (1, width) for the numbers of one row."""
        values: list[Any] = numbers + self._constants
        append = values.append
        for function, i, j, k in self._row:
            if j < 0:
                append(function(values[i]))
            elif k < 0:
                append(function(values[i], values[j]))
            else:
                append(function(values[i], values[j], values[k]))
        return np.array([[values[i] for i in self._outputs]], np.float64)


def _check_range(indices: Sequence[Any], known: int) -> None:
    for i in indices:
        if type(i) is not int or not 0 <= i < known:
            raise IntegrityError(f"A formula refers to value {i!r}; {known} are known there.")
