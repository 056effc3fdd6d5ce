"""An ECS service that answers, for the tests: MiniStack says what runs, a real server answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import msgspec
from manifests import manifest

from trilho.bundle import Golden, canonical, seal
from trilho.deploy.revision import MODEL_DIGEST

CLUSTER, SERVICE = "models", "credit"


class Answers:
    """Answers as the model that the ECS service's task definition names; faults can be set."""

    def __init__(self, registry: Any) -> None:
        self.registry = registry
        self.ecs = boto3.client("ecs")
        self.url = ""
        self.stuck_at: str | None = None  # a digest that is answered whatever the service names
        self.status = 200
        self.offset = 0.0
        self.delay = 0.0
        self.bad: str | None = None  # digest that the faults are limited to

    def digest(self) -> str | None:
        if self.stuck_at:
            return self.stuck_at
        ecs = self.ecs
        service = ecs.describe_services(cluster=CLUSTER, services=[SERVICE])["services"][0]
        found = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])
        environment = found["taskDefinition"]["containerDefinitions"][0]["environment"]
        return {e["name"]: e["value"] for e in environment}.get(MODEL_DIGEST)

    def invoke(self, rows: list[dict[str, Any]]) -> tuple[int, Any]:
        digest = self.digest()
        faulty = self.bad in (None, digest)
        if faulty:
            time.sleep(self.delay)
        if faulty and self.status != 200:
            return self.status, {"error": "the model broke"}
        golden = msgspec.json.decode(self.registry.bundle_file(digest, "golden.json"), type=Golden)
        known = {
            json.dumps(row): score for row, score in zip(golden.rows, golden.expected, strict=True)
        }
        scores = [known[json.dumps(row)] + (self.offset if faulty else 0) for row in rows]
        return 200, {
            "predictions": scores,
            "decisions": [s >= 0.5 for s in scores],
            "model": {"name": "credit", "version": None, "digest": digest},
        }


@contextmanager
def answering(registry: Any) -> Iterator[Answers]:
    """Run the server of a registry, or the answers given, on a free port."""
    answers = registry if isinstance(registry, Answers) else Answers(registry)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            digest = answers.digest()
            self._send(*((200, {"digest": digest}) if digest else (503, {"error": "no model"})))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self._send(*answers.invoke(json.loads(body)))

        def _send(self, status: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    answers.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def publish(registry: Any, folder: Any, score: float, serving: str = "sklearn") -> Any:
    """Seal, store and publish a bundle whose golden rows expect about `score`."""
    from trilho.registry import Source

    folder.mkdir(parents=True)
    golden = Golden(
        tolerance=1e-9,
        rows=[{"x": i} for i in range(5)],
        expected=[score + i / 100 for i in range(5)],
    )
    (folder / "golden.json").write_bytes(canonical(golden))
    seal(folder, manifest(serving=serving, metrics={"roc_auc": score}))
    digest = registry.put_bundle(folder)
    return registry.publish(digest, verdict="PROMOTE", source=Source(actor="tester"))
