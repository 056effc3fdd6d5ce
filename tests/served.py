"""A tiny bundle and a running service, for the tests of the service and of its image.

The model is written by hand as a plan, so that its numbers can be told without any training stack.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from trilho import bundle
from trilho.bundle import Column, DatasetInfo, Golden, Manifest, Signature
from trilho.compiled.plan import FOLDER, WHOLE, Input, Node, Plan, write

COLUMNS = [
    Column(name="city", kind="string", required=False, categories=["Porto", "Lisboa"]),
    Column(name="age", kind="integer"),
    Column(name="income", kind="number", required=False),
    Column(name="married", kind="boolean"),
    Column(name="joined", kind="date", required=False),
]
WEIGHTS = {"age": 0.02, "income": 0.001, "married": -0.5, "joined": 0.0001, "city": 0.3}
CITY = {"Porto": 1.0, "Lisboa": 2.0}
ROW = {"city": "Porto", "age": 44, "income": 1250.5, "married": True, "joined": "2024-02-29"}
ROWS = [
    ROW,
    {"city": "Lisboa", "age": 18, "income": None, "married": False, "joined": None},
    {"city": None, "age": 71, "married": True},
    {"city": "nowhere", "age": 30, "income": -2e3, "married": False, "joined": "1969-07-20"},
]
CLASSES: list[str | int | float | bool] = ["no", "yes"]
THRESHOLD = 0.6
MODEL_CARD = "# Tiny\n\nKnows **Évora** not.\n"


def linear(row: Mapping[str, Any]) -> float:
    """The model in plain Python: what the service must compute."""
    joined = row.get("joined")
    days = 0.0
    if joined is not None:
        moment = datetime.fromisoformat(joined).replace(tzinfo=UTC)
        days = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / 86400
    numbers = {
        "age": row["age"],
        "income": 0.0 if row.get("income") is None else row["income"],
        "married": float(row["married"]),
        "joined": days,
        "city": CITY.get(row.get("city") or "", 0.0),
    }
    return sum(WEIGHTS[name] * value for name, value in numbers.items()) - 1.0


def expected(row: Mapping[str, Any], task: str = "binary") -> Any:
    z = linear(row)
    if task == "regression":
        return z
    if task == "binary":
        return 1 / (1 + math.exp(-z))
    powers = [math.exp(value) for value in (z, -z, 0.5)]
    return [power / sum(powers) for power in powers]


def make_bundle(
    folder: Path,
    task: str = "binary",
    *,
    columns: list[Column] | None = None,
    golden: list[Any] | None = None,
    serving: str = "compiled",
    strict_city: bool = False,
    id: str | None = None,
) -> str:
    """Write a sealed bundle and return its digest; `golden` replaces the expected predictions."""
    (folder / FOLDER).mkdir(parents=True)
    columns = columns or COLUMNS
    names = ["age", "income", "married", "joined"]
    renamed = dict(zip([c.name for c in COLUMNS], [c.name for c in columns], strict=True))
    lookup = {"categories": list(CITY), "column": "city"}
    codes = {"codes": "codes", "default": "default"}
    wide = 3 if task == "multiclass" else 1
    weights = np.array([[WEIGHTS[n]] for n in [*names, "city"]])
    if task == "multiclass":
        weights = weights * [[1.0, -1.0, 0.0]]
    nodes = [
        Node(op="lookup", inputs=[(4, WHOLE)], args=lookup, arrays=codes),
        Node(op="stack", inputs=[(0, -1), (1, -1), (2, -1), (3, -1), (5, -1)]),
        Node(op="fill", inputs=[(6, -1)], args={"missing": None}, arrays={"values": "zeros"}),
        Node(
            op="linear", inputs=[(7, -1)], arrays={"weights": "weights", "intercept": "intercept"}
        ),
    ]
    link = {"binary": "sigmoid", "multiclass": "softmax"}.get(task)
    if link is not None:
        nodes.append(Node(op=link, inputs=[(8, -1)]))
    plan = Plan(
        task=task,
        inputs=[
            *(Input(name=renamed[name]) for name in names),
            Input(name=renamed["city"], text=True),
        ],
        nodes=nodes,
        output=(4 + len(nodes), WHOLE if task == "multiclass" else 0),
    )
    arrays = {
        "codes": np.array(list(CITY.values())),
        "default": np.array([] if strict_city else [0.0]),
        "zeros": np.zeros(5),
        "weights": weights,
        "intercept": np.array([-1.0, 1.0, 0.5][:wide]),
    }
    write(folder / FOLDER, plan, arrays)
    classes = {"binary": CLASSES, "multiclass": ["a", "b", "c"]}.get(task)
    signature = Signature(
        columns=columns,
        target="y",
        task=task,
        classes=classes,  # type: ignore[arg-type]
        positive="yes" if task == "binary" else None,
        threshold=THRESHOLD if task == "binary" else None,
        id=id,
    )
    rows = ROWS[:3] if strict_city else ROWS
    rows = [row for row in rows if not strict_city or row.get("city")]
    (folder / "signature.json").write_bytes(bundle.canonical(signature))
    record = Golden(
        tolerance=1e-9,
        rows=[{renamed[name]: value for name, value in row.items()} for row in rows],
        expected=[expected(row, task) for row in rows] if golden is None else golden,
    )
    (folder / "golden.json").write_bytes(bundle.canonical(record))
    (folder / "model_card.md").write_text(MODEL_CARD, encoding="utf-8")
    (folder / "model.joblib").write_bytes(b"not needed by the compiled form")
    return bundle.seal(folder, manifest(task, serving))


def manifest(task: str, serving: str) -> Manifest:
    return Manifest(
        name="tiny",
        task=task,
        fingerprint="sha256:" + "0" * 64,
        dataset=DatasetInfo(digest="sha256:" + "1" * 64, rows=4, holdout_rows=1),
        lock=None,
        split="sha256:" + "2" * 64,
        serving=serving,
        metrics={"roc_auc": 0.75},
        parameters={},
        environment={"numpy": np.__version__},
        files={},
    )


class Service:
    """A running `python -m trilho.serving`."""

    def __init__(self, process: subprocess.Popen[str], port: int, ready: dict[str, Any]) -> None:
        self.process, self.port, self.ready = process, port, ready

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def fetch(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers (names in lower case)."""
        connection = self.connect()
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            data = response.read()
            names = {name.lower(): value for name, value in response.getheaders()}
            return response.status, data, names
        finally:
            connection.close()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, decoded JSON and headers (names in lower case)."""
        status, data, names = self.fetch(method, path, body, headers)
        return status, json.loads(data), names

    def predict(self, value: Any) -> tuple[int, Any]:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        status, answer, _ = self.ask(
            "POST", "/invocations", body, {"content-type": "application/json"}
        )
        return status, answer

    def refuses(self) -> bool:
        """Whether nothing listens any more."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return True
        return False

    def stop(self, with_signal: int = signal.SIGINT) -> tuple[int, list[dict[str, Any]]]:
        """Send a signal, wait for the end; return the exit code and the rest of the log."""
        self.process.send_signal(with_signal)
        return self.end()

    def end(self) -> tuple[int, list[dict[str, Any]]]:
        _, rest = self.process.communicate(timeout=30)
        return self.process.returncode, [json.loads(line) for line in rest.splitlines()]


def environment(**variables: object) -> dict[str, str]:
    """This process's variables without Trilho's own, with some more."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRILHO_")}
    defaults = {"TRILHO_HOST": "127.0.0.1", "TRILHO_PORT": "0", "TRILHO_WORKERS": "1"}
    return inherited | defaults | {k: str(v) for k, v in variables.items()}


def start(
    *arguments: str,
    python: Path | str = sys.executable,
    stdout: IO[bytes] | None = None,
    **variables: object,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, "-m", "trilho.serving", *arguments],
        env=environment(**variables),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def fail(
    *arguments: str, python: Path | str = sys.executable, **variables: object
) -> tuple[int, dict[str, Any]]:
    """Start a service that must not come up; return its exit code and its last log line."""
    process = start(*arguments, python=python, **variables)
    _, log = process.communicate(timeout=30)
    return process.returncode, json.loads(log.splitlines()[-1])


@contextmanager
def running(
    python: Path | str = sys.executable, stdout: IO[bytes] | None = None, **variables: object
) -> Iterator[Service]:
    """A ready service with these environment variables, killed at the end."""
    process = start("serve", python=python, stdout=stdout, **variables)
    try:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            record = msgspec.json.decode(line)
            if record["event"] == "ready":
                yield Service(process, record["port"], record)
                return
        raise AssertionError(f"the service did not come up: {seen}")
    finally:
        process.kill()
        process.communicate()
