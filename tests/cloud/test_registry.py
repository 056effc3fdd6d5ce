"""The registry's promises: nothing lost, nothing twice, nothing half done, nothing unverified."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from manifests import HASH, manifest
from workers import KILLED, Processes, advance, publish, ship

from trilho import bundle
from trilho.bundle import DatasetInfo
from trilho.errors import ConflictError, IntegrityError, UsageError
from trilho.registry import (
    MERGED,
    Alias,
    Candidate,
    Event,
    QuarantinedError,
    Registry,
    RunRecord,
    Source,
    Version,
    describe,
    diff,
    foregone,
    open_registry,
    resolve,
)
from trilho.storage import aws

ME = Source(actor="me", reason="a test")


def make_bundle(folder: Path, model: bytes = b"model", **fields: object) -> str:
    """Seal a small bundle and return its digest."""
    (folder / "compiled").mkdir(parents=True)
    (folder / "model.joblib").write_bytes(model)
    (folder / "compiled" / "plan.json").write_bytes(b"{}")
    return bundle.seal(folder, manifest(**fields))


@pytest.fixture
def registry(store_url: str) -> Registry:
    return open_registry(store_url)


def put(registry: Registry, tmp_path: Path, model: bytes) -> str:
    folder = tmp_path / f"put-{model.hex()}"
    make_bundle(folder, model)
    return registry.put_bundle(folder)


def put_many(registry: Registry, tmp_path: Path, count: int) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        return list(
            pool.map(lambda n: put(registry, tmp_path, b"%d" % n), range(count)),
        )


def release(registry: Registry, tmp_path: Path, model: bytes) -> Version:
    return registry.publish(put(registry, tmp_path, model), verdict="PROMOTE", source=ME)


# --- bundles ---


def test_bundle_comes_back_as_it_was_put(registry: Registry, tmp_path: Path) -> None:
    digest = make_bundle(tmp_path / "one")
    assert registry.put_bundle(tmp_path / "one") == digest
    assert registry.put_bundle(tmp_path / "one") == digest
    folder = tmp_path / "new" / "a place"
    manifest = registry.fetch_bundle(digest, folder)
    assert bundle.verify(folder) == (manifest, digest)
    assert registry.read_manifest(digest) == manifest == bundle.read_manifest(tmp_path / "one")[0]
    assert registry.bundle_file(digest, "compiled/plan.json") == b"{}"
    assert [path.name for path in folder.parent.iterdir()] == ["a place"]


def test_equal_files_are_stored_once(registry: Registry, tmp_path: Path) -> None:
    put(registry, tmp_path, b"{}")  # the model is equal to the plan
    put(registry, tmp_path, b"other")
    assert len(list(registry.store.list("blobs/"))) == 2
    assert len(list(registry.store.list("manifests/"))) == 2


def test_folder_that_is_not_what_its_manifest_says_is_not_stored(
    registry: Registry, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "one")
    (tmp_path / "one" / "model.joblib").write_bytes(b"Model")
    with pytest.raises(IntegrityError, match=r"model\.joblib was changed"):
        registry.put_bundle(tmp_path / "one")
    assert list(registry.store.list("")) == []


def test_unknown_bundle_and_file_are_named(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"There is no bundle {HASH}"):
        registry.fetch_bundle(HASH, tmp_path / "x")
    with pytest.raises(UsageError, match="not a digest"):
        registry.read_manifest("../../x")
    digest = put(registry, tmp_path, b"one")
    with pytest.raises(UsageError, match=r"no file 'model.jobli'; did you mean 'model.joblib'"):
        registry.bundle_file(digest, "model.jobli")


def overwrite(registry: Registry, key: str, data: bytes | None) -> None:
    """Damage an object behind the registry's back; None removes it."""
    store = registry.store
    if store.url.startswith("s3://"):
        bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
        s3 = aws.client("s3")
        if data is None:
            s3.delete_object(Bucket=bucket, Key=f"{prefix}/{key}")
        else:
            s3.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=data)
    elif data is None:
        (Path(store.url) / key).unlink()
    else:
        (Path(store.url) / key).write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"", "has 0 bytes, expected 5"),
        (b"mode", "has 4 bytes, expected 5"),
        (b"modem", "was changed"),
        (None, "is missing"),
    ],
)
def test_damaged_file_is_refused_by_name(
    registry: Registry, tmp_path: Path, damage: bytes | None, message: str
) -> None:
    digest = make_bundle(tmp_path / "one")
    registry.put_bundle(tmp_path / "one")
    entry = registry.read_manifest(digest).files["model.joblib"]
    key = "blobs/sha256/" + entry.sha256.removeprefix("sha256:")
    overwrite(registry, key, damage)
    with pytest.raises(IntegrityError, match=rf"model\.joblib {message}"):
        registry.fetch_bundle(digest, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == []
    with pytest.raises(IntegrityError, match=r"model\.joblib"):
        registry.bundle_file(digest, "model.joblib")
    if damage is not None:
        with pytest.raises(IntegrityError, match=rf"'{key}' in .* is damaged"):
            registry.put_bundle(tmp_path / "one")
    if damage != b"modem":  # that one shows when it is fetched
        with pytest.raises(IntegrityError, match=r"model\.joblib"):
            registry.publish(digest, verdict="PROMOTE", source=ME)
        assert registry.versions() == []
        assert registry.history() == []


def test_damaged_manifest_is_refused(registry: Registry, tmp_path: Path) -> None:
    digest = put(registry, tmp_path, b"one")
    key = f"manifests/{digest.removeprefix('sha256:')}.json"
    data = registry.store.get(key).data
    overwrite(registry, key, data.replace(b'"rows":4', b'"rows":5'))
    for look in (registry.read_manifest, lambda d: registry.fetch_bundle(d, tmp_path / "x")):
        with pytest.raises(IntegrityError, match=f"manifest of bundle {digest} was changed"):
            look(digest)


def test_manifest_that_points_outside_writes_nothing_there(
    registry: Registry, tmp_path: Path
) -> None:
    digest = make_bundle(tmp_path / "one")
    registry.put_bundle(tmp_path / "one")
    manifest = registry.read_manifest(digest)
    evil = msgspec.structs.replace(
        manifest, files={"../escaped": manifest.files["model.joblib"]}, name="evil"
    )
    data = bundle.canonical(evil)
    registry.store.put_once(f"manifests/{bundle.sha256_bytes(data)[7:]}.json", data)
    with pytest.raises(IntegrityError, match="outside of itself"):
        registry.fetch_bundle(bundle.sha256_bytes(data), tmp_path / "deep" / "folder")
    assert list(tmp_path.rglob("escaped")) == []


def test_whole_local_copy_is_used_and_a_damaged_one_replaced(tmp_path: Path) -> None:
    registry = open_registry(str(tmp_path / "registry"))
    digest = put(registry, tmp_path, b"one")
    folder = tmp_path / "copy"
    registry.fetch_bundle(digest, folder)
    shutil.move(tmp_path / "registry", tmp_path / "away")
    registry.fetch_bundle(digest, folder)  # needs no registry
    (folder / "model.joblib").write_bytes(b"two")
    with pytest.raises(UsageError, match="There is no bundle"):
        open_registry(str(tmp_path / "registry")).fetch_bundle(digest, folder)
    shutil.move(tmp_path / "away", tmp_path / "registry")
    registry.fetch_bundle(digest, folder)
    assert (folder / "model.joblib").read_bytes() == b"one"
    other = put(registry, tmp_path, b"other")
    registry.fetch_bundle(other, folder)
    assert bundle.verify(folder)[1] == other


def test_fetch_never_replaces_what_is_no_bundle(tmp_path: Path) -> None:
    registry = open_registry(str(tmp_path / "registry"))
    digest = put(registry, tmp_path, b"one")
    home = tmp_path / "home"
    home.mkdir()
    registry.fetch_bundle(digest, home)  # empty: fine
    shutil.rmtree(home)
    home.mkdir()
    (home / "thesis.doc").write_text("years of work")
    with pytest.raises(UsageError, match="not a bundle"):
        registry.fetch_bundle(digest, home)
    assert (home / "thesis.doc").read_text() == "years of work"


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    registry = open_registry(str(tmp_path / "registry"))
    digest = put(registry, tmp_path, b"one")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"Cannot write the bundle to .*file"):
            registry.fetch_bundle(digest, folder)


def test_many_fetch_into_one_folder(registry: Registry, tmp_path: Path) -> None:
    digest = put(registry, tmp_path, b"one")
    folder = tmp_path / "shared"

    def work(_: int) -> None:
        registry.fetch_bundle(digest, folder)
        for _ in range(10):  # nobody takes away what another one uses already
            bundle.verify(folder, digest)

    run_all(work, 8)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def run_all(work: object, count: int) -> list[object]:
    """Call `work(0)`, `work(1)` ... at the same moment, one thread each."""
    start = threading.Barrier(count)

    def one(number: int) -> object:
        start.wait()
        return work(number)  # type: ignore[operator]

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


# --- versions ---


def test_versions_count_from_one(registry: Registry, tmp_path: Path) -> None:
    assert registry.versions() == []
    one = release(registry, tmp_path, b"one")
    two = release(registry, tmp_path, b"two")
    assert (one.number, two.number) == (1, 2)
    assert (one.metrics, one.verdict, one.source) == ({"roc_auc": 0.75}, "PROMOTE", ME)
    fresh = open_registry(registry.store.url)
    assert fresh.versions() == [one, two]
    assert fresh.version(2) == fresh.version_of(two.digest) == two
    assert fresh.version_of(HASH) is None
    with pytest.raises(UsageError, match=r"no version 3 in .*; known: 1, 2"):
        fresh.version(3)


def test_bundle_is_published_once(registry: Registry, tmp_path: Path) -> None:
    one = release(registry, tmp_path, b"one")
    release(registry, tmp_path, b"two")
    for again in (registry, open_registry(registry.store.url)):
        assert again.publish(one.digest, verdict="HOLD", source=Source(actor="other")) == one
    assert len(registry.versions()) == 2
    assert [event.kind for event in registry.history()] == ["published", "published"]


def test_bundle_that_is_not_in_the_store_is_not_published(registry: Registry) -> None:
    with pytest.raises(UsageError, match="There is no bundle"):
        registry.publish(HASH, verdict="PROMOTE", source=ME)
    assert list(registry.store.list("")) == []


def assert_published_once(registry: Registry, digests: list[str]) -> None:
    versions = open_registry(registry.store.url).versions()
    assert [version.number for version in versions] == list(range(1, len(digests) + 1))
    assert sorted(version.digest for version in versions) == sorted(digests)
    told = [(e.to_version, e.digest) for e in registry.history() if e.kind == "published"]
    assert sorted(told) == [(version.number, version.digest) for version in versions]


def test_threads_publish_without_gap_or_double(registry: Registry, tmp_path: Path) -> None:
    digests = put_many(registry, tmp_path, 16)

    def work(number: int) -> None:  # each of them twice, by the one and by the other
        for digest in (digests[number], digests[number - 1]):
            registry.publish(digest, verdict="PROMOTE", source=Source(actor=f"thread {number}"))

    run_all(work, 16)
    assert_published_once(registry, digests)


def test_processes_publish_without_gap_or_double(registry: Registry, tmp_path: Path) -> None:
    digests = put_many(registry, tmp_path, 12)
    with Processes() as processes:
        started = [
            processes.start("publish", registry.store.url, digests[n : n + 6], f"process {n}")
            for n in (0, 3, 6)  # they overlap
        ]
        assert [processes.wait(pid) for pid in started] == [0, 0, 0]
    assert_published_once(registry, digests)


def test_version_that_a_listing_missed_is_found(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's listing is no snapshot: a file made meanwhile may be left out, a later one not."""
    versions = [release(registry, tmp_path, model) for model in (b"one", b"two", b"three")]
    fresh = open_registry(registry.store.url)
    whole = fresh.store.list
    for missed in ("1", "2", "3"):
        monkeypatch.setattr(
            fresh.store,
            "list",
            lambda prefix, missed=missed: (k for k in whole(prefix) if f"{missed}.json" not in k),
        )
        digest = versions[int(missed) - 1].digest
        assert fresh.publish(digest, verdict="HOLD", source=ME).number == int(missed)
    monkeypatch.undo()
    assert fresh.versions() == versions


# --- aliases ---


def move(registry: Registry, version: int, expected: Alias | None) -> Alias:
    return registry.move_alias("champion", version, expected=expected, source=ME, reason="better")


def test_alias_moves_from_where_it_was_seen(registry: Registry, tmp_path: Path) -> None:
    one, two, three = (release(registry, tmp_path, m) for m in (b"one", b"two", b"three"))
    assert registry.alias("champion") is None
    first = move(registry, 1, None)
    assert first == registry.alias("champion")
    assert (first.version, first.digest, first.source) == (1, one.digest, ME)
    with pytest.raises(ConflictError, match="'champion' was moved by somebody else"):
        move(registry, 2, None)
    second = move(registry, 3, first)
    for stale in (first, None):
        for version in (1, 2, 3):
            with pytest.raises(ConflictError):
                move(registry, version, stale)
    assert registry.alias("champion") == second
    third = move(registry, 2, second)
    assert registry.aliases() == [third]
    events = [event for event in registry.history() if event.kind != "published"]
    assert [(e.kind, e.alias, e.from_version, e.to_version, e.digest) for e in events] == [
        ("promoted", "champion", None, 1, one.digest),
        ("promoted", "champion", 1, 3, three.digest),
        ("rolled-back", "champion", 3, 2, two.digest),
    ]
    assert {(event.source, event.reason) for event in events} == {(ME, "better")}


def test_alias_that_is_there_already_stays(registry: Registry, tmp_path: Path) -> None:
    release(registry, tmp_path, b"one")
    first = move(registry, 1, None)
    assert move(registry, 1, first) == first
    assert [event.kind for event in registry.history()] == ["published", "promoted"]


def test_alias_needs_a_version_and_a_decent_name(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no version 1 .*known: none"):
        move(registry, 1, None)
    release(registry, tmp_path, b"one")
    with pytest.raises(UsageError, match="no name for an alias"):
        registry.move_alias("../x", 1, expected=None, source=ME)
    assert registry.aliases() == []


def assert_every_move_told_once(registry: Registry, moves: int) -> None:
    final = registry.alias("champion")
    assert final is not None
    assert final.version == moves
    events = [event for event in registry.history() if event.kind == "promoted"]
    expected = [(n - 1 or None, n) for n in range(1, moves + 1)]
    assert [(event.from_version, event.to_version) for event in events] == expected


def test_threads_lose_no_move(registry: Registry, tmp_path: Path) -> None:
    for digest in put_many(registry, tmp_path, 16):
        registry.publish(digest, verdict="PROMOTE", source=ME)

    def work(_: int) -> None:
        while True:
            seen = registry.alias("champion")
            with contextlib.suppress(ConflictError):
                move(registry, seen.version + 1 if seen else 1, seen)
                break

    run_all(work, 16)
    assert_every_move_told_once(registry, 16)


def test_processes_lose_no_move(registry: Registry, tmp_path: Path) -> None:
    for digest in put_many(registry, tmp_path, 12):
        registry.publish(digest, verdict="PROMOTE", source=ME)
    with Processes() as processes:
        started = [processes.start("advance", registry.store.url, 4, f"p{n}") for n in range(3)]
        assert [processes.wait(pid) for pid in started] == [0, 0, 0]
    assert_every_move_told_once(registry, 12)


def test_clock_that_runs_behind_does_not_turn_history_round(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(registry, tmp_path, b"one")
    release(registry, tmp_path, b"two")
    first = move(registry, 1, None)
    monkeypatch.setattr("trilho.registry.core.now", lambda: "2001-01-01T00:00:00.000000+00:00")
    second = move(registry, 2, first)
    assert second.moved_at > first.moved_at
    assert [e.to_version for e in registry.history() if e.kind == "promoted"] == [1, 2]


def test_only_the_champion_is_promoted_and_rolled_back(registry: Registry, tmp_path: Path) -> None:
    for model in (b"one", b"two"):
        release(registry, tmp_path, model)
    first = registry.move_alias(MERGED, 2, expected=None, source=ME)
    registry.move_alias(MERGED, 1, expected=first, source=ME)
    assert [event.kind for event in registry.history()][-2:] == ["moved", "moved"]


# --- quarantine ---


def test_quarantined_bundle_goes_nowhere(registry: Registry, tmp_path: Path) -> None:
    one = release(registry, tmp_path, b"one")
    two = put(registry, tmp_path, b"two")
    assert registry.quarantined(one.digest) is None
    entry = registry.quarantine(one.digest, "it answered nonsense", ME)
    assert registry.quarantine(one.digest, "again", Source(actor="other")) == entry
    assert registry.quarantined(one.digest) == entry
    registry.quarantine(two, "never published", ME)
    for refused in (
        lambda: move(registry, 1, None),
        lambda: registry.publish(one.digest, verdict="PROMOTE", source=ME),
    ):
        with pytest.raises(QuarantinedError, match=r"in quarantine since .* it answered nonsense"):
            refused()
    with pytest.raises(QuarantinedError, match="never published"):
        registry.publish(two, verdict="PROMOTE", source=ME)
    assert registry.aliases() == []
    assert registry.versions() == [one]
    events = [event for event in registry.history() if event.kind == "quarantined"]
    assert [(event.from_version, event.digest, event.reason) for event in events] == [
        (1, one.digest, "it answered nonsense"),
        (None, two, "never published"),
    ]


# --- candidates and runs ---


def candidate(digest: str, **fields: object) -> Candidate:
    given: dict[str, object] = {
        "fingerprint": HASH,
        "digest": digest,
        "verdict": "PROMOTE",
        "created_at": "2026-01-01T00:00:00+00:00",
        "source": ME,
        "verdict_document": {"results": [{"gate": "limit", "value": 0.75}]},
    }
    return Candidate(**(given | fields))  # type: ignore[arg-type]


def test_candidate_is_found_by_its_fingerprint(registry: Registry) -> None:
    assert registry.candidate(HASH) is None
    one = candidate("sha256:" + "1" * 64)
    registry.put_candidate(one)
    assert registry.candidate(HASH) == one
    judged_again = candidate(one.digest, verdict="HOLD", champion="sha256:" + "2" * 64)
    registry.put_candidate(judged_again)
    assert registry.candidate(HASH) == judged_again


def test_first_bundle_of_a_fingerprint_stands(registry: Registry) -> None:
    one, two = (candidate("sha256:" + digit * 64) for digit in "12")
    registry.put_candidate(one)
    with pytest.raises(ConflictError, match=f"gave bundle {one.digest} already"):
        registry.put_candidate(two)
    assert registry.candidate(HASH) == one
    registry.quarantine(one.digest, "bad", ME)
    registry.put_candidate(two)
    assert registry.candidate(HASH) == two


def run_record(number: int) -> RunRecord:
    return RunRecord(
        id=f"run-{number}",
        name="credit",
        fingerprint=HASH,
        digest=HASH,
        started_at=f"2026-01-01T00:00:{59 - number:02d}.000000+00:00",
        seconds=1.5,
        source=ME,
        dataset={"path": "data/x.csv", "digest": HASH, "rows": 4},
        parameters={"max_iter": 10},
        metrics={"roc_auc": 0.75},
        measurements={"row_microseconds": 12.0},
        environment={"python": "3.11"},
        search=[{"params": {}, "score": 0.7}],
        status="trained",
    )


def test_runs_are_kept_in_their_order(registry: Registry) -> None:
    assert registry.runs() == []
    runs = [run_record(number) for number in range(12)]
    for run in [*runs, runs[0]]:
        registry.put_run(run)
    assert registry.runs() == runs[::-1]
    with pytest.raises(IntegrityError, match=r"'runs/run-0\.json' exists in .* another content"):
        registry.put_run(msgspec.structs.replace(runs[0], status="failed"))


def test_damaged_record_is_named(registry: Registry, tmp_path: Path) -> None:
    registry.put_run(run_record(0))
    overwrite(registry, "runs/run-0.json", b'{"id": 3')
    with pytest.raises(IntegrityError, match=r"'runs/run-0\.json' in .* cannot be read"):
        registry.runs()


# --- what is known of inputs before any work ---


def test_inputs_are_settled_while_their_version_is_champion_or_merged(
    registry: Registry, tmp_path: Path
) -> None:
    assert foregone(registry, HASH) is None
    one, two = (release(registry, tmp_path, model) for model in (b"one", b"two"))
    registry.put_candidate(candidate(one.digest))
    assert foregone(registry, HASH) is None  # published, and never deployed
    champion = move(registry, 1, None)
    known = foregone(registry, HASH)
    assert known
    assert (known.verdict, known.version, known.champion_digest) == ("UNCHANGED", 1, one.digest)
    assert known.reason == "Nothing that decides a model changed: v1 stays champion."
    move(registry, 2, champion)
    assert foregone(registry, HASH) is None  # it was champion: by now it has to be judged again
    registry.move_alias(MERGED, 1, expected=None, source=ME)
    known = foregone(registry, HASH)
    assert known
    assert (known.verdict, known.version, known.champion_digest) == ("UNCHANGED", 1, two.digest)
    assert known.reason.endswith("v2 stays champion. v1, which these inputs make, had its turn.")
    entry = registry.quarantine(one.digest, "bad.", ME)
    known = foregone(registry, HASH)
    assert known
    assert (known.verdict, known.quarantined) == ("UNCHANGED", entry)
    assert known.reason.endswith(f"had its turn and is quarantined since {entry.at} by me: bad.")


def test_inputs_of_a_quarantined_bundle_are_rejected(registry: Registry, tmp_path: Path) -> None:
    one = release(registry, tmp_path, b"one")
    registry.put_candidate(candidate(one.digest))
    entry = registry.quarantine(one.digest, "bad.", ME)
    known = foregone(registry, HASH)
    assert known
    assert (known.verdict, known.digest, known.champion_digest) == ("REJECT", one.digest, None)
    assert f"quarantined since {entry.at} by me: bad." in known.reason


# --- killed at any line ---


def assert_whole(registry: Registry, folder: Path, allowed: list[set[int]]) -> None:
    """Whatever is pointed at is there; the champion is the old one or the new one."""
    versions = registry.versions()
    assert {version.number for version in versions} in allowed
    champion = registry.alias("champion")
    assert champion is not None
    assert champion.version in max(allowed)
    stored = {"sha256:" + Path(key).stem for key in registry.store.list("manifests/")}
    assert {version.digest for version in versions} <= stored
    for digest in stored:  # a manifest never stands before its files
        with tempfile.TemporaryDirectory(dir=folder) as fetched:
            registry.fetch_bundle(digest, Path(fetched) / "bundle")
    assert champion.digest == registry.version(champion.version).digest


@pytest.mark.parametrize("store_url", ["folder", "ministack"], indirect=True)
def test_killed_at_any_line_it_is_finished_by_calling_it_again(
    store_url: str, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "old", b"old")
    make_bundle(tmp_path / "new", b"new")
    (tmp_path / "fetched").mkdir()
    deaths = 0
    with Processes() as processes:
        for last in itertools.count(1):
            url = f"{store_url}/{last}"
            ship(url, str(tmp_path / "old"))
            code = processes.run("ship", url, str(tmp_path / "new"), die_at=last)
            if code == 0:
                break
            assert code == KILLED
            deaths += 1
            registry = open_registry(url)
            assert_whole(registry, tmp_path / "fetched", [{1}, {1, 2}])
            assert processes.run("ship", url, str(tmp_path / "new")) == 0
            registry = open_registry(url)
            assert_whole(registry, tmp_path / "fetched", [{1, 2}])
            assert registry.alias("champion").version == 2  # type: ignore[union-attr]
            told = [(event.kind, event.to_version) for event in registry.history()]
            assert told == [("published", 1), ("promoted", 1), ("published", 2), ("promoted", 2)]
    # one file, a manifest, a version, an event, the alias, an event
    assert deaths >= 6


def test_killed_fetch_leaves_nothing_or_all(tmp_path: Path) -> None:
    registry = open_registry(str(tmp_path / "registry"))
    old, new = put(registry, tmp_path, b"old"), put(registry, tmp_path, b"new")
    deaths = 0
    with Processes() as processes:
        for last in itertools.count(1):
            folder = tmp_path / f"fetched {last}"
            registry.fetch_bundle(old, folder)
            code = processes.run("fetch", registry.store.url, new, str(folder), die_at=last)
            if folder.exists():
                assert bundle.verify(folder)[1] in (old, new)
            registry.fetch_bundle(new, folder)
            assert bundle.verify(folder)[1] == new
            if code == 0:
                break
            assert code == KILLED
            deaths += 1
    assert deaths >= 4


def test_move_whose_mover_was_killed_is_told_by_the_next(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (b"one", b"two"):
        release(registry, tmp_path, model)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "_tell", lambda *_: None)  # killed just before
        first = move(registry, 1, None)
    assert [event.kind for event in registry.history()] == ["published", "published"]
    second = open_registry(registry.store.url)
    assert first == second.alias("champion")
    move(second, 2, second.alias("champion"))
    events = [event for event in registry.history() if event.kind == "promoted"]
    assert [(event.from_version, event.to_version) for event in events] == [(None, 1), (1, 2)]


# --- looking ---


def test_versions_are_described_the_newest_first(registry: Registry, tmp_path: Path) -> None:
    assert describe(registry) == []
    one, two, three = (release(registry, tmp_path, m) for m in (b"one", b"two", b"three"))
    move(registry, 2, None)
    registry.move_alias("shadow", 2, expected=None, source=ME)
    entry = registry.quarantine(one.digest, "bad", ME)
    seen = [(d.version, d.aliases, d.quarantined) for d in describe(registry)]
    assert seen == [(three, [], None), (two, ["champion", "shadow"], None), (one, [], entry)]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("shelf")
    registry = open_registry(str(folder / "registry"))
    for number in range(1, 4):
        release(registry, folder, b"%d" % number)
    move(registry, 2, None)
    return registry


def test_version_is_found_by_what_people_call_it(shelf: Registry) -> None:
    versions = shelf.versions()
    for reference in ("3", "v3", "003", versions[2].digest, versions[2].digest[7:19]):
        assert resolve(shelf, reference) == versions[2]
    assert resolve(shelf, "champion") == versions[1]


@pytest.mark.parametrize(
    "reference", ["4", "v0", "", "champ", "latest", "abcdef123456", "-1", "3.0"]
)
def test_version_that_is_none_lists_what_there_is(shelf: Registry, reference: str) -> None:
    with pytest.raises(UsageError, match=r"Versions: 1, 2, 3; aliases: champion\."):
        resolve(shelf, reference)


def test_ambiguous_digest_names_its_versions(
    shelf: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = [
        msgspec.structs.replace(v, digest="sha256:" + "abcdef" + str(v.number) * 58)
        for v in shelf.versions()
    ]
    monkeypatch.setattr(shelf, "versions", lambda: twins)
    with pytest.raises(UsageError, match="'abcdef' fits versions 1, 2, 3: give more digits"):
        resolve(shelf, "abcdef")
    assert resolve(shelf, "abcdef2").number == 2


def test_diff_shows_what_differs_and_nothing_else(tmp_path: Path) -> None:
    registry = open_registry(str(tmp_path / "registry"))
    make_bundle(tmp_path / "a", parameters={"max_iter": 10, "deep": {"x": 1, "y": 2}, "gone": 1})
    make_bundle(
        tmp_path / "b",
        b"better",
        parameters={"max_iter": 10, "deep": {"x": 1, "y": 3}, "new": [1]},
        metrics={"roc_auc": 0.8},
        environment={"python": "3.12"},
        dataset=DatasetInfo(digest=HASH, rows=5, holdout_rows=1),
        serving="sklearn",
    )
    a, b = (
        registry.publish(registry.put_bundle(tmp_path / n), verdict="PROMOTE", source=ME)
        for n in "ab"
    )
    found = diff(registry, a, b)

    def plain(changes: list[object]) -> list[tuple[object, ...]]:
        return [msgspec.structs.astuple(change) for change in changes]  # type: ignore[arg-type]

    assert plain([*found.parameters]) == [("deep.y", 2, 3), ("gone", 1, None), ("new", None, [1])]
    assert plain([*found.metrics]) == [("roc_auc", 0.75, 0.8)]
    assert plain([*found.environment]) == [("python", "3.11", "3.12")]
    assert plain([*found.dataset]) == [("rows", 4, 5)]
    assert plain([*found.bundle]) == [("serving", "compiled", "sklearn")]
    assert [change.name for change in found.files] == ["model.joblib"]
    same = diff(registry, a, a)
    assert not any((same.parameters, same.metrics, same.environment, same.dataset))
    assert not any((same.bundle, same.files))


# --- who ---


GITHUB = {
    "GITHUB_ACTOR": "ada",
    "GITHUB_SHA": "c0ffee",
    "GITHUB_REF_NAME": "12/merge",
    "GITHUB_HEAD_REF": "feature",
    "GITHUB_SERVER_URL": "https://github.example",
    "GITHUB_REPOSITORY": "o/r",
    "GITHUB_RUN_ID": "77",
}


@pytest.fixture
def no_github(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*GITHUB, "GITHUB_EVENT_NAME", "GITHUB_EVENT_PATH"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_source_is_the_run_on_github(no_github: pytest.MonkeyPatch) -> None:
    for name, value in GITHUB.items():
        no_github.setenv(name, value)
    url = "https://github.example/o/r/actions/runs/77"
    assert Source.current("why") == Source(
        actor="ada", commit="c0ffee", branch="feature", run_url=url, reason="why"
    )
    no_github.setenv("GITHUB_HEAD_REF", "")  # set but empty outside of pull requests
    assert Source.current().branch == "12/merge"


def test_source_of_a_pull_request_is_its_head(
    no_github: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """GITHUB_SHA is a trial merge, which is gone when somebody wants to make the model again."""
    for name, value in GITHUB.items():
        no_github.setenv(name, value)
    event = tmp_path / "event.json"
    no_github.setenv("GITHUB_EVENT_PATH", str(event))
    assert Source.current().commit == "c0ffee"  # there is no such file
    event.write_text('{"number": 12, "pull_request": {"head": {"sha": "feed", "ref": "x"}}}')
    for kind, commit in (("pull_request", "feed"), ("pull_request_target", "c0ffee")):
        no_github.setenv("GITHUB_EVENT_NAME", kind)
        assert Source.current().commit == commit
    no_github.setenv("GITHUB_EVENT_NAME", "pull_request")
    for broken in ("", "{", '{"pull_request": null}', '{"pull_request": {"head": {}}}'):
        event.write_text(broken)
        assert Source.current().commit == "c0ffee"


def test_source_is_the_user_and_the_checkout(no_github: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_github.chdir(tmp_path)
    no_github.setenv("USER", "grace")
    no_github.setenv("LOGNAME", "grace")
    no_github.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert Source.current() == Source(actor="grace")  # no checkout
    git = ["git", "-c", "user.name=g", "-c", "user.email=g@example.com"]
    for command in (["init", "-q", "-b", "trunk"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    found = Source.current()
    assert found.branch == "trunk"
    assert found.commit is not None
    assert len(found.commit) == 40
    no_github.setenv("PATH", "")  # no git
    assert Source.current() == Source(actor="grace")


def test_source_needs_no_user_name(no_github: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    no_github.setattr("getpass.getuser", nobody)
    assert Source.current().actor.startswith("uid ")


def test_registry_starts_light() -> None:
    code = (
        "import sys, trilho.registry, trilho.storage;"
        "heavy = {'boto3', 'botocore', 'pandas', 'numpy', 'sklearn', 'pydantic', 'rich', 'typer'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_history_is_in_the_order_of_time(registry: Registry) -> None:
    events = [
        Event(at=f"2026-01-01T00:00:0{n}.{n}00000+00:00", kind="published", source=ME, to_version=n)
        for n in (3, 1, 2)
    ]
    for event in events:
        registry._tell(event)
        Registry(registry.store)._tell(event)  # told again: still once
    assert [event.to_version for event in registry.history()] == [1, 2, 3]


def test_jobs_of_other_processes_do_what_they_say(tmp_path: Path) -> None:
    """The workers run elsewhere, so a mistake in one would pass unseen."""
    registry = open_registry(str(tmp_path / "registry"))
    digest = put(registry, tmp_path, b"one")
    publish(registry.store.url, [digest], "me")
    advance(registry.store.url, 1, "me")
    assert registry.alias("champion").digest == digest  # type: ignore[union-attr]
