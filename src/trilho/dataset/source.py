"""Where a dataset lies: local files and S3 objects, their digest, and the lines of a CSV."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from trilho.bundle import sha256_file
from trilho.errors import DataError, Place, UnavailableError, UsageError, nearest

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CACHE = Path(".trilho/cache")
SUFFIXES = (".csv", ".csv.gz", ".parquet")
CHUNK = 1 << 20


def suffix(path: str) -> str:
    """Return which of `SUFFIXES` the path has; raise `UsageError` for any other."""
    for known in SUFFIXES:
        if path.lower().endswith(known):
            return known
    raise UsageError(
        f"{path} is not a dataset that Trilho reads: its name must end in {', '.join(SUFFIXES)}.",
        hint="Save the data as CSV or Parquet, and set data.path to it.",
    )


def digest(path: str) -> str:
    """Return `sha256:<hex>` of the dataset's bytes; an S3 object is fetched first."""
    return sha256_file(local(path))


def local(path: str) -> Path:
    """Return the local file of a dataset.

    Parameters
    ----------
    path
        A local path, returned as it is, or `s3://bucket/key`. An object is fetched into
        `.trilho/cache/` under a name made of its ETag and version, so that it is fetched once.

    Raises
    ------
    DataError
        No such file or object.
    UnavailableError
        S3 did not answer, or refused.
    """
    suffix(path)
    if path.startswith("s3://"):
        return _fetch(path)
    file = Path(path)
    if file.is_file():
        return file
    if file.exists():
        raise DataError(f"{path} is a folder; a dataset is one file.")
    beside = file.parent if file.parent.is_dir() else Path()
    names = [str(p) for p in beside.iterdir() if p.name.lower().endswith(SUFFIXES)]
    raise DataError(
        f"{path} does not exist{nearest(path, names)}.",
        hint="Put the data there, or set data.path in pipeline.yaml.",
    )


def _fetch(url: str) -> Path:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise UsageError(f"{url} must look like s3://bucket/key.")
    try:
        s3 = boto3.client("s3")
        head = s3.head_object(Bucket=bucket, Key=key)
        etag, version = head["ETag"], head.get("VersionId")
        identity = "\n".join((bucket, key, etag, version or ""))
        name = f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}-{key.rsplit('/', 1)[-1]}"
        if (CACHE / name).exists():
            return CACHE / name
        wanted: dict[str, Any] = {"VersionId": version} if version else {}
        # If-Match: an object replaced between head and get is an error, not a wrong name.
        body = s3.get_object(Bucket=bucket, Key=key, IfMatch=etag, **wanted)["Body"]
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=CACHE, suffix=".partial", delete=False) as partial:
            try:
                for chunk in body.iter_chunks(CHUNK):
                    partial.write(chunk)
            except BaseException:
                Path(partial.name).unlink()
                raise
        os.replace(partial.name, CACHE / name)
        return CACHE / name
    except ClientError as error:
        raise _refused(url, error) from None
    except (BotoCoreError, OSError) as error:
        raise UnavailableError(
            f"{url} could not be fetched: {error}.",
            hint="Check the network, the region and the AWS credentials, and try again.",
        ) from None


def _refused(url: str, error: ClientError) -> DataError | UnavailableError:
    code = error.response.get("Error", {}).get("Code", "unknown")
    if code in ("404", "NoSuchKey", "NoSuchBucket", "NotFound"):
        return DataError(f"{url} does not exist.", hint="Check data.path: the bucket and the key.")
    if code in ("403", "AccessDenied"):
        return UnavailableError(
            f"{url} may not be read: S3 denied access.",
            hint="Allow s3:GetObject (and s3:ListBucket, which tells missing from forbidden).",
        )
    if code in ("412", "PreconditionFailed"):
        return UnavailableError(f"{url} was replaced while it was fetched.", hint="Run again.")
    return UnavailableError(f"{url} could not be fetched: S3 answered {code}.", hint="Try again.")


def open_bytes(file: Path) -> IO[bytes]:
    """Open a CSV for reading, unpacked when its name ends in `.gz`."""
    if file.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(file, "rb"))
    return open(file, "rb")


def records(file: Path, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the fields of each record of a CSV, the header included.

    A record may span lines when a quoted value holds newlines; blank lines are skipped.
    Undecodable bytes are replaced, because this also serves to locate them.
    """
    with open_bytes(file) as raw, _text(raw, encoding) as lines:
        numbered = enumerate(lines, 1)
        for number, line in numbered:
            if line.strip("\r\n"):
                # csv.reader takes further lines only while a quoted value is open
                rest = (following for _, following in numbered)
                yield number, next(csv.reader(chain([line], rest)))


def header(file: Path, encoding: str) -> list[str]:
    """Return the column names of a CSV as they are written; empty for an empty file."""
    for _, names in records(file, encoding):
        return names
    return []


def csv_lines(path: str | Path, rows: Iterable[int], encoding: str = "utf-8") -> list[int]:
    """Return the line of the file at which each data row starts.

    Parameters
    ----------
    path
        A CSV, gzipped or not.
    rows
        Positions of data rows, from 0, in any order.

    Returns
    -------
    list of int
        In the order of `rows`; lines count from 1, the header's. Reads no further than it needs.
    """
    wanted = list(rows)
    last = max(wanted, default=-1)
    needed, found = set(wanted), {}
    # The last element would be wasted work: the loop ends at the last row that is asked for.
    for row, line in enumerate(_starts(Path(path), encoding), -1):
        if row in needed:
            found[row] = line
        if row >= last:
            break
    return [found[row] for row in wanted]


def _starts(file: Path, encoding: str) -> Iterator[int]:
    """Yield the first line of each record; parses only records that hold a quote."""
    with open_bytes(file) as raw, _text(raw, encoding) as lines:
        numbered = enumerate(lines, 1)
        for number, line in numbered:
            if not line.strip("\r\n"):
                continue
            if '"' in line:
                next(csv.reader(chain([line], (following for _, following in numbered))))
            yield number


def _text(raw: IO[bytes], encoding: str) -> io.TextIOWrapper:
    name = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    return io.TextIOWrapper(raw, encoding=name, errors="replace", newline="")


def check_encoding(encoding: str) -> None:
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise UsageError(
            f"data.encoding: '{encoding}' is not an encoding that Python knows.",
            hint="Common ones are utf-8, cp1252, latin-1 and utf-16.",
        ) from None


def undecodable(file: Path, path: str, encoding: str) -> DataError | None:
    """Return the error that names the first byte that `encoding` cannot decode, if any."""
    decoder = codecs.getincrementaldecoder(encoding)()
    start, line = 0, 1  # of the chunk
    with open_bytes(file) as raw:
        while True:
            chunk = raw.read(CHUNK)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                pending = len(error.object) - len(chunk)
                line += error.object[pending : error.start].count(b"\n")
                place = Place(path, line)
                bad = error.object[error.start]
                return DataError(
                    f"{place} is not {encoding} text: byte 0x{bad:02x} at offset "
                    f"{start - pending + error.start}.",
                    hint=f"Set data.encoding, probably to {_likely(file)}.",
                    places=(place,),
                )
            if not chunk:
                return None
            start += len(chunk)
            line += chunk.count(b"\n")


def _likely(file: Path) -> str:
    """Guess an encoding other than UTF-8 by the first bytes."""
    with open_bytes(file) as raw:
        first = raw.read(4)
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    return "cp1252 (Windows) or latin-1"


def ragged(file: Path, path: str, encoding: str) -> DataError | None:
    """Return the error that names the first record whose length is not the header's, if any."""
    width = None
    for line, fields in records(file, encoding):
        width = width or len(fields)
        if len(fields) != width:
            place = Place(path, line)
            return DataError(
                f"{place} has {len(fields)} values, expected {width} as in the header.",
                hint="Quote values that hold commas, quotes or line breaks.",
                places=(place,),
            )
    return None
