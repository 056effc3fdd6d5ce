"""A model that takes its time, for the tests of what a service does under more than it can bear."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


class SlowModel:
    """Answers one half for each row, `seconds` later."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.classes_ = ["no", "yes"]

    def predict_proba(self, frame: Any) -> Any:
        time.sleep(self.seconds)
        return np.full((len(frame), 2), 0.5)
