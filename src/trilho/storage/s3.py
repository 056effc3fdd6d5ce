"""A store on S3: conditional writes, checksums, one client."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trilho.errors import UnavailableError, UsageError
from trilho.storage import aws
from trilho.storage.aws import explained
from trilho.storage.base import (
    Stored,
    already_exists,
    changed,
    check_key,
    check_prefix,
    conflict,
    damaged,
    not_found,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_ATTEMPTS = 6
_WRITER = "trilho-writer"  # metadata: which call wrote the object
_SHA256 = "trilho-sha256"  # metadata: of a content-addressed object
_READ = "s3:GetObject on the objects and s3:ListBucket on the bucket"
_WRITE = "s3:PutObject and s3:GetObject on the objects and s3:ListBucket on the bucket"


class S3Store:
    """Objects below `prefix` in `bucket`."""

    multipart_from = 64 * 2**20
    part_size = 16 * 2**20
    page_size = 1000

    def __init__(self, bucket: str, prefix: str = "") -> None:
        prefix = prefix.strip("/")
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
            raise UsageError(
                f"'{self.url}' names no valid bucket: expected s3://bucket/prefix, the bucket of 3 "
                "to 63 lower-case letters, digits, dots and dashes."
            )
        self._bucket = bucket
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self._lock = threading.Lock()
        self._cached: S3Client | None = None

    @property
    def _s3(self) -> S3Client:
        with self._lock:  # making clients is not thread-safe, using one is
            if self._cached is None:
                self._cached = aws.client("s3")
            return self._cached

    def get(self, key: str) -> Stored:
        name = self._name(key)

        def read() -> Stored:
            found = self._s3.get_object(Bucket=self._bucket, Key=name)
            with contextlib.closing(found["Body"]) as body:
                return Stored(body.read(), found["ETag"])

        with explained(f"read {self.url}/{key}", needs=_READ):
            try:
                return _resumed(read)
            except Exception as error:
                if _code(error) == "NoSuchKey":
                    raise not_found(self.url, key) from None
                raise

    def put_once(self, key: str, data: bytes) -> str:
        etag = self._put(key, data, {"IfNoneMatch": "*"})
        if etag is None:
            raise already_exists(self.url, key)
        return etag

    def swap(self, key: str, data: bytes, expected: str | None) -> str:
        etag = self._put(key, data, {"IfMatch": expected} if expected else {"IfNoneMatch": "*"})
        if etag is None:
            raise conflict(self.url, key)
        return etag

    def upload_once(self, key: str, path: Path, sha256: str) -> None:
        large = path.stat().st_size >= self.multipart_from
        for attempt in range(_ATTEMPTS):
            if self._holds(key, path, sha256):
                return
            if (self._put_parts if large else self._put_whole)(key, path, sha256):
                return
            _pause(attempt)  # somebody else is at it: look again
        raise UnavailableError(f"{self.url}/{key} could not be written: too many writers at once.")

    def download(self, key: str, path: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        self._head(key)  # tells a missing object from a missing bucket
        with explained(f"read {self.url}/{key}", needs=_READ):
            # goes to a temporary file first, in ranges where large, and repeats what was cut off
            self._s3.download_file(
                self._bucket, self._name(key), str(path), Config=TransferConfig(max_concurrency=4)
            )

    def list(self, prefix: str) -> Iterator[str]:
        with explained(f"list {self.url}/{prefix}", needs="s3:ListBucket on the bucket"):
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket,
                Prefix=self._prefix + check_prefix(prefix),
                PaginationConfig={"PageSize": self.page_size},
            )
            for page in pages:
                for found in page.get("Contents", []):
                    yield found["Key"].removeprefix(self._prefix)

    def exists(self, key: str) -> bool:
        return self._find(key) is not None

    def size(self, key: str) -> int:
        size: int = self._head(key)["ContentLength"]
        return size

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _put(
        self,
        key: str,
        data: bytes,
        condition: dict[str, Any],
        metadata: dict[str, str] | None = None,
    ) -> str | None:
        """Write under a condition; return the etag, or None when the condition did not hold."""
        name, writer = self._name(key), secrets.token_hex(16)
        with explained(f"write {self.url}/{key}", needs=_WRITE):
            for attempt in range(_ATTEMPTS):
                try:
                    answer = self._s3.put_object(
                        Bucket=self._bucket,
                        Key=name,
                        Body=data,
                        ChecksumSHA256=base64.b64encode(hashlib.sha256(data).digest()).decode(),
                        Metadata={_WRITER: writer, **(metadata or {})},
                        **condition,
                    )
                    return answer["ETag"]
                except Exception as error:
                    code = _code(error)
                    if code == "ConditionalRequestConflict" and attempt + 1 < _ATTEMPTS:
                        _pause(attempt)  # two writers at one moment: S3 wants the request again
                    elif code == "PreconditionFailed" or (
                        code == "NoSuchKey" and "IfMatch" in condition
                    ):
                        # Our own write may have gone through, its answer got lost, and boto3 has
                        # sent it again: then the object bears this call's mark.
                        try:
                            found = self._find(key)
                        except UsageError:
                            if code == "PreconditionFailed" and "IfNoneMatch" in condition:
                                return None  # it is there; who may only write learns no more
                            raise
                        if found and found["Metadata"].get(_WRITER) == writer:
                            return str(found["ETag"])
                        return None
                    else:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def _put_whole(self, key: str, path: Path, sha256: str) -> bool:
        data = path.read_bytes()
        if "sha256:" + hashlib.sha256(data).hexdigest() != sha256:
            raise changed(path, sha256)
        return self._put(key, data, {"IfNoneMatch": "*"}, {_SHA256: sha256}) is not None

    def _put_parts(self, key: str, path: Path, sha256: str) -> bool:
        """Upload a large file in parts; False when the key is taken. The key appears whole."""
        name = self._name(key)
        size = max(self.part_size, -(-path.stat().st_size // 10_000))
        with explained(f"write {self.url}/{key}", needs=_WRITE):
            where: dict[str, Any] = {"Bucket": self._bucket, "Key": name}
            where["UploadId"] = self._s3.create_multipart_upload(
                Bucket=self._bucket,
                Key=name,
                ChecksumAlgorithm="SHA256",
                Metadata={_SHA256: sha256},
            )["UploadId"]
            try:
                parts = _send_parts(self._s3, where, path, sha256, size)
                self._s3.complete_multipart_upload(
                    **where, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                )
                return True
            except BaseException as error:
                with contextlib.suppress(Exception):
                    self._s3.abort_multipart_upload(**where)
                # NoSuchUpload: completed already, by a request whose answer got lost
                if _code(error) in (
                    "PreconditionFailed",
                    "ConditionalRequestConflict",
                    "NoSuchUpload",
                ):
                    return False
                raise

    def _holds(self, key: str, path: Path, sha256: str) -> bool:
        """Whether the key holds that content; raises when it holds another one."""
        found = self._find(key)
        if found is None:
            return False
        known = found["Metadata"].get(_SHA256)
        if known is None:  # written by another tool
            known = "sha256:" + hashlib.sha256(self.get(key).data).hexdigest()
        if known != sha256 or found["ContentLength"] != path.stat().st_size:
            raise damaged(self.url, key, sha256)
        return True

    def _head(self, key: str) -> dict[str, Any]:
        found = self._find(key)
        if found is None:
            raise not_found(self.url, key)
        return found

    def _find(self, key: str) -> dict[str, Any] | None:
        with explained(f"look for {self.url}/{key}", needs=_READ):
            try:
                return dict(self._s3.head_object(Bucket=self._bucket, Key=self._name(key)))
            except Exception as error:
                if _code(error) not in ("404", "NoSuchKey", "NotFound"):
                    raise
            try:
                self._s3.head_bucket(Bucket=self._bucket)
            except Exception as error:
                if _code(error) in ("404", "NoSuchBucket", "NotFound"):
                    raise UsageError(
                        f"The bucket '{self._bucket}' does not exist.",
                        hint="Create it (infra/ does), or correct the registry's address.",
                    ) from None
                raise
        return None


def _send_parts(
    s3: S3Client, where: dict[str, Any], path: Path, sha256: str, size: int
) -> list[CompletedPartTypeDef]:
    """Send the file's parts, a few at a time; raise before the end if it is not `sha256`."""
    hasher = hashlib.sha256()
    room = threading.Semaphore(6)  # parts held in memory

    def send(number: int, data: bytes) -> CompletedPartTypeDef:
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        try:
            answer = s3.upload_part(**where, PartNumber=number, Body=data, ChecksumSHA256=checksum)
        finally:
            room.release()
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    futures: list[Future[CompletedPartTypeDef]] = []
    with open(path, "rb") as source, ThreadPoolExecutor(4) as pool:
        while data := source.read(size):
            hasher.update(data)
            room.acquire()
            if any(f.done() and f.exception() for f in futures):
                room.release()
                break
            futures.append(pool.submit(send, len(futures) + 1, data))
    parts = [future.result() for future in futures]
    if "sha256:" + hasher.hexdigest() != sha256:
        raise changed(path, sha256)
    return parts


def _code(error: BaseException) -> str | None:
    """The code of an error that S3 answered."""
    response = getattr(error, "response", None)
    return str(response["Error"]["Code"]) if response and "Error" in response else None


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - spreads the writers


def _resumed(read: Callable[[], Stored]) -> Stored:
    """Call `read` again when the connection broke amid the body, which boto3 does not repeat."""
    from botocore import exceptions as e

    for attempt in range(_ATTEMPTS):
        try:
            return read()
        except (e.IncompleteReadError, e.ResponseStreamingError, e.ReadTimeoutError):
            if attempt + 1 == _ATTEMPTS:
                raise
            _pause(attempt)
    raise AssertionError("the last attempt returns or raises")
