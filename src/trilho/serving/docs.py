"""The page at `/docs`: one file, which asks nobody but this service for anything."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path


@cache
def page() -> bytes:
    return (Path(__file__).parent / "docs.html").read_bytes()


@cache
def headers() -> bytes:
    """Return header lines that allow the page its own style and script and nothing else."""
    style, script = (_digest(tag) for tag in (b"style", b"script"))
    policy = (
        b"default-src 'none'; connect-src 'self'; img-src data:; "
        b"style-src 'sha256-%b'; script-src 'sha256-%b'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ) % (style, script)
    return b"content-security-policy: %b\r\nx-content-type-options: nosniff\r\n" % policy


def _digest(tag: bytes) -> bytes:
    found = re.search(rb"<%b>(.*?)</%b>" % (tag, tag), page(), re.DOTALL)
    assert found is not None
    return base64.b64encode(hashlib.sha256(found[1]).digest())
