"""One set of promises, kept by a folder, by MiniStack's S3 and by moto's."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import signal
import string
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workers import Processes, count_up_once

from trilho.errors import ConflictError, IntegrityError, UsageError
from trilho.storage import AlreadyExists, NotFound, Store, open_store
from trilho.storage.base import check_key
from trilho.storage.folder import FolderStore
from trilho.storage.s3 import S3Store

MIB = 2**20


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def run_all(work: Callable[..., object], arguments: list[tuple[object, ...]]) -> list[object]:
    """Run all at the same moment, one thread each."""
    start = threading.Barrier(len(arguments))

    def one(given: tuple[object, ...]) -> object:
        start.wait()
        return work(*given)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(one, arguments))


@pytest.fixture
def store(store_url: str) -> Store:
    return open_store(store_url)


@pytest.fixture(params=["ministack", "moto_server"])
def s3(request: pytest.FixtureRequest) -> S3Store:
    """A store on S3 that sends files of 5 MiB and more in parts."""
    request.getfixturevalue(request.param)
    store = S3Store(request.getfixturevalue("bucket"), "p")
    store.multipart_from = store.part_size = 5 * MIB
    return store


# --- create once ---


def test_created_object_is_read_as_written(store: Store) -> None:
    etag = store.put_once("a/b.json", b"\x00one\xff")
    assert store.get("a/b.json") == (b"\x00one\xff", etag)
    assert store.exists("a/b.json")
    assert store.size("a/b.json") == 5
    assert store.put_once("empty", b"")
    assert store.get("empty").data == b""


def test_missing_object_is_named(store: Store, tmp_path: Path) -> None:
    assert not store.exists("a/b")
    assert list(store.list("")) == []
    for look in (store.get, store.size, lambda key: store.download(key, tmp_path / "x")):
        with pytest.raises(NotFound, match="There is no 'a/b' in ") as error:
            look("a/b")
        assert store.url in error.value.message
    assert list(tmp_path.glob("x*")) == []
    store.put_once("a/b/c", b"")
    with pytest.raises(NotFound):
        store.get("a/b")
    assert not store.exists("a/b")


@pytest.mark.parametrize("again", [b"two", b"one"])
def test_taken_key_stays_as_it_is(store: Store, again: bytes) -> None:
    etag = store.put_once("k", b"one")
    with pytest.raises(AlreadyExists, match="'k' exists already"):
        store.put_once("k", again)
    assert store.get("k") == (b"one", etag)


def test_one_of_many_writers_wins(store: Store) -> None:
    for key in "abcd":

        def write(number: int, key: str = key) -> int | None:
            with contextlib.suppress(AlreadyExists):
                store.put_once(key, str(number).encode())
                return number
            return None

        winners = [w for w in run_all(write, [(n,) for n in range(16)]) if w is not None]
        assert [store.get(key).data] == [str(winner).encode() for winner in winners]


# --- compare and swap ---


def test_swap_needs_the_present_etag(store: Store) -> None:
    with pytest.raises(ConflictError):
        store.swap("k", b"0", "nothing-has-this-etag")
    assert not store.exists("k")
    first = store.swap("k", b"1", None)
    with pytest.raises(ConflictError, match=r"'k' in .* was changed by somebody else"):
        store.swap("k", b"x", None)
    second = store.swap("k", b"2", first)
    assert store.get("k") == (b"2", second)
    with pytest.raises(ConflictError):
        store.swap("k", b"x", first)
    assert store.get("k") == (b"2", second)
    with pytest.raises(AlreadyExists):
        store.put_once("k", b"x")


def test_threads_lose_no_update(store: Store) -> None:
    run_all(lambda _: [count_up_once(store) for _ in range(3)], [(n,) for n in range(16)])
    assert store.get("counter").data == b"48"


def test_processes_lose_no_update(store_url: str) -> None:
    with Processes() as processes:
        started = [processes.start("count_up", store_url, 12) for _ in range(3)]
        assert [processes.wait(pid) for pid in started] == [0, 0, 0]
    assert open_store(store_url).get("counter").data == b"36"


# --- listing ---


def test_list_is_sorted_and_by_prefix(store: Store) -> None:
    keys = ["a/2", "a/1", "a-b", "a/1-x", "b/c/d", "b/c.json", "ab/x"]
    for key in keys:
        store.put_once(key, b"")
    assert list(store.list("")) == sorted(keys)
    assert list(store.list("a/")) == ["a/1", "a/1-x", "a/2"]
    assert list(store.list("a")) == ["a-b", "a/1", "a/1-x", "a/2", "ab/x"]
    assert list(store.list("b/c")) == ["b/c.json", "b/c/d"]
    assert list(store.list("b/c/d/e")) == []
    assert list(store.list("none/")) == []


def test_list_goes_beyond_one_page(s3: S3Store) -> None:
    s3.page_size = 2
    keys = [f"k/{n}" for n in range(5)]
    for key in keys:
        s3.put_once(key, b"")
    assert list(s3.list("k/")) == keys


# --- files ---


def test_file_goes_up_and_comes_down(store: Store, tmp_path: Path) -> None:
    data = secrets.token_bytes(300_000)
    (tmp_path / "up").write_bytes(data)
    for _ in range(2):  # there already with that content: fine
        store.upload_once("blobs/x", tmp_path / "up", sha256(data))
    assert store.get("blobs/x").data == data
    (tmp_path / "down").write_bytes(b"old")
    store.download("blobs/x", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["down", "up"]


def test_file_that_is_not_what_it_should_be_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="was changed"):
        store.upload_once("blobs/x", tmp_path / "up", sha256(b"right"))
    assert not store.exists("blobs/x")


def test_damaged_object_is_never_taken_for_the_right_one(store: Store, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"right")
    store.put_once("blobs/x", b"wrong")
    with pytest.raises(IntegrityError, match=r"'blobs/x' in .* is damaged"):
        store.upload_once("blobs/x", tmp_path / "up", sha256(b"right"))
    store.put_once("blobs/y", b"right")  # by another tool
    store.upload_once("blobs/y", tmp_path / "up", sha256(b"right"))


def test_many_upload_the_same_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"x" * 100_000)
    digest = sha256(b"x" * 100_000)
    run_all(lambda _: store.upload_once("x", tmp_path / "up", digest), [(n,) for n in range(8)])
    assert sha256(store.get("x").data) == digest


def pending_uploads(store: S3Store) -> list[object]:
    return list(store._s3.list_multipart_uploads(Bucket=store._bucket).get("Uploads", []))


def test_large_file_goes_in_parts_and_is_written_once(s3: S3Store, tmp_path: Path) -> None:
    data = secrets.token_bytes(11 * MIB)
    (tmp_path / "up").write_bytes(data)

    def upload(_: int) -> None:
        s3.upload_once("large", tmp_path / "up", sha256(data))

    run_all(upload, [(n,) for n in range(3)])
    assert s3._head("large")["ETag"].endswith('-3"')
    s3.download("large", tmp_path / "down")
    assert sha256((tmp_path / "down").read_bytes()) == sha256(data)
    # another content under that name
    (tmp_path / "up").write_bytes(data[::-1])
    assert s3._put_parts("large", tmp_path / "up", sha256(data[::-1])) is False
    with pytest.raises(IntegrityError, match="is damaged"):
        s3.upload_once("large", tmp_path / "up", sha256(data[::-1]))
    assert sha256(s3.get("large").data) == sha256(data)
    assert pending_uploads(s3) == []


def test_large_file_that_changes_is_never_stored(s3: S3Store, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"x" * 6 * MIB)
    with pytest.raises(IntegrityError, match="was changed"):
        s3.upload_once("large", tmp_path / "up", sha256(b"y"))
    assert not s3.exists("large")
    assert pending_uploads(s3) == []


# --- keys and addresses ---

BAD_KEYS = ["", "/a", "a/", "a//b", "../a", "a/../b", "a/..", ".", ".tmp/x", "a/.b", "a\\b"]
BAD_KEYS += ["a\0b", "a\nb", "ä", "a b", "~", "x" * 201, "a\n"]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_key_that_could_leave_the_store_is_refused(tmp_path: Path, key: str) -> None:
    store = FolderStore(tmp_path / "root")
    actions: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: store.put_once(key, b""),
        lambda: store.swap(key, b"", None),
        lambda: store.exists(key),
        lambda: store.size(key),
        lambda: store.upload_once(key, tmp_path / "x", ""),
        lambda: store.download(key, tmp_path / "x"),
        lambda: S3Store("bucket").get(key),
        lambda: S3Store("bucket").put_once(key, b""),
    ]
    for action in actions:
        with pytest.raises(UsageError, match="is no valid key"):
            action()
    assert list(tmp_path.iterdir()) == []
    if key and not key.endswith("/"):
        with pytest.raises(UsageError):
            list(store.list(key))


def test_keys_take_what_partitions_and_digests_need() -> None:
    for character in string.ascii_letters + string.digits + "_":
        check_key(character)
    check_key("predictions/dt=2026-01-31/hour=03/part-0.json+gz,x@y")


@given(st.text(max_size=30))
def test_any_accepted_key_stays_below_the_root(key: str) -> None:
    try:
        check_key(key)
    except UsageError:
        return
    root = Path("/root/of/store")
    assert (root / key).resolve().is_relative_to(root)
    assert (root / key) != root


@pytest.mark.parametrize(
    "url", ["", "  ", "gs://b/x", "https://b.s3.amazonaws.com", "s3:/b", "s3://", "s3://A_b/x"]
)
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"expected s3://bucket/prefix"):
        open_store(url)


def test_address_of_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_store("s3://bucket/a/b/").url == "s3://bucket/a/b"
    assert open_store("s3://bucket").url == "s3://bucket"
    monkeypatch.chdir(tmp_path)
    store = open_store(".trilho/registry")
    monkeypatch.chdir("/")  # a relative folder is meant from where it was opened
    store.put_once("a", b"")
    assert (tmp_path / ".trilho/registry/a").exists()


# --- the folder ---


def test_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"Cannot use .*file.*: (Not a directory|File exists)"):
        FolderStore(tmp_path / "file" / "registry").put_once("a", b"")


def test_full_disk_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    etag = store.put_once("a", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for action in (lambda: store.swap("a", b"new", etag), lambda: store.put_once("b", b"new")):
        with pytest.raises(UsageError, match="No space left"):
            action()
    assert store.get("a") == (b"old", etag)
    assert list(store.list("")) == ["a"]
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_writes_once_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    test_one_of_many_writers_wins(FolderStore(tmp_path))


def test_killed_writer_leaves_a_whole_object(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    zeros, ones = b"\0" * 500_000, b"\1" * 500_000
    store.put_once("large", zeros)
    with Processes() as processes:
        for _ in range(8):
            pid = processes.start("rewrite", str(tmp_path))
            changes = 0
            data = store.get("large").data
            while changes < 5:  # it is at work; no reader ever sees a half
                now = store.get("large").data
                assert now in (zeros, ones)
                changes += now != data
                data = now
            os.kill(pid, signal.SIGKILL)
            assert processes.wait(pid) == -signal.SIGKILL
            data, etag = store.get("large")
            assert data in (zeros, ones)
            store.swap("large", data, etag)  # its lock is free
    assert list(store.list("")) == ["large"]


# --- any sequence of actions ---

KEYS = st.sampled_from(["a", "b", "c/d", "c/e", "c-d", "f/g/h"])
DATA = st.binary(max_size=3)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), KEYS),
        st.tuples(st.just("exists"), KEYS),
        st.tuples(st.just("put_once"), KEYS, DATA),
        st.tuples(st.just("upload_once"), KEYS, DATA),
        # the etag that somebody holds: the present one, an older one, none
        st.tuples(st.just("swap"), KEYS, DATA, st.sampled_from(["present", "older", "none"])),
        st.tuples(st.just("list"), st.sampled_from(["", "c", "c/", "f/g/h", "x"])),
    ),
    max_size=12,
)


class Model:
    """A dictionary that does what a store should."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def apply(self, name: str, *given: object) -> object:
        key = str(given[0])
        if name == "list":
            return sorted(k for k in self.objects if k.startswith(key))
        if name == "exists":
            return key in self.objects
        if name == "get":
            return self.objects.get(key, NotFound)
        data = given[1]
        assert isinstance(data, bytes)
        if name == "upload_once":
            return None if self.objects.setdefault(key, data) == data else IntegrityError
        if name == "put_once" and key in self.objects:
            return AlreadyExists
        if name == "swap":
            fits = (given[2] == "none") == (key not in self.objects)
            if not fits or given[2] == "older":
                return ConflictError
        self.objects[key] = data
        return data


def act(store: Store, below: str, name: str, *given: object) -> object:
    key = f"{below}/{given[0]}"
    try:
        if name == "list":
            return [found.removeprefix(f"{below}/") for found in store.list(key)]
        if name == "exists":
            return store.exists(key)
        if name == "get":
            return store.get(key).data
        data = given[1]
        assert isinstance(data, bytes)
        if name == "upload_once":
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "f").write_bytes(data)
                return store.upload_once(key, Path(folder) / "f", sha256(data))
        if name == "put_once":
            etag = store.put_once(key, data)
        else:
            present = store.get(key).etag if store.exists(key) else "an-etag-of-nothing"
            held = {"present": present, "older": "an-old-etag", "none": None}[str(given[2])]
            etag = store.swap(key, data, held)
        stored = store.get(key)
        assert stored.etag == etag
        return stored.data
    except (NotFound, AlreadyExists, ConflictError, IntegrityError) as error:
        return type(error)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(actions=ACTIONS)
def test_store_behaves_like_a_dictionary(store: Store, actions: list[tuple[object, ...]]) -> None:
    below = secrets.token_hex(6)  # a place of its own for each example
    model = Model()
    for action in actions:
        name, *given = action
        assert act(store, below, str(name), *given) == model.apply(str(name), *given), action
    found = {key.removeprefix(f"{below}/"): store.get(key).data for key in store.list(below)}
    assert found == model.objects
