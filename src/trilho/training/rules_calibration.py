"""Rules for calibrated classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression

from trilho.compiled.plan import Ref
from trilho.training.builder import Builder, Cell, Table
from trilho.training.compile import CompileRefused, lower, name_of, scores

EPSILON = 1e-12  # keeps the logarithm of a probability finite, as scikit-learn does


@scores(CalibratedClassifierCV)
def _calibrated(model: Any, table: Table, builder: Builder, method: str) -> Table:
    parts = [_one(pair, table, builder) for pair in model.calibrated_classifiers_]
    width = len(model.classes_)
    block = builder.add("average", parts, weights=np.array([])) if len(parts) > 1 else parts[0]
    if method == "predict":
        return Table([Cell(builder.add("largest", [block]))])
    if method != "predict_proba":
        raise CompileRefused(f"{name_of(model)} has no {method}")
    return builder.result(block, width)


def _one(pair: Any, table: Table, builder: Builder) -> Ref:
    """The probabilities of one classifier and its calibrators, a column for each class."""
    model, classes = pair.estimator, pair.classes
    if list(model.classes_) != list(classes):
        raise CompileRefused("a calibrated classifier did not see all classes")
    method = "decision_function" if hasattr(model, "decision_function") else "predict_proba"
    given = lower(model, table, builder, method)
    binary = len(classes) == 2
    if binary:  # the score of the second class
        given = Table(given.cells[-1:])
    if len(given.cells) != (1 if binary else len(classes)):
        raise CompileRefused(f"{name_of(model)} gives other than one score for each class")
    if pair.method == "temperature":
        block = _temperature(pair, given, binary, method, builder)
    else:
        block = _by_class(pair, given, binary, builder)
    return builder.add("at_most_one", [block])


def _by_class(pair: Any, given: Table, binary: bool, builder: Builder) -> Ref:
    """Each class by a curve of its own; made to sum to one."""
    if len(pair.calibrators) != len(given.cells):
        raise CompileRefused("a calibrated classifier lacks a calibrator")
    if pair.method == "sigmoid":  # 1 / (1 + exp(a x + b))
        block = builder.block(given, pair, single=True)
        for op, name in (("multiply", "a_"), ("add", "b_")):
            numbers = np.array([-float(getattr(c, name)) for c in pair.calibrators])
            block = builder.add(op, [block], values=numbers)
        block = builder.add("sigmoid", [block])
    else:
        given = builder.require(given, pair, missing=False)
        block = _isotonic(pair.calibrators, builder.block(given, pair), builder)
    return _both(block, builder) if binary else builder.add("shares", [block])


def _isotonic(calibrators: list[Any], source: Ref, builder: Builder) -> Ref:
    x, y = [], []
    for calibrator in calibrators:
        if type(calibrator) is not IsotonicRegression or calibrator.out_of_bounds != "clip":
            raise CompileRefused("a calibrator is not scikit-learn's own")
        if calibrator.X_thresholds_.dtype != np.float64:
            raise CompileRefused("an isotonic calibrator computes in single precision")
        x.append(calibrator.X_thresholds_)
        y.append(np.asarray(calibrator.y_thresholds_, np.float64))
        if len(calibrator.X_thresholds_) and (
            calibrator.X_min_ != x[-1][0] or calibrator.X_max_ != x[-1][-1]
        ):
            raise CompileRefused("an isotonic calibrator ends elsewhere than its points")
    return builder.add(
        "interpolate",
        [source],
        x=np.concatenate(x),
        y=np.concatenate(y),
        x_sizes=np.array([len(a) for a in x]),
        y_sizes=np.array([len(a) for a in y]),
    )


def _temperature(pair: Any, given: Table, binary: bool, method: str, builder: Builder) -> Ref:
    """Scores, or logarithms of probabilities, times a number, to probabilities."""
    beta = float(pair.calibrators[0].beta_)
    given = builder.require(given, pair, missing=False)
    block = builder.block(given, pair)
    width = 2 if binary else len(given.cells)
    if method == "predict_proba":
        if binary:
            block = _both(block, builder)
        block = builder.add("log_of_share", [block], {"epsilon": EPSILON})
    elif binary:
        opposite = builder.add("multiply", [block], values=np.array([-1.0]))
        block = builder.add("stack", [opposite, block])
    else:
        block = builder.add("no_shares", [block])
    block = builder.add("multiply", [block], values=np.full(width, beta))
    return builder.add("softmax", [block])


def _both(block: Ref, builder: Builder) -> Ref:
    """Probabilities of both classes from a block of the second's."""
    return builder.add("stack", [builder.add("complement", [block]), block])
