"""Turn a feature function over arrays into data, by calling it with arrays that take notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from trilho.compiled.formula import FUNCTIONS
from trilho.training.refused import CompileRefused

# Exact on truth values too; every other function wants numbers.
ON_TRUTH = {
    *("add", "multiply", "maximum", "minimum", "fmax", "fmin", "where", "float", "divide"),
    *("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"),
    *("logical_and", "logical_or", "logical_xor", "logical_not", "subtract"),
}
GIVES_TRUTH = {
    *("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"),
    *("logical_and", "logical_or", "logical_xor", "logical_not", "isnan", "isfinite", "isinf"),
}
# numpy's meaning of arithmetic between two truth values
BETWEEN_TRUTHS = {
    "add": "logical_or",
    "maximum": "logical_or",
    "fmax": "logical_or",
    "multiply": "logical_and",
    "minimum": "logical_and",
    "fmin": "logical_and",
}
BITWISE = {
    "bitwise_and": "logical_and",
    "bitwise_or": "logical_or",
    "bitwise_xor": "logical_xor",
    "invert": "logical_not",
}
GIVES_FLOAT = {
    *("float", "divide", "sqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10"),
    *("sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "arctan2"),
    *("hypot", "copysign", "rint"),
}
# numpy computes these on whole numbers by another arithmetic than on floats: 0 // 0 is 0, not NaN
OTHER_ON_WHOLE = {"floor_divide", "remainder", "fmod", "power", "reciprocal"}
# and these overflow, where whole numbers come from a column
OTHER_ON_LARGE = {"multiply", "square"}
POWERS = {2: "square", 0.5: "sqrt", -1: "reciprocal", 1: "positive"}  # as ndarray.__pow__ does


class Recording:
    """What a traced function did: steps of `trilho.compiled.formula` in terms of tracers."""

    def __init__(self) -> None:
        self.inputs: list[str] = []
        self.constants: list[float] = []
        self.steps: list[tuple[str, list[Tracer]]] = []
        self.refused: str | None = None
        self._seen: dict[Any, Tracer] = {}

    def refuse(self, why: str) -> NoReturn:
        """Refuse for good: the function may catch the exception."""
        self.refused = self.refused or why
        raise CompileRefused(why)

    def input(self, name: str, kind: str = "number") -> Tracer:
        """A column of float64, of whole numbers (kind "whole"), or of truth values ("truth")."""
        truth, large = kind == "truth", kind == "whole"

        def make() -> Tracer:
            self.inputs.append(name)
            place = ("input", len(self.inputs) - 1)
            return Tracer(self, place, truth=truth, whole=truth or large, large=large)

        return self._once(("input", name), make)

    def constant(self, value: Any) -> Tracer:
        if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
            if value.dtype.kind in "iuf" and value.dtype not in (np.float64, np.int64):
                self.refuse(
                    f"the feature function computes with a number of type {value.dtype}, in which "
                    "numpy rounds or overflows; use float or int"
                )
            value = value.item()
        if isinstance(value, np.ndarray):
            self.refuse("the feature function mixes columns with an array of its own; use numbers")
        if not isinstance(value, bool | int | float):
            self.refuse(f"the feature function uses a {type(value).__name__} as a number")
        truth = isinstance(value, bool)
        whole = isinstance(value, int)  # truth values too
        number = float(value)

        def make() -> Tracer:
            self.constants.append(number)
            return Tracer(self, ("constant", len(self.constants) - 1), truth=truth, whole=whole)

        return self._once(("constant", number.hex(), truth, whole), make)

    def step(self, name: str, *operands: Any) -> Tracer:
        tracers = [o if isinstance(o, Tracer) else self.constant(o) for o in operands]
        if any(t.recording is not self for t in tracers):
            self.refuse("the feature function keeps arrays between calls")
        judged = tracers[1:] if name == "where" else tracers
        truths = [t.truth for t in judged]
        if all(truths):
            if name not in ON_TRUTH | GIVES_TRUTH or name in ("divide", "subtract"):
                self.refuse(
                    f"the feature function takes {name} of truth values; use .astype(float) before"
                )
            name = BETWEEN_TRUTHS.get(name, name)
        truth = name in GIVES_TRUTH or (name == "where" and all(truths))
        whole = truth or (name not in GIVES_FLOAT and all(t.whole for t in judged))
        if whole and name in OTHER_ON_WHOLE:
            self.refuse(
                f"the feature function takes {name} of whole numbers; use .astype(float) before"
            )
        large = whole and any(t.large for t in judged)
        if large and name in OTHER_ON_LARGE:
            self.refuse(
                f"the feature function takes {name} of whole numbers, which may overflow; use "
                ".astype(float) before"
            )

        def make() -> Tracer:
            self.steps.append((name, tracers))
            place = ("step", len(self.steps) - 1)
            return Tracer(self, place, truth=truth, whole=whole, large=large)

        return self._once((name, *[t.place for t in tracers]), make)

    def index(self, tracer: Tracer) -> int:
        kind, number = tracer.place
        if kind == "input":
            return number
        if kind == "constant":
            return len(self.inputs) + number
        return len(self.inputs) + len(self.constants) + number

    def _once(self, key: Any, make: Callable[[], Tracer]) -> Tracer:
        """Each value is computed once, however often the function computes it."""
        if key not in self._seen:
            self._seen[key] = make()
        return self._seen[key]


class Tracer(NDArrayOperatorsMixin):
    """Stands for a column while a feature function is traced."""

    __array_priority__ = 1000

    def __init__(
        self,
        recording: Recording,
        place: tuple[str, int],
        *,
        truth: bool,
        whole: bool,
        large: bool = False,
    ) -> None:
        self.recording = recording
        self.place = place
        self.truth = truth
        self.whole = whole  # an integer in numpy, or a truth value
        self.large = large  # a whole number of any size

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Tracer:
        if method != "__call__":
            self.recording.refuse(
                f"the feature function calls np.{ufunc.__name__}.{method}, which mixes rows"
            )
        if kwargs:
            self.recording.refuse(
                f"the feature function calls np.{ufunc.__name__} with {', '.join(sorted(kwargs))}"
            )
        name = BITWISE.get(ufunc.__name__, ufunc.__name__)
        if name == "fabs":
            name = "absolute"
        if ufunc.__name__ in BITWISE and not all(
            i.truth if isinstance(i, Tracer) else isinstance(i, bool | np.bool_) for i in inputs
        ):
            self.recording.refuse(f"the feature function calls np.{ufunc.__name__} on numbers")
        if name not in FUNCTIONS:
            self.recording.refuse(
                f"the feature function calls np.{ufunc.__name__}, which has no rule"
            )
        return self.recording.step(name, *inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Tracer:
        name = function.__name__
        rule = RULES.get(name)
        if rule is None:
            return self._refuse_call(f"np.{name}, which has no rule")
        try:
            return rule(self.recording, *args, **kwargs)
        except TypeError:
            self.recording.refuse(
                f"the feature function calls np.{name} with arguments that have no rule"
            )

    def __pow__(self, exponent: Any) -> Tracer:
        if not isinstance(exponent, Tracer) and not self.truth and exponent in POWERS:
            return self.recording.step(POWERS[exponent], self)
        return np.power(self, exponent)  # type: ignore[no-any-return]

    def astype(self, dtype: Any) -> Tracer:
        if np.dtype(dtype) == np.float64:
            return self.recording.step("float", self)
        if np.dtype(dtype) == np.bool_:
            return self.recording.step("not_equal", self.astype(float), 0.0)
        return self._refuse_call(f"astype({dtype}); use float or bool")

    def clip(self, low: Any = None, high: Any = None) -> Tracer:
        return _clip(self.recording, self, low, high)

    def _refuse_call(self, what: str) -> NoReturn:
        self.recording.refuse(f"the feature function calls {what}")

    def _refuse(self, what: str) -> NoReturn:
        self.recording.refuse(f"the feature function {what}; write it with np.where over columns")

    def __bool__(self) -> bool:
        self._refuse("branches on the values of a column")

    def __float__(self) -> float:
        self._refuse("takes a single number out of a column")

    def __len__(self) -> int:
        self._refuse("asks for the number of rows")

    def __iter__(self) -> Iterator[Any]:
        self._refuse("loops over rows")

    def __getitem__(self, key: object) -> Any:
        self._refuse("picks rows")

    def __setitem__(self, key: object, value: object) -> None:
        self._refuse("assigns to rows")

    def __array__(self, *_args: Any, **_kwargs: Any) -> NDArray[Any]:
        self._refuse("turns a column into a plain array")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # numpy and copy ask for protocols that we do not have
            raise AttributeError(name)
        self.recording.refuse(f"the feature function uses .{name} of an array, which has no rule")


def _clip(recording: Recording, a: Any, low: Any = None, high: Any = None) -> Tracer:
    if low is not None:
        a = recording.step("maximum", a, low)
    if high is not None:
        a = recording.step("minimum", a, high)
    return a if isinstance(a, Tracer) else recording.constant(a)


def _where(recording: Recording, condition: Any, a: Any, b: Any) -> Tracer:
    return recording.step("where", condition, a, b)


def _select(recording: Recording, conditions: Any, choices: Any, default: Any = 0) -> Tracer:
    result = default
    for condition, choice in reversed(list(zip(conditions, choices, strict=True))):
        result = recording.step("where", condition, choice, result)
    return result if isinstance(result, Tracer) else recording.constant(result)


def _nan_to_num(
    recording: Recording, a: Tracer, nan: float = 0.0, posinf: Any = None, neginf: Any = None
) -> Tracer:
    largest = float(np.finfo(np.float64).max)
    infinite = recording.step("isinf", a)
    bounded = recording.step(
        "where",
        recording.step("greater", a, 0.0),
        largest if posinf is None else posinf,
        -largest if neginf is None else neginf,
    )
    whole = recording.step("where", infinite, bounded, a)
    return recording.step("where", recording.step("isnan", a), nan, whole)


def _full(value: Any) -> Callable[..., Tracer]:
    return lambda recording, _like, *_rest, **_kwargs: recording.constant(value)


RULES: dict[str, Callable[..., Tracer]] = {
    "where": _where,
    "clip": _clip,
    "select": _select,
    "nan_to_num": _nan_to_num,
    "zeros_like": _full(0.0),
    "ones_like": _full(1.0),
    "full_like": lambda recording, _like, value: recording.constant(value),
}


class Columns(Mapping[str, Any]):
    """The mapping that a feature function gets when it is traced."""

    def __init__(self, recording: Recording, names: list[str], text: set[str]) -> None:
        self._recording, self._names, self._text = recording, names, text

    def __getitem__(self, name: str) -> Tracer:
        if name in self._text:
            self._recording.refuse(f"the feature function takes the text column {name!r}")
        if name not in self._names:
            raise KeyError(name)
        return self._recording.input(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Traced:
    """A feature function as data; see `trilho.compiled.formula.Formula`."""

    def __init__(self, recording: Recording, features: Mapping[str, Any]) -> None:
        outputs = [f if isinstance(f, Tracer) else recording.constant(f) for f in features.values()]
        index = recording.index
        self.kinds = ["truth" if o.truth else "whole" if o.whole else "number" for o in outputs]
        self.inputs = recording.inputs
        self.names = list(features)
        self.outputs = [index(o) for o in outputs]
        self.steps = [[name, *map(index, operands)] for name, operands in recording.steps]
        self.constants = np.array(recording.constants, np.float64)


def trace(function: Callable[..., Any], names: list[str], text: set[str]) -> Traced:
    """Record what `function` does with the columns `names`.

    Raises
    ------
    CompileRefused
        It does something that is not elementwise arithmetic over columns.
    """
    return _record(lambda recording: function(Columns(recording, names, text)), "feature function")


def trace_elementwise(function: Callable[[Any], Any], kind: str = "number") -> Traced:
    """Record what `function` does with every single column, of `kind`, of its argument."""
    return _record(lambda recording: {"x": function(recording.input("x", kind))}, "function")


def _record(function: Callable[[Recording], Any], what: str) -> Traced:
    recording = Recording()
    try:
        with np.errstate(all="ignore"):  # it may compute constants of its own
            features = function(recording)
    except CompileRefused:
        raise
    except Exception as error:
        raise CompileRefused(f"the {what} cannot be traced: {error}") from None
    if recording.refused is not None:
        raise CompileRefused(recording.refused)
    return Traced(recording, features)
