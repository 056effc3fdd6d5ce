"""The operations of a plan: each a small function over numpy arrays, found by name in `BUILD`.

A value is a column (1-d: float64, or objects when it is text) or a block (2-d float64, C order).
A builder checks its arguments and the shapes of its inputs once, at load, and returns the function
that runs per request with the shape of what it gives; so nothing needs checking in the hot path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trilho.compiled.formula import Formula
from trilho.compiled.trees import Forest
from trilho.errors import DataError, IntegrityError

Value = NDArray[Any]
Run = Callable[[list[Value]], Value]

MAX_WIDTH = 1 << 20


class Shape(NamedTuple):
    """`width` None: a column; else a block of so many columns."""

    width: int | None
    text: bool = False


NUMBERS = Shape(None)
TEXT = Shape(None, text=True)


class Arguments(NamedTuple):
    """What a node says beside its inputs."""

    plain: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    file: Callable[[str], bytes]

    def get(self, name: str, kind: type | tuple[type, ...]) -> Any:
        value = self.plain.get(name)
        if not isinstance(value, kind):
            raise IntegrityError(f"Argument {name!r} is {value!r}, which is not possible.")
        return value

    def array(self, name: str, *, ndim: int = 1, width: int | None = None) -> NDArray[Any]:
        array = self.arrays.get(name)
        if array is None or array.ndim != ndim or (width is not None and len(array) != width):
            raise IntegrityError(f"Argument {name!r} lacks its array, or it has a wrong shape.")
        return array

    def optional(self, name: str) -> float | None:
        """The only number of an array, None if it is empty."""
        array = self.array(name)
        if len(array) > 1:
            raise IntegrityError(f"Argument {name!r} holds more than one number.")
        return float(array[0]) if len(array) else None


Build = Callable[[Arguments, list[Shape]], tuple[Run, Shape]]
BUILD: dict[str, Build] = {}


def operation(name: str) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        BUILD[name] = build
        return build

    return register


# ── columns to a block ────────────────────────────────────────────────────────────────────────────


@operation("stack")
def _stack(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Columns and blocks side by side."""
    _expect(shapes, text=False)
    width = sum(1 if s.width is None else s.width for s in shapes)

    def run(values: list[Value]) -> Value:
        block = np.empty((len(values[0]), width))
        j = 0
        for value in values:
            if value.ndim == 1:
                block[:, j] = value
                j += 1
            else:
                block[:, j : j + value.shape[1]] = value
                j += value.shape[1]
        return block

    return run, _block(width)


@operation("formula")
def _formula(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Elementwise arithmetic over columns; see `formula.py`."""
    _expect(shapes, text=False, block=False)
    formula = Formula(
        len(shapes), args.array("constants"), args.get("steps", list), args.get("outputs", list)
    )

    def run(values: list[Value]) -> Value:
        rows = len(values[0])
        if rows == 1:
            return formula.row([float(v.item()) for v in values])
        return formula.batch(values, rows)

    return run, _block(formula.width)


# ── a column to a column ──────────────────────────────────────────────────────────────────────────


@operation("text_fill")
def _text_fill(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Text with `value` in place of missing."""
    _expect(shapes, 1, text=True)
    fill = args.get("value", str)

    def run(values: list[Value]) -> Value:
        return _objects([fill if is_missing(v) else v for v in values[0].tolist()])

    return run, TEXT


@operation("lookup")
def _lookup(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """The number that stands for each category.

    `default`, if not empty, holds what stands for any other category; else others are an error.
    Text categories stand in the plan, None among them for missing; numbers in a sorted array, with
    what stands for NaN in `missing` (empty: as for others).
    """
    _expect(shapes, 1, block=False)
    codes = args.array("codes").astype(np.float64)
    default = args.optional("default")
    label = args.get("column", str)

    def unknown(value: Any) -> DataError:  # the value itself may be personal data
        what = "a missing value" if is_missing(value) else "a category"
        return DataError(f"Column {label!r} holds {what} that was not in the training data.")

    if shapes[0].text:
        keys = args.get("categories", list)
        if len(keys) != len(codes) or not all(isinstance(k, str | None) for k in keys):
            raise IntegrityError("A lookup's categories do not fit its codes.")
        table = dict(zip(keys, codes.tolist(), strict=True))

        def run_text(values: list[Value]) -> Value:
            found = [table.get(None if is_missing(v) else v, default) for v in values[0].tolist()]
            if default is None and None in found:
                raise unknown(values[0][found.index(None)])
            return np.array(found, np.float64)

        return run_text, NUMBERS

    categories = args.array("categories", width=len(codes)).astype(np.float64)
    if not (np.diff(categories) > 0).all():
        raise IntegrityError("A lookup's categories are not sorted.")
    missing = args.optional("missing")
    other = np.nan if default is None else default

    def run_numbers(values: list[Value]) -> Value:
        column = values[0]
        if len(categories):
            place = np.minimum(np.searchsorted(categories, column), len(categories) - 1)
            known = categories[place] == column
            found = np.where(known, codes[place], other)
        else:
            known = np.zeros(len(column), np.bool_)
            found = np.full(len(column), other)
        if missing is not None:
            empty = np.isnan(column)
            found[empty] = missing
            known |= empty
        if default is None and not known.all():
            raise unknown(column[~known][0])
        return found

    return run_numbers, NUMBERS


@operation("one_hot")
def _one_hot(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """A column of indices as a block of zeros with a one; an index of -1 gives zeros only."""
    _expect(shapes, 1, text=False, block=False)
    width = args.get("width", int)

    def run(values: list[Value]) -> Value:
        hot: Value = values[0][:, None] == indices
        return hot.astype(np.float64)

    shape = _block(width)
    indices = np.arange(width, dtype=np.float64)
    return run, shape


# ── a block to a block ────────────────────────────────────────────────────────────────────────────


def _arithmetic(name: str, ufunc: np.ufunc) -> None:
    """Block and one number per column."""

    @operation(name)
    def build(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
        width = _width(shapes)
        numbers = args.array("values", width=width).astype(np.float64)
        return (lambda values: ufunc(values[0], numbers)), shapes[0]


for _name, _ufunc in {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "minimum": np.minimum,
    "maximum": np.maximum,
}.items():
    _arithmetic(_name, _ufunc)


@operation("fill")
def _fill(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """One number per column in place of `missing` (None: NaN)."""
    numbers = args.array("values", width=_width(shapes)).astype(np.float64)
    missing = args.get("missing", (int, float, type(None)))

    def run(values: list[Value]) -> Value:
        block = values[0]
        return np.where(np.isnan(block) if missing is None else block == missing, numbers, block)

    return run, shapes[0]


@operation("is_missing")
def _is_missing(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """1 where missing (None: NaN), else 0."""
    _width(shapes)
    missing = args.get("missing", (int, float, type(None)))

    def run(values: list[Value]) -> Value:
        block = values[0]
        return (np.isnan(block) if missing is None else block == missing).astype(np.float64)

    return run, shapes[0]


@operation("float32")
def _float32(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Rounded to single precision, as scikit-learn's trees see it."""
    _width(shapes)
    return (lambda values: values[0].astype(np.float32).astype(np.float64)), shapes[0]


@operation("require")
def _require(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Refuse infinities, and NaN unless `missing`, where scikit-learn refuses them."""
    _width(shapes)
    allowed = args.get("missing", bool)

    def run(values: list[Value]) -> Value:
        block = values[0]
        fine = np.isfinite(block)
        if allowed:
            fine |= np.isnan(block)
        if not fine.all():
            what = "a number is too large" if allowed else "a value is missing or too large"
            raise DataError(f"The model cannot take this row: {what} for it.")
        return block

    return run, shapes[0]


# Numbers held at a time by products of a few rows.
AT_ONCE = 65_536


@operation("linear")
def _linear(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Product with `weights` (inputs, outputs), plus `intercept`.

    Not by `@`: its libraries sum a row by itself in another order than the same row among others,
    and a row shall get the same number whichever way it comes, to the last bit.
    """
    weights = args.array("weights", ndim=2, width=_width(shapes)).astype(np.float64)
    intercept = args.array("intercept", width=weights.shape[1]).astype(np.float64)
    outputs = np.ascontiguousarray(weights.T)

    def run(values: list[Value]) -> Value:
        rows = values[0]
        if len(rows) * outputs.size <= AT_ONCE:
            products = np.multiply(rows[:, None, :], outputs, order="C")
            sums: Value = np.add.reduce(products, axis=2)
            return sums + intercept
        result = np.empty((len(rows), len(outputs)))
        for i, output in enumerate(outputs):
            np.add.reduce(np.multiply(rows, output, order="C"), axis=1, out=result[:, i])
        return result + intercept

    return run, _block(weights.shape[1])


@operation("trees")
def _trees(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """A tree ensemble, with its own link function unless `raw`."""
    width = _width(shapes)
    forest = Forest(args.file(args.get("file", str)), raw=args.get("raw", bool))
    if forest.features != width:
        raise IntegrityError(f"Trees take {forest.features} features, the plan gives {width}.")
    return (lambda values: forest.predict(values[0])), _block(forest.width)


# ── link functions ────────────────────────────────────────────────────────────────────────────────


@operation("sigmoid")
def _sigmoid(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    _width(shapes)
    return (lambda values: 1.0 / (1.0 + np.exp(-values[0]))), shapes[0]


@operation("softmax")
def _softmax(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    _width(shapes)

    def run(values: list[Value]) -> Value:
        powers = np.exp(values[0] - values[0].max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]

    return run, shapes[0]


@operation("exp")
def _exp(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    _width(shapes)
    return (lambda values: np.exp(values[0])), shapes[0]


@operation("complement")
def _complement(_args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """One minus a probability."""
    _expect(shapes, 1, text=False)
    return (lambda values: 1.0 - values[0]), shapes[0]


# ── checks ────────────────────────────────────────────────────────────────────────────────────────


def is_missing(value: Any) -> bool:
    """None or NaN."""
    return value is None or value != value


def _objects(values: list[Any]) -> Value:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _expect(
    shapes: list[Shape],
    count: int | None = None,
    *,
    text: bool | None = None,
    block: bool | None = None,
) -> None:
    if not shapes or (count is not None and len(shapes) != count):
        raise IntegrityError(f"It takes {count or 'some'} inputs, not {len(shapes)}.")
    for shape in shapes:
        if text is not None and shape.text != text:
            raise IntegrityError(f"It takes {'text' if text else 'numbers'} only.")
        if block is not None and (shape.width is not None) != block:
            raise IntegrityError(f"It takes {'a block' if block else 'columns'} only.")


def _width(shapes: list[Shape]) -> int:
    """The width of the only input, a block."""
    _expect(shapes, 1, text=False, block=True)
    width = shapes[0].width
    assert width is not None
    return width


def _block(width: int) -> Shape:
    if not 0 < width <= MAX_WIDTH:
        raise IntegrityError(f"A block of {width} columns is not possible.")
    return Shape(width)
