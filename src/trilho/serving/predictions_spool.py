"""What is kept and not sent yet: files in a folder that mirrors the keys they will have.

    <spool>/<place>/<worker>/predictions/model=m/date=.../hour=.../<name>.jsonl             written
    <spool>/<place>/<worker>/predictions/model=m/date=.../hour=.../<name>-r<rows>.jsonl.gz  packed

Each worker has a folder of its own, with a locked file beside it. A lock that can be taken belongs
to a worker that is dead: another one takes over what it left. Whatever has reached a file survives
the process; it is in the page cache, so it does not survive the machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from trilho.errors import UsageError

RAW = ".jsonl"
PARTIAL = ".partial"
PACKED = re.compile(r"(.+)-r(\d+)\.(?:jsonl\.gz|parquet)")
SEGMENT_BYTES = 8 * 1024 * 1024


class Rows(Struct):
    """As much of a line as is needed to count."""

    rows: int


@dataclass(eq=False)
class Segment:
    """A file that nothing is written to any more.

    Attributes
    ----------
    path
        Where it is.
    key
        What it will be called; of a raw one, without the end.
    rows, size
        What it holds.
    data
        Packed, where that could not be written.
    """

    path: Path
    key: str
    rows: int
    size: int
    data: bytes | None = None

    @property
    def unpacked(self) -> bool:
        return self.path.suffix == RAW and self.data is None


@dataclass
class Open:
    """A file that is written to."""

    descriptor: int
    path: Path
    key: str
    since: float
    rows: int = 0
    size: int = 0


class Spool:
    """A worker's files. One thread appends, another one sends; both may call anything.

    Parameters
    ----------
    root
        The spool's folder.
    place
        Where its files will be sent: files for other places are left alone.
    limit
        Bytes; beyond it the oldest files are dropped.
    seconds
        How long a file is written to.
    dropped
        Called with the number of rows that were dropped.
    """

    def __init__(
        self,
        root: Path,
        place: str,
        *,
        limit: int,
        seconds: float,
        dropped: Callable[[int], None],
    ) -> None:
        self._home = root / hashlib.sha256(place.encode()).hexdigest()[:16]
        self._limit = limit
        self._seconds = seconds
        self._dropped = dropped
        self._lock = threading.RLock()
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._number = 0
        self._open: dict[str, Open] = {}
        self._closed: list[Segment] = []
        self._sending: Segment | None = None
        self._locks: dict[Path, int] = {}  # folder to the descriptor of its lock
        try:
            prepare(root)
            self._home.mkdir(mode=0o700, exist_ok=True)
            descriptor = self._take(self._home / self._name)
            assert descriptor is not None
            self.folder = self._home / self._name
            self.folder.mkdir(mode=0o700)
        except OSError as error:
            raise unusable(root, error) from None

    @property
    def size(self) -> int:
        """Bytes in files."""
        with self._lock:
            return sum(o.size for o in self._open.values()) + sum(s.size for s in self._closed)

    # ── writing ───────────────────────────────────────────────────────────────────────────────────

    @property
    def crowded(self) -> bool:
        """Whether files had better be packed before their turn."""
        return self.size > self._limit // 4

    def append(self, partition: str, lines: list[bytes], rows: int) -> bool:
        """Write whole lines to the partition's file; False if there is no room for them.

        Raises
        ------
        OSError
            The disk does not take them.
        """
        size = sum(map(len, lines))
        with self._lock:
            if not self._make_room(size):
                self._dropped(rows)
                return False
            file = self._open.get(partition) or self._start(partition)
            start = file.size
            try:
                for line in lines:
                    view = memoryview(line)
                    while view:
                        written = os.write(file.descriptor, view)
                        view = view[written:]
            except OSError:
                os.ftruncate(file.descriptor, start)  # no half lines
                os.lseek(file.descriptor, start, os.SEEK_SET)
                raise
            file.size += size
            file.rows += rows
            if file.size >= min(SEGMENT_BYTES, self._limit // 8):
                self._close(partition)
            return True

    def _start(self, partition: str) -> Open:
        self._number += 1
        now = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        key = f"{partition}/{now}-{self._name}-{self._number:06d}"
        path = self.folder / (key + RAW)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._open[partition] = Open(descriptor, path, key, time.monotonic())
        return self._open[partition]

    def _close(self, partition: str) -> None:
        file = self._open.pop(partition)
        with suppress(OSError):  # what was written is there, or it is gone whatever we do
            os.close(file.descriptor)
        if file.size:
            self._closed.append(Segment(file.path, file.key, file.rows, file.size))
        else:
            with suppress(OSError):
                file.path.unlink()

    def roll(self, *, all: bool = False) -> None:
        """Close the files that were written to for long enough, or all of them."""
        with self._lock:
            due = time.monotonic() - self._seconds
            for partition in [p for p, file in self._open.items() if all or file.since <= due]:
                self._close(partition)

    def _make_room(self, wanted: int) -> bool:
        """Drop the oldest files until there is room; False if there cannot be."""
        if wanted > self._limit:
            return False
        while self.size + wanted > self._limit:
            oldest = next((s for s in self._closed if s is not self._sending), None)
            if oldest is not None:
                self._closed.remove(oldest)
                oldest.path.unlink(missing_ok=True)
                self._dropped(oldest.rows)
            elif self._open:
                self._close(min(self._open, key=lambda p: self._open[p].since))
            else:
                return False  # all of it is being sent
        return True

    # ── sending ───────────────────────────────────────────────────────────────────────────────────

    def next(self) -> Segment | None:
        """Return the oldest file that is to be sent, which nobody drops until the next call."""
        with self._lock:
            self._sending = self._closed[0] if self._closed else None
            return self._sending

    def next_raw(self) -> Segment | None:
        """Return the oldest file that is not packed; packed, more of them fit in."""
        with self._lock:
            self._sending = next((s for s in self._closed if s.unpacked), None)
            return self._sending

    def packed(self, segment: Segment, data: bytes, ending: str) -> None:
        """Put `data` in the place of a raw segment."""
        key = f"{segment.key}-r{segment.rows}{ending}"
        path = segment.path.with_name(key.rpartition("/")[2])
        partial = path.with_name(path.name + PARTIAL)
        try:
            partial.write_bytes(data)
            os.replace(partial, path)
        except OSError:  # no room, which is the more a reason to send it
            with suppress(OSError):
                partial.unlink()
            with self._lock:
                segment.key, segment.data = key, data
            return
        segment.path.unlink()
        with self._lock:
            segment.path, segment.key, segment.size = path, key, len(data)

    def sent(self, segment: Segment) -> None:
        with self._lock:
            self._closed.remove(segment)
            self._sending = None
            segment.path.unlink(missing_ok=True)
            for folder in [folder for folder in self._locks if folder != self.folder]:
                self._bury(folder)

    # ── the dead ──────────────────────────────────────────────────────────────────────────────────

    def adopt(self) -> int:
        """Take over what workers left that are no longer there; return the number of files."""
        found = 0
        for folder in sorted(path for path in self._home.iterdir() if path.is_dir()):
            if folder in self._locks or self._take(folder) is None:
                continue
            try:
                segments = _left(folder)
            except BaseException:  # it must not be taken for empty
                os.close(self._locks.pop(folder))
                raise
            with self._lock:
                self._closed = sorted(segments + self._closed, key=lambda s: s.path.name)
            found += len(segments)
            self._bury(folder)
        with self._lock:
            self._make_room(0)
        return found

    def _bury(self, folder: Path) -> None:
        """Remove a dead worker's folder when all of it was sent."""
        with self._lock:
            if not any(segment.path.is_relative_to(folder) for segment in self._closed):
                self._remove(folder)

    def _take(self, folder: Path) -> int | None:
        """Lock a folder, before it is made; None if somebody else has it."""
        descriptor = os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        self._locks[folder] = descriptor
        return descriptor

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder}.lock").unlink(missing_ok=True)
        os.close(self._locks.pop(folder))

    def close(self) -> None:
        """Let go; what was not sent is for the next worker."""
        with self._lock:
            self.roll(all=True)
            for folder in list(self._locks):
                if any(segment.path.is_relative_to(folder) for segment in self._closed):
                    os.close(self._locks.pop(folder))
                else:
                    self._remove(folder)


def prepare(root: Path) -> None:
    """Make the spool's folder, which must be ours: what is in it is sent."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = root.stat().st_uid
    except OSError as error:
        raise unusable(root, error) from None
    if owner != os.geteuid():
        raise UsageError(
            f"The spool {root} belongs to another user.", hint="Set TRILHO_LOG_SPOOL to a folder."
        )


def unusable(root: Path, error: OSError) -> UsageError:
    return UsageError(
        f"Cannot use the spool {root}: {error.strerror or error}.",
        hint="Set TRILHO_LOG_SPOOL to a folder that can be written to, such as one below /tmp.",
    )


def _left(folder: Path) -> list[Segment]:
    """Return what a dead worker left, without what it had half done."""
    segments: list[Segment] = []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    packed = set()
    for path in files:
        if match := PACKED.fullmatch(path.name):
            key = path.relative_to(folder).as_posix()
            segments.append(Segment(path, key, int(match[2]), path.stat().st_size))
            packed.add(path.with_name(match[1] + RAW))
    for path in files:
        if path.suffix == PARTIAL or path in packed:
            path.unlink()
        elif path.suffix == RAW:
            size, rows = _repaired(path)
            if size:
                key = path.relative_to(folder).as_posix().removesuffix(RAW)
                segments.append(Segment(path, key, rows, size))
            else:
                path.unlink()
    return segments


def _repaired(path: Path) -> tuple[int, int]:
    """Cut off a line that was not written to its end; return size and rows."""
    rows = size = 0
    decode = msgspec.json.Decoder(Rows).decode
    with open(path, "r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                rows += decode(line).rows
            except msgspec.MsgspecError:
                break
            size += len(line)
        file.truncate(size)
    return size, rows
