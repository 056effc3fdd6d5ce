"""The Open Inference Protocol, version 2: its tensors and its descriptions of server and model.

Each column is a tensor of shape [rows] or [rows, 1]; a model of numbers alone also takes one matrix
of shape [rows, columns], in the order of the signature. Data are JSON; null stands for missing.
"""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct

from trilho.bundle import Signature
from trilho.serving.columns import NUMERIC, Batch, Columns
from trilho.serving.decode import Decoder, check_rows, reading
from trilho.serving.messages import BadInputError
from trilho.serving.predictor import Identity, Label, Prediction

DATATYPES = {"number": "FP64", "integer": "INT64", "boolean": "BOOL"}  # else BYTES
KNOWN = {
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BYTES"),
}
PREDICTIONS, DECISIONS = "predictions", "decisions"


class InputTensor(Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None  # ignored


class AskedOutput(Struct):
    name: str
    parameters: dict[str, Any] | None = None  # ignored


class InferRequest(Struct):
    inputs: list[InputTensor]
    id: Annotated[str, Meta(max_length=256)] | None = None
    outputs: list[AskedOutput] | None = None
    parameters: dict[str, Any] | None = None  # ignored


class OutputTensor(Struct, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class Tensor(Struct, frozen=True):
    """A tensor's description."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct, frozen=True):
    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class InferResponse(Struct, frozen=True, omit_defaults=True):
    model_name: str
    parameters: dict[str, str]
    outputs: list[OutputTensor]
    model_version: str | None = None
    id: str | None = None


class Asked(NamedTuple):
    """What of the answer was asked for."""

    id: str | None
    outputs: list[str]


class Inference:
    """Reads and writes the protocol's bodies for one model."""

    def __init__(
        self, signature: Signature, columns: Columns, decoder: Decoder, identity: Identity
    ) -> None:
        self.identity = identity
        self._columns = columns
        self._decoder = decoder
        self._decode = msgspec.json.Decoder(InferRequest).decode
        self._labels = _datatype(signature.classes)
        self.metadata = ModelMetadata(
            name=identity.name,
            versions=[identity.version] if identity.version else [],
            platform="trilho",
            inputs=[
                Tensor(column.name, DATATYPES.get(column.kind, "BYTES"), [-1])
                for column in signature.columns
            ],
            outputs=_outputs(signature, self._labels),
        )

    def read(self, body: bytes) -> tuple[Batch, Asked]:
        """Return the rows in an inference request, and what it asks for.

        Raises
        ------
        BadInputError
            With the row (from 0) and the field where there is one.
        TooLargeError
            More rows than are taken at once.
        """
        asked = Asked(None, [])

        def read(body: bytes) -> Batch:
            nonlocal asked
            request = self._decode(body)
            known = [tensor.name for tensor in self.metadata.outputs]
            names = known if not request.outputs else [output.name for output in request.outputs]
            if not set(names) <= set(known):
                raise BadInputError(f"the outputs are {' and '.join(known)}", field="outputs")
            asked = Asked(request.id, names)
            return self._batch(request.inputs)

        batch = reading(read, body, self._decoder.max_rows, self._decoder.explain)
        return batch, asked

    def _batch(self, inputs: list[InputTensor]) -> Batch:
        names = [tensor.name for tensor in inputs]
        if len(set(names)) != len(names):
            raise BadInputError("a tensor is named twice", field="inputs")
        columns = self._columns
        lists: dict[str, list[Any]] = {}
        if len(inputs) == 1 and len(inputs[0].shape) == 2 and names[0] not in columns.names:
            lists = self._matrix(inputs[0])
        for tensor in inputs:
            if tensor.name in columns.names or tensor.name == columns.id:
                lists[tensor.name] = _flat(tensor, width=1)
        rows = len(next(iter(lists.values()), []))
        check_rows(rows, self._decoder.max_rows)
        return columns.from_lists(lists, rows)

    def _matrix(self, tensor: InputTensor) -> dict[str, list[Any]]:
        given = self._columns.given
        if any(column.kind not in NUMERIC for column in self._columns.all):
            return {}
        values = _flat(tensor, width=len(given))
        return {name: values[i :: len(given)] for i, name in enumerate(given)}

    def encode(self, prediction: Prediction, asked: Asked) -> bytes:
        """Return the inference response's JSON."""
        tensors = {
            PREDICTIONS: lambda: OutputTensor(
                PREDICTIONS,
                list(prediction.scores.shape),
                "FP64",
                prediction.scores.ravel().tolist(),
            ),
            DECISIONS: lambda: OutputTensor(
                DECISIONS, [prediction.batch.rows], self._labels, self._decided(prediction)
            ),
        }
        return msgspec.json.encode(
            InferResponse(
                model_name=self.identity.name,
                model_version=self.identity.version,
                parameters={"digest": self.identity.digest},
                id=asked.id,
                outputs=[tensors[name]() for name in asked.outputs],
            )
        )

    def _decided(self, prediction: Prediction) -> list[Label | None]:
        decisions = prediction.decisions or []
        if self._labels != "BYTES":
            return decisions
        return [None if label is None else str(label) for label in decisions]


def _flat(tensor: InputTensor, width: int) -> list[Any]:
    """Return the tensor's values in row order; they may come nested as its shape is."""
    values = tensor.data
    if values and type(values[0]) is list:
        if set(map(type, values)) != {list}:
            raise BadInputError("nested data do not fit the shape", field=_name(tensor, width))
        values = list(chain.from_iterable(values))
    shape = tensor.shape
    fits = len(shape) in (1, 2) and shape[1:] in ([], [1]) if width == 1 else shape[1] == width
    if not fits or shape[0] * width != len(values):
        wanted = "[rows] or [rows, 1]" if width == 1 else f"[rows, {width}]"
        raise BadInputError(
            f"expected shape {wanted}, and as many data", field=_name(tensor, width)
        )
    if tensor.datatype not in KNOWN:
        raise BadInputError("expected a datatype such as FP64", field=_name(tensor, width))
    if tensor.datatype == "BOOL":  # some clients write these as numbers, and the datatype is clear
        return [v == 1 if type(v) in (int, float) and v in (0, 1) else v for v in values]
    return values


def _name(tensor: InputTensor, width: int) -> str:
    return tensor.name if width == 1 else "inputs"  # a matrix's name is the caller's own


def _datatype(classes: list[Label] | None) -> str:
    kinds = set(map(type, classes or []))
    return {bool: "BOOL", int: "INT64", float: "FP64"}.get(
        kinds.pop() if len(kinds) == 1 else str, "BYTES"
    )


def _outputs(signature: Signature, labels: str) -> list[Tensor]:
    wide = [len(signature.classes or [])] if signature.task == "multiclass" else []
    outputs = [Tensor(PREDICTIONS, "FP64", [-1, *wide])]
    if signature.task != "regression":
        outputs.append(Tensor(DECISIONS, labels, [-1]))
    return outputs
