"""From a content type to what reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from trilho.serving import tables
from trilho.serving.columns import Batch
from trilho.serving.messages import ProblemError
from trilho.serving.predictor import Predictor

Read = Callable[[bytes], Batch]

JSON = re.compile(r"application/(?:json|[\w.+-]+\+json)")
CSV = "text/csv"
PARQUET = ("application/vnd.apache.parquet", "application/x-parquet")
UTF8 = ("utf-8", "utf8", "us-ascii")
REMEMBERED = 64


def is_json(kind: bytes) -> bool:
    name, parameters = parse(kind)
    return JSON.fullmatch(name) is not None and parameters.get("charset", "utf-8") in UTF8


def parse(kind: bytes) -> tuple[str, dict[str, str]]:
    """Return the type and its parameters, all in lower case."""
    name, *rest = kind.decode("latin-1").lower().split(";")
    pairs = (part.partition("=") for part in rest)
    return name.strip(), {key.strip(): value.strip().strip('"') for key, _, value in pairs}


class Readers:
    """What reads a body of `/invocations`, by its content type; none given means JSON.

    Attributes
    ----------
    known
        The content types that are read here.
    json
        What reads JSON.
    parquet
        What reads Parquet, None without pyarrow.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.json: Read = predictor.decoder.read
        self._csv = partial(tables.read_csv, columns=predictor.columns, max_rows=predictor.max_rows)
        self.parquet: Read | None = None
        if tables.parquet_is_possible():
            from trilho.serving import parquet

            self.parquet = parquet.Reader(predictor.columns, predictor.max_rows).read
        self.known = ["application/json", CSV, *(PARQUET[:1] if self.parquet else ())]
        self._found: dict[bytes | None, Read] = {None: self.json, b"application/json": self.json}

    def find(self, kind: bytes | None) -> Read:
        """Return what reads this content type.

        Raises
        ------
        ProblemError
            415, naming the types that are read.
        """
        read = self._found.get(kind)
        if read is None:
            assert kind is not None
            read = self._make(kind)
            if len(self._found) < REMEMBERED:
                self._found[kind] = read
        return read

    def _make(self, kind: bytes) -> Read:
        name, parameters = parse(kind)
        if parameters.get("charset", "utf-8") in UTF8:
            if JSON.fullmatch(name):
                return self.json
            if name == CSV:
                return partial(self._csv, header=parameters.get("header") != "absent")
            if name in PARQUET and self.parquet is not None:
                return self.parquet
        raise unsupported(self.known)


def unsupported(known: list[str]) -> ProblemError:
    return ProblemError(
        415, "media_type", f"send {' or '.join(known)}, in UTF-8 and not compressed"
    )
