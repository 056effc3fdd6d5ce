"""Bundles in a store: their files by content, their manifests by digest, all of it verified."""

from __future__ import annotations

import contextlib
import errno
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from trilho import bundle
from trilho.bundle import Manifest
from trilho.errors import IntegrityError, UsageError, nearest
from trilho.registry import keys
from trilho.storage import AlreadyExists, NotFound, Store

WORKERS = 8  # requests to the store at one time

T = TypeVar("T")
Item = TypeVar("Item")


class Bundles:
    """The bundles of one store. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._manifests: dict[str, Manifest] = {}  # written once, so read once

    def put_bundle(self, folder: Path) -> str:
        """Store a sealed bundle and return its digest; what is there already is not sent again.

        Raises
        ------
        IntegrityError
            The folder is not what its manifest says, or the store holds a damaged copy.
        """
        manifest, digest = bundle.verify(folder)
        files = {entry.sha256: folder / name for name, entry in manifest.files.items()}
        together(
            lambda item: self.store.upload_once(keys.blob(item[0]), item[1], item[0]), files.items()
        )
        self._put_same(keys.manifest(digest), (folder / bundle.MANIFEST).read_bytes())
        return digest

    def read_manifest(self, digest: str) -> Manifest:
        """Return the manifest of a stored bundle, verified against its digest."""
        if digest not in self._manifests:
            self._manifests[digest] = bundle.parse_manifest(self._manifest_bytes(digest))
        return self._manifests[digest]

    def bundle_file(self, digest: str, name: str) -> bytes:
        """Return one file of a stored bundle, verified against its manifest."""
        entry = self.read_manifest(digest).files.get(name)
        if entry is None:
            known = list(self.read_manifest(digest).files)
            raise UsageError(f"Bundle {digest} has no file '{name}'{nearest(name, known)}.")
        try:
            data = self.store.get(keys.blob(entry.sha256)).data
        except NotFound:
            raise self._missing(name, entry.sha256) from None
        if bundle.sha256_bytes(data) != entry.sha256:
            raise IntegrityError(
                f"Bundle file {name} was changed in {self.store.url}: its sha256 does not match."
            )
        return data

    def fetch_bundle(self, digest: str, folder: Path) -> Manifest:
        """Bring a bundle into `folder`, which appears whole and verified, or not at all.

        A folder that holds exactly this bundle already is used as it is; another or a damaged
        bundle there is replaced.

        Raises
        ------
        IntegrityError
            Naming the file that is missing, truncated or changed.
        UsageError
            There is no such bundle, or the folder holds something that is no bundle.
        """
        try:
            return self._fetch(digest, folder.absolute())
        except OSError as error:
            raise UsageError(
                f"Cannot write the bundle to {folder}: {error.strerror or error}.",
                hint="Check the folder's permissions and the free space, or name another one.",
            ) from error

    def check_bundle(self, digest: str) -> Manifest:
        """Return the manifest of a bundle after a look that each of its files is in the store.

        Raises
        ------
        IntegrityError
            Naming a file that is missing or has the wrong size. Contents are verified when fetched.
        """
        manifest = self.read_manifest(digest)

        def check(item: tuple[str, bundle.File]) -> None:
            name, entry = item
            try:
                size = self.store.size(keys.blob(entry.sha256))
            except NotFound:
                raise self._missing(name, entry.sha256) from None
            if size != entry.size:
                raise IntegrityError(
                    f"Bundle file {name} has {size} bytes in {self.store.url}, "
                    f"expected {entry.size}."
                )

        together(check, manifest.files.items())
        return manifest

    # --- inside ---

    def _put_same(self, key: str, data: bytes) -> None:
        """Create an object, or find it there with the same content."""
        try:
            self.store.put_once(key, data)
        except AlreadyExists:
            if self.store.get(key).data != data:
                raise IntegrityError(
                    f"'{key}' exists in {self.store.url} with another content."
                ) from None

    def _manifest_bytes(self, digest: str) -> bytes:
        try:
            data = self.store.get(keys.manifest(digest)).data
        except NotFound:
            raise UsageError(f"There is no bundle {digest} in {self.store.url}.") from None
        if bundle.sha256_bytes(data) != digest:
            raise IntegrityError(
                f"The manifest of bundle {digest} was changed in {self.store.url}: its sha256 does "
                "not match."
            )
        return data

    def _fetch(self, digest: str, folder: Path) -> Manifest:
        if folder.exists():
            with contextlib.suppress(IntegrityError):
                return bundle.verify(folder, digest)[0]
            if any(folder.iterdir()) and not (folder / bundle.MANIFEST).exists():
                raise UsageError(
                    f"{folder} holds something that is not a bundle.",
                    hint="Name an empty or a new folder.",
                )
        manifest = self.read_manifest(digest)
        folder.parent.mkdir(parents=True, exist_ok=True)
        mark = f"{folder.name}.{secrets.token_hex(4)}"
        partial = folder.with_name(f".{mark}.partial")
        try:
            self._download(manifest, partial)
            (partial / bundle.MANIFEST).write_bytes(self._manifest_bytes(digest))
            bundle.verify(partial, digest)
            self._install(partial, folder, folder.with_name(f".{mark}.old"), digest)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return manifest

    def _download(self, manifest: Manifest, folder: Path) -> None:
        folder.mkdir()

        def download(item: tuple[str, bundle.File]) -> None:
            name, entry = item
            bundle.check_name(name)
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.store.download(keys.blob(entry.sha256), path)
            except NotFound:
                raise self._missing(name, entry.sha256) from None

        together(download, manifest.files.items())

    def _install(self, partial: Path, folder: Path, old: Path, digest: str) -> None:
        """Give a verified bundle its name, unless somebody else did the same meanwhile."""
        while True:
            try:
                partial.rename(folder)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            with contextlib.suppress(IntegrityError):
                bundle.verify(folder, digest)
                return
            with contextlib.suppress(FileNotFoundError):
                folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)

    def _missing(self, name: str, sha256: str) -> IntegrityError:
        return IntegrityError(
            f"Bundle file {name} is missing: there is no '{keys.blob(sha256)}' in {self.store.url}."
        )


def together(do: Callable[[Item], T], items: Iterable[Item]) -> list[T]:
    """Do it for all items, some at a time, in their order; the first error is raised."""
    items = list(items)
    if len(items) < 2:
        return [do(item) for item in items]
    with ThreadPoolExecutor(min(WORKERS, len(items))) as pool:
        return list(pool.map(do, items))
