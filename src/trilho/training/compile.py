"""From a fitted scikit-learn model to the serving form: one small rule for each class.

A rule takes the fitted object and the table that goes into it, adds nodes to the plan, and returns
the table that comes out. `@compiles(Class)` registers it; importing a module of rules is enough.
Whatever has no rule is refused with its name, and the model is then served by scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trilho.bundle import Signature
from trilho.compiled.plan import WHOLE, Input, Node, Plan, Ref, write
from trilho.training.refused import CompileRefused

__all__ = ["Builder", "Cell", "CompileRefused", "Table", "compile_model", "compiles", "lower"]


class Cell(NamedTuple):
    """One column of a table: where its values stand in the plan."""

    ref: Ref
    text: bool = False


class Table(NamedTuple):
    """What scikit-learn would pass on as a frame or matrix."""

    cells: list[Cell]
    names: list[str] | None = None  # known while it is a frame

    def take(self, indices: Sequence[int]) -> Table:
        names = None if self.names is None else [self.names[i] for i in indices]
        return Table([self.cells[i] for i in indices], names)


Rule = Callable[[Any, Table, "Builder"], Table]
RULES: dict[type, Rule] = {}


def compiles(*classes: type) -> Callable[[Rule], Rule]:
    """Register a rule for exactly these classes: a subclass may do something else."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


class Builder:
    """Collects the nodes, arrays and files of a plan."""

    def __init__(self, inputs: list[Input]) -> None:
        self.inputs = inputs
        self.nodes: list[Node] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.files: dict[str, bytes] = {}
        self._required: set[tuple[Ref, bool]] = set()
        self._widths: dict[int, int] = {}

    def add(
        self,
        op: str,
        inputs: Sequence[Ref],
        args: dict[str, Any] | None = None,
        **arrays: NDArray[Any],
    ) -> Ref:
        """Add a node and return its value."""
        members = {}
        for argument, array in arrays.items():
            members[argument] = f"a{len(self.arrays)}"
            self.arrays[members[argument]] = np.ascontiguousarray(array)
        self.nodes.append(Node(op=op, inputs=list(inputs), args=args or {}, arrays=members))
        return (len(self.inputs) + len(self.nodes) - 1, WHOLE)

    def columns(self, block: Ref, width: int) -> list[Cell]:
        """The columns of a block."""
        return [Cell((block[0], j)) for j in range(width)]

    def block(self, table: Table, owner: object) -> Ref:
        """The table as one block of numbers."""
        if not table.cells:
            raise CompileRefused(f"{name_of(owner)} gets no columns")
        if any(cell.text for cell in table.cells):
            raise CompileRefused(f"{name_of(owner)} gets a text column")
        slot = table.cells[0].ref[0]
        refs = [cell.ref for cell in table.cells]
        if refs == [(slot, j) for j in range(len(refs))] and self._widths.get(slot) == len(refs):
            return (slot, WHOLE)
        merged: list[Ref] = []  # whole blocks side by side need no taking apart
        i = 0
        while i < len(refs):
            slot, width = refs[i][0], self._widths.get(refs[i][0])
            if width and refs[i : i + width] == [(slot, j) for j in range(width)]:
                merged.append((slot, WHOLE))
                i += width
            else:
                merged.append(refs[i])
                i += 1
        block = self.add("stack", merged)
        self._widths[block[0]] = len(refs)
        return block

    def table(self, op: str, table: Table, owner: object, **arrays: NDArray[Any]) -> Table:
        """Add an operation that keeps the block's width."""
        block = self.add(op, [self.block(table, owner)], None, **arrays)
        return self.result(block, len(table.cells), table.names)

    def result(self, block: Ref, width: int, names: list[str] | None = None) -> Table:
        self._widths[block[0]] = width
        return Table(self.columns(block, width), names)

    def require(self, table: Table, owner: object, *, missing: bool) -> Table:
        """Refuse what scikit-learn's validation refuses: infinities, and NaN unless `missing`."""
        block = self.block(table, owner)
        if (block, missing) not in self._required and (block, False) not in self._required:
            self._required.add((block, missing))
            block = self.add("require", [block], {"missing": missing})
            self._required.add((block, missing))
            return self.result(block, len(table.cells), table.names)
        return Table(self.columns(block, len(table.cells)), table.names)

    def file(self, suffix: str, data: bytes) -> str:
        name = f"{len(self.files)}.{suffix}"
        self.files[name] = data
        return name


def lower(fitted: Any, table: Table, builder: Builder) -> Table:
    """Compile one fitted object.

    Raises
    ------
    CompileRefused
        There is no rule for it, or its rule does not cover how it was set.
    """
    rule = RULES.get(type(fitted))
    if rule is None:
        raise CompileRefused(f"no rule for {name_of(fitted)}")
    return rule(fitted, table, builder)


def compile_model(model: Any, signature: Signature, folder: Path) -> None:
    """Write the serving form of a fitted model into `folder`; it is not yet proven equal.

    Raises
    ------
    CompileRefused
        Some part of the model has no rule.
    """
    from trilho.training import rules_models, rules_transformers  # noqa: F401  # they register

    columns = signature.columns
    builder = Builder([Input(name=c.name, text=c.kind == "string") for c in columns])
    table = Table(
        [Cell((i, WHOLE), c.kind == "string") for i, c in enumerate(columns)],
        [c.name for c in columns],
    )
    scores = lower(model, table, builder)
    plan = Plan(
        task=signature.task,
        inputs=builder.inputs,
        nodes=builder.nodes,
        output=_output(scores, model, signature, builder),
    )
    used = {slot for node in plan.nodes for slot, _ in node.inputs}
    plan, arrays = _drop_unused_inputs(plan, used), builder.arrays
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write(folder, plan, arrays)
    except UnicodeEncodeError:
        raise CompileRefused("a category or column name is no valid text") from None
    for name, data in builder.files.items():
        (folder / name).write_bytes(data)


def _output(scores: Table, model: Any, signature: Signature, builder: Builder) -> Ref:
    """The value that the service answers with."""
    if any(cell.text for cell in scores.cells):
        raise CompileRefused("the model gives text")
    if signature.task == "regression":
        if len(scores.cells) != 1:
            raise CompileRefused("the model gives several values a row")
        return scores.cells[0].ref
    classes = model.classes_.tolist()
    if classes != signature.classes:
        raise CompileRefused(f"the model knows the classes {classes}, not {signature.classes}")
    if signature.task == "multiclass":
        return builder.block(scores, model)
    positive: int = classes.index(signature.positive)
    if len(scores.cells) == 2:
        return scores.cells[positive].ref
    # one column: the probability of the second class
    return scores.cells[0].ref if positive else builder.add("complement", [scores.cells[0].ref])


def _drop_unused_inputs(plan: Plan, used: set[int]) -> Plan:
    """Leave out columns that no operation takes, so that the service need not even look at them."""
    keep = [i for i in range(len(plan.inputs)) if i in used] or [0]
    place = {old: new for new, old in enumerate(keep)}
    shift = len(plan.inputs) - len(keep)

    def move(ref: Ref) -> Ref:
        slot, column = ref
        return (place[slot] if slot < len(plan.inputs) else slot - shift, column)

    return Plan(
        task=plan.task,
        inputs=[plan.inputs[i] for i in keep],
        nodes=[
            Node(op=n.op, inputs=[move(r) for r in n.inputs], args=n.args, arrays=n.arrays)
            for n in plan.nodes
        ],
        output=move(plan.output),
    )


def name_of(thing: object) -> str:
    """`sklearn.svm.SVC` rather than `sklearn.svm._classes.SVC`."""
    kind = type(thing)
    parts = [part for part in kind.__module__.split(".") if not part.startswith("_")]
    return ".".join([*parts, kind.__qualname__])
