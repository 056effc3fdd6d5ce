"""The service's life: load and prove the model, listen, answer, drain, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
import uvloop

from trilho.errors import TrilhoError, UsageError
from trilho.serving import log, settings, source
from trilho.serving.app import App
from trilho.serving.predictor import Predictor, load
from trilho.serving.settings import Settings

# Longer than a load balancer keeps idle connections (60 s on AWS), so that the balancer is always
# the one to close them: it would answer 502 when a request meets a closing connection.
KEEP_ALIVE_SECONDS = 75
# For requests in flight, after the drain: with its default of 5 s far below ECS's 30 s.
FINISH_SECONDS = 15


def run_from_environment() -> int:
    """Serve as the environment variables say; return the exit code."""
    started = time.monotonic()
    log.capture_libraries()
    try:
        serve(settings.read(os.environ), started)
    except TrilhoError as error:
        log.event("failed", error=error.message, hint=error.hint)
        return error.exit_code
    except Exception as error:
        log.event("failed", error=f"This is a bug in trilho: {log.where(error)}.")
        return 1
    return 0


def serve(options: Settings, started: float | None = None) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Nothing listens before the bundle is verified and its golden rows are repeated: a wrong model or
    a wrong environment never takes traffic.

    Raises
    ------
    TrilhoError
        The address is taken, or the model cannot be had, is not the one named, or computes
        something else here.
    """
    started = time.monotonic() if started is None else started
    log.event("start", model=options.uri or str(options.folder), digest=options.digest)
    with _bound(options) as listener:
        predictor = _load(options)
        uvloop.run(_Server(App(predictor), options, listener, started).live())
    log.event("stopped", seconds=round(time.monotonic() - started, 3))


def _load(options: Settings) -> Predictor:
    with source.fetch(options) as (folder, manifest, digest):
        return load(folder, manifest, digest, options.version)


@contextmanager
def _bound(options: Settings) -> Iterator[socket.socket]:
    """Take the port, without listening yet."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((options.host, options.port))
        except OSError as error:
            raise UsageError(
                f"Cannot listen on {options.host}:{options.port}: {error.strerror or error}.",
                hint="Set TRILHO_HOST and TRILHO_PORT; port 0 takes a free one.",
            ) from None
        yield listener


class _Server(uvicorn.Server):
    """uvicorn with our way to end: not ready at once, answering for the drain, then closing."""

    def __init__(
        self, app: App, options: Settings, listener: socket.socket, started: float
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=FINISH_SECONDS,
            )
        )
        self._app = app
        self._options = options
        self._listener = listener
        self._started = started

    async def live(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_signal_handler(signal.SIGINT, self._close)
        await self.serve(sockets=[self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self._listener.getsockname()[:2]
        identity = self._app.predictor.identity
        log.event(
            "ready",
            host=host,
            port=port,
            model=identity.name,
            version=identity.version,
            digest=identity.digest,
            seconds=round(time.monotonic() - self._started, 3),
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # ours are on the loop; uvicorn's would close at once and end by the signal

    def _drain(self) -> None:
        if self._app.draining:  # a second signal: whoever sends it does not want to wait
            self._close()
            return
        self._app.draining = True
        log.event("drain", seconds=self._options.drain_seconds)
        asyncio.get_running_loop().call_later(self._options.drain_seconds, self._close)

    def _close(self) -> None:
        self._app.draining = True
        self.should_exit = True
