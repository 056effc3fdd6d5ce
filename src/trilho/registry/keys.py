"""Where the registry keeps what."""

from __future__ import annotations

import re

from trilho.errors import UsageError


def hex_digits(digest: str) -> str:
    """The hex digits of a `sha256:` digest; they become part of keys."""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise UsageError(f"'{digest}' is not a digest: expected sha256: and 64 hex digits.")
    return digest.removeprefix("sha256:")


def blob(sha256: str) -> str:
    return f"blobs/sha256/{hex_digits(sha256)}"


def manifest(digest: str) -> str:
    return f"manifests/{hex_digits(digest)}.json"


def candidate(fingerprint: str) -> str:
    return f"candidates/{hex_digits(fingerprint)}.json"


def quarantine(digest: str) -> str:
    return f"quarantine/{hex_digits(digest)}.json"


def version(number: int) -> str:
    return f"versions/{number:06d}.json"


def alias(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", name):
        raise UsageError(f"'{name}' is no name for an alias: lower case, digits and dashes.")
    return f"aliases/{name}.json"


def run(name: str) -> str:
    return f"runs/{name}.json"


def event(at: str, digest: str) -> str:
    """The key of an event; the order of keys is the order of time."""
    time = re.sub(r"[^0-9T.]", "", at.partition("+")[0])
    return f"history/{time}-{hex_digits(digest)[:16]}.json"
