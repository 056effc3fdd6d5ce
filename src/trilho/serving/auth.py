"""The optional API key: one secret that callers must show, except to ask for health."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from trilho.serving.messages import ProblemError, Response

REALM = b'www-authenticate: Bearer realm="trilho"\r\nwww-authenticate: Basic realm="trilho"\r\n'


class Keys:
    """The keys that open the service; several, so that one can be replaced without a pause."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self.refusal: Response = ProblemError(
            401,
            "unauthorized",
            "send the API key, as `x-api-key: KEY` or `authorization: Bearer KEY`",
            extra=REALM,
        ).response()

    def open(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request shows one of the keys, compared in constant time.

        A browser can show it as the password of its own dialogue, whatever the user name.
        """
        key = headers.get(b"x-api-key")
        if key is None:
            kind, _, rest = headers.get(b"authorization", b"").partition(b" ")
            key = rest.strip()
            if kind.lower() == b"basic":
                key = _password(key)
            elif kind.lower() != b"bearer":
                return False
        # digests, so that not even the length of a key shows in the time taken
        digest = hashlib.sha256(key).digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found


def _password(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
