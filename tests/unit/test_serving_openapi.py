"""The service's description of itself: true to the service, attacked by it, readable offline."""

from __future__ import annotations

import base64
import copy
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import served
from chromium import PATH, Chromium
from served import COLUMNS, ROW, Service, running

from trilho import bundle
from trilho.serving import predictor
from trilho.serving.app import App
from trilho.serving.messages import Request

KEY = "a-secret-key"
JSON = {"content-type": "application/json"}
HEALTH = [
    *("/ping", "/health", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"),
    "/v2/models/tiny/ready",
]
CLOSED = ["/model", "/metrics", "/openapi.json", "/docs", "/v2", "/v2/models/tiny", "/version"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openapi") / "bundle"
    served.make_bundle(path, id="client")
    return path


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_MODEL_VERSION="7") as it:
        yield it


@pytest.fixture(scope="module")
def locked(folder: Path) -> Iterator[Service]:
    with running(TRILHO_MODEL_DIR=folder, TRILHO_API_KEY=f"another,{KEY}") as it:
        yield it


def description(service: Service, **headers: str) -> Any:
    status, found, _ = service.ask("GET", "/openapi.json", None, headers)
    assert status == 200
    return found


# ── what it says is so ────────────────────────────────────────────────────────────────────────────


def test_every_example_is_answered(service: Service) -> None:
    api = description(service)
    tried = 0
    for path, item in api["paths"].items():
        for method, operation in item.items():
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                examples = [e["value"] for e in content.get("examples", {}).values()]
                for example in [*examples, *([content["example"]] if "example" in content else [])]:
                    body = example if isinstance(example, str) else json.dumps(example)
                    if kind == "application/json":
                        schema = content["schema"] | {"components": api["components"]}
                        jsonschema.Draft202012Validator(schema).validate(example)
                    status, answer, _ = service.ask(
                        method.upper(), path, body, {"content-type": kind}
                    )
                    assert status == 200, (path, kind, answer)
                    tried += 1
    assert tried >= 7


def test_every_route_is_described(service: Service, folder: Path) -> None:
    app = App(predictor.load(folder, *bundle.verify(folder), version="7"))
    described = set(description(service)["paths"])
    described |= {"/docs", "/version", "/health"}  # for people, and MLflow's names
    for path in described:
        assert path.encode() in app.routes or path == "/metrics"
    same = {
        path.decode()
        for path in app.routes
        if b"/versions/" in path or path.startswith(b"/endpoints")
    }
    assert {path.decode() for path in app.routes} <= described | same


def test_bodies_are_typed_by_the_signature(service: Service) -> None:
    row = description(service)["components"]["schemas"]["Row"]
    assert row["required"] == [column.name for column in COLUMNS if column.required]
    types = {name: value.get("type") for name, value in row["properties"].items()}
    assert types == {
        "city": ["string", "null"],
        "age": "integer",
        "income": ["number", "null"],
        "married": "boolean",
        "joined": ["string", "null"],
        "client": ["string", "number", "null"],
    }
    assert "Porto, Lisboa" in row["properties"]["city"]["description"]


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_describes_other_tasks(tmp_path: Path, task: str) -> None:
    served.make_bundle(tmp_path / "bundle", task)
    folder = tmp_path / "bundle"
    model = predictor.load(folder, *bundle.verify(folder), version=None)
    app = App(model)
    request = Request(b"GET", b"/openapi.json", {})
    assert app.admit(request) is None
    api = json.loads(app.answer(request).body)
    answer = api["components"]["schemas"]["Answer"] | {"components": api["components"]}
    batch = model.decoder.read(json.dumps([ROW]).encode())
    given = json.loads(model.encode(model.predict(batch)))
    jsonschema.Draft202012Validator(answer).validate(given)
    assert ("decisions" in answer["properties"]) == (task == "multiclass")


def schemathesis(location: str, *options: str) -> None:
    command = [
        *(Path(sys.executable).parent / "schemathesis", "run", location),
        *("--checks", "all", "--seed", "1", "--no-color", "--warnings", "off"),
        *("--continue-on-failure", "--suppress-health-check", "all", *options),
    ]
    with tempfile.TemporaryDirectory() as elsewhere:  # it leaves a folder behind
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, cwd=elsewhere, check=False
        )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def no_fault(service: Service, **headers: str) -> None:
    text = service.fetch("GET", "/metrics", None, headers)[1].decode()
    assert 'trilho_errors_total{kind="internal"} 0\n' in text
    assert "trilho_buffered_bytes 0\n" in text


def test_withstands_an_attack_by_its_own_description(service: Service) -> None:
    """Whatever the description forbids is refused, and nothing is a fault of the service.

    What it allows is not always accepted: that lists are of one length, and that data fit a shape,
    is beyond what a schema can say; the next test has the shapes of which a schema can say all.
    """
    schemathesis(
        f"http://127.0.0.1:{service.port}/openapi.json",
        *("--exclude-checks", "positive_data_acceptance", "--max-examples", "60"),
        *("--phases", "examples,coverage,fuzzing"),
    )
    no_fault(service)


def test_accepts_whatever_its_description_allows(service: Service, tmp_path: Path) -> None:
    api = copy.deepcopy(description(service))
    api["paths"] = {"/invocations": api["paths"]["/invocations"]}
    content = api["paths"]["/invocations"]["post"]["requestBody"]["content"]
    for kind in [kind for kind in content if kind != "application/json"]:
        del content[kind]
    choices = api["components"]["schemas"]["Request"]["anyOf"]
    api["components"]["schemas"]["Request"]["anyOf"] = [
        choice
        for choice in choices
        if not {"dataframe_split", "inputs"} & set(choice.get("properties", {}))
    ]
    for name in ("split", "columns"):
        del content["application/json"]["examples"][name]
    (tmp_path / "api.json").write_text(json.dumps(api))
    schemathesis(
        str(tmp_path / "api.json"),
        *("--url", f"http://127.0.0.1:{service.port}", "--max-examples", "40"),
        *("--phases", "examples,coverage,fuzzing"),
    )
    no_fault(service)


# ── the API key ───────────────────────────────────────────────────────────────────────────────────


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"x-api-key": "another"},
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY}"},
        {"authorization": basic(KEY)},
    ],
)
def test_a_key_opens_everything(locked: Service, headers: dict[str, str]) -> None:
    for path in CLOSED:
        assert locked.fetch("GET", path, None, headers)[0] == 200
    assert locked.ask("POST", "/invocations", json.dumps([ROW]), headers | JSON)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": KEY + "x"},
        {"x-api-key": KEY.upper()},
        {"x-api-key": f"another,{KEY}"},
        {"x-api-key": "wrong", "authorization": f"Bearer {KEY}"},
        {"authorization": KEY},
        {"authorization": f"Token {KEY}"},
        {"authorization": "Basic !!!"},
        {"authorization": basic("")},
        {"authorization": basic("wrong")},
        {"authorization": "Bearer \xff"},
        {"cookie": KEY},
    ],
)
def test_without_a_key_only_health_is_told(locked: Service, headers: dict[str, str]) -> None:
    for path in HEALTH:
        assert locked.ask("GET", path, None, headers)[0] == 200
    for path in [*CLOSED, "/nothing"]:
        status, answer, sent = locked.ask("GET", path, None, headers)
        assert (status, set(answer)) == (401, {"error"})
        assert 'Basic realm="trilho"' in sent["www-authenticate"]
    for path in ("/invocations", "/v2/models/tiny/infer", "/endpoints/tiny/invocations"):
        for body in (json.dumps([ROW]), "nonsense"):
            assert locked.ask("POST", path, body, headers | JSON)[0] == 401
    assert KEY not in json.dumps(locked.ask("GET", "/model", None, headers)[1])


def test_the_smoke_test_shows_the_key(
    locked: Service, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trilho.deploy.smoke import SmokeError, smoke

    url, digest = f"http://127.0.0.1:{locked.port}", bundle.read_manifest(folder)[1]
    golden = bundle.read_golden(folder)
    monkeypatch.setenv("TRILHO_API_KEY", f"{KEY},another")
    assert smoke(url, golden, digest, max_milliseconds=10_000).rows == len(golden.rows)
    monkeypatch.delenv("TRILHO_API_KEY")
    with pytest.raises(SmokeError, match="401"):
        smoke(url, golden, digest, timeout=0.1)


def test_a_key_comes_from_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"\n{KEY}\nsecond\n")
    with running(TRILHO_MODEL_DIR=folder, TRILHO_API_KEY_FILE=tmp_path / "keys") as service:
        assert service.ready["api_key"] is True
        for key, status in ((KEY, 200), ("second", 200), ("", 401)):
            assert service.ask("GET", "/model", None, {"x-api-key": key})[0] == status


def test_keys_are_compared_by_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys, always, whatever the first one said: no time tells anything."""
    from trilho.serving import auth

    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    keys = auth.Keys(["first", "the second one", "3"])
    for shown, opened in (("first", True), ("3", True), ("no", False)):
        compared.clear()
        assert keys.open({b"x-api-key": shown.encode()}) is opened
        assert compared == [(32, 32)] * 3


def test_the_description_knows_of_the_key(locked: Service) -> None:
    api = description(locked, **{"x-api-key": KEY})
    assert set(api["components"]["securitySchemes"]) == {"key", "bearer"}
    for path, item in api["paths"].items():
        for operation in item.values():
            assert bool(operation["security"]) == (path not in HEALTH)
            assert ("401" in operation["responses"]) == (path not in HEALTH)
    schemathesis(
        f"http://127.0.0.1:{locked.port}/openapi.json",
        *("--header", f"x-api-key: {KEY}", "--max-examples", "10", "--phases", "coverage,fuzzing"),
        *("--exclude-checks", "positive_data_acceptance"),
    )
    no_fault(locked, **{"x-api-key": KEY})


# ── the page ──────────────────────────────────────────────────────────────────────────────────────


def test_the_page_needs_nothing_from_elsewhere(service: Service) -> None:
    status, page, headers = service.fetch("GET", "/docs")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert not re.search(rb"https?:|//[a-z]", page)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert len(page) < 20_000


@pytest.mark.skipif(PATH is None, reason="no Chromium on this machine")
def test_the_page_shows_the_model_and_tries_it(service: Service, tmp_path: Path) -> None:
    with Chromium(tmp_path) as browser:
        events = browser.open(f"http://127.0.0.1:{service.port}/docs", width=1000)

        def wait(expression: str) -> None:
            for _ in range(500):
                if browser.evaluate(expression):
                    return
            raise AssertionError(browser.evaluate("document.body.innerText"))

        wait("document.querySelectorAll('details').length >= 12")
        text = browser.evaluate("document.body.innerText")
        for column in COLUMNS:
            assert column.name in text
        browser.evaluate("document.querySelector('details').open = true")
        browser.evaluate("document.querySelector('details button').click()")
        wait("document.querySelector('details pre').textContent.startsWith('200')")
        assert '"predictions"' in browser.evaluate("document.querySelector('pre').textContent")
        events += list(browser.events)
        asked = [
            event["params"]["request"]["url"]
            for event in events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        ours = (f"http://127.0.0.1:{service.port}/", "data:")
        elsewhere = [url for url in asked if not url.startswith(ours)]
        assert asked
        assert elsewhere == []
        logged = [
            event["params"]["entry"] for event in events if event.get("method") == "Log.entryAdded"
        ]
        # such as a violation of the page's policy
        assert [entry for entry in logged if entry["level"] in ("error", "warning")] == []
        for width in (1000, 390):
            browser.open(f"http://127.0.0.1:{service.port}/docs", width=width)
            wait("document.querySelectorAll('details').length >= 12")
            wide = browser.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, width


def test_examples_are_made_and_not_taken_from_data() -> None:
    from trilho.serving.example import csv_field, example

    columns = [
        bundle.Column(name="a", kind="integer", minimum=1, maximum=4),
        bundle.Column(name="b", kind="number", minimum=-1e308, maximum=1e308),
        bundle.Column(name="c", kind="date", minimum=0, maximum=2),
        bundle.Column(name="d", kind="string", categories=['x,"y"', "z"]),
        bundle.Column(name="e", kind="string"),
        bundle.Column(name="f", kind="number"),
        bundle.Column(name="g", kind="boolean"),
    ]
    row = example(columns)
    assert list(row.values()) == [2, 0.0, "1970-01-02", 'x,"y"', "text", 0.0, True]
    assert csv_field('x,"y"') == '"x,""y"""'
    assert msgspec.json.encode(row)
