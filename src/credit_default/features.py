"""Features of a card holder's last six months, from the raw columns of the credit data.

Months count backwards: 0 is September 2005, the month before the one that is predicted, 5 is April.
Amounts are New Taiwan dollars. SEX, MARRIAGE, EDUCATION and AGE are not used: a model that does not
see them loses about 0.001 of ROC AUC, and they stay in the data to judge fairness by.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STATUS = ["PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5", "PAY_6"]  # there is no PAY_1
BILL = [f"BILL_AMT{month}" for month in range(1, 7)]
PAID = [f"PAY_AMT{month}" for month in range(1, 7)]


def features(columns: Mapping[str, Array]) -> dict[str, Array]:
    """Return the model's features, each one value a row."""
    limit = columns["LIMIT_BAL"]
    status = [columns[name] for name in STATUS]
    bill = [columns[name] for name in BILL]
    paid = [columns[name] for name in PAID]
    return {
        "limit": limit,
        **_delays(status),
        **_bills(bill, limit),
        **_payments(paid, bill, limit),
    }


def _delays(status: list[Array]) -> dict[str, Array]:
    """Status is the months of delay; 0: revolving credit, -1: paid in full, -2: card not used."""
    late = [np.maximum(s, 0.0) for s in status]
    return {
        **{f"status_{month}": s for month, s in enumerate(status)},
        "worst_status": reduce(np.maximum, status),
        "months_late": sum_of([np.where(s > 0, 1.0, 0.0) for s in status]),
        "months_unused": sum_of([np.where(s == -2, 1.0, 0.0) for s in status]),
        "delay": sum_of(late),
        # the latest month weighs most
        "recent_delay": sum_of([(6 - month) * s for month, s in enumerate(late)]),
    }


def _bills(bill: list[Array], limit: Array) -> dict[str, Array]:
    total = sum_of(bill)
    return {
        **{f"bill_{month}": b for month, b in enumerate(bill)},
        **{f"utilisation_{month}": b / limit for month, b in enumerate(bill)},
        "bill_total": total,
        "utilisation": total / 6.0 / limit,
        "utilisation_trend": (bill[0] - bill[5]) / limit,
    }


def _payments(paid: list[Array], bill: list[Array], limit: Array) -> dict[str, Array]:
    total = sum_of(paid)
    return {
        **{f"paid_{month}": p for month, p in enumerate(paid)},
        # a payment answers the bill of the month before
        **{f"paid_share_{m}": paid[m] / np.maximum(bill[m + 1], 1.0) for m in range(5)},
        "paid_total": total,
        "paid_share": total / np.maximum(sum_of(bill), 1.0),
        "paid_of_limit": total / limit,
        "paid_least": reduce(np.minimum, paid),
        "paid_most": reduce(np.maximum, paid),
        "owed_of_limit": (bill[0] - paid[0]) / limit,
    }


def sum_of(arrays: list[Array]) -> Array:
    return reduce(np.add, arrays)
