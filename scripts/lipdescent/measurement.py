"""What every bound gives, and how it says that there is none."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class NotApplicable(Exception):
    """The bound does not exist for this network or norm; the message is the reason."""


def refuse_other_norms(norms: Sequence[str], known: Sequence[str]) -> None:
    """Raise NotApplicable for the first of ``norms`` that is not ``known``."""
    for norm in norms:
        if norm not in known:
            raise NotApplicable(f"norm {norm!r}: this bound exists in {', '.join(known)}")


@dataclass(frozen=True)
class Measurement:
    """One quantity for every model of a stack.

    Attributes
    ----------
    quantity : for a bound, the name of its module.
    direction : "upper" (certified, rounding included), "lower" (attained), "estimate", "declared"
        (from above, resting on what a user declared of a layer) or "metric".
    norm : "l2", "linf", "l1", or "" where no norm is involved. The same norm on inputs and outputs.
    values : float64 (num_models,).
    split : the data it was taken on: "train", "test", or "" where no data are involved.
    defined : bool (num_models,), False where a model does not have the quantity; None: all have it.
    largest_at : int64 (num_models, k), of a largest value over points the k points of the split
        with the largest ones, where another measurement of the same models can begin with them.

    Raises
    ------
    TypeError
        If the values are not float64 (num_models,): a rounding to float32 would void a bound.
    """

    quantity: str
    direction: str
    norm: str
    values: Tensor
    split: str = ""
    defined: Tensor | None = None
    largest_at: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.dtype != torch.float64 or self.values.dim() != 1:
            given = f"{self.values.dtype} {tuple(self.values.shape)}"
            raise TypeError(f"{self.quantity}: values are {given}, expected float64 (num_models,)")
