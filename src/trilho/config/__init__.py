"""`pipeline.yaml` as types: every key documented, unknown keys refused, environment filled in."""

from trilho.config.load import DEFAULT_PATH, load
from trilho.config.overrides import Overrides
from trilho.config.types import (
    Checks,
    Data,
    Deploy,
    Evaluation,
    FairnessGate,
    Freshness,
    Gates,
    LatencyGate,
    Limit,
    Model,
    Pipeline,
    Range,
    Search,
    SliceBy,
    SliceGate,
    Split,
    Strategy,
    Threshold,
)

__all__ = [
    "DEFAULT_PATH",
    "Checks",
    "Data",
    "Deploy",
    "Evaluation",
    "FairnessGate",
    "Freshness",
    "Gates",
    "LatencyGate",
    "Limit",
    "Model",
    "Overrides",
    "Pipeline",
    "Range",
    "Search",
    "SliceBy",
    "SliceGate",
    "Split",
    "Strategy",
    "Threshold",
    "load",
]
