"""Tree ensembles by treelite's general inference library, called with as little as it takes."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import treelite
from numpy.typing import NDArray
from treelite.core import _LIB, TreeliteError
from treelite.gtil.gtil import GTILConfig

from trilho.errors import IntegrityError


class Forest:
    """A tree ensemble read from treelite's checkpoint bytes.

    `treelite.gtil.predict` spends two thirds of a one-row prediction in making a configuration
    anew and in type checks; here both are done once. The C call releases the interpreter lock and
    only reads the model, so threads may share a forest.

    Parameters
    ----------
    data
        The checkpoint.
    raw
        Leave the link function out.

    Raises
    ------
    IntegrityError
        The bytes are no checkpoint, or a tree points outside of its nodes or features.
    """

    def __init__(self, data: bytes, *, raw: bool) -> None:
        try:
            self._model = treelite.Model.deserialize_bytes(data)
            _check(self._model)
        except (TreeliteError, RuntimeError, ValueError) as error:
            raise IntegrityError(f"The compiled form's trees cannot be read: {error}.") from None
        self.features: int = self._model.num_feature
        header = self._model.get_header_accessor()
        self.width = int(np.max(header.get_field("num_class")))
        kind = "raw" if raw else "default"
        # one thread: whoever has many rows gives them to threads in chunks
        self._config = GTILConfig(nthread=1, predict_type=kind)

    def predict(self, block: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (rows, width) outputs for a C-contiguous (rows, features) float64 block."""
        rows = len(block)
        out = np.zeros((rows, self.width))
        failed = _LIB.TreeliteGTILPredict(
            self._model.handle,
            ctypes.c_void_p(block.ctypes.data),
            b"float64",
            ctypes.c_uint64(rows),
            ctypes.c_void_p(out.ctypes.data),
            self._config.handle,
        )
        if failed:
            raise IntegrityError("The compiled form's trees cannot be evaluated.")
        return out


def _check(model: Any) -> None:
    """Refuse trees that would read outside of a row or run in circles."""
    header = model.get_header_accessor()
    if model.input_type != "float64" or model.output_type != "float64":
        raise ValueError(f"{model.input_type} trees, expected float64")
    if header.get_field("num_target").tolist() != [1]:
        raise ValueError("more than one target")
    for tree in range(model.num_tree):
        accessor = model.get_tree_accessor(tree)
        left, right, split = (accessor.get_field(f) for f in ("cleft", "cright", "split_index"))
        inner = np.flatnonzero(left != -1)
        for child in (left[inner], right[inner]):
            if not ((child > inner) & (child < len(left))).all():
                raise ValueError(f"tree {tree} has a child out of place")
        if not ((split[inner] >= 0) & (split[inner] < model.num_feature)).all():
            raise ValueError(f"tree {tree} splits an unknown feature")
