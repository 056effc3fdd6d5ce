"""Errors that people read: what is wrong, where, what to do; each with its exit code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A place in a file that an error or an annotation points at; `line` counts from 1."""

    path: str
    line: int | None = None

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}:{self.line}"


class TrilhoError(Exception):
    """Base of every error that Trilho raises on purpose.

    Parameters
    ----------
    message
        One sentence: what is wrong and what was expected.
    hint
        What to do about it, as an imperative sentence or a command.
    places
        Where it is wrong; the first one is shown with the message, all become annotations.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, hint: str | None = None, places: tuple[Place, ...] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.places = places


class UsageError(TrilhoError):
    """Wrong arguments, or a `pipeline.yaml` that cannot be used."""

    exit_code = 2


class DataError(TrilhoError):
    """The dataset breaks its schema or cannot be read as data."""

    exit_code = 3


class IntegrityError(DataError):
    """Stored bytes are not the bytes that their digest names."""


class RejectedError(TrilhoError):
    """The gate said REJECT."""

    exit_code = 4


class HeldError(TrilhoError):
    """The gate said HOLD."""

    exit_code = 5


class DeploymentError(TrilhoError):
    """The deployment failed; the message says whether the old version serves again."""

    exit_code = 6


class UnavailableError(TrilhoError):
    """AWS or the network did not answer, retries included."""

    exit_code = 7


class ConflictError(TrilhoError):
    """Somebody else moved a pointer in the meantime."""

    exit_code = 7


class UnsoundError(TrilhoError):
    """The doctor found something that must be mended."""

    exit_code = 8


def nearest(word: str, known: list[str]) -> str:
    """Return `"; did you mean 'x'?"` for the known word closest to `word`, or an empty string."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
