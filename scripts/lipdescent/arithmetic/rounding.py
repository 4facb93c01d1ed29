"""Rounding for the authors of bounds: ``from lipdescent.arithmetic.rounding import certified_norm,
round_up``.

A bound that is published as ``upper`` or ``lower`` includes its rounding errors: take it in
float64 and move it by as many units in the last place as its operations may have rounded::

    values = certified_norm(stack.state["0.weight"], norm=norm)    # |W|, rounded up
    values = round_up(values * certified_norm(second, norm=norm))  # one product: one rounding

Every operation on float64 numbers (a sum, product, quotient, square root) rounds once; a sum of k
terms of one sign k - 1 times. Sums of both signs cancel: bound their error by gamma(k) times the
sum of absolute values, and add that. Values that have ever been float32 are not bounds.
"""

from torch import Tensor

from lipdescent.arithmetic.certified_norms import NORMS, certified_max_eigenvalue
from lipdescent.arithmetic.ulps import UNIT_ROUNDOFF, gamma, round_down, round_up

__all__ = [
    "UNIT_ROUNDOFF",
    "certified_max_eigenvalue",
    "certified_norm",
    "gamma",
    "round_down",
    "round_up",
]


def certified_norm(matrix: Tensor, *, norm: str) -> Tensor:
    """Upper bound on the operator norm of every matrix, rounding included.

    Parameters
    ----------
    matrix : (..., m, n) real, of any floating-point type, taken as it is.
    norm : "l2", "linf" or "l1", on inputs and outputs.

    Returns
    -------
    float64 (...).

    Raises
    ------
    TypeError, ValueError
        For anything but finite floating-point matrices, or an unknown norm.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r}: allowed are {', '.join(NORMS)}")
    return NORMS[norm](matrix)
