"""From a dataset to a sealed bundle: fit, tune, compile to the serving form, prove it equal.

Importing this package is light; scikit-learn and pandas come with the first use of `train`, and
never with `trilho.training.fingerprint`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trilho.training.describe import Reference as Reference
    from trilho.training.describe import Sketch as Sketch
    from trilho.training.run import Trained as Trained
    from trilho.training.run import train as train
    from trilho.training.scoring import Scorer as Scorer

_HOMES = {
    "Trained": "run",
    "train": "run",
    "Reference": "describe",
    "Sketch": "describe",
    "Scorer": "scoring",
}

__all__ = ["Reference", "Scorer", "Sketch", "Trained", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
