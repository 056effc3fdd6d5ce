"""Waiting for what comes to pass by itself, in a thread or in another process."""

from __future__ import annotations

import time
from collections.abc import Callable

# No speed is tested with it: a disk that is busy with something else can take so long to sync.
PATIENCE = 90.0


def eventually(what: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return as soon as `what` is true; fail when it does not become so."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.01)
