"""What an operation of a plan is, and the register that finds it by name.

A value is a column (1-d: float64, or objects when it is text) or a block (2-d float64, C order).
A builder checks its arguments and the shapes of its inputs once, at load, and returns the function
that runs per request with the shape of what it gives; so nothing needs checking in the hot path.
No operation changes a value that it is given: another one may need it too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trilho.errors import IntegrityError

Value = NDArray[Any]
Run = Callable[[Sequence[Value]], Value]

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

    def get(self, name: str, kind: type | tuple[type, ...]) -> Any:
        value = self.plain.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise IntegrityError(f"Argument {name!r} is {value!r}, which is not possible.")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value: str = self.get(name, str)
        if value not in choices:
            raise IntegrityError(f"Argument {name!r} is {value!r}, expected one of {choices}.")
        return value

    def array(self, name: str, *, ndim: int = 1, width: int | None = None) -> NDArray[np.float64]:
        """An array as float64; `width` is the length of its first axis."""
        array = self.arrays.get(name)
        if array is None or array.ndim != ndim or (width is not None and len(array) != width):
            raise IntegrityError(f"Argument {name!r} lacks its array, or it has a wrong shape.")
        return np.ascontiguousarray(array, dtype=np.float64)

    def whole(self, name: str, low: int, high: int) -> NDArray[np.int64]:
        """A 1-d array of whole numbers from `low` to below `high`."""
        array = self.arrays.get(name)
        if array is None or array.ndim != 1 or array.dtype.kind != "i":
            raise IntegrityError(f"Argument {name!r} lacks its array of whole numbers.")
        if len(array) and not (array.min() >= low and array.max() < high):
            raise IntegrityError(f"Argument {name!r} holds a number out of range.")
        return array.astype(np.int64)

    def ragged(self, name: str, count: int) -> list[NDArray[np.float64]]:
        """`count` arrays that stand one after the other in `name`, of lengths `name_sizes`."""
        values, sizes = self.array(name), self.whole(f"{name}_sizes", 0, 1 << 31)
        if len(sizes) != count or sizes.sum() != len(values):
            raise IntegrityError(f"Argument {name!r} does not divide into {count} parts.")
        return np.split(values, np.cumsum(sizes)[:-1])

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


# ── checks that builders share ────────────────────────────────────────────────────────────────────


def expect(
    shapes: list[Shape],
    count: int | None = None,
    *,
    text: bool | None = None,
    block: bool | None = None,
) -> None:
    """Check the inputs' number and shapes."""
    if not shapes or (count is not None and len(shapes) != count):
        raise IntegrityError(f"It takes {count or 'some'} inputs, not {len(shapes)}.")
    for shape in shapes:
        if text is not None and shape.text != text:
            raise IntegrityError(f"It takes {'text' if text else 'numbers'} only.")
        if block is not None and (shape.width is not None) != block:
            raise IntegrityError(f"It takes {'a block' if block else 'columns'} only.")


def width_of(shapes: list[Shape]) -> int:
    """The width of the only input, a block."""
    expect(shapes, 1, text=False, block=True)
    width = shapes[0].width
    assert width is not None
    return width


def same_widths(shapes: list[Shape]) -> int:
    """The width of all inputs, blocks."""
    expect(shapes, text=False, block=True)
    widths = {shape.width for shape in shapes}
    if len(widths) != 1:
        raise IntegrityError("It takes blocks of one width only.")
    return width_of(shapes[:1])


def block_of(width: int) -> Shape:
    if not 0 < width <= MAX_WIDTH:
        raise IntegrityError(f"A block of {width} columns is not possible.")
    return Shape(width)


def is_missing(value: Any) -> bool:
    """None or NaN."""
    return value is None or value != value
