"""`python -m benchmarks.serving.regression`: has the service become slower? By ratios alone.

For continuous integration, so with far milder bounds than the claims of RESULTS.md, by processor
time and not by the clock, and in turn: a busy machine makes both sides slower. It needs no peers
and no load generator, and ends with exit code 1 when a bound is broken.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Row, table
from benchmarks.serving import BARE, OURS, PLAIN
from benchmarks.serving.models import KINDS, SMALL, Place, prepare
from benchmarks.serving.row import one_row
from benchmarks.serving.servers import check, ours, running

ROUNDS = 8
REQUESTS = 800
AT_ONCE = 16
# Measured on busy machines: 210 to 290, 36 to 49, 1.2 to 1.4.
COMPILED, REQUEST, FEATURES = 100, 18, 1.8


@dataclass
class Client:
    """Sends the same request again and again, some at once, on one connection."""

    socket: socket.socket
    request: bytes
    size: int = 0  # bytes of an answer, which are the same each time

    @staticmethod
    def connected(url: str, body: bytes) -> Client:
        host, _, path = url.removeprefix("http://").partition("/")
        address, _, port = host.partition(":")
        lines = [f"POST /{path} HTTP/1.1", f"host: {host}", "content-type: application/json"]
        head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
        client = Client(socket.create_connection((address, int(port))), head.encode() + body)
        client.socket.settimeout(60)
        client.socket.sendall(client.request)
        answer = client.socket.recv(1 << 16)
        if not answer.startswith(b"HTTP/1.1 200 ") or b"predictions" not in answer:
            raise RuntimeError(f"no prediction: {answer!r}")
        client.size = len(answer)
        return client

    def ask(self, times: int) -> None:
        for _ in range(times // AT_ONCE):
            self.socket.sendall(self.request * AT_ONCE)
            left = self.size * AT_ONCE
            while left:
                got = len(self.socket.recv(left))
                if not got:
                    raise RuntimeError("the service has closed the connection")
                left -= got


def processor(pid: int) -> float:
    """Return the seconds of processor time of a process, all threads, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def requests(kind: str, place: Place) -> tuple[float, float]:
    """Return the microseconds of a request: all features on, and log and metrics off."""
    spool = {"TRILHO_LOG_SPOOL": str(place.folder / "spool"), "TRILHO_LOG_SECONDS": "1"}
    keep = {"TRILHO_PREDICTION_LOG": str(place.folder / "log"), **spool}
    full, bare = ours(place, OURS, **keep), ours(place, BARE, **PLAIN)
    body = place.body(full.shape, SMALL).read_bytes()
    with running(full, kind, place) as one, running(bare, kind, place) as two:
        check(one, kind, SMALL, place)
        used = {one.pid: 0.0, two.pid: 0.0}
        clients = {it.pid: Client.connected(it.url, body) for it in (one, two)}
        for number in range(ROUNDS + 1):
            for pid, client in clients.items():
                start = processor(pid)
                client.ask(REQUESTS)
                used[pid] += (processor(pid) - start) if number else 0.0  # the first one warms
        for client in clients.values():
            client.socket.close()
    full_time, bare_time = (seconds / (ROUNDS * REQUESTS) * 1e6 for seconds in used.values())
    return full_time, bare_time


def measure() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        place = prepare(Path(name))
        for kind in KINDS:
            compiled, pipeline = one_row(kind, place)
            full, bare = requests(kind, place)
            what = kind.upper()
            rows += [
                _row(f"{what}: compiled form, `predict_proba`", compiled, pipeline, COMPILED),
                _row(f"{what}: a whole request, `predict_proba`", full, pipeline, REQUEST),
                Row(
                    f"{what}: a request, without log and metrics",
                    f"{full:.0f} µs",
                    f"{bare:.0f} µs",
                    full / bare,
                    FEATURES,
                ),
            ]
    return rows


def _row(claim: str, ours: float, peer: float, bound: float) -> Row:
    return Row(claim, f"{ours:.0f} µs", f"{peer:.0f} µs", peer / ours, bound, at_least=True)


def main() -> int:
    rows = measure()
    note = "Processor time for one row; the bounds are mild, see RESULTS.md for the claims."
    text = table("Has the service become slower?", "make speed", note, rows)
    print(text)
    if (summary := os.environ.get("GITHUB_STEP_SUMMARY")) is not None:
        with open(summary, "a", encoding="utf-8") as file:
            file.write(text)
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
