"""An AWS of a module's own, to which every client of the test process goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trilho.demo import ministack
from trilho.storage import aws

CLIENTS: dict[tuple[str, str], Any] = {}


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


def send_clients_to(url: str, environment: pytest.MonkeyPatch) -> str:
    """Let the clients of trilho and boto3 go to an address, each made once."""
    for name, value in ministack.client_environment(url).items():
        environment.setenv(name, value)
    make = aws.client

    def shared(service: str) -> Any:  # to make a client takes longer than most tests
        if (url, service) not in CLIENTS:
            CLIENTS[url, service] = make(service)
        return CLIENTS[url, service]

    environment.setattr(aws, "client", shared)
    return url
