"""What a ``forward`` does beside PyTorch's layers, as layers: one small module per kind.

They act on (n, *shape) like any layer. Their constants are in :mod:`lipdescent.layers.operations`,
their rounding errors in :mod:`lipdescent.bounds.proofs.forward_error`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class _Elementwise(nn.Module):
    """A number, or a tensor ``weight`` of the stated shape, which broadcasts with the values.

    Parameters
    ----------
    shape : of the tensor, without the batch axis; None for the number.
    number : used without a tensor.
    """

    weight: Tensor | None

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        number: float = 1.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.number = None if shape is None else tuple(shape), number
        weight = None if shape is None else torch.ones(self.shape or (), device=device, dtype=dtype)
        self.register_buffer("weight", weight)

    def extra_repr(self) -> str:
        return f"{self.number}" if self.shape is None else f"{self.shape}"


class Scale(_Elementwise):
    """x times a number or tensor, entry by entry."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.number if self.weight is None else self.weight)


class Divide(_Elementwise):
    """x by a number or tensor, entry by entry."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (self.number if self.weight is None else self.weight)


class Shift(_Elementwise):
    """x plus a number or tensor, entry by entry."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.number if self.weight is None else self.weight)


class Gather(nn.Module):
    """Each output is an input or the number ``fill``: slices, permutations, pads, copies.

    Parameters
    ----------
    index : integers (*output shape): of the flat input, -1 for ``fill``.
    """

    def __init__(self, index: Tensor, fill: float = 0.0) -> None:
        super().__init__()
        self.index, self.fill = index, fill

    def forward(self, x: Tensor) -> Tensor:
        index = self.index.to(x.device)
        flat = x.reshape(len(x), -1)
        found = flat[:, index.clamp_min(0).flatten()].reshape(len(x), *index.shape)
        if bool((self.index < 0).any()):
            found = torch.where(index < 0, torch.as_tensor(self.fill, dtype=x.dtype), found)
        return found

    def multiplicity(self) -> int:
        """How often the input that is shown most often is shown."""
        shown = self.index[self.index >= 0]
        return int(torch.bincount(shown.flatten()).max()) if shown.numel() else 0

    def extra_repr(self) -> str:
        return f"{tuple(self.index.shape)}"


REDUCTIONS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "sum": lambda x, axes: x.sum(axes),
    "mean": lambda x, axes: x.mean(axes),
    "max": lambda x, axes: x.amax(axes),
    "min": lambda x, axes: x.amin(axes),
    "length": lambda x, axes: torch.linalg.vector_norm(x, dim=axes),
    "logsumexp": lambda x, axes: x.logsumexp(axes),
}


class Reduce(nn.Module):
    """Sum, mean, maximum, minimum, l2 length or log-sum-exp over some axes, 0 behind the batch.

    Where no axis is left, one of length 1 is.
    """

    def __init__(self, kind: str, axes: Sequence[int]) -> None:
        super().__init__()
        if kind not in REDUCTIONS:
            raise ValueError(f"kind {kind!r}: allowed are {', '.join(REDUCTIONS)}")
        self.kind, self.axes = kind, tuple(axes)

    def forward(self, x: Tensor) -> Tensor:
        y = REDUCTIONS[self.kind](x, [axis + 1 for axis in self.axes])
        return y if y.ndim > 1 else y[:, None]

    def count(self, input_shape: Shape) -> int:
        """Numbers that become one."""
        return math.prod(input_shape[axis] for axis in self.axes)

    def extra_repr(self) -> str:
        return f"{self.kind}, axes {self.axes}"


@dataclass(frozen=True)
class Scalar:
    """A function of one number, and its slopes on the whole line; None where not bounded."""

    value: Callable[[Tensor, float], Tensor]
    slopes: Callable[[float], tuple[float, float] | None]


def _slopes(low: float, high: float) -> Callable[[float], tuple[float, float]]:
    return lambda argument: (low, high)


def _unbounded(argument: float) -> None:
    return None


def _steepest(formula: Callable[[float], float], *, down: bool) -> Callable[[float], tuple]:
    """From 0, or from minus it, to the steepest slope of an argument, rounded up."""

    def slopes(argument: float) -> tuple[float, float]:
        steep = formula(argument) * (1 + 2.0**-50)
        return (-steep if down else 0.0), steep

    return slopes


def _log_of_one_and(x: Tensor, precise: float) -> Tensor:
    return x.log1p() if precise else (1 + x).log()


# x gate(x) has slopes of x gate(a x), too: a times it is the same function of a x.
_SILU, _GELU = (-0.0998393201288670, 1.0998393201288670), (-0.1289041451851549, 1.1289041451851549)
_TWO_BY_ROOT_PI = math.nextafter(2 / math.sqrt(math.pi), math.inf)
# Those that no operation of PyTorch is alone: networks write them out.
WRITTEN_OUT = ("swish", "erf_gate", "softsign", "isru", "gaussian", "logcosh", "softplus")
# ``argument`` is the second number of those that take two.
SCALARS: dict[str, Scalar] = {
    "sin": Scalar(lambda x, _: x.sin(), _slopes(-1.0, 1.0)),
    "cos": Scalar(lambda x, _: x.cos(), _slopes(-1.0, 1.0)),
    "abs": Scalar(lambda x, _: x.abs(), _slopes(-1.0, 1.0)),
    "atan": Scalar(lambda x, _: x.atan(), _slopes(0.0, 1.0)),
    "asinh": Scalar(lambda x, _: x.asinh(), _slopes(0.0, 1.0)),
    "erf": Scalar(lambda x, _: x.erf(), _slopes(0.0, _TWO_BY_ROOT_PI)),
    # a is ``argument``, > 0 but for the gates: x sigmoid(a x), x (1 + erf(a x)), x / (|x| + a),
    # x / sqrt(x^2 + a), exp(-a x^2), log(cosh(x)); softplus as log(1 + exp(x)), or by log1p
    # where a = 1. The last two overflow and vanish where what is written out does.
    "swish": Scalar(lambda x, a: x * torch.sigmoid(a * x), _slopes(*_SILU)),
    "erf_gate": Scalar(lambda x, a: x * (1 + torch.erf(a * x)), _slopes(*(2 * s for s in _GELU))),
    "softsign": Scalar(lambda x, a: x / (x.abs() + a), _steepest(lambda a: 1 / a, down=False)),
    "isru": Scalar(
        lambda x, a: x / torch.hypot(x, torch.full_like(x, a).sqrt()),
        _steepest(lambda a: 1 / math.sqrt(a), down=False),
    ),
    "gaussian": Scalar(
        lambda x, a: torch.exp(-a * x * x),
        _steepest(lambda a: math.sqrt(2 * a / math.e), down=True),
    ),
    "logcosh": Scalar(lambda x, _: x.cosh().log(), _slopes(-1.0, 1.0)),
    "softplus": Scalar(lambda x, a: _log_of_one_and(x.exp(), a), _slopes(0.0, 1.0)),
    "at_most": Scalar(lambda x, c: x.clamp_max(c), _slopes(0.0, 1.0)),
    "sign": Scalar(lambda x, _: x.sign(), _unbounded),
    "exp": Scalar(lambda x, _: x.exp(), _unbounded),
    "expm1": Scalar(lambda x, _: x.expm1(), _unbounded),
    "log": Scalar(lambda x, _: x.log(), _unbounded),
    "log1p": Scalar(lambda x, _: x.log1p(), _unbounded),
    "square": Scalar(lambda x, _: x * x, _unbounded),
    "sqrt": Scalar(lambda x, _: x.sqrt(), _unbounded),
    "rsqrt": Scalar(lambda x, _: x.rsqrt(), _unbounded),
    "reciprocal": Scalar(lambda x, _: x.reciprocal(), _unbounded),
    "power": Scalar(lambda x, p: x**p, _unbounded),
    "sinh": Scalar(lambda x, _: x.sinh(), _unbounded),
    "cosh": Scalar(lambda x, _: x.cosh(), _unbounded),
    "tan": Scalar(lambda x, _: x.tan(), _unbounded),
}


class Function(nn.Module):
    """A function of ``SCALARS``, entry by entry."""

    def __init__(self, name: str, argument: float = 0.0) -> None:
        super().__init__()
        if name not in SCALARS:
            raise ValueError(f"function {name!r}: allowed are {', '.join(SCALARS)}")
        self.name, self.argument = name, argument

    def forward(self, x: Tensor) -> Tensor:
        return SCALARS[self.name].value(x, self.argument)

    def extra_repr(self) -> str:
        return self.name


_POWERS = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}


def power(exponent: float) -> Function:
    """x to the power of a number, by the name that some have."""
    return Function(_POWERS[exponent]) if exponent in _POWERS else Function("power", exponent)
