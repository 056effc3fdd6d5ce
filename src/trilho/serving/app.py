"""The routes of the service: what each request is answered with."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple
from urllib.parse import quote, unquote

import httptools
import msgspec

from trilho import __version__
from trilho.serving import docs, log, media, openapi
from trilho.serving.auth import Keys
from trilho.serving.inference import Inference
from trilho.serving.measures import OTHER, Measures
from trilho.serving.messages import ProblemError, Request, Response
from trilho.serving.metrics import CONTENT_TYPE
from trilho.serving.predictor import Prediction, Predictor, Share

Handler = Callable[[Request], Response]

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
HTML = b"text/html; charset=utf-8"
TEXT = b"text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Route:
    """What answers at a path.

    Attributes
    ----------
    name
        For the log and the metrics.
    method
        The only one; HEAD is as good as GET.
    handler
        Makes the answer.
    accepts
        Looks at the head of a prediction's request, and raises `ProblemError` if it will not do;
        None where nothing is predicted, so that nothing has to wait for its turn.
    open
        No API key is needed, and it is not logged: health checks.
    """

    name: str
    method: bytes
    handler: Handler
    accepts: Callable[[Request], None] | None = None
    open: bool = False


class Finished(NamedTuple):
    """A prediction that was answered, of one request or of several that came at once.

    Attributes
    ----------
    prediction
        Rows (by columns, with the callers' ids), scores and decisions.
    request_ids
        The callers' or ours, in the order of the rows.
    sizes
        How many rows each request has.
    seconds
        From each request's last byte to its answer.
    at
        Seconds since 1970, when they were answered.
    """

    prediction: Prediction
    request_ids: list[str]
    sizes: list[int]
    seconds: list[float]
    at: float


class App:
    """Answers requests.

    Attributes
    ----------
    draining
        Not ready any more, but still answering.
    before_metrics
        Called before metrics are told, to bring them up to date.
    on_prediction
        Called on the loop with each prediction that was answered: the place for what keeps
        predictions. It must not block; what it raises is logged.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        measures: Measures | None = None,
        keys: Keys | None = None,
        lines: log.Lines | None = None,
        log_all: bool = True,
    ) -> None:
        self.predictor = predictor
        self.draining = False
        self.on_prediction: Callable[[Finished], None] | None = None
        self.measures = measures
        self._keys = keys
        self._lines = lines
        self._log_all = log_all
        self.before_metrics: Callable[[], None] | None = None
        self._readers = media.Readers(predictor)
        self._inference = Inference(
            predictor.signature, predictor.columns, predictor.decoder, predictor.identity
        )
        self._prefix = os.urandom(8).hex()
        self._numbers = count()
        self._description: bytes | None = None
        self.routes = self._table()

    def _table(self) -> dict[bytes, Route]:
        name = quote(self.predictor.identity.name, safe="")
        version = self.predictor.identity.version
        model = f"/v2/models/{name}"
        predict = Route("/invocations", b"POST", self._invocations, self._any_media)
        infer = Route("/v2/infer", b"POST", self._infer, self._json_only)
        metadata = Route("/v2/model", b"GET", self._v2_model)
        ready = Route("/v2/model/ready", b"GET", self._v2_model_ready, open=True)
        table = {
            "/ping": Route("/ping", b"GET", self._ready, open=True),
            "/health": Route("/ping", b"GET", self._ready, open=True),
            "/readyz": Route("/readyz", b"GET", self._ready, open=True),
            "/livez": Route("/livez", b"GET", self._alive, open=True),
            "/invocations": predict,
            f"/endpoints/{name}/invocations": predict,
            "/model": Route("/model", b"GET", self._model),
            "/version": Route("/version", b"GET", self._version),
            "/openapi.json": Route("/openapi.json", b"GET", self._openapi),
            "/docs": Route("/docs", b"GET", self._docs),
            "/v2": Route("/v2", b"GET", self._v2_server),
            "/v2/health/live": Route("/v2/health/live", b"GET", self._v2_live, open=True),
            "/v2/health/ready": Route("/v2/health/ready", b"GET", self._v2_ready, open=True),
        }
        for base in [model, *([f"{model}/versions/{quote(version, safe='')}"] if version else [])]:
            table |= {base: metadata, f"{base}/ready": ready, f"{base}/infer": infer}
        if self.measures is not None:
            table["/metrics"] = Route("/metrics", b"GET", self._metrics)
        return {path.encode(): route for path, route in table.items()}

    # ── a request's way ───────────────────────────────────────────────────────────────────────────

    def identify(self, request: Request) -> None:
        given = request.headers.get(b"x-request-id")
        if given is not None and REQUEST_ID.fullmatch(given):
            request.id = given
        else:
            request.id = b"%b%016x" % (self._prefix.encode(), next(self._numbers))

    def admit(self, request: Request) -> Response | None:
        """Look at a request's head; return the answer if that settles it."""
        try:
            route = self.routes.get(request.target) or self._find(request.target)
        except ProblemError as problem:
            if self._keys is not None and not self._keys.open(request.headers):
                return self._keys.refusal
            return problem.response()
        request.route = route
        if self._keys is not None and not route.open and not self._keys.open(request.headers):
            return self._keys.refusal
        method = b"GET" if request.method == b"HEAD" else request.method
        if method != route.method:
            allowed = route.method + (b", HEAD" if route.method == b"GET" else b"")
            return ProblemError(
                405,
                "method",
                f"use {route.method.decode()}",
                extra=b"allow: %b\r\n" % allowed,
            ).response()
        if route.accepts is not None:
            try:
                route.accepts(request)
            except ProblemError as problem:
                return problem.response()
        return None

    def _find(self, target: bytes) -> Route:
        """Look up a path that is not written as in the table: with a query, or quoted."""
        try:
            path = httptools.parse_url(target).path or b""
        except httptools.HttpParserInvalidURLError:
            raise ProblemError(400, "http", "the request's target is no URL") from None
        normal = quote(unquote(path, errors="replace"), safe="/").encode()
        route = self.routes.get(path) or self.routes.get(normal)
        if route is None:
            raise ProblemError(404, "not_found", "there is nothing here; see /openapi.json")
        return route

    def _any_media(self, request: Request) -> None:
        if b"content-encoding" in request.headers:
            raise media.unsupported(self._readers.known)
        request.read = self._readers.find(request.headers.get(b"content-type"))
        request.large = request.read is self._readers.parquet

    def _json_only(self, request: Request) -> None:
        kind = request.headers.get(b"content-type", b"application/json")
        if b"content-encoding" in request.headers or not media.is_json(kind):
            raise media.unsupported(["application/json"])
        if b"inference-header-content-length" in request.headers:
            raise ProblemError(415, "media_type", "send data as JSON: binary tensors are not read")

    def answer(self, request: Request) -> Response:
        """Answer a whole request; threads may call it."""
        assert request.route is not None
        try:
            return request.route.handler(request)
        except ProblemError as problem:
            return problem.response()
        except Exception as error:
            request.share = None
            # Its text may hold what was submitted: only where it happened is told, and only here.
            log.event("error", request_id=request.id.decode(), error=log.where(error))
            return ProblemError(500, "internal", "internal error").response()

    def answer_together(self, requests: list[Request]) -> list[Response]:
        """Answer whole requests that wait at the same time, as `answer` would one by one."""
        joint = [request for request in requests if request.read is self._readers.json]
        if len(joint) > 1:
            try:
                shares = self.predictor.together([request.body for request in joint])
            except Exception:  # it will happen again, to the one that it is due to
                shares = []
            for request, share in zip(joint, shares, strict=False):
                request.share = share
        return [self.answer(request) for request in requests]

    def finished(self, request: Request, response: Response, seconds: float) -> None:
        """Take note of an answer that was written; whatever fails here fails no request."""
        try:
            self._note(request, response, seconds)
        except Exception as error:
            log.event("error", request_id=request.id.decode(), error=log.where(error))

    def predicted(self, requests: list[Request]) -> None:
        """Take note of what was predicted for requests whose answers were written."""
        for finished in _by_prediction(requests):
            try:
                if self.measures is not None:
                    self.measures.predicted(finished.prediction, finished.sizes)
                if self.on_prediction is not None:
                    self.on_prediction(finished)
            except Exception as error:
                log.event("error", request_id=finished.request_ids[0], error=log.where(error))

    def _note(self, request: Request, response: Response, seconds: float) -> None:
        route = request.route
        name = OTHER if route is None else route.name
        request.seconds = seconds
        if self.measures is not None:
            self.measures.answered(response, name, seconds)
        if (
            self._lines is not None
            and (self._log_all or response.status >= 400)
            and not (route is not None and route.open)
        ):
            rows = 0 if request.share is None else request.share.rows
            self._lines.request(request.method, name, response.status, request.id, rows, seconds)

    # ── predictions ───────────────────────────────────────────────────────────────────────────────

    def _invocations(self, request: Request) -> Response:
        share = request.share
        if share is None:
            assert request.read is not None
            prediction = self.predictor.predict(request.read(request.body))
            share = Share(prediction, 0, prediction.batch.rows)
        response = Response(200, self.predictor.encode(*share))
        request.share = share
        return response

    def _infer(self, request: Request) -> Response:
        batch, asked = self._inference.read(request.body)
        prediction = self.predictor.predict(batch)
        response = Response(200, self._inference.encode(prediction, asked))
        request.share = Share(prediction, 0, prediction.batch.rows)
        return response

    # ── health ────────────────────────────────────────────────────────────────────────────────────

    def _ready(self, _: Request) -> Response:
        if self.draining:
            return Response(503, b'{"status":"draining"}')
        return Response(200, b'{"status":"ready"}')

    def _alive(self, _: Request) -> Response:
        return Response(200, b'{"status":"alive"}')

    def _v2_live(self, _: Request) -> Response:
        return Response(200, b'{"live":true}')

    def _v2_ready(self, _: Request) -> Response:
        if self.draining:
            return Response(503, b'{"ready":false}')
        return Response(200, b'{"ready":true}')

    def _v2_model_ready(self, _: Request) -> Response:
        state = {"name": self.predictor.identity.name, "ready": not self.draining}
        return Response(503 if self.draining else 200, msgspec.json.encode(state))

    # ── descriptions ──────────────────────────────────────────────────────────────────────────────

    def _model(self, _: Request) -> Response:
        return Response(200, msgspec.json.encode(self.predictor.card))

    def _version(self, _: Request) -> Response:
        return Response(200, __version__.encode(), TEXT)

    def _v2_server(self, _: Request) -> Response:
        server = {"name": "trilho", "version": __version__, "extensions": []}
        return Response(200, msgspec.json.encode(server))

    def _v2_model(self, _: Request) -> Response:
        return Response(200, msgspec.json.encode(self._inference.metadata))

    def _openapi(self, _: Request) -> Response:
        if self._description is None:
            self._description = openapi.describe(
                self.predictor,
                self._inference,
                kinds=self._readers.known,
                keys=self._keys is not None,
                metrics=self.measures is not None,
            )
        return Response(200, self._description)

    def _docs(self, _: Request) -> Response:
        return Response(200, docs.page(), HTML, docs.headers())

    def _metrics(self, _: Request) -> Response:
        assert self.measures is not None
        if self.before_metrics is not None:
            self.before_metrics()
        return Response(200, self.measures.text(), CONTENT_TYPE)


def _by_prediction(requests: list[Request]) -> Iterator[Finished]:
    """Yield what was predicted; not if nobody was there any more, or we failed one of them."""
    found: dict[int, list[tuple[Request, Share]]] = {}
    for request in requests:
        if request.share is not None:
            key = id(request.share.prediction)
            found.setdefault(key, []).append((request, request.share))
    for shared in found.values():
        prediction = shared[0][1].prediction
        sizes = [share.rows for _, share in shared]
        answered = any(request.seconds is not None for request, _ in shared)
        if answered and sum(sizes) == prediction.batch.rows:
            yield Finished(
                prediction,
                [request.id.decode() for request, _ in shared],
                sizes,
                [request.seconds or 0.0 for request, _ in shared],
                time.time(),
            )
