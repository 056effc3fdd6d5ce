"""Several workers: forked from one process that holds the proven model and serves nobody.

The model's memory is shared by all of them, a worker that dies is replaced at once, and the
listening socket lives on meanwhile, so that only the requests of the dead one are lost.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trilho.serving import log

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
# A worker that dies sooner than this has not been of use; so many in a row, and we give up.
USEFUL_SECONDS = 5.0
MAX_USELESS = 5
# After the time that a worker has for its end, it is killed.
MARGIN_SECONDS = 5.0


@dataclass
class Child:
    number: int
    started: float


class Supervisor:
    """Keeps `count` workers running.

    Parameters
    ----------
    count
        How many.
    run
        What a worker does, in its own process: gets its number, the end of a pipe that closes when
        this process dies, and what to call when it is ready. It must install its handlers of
        SIGTERM and SIGINT before it calls that.
    ready
        Called once, with the process numbers, when all are ready.
    drain
        Called at the first SIGTERM.
    end_seconds
        The time that a worker takes at most, from SIGTERM to its end.
    """

    def __init__(
        self,
        count: int,
        run: Callable[[int, int, Callable[[], None]], None],
        *,
        ready: Callable[[list[int]], None],
        drain: Callable[[], None],
        end_seconds: float,
    ) -> None:
        self._count = count
        self._run = run
        self._ready = ready
        self._drain = drain
        self._end_seconds = end_seconds
        self._children: dict[int, Child] = {}
        self._due: dict[int, float] = {}  # number of a worker to the time of its (next) start
        self._useless = 0
        self._ending = False
        self._kill_at = float("inf")
        self._code = 0

    def run(self) -> int:
        """Run until all workers have ended; return the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._lifeline, self._alive = os.pipe()
        self._heard, self._say_ready = os.pipe()
        os.set_blocking(self._heard, False)
        self._due = dict.fromkeys(range(self._count), 0.0)
        told: set[int] = set()
        while self._children or self._due:
            self._start_due()
            got = signal.sigtimedwait(SIGNALS, 0.02 if told is not None else 0.5)
            if got is not None and got.si_signo != signal.SIGCHLD:
                self._end(got.si_signo)
            self._reap()
            if told is not None and not self._ending:
                told |= self._told()
                if len(told) == self._count:
                    told = None  # type: ignore[assignment]
                    self._ready(sorted(self._children))
            if time.monotonic() > self._kill_at:
                self._signal(signal.SIGKILL)
        return self._code

    def _told(self) -> set[int]:
        """Return the workers that have said that they are ready since the last look."""
        try:
            return set(os.read(self._heard, 4096))
        except BlockingIOError:
            return set()

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._children[self._fork(number)] = Child(number, now)

    def _fork(self, number: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.close(self._alive)

            def ready() -> None:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                os.write(self._say_ready, bytes([number]))

            self._run(number, self._lifeline, ready)
            code = 0
        except BaseException as error:
            log.event(
                "failed", worker=number, error=f"This is a bug in trilho: {log.where(error)}."
            )
        finally:
            os._exit(code)  # none of the parent's ends are ours
        raise AssertionError

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is not None:  # else an orphan that we were given as process 1
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        if self._ending:
            self._code = self._code or (1 if code else 0)
            return
        useful = time.monotonic() - child.started > USEFUL_SECONDS
        self._useless = 0 if useful else self._useless + 1
        how = {"signal": -code} if code < 0 else {"code": code}
        log.event("worker-ended", worker=child.number, **how)
        if self._useless >= MAX_USELESS:
            log.event("failed", error=f"Workers end as soon as they start: {MAX_USELESS} in a row.")
            self._code = 1
            self._end(signal.SIGINT)
            return
        wait = 0.0 if useful else 0.1 * 2**self._useless
        self._due[child.number] = time.monotonic() + wait

    def _end(self, with_signal: int) -> None:
        first, self._ending = not self._ending, True
        self._due.clear()
        self._kill_at = min(self._kill_at, time.monotonic() + self._end_seconds + MARGIN_SECONDS)
        # a worker that is busy would take two of the first kind for one, and drain
        self._signal(with_signal if first else signal.SIGINT)
        if first and with_signal == signal.SIGTERM:
            self._drain()

    def _signal(self, number: int) -> None:
        for pid in self._children:
            os.kill(pid, number)


def memory(pids: list[int]) -> int | None:
    """Return the bytes that some processes take together, shared ones counted once."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            return None
        total += next(
            (int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0
        )
    return total * 1024
