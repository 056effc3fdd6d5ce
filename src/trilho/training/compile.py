"""From a fitted scikit-learn model to the serving form: one small rule for each class.

A rule takes the fitted object and the table that goes into it, adds nodes to the plan, and returns
the table that comes out: `@compiles(Class)` for what transforms, `@scores(Class)` for what
predicts. Importing a module of rules registers them. Whatever has no rule is refused with its
name, and the model is then served by scikit-learn.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from trilho.bundle import Signature
from trilho.compiled import CompiledModel
from trilho.compiled.plan import Node, Plan, Ref, write
from trilho.errors import IntegrityError
from trilho.training.builder import Builder, Cell, Table, gives_frame, inputs_of, name_of
from trilho.training.refused import CompileRefused

__all__ = [
    "Builder",
    "Cell",
    "CompileRefused",
    "Table",
    "compile_model",
    "compiles",
    "lower",
    "name_of",
    "scores",
]

MODULES = (
    *("containers", "functions", "imputers", "encoders", "scalers", "curves", "selectors"),
    *("linear", "trees", "boosters", "calibration", "ensembles"),
)
METHODS = ("transform", "predict", "predict_proba", "decision_function")

Rule = Callable[[Any, Table, Builder], Table]
ScoreRule = Callable[[Any, Table, Builder, str], Table]
RULES: dict[type | str, Rule] = {}
SCORE_RULES: dict[type | str, ScoreRule] = {}


def compiles(*classes: type) -> Callable[[Rule], Rule]:
    """Register a rule for exactly these transformers: a subclass may do something else."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


def scores(*classes: type | str) -> Callable[[ScoreRule], ScoreRule]:
    """Register a rule for exactly these models; it also takes the method that is asked for.

    The rule returns what the method gives: `predict_proba` a column for each class, or only one,
    of the second class of two; `decision_function` a column for each class, or one; `predict` one
    column, of a classifier the number of the class in `classes_`. A class whose package may be
    absent is registered by its full name.
    """

    def register(rule: ScoreRule) -> ScoreRule:
        SCORE_RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


def lower(fitted: Any, table: Table, builder: Builder, method: str = "transform") -> Table:
    """Compile one method of one fitted object.

    Raises
    ------
    CompileRefused
        There is no rule for it, its rule does not cover how it was set, or it is not fitted.
    """
    name = name_of(fitted)
    kind = type(fitted)
    full = f"{kind.__module__}.{kind.__qualname__}"
    rule = RULES.get(kind)
    score_rule = SCORE_RULES.get(kind) or SCORE_RULES.get(full)
    if rule is None and score_rule is None:
        raise CompileRefused(f"no rule for {name}")
    replaced = [m for m in METHODS if m in vars(fitted)]
    if replaced:
        raise CompileRefused(f"{name} has a {replaced[0]} of its own")
    try:
        check_is_fitted(fitted)
        if getattr(fitted, "n_features_in_", len(table.cells)) != len(table.cells):
            raise CompileRefused(f"{name} gets other columns than in training")
        if score_rule is not None:
            return score_rule(fitted, table, builder, method)
        assert rule is not None
        result = rule(fitted, table, builder)
        return result._replace(frame=True) if gives_frame(fitted) else result
    except NotFittedError:
        raise CompileRefused(f"{name} is not fitted") from None
    except CompileRefused:
        raise
    except Exception as error:  # it is no such object as its class makes: scikit-learn serves it
        what = f"{type(error).__name__}: {error}"
        raise CompileRefused(f"{name} is not as its rule expects ({what})") from error


def compile_model(model: Any, signature: Signature, folder: Path) -> None:
    """Write the serving form of a fitted model into `folder`; it is not yet proven equal.

    Raises
    ------
    CompileRefused
        Some part of the model has no rule.
    """
    for module in MODULES:
        importlib.import_module(f"trilho.training.rules_{module}")
    inputs, table = inputs_of(signature)
    seen = getattr(model, "feature_names_in_", None)
    if seen is not None and list(seen) != table.names:
        raise CompileRefused("the model was fitted to other columns than the signature names")
    builder = Builder(inputs)
    method = "predict" if signature.task == "regression" else "predict_proba"
    result = lower(model, table, builder, method)
    output = _output(result, model, signature, builder)
    plan = _without_unused(
        Plan(task=signature.task, inputs=builder.inputs, nodes=builder.nodes, output=output)
    )
    used = {array for node in plan.nodes for array in node.arrays.values()}
    arrays = {name: array for name, array in builder.arrays.items() if name in used}
    try:
        CompiledModel(plan, arrays)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, plan, arrays)
    except IntegrityError as error:
        raise CompileRefused(f"its serving form is not possible: {error.message}") from None
    except UnicodeEncodeError:
        raise CompileRefused("a category or column name is no valid text") from None


def _output(result: Table, model: Any, signature: Signature, builder: Builder) -> Ref:
    """The value that the service answers with."""
    if signature.task == "regression":
        if len(result.cells) != 1:
            raise CompileRefused("the model gives several values a row")
        return result.cells[0].ref
    classes = model.classes_.tolist()
    if classes != signature.classes:
        raise CompileRefused(f"the model knows the classes {classes}, not {signature.classes}")
    if signature.task == "multiclass":
        if len(result.cells) != len(classes):
            raise CompileRefused("the model gives other than one probability for each class")
        return builder.block(result, model, single=True)
    positive: int = classes.index(signature.positive)
    if len(result.cells) == 2:
        return result.cells[positive].ref
    # one column: the probability of the second class
    return result.cells[0].ref if positive else builder.add("complement", [result.cells[0].ref])


def _without_unused(plan: Plan) -> Plan:
    """Leave out nodes whose value nobody takes, and columns that the service need not look at.

    Nodes that refuse rows are followed by what takes their value; scikit-learn's checks of columns
    that are then dropped are kept by the rules, which take such columns from the checked block.
    """
    count = len(plan.inputs)
    used = {plan.output[0]}
    for number in reversed(range(len(plan.nodes))):
        if count + number in used or plan.nodes[number].op in REFUSING:
            used.add(count + number)
            used.update(slot for slot, _ in plan.nodes[number].inputs)
    keep = [slot for slot in range(count + len(plan.nodes)) if slot in used]
    if not any(slot < count for slot in keep):
        keep.insert(0, 0)
    place = {old: new for new, old in enumerate(keep)}

    def move(ref: Ref) -> Ref:
        return (place[ref[0]], ref[1])

    return Plan(
        task=plan.task,
        inputs=[plan.inputs[slot] for slot in keep if slot < count],
        nodes=[_moved(plan.nodes[slot - count], move) for slot in keep if slot >= count],
        output=move(plan.output),
    )


# operations that may refuse a row: scikit-learn refuses it even if nothing takes their value
REFUSING = {
    *("require", "require_positive", "require_present", "text_require", "lookup", "splines"),
    "no_shares",
}


def _moved(node: Node, move: Callable[[Ref], Ref]) -> Node:
    return Node(
        op=node.op, inputs=[move(r) for r in node.inputs], args=node.args, arrays=node.arrays
    )
