"""The compiled form on disk: a plan in JSON and its arrays in an npz.

It is data, not code: reading it unpickles nothing, evaluates nothing and imports nothing by name,
and takes no more memory than the files are long.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from trilho.errors import IntegrityError

FORMAT = 2
FOLDER = "compiled"
PLAN = "plan.json"
ARRAYS = "arrays.npz"
EPOCH = (1980, 1, 1, 0, 0, 0)
MAX_PLAN_BYTES = 256 << 20
WHOLE = -1  # as the column of a Ref: the slot as a whole

# A value of the plan: slots count from 0, the inputs first, then one slot for each node.
Ref = tuple[int, int]  # (slot, column of that slot or WHOLE)


class Input(Struct, frozen=True, kw_only=True):
    """A column of the request: float64 with NaN for missing, or objects: str and None."""

    name: str
    text: bool = False


class Node(Struct, frozen=True, kw_only=True):
    """One operation; `arrays` maps argument names to members of the npz."""

    op: str
    inputs: list[Ref]
    args: dict[str, Any] = {}
    arrays: dict[str, str] = {}


class Plan(Struct, frozen=True, kw_only=True):
    format: int = FORMAT
    task: str  # binary | multiclass | regression
    inputs: list[Input]
    nodes: list[Node]
    output: Ref


def write(folder: Path, plan: Plan, arrays: dict[str, NDArray[Any]]) -> None:
    """Write the plan and its arrays; the same values always give the same bytes."""
    (folder / PLAN).write_bytes(msgspec.json.encode(plan, order="sorted"))
    with zipfile.ZipFile(folder / ARRAYS, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, arrays[name], allow_pickle=False)
            # a fixed date: np.savez leaves it to the clock in some versions of Python
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), buffer.getvalue())


def read(folder: Path) -> tuple[Plan, dict[str, NDArray[Any]]]:
    """Read what `write` wrote.

    Raises
    ------
    IntegrityError
        A file is missing, too large, or is not what it must be.
    """
    try:
        if (folder / PLAN).stat().st_size > MAX_PLAN_BYTES:
            raise IntegrityError(
                f"{PLAN} of the compiled form is larger than {MAX_PLAN_BYTES} bytes."
            )
        plan = msgspec.json.decode((folder / PLAN).read_bytes(), type=Plan)
        if plan.format != FORMAT:
            raise IntegrityError(
                f"The compiled form has format {plan.format}, this trilho reads {FORMAT}.",
                hint="Use the trilho version that wrote the bundle, or train again.",
            )
        return plan, _read_arrays(folder / ARRAYS)
    except FileNotFoundError as error:
        raise IntegrityError(f"The compiled form lacks {Path(error.filename).name}.") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise IntegrityError(f"{PLAN} of the compiled form cannot be read: {error}.") from None
    except (*UNREADABLE, OSError) as error:
        raise IntegrityError(f"{ARRAYS} of the compiled form cannot be read: {error}.") from None


# what the readers of zip and npy raise for bytes that are neither
UNREADABLE = (ValueError, zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            # stored, so that nothing can be larger in memory than it is on disk
            if entry.compress_type != zipfile.ZIP_STORED or not entry.filename.endswith(".npy"):
                raise IntegrityError(f"{ARRAYS} holds an unexpected member {entry.filename!r}.")
            if entry.file_size > path.stat().st_size:
                raise IntegrityError(f"{ARRAYS} holds {entry.filename!r} of an impossible size.")
            name = entry.filename.removesuffix(".npy")
            arrays[name] = _read_array(name, archive.read(entry))
    return arrays


def _read_array(name: str, data: bytes) -> NDArray[Any]:
    """Read one array; numpy's reader would make room for whatever the header claims."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise IntegrityError(f"{ARRAYS} holds {name!r} in another version of npy.")
    header = np.lib.format.read_array_header_1_0(stream)
    shape, column_order, dtype = header
    if dtype.kind not in "fi" or dtype.itemsize > 8 or column_order:
        raise IntegrityError(f"{ARRAYS} holds {name!r} of type {dtype}, or in columns.")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise IntegrityError(f"{ARRAYS} holds {name!r}, which is not as long as it says.")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)
