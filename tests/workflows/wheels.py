"""Small distributions in a folder, as the whole package index of a test."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path


def make_wheel(folder: Path, name: str, version: str, *requires: str) -> str:
    """Write a wheel of an empty module; return the line that a hashed lock has for it."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    information = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    files = {
        f"{name}.py": f'__version__ = "{version}"\n',
        f"{information}/METADATA": "\n".join(metadata) + "\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{information}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in {**files, f"{information}/RECORD": record}.items():
            archive.writestr(file, content)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def make_source(folder: Path, name: str, leaves: Path) -> str:
    """Write a source distribution that leaves a file when it is built; return its locked line."""
    path = folder / f"{name}-1.0.tar.gz"
    setup = f"open({str(leaves)!r}, 'w')\n"
    project = "[build-system]\nrequires = []\nbuild-backend = 'setup'\nbackend-path = ['.']\n"
    files = {
        "pyproject.toml": project,
        "setup.py": setup,
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
    }
    with tarfile.open(path, "w:gz") as archive:
        for file, content in files.items():
            information = tarfile.TarInfo(f"{name}-1.0/{file}")
            information.size = len(content.encode())
            archive.addfile(information, io.BytesIO(content.encode()))
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
