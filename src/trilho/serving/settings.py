"""The service's settings: environment variables and nothing else, as containers like it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from trilho.errors import UsageError
from trilho.serving import cores
from trilho.serving.tables import parquet_is_possible

SAGEMAKER_FOLDER = Path("/opt/ml/model")
HOST = "0.0.0.0"  # noqa: S104 - a container's service listens on all of its addresses
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
KEY = re.compile(r"[!-~]+")
MAX_WORKERS = 256

USAGE = """\
Usage: python -m trilho.serving [serve] [--workers N]

Answers predictions over HTTP from one verified bundle. Environment variables:
  TRILHO_MODEL_URI        registry that holds the bundle: s3://bucket/prefix or a folder
  TRILHO_MODEL_DIGEST     sha256:... of the bundle; needed with TRILHO_MODEL_URI
  TRILHO_MODEL_VERSION    label of the version, repeated in answers
  TRILHO_MODEL_DIR        a bundle's folder, instead of a registry; default /opt/ml/model
  TRILHO_HOST             address to listen on; default 0.0.0.0
  TRILHO_PORT             port to listen on, 0 takes a free one; default 8080
  TRILHO_WORKERS          processes that answer; default: the cores of the container
  TRILHO_DRAIN_SECONDS    time to keep answering, not ready, after SIGTERM; default 5
  TRILHO_API_KEY          key that callers must show; several are separated by commas
  TRILHO_API_KEY_FILE     file with such keys, one on each line
  TRILHO_MAX_BODY_MB      largest body of a request; default 10
  TRILHO_MAX_ROWS         most rows in a request; default 100000
  TRILHO_MAX_CONNECTIONS  connections that a worker holds; default 1000
  TRILHO_QUEUE            predictions that may wait in a worker; default 1000
  TRILHO_QUEUE_SECONDS    while one has waited longer, others are refused; default 1
  TRILHO_REQUEST_SECONDS  for a request to arrive, and for its answer to be read; default 30
  TRILHO_LOG_REQUESTS     all, errors or none; default all
  TRILHO_METRICS          true or false: count and time, and answer /metrics; default true
  TRILHO_EMF              namespace for metrics in CloudWatch's embedded format on stdout
  TRILHO_EMF_SECONDS      time between two of their lines; default 60
  TRILHO_PREDICTION_LOG   keep predictions: s3://bucket/prefix or a folder
  TRILHO_LOG_FORMAT       jsonl, or parquet where pyarrow is installed; default jsonl
  TRILHO_LOG_SAMPLE       share of requests whose predictions are kept; default 1
  TRILHO_LOG_COLUMNS      columns that are kept, by commas or as a JSON list; default: all
  TRILHO_LOG_SENSITIVE    columns (or the id) that are hashed, or left out without a key
  TRILHO_LOG_HASH_KEY     secret to hash them with
  TRILHO_LOG_SECONDS      age at which what is kept is sent; default 60
  TRILHO_LOG_SPOOL        folder for what is not sent yet; default in the temporary folder
  TRILHO_LOG_SPOOL_MB     its size; beyond it the oldest is dropped; default 100
  TRILHO_LABEL_BAND       distance to the threshold (or between the two best classes) below
                          which rows are kept for labelling, too; default 0.05
  TRILHO_LABEL_DAILY      most such rows in a day; default 1000"""


class Limits(Struct, frozen=True, kw_only=True):
    """What one worker takes at most."""

    body: int = 10 * 1024 * 1024  # bytes
    rows: int = 100_000
    connections: int = 1000
    queue: int = 1000
    queue_seconds: float = 1.0
    receive_seconds: float = 30.0
    send_seconds: float = 30.0

    @property
    def memory(self) -> int:
        """Bytes of bodies that may be in memory at a time."""
        return 4 * self.body


class Keeping(Struct, frozen=True, kw_only=True):
    """Which predictions are kept, and where: the prediction log."""

    url: str
    format: str = "jsonl"  # jsonl | parquet
    sample: float = 1.0
    columns: tuple[str, ...] | None = None  # None: all
    sensitive: tuple[str, ...] = ()
    hash_key: str | None = None  # without it what is sensitive is left out
    seconds: float = 60.0
    spool: Path
    spool_bytes: int = 100 * 1024 * 1024  # of all workers together
    band: float = 0.05
    daily: int = 1000


class Settings(Struct, frozen=True, kw_only=True):
    """Where the model is, where to listen, and how; one of `uri` and `folder` is set."""

    uri: str | None = None
    folder: Path | None = None
    digest: str | None = None
    version: str | None = None
    host: str = HOST
    port: int = 8080
    workers: int = 1
    drain_seconds: float = 5.0
    keys: tuple[str, ...] = ()
    limits: Limits = Limits()
    log_requests: str = "all"  # all | errors | none
    metrics: bool = True
    emf: str | None = None  # namespace
    emf_seconds: float = 60.0
    predictions: Keeping | None = None


def read(environment: Mapping[str, str]) -> Settings:
    """Return the settings in `environment`; an empty variable counts as absent.

    Raises
    ------
    UsageError
        Naming the variable that is missing, contradicts another one or cannot be read.
    """
    value = {key: text for key, text in environment.items() if text.strip()}.get
    uri, folder, digest = _model(value)

    def number(name: str, default: float, smallest: float, largest: float) -> float:
        return _number(name, value(name, f"{default:g}"), smallest, largest)

    def whole(name: str, default: int, smallest: int, largest: int) -> int:
        return int(_number(name, value(name, str(default)), smallest, largest, whole=True))

    metrics = _one_of("TRILHO_METRICS", value("TRILHO_METRICS", "true"), "true", "false")
    emf = value("TRILHO_EMF")
    if emf is not None and metrics == "false":
        raise UsageError("TRILHO_EMF needs metrics, and TRILHO_METRICS says false.")
    seconds = number("TRILHO_REQUEST_SECONDS", 30, 0.1, 3600)
    return Settings(
        uri=uri,
        folder=None if folder is None else Path(folder),
        digest=digest,
        version=value("TRILHO_MODEL_VERSION"),
        host=value("TRILHO_HOST", HOST),
        port=whole("TRILHO_PORT", 8080, 0, 65535),
        workers=whole("TRILHO_WORKERS", cores.available(), 1, MAX_WORKERS),
        drain_seconds=number("TRILHO_DRAIN_SECONDS", 5, 0, 100),
        keys=_keys(value("TRILHO_API_KEY"), value("TRILHO_API_KEY_FILE")),
        limits=Limits(
            body=int(number("TRILHO_MAX_BODY_MB", 10, 0.001, 1024) * 1024**2),
            rows=whole("TRILHO_MAX_ROWS", 100_000, 1, 100_000_000),
            connections=whole("TRILHO_MAX_CONNECTIONS", 1000, 1, 1_000_000),
            queue=whole("TRILHO_QUEUE", 1000, 1, 1_000_000),
            queue_seconds=number("TRILHO_QUEUE_SECONDS", 1, 0.001, 3600),
            receive_seconds=seconds,
            send_seconds=seconds,
        ),
        log_requests=_one_of(
            "TRILHO_LOG_REQUESTS", value("TRILHO_LOG_REQUESTS", "all"), "all", "errors", "none"
        ),
        metrics=metrics == "true",
        emf=emf,
        emf_seconds=number("TRILHO_EMF_SECONDS", 60, 0.1, 3600),
        predictions=_keeping(value),
    )


def _keeping(value: Callable[..., Any]) -> Keeping | None:
    url = value("TRILHO_PREDICTION_LOG")
    if url is None:
        return None
    format = _one_of("TRILHO_LOG_FORMAT", value("TRILHO_LOG_FORMAT", "jsonl"), "jsonl", "parquet")
    if format == "parquet" and not parquet_is_possible():
        raise UsageError(
            "TRILHO_LOG_FORMAT is parquet, and pyarrow is not installed here.",
            hint="Leave it out, or use an image with pyarrow.",
        )
    columns = value("TRILHO_LOG_COLUMNS")
    spool = value("TRILHO_LOG_SPOOL")
    if spool is None:
        spool = Path(tempfile.gettempdir()) / f"trilho-predictions-{os.getuid()}"
    return Keeping(
        url=url,
        format=format,
        sample=_number("TRILHO_LOG_SAMPLE", value("TRILHO_LOG_SAMPLE", "1"), 0, 1),
        columns=None if columns is None else _names("TRILHO_LOG_COLUMNS", columns),
        sensitive=_names("TRILHO_LOG_SENSITIVE", value("TRILHO_LOG_SENSITIVE", "")),
        hash_key=value("TRILHO_LOG_HASH_KEY"),
        seconds=_number("TRILHO_LOG_SECONDS", value("TRILHO_LOG_SECONDS", "60"), 0.1, 3600),
        spool=Path(spool),
        spool_bytes=int(
            _number("TRILHO_LOG_SPOOL_MB", value("TRILHO_LOG_SPOOL_MB", "100"), 0.01, 1e6) * 1024**2
        ),
        band=_number("TRILHO_LABEL_BAND", value("TRILHO_LABEL_BAND", "0.05"), 0, 1),
        daily=int(
            _number("TRILHO_LABEL_DAILY", value("TRILHO_LABEL_DAILY", "1000"), 0, 1e9, whole=True)
        ),
    )


def _names(variable: str, text: str) -> tuple[str, ...]:
    """Return names parted by commas, or in a JSON list where they hold commas themselves."""
    if not text.lstrip().startswith("["):
        return tuple(name.strip() for name in text.split(",") if name.strip())
    try:
        return tuple(msgspec.json.decode(text, type=list[str]))
    except msgspec.MsgspecError:
        raise UsageError(f"{variable} must be names parted by commas, or a JSON list.") from None


def _model(value: Callable[[str], str | None]) -> tuple[str | None, str | None, str | None]:
    uri, folder, digest = (
        value("TRILHO_MODEL_URI"),
        value("TRILHO_MODEL_DIR"),
        value("TRILHO_MODEL_DIGEST"),
    )
    if uri is None and folder is None and SAGEMAKER_FOLDER.is_dir():
        folder = str(SAGEMAKER_FOLDER)
    if (uri is None) == (folder is None):
        raise UsageError(
            "Which model to serve is not clear: set one of TRILHO_MODEL_URI and TRILHO_MODEL_DIR.",
            hint="TRILHO_MODEL_URI=s3://bucket/prefix TRILHO_MODEL_DIGEST=sha256:...",
        )
    if uri is not None and digest is None:
        raise UsageError(
            "TRILHO_MODEL_URI names a registry; TRILHO_MODEL_DIGEST must name the bundle in it.",
            hint="`trilho models` lists the digests.",
        )
    if digest is not None and not DIGEST.fullmatch(digest):
        raise UsageError("TRILHO_MODEL_DIGEST must be 'sha256:' and 64 hexadecimal digits.")
    return uri, folder, digest


def _keys(text: str | None, file: str | None) -> tuple[str, ...]:
    """Return the API keys; a key is never repeated in a message."""
    if text is not None and file is not None:
        raise UsageError("Set one of TRILHO_API_KEY and TRILHO_API_KEY_FILE, not both.")
    if file is not None:
        try:
            text = Path(file).read_text("utf-8").replace("\n", ",")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UsageError(f"TRILHO_API_KEY_FILE {file} cannot be read: {reason}.") from None
    if text is None:
        return ()
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    name = "TRILHO_API_KEY" if file is None else f"TRILHO_API_KEY_FILE {file}"
    if not keys:  # whoever sets it wants the service closed
        raise UsageError(f"{name} holds no key.")
    if not all(KEY.fullmatch(key) for key in keys):
        raise UsageError(f"{name} holds a key with a space or a character beyond ASCII.")
    return keys


def _one_of(name: str, text: str, *known: str) -> str:
    if text not in known:
        raise UsageError(f"{name} must be {', '.join(known[:-1])} or {known[-1]}, not {text!r}.")
    return text


def _number(name: str, text: str, smallest: float, largest: float, *, whole: bool = False) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not smallest <= number <= largest or (whole and number % 1):
        what = "a whole number" if whole else "a number"
        raise UsageError(
            f"{name} must be {what} from {smallest:.15g} to {largest:.15g}, not {text!r}."
        )
    return number
