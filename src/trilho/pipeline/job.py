"""A job: one pipeline over one run folder, and how its documents are kept.

A step leaves its document in the run folder and, beside it, a stamp: the digest of all that the
document was made from. The next call with the same stamp returns the document as it stands.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from trilho import bundle
from trilho.bundle import Manifest
from trilho.config import DEFAULT_PATH, Overrides, Pipeline
from trilho.errors import IntegrityError, UsageError
from trilho.evaluation.results import Evaluation, Measurements
from trilho.registry import CHAMPION, Alias, Registry, RunRecord, Version, open_registry
from trilho.training import fingerprint
from trilho.training.idle import beside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trilho.dataset import Dataset

RUN = Path(".trilho/run")
CACHE = Path(".trilho/cache")

# document -> the verb that writes it
WRITERS = {
    "validation.json": "validate",
    "foregone.json": "retrain",
    "run.json": "train",
    "inputs.json": "train",
    "comparison.json": "evaluate",
    "measurements.json": "evaluate",
    "verdict.json": "gate",
    "report.md": "report",
}

T = TypeVar("T")
Tell = Callable[[str], None]
Ahead = Callable[["Job"], object]


def silent(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Done(Generic[T]):
    """What a step gave, and whether unchanged inputs made it unnecessary to do it again."""

    value: T
    same: bool = False


@dataclass
class Job:
    """One pipeline over one run folder; what several steps need is read once."""

    config: Pipeline
    folder: Path = RUN
    config_path: Path = DEFAULT_PATH
    overrides: Overrides = field(default_factory=Overrides)
    force: bool = False
    # what later steps need, done while the model is fitted; and modules that they need, imported
    # while the dataset is read. Only the main thread imports: two that import what needs each other
    # may leave a library half loaded, for good.
    later: tuple[Ahead, ...] = ()
    modules: tuple[str, ...] = ()
    # hold-out scores of bundles, by digest: scoring them again is work
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    _fresh: set[str] = field(default_factory=set)  # documents written by this job

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @cached_property
    def registry(self) -> Registry:
        return open_registry(self.config.registry)

    @cached_property
    def dataset(self) -> Dataset:
        from trilho.dataset import holdout, read

        settings = self.config.data
        if not self.modules:
            return read(settings)
        with (
            beside(lambda: read(settings), gently=False) as data,
            beside(lambda: holdout(data.result(), settings.split), gently=False) as held,
        ):
            for name in self.modules:
                import_module(name)
        if held.exception() is None:  # else whoever needs it meets the error
            self.holdout = held.result()
        return data.result()

    def ahead(self, tasks: tuple[Ahead, ...], *, gently: bool) -> AbstractContextManager[Any]:
        """Do something for later steps beside a block; what fails is met again by its step."""
        return beside(lambda: [task(self) for task in tasks], gently=gently)

    @cached_property
    def holdout(self) -> NDArray[np.bool_]:
        from trilho import dataset

        return dataset.holdout(self.dataset, self.config.data.split)

    @cached_property
    def dataset_digest(self) -> str:
        from trilho import dataset

        return dataset.digest(self.config.data.path)

    @cached_property
    def champion(self) -> Alias | None:
        return self.registry.alias(CHAMPION)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint.fingerprint(self.inputs)

    @cached_property
    def manifest(self) -> Manifest:
        """The candidate's manifest.

        Raises
        ------
        UsageError
            There is none, or its inputs changed since it was trained: nothing else may judge or
            ship what these files do not describe.
        """
        if not (self.bundle / bundle.MANIFEST).exists():
            raise UsageError(f"{self.bundle} holds no bundle.", hint="Run `trilho train` first.")
        manifest, _ = bundle.verify(self.bundle)
        if manifest.fingerprint != self.fingerprint:
            changed = ", ".join(self._changed()) or "something"
            raise UsageError(
                f"{self.bundle} was made from other inputs than these: {changed} changed.",
                hint="Run `trilho train` again, and give every verb the same --set options.",
            )
        return manifest

    @cached_property
    def inputs(self) -> dict[str, str]:
        """The digest of each part of what decides the model."""
        return fingerprint.parts(self.config, self.dataset_digest)

    def _changed(self) -> list[str]:
        """The inputs that are not what they were when the bundle was made."""
        if not (self.folder / "inputs.json").exists():
            return []
        before = self.read("inputs.json", dict[str, str])
        return [name for name, digest in self.inputs.items() if before.get(name) != digest]

    @property
    def digest(self) -> str:
        return bundle.read_manifest(self.bundle)[1]

    def measured(self) -> Measurements:
        """What was measured when the candidate was trained."""
        return msgspec.convert(self.record().measurements, Measurements)

    def record(self) -> RunRecord:
        """The record of the run that made the bundle."""
        record = self.read("run.json", RunRecord)
        if record.digest != self.digest:
            raise UsageError(
                f"{self.folder / 'run.json'} tells of another bundle than {self.bundle}.",
                hint="A run was stopped in between: run `trilho train` again.",
            )
        return record

    def evaluation(self) -> Evaluation:
        data = (self.bundle / "evaluation.json").read_bytes()
        return msgspec.json.decode(data, type=Evaluation)

    def published(self) -> Version:
        """The version that `publish` made of this run's bundle."""
        if not (self.bundle / bundle.MANIFEST).exists():
            raise UsageError(
                f"{self.bundle} holds no bundle, so it is not clear what to deploy.",
                hint="Name a version with --version; `trilho models` lists them.",
            )
        version = self.registry.version_of(self.digest)
        if version is None:
            raise UsageError(
                f"This run's bundle, {self.digest}, is not published in {self.config.registry}.",
                hint="Run `trilho publish` first, or name a version with --version.",
            )
        return version

    def read(self, name: str, kind: type[T]) -> T:
        """Read a document of the run folder, or say which verb writes it."""
        try:
            return msgspec.json.decode((self.folder / name).read_bytes(), type=kind)
        except FileNotFoundError:
            verb = WRITERS[name]
            raise UsageError(
                f"{self.folder / name} does not exist.", hint=f"Run `trilho {verb}` first."
            ) from None
        except msgspec.MsgspecError as error:
            raise IntegrityError(
                f"{self.folder / name} cannot be read: {error}.",
                hint=f"Delete it and run `trilho {WRITERS[name]}` again.",
            ) from None

    def write(self, name: str, value: msgspec.Struct | str, stamp: str) -> None:
        """Write a document and then its stamp, each whole or not at all."""
        data = value.encode() if isinstance(value, str) else bundle.canonical(value)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stamp(name).unlink(missing_ok=True)
        replace(self.folder / name, data)
        replace(self._stamp(name), stamp.encode())
        self._fresh.add(name)

    def unchanged(self, name: str, stamp: str) -> bool:
        """Whether the document was made from exactly these inputs."""
        return (not self.force or name in self._fresh) and self.stamped(name, stamp)

    def stamped(self, name: str, stamp: str) -> bool:
        """Whether the document is there and bears this stamp."""
        if not (self.folder / name).exists():
            return False
        try:
            return self._stamp(name).read_text() == stamp
        except FileNotFoundError:
            return False

    def _stamp(self, name: str) -> Path:
        return self.folder / ".stamps" / name

    @contextmanager
    def new_bundle(self) -> Iterator[Path]:
        """An empty folder that becomes the run's bundle when the block ends well."""
        self.folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        try:
            partial = place / "bundle"
            partial.mkdir()
            yield partial
            self._stamp("run.json").unlink(missing_ok=True)
            if self.bundle.exists():
                os.replace(self.bundle, place / "old")
            os.replace(partial, self.bundle)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def digest_of(*parts: str) -> str:
    return bundle.sha256_bytes("\n".join(parts).encode())


def content(path: Path) -> str:
    return bundle.sha256_file(path) if path.exists() else ""
