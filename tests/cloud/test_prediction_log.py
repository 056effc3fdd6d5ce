"""The prediction log on S3: in its place, and while S3 is away."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import served
from served import ROWS, Service, running
from waiting import eventually

from trilho.demo.ministack import client_environment, free_port
from trilho.storage import aws, open_store


@contextmanager
def forwarded(port: int, to: int) -> Iterator[None]:
    """Let `port` lead to another one; before and after nobody is there."""
    open_sockets: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", to))
            open_sockets.extend((client, upstream))
            for pair in ((client, upstream), (upstream, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for it in open_sockets:
                with suppress(OSError):
                    it.shutdown(socket.SHUT_RDWR)
                it.close()


def ask(service: Service, id: str) -> None:
    headers = {"content-type": "application/json", "x-request-id": id}
    assert service.ask("POST", "/invocations", json.dumps(ROWS), headers)[0] == 200


def metric(service: Service, name: str) -> float:
    text = service.fetch("GET", "/metrics")[1].decode()
    found = re.search(rf"^{re.escape(name)} (.*)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def lines(bucket: str, log: str) -> list[dict[str, Any]]:
    store = open_store(f"s3://{bucket}/some/prefix")
    return [
        json.loads(line)
        for key in store.list(f"{log}/")
        for line in gzip.decompress(store.get(key).data).splitlines()
    ]


def test_predictions_reach_s3_in_parts_by_model_and_hour(
    tmp_path: Path, ministack: str, bucket: str
) -> None:
    served.make_bundle(tmp_path / "bundle")
    with running(
        TRILHO_MODEL_DIR=tmp_path / "bundle",
        TRILHO_PREDICTION_LOG=f"s3://{bucket}/some/prefix",
        TRILHO_LOG_SPOOL=tmp_path / "spool",
        TRILHO_LABEL_BAND=1,
        TRILHO_LABEL_DAILY=2,
        **client_environment(ministack),
    ) as service:
        ask(service, "one")
        code, _ = service.stop()
    assert code == 0
    keys = [key["Key"] for key in aws.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]
    place = r"some/prefix/{}/model=tiny/date=\d{{4}}-\d\d-\d\d/hour=\d\d/[\w-]+-r{}\.jsonl\.gz"
    assert re.fullmatch(place.format("labelling", 2), keys[0])
    assert re.fullmatch(place.format("predictions", 4), keys[1])
    assert [line["rows"] for line in lines(bucket, "predictions")] == [4]


def test_while_s3_is_away_all_is_answered_and_it_is_sent_later(
    tmp_path: Path, ministack: str, bucket: str
) -> None:
    served.make_bundle(tmp_path / "bundle")
    port = free_port()
    upstream = int(ministack.rpartition(":")[2])
    environment = client_environment(f"http://127.0.0.1:{port}") | {"AWS_MAX_ATTEMPTS": "1"}
    with running(
        TRILHO_MODEL_DIR=tmp_path / "bundle",
        TRILHO_PREDICTION_LOG=f"s3://{bucket}/some/prefix",
        TRILHO_LOG_SPOOL=tmp_path / "spool",
        TRILHO_LOG_SECONDS=0.1,
        TRILHO_LABEL_DAILY=0,
        **environment,
    ) as service:
        with forwarded(port, upstream):
            ask(service, "before")
            eventually(lambda: len(lines(bucket, "predictions")) == 1)
        ask(service, "away-1")
        eventually(lambda: metric(service, "trilho_prediction_log_failures_total") >= 2)
        ask(service, "away-2")
        eventually(
            lambda: metric(service, 'trilho_prediction_log_rows_total{log="predictions"}') == 12
        )
        assert metric(service, "trilho_prediction_log_backlog_bytes") > 0
        assert len(lines(bucket, "predictions")) == 1
        with forwarded(port, upstream):
            eventually(lambda: sum(line["rows"] for line in lines(bucket, "predictions")) == 12)
            eventually(lambda: metric(service, "trilho_prediction_log_backlog_bytes") == 0)
            ask(service, "after")
            code, log = service.stop()
    assert code == 0
    ids = [id for line in lines(bucket, "predictions") for id in line["request_id"]]
    assert sorted(set(ids)) == ["after", "away-1", "away-2", "before"]
    told = [line for line in log if line["event"] == "prediction-log"]
    assert len([line for line in told if "error" in line]) == 1
    assert len([line for line in told if "restored" in line]) == 1


def test_what_a_service_could_not_send_before_its_end_is_sent_by_the_next(
    tmp_path: Path, ministack: str, bucket: str
) -> None:
    served.make_bundle(tmp_path / "bundle")
    variables = {
        "TRILHO_MODEL_DIR": tmp_path / "bundle",
        "TRILHO_PREDICTION_LOG": f"s3://{bucket}/some/prefix",
        "TRILHO_LOG_SPOOL": tmp_path / "spool",
        "TRILHO_LABEL_DAILY": 0,
    }
    nowhere = client_environment(f"http://127.0.0.1:{free_port()}") | {"AWS_MAX_ATTEMPTS": "1"}
    with running(**variables, **nowhere) as service:
        ask(service, "first")
        code, _ = service.stop()
    assert code == 0
    assert lines(bucket, "predictions") == []
    # sent, and killed before that was noted: the same file once more must not make a second object
    shutil.copytree(tmp_path / "spool", tmp_path / "copy")
    for spool in ("spool", "copy"):
        variables["TRILHO_LOG_SPOOL"] = tmp_path / spool
        with running(**variables, **client_environment(ministack)) as service:
            backlog = 'trilho_prediction_log_sent_rows_total{log="predictions"}'
            eventually(lambda: metric(service, backlog) == 4)  # noqa: B023 - called at once
            service.stop()
    assert [line["request_id"] for line in lines(bucket, "predictions")] == [["first"] * 4]
