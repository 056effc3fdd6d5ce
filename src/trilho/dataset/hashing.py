"""Hashes of values that stay the same between runs, machines, file formats and dtypes.

Text is hashed by SipHash (as pandas does it, keyed, independent of PYTHONHASHSEED), a number by
its float64 bits, a date by its microseconds; all are mixed by the finaliser of SplitMix64 (Steele,
Lea and Flood 2014, "Fast splittable pseudorandom number generators"). Golden values in the tests
keep them from ever changing, because a change would move every row of every hold-out.
"""

from __future__ import annotations

import binascii
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

Hashes = npt.NDArray[np.uint64]
_KEY = "trilho-rows-2026"  # 16 bytes
_MISSING = np.uint64(0x9E3779B97F4A7C15)


def mix(h: Hashes) -> Hashes:
    """Return the SplitMix64 finaliser of each value: every input bit moves half the output bits."""
    h = h + np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def text_hashes(values: Any) -> Hashes:
    """Return the hash of each text of a sequence without missing values."""
    texts = np.asarray(values, dtype=object)
    return pd.util.hash_array(texts, encoding="utf8", hash_key=_KEY, categorize=False)


def value_hashes(values: pd.Series) -> Hashes:
    """Return the hash of each value of a column; equal values hash equally in any dtype.

    Whole numbers, floats and booleans of equal value agree, so a column that turns from `int64` to
    `float64`, because one day a value is missing, keeps its hashes.
    """
    missing = values.isna().to_numpy()
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        micros = values.astype(
            "datetime64[us]" if values.dt.tz is None else "datetime64[us, UTC]"
        ).astype("int64")
        hashes = mix(micros.to_numpy().view(np.uint64) ^ np.uint64(0xD))
    elif pd.api.types.is_numeric_dtype(values.dtype):
        # + 0.0 makes a negative zero positive
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan) + 0.0
        hashes = mix(numbers.view(np.uint64))
    else:
        codes, texts = pd.factorize(values)
        if len(texts) == 0:
            return np.full(len(values), _MISSING)
        hashes = text_hashes(texts)[codes]
    hashes[missing] = _MISSING
    return hashes


def content_names(frame: pd.DataFrame) -> pd.Index:
    """Return a name for each row made of its content: 16 hexadecimal digits.

    The order of columns does not matter. Collisions are no concern for a split: of a million rows
    two share a name by chance once in 37 million datasets.
    """
    total = np.zeros(len(frame), dtype=np.uint64)
    for name, key in zip(frame.columns, text_hashes(list(frame.columns)), strict=True):
        total += mix(value_hashes(frame[name]) ^ key)
    digits = binascii.hexlify(total.astype(">u8").tobytes())
    offsets = np.arange(0, len(digits) + 1, 16, dtype=np.int64)
    names = pa.LargeStringArray.from_buffers(
        len(frame), pa.py_buffer(offsets), pa.py_buffer(digits)
    )
    return pd.Index(pd.Series(names.to_pandas()))
