"""The service beside the servers that people run today: same model, same rows, same core."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.measure import Row, table
from benchmarks.serving import image, plot
from benchmarks.serving.load import Load, cores, load, memory
from benchmarks.serving.models import KINDS, LARGE, SMALL, Place, prepare
from benchmarks.serving.row import one_row
from benchmarks.serving.servers import (
    Server,
    UnavailableError,
    check,
    install,
    ours,
    peers,
    running,
)
from trilho.demo import ministack

ROUNDS = 3
SECONDS = 2
BUCKET = "benchmark"
PLAIN = {"TRILHO_LOG_REQUESTS": "none", "TRILHO_METRICS": "false"}
OURS, BARE, MLFLOW, BENTOML, FASTAPI = (
    *("trilho", "trilho, no log or metrics", "mlflow models serve", "BentoML", "FastAPI + pandas"),
)


@dataclass(frozen=True)
class Figures:
    """What was measured of one server with one model."""

    cold: float  # seconds from start to first answer
    memory: float  # megabytes after the load
    small: Load
    large: Load


def measure(server: Server, kind: str, place: Place, seconds: int) -> Figures:
    with running(server, kind, place) as it:
        for rows in (SMALL, LARGE):
            check(it, kind, rows, place)
        small, large = (place.body(server.shape, rows) for rows in (SMALL, LARGE))
        # warm; ours until its log has been sent for the first time, which loads boto3's client
        load(it.pid, it.url, small, 8, 2 if server.peer is None else 1)
        return Figures(
            it.cold,
            small=load(it.pid, it.url, small, 8, seconds),
            large=load(it.pid, it.url, large, 2, seconds),
            memory=memory(it.pid),
        )


def median(many: list[Figures]) -> Figures:
    def loads(name: str) -> Load:
        each = [getattr(figures, name) for figures in many]
        return Load(
            **{f.name: statistics.median(getattr(e, f.name) for e in each) for f in fields(Load)}
        )

    return Figures(
        statistics.median(f.cold for f in many),
        statistics.median(f.memory for f in many),
        loads("small"),
        loads("large"),
    )


def in_rounds(
    servers: list[Server], place: Place, rounds: int, seconds: int
) -> tuple[dict[tuple[str, str], list[Figures]], dict[str, str]]:
    """Measure all servers in turn, several times; return all, and who failed with what."""
    found: dict[tuple[str, str], list[Figures]] = {}
    failed: dict[str, str] = {}
    for server in servers:
        try:
            install(server)
            for kind in KINDS:
                server.prepare(kind)
        except UnavailableError as error:
            failed[server.name] = str(error)
    for _ in range(rounds):
        for kind in KINDS:
            for server in servers:
                if server.name in failed:
                    continue
                try:
                    figures = measure(server, kind, place, seconds)
                except (UnavailableError, RuntimeError) as error:
                    if server.peer is None:
                        raise
                    failed[server.name] = str(error)
                else:
                    found.setdefault((server.name, kind), []).append(figures)
    return {key: many for key, many in found.items() if key[0] not in failed}, failed


def claims(
    found: dict[tuple[str, str], Figures], each: dict[tuple[str, str], list[Figures]]
) -> list[Row]:
    """Hold the medians, and those that drift by their rounds, against the bounds."""
    rows = []
    for kind in KINDS:
        us = found[OURS, kind]
        name = kind.upper()
        if (it := found.get((MLFLOW, kind))) is not None:
            rows += [
                _rate(f"{name}, one row, 8 connections: mlflow", us.small, it.small, 100),
                Row(
                    f"{name}, one row, 8 connections: p99, mlflow",
                    f"{us.small.p99:.2f} ms",
                    f"{it.small.p99:.0f} ms",
                    us.small.p99 / it.small.p99,
                    1 / 20,
                ),
                _rate(f"{name}, {LARGE:,} rows: mlflow", us.large, it.large, 4),
                Row(
                    f"{name}, start to first answer: mlflow",
                    f"{us.cold:.2f} s",
                    f"{it.cold:.2f} s",
                    us.cold / it.cold,
                    0.1,
                ),
                Row(
                    f"{name}, memory after the load: mlflow",
                    f"{us.memory:.0f} MB",
                    f"{it.memory:.0f} MB",
                    us.memory / it.memory,
                    0.25,
                ),
            ]
        if (it := found.get((BENTOML, kind))) is not None:
            rows.append(_rate(f"{name}, one row, 8 connections: BentoML", us.small, it.small, 40))
        if (it := found.get((FASTAPI, kind))) is not None:
            rows.append(_rate(f"{name}, {LARGE:,} rows: FastAPI + pandas", us.large, it.large, 1))
        for what, size in (("one row", "small"), (f"{LARGE:,} rows", "large")):
            # they are measured one right after the other, and the machine drifts in between rounds
            full, plain = (
                [getattr(figures, size).rate for figures in each[server, kind]]
                for server in (OURS, BARE)
            )
            rows.append(
                Row(
                    f"{name}, {what}: itself without log and metrics",
                    f"{statistics.median(full):,.0f}/s",
                    f"{statistics.median(plain):,.0f}/s",
                    statistics.median(f / p for f, p in zip(full, plain, strict=True)),
                    0.6,
                    at_least=True,
                )
            )
    return rows


def _rate(claim: str, us: Load, peer: Load, bound: float) -> Row:
    return Row(
        claim, f"{us.rate:,.0f}/s", f"{peer.rate:,.0f}/s", us.rate / peer.rate, bound, at_least=True
    )


def figures(found: dict[tuple[str, str], Figures]) -> str:
    lines = [
        "| server | model | one row/s | p50 ms | p99 ms | CPU µs | core used "
        f"| {LARGE:,} rows/s | CPU ms | cold start s | memory MB |",
        "|---|---|" + "---:|" * 9,
    ]
    lines += [
        f"| {name} | {kind.upper()} | {f.small.rate:,.0f} | {f.small.p50:.2f} | {f.small.p99:.2f} "
        f"| {f.small.cpu * 1000:,.0f} | {f.small.busy:.0%} | {f.large.rate:,.0f} "
        f"| {f.large.cpu:.1f} | {f.cold:.2f} | {f.memory:.0f} |"
        for (name, kind), f in sorted(found.items(), key=lambda item: item[0][1])
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def _object_store(folder: Path) -> Iterator[dict[str, str]]:
    """Run a local S3 with a bucket for the prediction log; give the variables that lead there."""
    folder.mkdir()
    store = ministack.start(folder)
    try:
        import boto3

        variables = ministack.client_environment(store.url)
        boto3.client(
            "s3",
            endpoint_url=store.url,
            region_name=ministack.REGION,
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        ).create_bucket(Bucket=BUCKET)
        yield variables
    finally:
        store.stop()


def main(rounds: int = ROUNDS, seconds: int = SECONDS) -> str:
    allowed = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as name:
        place = prepare(Path(name))
        os.sched_setaffinity(0, cores()[1])  # all but the servers
        try:
            with _object_store(place.folder / "s3") as variables:
                keep = {
                    **variables,
                    "TRILHO_PREDICTION_LOG": f"s3://{BUCKET}",
                    "TRILHO_LOG_SPOOL": str(place.folder / "spool"),
                    "TRILHO_LOG_SECONDS": "1",  # so that packing and sending happen meanwhile
                }
                servers = [
                    ours(place, OURS, **keep),
                    ours(place, BARE, **PLAIN),
                    *peers(place),
                ]
                each, failed = in_rounds(servers, place, rounds, seconds)
        finally:
            os.sched_setaffinity(0, allowed)
        found = {key: median(many) for key, many in each.items()}
        rows = claims(found, each)
        for kind in KINDS:
            compiled, pipeline = one_row(kind, place)
            rows.append(
                Row(
                    f"{kind.upper()}, one row: compiled form beside `predict_proba`",
                    f"{compiled:.0f} µs",
                    f"{pipeline:,.0f} µs",
                    pipeline / compiled,
                    80,
                    at_least=True,
                )
            )
        about_image = image.describe(place)
    plot.draw({key: value.small for key, value in found.items() if key[0] != BARE})
    missing = "".join(f" {server} was not measured: {why}." for server, why in failed.items())
    kinds = ", ".join(f"{kind.upper()}: {words}" for kind, words in KINDS.items())
    text = table(
        "The service",
        "python -m benchmarks serving",
        "Peers: `mlflow models serve`, BentoML, MLServer and FastAPI + pandas, with the same "
        f"scikit-learn pipelines (a `ColumnTransformer`, then {kinds}). One worker on one core "
        f"each, the load (wrk) on another, {rounds} rounds in turn; answers were compared first. "
        "Trilho keeps its request log, metrics, and a prediction log that is packed and sent to a "
        f"local S3 each second; the peers keep nothing.{missing} What log and metrics cost is the "
        f"throughput that is lost to them, at most 40 %. {LARGE:,} rows of a linear model are the "
        "worst case: to write their 23,000 numbers as JSON, to pack and to send them takes nearly "
        "half of the time in which they are read and predicted.",
        rows,
    )
    return f"{text}\n{figures(found)}\n![Rows a second]({plot.FILE.name})\n\n{about_image}"
