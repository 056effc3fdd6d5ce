"""How good a model is on the frozen hold-out, alone and beside the champion.

Importing this package is light, because `results` is read by rooms that must start fast; numpy,
pandas and scipy come with the first use of `evaluate`, `compare` or `data_change`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trilho.evaluation.drift import data_change as data_change
    from trilho.evaluation.paired import compare as compare
    from trilho.evaluation.single import evaluate as evaluate

_HOMES = {"evaluate": "single", "compare": "paired", "data_change": "drift"}

__all__ = ["compare", "data_change", "evaluate"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
