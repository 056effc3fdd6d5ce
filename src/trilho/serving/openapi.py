"""The service's own description: OpenAPI 3.1, with bodies and examples made from the signature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from trilho.bundle import Column
from trilho.serving.columns import LARGEST_WHOLE
from trilho.serving.example import csv_field, date_of, example
from trilho.serving.predictor import Predictor

if TYPE_CHECKING:
    from trilho.serving.inference import Inference

Json = dict[str, Any]

LARGEST = 1.7976931348623157e308
ERRORS = {
    400: "The body is not what the signature asks for: where, and what was expected.",
    408: "The request did not arrive in time.",
    413: "The body, or the number of rows in it, is too large.",
    415: "Another content type, charset or encoding.",
    431: "The head is too large.",
    500: "A fault of the service.",
}
OVERLOAD = "Too much is waiting: try again after the seconds of `retry-after`."
DRAINING = "The service is about to end; it still answers."


def describe(
    predictor: Predictor, inference: Inference, *, kinds: list[str], keys: bool, metrics: bool
) -> bytes:
    """Return `/openapi.json`.

    Parameters
    ----------
    predictor, inference
        The model that answers.
    kinds
        Content types that `/invocations` reads.
    keys
        Whether an API key is needed.
    metrics
        Whether `/metrics` is there.
    """
    card = predictor.card
    model = f"/v2/models/{quote(card.name, safe='')}"
    paths = {
        "/invocations": {"post": _invocations(predictor, kinds)},
        f"{model}/infer": {"post": _infer(predictor, inference)},
        "/model": {"get": _get("What is served", "Name, version, digest, metrics.", _ref("Model"))},
        "/v2": {"get": _get("The server", "Open Inference Protocol.", _ref("Server"))},
        model: {
            "get": _get("The model's tensors", "Open Inference Protocol.", _ref("ModelMetadata"))
        },
        "/openapi.json": {"get": _get("This description", "OpenAPI 3.1.", {"type": "object"})},
    }
    if metrics:
        paths["/metrics"] = {"get": _text("Metrics", "Prometheus's text format.", "text/plain")}
    for path, what in {
        "/ping": "Ready? (SageMaker, load balancers)",
        "/readyz": "Ready? (Kubernetes)",
        "/v2/health/ready": "Ready? (Open Inference Protocol)",
        f"{model}/ready": "Is the model ready?",
    }.items():
        paths[path] = {"get": _health(what, draining=True)}
    for path in ("/livez", "/v2/health/live"):
        paths[path] = {"get": _health("Alive?", draining=False)}
    outputs = [tensor.name for tensor in inference.metadata.outputs]
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": card.name,
            "version": card.version or card.digest[:19],
            "description": f"Predicts `{card.target}` ({card.task}). Model `{card.digest}`.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(predictor, outputs)},
    }
    if keys:
        document["components"]["securitySchemes"] = {
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        for path, item in paths.items():
            for operation in item.values():
                health = path.endswith(("ping", "readyz", "livez", "/live", "/ready"))
                operation["security"] = [] if health else [{"key": []}, {"bearer": []}]
                if not health:
                    operation["responses"]["401"] = _error("No API key, or a wrong one.")
    return msgspec.json.encode(document)


# ── operations ────────────────────────────────────────────────────────────────────────────────────


def _invocations(predictor: Predictor, kinds: list[str]) -> Json:
    row = example(predictor.signature.columns)
    names = list(row)
    split = {"columns": names, "data": [list(row.values())]}
    examples = {
        "records": {"value": {"dataframe_records": [row]}},
        "list": {"value": [row]},
        "split": {"value": {"dataframe_split": split}},
        "columns": {"value": {"inputs": {name: [value] for name, value in row.items()}}},
        "instances": {"value": {"instances": [row]}},
    }
    content: Json = {"application/json": {"schema": _ref("Request"), "examples": examples}}
    if "text/csv" in kinds:
        texts = ("" if v is None else str(v) for v in row.values())
        lines = f"{','.join(map(csv_field, names))}\n{','.join(map(csv_field, texts))}\n"
        content["text/csv"] = {"schema": {"type": "string"}, "example": lines}
    for kind in kinds:
        if "parquet" in kind:
            content[kind] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": "Predict",
        "description": "Records, MLflow's shapes, CSV; also SageMaker's way to ask.",
        "operationId": "predict",
        "requestBody": {"required": True, "content": content},
        "responses": _responses(_ref("Answer")),
    }


def _infer(predictor: Predictor, inference: Inference) -> Json:
    row = example(predictor.signature.columns)
    inputs = [
        {"name": t.name, "shape": [1], "datatype": t.datatype, "data": [row[t.name]]}
        for t in inference.metadata.inputs
    ]
    content = {"schema": _ref("InferRequest"), "example": {"inputs": inputs}}
    return {
        "summary": "Infer",
        "description": "Open Inference Protocol, version 2, with data in JSON.",
        "operationId": "infer",
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": _responses(_ref("InferResponse")),
    }


def _responses(schema: Json) -> Json:
    errors = {str(status): _error(text) for status, text in ERRORS.items()}
    busy = _error(OVERLOAD) | {
        "headers": {"retry-after": {"description": "Seconds.", "schema": {"type": "integer"}}}
    }
    return {"200": _json("The predictions.", schema), **errors, "503": busy}


def _get(summary: str, description: str, schema: Json) -> Json:
    return {
        "summary": summary,
        "description": description,
        "responses": {"200": _json(summary, schema)},
    }


def _text(summary: str, description: str, kind: str) -> Json:
    content = {kind: {"schema": {"type": "string"}}}
    return {
        "summary": summary,
        "description": description,
        "responses": {"200": {"description": summary, "content": content}},
    }


def _health(summary: str, *, draining: bool) -> Json:
    responses = {"200": _json("Yes.", {"type": "object"})}
    if draining:
        responses["503"] = _json(DRAINING, {"type": "object"})
    return {"summary": summary, "tags": ["health"], "responses": responses}


def _json(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error(description: str) -> Json:
    return _json(description, _ref("Error"))


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


# ── schemas ───────────────────────────────────────────────────────────────────────────────────────


def _schemas(predictor: Predictor, outputs: list[str]) -> Json:
    signature = predictor.signature
    columns = signature.columns
    row: Json = {
        "type": "object",
        "properties": {column.name: _value(column) for column in columns},
        "required": [column.name for column in columns if column.required],
        "additionalProperties": True,
    }
    if predictor.columns.id is not None:
        row["properties"][predictor.columns.id] = {
            "type": ["string", "number", "null"],
            "description": "Names the row; not an input of the model.",
        }
    most = predictor.max_rows
    rows = {"type": "array", "items": _ref("Row"), "minItems": 1, "maxItems": most}
    params = {"type": ["object", "null"], "description": "Ignored."}
    lists = {
        "type": "object",
        "properties": {
            column.name: {"type": "array", "items": _value(column), "minItems": 1}
            for column in columns
        },
        "required": [column.name for column in columns if column.required],
        "description": "Values by column, as many of each.",
    }
    split = {
        "type": "object",
        "properties": {
            "columns": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "data": {"type": "array", "items": {"type": "array"}, "minItems": 1},
            "index": {},
        },
        "required": ["columns", "data"],
    }
    shapes = {
        "dataframe_records": rows,
        "dataframe_split": split,
        "instances": rows,
        "inputs": lists,
    }
    envelopes = [
        {
            "type": "object",
            "properties": {form: schema, "params": params},
            "required": [form],
        }
        for form, schema in shapes.items()
    ]
    return {
        "Row": row,
        "Request": {"anyOf": [rows, *envelopes, _ref("Row")]},
        "Answer": _answer(predictor),
        "Error": {
            "type": "object",
            "properties": {
                "error": {"type": "string", "description": "What was expected."},
                "row": {"type": "integer", "description": "Counted from 0."},
                "field": {"type": "string"},
            },
            "required": ["error"],
        },
        "Model": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "version": {"type": ["string", "null"]},
                "digest": {"type": "string"},
                "metrics": {"type": "object"},
                "card": {"type": ["string", "null"], "description": "Markdown."},
                "columns": {"type": "array", "items": {"type": "object"}},
            },
            "required": ["name", "version", "digest", "metrics", "card", "columns"],
        },
        **_tensors(outputs),
    }


def _answer(predictor: Predictor) -> Json:
    signature = predictor.signature
    number: Json = {"type": ["number", "null"]}
    if signature.task == "binary":
        prediction = number | {"description": f"Probability of {signature.positive!r}."}
    elif signature.task == "multiclass":
        text = f"Probabilities of {', '.join(map(repr, signature.classes or []))}."
        prediction = {"type": "array", "items": number, "description": text}
    else:
        prediction = number
    properties: Json = {
        "predictions": {"type": "array", "items": prediction},
        "model": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "version": {"type": ["string", "null"]},
                "digest": {"type": "string"},
            },
            "required": ["name", "version", "digest"],
        },
    }
    if signature.task != "regression":
        properties["decisions"] = {
            "type": "array",
            "items": {"enum": [*(signature.classes or []), None]},
        }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _tensors(outputs: list[str]) -> Json:
    shape = {"type": "array", "items": {"type": "integer"}}
    named = {"name": {"type": "string"}, "datatype": {"type": "string"}, "shape": shape}
    tensor = {"type": "object", "properties": named, "required": list(named)}
    full = named | {"data": {"type": "array"}}
    data = {"type": "object", "properties": full, "required": list(full)}
    return {
        "Server": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "version": {"type": "string"},
                "extensions": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["name", "version", "extensions"],
        },
        "ModelMetadata": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "versions": {"type": "array", "items": {"type": "string"}},
                "platform": {"type": "string"},
                "inputs": {"type": "array", "items": tensor},
                "outputs": {"type": "array", "items": tensor},
            },
            "required": ["name", "platform", "inputs", "outputs"],
        },
        "InferRequest": {
            "type": "object",
            "properties": {
                "id": {"type": ["string", "null"], "maxLength": 256},
                "inputs": {"type": "array", "items": data},
                "outputs": {
                    "type": ["array", "null"],
                    "items": {
                        "type": "object",
                        "properties": {"name": {"enum": outputs}},
                        "required": ["name"],
                    },
                },
                "parameters": {"type": ["object", "null"]},
            },
            "required": ["inputs"],
        },
        "InferResponse": {
            "type": "object",
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "parameters": {"type": "object"},
                "outputs": {"type": "array", "items": data},
            },
            "required": ["model_name", "outputs"],
        },
    }


def _value(column: Column) -> Json:
    kinds: dict[str, Any] = {
        "number": {"type": "number", "minimum": -LARGEST, "maximum": LARGEST},
        "integer": {"type": "integer", "minimum": -LARGEST_WHOLE, "maximum": LARGEST_WHOLE},
        "boolean": {"type": "boolean"},
        "date": {"type": "string", "format": "date"},
    }
    schema: Json = kinds.get(column.kind, {"type": "string"})
    if not column.required:
        schema = schema | {"type": [schema["type"], "null"]}
    told = []
    if column.minimum is not None and column.maximum is not None:
        low, high = (_shown(v, column.kind) for v in (column.minimum, column.maximum))
        told.append(f"In training from {low} to {high}.")
    if column.categories:
        told.append(f"In training one of: {', '.join(map(str, column.categories))}.")
    if not column.required:
        told.append("May be left out.")
    return schema | ({"description": " ".join(told)} if told else {})


def _shown(value: float, kind: str) -> str:
    return date_of(value) if kind == "date" else f"{value:.12g}"
