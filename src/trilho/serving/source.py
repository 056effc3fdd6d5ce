"""Where the bundle comes from: each byte is checked against the digest before it is used."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from trilho import bundle
from trilho.bundle import Manifest
from trilho.errors import UsageError
from trilho.serving.settings import Settings


class Fetched(NamedTuple):
    folder: Path
    manifest: Manifest
    digest: str


@contextmanager
def fetch(settings: Settings) -> Iterator[Fetched]:
    """Give a folder with the verified files that serving needs, for as long as they are loaded.

    From a registry they are fetched into a private folder that is removed at the end: nobody can
    change a file between its check and its use, and a container's memory holds no second copy.

    Raises
    ------
    IntegrityError
        A file is missing or its bytes are not those that the manifest names.
    TrilhoError
        The registry has no such bundle or cannot be reached.
    """
    if settings.folder is not None:
        if not settings.folder.is_dir():
            raise UsageError(f"The bundle's folder {settings.folder} does not exist.")
        yield Fetched(settings.folder, *bundle.verify(settings.folder, settings.digest))
        return

    from trilho.registry import open_registry  # a local folder needs no registry

    assert settings.uri is not None
    assert settings.digest is not None
    registry = open_registry(settings.uri)
    manifest = registry.read_manifest(settings.digest)
    with tempfile.TemporaryDirectory(prefix="trilho-") as temporary:
        folder = Path(temporary)
        for name in needed(manifest):
            bundle.check_name(name)
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(registry.bundle_file(settings.digest, name))
        yield Fetched(folder, manifest, settings.digest)


def needed(manifest: Manifest) -> list[str]:
    """Return the files that the service loads: the archive form only where it must serve it."""
    model = "compiled/" if manifest.serving == "compiled" else "model.joblib"
    return [
        name
        for name in manifest.files
        if name in ("signature.json", "golden.json", "model_card.md") or name.startswith(model)
    ]
