"""What decides a model, as one digest: equal fingerprints give equal bundles.

Computed from files alone, without importing pandas, scikit-learn or the project, because unchanged
inputs must be recognised in no time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from trilho.bundle import sha256_bytes, sha256_file
from trilho.config import Pipeline
from trilho.errors import Place, UsageError

LOCK = Path("requirements.txt")
HERE = Path(__file__).resolve().parents[1]  # the package trilho
ROOMS = ("training", "compiled", "features", "dataset", "schema", "evaluation", "bundle")
# What computes a model, whatever installed it.
LIBRARIES = ("numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "treelite", "joblib")


def fingerprint(parts: dict[str, str]) -> str:
    """Return one digest of all parts."""
    return sha256_bytes(json.dumps(parts, sort_keys=True).encode())


def parts(config: Pipeline, dataset_digest: str) -> dict[str, str]:
    """Return the digest of each part, so that a difference can be told.

    Parameters
    ----------
    config
        Its name, data (without the path and the checks), model and evaluation count; registry,
        gates and deploy do not.
    dataset_digest
        Of the dataset's bytes, wherever they lie.

    Raises
    ------
    UsageError
        The schema file does not exist.
    """
    settings = {
        "data": config.data.model_dump_json(exclude={"path", "schema_", "checks"}),
        "model": config.model.model_dump_json(),
        "evaluation": config.evaluation.model_dump_json(),
    }
    return {
        "name": config.name,
        **{name: sha256_bytes(text.encode()) for name, text in settings.items()},
        "dataset": dataset_digest,
        "schema": schema(Path(config.data.schema_)),
        "project": project(config),
        "trilho": code(*ROOMS),
        "lock": lock_digest() or "none",
        # beside the lock, which may hold other versions for another Python, or be the caller's own
        "environment": _environment(),
    }


def lock_digest() -> str | None:
    """Return the digest of the lock file, None without one."""
    return sha256_file(LOCK) if LOCK.is_file() else None


@cache
def code(*rooms: str) -> str:
    """Return the digest of some of Trilho's own modules and packages."""
    return _digest_of_files(
        HERE,
        (
            path
            for room in rooms
            for path in (*(HERE / room).rglob("*.py"), HERE / f"{room}.py")
            if path.is_file()
        ),
    )


def project(config: Pipeline) -> str:
    """Return the digest of the package that the factory or estimator lives in.

    An installed library counts by its lock, or its version.
    """
    top = (config.model.factory or str(config.model.estimator)).partition(":")[0].split(".")[0]
    for root in (Path.cwd() / "src", Path.cwd()):
        if (root / top).is_dir():
            return _digest_of_files(root, (root / top).rglob("*.py"))
        if (root / f"{top}.py").is_file():
            return _digest_of_files(root, [root / f"{top}.py"])
    spec = importlib.util.find_spec(top)  # imports nothing: the name has no dot
    if spec is None or spec.origin is None:
        return "missing"
    path = Path(spec.origin)
    if any(part in ("site-packages", "dist-packages") for part in path.parts):
        return "installed"
    folder = path.parent if path.name == "__init__.py" else None
    return _digest_of_files(path.parents[1], folder.rglob("*.py") if folder else [path])


def schema(path: Path) -> str:
    """Return the digest of the schema file."""
    try:
        return sha256_file(path)
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(
            f"data.schema: {path} does not exist.",
            hint="Run `trilho init` to infer one from the data.",
            places=(Place(str(path)),),
        ) from None


def _digest_of_files(root: Path, paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.relative_to(root).as_posix()} {sha256_file(path)}\n".encode())
    return "sha256:" + total.hexdigest()


def _environment() -> str:
    """Python without its patch release, which runners bump as they like, and the libraries."""
    python = ".".join(platform.python_version_tuple()[:2])
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    return ", ".join([f"python {python}", *versions])
