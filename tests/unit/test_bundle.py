"""The bundle's promises: a digest that names every byte, and nothing unverified gets through."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import HASH, manifest

from trilho import bundle
from trilho.errors import IntegrityError


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


FILES = {
    "model.joblib": bytes(range(200)),
    "compiled/plan.json": b"{}",
    "compiled/deep/manifest.json": b"not the manifest",
    "empty": b"",
}


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = write(tmp_path / "a bundle", FILES)
    bundle.seal(folder, manifest())
    return folder


names = st.text("abcXYZ019._-", min_size=1, max_size=8).filter(lambda n: n.strip("."))
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


def flat(files: dict[str, bytes]) -> bool:
    """No file is the folder of another one, and none takes the manifest's place."""
    return not any(
        b.startswith(a + "/") or a.casefold() == b.casefold()
        for a in files
        for b in files
        if a is not b
    ) and not any(name.startswith(bundle.MANIFEST) for name in files)


contents = st.dictionaries(paths, st.binary(max_size=50), min_size=1, max_size=5).filter(flat)


@settings(max_examples=40, deadline=None)
@given(files=contents, data=st.data())
def test_digest_depends_on_content_alone(files: dict[str, bytes], data: st.DataObject) -> None:
    order = data.draw(st.permutations(list(files)))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        first = bundle.seal(write(Path(one), files), manifest())
        second = bundle.seal(write(Path(other), {n: files[n] for n in order}), manifest())
        assert first == second
        assert bundle.verify(Path(one), first)[1] == first


@settings(max_examples=60, deadline=None)
@given(files=contents, data=st.data())
def test_any_change_of_a_file_is_refused_by_its_name(
    files: dict[str, bytes], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = write(Path(temporary), files)
        digest = bundle.seal(folder, manifest())
        victim = data.draw(st.sampled_from(sorted(files)))
        path = folder / victim
        content = files[victim]
        kinds = ["added byte", "removed", "link"] + ["changed byte", "truncated"] * bool(content)
        kind = data.draw(st.sampled_from(kinds))
        if kind == "added byte":
            path.write_bytes(content + b"x")
        elif kind == "removed":
            path.unlink()
        elif kind == "link":
            copy = folder.parent / f"{folder.name}-copy"
            shutil.move(path, copy)
            path.symlink_to(copy)
        elif kind == "changed byte":
            at = data.draw(st.integers(0, len(content) - 1))
            flip = data.draw(st.integers(1, 255))
            path.write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
        else:
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        with pytest.raises(IntegrityError) as error:
            bundle.verify(folder, digest)
        assert victim in error.value.message
        if kind == "link":
            copy.unlink()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_change_of_the_manifest_is_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = write(Path(temporary), FILES)
        digest = bundle.seal(folder, manifest())
        path = folder / bundle.MANIFEST
        content = path.read_bytes()
        at = data.draw(st.integers(0, len(content) - 1))
        flip = data.draw(st.integers(1, 255))
        path.write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
        with pytest.raises(IntegrityError, match=r"manifest\.json has digest"):
            bundle.verify(folder, digest)


def test_added_file_is_refused_by_its_name(sealed: Path) -> None:
    (sealed / "compiled" / "extra.py").write_text("import os")
    with pytest.raises(IntegrityError, match=r"does not name: compiled/extra\.py"):
        bundle.verify(sealed)


@pytest.mark.parametrize("kind", ["file", "folder", "manifest", "fifo"])
def test_links_and_devices_are_refused(sealed: Path, tmp_path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(sealed / "odd")
    elif kind == "manifest":
        shutil.move(sealed / bundle.MANIFEST, tmp_path / "copy")
        (sealed / bundle.MANIFEST).symlink_to(tmp_path / "copy")
    else:
        (sealed / "odd").symlink_to(tmp_path if kind == "folder" else sealed / "empty")
    with pytest.raises(IntegrityError, match="neither a file nor a folder"):
        bundle.verify(sealed)
    with pytest.raises(IntegrityError, match="neither a file nor a folder"):
        bundle.seal(sealed, manifest())


def test_wrong_digest_is_refused_before_the_manifest_is_read(sealed: Path) -> None:
    (sealed / bundle.MANIFEST).write_bytes(b"[" * 100_000)
    with pytest.raises(IntegrityError, match="expected sha256:0000"):
        bundle.verify(sealed, HASH)


def test_every_field_of_the_manifest_decides_the_digest(tmp_path: Path) -> None:
    folder = write(tmp_path, FILES)
    changed = {
        "name": "other",
        "task": "regression",
        "fingerprint": "sha256:" + "1" * 64,
        "lock": HASH,
        "split": "sha256:" + "1" * 64,
        "metrics": {"roc_auc": 0.76},
        "parameters": {"max_iter": 11},
        "environment": {"python": "3.12"},
        "serving_reason": "because",
        "largest_difference": 0.0,
    }
    digests = [bundle.seal(folder, manifest())]
    digests += [bundle.seal(folder, manifest(**{k: v})) for k, v in changed.items()]
    assert len(set(digests)) == len(digests)


def test_order_of_keys_does_not_decide_the_digest(tmp_path: Path) -> None:
    folder = write(tmp_path, FILES)
    one = bundle.seal(folder, manifest(metrics={"a": 1.0, "b": 2.0}))
    assert bundle.seal(folder, manifest(metrics={"b": 2.0, "a": 1.0})) == one


def test_sealing_again_changes_nothing_even_after_a_kill(sealed: Path) -> None:
    digest = bundle.read_manifest(sealed)[1]
    (sealed / (bundle.MANIFEST + ".partial")).write_bytes(b"{half")
    assert bundle.seal(sealed, manifest()) == digest
    bundle.verify(sealed, digest)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a//b", ".", "a\\b", ""])
def test_manifest_that_points_outside_is_refused(sealed: Path, name: str) -> None:
    entry = bundle.File(sha256=HASH, size=0)
    crafted = msgspec.structs.replace(bundle.read_manifest(sealed)[0], files={name: entry})
    (sealed / bundle.MANIFEST).write_bytes(bundle.canonical(crafted))
    with pytest.raises(IntegrityError, match="outside of itself"):
        bundle.verify(sealed)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read"),
        (b"{}", "cannot be read"),
        (b'{"format": "x"}', "cannot be read"),
        (bundle.canonical(manifest(format=99)), "has format 99"),
    ],
)
def test_unreadable_manifest_says_so(sealed: Path, data: bytes, message: str) -> None:
    (sealed / bundle.MANIFEST).write_bytes(data)
    with pytest.raises(IntegrityError, match=message):
        bundle.verify(sealed)


def test_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(IntegrityError, match="is not a bundle"):
            bundle.verify(folder)
