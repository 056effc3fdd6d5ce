"""The prediction log: what was asked and answered, for monitoring, and what a person should label.

    the loop      makes a line of some predictions at a time, into a bounded buffer
    a thread      takes the buffer four times a second to the spool's files (see predictions_spool)
    a thread      packs files that are due, and sends them; while S3 is away they wait

So a process that is killed loses what came since the last quarter of a second, and trouble with the
disk or with S3 holds up no answer: beyond the bounds rows are dropped, and counted.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np

from trilho import storage
from trilho.errors import TrilhoError
from trilho.serving import log
from trilho.serving.app import Finished
from trilho.serving.metrics import Registry
from trilho.serving.predictions_lines import PIECE, Doubtful, Kept, Lines, doubtful, hour
from trilho.serving.predictions_pack import Pack, packer
from trilho.serving.predictions_spool import Spool, prepare
from trilho.serving.predictor import Predictor
from trilho.serving.settings import Keeping
from trilho.storage import AlreadyExists, Store

PREDICTIONS, LABELLING = "predictions", "labelling"
# Bytes of lines that wait for the disk, and predictions of many rows that wait to become lines.
BUFFER_BYTES = 16 * 1024 * 1024
BUFFER_LARGE = 4
# What becomes a line at once, about: names are written once in it, and it holds up nobody.
LINE_BYTES = 16 * 1024
# Lines that do not wait for the next tick: they would only take memory.
MANY_BYTES = 256 * 1024
ROW_BYTES = 160
ROLL_SECONDS = 0.25
ADOPT_SECONDS = 10.0
RETRY_SECONDS = (0.5, 30.0)
REASONS = ("buffer", "disk", "spool", "failed")
DAY = 86_400


class Counts:
    """The log's metrics; to be made before the registry's memory is opened."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self.kept = registry.counter(
            "trilho_prediction_log_rows_total", "Rows written to the spool.", log=_LOGS
        )
        self.sent = registry.counter(
            "trilho_prediction_log_sent_rows_total", "Rows sent to their place.", log=_LOGS
        )
        self.dropped = registry.counter(
            "trilho_prediction_log_dropped_rows_total",
            "Rows lost: the buffer or the spool was full, the disk failed, or we did.",
            reason=REASONS,
        )
        self.failures = registry.counter(
            "trilho_prediction_log_failures_total", "Attempts to send that failed."
        )
        self.backlog = registry.gauge(
            "trilho_prediction_log_backlog_bytes", "What is in the spool and not sent."
        )

    def add(self, cell: int, number: float = 1) -> None:
        """Count; several threads do."""
        with self._lock:
            self._registry.cells[cell] += number

    def lost(self, reason: str) -> Callable[[int], None]:
        cell = self.dropped.cell(reason)
        return lambda rows: self.add(cell, rows)

    def left(self, size: int) -> None:
        self._registry.cells[self.backlog.start] = size


_LOGS = (PREDICTIONS, LABELLING)


class Item(NamedTuple):
    """Some lines for one file, or a prediction of many rows that is no lines yet."""

    partition: str
    lines: list[bytes]
    rows: int
    large: Kept | None = None


class PredictionLog:
    """One worker's log. `take` and `tick` are for the loop.

    Parameters
    ----------
    predictor
        The model.
    options
        What is kept, and where.
    workers
        How many share the bounds.
    counts
        The metrics.

    Raises
    ------
    UsageError
        The settings do not fit the model, or the spool cannot be used.
    """

    def __init__(
        self, predictor: Predictor, options: Keeping, *, workers: int, counts: Counts
    ) -> None:
        self._counts = counts
        self._lines = Lines(predictor.signature, predictor.columns, predictor.identity, options)
        self._doubtful = doubtful(predictor.signature, options.band) if options.daily else None
        self._sample = options.sample
        self._random = random.Random()  # noqa: S311 - not a secret
        self._model = f"model={storage_name(predictor.identity.name)}"
        self._daily = -(-options.daily // workers)
        self._day = (0, 0)  # the day, and the rows for labelling in it
        self._buffer: defaultdict[tuple[str, int], list[bytes]] = defaultdict(list)
        self._rows: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._pending: defaultdict[tuple[str, int], list[Kept]] = defaultdict(list)
        self._weight = 0  # of what is pending, about, in bytes
        self._buffered = 0  # bytes of lines that wait for the loop's tick
        self._size = 0  # and of those that wait for the disk, too
        self._large = 0
        self._bound = threading.Lock()
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._spool = Spool(
            options.spool,
            options.url,
            limit=max(1, options.spool_bytes // workers),
            seconds=options.seconds,
            dropped=counts.lost("spool"),
        )
        self._disk_failed = False
        self._writer = threading.Thread(target=self._write, name="predictions", daemon=True)
        self._sender = Sender(
            self._spool,
            storage.open_store(options.url),
            packer(predictor.signature, predictor.columns, predictor.identity.digest, options),
            counts,
        )

    def start(self) -> None:
        self._writer.start()
        self._sender.start()

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────

    def take(self, finished: Finished) -> None:
        """Keep a prediction, as the settings say; whatever happens, the service goes on."""
        try:
            self._take(Kept(*finished))
        except Exception as error:
            self._give_up(error)

    def _take(self, kept: Kept) -> None:
        if self._sample == 1:
            self._keep(PREDICTIONS, kept)
        else:
            chosen = [self._random.random() < self._sample for _ in kept.sizes]
            if any(chosen):
                self._keep(PREDICTIONS, kept if all(chosen) else _of_requests(kept, chosen))
        if self._doubtful is not None:
            self._label(kept, self._doubtful)

    def _label(self, kept: Kept, doubtful: Doubtful) -> None:
        """Keep the rows that the model was not sure of, until there are enough for the day."""
        today = int(kept.at // DAY)
        day, already = self._day
        if day != today:
            already = 0
        if already < self._daily and len(rows := doubtful(kept.prediction)):
            chosen = np.asarray(rows)[: self._daily - already]
            already += len(chosen)
            self._keep(LABELLING, kept._replace(rows=chosen))
        self._day = (today, already)

    def _keep(self, name: str, kept: Kept) -> None:
        rows = kept.size()
        at = int(kept.at // 3600)
        if rows > PIECE:
            with self._bound:
                full = self._large >= BUFFER_LARGE
                self._large += not full
            if full:
                self._counts.lost("buffer")(rows)
            else:
                self._queue.put(Item(self._partition(name, at), [], rows, kept))
            return
        if self._size >= BUFFER_BYTES:
            self._counts.lost("buffer")(rows)
            return
        self._pending[name, at].append(kept)
        self._weight += rows * ROW_BYTES + self._lines.weight(kept)
        if self._weight >= LINE_BYTES:
            self._encode()

    def _encode(self) -> None:
        """Make lines of what is pending."""
        for partition, many in list(self._pending.items()):
            line = self._lines.join(many)
            del self._pending[partition]
            self._buffer[partition].append(line)
            self._rows[partition] += sum(kept.size() for kept in many)
            self._buffered += len(line)
            with self._bound:
                self._size += len(line)
        self._weight = 0
        if self._buffered >= MANY_BYTES:
            self._hand_over()

    def _partition(self, name: str, at: int) -> str:
        return f"{name}/{self._model}/{hour(at * 3600)}"

    def tick(self) -> None:
        """Hand the buffer to the thread that writes it."""
        try:
            self._encode()
        except Exception as error:
            self._give_up(error)
        if self._buffer:
            self._hand_over()

    def _hand_over(self) -> None:
        for (name, at), lines in self._buffer.items():
            self._queue.put(Item(self._partition(name, at), lines, self._rows[name, at]))
        self._buffer.clear()
        self._rows.clear()
        self._buffered = 0

    def _give_up(self, error: Exception) -> None:
        """Drop what is pending: something in it is beyond us."""
        rows = sum(kept.size() for many in self._pending.values() for kept in many)
        self._pending.clear()
        self._weight = 0
        self._counts.lost("failed")(rows)
        log.event("error", error=log.where(error))

    # ── the thread that writes ────────────────────────────────────────────────────────────────────

    def _write(self) -> None:
        due = 0.0
        while True:
            try:
                item = self._queue.get(timeout=ROLL_SECONDS)
                if item is None:
                    break
                self._append(item)
            except Empty:
                pass
            if time.monotonic() >= due:
                self._spool.roll()
                self._counts.left(self._spool.size)
                due = time.monotonic() + ROLL_SECONDS
        self._spool.roll(all=True)

    def _append(self, item: Item) -> None:
        left = item.rows
        try:
            if item.large is None:
                self._spool_lines(item.partition, item.lines, left)
            else:
                for line in self._lines.of(item.large):  # piece by piece: others want the processor
                    self._spool_lines(item.partition, [line], min(PIECE, left))
                    left -= PIECE
            self._disk_failed = False
        except OSError as error:
            self._counts.lost("disk")(left)
            if not self._disk_failed:
                self._disk_failed = True
                log.event("prediction-log", error=f"The spool fails: {error.strerror or error}.")
        except Exception as error:  # nothing may end this thread
            self._counts.lost("failed")(left)
            log.event("error", error=log.where(error))
        with self._bound:
            self._size -= sum(map(len, item.lines))
            self._large -= item.large is not None

    def _spool_lines(self, partition: str, lines: list[bytes], rows: int) -> None:
        if self._spool.append(partition, lines, rows):
            self._counts.add(self._counts.kept.cell(partition.partition("/")[0]), rows)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────

    def close(self, seconds: float) -> None:
        """Send the rest, as far as that is possible in so many seconds; what is left is spooled."""
        until = time.monotonic() + seconds
        self.tick()
        self._queue.put(None)
        self._writer.join(seconds)
        self._sender.end(until)
        if not self._writer.is_alive() and not self._sender.is_alive():
            self._spool.close()


class Sender(threading.Thread):
    """Packs and sends files, the oldest first; waits longer and longer while that fails."""

    def __init__(
        self,
        spool: Spool,
        store: Store,
        pack: Pack,
        counts: Counts,
    ) -> None:
        super().__init__(name="predictions-sender", daemon=True)
        self._spool = spool
        self._store = store
        self._pack = pack
        self._counts = counts
        self._until = float("inf")
        self._ending = threading.Event()
        self._failed = False

    def run(self) -> None:
        shortest, longest = RETRY_SECONDS
        wait, adopt = shortest, 0.0
        while True:
            ending = self._ending.is_set()
            if time.monotonic() >= adopt and not ending:
                self._adopt()
                adopt = time.monotonic() + ADOPT_SECONDS
            sound = False
            try:
                sound = self._send_all()
            except (TrilhoError, OSError) as error:
                self._fail(error.message if isinstance(error, TrilhoError) else str(error))
            except Exception as error:  # nothing may end this thread
                self._fail(log.where(error))
            if not sound:
                self._pack_all()
            if ending:
                return
            wait = shortest if sound else min(longest, wait * 2)
            self._ending.wait(wait * random.uniform(0.5, 1))  # noqa: S311 - spreads the workers

    def end(self, until: float) -> None:
        """Send what there is, but begin nothing after `until`."""
        self._until = until
        self._ending.set()
        self.join(max(0.0, until - time.monotonic()))

    def _adopt(self) -> None:
        try:
            found = self._spool.adopt()
        except OSError as error:
            log.event("prediction-log", error=f"The spool fails: {error.strerror or error}.")
        except Exception as error:  # nothing may end this thread
            log.event("error", error=log.where(error))
        else:
            if found:
                log.event("prediction-log", adopted=found)

    def _send_all(self) -> bool:
        """Send until nothing is left; False if something failed."""
        while time.monotonic() < self._until:
            if self._spool.crowded:
                self._pack_all()
            if (segment := self._spool.next()) is None:
                break
            try:
                if segment.unpacked:
                    # on disk before it is sent: who takes over might name it otherwise
                    data, ending = self._pack(segment.path)
                    self._spool.packed(segment, data, ending)
                else:
                    data = segment.data or segment.path.read_bytes()
            except FileNotFoundError:  # somebody has cleaned up
                self._spool.sent(segment)
                self._counts.lost("disk")(segment.rows)
                continue
            # its name is unique: if it exists it was sent before, by somebody who was killed then
            with suppress(AlreadyExists):
                self._store.put_once(segment.key, data)
            self._spool.sent(segment)
            self._counts.add(self._counts.sent.cell(segment.key.partition("/")[0]), segment.rows)
            if self._failed:
                self._failed = False
                log.event("prediction-log", restored=True)
        return True

    def _pack_all(self) -> None:
        """Make what waits smaller, so that more of it fits in the spool."""
        with suppress(Exception):  # it will happen again when the file's turn has come
            while (
                time.monotonic() < self._until and (segment := self._spool.next_raw()) is not None
            ):
                self._spool.packed(segment, *self._pack(segment.path))

    def _fail(self, reason: str) -> None:
        self._counts.add(self._counts.failures.start)
        if not self._failed:  # once for a whole outage
            self._failed = True
            log.event("prediction-log", error=reason)


def check(predictor: Predictor, options: Keeping) -> None:
    """Say what is wrong with the settings before anything listens; S3 itself is not asked.

    Raises
    ------
    UsageError
        A column that the model does not have, no place, a spool that cannot be used.
    """
    Lines(predictor.signature, predictor.columns, predictor.identity, options)
    storage.open_store(options.url)
    prepare(options.spool)
    if options.url.startswith("s3://"):
        import boto3  # noqa: F401 - once, before the workers are forked


def _of_requests(kept: Kept, chosen: list[bool]) -> Kept:
    """The rows of some of the requests."""
    return kept._replace(rows=np.flatnonzero(np.repeat(chosen, kept.sizes)))


def storage_name(name: str) -> str:
    """Return a model's name as a part of a key."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)[:100]
