"""One model, at least, for every class that has a rule, and some that are refused.

The tests compare each with scikit-learn, and docs/compiled.md lists what they found.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from compiled_models import NUMBERS
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    SplineTransformer,
    StandardScaler,
)
from sklearn.svm import LinearSVC

from trilho.features import ArrayFeatures, NumberColumns

Make = Callable[[str], Any]
BOTH = ("binary", "multiclass")
ALL = (*BOTH, "regression")
NUMERIC = ["small", "large", "count", "whole"]
TEXT = ["colour", "name"]


class Case(NamedTuple):
    """A model that tries a class; `reason`: what its refusal says."""

    name: str
    setting: str
    make: Make
    tasks: tuple[str, ...] = ("regression",)
    reason: str | None = None


# ── what stands around a step ─────────────────────────────────────────────────────────────────────


def either(classifier: Any, regressor: Any, **params: Any) -> Make:
    return lambda task: (regressor if task == "regression" else classifier)(**params)


linear = either(LogisticRegression, Ridge)
histogram = either(HistGradientBoostingClassifier, HistGradientBoostingRegressor, max_iter=6)
boosting = either(GradientBoostingClassifier, GradientBoostingRegressor, n_estimators=6)
forest = either(RandomForestClassifier, RandomForestRegressor, n_estimators=6, random_state=0)


def numbers(*steps: Any, columns: Any = NUMERIC, model: Make = linear) -> Make:
    """Steps over numbers whose gaps are filled."""
    filled = ColumnTransformer([("n", make_pipeline(SimpleImputer(), *steps), columns)])
    return lambda task: make_pipeline(filled, model(task))


def gaps(*steps: Any, columns: Any = NUMERIC, model: Make = histogram) -> Make:
    """Steps over numbers with gaps, and a model that takes them."""
    part = ColumnTransformer([("n", make_pipeline(*steps), columns)])
    return lambda task: make_pipeline(part, model(task))


def texts(*steps: Any, columns: Any = TEXT, model: Make = linear, **params: Any) -> Make:
    """Steps over text, beside numbers."""
    parts = [("t", make_pipeline(*steps), columns), ("n", SimpleImputer(), ["small", "whole"])]
    return lambda task: make_pipeline(ColumnTransformer(parts, **params), model(task))


def columns_of(*parts: Any, model: Make = linear, **params: Any) -> Make:
    table = ColumnTransformer([(str(i), *part) for i, part in enumerate(parts)], **params)
    return lambda task: make_pipeline(table, model(task))


def scaled(model: Any) -> Any:
    """A model of numbers without gaps, and of text."""
    number = make_pipeline(SimpleImputer(), StandardScaler())
    parts = [("n", number, NUMERIC), ("t", one_hot(), ["colour"])]
    return make_pipeline(ColumnTransformer(parts, sparse_threshold=0), model)


def raw(model: Any) -> Any:
    """A model of numbers with gaps, and of numbered text."""
    parts = [("n", NumberColumns(), [*NUMBERS, "day"]), ("t", ordinal(), TEXT)]
    return make_pipeline(ColumnTransformer(parts), model)


def of_positive(model: Any) -> Any:
    """A regression whose target is made positive."""
    return TransformedTargetRegressor(model, func=np.exp, inverse_func=np.log, check_inverse=False)


def one_hot(**params: Any) -> OneHotEncoder:
    return OneHotEncoder(**{"handle_unknown": "ignore", **params})


def ordinal(**params: Any) -> OrdinalEncoder:
    settings = {"handle_unknown": "use_encoded_value", "unknown_value": -1, **params}
    return OrdinalEncoder(**{"encoded_missing_value": -2, **settings})


def of(module: str, names: str, **params: Any) -> Iterator[Any]:
    """Instances of the named classes of a module."""
    found = importlib.import_module(module)
    for name in names.split():
        yield getattr(found, name)(**params)


def name_of(thing: Any) -> str:
    return type(thing).__name__


# ── transformers ──────────────────────────────────────────────────────────────────────────────────

PRE, SELECT, LINEAR = "sklearn.preprocessing", "sklearn.feature_selection", "sklearn.linear_model"


def scalers() -> Iterator[Case]:
    for step in of(PRE, "StandardScaler RobustScaler MaxAbsScaler MinMaxScaler"):
        yield Case(name_of(step), "", gaps(step))
    for step in of(PRE, "MinMaxScaler MaxAbsScaler", clip=True):
        yield Case(name_of(step), "clip", gaps(step))
    for step in of(PRE, "StandardScaler", with_mean=False):
        yield Case("StandardScaler", "sparse", texts(one_hot(), step, sparse_threshold=1))
    for norm in ("l1", "l2", "max"):
        yield Case("Normalizer", norm, numbers(*of(PRE, "Normalizer", norm=norm)))
    yield Case("Binarizer", "", numbers(*of(PRE, "Binarizer", threshold=0.3)))


def curves() -> Iterator[Case]:
    yield Case("PowerTransformer", "yeo-johnson", gaps(*of(PRE, "PowerTransformer")))
    box_cox = of(PRE, "PowerTransformer", method="box-cox")
    yield Case("PowerTransformer", "box-cox", gaps(*box_cox, columns=["large"]))
    for shape in ("uniform", "normal"):
        params: dict[str, Any] = {"n_quantiles": 40, "output_distribution": shape}
        yield Case("QuantileTransformer", shape, gaps(*of(PRE, "QuantileTransformer", **params)))
    for encode, strategy in (("onehot", "quantile"), ("onehot-dense", "kmeans")):
        params = {"n_bins": 4, "encode": encode, "strategy": strategy}
        params |= {"quantile_method": "averaged_inverted_cdf"}
        bins = numbers(*of(PRE, "KBinsDiscretizer", **params))
        yield Case("KBinsDiscretizer", f"{encode}, {strategy}", bins)
    for setting, params in {
        "degree 3": {"degree": 3},
        "products": {"degree": (2, 3), "interaction_only": True},
    }.items():
        products = numbers(*of(PRE, "PolynomialFeatures", **params))
        yield Case("PolynomialFeatures", setting, products)
    for beyond in ("continue", "constant", "linear", "periodic"):
        spline = SplineTransformer(extrapolation=beyond, handle_missing="zeros")
        yield Case("SplineTransformer", beyond, gaps(spline))
    ends = np.array([[-99.0, -1e99], [0.0, 0.0], [99.0, 1e99]])
    spline = SplineTransformer(degree=1, extrapolation="error", knots=ends)
    yield Case("SplineTransformer", "error", numbers(spline, columns=["small", "large"]))
    spline = SplineTransformer(degree=2, include_bias=False, sparse_output=True)
    yield Case("SplineTransformer", "sparse", numbers(spline))


def selectors() -> Iterator[Case]:
    for chosen in (
        *of(SELECT, "SelectKBest", k=2),
        *of(SELECT, "SelectPercentile", percentile=60),
        *of(SELECT, "GenericUnivariateSelect", mode="k_best", param=2),
        *of(SELECT, "SelectFromModel RFE RFECV", estimator=Ridge()),
        *of(SELECT, "SequentialFeatureSelector", estimator=Ridge(), n_features_to_select=2),
    ):
        yield Case(name_of(chosen), "", numbers(chosen))
    for chosen in of(SELECT, "SelectFpr SelectFdr SelectFwe", alpha=0.5):
        yield Case(name_of(chosen), "", numbers(chosen), ("binary",))
    yield Case("VarianceThreshold", "", gaps(*of(SELECT, "VarianceThreshold")))
    for projection in of("sklearn.decomposition", "PCA IncrementalPCA TruncatedSVD"):
        yield Case(name_of(projection), "", numbers(projection.set_params(n_components=2)))
    for projection in of("sklearn.decomposition", "PCA", n_components=2, whiten=True):
        yield Case("PCA", "whiten", numbers(projection))


def encoders() -> Iterator[Case]:
    rare: dict[str, Any] = {"handle_unknown": "infrequent_if_exist", "min_frequency": 20}
    filled = SimpleImputer(strategy="most_frequent")
    for setting, encoder in {
        "ignore": one_hot(),
        "rare joined": one_hot(**rare),
        "rare joined, one dropped": one_hot(**rare, drop="first"),
        "warn, the most frequent": one_hot(handle_unknown="warn", max_categories=3),
        "of two one dropped": one_hot(**rare, max_categories=2, drop="if_binary"),
        "given": one_hot(categories=[["red", "zebra", np.nan], ["n1", "n2"]]),
        "whole numbers": one_hot(dtype=np.int64, sparse_output=False),
    }.items():
        yield Case("OneHotEncoder", setting, texts(encoder))
    yield Case("OneHotEncoder", "of numbers", columns_of((one_hot(), ["whole", "count", "flag"])))
    yield Case("OneHotEncoder", "error", texts(filled, OneHotEncoder(), columns=["colour"]))
    for setting, numbered in {
        "own value": ordinal(),
        "NaN": ordinal(unknown_value=np.nan, encoded_missing_value=np.nan),
        "rare joined": ordinal(max_categories=4, unknown_value=99, encoded_missing_value=77),
    }.items():
        yield Case("OrdinalEncoder", setting, texts(numbered, model=histogram))
    yield Case("OrdinalEncoder", "error", texts(filled, OrdinalEncoder(), columns=["colour"]))
    yield Case("TargetEncoder", "", texts(*of(PRE, "TargetEncoder", random_state=0)), ALL)


def others() -> Iterator[Case]:
    for strategy in ("mean", "median", "most_frequent", "constant"):
        imputer = SimpleImputer(strategy=strategy, add_indicator=strategy == "median")
        yield Case("SimpleImputer", strategy, gaps(imputer, model=linear))
    filled = SimpleImputer(strategy="constant", fill_value="none", add_indicator=True)
    yield Case("SimpleImputer", "text", columns_of((make_pipeline(filled, one_hot()), ["colour"])))
    marked = SimpleImputer(strategy="most_frequent", missing_values=3)
    yield Case("SimpleImputer", "marker", columns_of((marked, ["whole"])))
    beside = (SimpleImputer(), NUMERIC)
    flags = MissingIndicator(features="all")
    yield Case("MissingIndicator", "all", columns_of((flags, NUMERIC), (flags, TEXT), beside))
    yield Case("MissingIndicator", "error", columns_of((MissingIndicator(), NUMERIC), beside))
    log = FunctionTransformer(np.log1p, validate=True)
    yield Case("FunctionTransformer", "numpy", numbers(FunctionTransformer(np.abs), log))
    yield Case("FunctionTransformer", "none", numbers(FunctionTransformer()))
    yield Case("ArrayFeatures", "", gaps(ArrayFeatures(ratios), columns=NUMBERS))
    yield Case("NumberColumns", "", gaps(NumberColumns(), columns=[*NUMBERS, "day"]))
    select = make_column_selector(dtype_include="number")
    rest = make_pipeline(SimpleImputer(), StandardScaler())
    for setting, make in {
        "names": columns_of((rest, ["small"]), (one_hot(), ["colour"])),
        "indices": columns_of((rest, [0, 2]), (one_hot(), slice(5, 6))),
        "selector": columns_of((rest, select)),
        "mask": columns_of((rest, [True, False, True, True, *[False] * 4])),
        "remainder": columns_of(("drop", ["colour", "name", "day"]), remainder=rest),
        "passthrough": columns_of(
            (ordinal(), TEXT), ("drop", ["day"]), remainder="passthrough", model=histogram
        ),
    }.items():
        yield Case("ColumnTransformer", setting, make)
    union = [("a", StandardScaler()), ("b", "passthrough"), ("c", "drop")]
    yield Case("FeatureUnion", "", numbers(FeatureUnion(union)))
    yield Case(
        "FeatureUnion", "weights", numbers(FeatureUnion(union, transformer_weights={"a": 3}))
    )
    frames = columns_of((SimpleImputer(), NUMERIC))("regression")[:-1].set_output(
        transform="pandas"
    )
    second = ColumnTransformer([("s", StandardScaler(), ["0__whole", "0__small"])])
    yield Case(
        "Pipeline", "frames", lambda t: make_pipeline(frames, second, "passthrough", Ridge())
    )


def ratios(c: Any) -> Any:
    return {"ratio": c["small"] / (1 + c["count"] ** 2), "log": np.log1p(np.abs(c["large"]))}


# ── models ────────────────────────────────────────────────────────────────────────────────────────

REGRESSIONS = """LinearRegression Ridge RidgeCV Lasso LassoCV ElasticNet ElasticNetCV BayesianRidge
    ARDRegression HuberRegressor Lars LarsCV LassoLars LassoLarsCV LassoLarsIC SGDRegressor
    OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV"""
UNSURE = "RidgeClassifier RidgeClassifierCV Perceptron"


def linear_models() -> Iterator[Case]:
    for model in (
        *of(LINEAR, REGRESSIONS),
        *of(LINEAR, "QuantileRegressor", alpha=0.01),
        *of(LINEAR, "TheilSenRegressor", max_subpopulation=60, random_state=0),
        *of("sklearn.svm", "LinearSVR"),
    ):
        yield Case(name_of(model), "", lambda t, m=model: scaled(m))
    for model in of(LINEAR, "PoissonRegressor GammaRegressor TweedieRegressor"):
        if name_of(model) == "TweedieRegressor":
            model.set_params(power=1.5)
        yield Case(name_of(model), "", lambda t, m=model: of_positive(scaled(m)))
    for model in (
        *of(LINEAR, "LogisticRegression"),
        *of(LINEAR, "LogisticRegressionCV", cv=2, Cs=2),
        *of("sklearn.discriminant_analysis", "LinearDiscriminantAnalysis"),
        *of(LINEAR, "SGDClassifier", loss="log_loss", random_state=0),
        *of(LINEAR, "SGDClassifier", loss="modified_huber", random_state=0),
    ):
        setting = model.loss if name_of(model) == "SGDClassifier" else ""
        yield Case(name_of(model), setting, lambda t, m=model: scaled(m), BOTH)
    calibrated = importlib.import_module("sklearn.calibration").CalibratedClassifierCV
    for model in (*of("sklearn.svm", "LinearSVC"), *of(LINEAR, UNSURE)):
        yield Case(
            name_of(model), "calibrated", lambda t, m=model: calibrated(scaled(m), cv=2), BOTH
        )


def trees() -> Iterator[Case]:
    for kind, module, params in (
        ("HistGradientBoosting", "sklearn.ensemble", {"max_iter": 8}),
        ("RandomForest", "sklearn.ensemble", {"n_estimators": 8, "random_state": 0}),
        ("ExtraTrees", "sklearn.ensemble", {"n_estimators": 8, "random_state": 0}),
        ("DecisionTree", "sklearn.tree", {"max_depth": 6, "random_state": 0}),
        ("ExtraTree", "sklearn.tree", {"random_state": 0}),
    ):
        for end, tasks in (("Classifier", BOTH), ("Regressor", ("regression",))):
            model = next(of(module, kind + end, **params))
            yield Case(kind + end, "", lambda t, m=model: raw(m), tasks)
    forests = columns_of((SimpleImputer(), NUMERIC), (one_hot(), TEXT), sparse_threshold=1)
    sparse = forests("regression")[:-1]
    yield Case("RandomForestRegressor", "sparse", lambda t: make_pipeline(sparse, forest(t)))
    for name, numbered in (("Classifier", BOTH), ("Regressor", ("regression",))):
        own = either(
            HistGradientBoostingClassifier,
            HistGradientBoostingRegressor,
            max_iter=8,
            categorical_features=[0, 3],
        )
        parts = ((ordinal(unknown_value=np.nan), ["name"]), ("passthrough", NUMERIC[:3]))
        make = columns_of(*parts, model=own)
        yield Case(f"HistGradientBoosting{name}", "categories", make, numbered)
    poisson = HistGradientBoostingRegressor(loss="poisson", max_iter=8)
    yield Case("HistGradientBoostingRegressor", "poisson", lambda t: of_positive(raw(poisson)))
    early = either(
        GradientBoostingClassifier, GradientBoostingRegressor, n_estimators=60, n_iter_no_change=2
    )
    for name, numbered in (("Classifier", BOTH), ("Regressor", ("regression",))):
        make = lambda t: scaled(early(t))  # noqa: E731
        yield Case(f"GradientBoosting{name}", "stopped early", make, numbered)
    exponential = GradientBoostingClassifier(loss="exponential", n_estimators=8)
    make = lambda t: scaled(exponential)  # noqa: E731
    yield Case("GradientBoostingClassifier", "exponential", make, ("binary",))


def ensembles() -> Iterator[Case]:
    models = importlib.import_module("sklearn.ensemble")
    chosen = importlib.import_module("sklearn.model_selection")
    calibrated = importlib.import_module("sklearn.calibration").CalibratedClassifierCV
    for method in ("sigmoid", "isotonic", "temperature"):
        for inner in (LogisticRegression(), forest("binary")):
            setting = f"{method}, {name_of(inner)}"
            make = lambda t, m=method, i=inner: calibrated(scaled(i), method=m, cv=2)  # noqa: E731
            yield Case("CalibratedClassifierCV", setting, make, BOTH)

    def parts(task: str) -> list[Any]:
        return [("a", scaled(linear(task))), ("b", raw(histogram(task))), ("c", raw(forest(task)))]

    weights: Any
    for weights in (None, [1, 2.5, 0.1]):
        given: dict[str, Any] = {"weights": weights}
        setting = "weights" if weights else ""
        soft = lambda t, g=given: models.VotingClassifier(parts(t), voting="soft", **g)  # noqa: E731
        mean = lambda t, g=given: models.VotingRegressor(parts(t), **g)  # noqa: E731
        yield Case("VotingClassifier", setting, soft, BOTH)
        yield Case("VotingRegressor", setting, mean)
    table = scaled("passthrough")[:-1]
    stack = models.StackingClassifier
    for method in ("auto", "predict"):
        first = [("a", LogisticRegression()), ("b", LinearSVC()), ("c", boosting("binary"))]
        last = stack(first, LogisticRegression(), cv=2, stack_method=method)
        make = lambda t, m=last: make_pipeline(table, m)  # noqa: E731
        yield Case("StackingClassifier", method, make, BOTH)
    hard = models.VotingClassifier([("a", LogisticRegression()), ("b", histogram("binary"))])
    votes = stack([("v", hard)], LogisticRegression(), cv=2, passthrough=True)
    yield Case("StackingClassifier", "of votes", lambda t: make_pipeline(table, votes), BOTH)
    summed = models.StackingRegressor(parts("regression"), Ridge(), cv=2)
    yield Case("StackingRegressor", "", lambda t: summed)
    binary = ("binary",)
    for name in ("TunedThresholdClassifierCV", "FixedThresholdClassifier"):
        tuned = getattr(chosen, name)(scaled(LogisticRegression()))
        yield Case(name, "", lambda t, m=tuned: m, binary)
    for search in (chosen.GridSearchCV, chosen.RandomizedSearchCV):
        more = {"n_iter": 2} if search is chosen.RandomizedSearchCV else {}
        found = search(scaled(Ridge()), {"ridge__alpha": [0.1, 1.0]}, cv=2, **more)
        yield Case(search.__name__, "", lambda t, m=found: m)
    frozen = FrozenEstimator(SimpleImputer().fit(np.ones((3, 4))))
    yield Case("FrozenEstimator", "", columns_of((frozen, NUMERIC)))
    for back in of(PRE, "StandardScaler MinMaxScaler RobustScaler"):
        make = lambda t, b=back: TransformedTargetRegressor(scaled(Ridge()), transformer=b)  # noqa: E731
        yield Case("TransformedTargetRegressor", name_of(back), make)
    yield Case("TransformedTargetRegressor", "function", lambda t: of_positive(scaled(Ridge())))


def cases() -> list[Case]:
    kinds = (scalers, curves, selectors, encoders, others, linear_models, trees, ensembles)
    return [case for kind in kinds for case in kind()]
