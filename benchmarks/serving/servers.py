"""The servers: how each is installed, started and asked. Each gets one worker and one core."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import PYTHON, ROOT
from benchmarks.serving.load import cores
from benchmarks.serving.models import Place
from trilho.demo.ministack import free_port

PEERS = Path(__file__).with_name("peers")
ENVIRONMENTS = ROOT / ".trilho/benchmarks"
START_SECONDS = 60.0
# For all: numeric libraries with threads of their own fight over one core, and Python keeps the
# byte code that it has compiled.
COMMON = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class UnavailableError(Exception):
    """A server cannot be had here, and why."""


@dataclass(frozen=True)
class Server:
    """One server.

    Attributes
    ----------
    name
        As the results call it.
    path
        Where it predicts.
    shape
        Which of the bodies it takes.
    read
        From its answer to the probabilities.
    command
        From the model's kind and a port to what starts it.
    variables
        Likewise, to its environment variables.
    peer
        The requirement file of its environment, without suffix; None for ours.
    prepare
        Called once for each model, before anything is measured.
    """

    name: str
    path: str
    shape: str
    read: Callable[[Any], list[float]]
    command: Callable[[str, int], list[str]]
    variables: Callable[[str, int], Mapping[str, str]]
    peer: str | None = None
    prepare: Callable[[str], None] = field(default=lambda _: None)


@dataclass(frozen=True)
class Running:
    """A server that answers, and the seconds from its start to its first answer."""

    server: Server
    pid: int
    url: str
    cold: float

    def ask(self, body: bytes) -> list[float]:
        request = urllib.request.Request(
            self.url, body, {"content-type": "application/json"}, method="POST"
        )
        with DIRECT.open(request, timeout=START_SECONDS) as answer:
            return self.server.read(json.load(answer))


# ── all of them ───────────────────────────────────────────────────────────────────────────────────


def ours(place: Place, name: str = "trilho", **variables: str) -> Server:
    """The service; `variables` are its settings beside model and port."""

    def environment(kind: str, port: int) -> dict[str, str]:
        return {
            "TRILHO_HOST": "127.0.0.1",
            "TRILHO_PORT": str(port),
            "TRILHO_WORKERS": "1",
            "TRILHO_MODEL_DIR": str(place.bundle(kind)),
            **variables,
        }

    return Server(
        name,
        "/invocations",
        "split",  # MLflow's shape: the same bytes for both
        lambda answer: answer["predictions"],
        lambda _kind, _port: [PYTHON, "-m", "trilho.serving", "serve"],
        environment,
    )


def peers(place: Place) -> list[Server]:
    def model(kind: str, _: int) -> dict[str, str]:
        return {
            # mlflow looks for its server there
            "PATH": f"{_bin('mlflow')}:{os.environ['PATH']}",
            "MODEL": str(place.archive(kind)),
            "COLUMNS": str(place.folder / "columns.json"),
            "PYTHONPATH": str(PEERS),
            "BENTOML_DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def save_mlflow(kind: str) -> None:
        program = [str(_bin("mlflow") / "python"), str(PEERS / "mlflow_save.py")]
        files = [place.archive(kind), place.folder / "rows.csv", place.folder / f"mlflow-{kind}"]
        _run([*program, *map(str, files)])

    def save_mlserver(kind: str) -> None:
        folder = place.folder / f"mlserver-{kind}/credit"
        folder.mkdir(parents=True)
        settings = {
            "name": "credit",
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": str(place.archive(kind))},
        }
        (folder / "model-settings.json").write_text(json.dumps(settings), encoding="utf-8")

    def mlserver(_kind: str, port: int) -> dict[str, str]:
        # without processes of its own for inference it is faster on one core
        return {
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(port),
            "MLSERVER_GRPC_PORT": str(free_port()),
            "MLSERVER_METRICS_PORT": str(free_port()),
            "MLSERVER_PARALLEL_WORKERS": "0",
        }

    def program(peer: str, *arguments: str) -> list[str]:
        return [str(_bin(peer) / arguments[0]), *arguments[1:]]

    local = ("--host", "127.0.0.1", "--port")
    return [
        Server(
            "mlflow models serve",
            "/invocations",
            "split",
            lambda answer: [row[1] for row in answer["predictions"]],
            lambda kind, port: program(
                *("mlflow", "mlflow", "models", "serve", "--env-manager", "local"),
                *("--model-uri", str(place.folder / f"mlflow-{kind}"), "--workers", "1"),
                *(*local, str(port)),
            ),
            model,
            "mlflow",
            save_mlflow,
        ),
        Server(
            "BentoML",
            "/predict",
            "rows",
            lambda answer: answer,
            lambda _, port: program(
                "bentoml", "bentoml", "serve", "bentoml_service:Credit", *local, str(port)
            ),
            model,
            "bentoml",
        ),
        Server(
            "MLServer",
            "/v2/models/credit/infer",
            "v2",
            lambda answer: answer["outputs"][0]["data"][1::2],
            lambda kind, _: program(
                "mlserver", "mlserver", "start", str(place.folder / f"mlserver-{kind}")
            ),
            mlserver,
            "mlserver",
            save_mlserver,
        ),
        Server(
            "FastAPI + pandas",
            "/predict",
            "records",
            lambda answer: answer["predictions"],
            lambda _, port: program(
                "fastapi", "uvicorn", "fastapi_app:app", "--no-access-log", *local, str(port)
            ),
            model,
            "fastapi",
        ),
    ]


# ── installing ────────────────────────────────────────────────────────────────────────────────────


def _bin(peer: str) -> Path:
    """The programs of a peer's environment, which is another one when its requirements change."""
    text = (PEERS / f"{peer}.txt").read_bytes() + sys.version.encode()
    return ENVIRONMENTS / f"{peer}-{hashlib.sha256(text).hexdigest()[:8]}/bin"


def install(server: Server) -> None:
    """Make a peer's environment, which conflicts with ours and with the others'.

    Raises
    ------
    UnavailableError
        It cannot be installed.
    """
    if server.peer is None or (_bin(server.peer) / "ready").exists():
        return
    place = _bin(server.peer).parent
    shutil.rmtree(place, ignore_errors=True)
    known = [os.environ["PATH"], str(Path.home() / ".local/bin"), str(ROOT / ".trilho/uv/bin")]
    uv = shutil.which("uv", path=os.pathsep.join(known)) or "uv"
    _run([uv, "venv", "--quiet", "--python", PYTHON, str(place)])
    to = ["--quiet", "--python", str(place / "bin/python"), "--compile-bytecode"]
    _run([uv, "pip", "install", *to, "-r", str(PEERS / f"{server.peer}.txt")])
    (place / "bin/ready").touch()


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UnavailableError(f"{Path(command[0]).name}: {error.strerror}") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit {done.returncode}"
        raise UnavailableError(f"{Path(command[0]).name} {command[1]}: {last}")


# ── running ───────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def running(server: Server, kind: str, place: Place) -> Iterator[Running]:
    """Start a server on a core of its own and wait for its first answer.

    Raises
    ------
    UnavailableError
        It ends, or does not answer in time.
    """
    port = free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TRILHO_", "PYTHON"))}
    log, temporary = place.folder / "server.log", place.folder / "tmp"
    temporary.mkdir(exist_ok=True)  # some leave there what they do not remove
    begun = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            server.command(kind, port),
            cwd=place.folder,
            env=inherited
            | COMMON
            | {"TMPDIR": str(temporary)}
            | dict(server.variables(kind, port)),
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores()[0]),
        )
    try:
        yield _first_answer(server, process, port, place, begun)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _first_answer(
    server: Server, process: subprocess.Popen[bytes], port: int, place: Place, begun: float
) -> Running:
    running = Running(server, process.pid, f"http://127.0.0.1:{port}{server.path}", 0.0)
    body = place.body(server.shape, 1).read_bytes()
    while time.perf_counter() - begun < START_SECONDS and process.poll() is None:
        try:
            running.ask(body)
        except (OSError, urllib.error.URLError):  # not yet
            time.sleep(0.005)
            continue
        cold = time.perf_counter() - begun
        return Running(server, process.pid, running.url, cold)
    text = (place.folder / "server.log").read_text(encoding="utf-8", errors="replace").strip()
    last = text.splitlines()[-1] if text else "nothing in its log"
    state = "did not answer" if process.poll() is None else "ended"
    raise UnavailableError(f"{server.name} {state}: {last}")


def check(running: Running, kind: str, rows: int, place: Place) -> None:
    """Demand the same probabilities from all servers before any of them is timed.

    Raises
    ------
    RuntimeError
        Another probability than scikit-learn's.
    """
    got = running.ask(place.body(running.server.shape, rows).read_bytes())
    wanted = place.expected(kind, rows)
    same = len(got) == len(wanted) and all(
        abs(a - b) <= 1e-9 for a, b in zip(got, wanted, strict=True)
    )
    if not same:
        raise RuntimeError(f"{running.server.name} does not answer what scikit-learn predicts")
