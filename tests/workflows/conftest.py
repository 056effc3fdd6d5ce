"""One machine for all runs of a test process, and a world of its own for each file of scenarios."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rail import Runner
from world import World, world


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("runner"))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, runner: Runner) -> Iterator[World]:
    """A project that has never deployed anything."""
    with world(tmp_path_factory.mktemp("world"), runner) as made:
        yield made


@pytest.fixture(scope="module")
def live(empty: World) -> World:
    """A project whose version 1 is in service: what main makes."""
    empty.seed()
    return empty
