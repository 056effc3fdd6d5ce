"""The service's life: load and prove the model, listen, answer, drain, stop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvloop

from trilho.errors import TrilhoError, UsageError
from trilho.serving import cores, emf, log, predictions, settings, source
from trilho.serving.app import App
from trilho.serving.auth import Keys
from trilho.serving.measures import Measures
from trilho.serving.predictions import Counts, PredictionLog
from trilho.serving.predictor import Predictor, load
from trilho.serving.settings import Settings
from trilho.serving.supervisor import Supervisor, memory
from trilho.serving.worker import FINISH_SECONDS, Worker

# For the prediction log's last files, within the supervisor's margin.
CLOSE_SECONDS = 2.5
# mallopt's M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX
MALLOC = {-1: 4 << 20, -3: 1 << 20, -8: 1}


def run_from_environment() -> int:
    """Serve as the environment variables say; return the exit code."""
    started = time.monotonic()
    log.capture_libraries()
    try:
        return serve(settings.read(os.environ), started)
    except TrilhoError as error:
        log.event("failed", error=error.message, hint=error.hint)
        return error.exit_code
    except Exception as error:
        log.event("failed", error=f"This is a bug in trilho: {log.where(error)}.")
        return 1


def serve(options: Settings, started: float | None = None) -> int:
    """Answer requests until SIGTERM or SIGINT; return the exit code.

    Nothing listens before the bundle is verified and its golden rows are repeated: a wrong model or
    a wrong environment never takes traffic.

    Raises
    ------
    TrilhoError
        The address is taken, or the model cannot be had, is not the one named, or computes
        something else here.
    """
    started = time.monotonic() if started is None else started
    _give_memory_back()
    log.event("start", model=options.uri or str(options.folder), digest=options.digest)
    with _bound(options) as listener:
        service = Service(options, _load(options), listener, started)
        code = service.run()
    log.event("stopped", seconds=round(time.monotonic() - started, 3))
    return code


def _give_memory_back() -> None:
    """Let the C library return what a burst of large requests has taken, and what the log packs.

    Otherwise glibc raises its bounds with each large block that is freed and makes a heap for each
    thread: one burst then doubled what a worker holds for good.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for parameter, value in MALLOC.items():
        mallopt(parameter, value)


def _load(options: Settings) -> Predictor:
    with source.fetch(options) as (folder, manifest, digest):
        return load(folder, manifest, digest, options.version, max_rows=options.limits.rows)


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


class Service:
    """A proven model and a port for it; one worker in this process, or several of their own."""

    def __init__(
        self, options: Settings, predictor: Predictor, listener: socket.socket, started: float
    ) -> None:
        self._options = options
        self._predictor = predictor
        self._listener = listener
        self._started = started
        self._measures = Measures(predictor)
        self._counts = Counts(self._measures.registry) if options.predictions else None
        if options.predictions is not None:
            predictions.check(predictor, options.predictions)
        self._measures.registry.open(options.workers)

    def run(self) -> int:
        options = self._options
        # what is here now stays: no collection has to look at it, or copies what workers share
        gc.collect()
        gc.freeze()
        if options.workers == 1:
            self._work(0, None, lambda: self._ready([os.getpid()]))
            return 0
        return Supervisor(
            options.workers,
            self._work,
            ready=self._ready,
            drain=self._drain,
            end_seconds=options.drain_seconds + FINISH_SECONDS,
        ).run()

    def _work(self, number: int, lifeline: int | None, ready: Callable[[], None]) -> None:
        """Be a worker until its end."""
        options, measures = self._options, self._measures
        measures.registry.use(number)
        lines = log.Lines(sys.stderr.fileno())
        log.through(lines)
        app = App(
            self._predictor,
            measures=measures if options.metrics else None,
            keys=Keys(options.keys) if options.keys else None,
            lines=None if options.log_requests == "none" else lines,
            log_all=options.log_requests == "all",
        )
        worker = Worker(
            app,
            options,
            self._listener,
            number=number,
            measures=measures,
            lines=lines,
            threads=max(1, cores.available() // options.workers),
        )

        async def live() -> None:
            if lifeline is not None:
                _end_with_parent(lifeline, worker.close)
            await worker.live(ready)

        with self._emf(number, worker), self._predictions(app, worker):
            uvloop.run(live())
        log.through(None)
        lines.close(seconds=2)

    @contextmanager
    def _emf(self, number: int, worker: Worker) -> Iterator[None]:
        """Let the first worker write the metrics of all."""
        options = self._options
        if options.emf is None or number != 0:
            yield
            return
        source = emf.Lines(options.emf, self._measures, self._predictor.identity)
        out = log.Lines(sys.stdout.fileno())
        due = time.monotonic() + options.emf_seconds

        def tick() -> None:
            nonlocal due
            if time.monotonic() >= due:
                due += options.emf_seconds
                out.add(source.next())
                out.flush()

        worker.on_tick.append(tick)
        yield
        out.add(source.next())
        out.close(seconds=2)

    @contextmanager
    def _predictions(self, app: App, worker: Worker) -> Iterator[None]:
        """Keep what is predicted."""
        if self._options.predictions is None or self._counts is None:
            yield
            return
        kept = PredictionLog(
            self._predictor,
            self._options.predictions,
            workers=self._options.workers,
            counts=self._counts,
        )
        app.on_prediction = kept.take
        worker.on_tick.append(kept.tick)
        kept.start()
        yield
        kept.close(CLOSE_SECONDS)

    def _ready(self, pids: list[int]) -> None:
        host, port = self._listener.getsockname()[:2]
        identity = self._predictor.identity
        used = memory([*{os.getpid(), *pids}])
        log.event(
            "ready",
            host=host,
            port=port,
            model=identity.name,
            version=identity.version,
            digest=identity.digest,
            workers=len(pids),
            memory_mb=None if used is None else round(used / 1024**2),
            api_key=bool(self._options.keys),
            seconds=round(time.monotonic() - self._started, 3),
        )

    def _drain(self) -> None:
        log.event("drain", seconds=self._options.drain_seconds)
        self._listener.close()  # the workers have theirs, and close them after the last client


def _end_with_parent(lifeline: int, end: Callable[[], None]) -> None:
    """Call `end` when the other end of the pipe closes, which it does when the parent dies."""
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(lifeline)
        end()

    loop.add_reader(lifeline, gone)
