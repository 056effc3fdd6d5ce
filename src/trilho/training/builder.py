"""What the rules of compilation build: a table's columns, and the plan that computes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._set_output import _get_output_config

from trilho.bundle import Signature
from trilho.compiled.plan import WHOLE, Input, Node, Ref
from trilho.training.refused import CompileRefused

# What scikit-learn's array would hold. `number` is float64, `single` float32, `whole` an integer.
KINDS = {
    "number": "number",
    "integer": "whole",
    "boolean": "truth",
    "date": "date",
    "string": "text",
}

# What is known of a block's cells: that scikit-learn's validation would find nothing to refuse.
FINITE = "finite"
NO_INFINITY = "no infinity"


class Cell(NamedTuple):
    """One column of a table: where its values stand in the plan, and what scikit-learn has."""

    ref: Ref
    kind: str = "number"

    @property
    def text(self) -> bool:
        return self.kind == "text"


class Table(NamedTuple):
    """What scikit-learn would pass on.

    Attributes
    ----------
    cells
        Its columns.
    names
        Their names, if known, to say in a message which one is meant.
    frame
        It is a frame, whose columns have types of their own; else a matrix.
    sparse
        It is a sparse matrix.
    mixed
        It is a matrix of objects, because text stands beside numbers.
    """

    cells: list[Cell]
    names: list[str] | None = None
    frame: bool = False
    sparse: bool = False
    mixed: bool = False

    def take(self, indices: Iterable[int]) -> Table:
        chosen = list(indices)
        names = None if self.names is None else [self.names[i] for i in chosen]
        return self._replace(cells=[self.cells[i] for i in chosen], names=names)

    def label(self, i: int) -> str:
        """What to call a column in an error's message."""
        return self.names[i] if self.names else str(i)


def matrix(cells: list[Cell], *, sparse: bool = False) -> Table:
    """The cells as one numpy array, whose cells are all of one type."""
    kinds = {cell.kind for cell in cells}
    if kinds & {"text", "date"}:
        return Table(cells, sparse=sparse, mixed=len(kinds) > 1)
    for kind in ("number", "single", "whole"):
        if kind in kinds:
            return Table([Cell(c.ref, kind) for c in cells], sparse=sparse)
    return Table(cells, sparse=sparse)


class Builder:
    """Collects the nodes and arrays of a plan."""

    def __init__(self, inputs: list[Input]) -> None:
        self.inputs = inputs
        self.nodes: list[Node] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self._widths: dict[int, int] = {}
        self._known: dict[int, str] = {}
        self._made: dict[Any, Ref] = {}

    # ── values ────────────────────────────────────────────────────────────────────────────────────

    def add(
        self,
        op: str,
        inputs: Sequence[Ref],
        args: dict[str, Any] | None = None,
        **arrays: NDArray[Any],
    ) -> Ref:
        """Add a node and return its value; the same node is not added twice."""
        stored = {name: _stored(array) for name, array in arrays.items()}
        key = (op, tuple(inputs), repr(args), tuple((n, *_digest(a)) for n, a in stored.items()))
        if key not in self._made:
            members = {}
            for argument, array in stored.items():
                members[argument] = f"a{len(self.arrays)}"
                self.arrays[members[argument]] = array
            self.nodes.append(Node(op=op, inputs=list(inputs), args=args or {}, arrays=members))
            self._made[key] = (len(self.inputs) + len(self.nodes) - 1, WHOLE)
        return self._made[key]

    def result(
        self,
        block: Ref,
        width: int,
        names: list[str] | None = None,
        *,
        kind: str = "number",
        known: str | None = None,
    ) -> Table:
        """A table of the columns of a block that an operation gave."""
        self._widths[block[0]] = width
        if known is not None:
            self.note(block, known)
        return Table([Cell((block[0], j), kind) for j in range(width)], names)

    def block(self, table: Table, owner: object, *, single: bool = False) -> Ref:
        """The table as one block of numbers.

        Raises
        ------
        CompileRefused
            It holds something else; or numbers of single precision, with which `owner` would
            compute in single precision, unless `single` says that it does not.
        """
        if not table.cells:
            raise CompileRefused(f"{name_of(owner)} gets no columns")
        kinds = {cell.kind for cell in table.cells}
        for kind, what in (("text", "a text column"), ("date", "a date column")):
            if kind in kinds:
                raise CompileRefused(f"{name_of(owner)} gets {what}")
        if "single" in kinds and "number" not in kinds and not single:
            raise CompileRefused(f"{name_of(owner)} computes in single precision")
        return self._stack([cell.ref for cell in table.cells])

    def _stack(self, refs: list[Ref]) -> Ref:
        slot = refs[0][0]
        if refs == [(slot, j) for j in range(len(refs))] and self._widths.get(slot) == len(refs):
            return (slot, WHOLE)
        merged: list[Ref] = []  # whole blocks side by side need no taking apart
        known = []
        i = 0
        while i < len(refs):
            slot, width = refs[i][0], self._widths.get(refs[i][0])
            known.append(self._known.get(slot))
            if width and refs[i : i + width] == [(slot, j) for j in range(width)]:
                merged.append((slot, WHOLE))
                i += width
            else:
                merged.append(refs[i])
                i += 1
        block = self.add("stack", merged)
        self._widths[block[0]] = len(refs)
        if None not in known:
            self._known[block[0]] = FINITE if set(known) == {FINITE} else NO_INFINITY
        return block

    # ── common steps ──────────────────────────────────────────────────────────────────────────────

    def table(self, op: str, table: Table, owner: object, **arrays: NDArray[Any]) -> Table:
        """Add an operation that keeps the block's width and gives numbers."""
        block = self.add(op, [self.block(table, owner)], None, **arrays)
        return self.result(block, len(table.cells), table.names)

    def require(self, table: Table, owner: object, *, missing: bool, single: bool = False) -> Table:
        """Refuse what scikit-learn's validation refuses: infinities, and NaN unless `missing`."""
        block = self.block(table, owner, single=single)
        known = self._known.get(block[0])
        if known != FINITE and not (missing and known == NO_INFINITY):
            block = self.add("require", [block], {"missing": missing})
            self._known[block[0]] = NO_INFINITY if missing else FINITE
        width = len(table.cells)
        self._widths[block[0]] = width
        cells = [Cell((block[0], j), c.kind) for j, c in enumerate(table.cells)]
        return table._replace(cells=cells)

    def note(self, value: Ref, known: str) -> None:
        """Note what is known of all cells of a value."""
        self._known[value[0]] = known

    def known(self, table: Table) -> str | None:
        """What is known of all cells of a table."""
        known = {self._known.get(cell.ref[0]) for cell in table.cells}
        if None in known or not known:
            return None
        return FINITE if known == {FINITE} else NO_INFINITY


def _stored(array: NDArray[Any]) -> NDArray[Any]:
    """The array as the plan's file takes it: floats in the precision that it computes with."""
    array = np.asarray(array)
    if array.dtype.kind not in "fi":
        raise CompileRefused(f"its numbers are of type {array.dtype}")
    return np.ascontiguousarray(array, np.float64 if array.dtype.kind == "f" else array.dtype)


def _digest(array: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    return (array.dtype.str, array.shape, hashlib.sha256(array.data).digest())


def inputs_of(signature: Signature) -> tuple[list[Input], Table]:
    """The plan's inputs, and the frame that scikit-learn would get."""
    columns = signature.columns
    inputs = [Input(name=c.name, text=c.kind == "string") for c in columns]
    cells = [Cell((i, WHOLE), KINDS[c.kind]) for i, c in enumerate(columns)]
    return inputs, Table(cells, [c.name for c in columns], frame=True)


def gives_frame(transformer: object) -> bool:
    """Whether `set_output` was told that this gives frames."""
    return bool(_get_output_config("transform", transformer)["dense"] != "default")


def name_of(thing: object) -> str:
    """`sklearn.svm.SVC` rather than `sklearn.svm._classes.SVC`."""
    kind = type(thing)
    parts = [part for part in kind.__module__.split(".") if not part.startswith("_")]
    return ".".join([*parts, kind.__qualname__])
