"""Operations that bend each column by a curve of its own: powers, quantiles, bins, splines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trilho.compiled.operations import Arguments, Run, Shape, Value, block_of, operation, width_of
from trilho.errors import DataError, IntegrityError

EPS = float(np.finfo(np.float64).eps)

# ── powers ────────────────────────────────────────────────────────────────────────────────────────


@operation("yeo_johnson")
def _yeo_johnson(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """The power transform of Yeo and Johnson with one exponent per column."""
    above = args.array("lambdas", width=width_of(shapes))
    below = 2 - above
    plain_above, plain_below = np.abs(above) < EPS, np.abs(above - 2) <= EPS

    def run(values: Sequence[Value]) -> Value:
        block = values[0]
        positive = block >= 0
        logs = np.log1p(np.where(positive, block, -block))
        power = np.where(positive, above, below)
        bent = np.where(
            np.where(positive, plain_above, plain_below), logs, np.expm1(power * logs) / power
        )
        return np.where(positive, bent, -bent)

    return run, shapes[0]


@operation("box_cox")
def _box_cox(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """The power transform of Box and Cox with one exponent per column."""
    lambdas = args.array("lambdas", width=width_of(shapes))
    bend = np.frompyfunc(_box_cox_of, 2, 1)
    return (lambda values: bend(values[0], lambdas).astype(np.float64)), shapes[0]


def _box_cox_of(x: float, power: float) -> float:
    """One number, as scipy computes it: with the C library's functions, which are not numpy's."""
    log = _log(x)
    if abs(power) < 1e-19:
        return log
    if power * log < 709.78:
        return math.expm1(power * log) / power
    try:
        far = math.exp(power * log - math.log(abs(power)))
    except OverflowError:
        far = math.inf
    return math.copysign(far, power) - 1 / power


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf if x == 0 else math.nan


# ── quantiles ─────────────────────────────────────────────────────────────────────────────────────

NEAR = 1e-7  # of a bound: as on it


@operation("quantiles")
def _quantiles(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """Each column's share of the training rows below, or that as a normal deviate."""
    width = width_of(shapes)
    references = args.array("references")
    columns = args.array("quantiles", ndim=2, width=width)
    if columns.shape[1] != len(references) or not len(references):
        raise IntegrityError("The quantiles do not fit their references.")
    if not ((np.diff(columns) >= 0).all() and (np.diff(references) >= 0).all()):
        raise IntegrityError("The quantiles are not sorted.")
    normal = args.get("normal", bool)
    # the mean of both directions, for quantiles that repeat
    downwards = np.ascontiguousarray(-columns[:, ::-1])
    downwards_references = np.ascontiguousarray(-references[::-1])
    low, high = columns[:, 0], columns[:, -1]
    limits = _normal_deviate(np.array([NEAR - EPS, 1 - (NEAR - EPS)]))

    def run(values: Sequence[Value]) -> Value:
        block = values[0]
        shares = np.empty_like(block)
        for j in range(width):
            column = np.ascontiguousarray(block[:, j])
            shares[:, j] = 0.5 * (
                np.interp(column, columns[j], references)
                - np.interp(-column, downwards[j], downwards_references)
            )
        near = NEAR if normal else 0.0
        shares[block + near > high if normal else block == high] = 1.0
        shares[block - near < low if normal else block == low] = 0.0
        shares[np.isnan(block)] = np.nan
        return np.clip(_normal_deviate(shares), *limits) if normal else shares

    return run, shapes[0]


# The inverse of the normal distribution as scipy computes it, to the last bit: by Moshier's
# quotients of polynomials (Cephes), for the middle, the flanks and the tails.
FLANK = 0.13533528323661269189  # exp(-2)
TAIL = 8.0  # of sqrt(-2 log share)
ROOT_OF_TWO_PI = 2.50662827463100050242
MIDDLE = (
    (
        *(-59.9633501014107895267, 98.0010754185999661536, -56.6762857469070293439),
        *(13.9312609387279679503, -1.23916583867381258016),
    ),
    (
        *(1.0, 1.95448858338141759834, 4.67627912898881538453, 86.3602421390890590575),
        *(-225.462687854119370527, 200.260212380060660359, -82.0372256168333339912),
        *(15.9056225126211695515, -1.18331621121330003142),
    ),
)
FLANKS = (
    (
        *(4.05544892305962419923, 31.5251094599893866154, 57.1628192246421288162),
        *(44.0805073893200834700, 14.6849561928858024014, 2.18663306850790267539),
        *(-0.140256079171354495875, -0.0350424626827848203418, -8.57456785154685413611e-4),
    ),
    (
        *(1.0, 15.7799883256466749731, 45.3907635128879210584, 41.3172038254672030440),
        *(15.0425385692907503408, 2.50464946208309415979, -0.142182922854787788574),
        *(-0.0380806407691578277194, -9.33259480895457427372e-4),
    ),
)
TAILS = (
    (
        *(3.23774891776946035970, 6.91522889068984211695, 3.93881025292474443415),
        *(1.33303460815807542389, 0.201485389549179081538, 0.0123716634817820021358),
        *(3.01581553508235416007e-4, 2.65806974686737550832e-6, 6.23974539184983293730e-9),
    ),
    (
        *(1.0, 6.02427039364742014255, 3.67983563856160859403, 1.37702099489081330271),
        *(0.216236993594496635890, 0.0134204006088543189037, 3.28014464682127739104e-4),
        *(2.89247864745380683936e-6, 6.79019408009981274425e-9),
    ),
)
LOG: Any = np.frompyfunc(_log, 1, 1)


def _normal_deviate(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of the normal distribution's share below."""
    upper = shares > 1 - FLANK
    share = np.where(upper, 1 - shares, shares)
    off = share - 0.5
    square = off * off
    inner = square * _polynomial(MIDDLE[0], square) / _polynomial(MIDDLE[1], square)
    deviates: NDArray[np.float64] = (off + off * inner) * ROOT_OF_TWO_PI
    outer = share <= FLANK
    if outer.any():
        depth = np.sqrt(-2.0 * LOG(share[outer]).astype(np.float64))
        inverse = 1 / depth
        near = inverse * _polynomial(FLANKS[0], inverse) / _polynomial(FLANKS[1], inverse)
        far = inverse * _polynomial(TAILS[0], inverse) / _polynomial(TAILS[1], inverse)
        bent = depth - LOG(depth).astype(np.float64) / depth
        bent -= np.where(depth < TAIL, near, far)
        deviates[outer] = np.where(upper[outer], bent, -bent)
        deviates[shares == 0.0] = -np.inf
        deviates[shares == 1.0] = np.inf
    return deviates


def _polynomial(terms: tuple[float, ...], x: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.full_like(x, terms[0])
    for term in terms[1:]:
        total = total * x + term
    return total


# ── bins ──────────────────────────────────────────────────────────────────────────────────────────


@operation("bins")
def _bins(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """The number of inner edges that are at most the value."""
    edges = args.ragged("edges", width_of(shapes))
    if not all((np.diff(e) >= 0).all() for e in edges):
        raise IntegrityError("Edges of bins are not sorted.")

    def run(values: Sequence[Value]) -> Value:
        block = np.empty_like(values[0])
        for j, inner in enumerate(edges):
            block[:, j] = np.searchsorted(inner, values[0][:, j], side="right")
        return block

    return run, shapes[0]


# ── splines ───────────────────────────────────────────────────────────────────────────────────────

EXTRAPOLATIONS = ("continue", "error", "constant", "linear", "periodic")


@operation("splines")
def _splines(args: Arguments, shapes: list[Shape]) -> tuple[Run, Shape]:
    """The B-splines of each column side by side; NaN gives zeros.

    `knots` is (columns, knots); `ends` is (columns, 4, splines): the splines at the lowest and
    the highest inner knot, and their slopes there.
    """
    width = width_of(shapes)
    degree = args.get("degree", int)
    beyond = args.choice("extrapolation", EXTRAPOLATIONS)
    knots = args.array("knots", ndim=2, width=width)
    basis = knots.shape[1] - degree - 1
    count = basis - degree if beyond == "periodic" else basis
    if not (0 <= degree <= 100 and basis > degree and count > 0):
        raise IntegrityError("A spline has too few knots for its degree.")
    if not (np.diff(knots) >= 0).all():
        raise IntegrityError("The knots of a spline are not sorted.")
    ends = args.array("ends", ndim=3, width=width)
    if ends.shape[1:] != (4, count):
        raise IntegrityError("The ends of a spline do not fit its knots.")
    keep = count if args.get("last", bool) else count - 1
    shape = block_of(width * keep)

    def run(values: Sequence[Value]) -> Value:
        block = values[0]
        out = np.empty((len(block), width * keep))
        for j in range(width):
            x = np.ascontiguousarray(block[:, j])
            part = _spline(x, knots[j], degree, beyond, ends[j])
            out[:, j * keep : (j + 1) * keep] = part[:, :keep]
        return out

    return run, shape


def _spline(
    x: NDArray[np.float64],
    knots: NDArray[np.float64],
    degree: int,
    beyond: str,
    ends: NDArray[np.float64],
) -> NDArray[np.float64]:
    """All splines of one column, as scikit-learn continues them beyond the knots."""
    low, high = knots[degree], knots[len(knots) - degree - 1]
    count = ends.shape[1]
    missing = np.isnan(x)
    if beyond == "periodic":
        period = high - low
        x = low + (x - low) % period if period > 0 else np.zeros_like(x)
        full = _basis(x, knots, degree)
        splines = full[:, :count].copy()
        splines[:, :degree] += full[:, count:]
    elif beyond == "continue":
        splines = _basis(x, knots, degree)
    else:
        below, above = x < low, x > high
        if beyond == "error" and (below | above).any():
            raise DataError("The model cannot take this row: a number is beyond those in training.")
        inside = np.where(below | above | missing, low, x)
        splines = _basis(inside, knots, degree)
        for outside, end, at in ((below, 0, low), (above, 1, high)):
            if outside.any():
                splines[outside] = _extended(x[outside] - at, ends, end, degree, beyond)
    splines[missing] = 0.0
    return splines


def _extended(
    distance: NDArray[np.float64], ends: NDArray[np.float64], end: int, degree: int, beyond: str
) -> NDArray[np.float64]:
    """Splines beyond the last knot (end 1) or before the first (end 0)."""
    count = ends.shape[1]
    reach = degree + 1 if beyond == "linear" and degree <= 1 else degree
    touched = np.zeros(count, np.bool_)
    if reach:
        touched[slice(None, reach) if end == 0 else slice(-reach, None)] = True
    splines = np.where(touched, ends[end], 0.0)
    if beyond == "constant":
        return np.broadcast_to(splines, (len(distance), count))
    slopes = np.where(touched, ends[2 + end], 0.0)
    return np.where(touched, splines + distance[:, None] * slopes, 0.0)


def _basis(x: NDArray[np.float64], knots: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """All B-splines at each x by de Boor's recursion; beyond the knots the outer ones go on."""
    basis = len(knots) - degree - 1
    # the interval that x lies in, the first or last one if it lies outside
    at = np.searchsorted(knots[degree + 1 : basis], x, side="right") + degree
    parts = np.zeros((degree + 1, len(x)))
    parts[0] = 1.0
    for order in range(1, degree + 1):
        before = parts.copy()
        parts[0] = 0.0
        for n in range(1, order + 1):
            right, left = knots[at + n], knots[at + n - order]
            gap = right - left
            share = np.where(gap == 0, 0.0, before[n - 1] / np.where(gap == 0, 1.0, gap))
            parts[n - 1] += np.where(gap == 0, 0.0, share * (right - x))
            parts[n] = np.where(gap == 0, 0.0, share * (x - left))
    splines = np.zeros((len(x), basis))
    rows = np.arange(len(x))
    for n in range(degree + 1):
        splines[rows, at - degree + n] = parts[n]
    wild = ~np.isfinite(parts).all(axis=0)
    if wild.any():  # scipy multiplies by zeros, too, and infinity times zero is NaN
        mine = (
            np.arange(basis) == (at[wild] - degree)[:, None, None] + np.arange(degree + 1)[:, None]
        )
        splines[wild] = (parts.T[wild][:, :, None] * mine).sum(axis=1)
    splines[np.isnan(x)] = np.nan
    return splines
