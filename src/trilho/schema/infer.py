"""A first schema, drafted from the data."""

from __future__ import annotations

import pandas as pd


def infer(frame: pd.DataFrame, target: str) -> str:
    raise NotImplementedError
