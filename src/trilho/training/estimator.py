"""The unfitted model that a pipeline asks for."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trilho import config
from trilho.errors import UsageError, nearest


def build(model: config.Model, kinds: dict[str, str], task: str) -> Any:
    """Return the unfitted estimator of `model`, with every unset `random_state` seeded.

    Parameters
    ----------
    model
        The pipeline's `model` section.
    kinds
        Kind of each feature column, for the preprocessing around a bare estimator.
    task
        binary, multiclass or regression.

    Raises
    ------
    UsageError
        The factory or estimator cannot be found, takes other parameters, or gives no estimator of
        this task.
    """
    if model.factory is not None:
        estimator = _call(factory(model.factory), model.params, "model.factory", model.factory)
    else:
        assert model.estimator is not None
        estimator = _call(_class(model.estimator), model.params, "model.estimator", model.estimator)
    _check(estimator, model.factory or str(model.estimator), task)
    if model.estimator is not None:
        from trilho.training.preprocessing import preprocess

        estimator = preprocess(estimator, kinds)
    seed_all(estimator, model.seed)
    return estimator


def seed_all(estimator: Any, seed: int) -> None:
    """Give `seed` to every `random_state` that is unset."""
    unset = {
        name: seed
        for name, value in estimator.get_params(deep=True).items()
        if name.rpartition("__")[2] == "random_state" and value is None
    }
    if unset:
        estimator.set_params(**unset)


def factory(path: str) -> Callable[..., Any]:
    """Find `package.module:function` in the caller's project."""
    module_name, _, name = path.partition(":")
    module = _import(module_name, "model.factory")
    found = getattr(module, name, None)
    if not callable(found):
        functions = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UsageError(
            f"model.factory: {module_name} has no function '{name}'{nearest(name, functions)}",
            hint=f"It must be a function in {getattr(module, '__file__', module_name)} that "
            "returns an unfitted scikit-learn estimator.",
        )
    return found  # type: ignore[no-any-return]


@contextmanager
def project_path() -> Iterator[None]:
    """Make the caller's `src/` and working folder importable, as `python` itself would."""
    wanted = [str(p) for p in (Path.cwd() / "src", Path.cwd()) if p.is_dir()]
    added = [p for p in wanted if p not in sys.path]
    sys.path[:0] = added
    try:
        yield
    finally:
        for p in added:
            sys.path.remove(p)


def _import(name: str, key: str) -> Any:
    with project_path():
        importlib.invalidate_caches()
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or name
            if name == missing or name.startswith(missing + "."):
                raise UsageError(
                    f"{key}: there is no module '{name}'{nearest(name, _modules(name))}",
                    hint=f"Modules are looked for in {Path.cwd() / 'src'}, {Path.cwd()} and the "
                    "installed packages.",
                ) from None
            raise UsageError(
                f"{key}: {name} imports '{missing}', which is not installed.",
                hint="Install it, or correct the import.",
            ) from None
        except Exception as error:  # the project's own code may raise anything
            what = f"{type(error).__name__}: {error}"
            raise UsageError(f"{key}: {name} cannot be imported: {what}") from error


def _modules(name: str) -> list[str]:
    """Names of the project's modules that might be meant."""
    found = []
    for root in (Path.cwd() / "src", Path.cwd()):
        for path in [*root.glob("*.py"), *root.glob("*/*.py"), *root.glob("*/*/*.py")]:
            parts = path.relative_to(root).with_suffix("").parts
            if all(p.isidentifier() for p in parts):
                found.append(".".join(parts).removesuffix(".__init__"))
    package, _, _ = name.rpartition(".")
    if package in sys.modules:
        folder = Path(getattr(sys.modules[package], "__file__", None) or "").parent
        found += [f"{package}.{p.stem}" for p in folder.glob("*.py")]
    return found


def _class(path: str) -> Callable[..., Any]:
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise UsageError(
            f"model.estimator: '{path}' is no dotted path; expected one such as "
            "sklearn.linear_model.LogisticRegression."
        )
    module = _import(module_name, "model.estimator")
    found = getattr(module, name, None)
    if not callable(found):
        known = [n for n in getattr(module, "__all__", dir(module)) if not n.startswith("_")]
        raise UsageError(f"model.estimator: {module_name} has no '{name}'{nearest(name, known)}")
    return found  # type: ignore[no-any-return]


def _call(function: Callable[..., Any], params: dict[str, Any], key: str, path: str) -> Any:
    """Call a factory or class with the configured parameters."""
    try:
        signature = inspect.signature(function)
        signature.bind(**params)
    except ValueError:
        pass  # a class in C has no signature
    except TypeError as error:
        raise _wrong_params(params, list(signature.parameters), key, path, str(error)) from None
    try:
        return function(**params)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise UsageError(f"{key}: {path} failed: TypeError: {error}") from error
        raise _wrong_params(params, _inner(function), key, path, str(error)) from None
    except Exception as error:  # the project's own code may raise anything
        raise UsageError(f"{key}: {path} failed: {type(error).__name__}: {error}") from error


def _inner(function: Callable[..., Any]) -> list[str]:
    """Parameters of what a factory returns by default: what its `**params` most likely takes."""
    try:
        return sorted({n.rpartition("__")[2] for n in function().get_params(deep=True)})
    except Exception:
        return []


def _wrong_params(
    params: dict[str, Any], known: list[str], key: str, path: str, problem: str
) -> UsageError:
    quoted = re.search(r"'(\w+)'", problem)
    name = quoted.group(1) if quoted else ""
    if "unexpected keyword" in problem and name in params:
        problem = f"takes no parameter '{name}'{nearest(name, known)}"
    return UsageError(
        f"model.params: {path} {problem}".rstrip("."),
        hint=f"Known: {', '.join(known[:40])}." if known else f"See {key}.",
    )


def _check(estimator: Any, path: str, task: str) -> None:
    """Refuse what is no estimator of the task."""
    from sklearn.base import is_classifier, is_regressor

    if isinstance(estimator, type) or not all(
        hasattr(estimator, a) for a in ("fit", "get_params", "set_params")
    ):
        what = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
        kind = "the class" if isinstance(estimator, type) else "a"
        raise UsageError(
            f"{path} returns {kind} {what}, which is not a scikit-learn estimator.",
            hint="Return an unfitted estimator or Pipeline, such as LogisticRegression().",
        )
    if task == "regression" and not is_regressor(estimator):
        raise UsageError(
            f"{path} gives {type(estimator).__name__}, which is no regressor; the task is "
            "regression.",
            hint="Use a regressor, or set data.task.",
        )
    if task != "regression":
        if not is_classifier(estimator):
            raise UsageError(
                f"{path} gives {type(estimator).__name__}, which is no classifier; the task is "
                f"{task}.",
                hint="Use a classifier, or set data.task.",
            )
        if not hasattr(estimator, "predict_proba"):
            raise UsageError(
                f"{path} gives {type(estimator).__name__}, which has no predict_proba; Trilho "
                "judges models by their probabilities.",
                hint="Wrap it in CalibratedClassifierCV, or set probability=True.",
            )
