"""Rules for LightGBM and XGBoost, which need not be installed: a model brings its package along.

Their trees are read from their own dumps. Because these formats are theirs to change, each rule
also asks the model for its raw scores on rows around all of its splits, and refuses a difference
of one bit.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trilho.compiled.operations import BUILD, Arguments, Shape
from trilho.compiled.trees import BITSET
from trilho.training.builder import Builder, Cell, Table
from trilho.training.compile import CompileRefused, name_of, scores
from trilho.training.forest import Forest
from trilho.training.rules_trees import add_trees

ROWS = 400  # on which the raw scores must be equal

# ── LightGBM ──────────────────────────────────────────────────────────────────────────────────────

IDENTITY = {"regression", "regression_l1", "huber", "fair", "quantile", "mape"}
EXPONENTIAL = {"poisson", "gamma", "tweedie"}
CATEGORICAL, DEFAULT_LEFT = 1, 2  # bits of LightGBM's decision type; the next two: what is missing
NOTHING, ZERO, NAN = 0, 1, 2
SPECK = float(np.float32(1e-35))  # nothing smaller reaches LightGBM's trees


@scores("lightgbm.sklearn.LGBMClassifier", "lightgbm.sklearn.LGBMRegressor")
def _lightgbm(model: Any, table: Table, builder: Builder, method: str) -> Table:
    header, trees = _lightgbm_text(model.booster_.model_to_string())
    objective = header.get("objective", "custom").split()
    outputs = int(header["num_class"])
    if model.booster_.pandas_categorical or "average_output" in header:
        raise CompileRefused(f"{name_of(model)} has pandas' categories, or averages its trees")
    if {cell.kind for cell in table.cells} & {"single", "whole"} and not table.frame:
        raise CompileRefused(f"{name_of(model)} rounds whole numbers to single precision")
    forests = [_lightgbm_tree(tree) for tree in trees]
    categorical = {int(f) for t in forests for f in t.feature[t.bitset >= 0]}
    block = builder.add("no_specks", [builder.block(table, model)], {"limit": SPECK})
    if categorical:
        chosen = np.isin(np.arange(len(table.cells)), list(categorical)).astype(np.float64)
        block = builder.add("truncate", [block], values=chosen)
    rows = _rows_around(forests, len(table.cells))
    raw = np.asarray(model.predict(rows, raw_score=True), np.float64).reshape(ROWS, -1)
    rows = np.where(np.abs(rows) <= SPECK, 0.0, rows)
    if not np.array_equal(_evaluated(forests, outputs, rows), raw):
        raise CompileRefused(f"{name_of(model)} scores otherwise than its trees say")
    block = add_trees(builder, block, forests, outputs, "sum")
    if hasattr(model, "classes_"):
        return _lightgbm_classes(model, objective, block, outputs, builder, method)
    if method != "predict" or outputs != 1 or "sqrt" in objective:
        raise CompileRefused(f"{name_of(model)} with {objective} is asked to {method}")
    if objective[0] in EXPONENTIAL:
        block = builder.add("exp", [block])
    elif objective[0] not in IDENTITY:
        raise CompileRefused(f"{name_of(model)} has the objective {objective[0]}")
    return builder.result(block, 1)


def _lightgbm_classes(
    model: Any, objective: list[str], block: Any, outputs: int, builder: Builder, method: str
) -> Table:
    if method == "decision_function":
        return builder.result(block, outputs)
    if objective[0] == "binary" and outputs == 1:
        slope = next(float(o.split(":")[1]) for o in objective if o.startswith("sigmoid:"))
        block = builder.add("multiply", [block], values=np.array([slope]))
        block = builder.add("sigmoid", [block])
        both = builder.add("stack", [builder.add("complement", [block]), block])
    elif objective[0] == "multiclass":
        both = builder.add("softmax", [block])
    else:
        raise CompileRefused(f"{name_of(model)} has the objective {objective[0]}")
    if method == "predict":
        return Table([Cell(builder.add("largest", [both]))])
    return builder.result(both, max(2, outputs))


def _lightgbm_text(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The fields of a model's text before its trees, and those of each tree."""
    header: dict[str, str] = {}
    trees: list[dict[str, str]] = []
    for line in text.split("end of trees")[0].splitlines():
        key, _, value = line.partition("=")
        if key == "Tree":
            trees.append({})
        elif key:
            (trees[-1] if trees else header)[key] = value
    return header, trees


def _lightgbm_tree(tree: dict[str, str]) -> Forest:
    if int(tree.get("is_linear", 0)):
        raise CompileRefused("LightGBM has lines in its leaves")

    def read(name: str, dtype: type) -> NDArray[Any]:
        return np.array(tree.get(name, "").split(), dtype)

    inner = int(tree["num_leaves"]) - 1
    values, threshold = read("leaf_value", np.float64), read("threshold", np.float64)
    kind = read("decision_type", np.int64)
    category = (kind & CATEGORICAL) > 0
    missing = (kind >> 2) & 3
    if ((missing == ZERO) & ~category).any():
        raise CompileRefused("LightGBM takes zeros for missing")
    # NaN is taken for zero where none was in training; no category is NaN
    left = np.where(missing == NOTHING, threshold >= 0, (kind & DEFAULT_LEFT) > 0) & ~category
    children = [read(f"{side}_child", np.int64) for side in ("left", "right")]
    leaves = np.full(inner + 1, -1)
    none = np.zeros(inner + 1, np.int64)
    bounds = read("cat_boundaries", np.int64)
    words = read("cat_threshold", np.int64)
    bitsets = np.zeros((max(0, len(bounds) - 1), BITSET), np.int64)
    for row, (start, end) in enumerate(pairwise(bounds.tolist())):
        if end - start > BITSET and words[start + BITSET : end].any():
            raise CompileRefused(f"LightGBM has more than {32 * BITSET} categories")
        bitsets[row, : min(BITSET, end - start)] = words[start:end][:BITSET]
    return Forest.of_tree(
        left=np.concatenate([np.where(children[0] < 0, inner + ~children[0], children[0]), leaves]),
        right=np.concatenate(
            [np.where(children[1] < 0, inner + ~children[1], children[1]), leaves]
        ),
        feature=np.concatenate([read("split_feature", np.int64), none]),
        number=np.concatenate([np.where(category, 0.0, threshold), values]),
        missing_left=np.concatenate([left.astype(np.int64), none]),
        bitset=np.concatenate([np.where(category, threshold.astype(np.int64), -1), leaves]),
        bitsets=bitsets,
    )


# ── XGBoost ───────────────────────────────────────────────────────────────────────────────────────

LOGIT = {"binary:logistic", "reg:logistic"}
LOG = {"count:poisson", "reg:gamma", "reg:tweedie"}
PLAIN = {"reg:squarederror", "reg:absoluteerror", "reg:quantileerror", "reg:pseudohubererror"}
SOFT = {"multi:softprob"}


@scores(
    *("xgboost.sklearn.XGBClassifier", "xgboost.sklearn.XGBRegressor"),
    *("xgboost.sklearn.XGBRFClassifier", "xgboost.sklearn.XGBRFRegressor"),
)
def _xgboost(model: Any, table: Table, builder: Builder, method: str) -> Table:
    learner = json.loads(bytes(model.get_booster().save_raw("json")))["learner"]
    objective: str = learner["objective"]["name"]
    parameters, booster = learner["learner_model_param"], learner["gradient_booster"]
    outputs = max(1, int(parameters["num_class"]))
    if booster["name"] != "gbtree" or int(parameters.get("num_target", 1)) != 1:
        raise CompileRefused(f"{name_of(model)} is no plain sum of trees")
    if table.sparse or not (isinstance(model.missing, float) and np.isnan(model.missing)):
        raise CompileRefused(f"{name_of(model)} takes zeros, or a number, for missing")
    trees, groups = _xgboost_trees(model, booster["model"])
    if groups != [i % outputs for i in range(len(trees))]:
        raise CompileRefused(f"{name_of(model)} has its trees in another order")
    base = _xgboost_base(model, trees, outputs, objective, parameters["base_score"])
    block = builder.add("float32", [builder.block(table, model, single=True)])
    block = add_trees(builder, block, trees, outputs, "single", base=base)
    if not hasattr(model, "n_classes_"):
        if method != "predict" or outputs != 1:
            raise CompileRefused(f"{name_of(model)} is asked to {method}")
        link = {**dict.fromkeys(LOGIT, "sigmoid32"), **dict.fromkeys(LOG, "exp32")}.get(objective)
        return builder.result(builder.add(link, [block]) if link else block, 1, kind="single")
    if objective in SOFT:
        block = builder.add("softmax32", [block])
    elif objective == "binary:logistic":
        block = builder.add("sigmoid32", [block])
        block = builder.add("stack", [builder.add("complement32", [block]), block])
    else:
        raise CompileRefused(f"{name_of(model)} has the objective {objective}")
    if method == "predict":
        return Table([Cell(builder.add("largest", [block]))])
    if method != "predict_proba":
        raise CompileRefused(f"{name_of(model)} is asked to {method}")
    return builder.result(block, max(2, outputs), kind="single")


def _xgboost_trees(model: Any, dump: Any) -> tuple[list[Forest], list[int]]:
    """The trees up to the best round, and the output that each adds to."""
    last = len(dump["trees"])
    best = getattr(model, "best_iteration", None)
    if best is not None:
        last = int(dump["iteration_indptr"][best + 1])
    return [_xgboost_tree(t) for t in dump["trees"][:last]], list(dump["tree_info"][:last])


def _xgboost_tree(tree: Any) -> Forest:
    if any(tree["split_type"]) or int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise CompileRefused("XGBoost has categories or several values in a leaf")
    left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
    numbers = np.array(tree["split_conditions"], np.float32)
    leaf = left == -1
    # below a number of single precision is at most the one before it
    before = np.nextafter(numbers, np.float32(-np.inf))
    return Forest.of_tree(
        left=left,
        right=right,
        feature=np.where(leaf, 0, tree["split_indices"]),
        number=np.where(leaf, numbers, before).astype(np.float64),
        missing_left=np.where(leaf, 0, tree["default_left"]),
    )


def _xgboost_base(
    model: Any, trees: list[Forest], outputs: int, objective: str, text: str
) -> NDArray[np.float64]:
    """What the sum of the trees starts at: the base score on the scale of the sum.

    The last bit of a logarithm is not the same in all libraries, so its neighbours are tried, too.
    """
    numbers = np.array([float(n) for n in text.strip("[]").split(",")], np.float32)
    one = np.float32(1.0)
    if objective in LOGIT:
        numbers = -np.log((one / numbers - one).astype(np.float64)).astype(np.float32)
    elif objective in LOG:
        numbers = np.log(numbers.astype(np.float64)).astype(np.float32)
    elif objective not in PLAIN | SOFT:
        raise CompileRefused(f"{name_of(model)} has the objective {objective}")
    numbers = np.broadcast_to(numbers, outputs)
    width = int(model.n_features_in_)
    rows = _rows_around(trees, width).astype(np.float32).astype(np.float64)
    wanted = np.asarray(model.predict(rows, output_margin=True), np.float64).reshape(ROWS, -1)
    for step in (0, -1, 1, -2, 2):
        base = numbers
        for _ in range(abs(step)):
            base = np.nextafter(base, np.float32(np.copysign(np.inf, step)))
        if np.array_equal(_evaluated(trees, outputs, rows, base), wanted):
            return base.astype(np.float64)
    raise CompileRefused(f"{name_of(model)} scores otherwise than its trees say")


# ── both ──────────────────────────────────────────────────────────────────────────────────────────


def _rows_around(trees: list[Forest], width: int) -> NDArray[np.float64]:
    """Rows of numbers at and beside the splits, and of missing ones."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(ROWS, width))
    for feature in range(width):
        splits = np.concatenate(
            [t.number[(t.left != -1) & (t.feature == feature) & (t.bitset < 0)] for t in trees]
        )
        if len(splits):
            near = rng.choice(splits, ROWS)
            away = np.nextafter(near.astype(np.float32), np.float32(np.inf)).astype(np.float64)
            rows[:, feature] = np.where(rng.random(ROWS) < 0.5, near, away)
        if any((t.feature[t.bitset >= 0] == feature).any() for t in trees):
            rows[:, feature] = rng.integers(-1, 40, ROWS)
        rows[rng.random(ROWS) < 0.1, feature] = np.nan
        rows[rng.random(ROWS) < 0.05, feature] = 0.0
    return rows


def _evaluated(
    trees: list[Forest],
    outputs: int,
    rows: NDArray[np.float64],
    base: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """What the serving form makes of rows."""
    kind = "sum" if base is None else "single"
    arrays = Forest.join(trees).arrays() | ({} if base is None else {"base": base})
    arguments = Arguments({"kind": kind, "outputs": outputs}, arrays)
    run, _ = BUILD["trees"](arguments, [Shape(rows.shape[1])])
    return run([rows])
