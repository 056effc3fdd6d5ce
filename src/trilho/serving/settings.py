"""The service's settings: environment variables and nothing else, as containers like it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from trilho.errors import UsageError

SAGEMAKER_FOLDER = Path("/opt/ml/model")
HOST = "0.0.0.0"  # noqa: S104 - a container's service listens on all of its addresses
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

USAGE = """\
Usage: python -m trilho.serving [serve]

Answers predictions over HTTP from one verified bundle. Environment variables:
  TRILHO_MODEL_URI      registry that holds the bundle: s3://bucket/prefix or a folder
  TRILHO_MODEL_DIGEST   sha256:... of the bundle; needed with TRILHO_MODEL_URI
  TRILHO_MODEL_VERSION  label of the version, repeated in answers
  TRILHO_MODEL_DIR      a bundle's folder, instead of a registry; default /opt/ml/model
  TRILHO_HOST           address to listen on; default 0.0.0.0
  TRILHO_PORT           port to listen on, 0 takes a free one; default 8080
  TRILHO_DRAIN_SECONDS  time to keep answering, not ready, after SIGTERM; default 5"""


class Settings(Struct, frozen=True, kw_only=True):
    """Where the model is and where to listen; exactly one of `uri` and `folder` is set."""

    uri: str | None = None
    folder: Path | None = None
    digest: str | None = None
    version: str | None = None
    host: str = HOST
    port: int = 8080
    drain_seconds: float = 5.0


def read(environment: Mapping[str, str]) -> Settings:
    """Return the settings in `environment`; an empty variable counts as absent.

    Raises
    ------
    UsageError
        Naming the variable that is missing, contradicts another one or cannot be read.
    """
    value = {key: text for key, text in environment.items() if text.strip()}.get
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
    return Settings(
        uri=uri,
        folder=None if folder is None else Path(folder),
        digest=digest,
        version=value("TRILHO_MODEL_VERSION"),
        host=value("TRILHO_HOST", HOST),
        port=int(_number("TRILHO_PORT", value("TRILHO_PORT", "8080"), 65535)),
        drain_seconds=_number("TRILHO_DRAIN_SECONDS", value("TRILHO_DRAIN_SECONDS", "5"), 100),
    )


def _number(name: str, text: str, largest: int) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= largest or (name == "TRILHO_PORT" and number % 1):
        raise UsageError(f"{name} must be a number from 0 to {largest}, not {text!r}.")
    return number
