"""An AWS of a module's own, to which every client of the test process goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trilho.demo import ministack


@contextmanager
def embedded_aws(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Start MiniStack where it finds no container engine, and let clients go there meanwhile."""
    running = ministack.start(folder, environment={"DOCKER_HOST": f"unix://{folder}/none"})
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("AWS_PROFILE", raising=False)
            for name, value in running.environment().items():
                patch.setenv(name, value)
            yield patch
    finally:
        running.stop()
