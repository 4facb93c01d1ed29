"""Activation functions: the range of their slopes, and what does not act entry by entry.

A scalar function with slopes in [a, b] has the constant max(|a|, |b|) in every norm. Extrema that
have no closed form are the zeros of the second derivative, to 17 digits, rounded outwards.
Slopes at kinks are those of either side.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.measurement import NotApplicable
from lipdescent.networks.operations import Function

State = dict[str, Tensor]
Slope = float | Tensor
# Of a class, whose own options a function of it reads.
Slopes = Callable[[Any, State], tuple[Slope, Slope]]

Softmax = nn.Softmax | nn.Softmin | nn.Softmax2d | nn.LogSoftmax

SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def _fixed(low: float, high: float) -> Slopes:
    return lambda module, state: (low, high)


def _rounded(low: float, high: float) -> Slopes:
    """Extrema that are not floating-point numbers, moved outwards."""
    return _fixed(math.nextafter(low, -math.inf), math.nextafter(high, math.inf))


def _leaky(module: nn.LeakyReLU, state: State) -> tuple[float, float]:
    return _between_one_and(module.negative_slope)


def _rrelu(module: nn.RReLU, state: State) -> tuple[float, float]:
    """In eval mode the slope is the middle of the interval."""
    middle = (module.lower + module.upper) / 2
    return min(1.0, math.nextafter(middle, -math.inf)), max(1.0, _up(middle))


def _prelu(module: nn.Module, state: State) -> tuple[Tensor, Tensor]:
    weight = state["weight"].to(torch.float64)
    return weight.amin(1).clamp_max(1.0), weight.amax(1).clamp_min(1.0)


def _elu(module: nn.ELU, state: State) -> tuple[float, float]:
    """Slope alpha exp(x) for x < 0, which tends to 0, and 1 for x > 0."""
    return min(0.0, module.alpha), max(1.0, module.alpha)


def _celu(module: nn.CELU, state: State) -> tuple[float, float]:
    if module.alpha <= 0:
        raise NotApplicable(f"CELU with alpha = {module.alpha} has no bounded slope; alpha > 0")
    return 0.0, 1.0


def _softplus(module: nn.Softplus, state: State) -> tuple[float, float]:
    """The sigmoid of beta x. torch jumps by log(1 + exp(-threshold)) / beta at the threshold."""
    if not module.threshold >= 20:  # nor NaN
        raise NotApplicable(f"Softplus jumps at threshold = {module.threshold}; allowed: >= 20")
    return 0.0, 1.0


def _gelu(module: nn.GELU, state: State) -> tuple[Slope, Slope]:
    """Extrema of Phi(x) + x phi(x) at +-sqrt 2, or those of the tanh form."""
    if module.approximate == "none":
        return _rounded(-0.12890414518515480, 1.1289041451851548)(module, state)
    return _rounded(-0.12899306865877178, 1.1289930686587718)(module, state)


def jump(module: nn.Module) -> str:
    """That a function jumps, where, and what would help; empty for all others."""
    if isinstance(module, nn.Threshold):
        name, places = "Threshold", [module.threshold] * (module.threshold != module.value)
    elif isinstance(module, nn.Hardshrink):  # of lambd <= 0 the identity
        name, places = "Hardshrink", [] if module.lambd <= 0 else [-module.lambd, module.lambd]
    else:
        name, places = getattr(module, "name", ""), [0.0]
        places = places if isinstance(module, Function) and name == "sign" else []
    if not places:
        return ""
    where = " and ".join(f"{place:g}" for place in places)
    return (
        f"{name} jumps at {where}: it is not Lipschitz, no constant exists; on a domain where its "
        "inputs stay away from there it may have one"
    )


def _unless_it_jumps(low: float, high: float) -> Slopes:
    def found(module: nn.Module, state: State) -> tuple[float, float]:
        if said := jump(module):
            raise NotApplicable(said)
        return low, high

    return found


def _between_one_and(slope: float) -> tuple[float, float]:
    return min(1.0, slope), max(1.0, slope)


def _up(x: float) -> float:
    return math.nextafter(x, math.inf)


SLOPES: dict[type[nn.Module], Slopes] = {
    nn.ReLU: _fixed(0.0, 1.0),
    nn.ReLU6: _fixed(0.0, 1.0),
    nn.Hardtanh: _fixed(0.0, 1.0),
    nn.LeakyReLU: _leaky,
    nn.PReLU: _prelu,
    nn.RReLU: _rrelu,
    nn.ELU: _elu,
    nn.CELU: _celu,
    nn.SELU: _fixed(0.0, _up(_up(SELU_SCALE * SELU_ALPHA))),
    nn.GELU: _gelu,
    nn.SiLU: _rounded(-0.09983932012886692, 1.0998393201288669),
    nn.Mish: _rounded(-0.11252612238946256, 1.0884981612517279),
    nn.Hardswish: _fixed(-0.5, 1.5),
    # 1/6, but torch's derivative is 1/6 in float32, a little more.
    nn.Hardsigmoid: _rounded(0.0, 0.16666667163372042),
    nn.Sigmoid: _fixed(0.0, 0.25),
    nn.Tanh: _fixed(0.0, 1.0),
    nn.Softplus: _softplus,
    nn.Softsign: _fixed(0.0, 1.0),
    nn.LogSigmoid: _fixed(0.0, 1.0),
    nn.Softshrink: _fixed(0.0, 1.0),
    nn.Tanhshrink: _fixed(0.0, 1.0),
    nn.Threshold: _unless_it_jumps(0.0, 1.0),
    nn.Hardshrink: _unless_it_jumps(1.0, 1.0),
}


def slopes(module: nn.Module, state: State) -> tuple[Slope, Slope]:
    """Smallest and largest slope of a scalar activation: numbers or float64 (models,).

    Raises
    ------
    KeyError
        If ``module`` does not act entry by entry.
    NotApplicable
        If the slopes are not bounded.
    """
    return SLOPES[type(module)](module, state)


def scalar(module: nn.Module, state: State, **_: Any) -> Slope:
    """Constant max(|a|, |b|) of a function with slopes in [a, b], in every norm."""
    low, high = slopes(module, state)
    if isinstance(low, Tensor) and isinstance(high, Tensor):
        return torch.maximum(low.abs(), high.abs())
    return max(abs(float(low)), abs(float(high)))


def softmax(
    module: Softmax, state: State, *, input_shape: tuple[int, ...], norm: str, **_: Any
) -> float:
    """J = diag(p) - p p^T: 1/2 in each norm, at p = (1/2, 1/2, 0, ...). 0 for one class."""
    return 0.0 if _classes(module, input_shape) == 1 else 0.5


def log_softmax(
    module: nn.LogSoftmax, state: State, *, input_shape: tuple[int, ...], norm: str, **_: Any
) -> float:
    """J = I - 1 p^T, an oblique projection: |J|_2 = sqrt(n) |p|_2 <= sqrt(n).

    l_inf: a row sums to 2 (1 - p_i) <= 2; l1: a column to 1 + (n - 2) p_j <= n - 1.
    """
    n = _classes(module, input_shape)
    if n == 1:
        return 0.0
    return {"l2": _up(math.sqrt(n)), "linf": 2.0, "l1": float(n - 1)}[norm]


def _classes(module: Softmax, input_shape: tuple[int, ...]) -> int:
    if isinstance(module, nn.Softmax2d):
        return input_shape[0]
    if module.dim is None:
        raise ValueError(f"{type(module).__name__}: give it a dim; without one torch guesses")
    dim = module.dim if module.dim < 0 else module.dim - 1
    return input_shape[dim]


def unbounded(module: nn.Module, state: State, **_: Any) -> float:
    """Products of inputs grow without limit."""
    raise NotApplicable(f"{type(module).__name__} multiplies its inputs: no global constant")


def attention(module: nn.Module, state: State, **_: Any) -> float:
    """Dot-product attention."""
    raise NotApplicable(
        "dot-product attention is not globally Lipschitz (Kim et al. 2021, arXiv 2006.04710)"
    )


ATTENTIONS = (
    *(nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
    *(nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer),
)
TABLE: dict[type[nn.Module], Callable[..., Slope]] = {
    **dict.fromkeys(SLOPES, scalar),
    **dict.fromkeys((nn.Softmax, nn.Softmin, nn.Softmax2d), softmax),
    nn.LogSoftmax: log_softmax,
    **dict.fromkeys((nn.GLU, nn.Bilinear), unbounded),
    **dict.fromkeys(ATTENTIONS, attention),
}
