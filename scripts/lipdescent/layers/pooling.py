"""Pools and resampling: one table or matrix per spatial axis.

Windows are products of intervals, so counts and averages factor over the axes, and the norm of a
Kronecker product is the product of the norms (in l1, l2 and l_inf).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipdescent.arithmetic import certified_norms, ulps
from lipdescent.layers._operators import Axis
from lipdescent.measurement import NotApplicable

Shape = tuple[int, ...]


def max_pool(
    module: Any, state: dict, *, input_shape: Shape, output_shape: Shape, norm: str
) -> float:
    """1 in l_inf; with every element in at most m windows, m in l1 and sqrt(m) in l2.

    A window's maximum moves by at most its largest change, so |dy|_2^2 <= m |dx|_2^2. Attained.
    """
    return _shared(_windows(module, input_shape, output_shape), norm)


def adaptive_max_pool(
    module: Any, state: dict, *, input_shape: Shape, output_shape: Shape, norm: str
) -> float:
    """As :func:`max_pool`, with the windows floor(i n / m) to ceil((i + 1) n / m)."""
    return _shared(_adaptive_windows(module, input_shape, output_shape), norm)


def average_pool(
    module: Any, state: dict, *, input_shape: Shape, output_shape: Shape, norm: str
) -> float:
    """Exact norm of the averaging matrix."""
    windows = _windows(module, input_shape, output_shape)
    override = getattr(module, "divisor_override", None)
    if not override:
        sizes = _window_sizes(module, input_shape, output_shape)
        windows = [w / s[:, None] for w, s in zip(windows, sizes, strict=True)]
    value = _kronecker_norm(windows, norm)
    return _up(value / abs(override)) if override else value


def adaptive_average_pool(
    module: Any, state: dict, *, input_shape: Shape, output_shape: Shape, norm: str
) -> float:
    """Exact norm of the averaging matrix."""
    windows = _adaptive_windows(module, input_shape, output_shape)
    return _kronecker_norm([w / w.sum(1, keepdim=True) for w in windows], norm)


def power_pool(
    module: Any, state: dict, *, input_shape: Shape, output_shape: Shape, norm: str
) -> float:
    """(sum x^p)^(1/p) over windows, for p = 1 (a linear map) and even p.

    A window of k elements has the constant 1 in l2 and l1, as |.|_p <= |.|_2, and k^(1/p) in
    l_inf. Odd p > 1 lets x^p cancel: the root's slope is unbounded there.
    """
    p, dims = module.norm_type, _dims(module)
    if p != 1 and (p % 2 or p <= 0):
        raise NotApplicable(f"{type(module).__name__} with p = {p}: allowed are 1 and even p")
    windows = _windows(module, input_shape, output_shape)
    # At the border of a ceil_mode pool torch averages fewer elements but multiplies by all.
    kernel = _per_axis(module.kernel_size, dims)
    full = [(k / w.sum(1)) for k, w in zip(kernel, windows, strict=True)]
    if p == 1:
        return _kronecker_norm([w * f[:, None] for w, f in zip(windows, full, strict=True)], norm)
    if norm == "linf":
        return _up(math.prod(kernel) ** (1 / p))
    return _up(_shared(windows, norm) * math.prod(float(f.max()) for f in full) ** (1 / p))


def padding(module: Any, state: dict, *, input_shape: Shape, norm: str, **_: Any) -> float:
    """Zeros and constants: 1. Else an element shown m times: m in l1, sqrt(m) in l2, 1 in l_inf."""
    modes = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
    name = type(module).__name__.partition("Pad")[0]
    if name not in modes or norm == "linf":
        return 1.0
    tables = []
    for a, size in enumerate(reversed(input_shape)):
        sides = (*module.padding, *[0] * 2 * len(input_shape))[2 * a : 2 * a + 2]
        # From torch itself: a side that crops (negative) changes what the other one repeats.
        places = torch.arange(size, dtype=torch.float64)
        # Two examples: with one, torch mistakes a crop with a long side for aliased memory.
        source = F.pad(places.repeat(2, 1, 1), sides, mode=modes[name])[0, 0]
        tables.append((source[:, None] == places).to(torch.float64))
    return _shared(tables, norm)


def upsample(
    module: Any, state: dict, *, input_shape: Shape, output_shape: Shape, norm: str
) -> float:
    """Exact norm of the interpolation matrix of each axis, taken from ``interpolate`` itself."""
    if module.recompute_scale_factor:
        raise NotApplicable(f"{type(module).__name__} with recompute_scale_factor is not covered")
    dims = len(input_shape) - 1
    scales = module.scale_factor
    if scales is not None and not isinstance(scales, tuple):
        scales = (scales,) * dims
    nearest = module.mode.startswith("nearest")
    mode = {"linear": "bilinear", "trilinear": "bilinear"}.get(module.mode, module.mode)
    value = 1.0
    for a in range(dims):
        unit = torch.eye(input_shape[1 + a], dtype=torch.float64)[:, None, :, None]
        target = (
            {"size": (output_shape[1 + a], 1)}
            if scales is None
            else {"scale_factor": (scales[a], 1.0)}
        )
        matrix = F.interpolate(unit, mode=mode, align_corners=module.align_corners, **target)
        matrix = matrix[:, 0, :, 0].T
        # Positions below n are computed in float64: each weight is off by at most 32 n u.
        taps = (matrix != 0).to(torch.float64)
        slack = 0.0 if nearest else 32 * matrix.shape[1] * ulps.UNIT_ROUNDOFF
        slack *= math.sqrt((taps.sum(0).max() + 2) * (taps.sum(1).max() + 2))
        slack *= math.sqrt(matrix.shape[0]) if norm == "l1" else math.sqrt(4)
        value = _up(value * (_kronecker_norm([matrix], norm) + slack))
    return value


def _windows(module: Any, input_shape: Shape, output_shape: Shape) -> list[Tensor]:
    """Per axis float64 (outputs, size): 1 where the window reads the element."""
    dims = _dims(module)
    kernel = _per_axis(module.kernel_size, dims)
    stride = _per_axis(module.stride if module.stride is not None else kernel, dims)
    pad = _per_axis(getattr(module, "padding", 0), dims)
    dilation = _per_axis(getattr(module, "dilation", 1), dims)
    sizes, outputs = input_shape[-dims:], output_shape[-dims:]
    return [
        Axis(sizes[a], outputs[a], kernel[a], stride[a], dilation[a], pad[a]).one_hot().sum(1)
        for a in range(dims)
    ]


def _window_sizes(module: Any, input_shape: Shape, output_shape: Shape) -> list[Tensor]:
    """Per axis float64 (outputs,): by what an average divides."""
    windows = _windows(module, input_shape, output_shape)
    if not module.count_include_pad:
        return [w.sum(1) for w in windows]
    dims, sizes = _dims(module), []
    for a in range(dims):
        kernel = _per_axis(module.kernel_size, dims)[a]
        pad = _per_axis(module.padding, dims)[a]
        stride = _per_axis(module.stride if module.stride is not None else kernel, dims)[a]
        start = torch.arange(output_shape[-dims:][a]) * stride - pad
        end = (start + kernel).clamp_max(input_shape[-dims:][a] + pad)
        sizes.append((end - start).to(torch.float64))
    return sizes


def _adaptive_windows(module: Any, input_shape: Shape, output_shape: Shape) -> list[Tensor]:
    tables = []
    for n, m in list(zip(input_shape, output_shape, strict=True))[-_dims(module) :]:
        i, x = torch.arange(m)[:, None], torch.arange(n)
        inside = (x >= i * n // m) & (x < -(-(i + 1) * n // m))
        tables.append(inside.to(torch.float64))
    return tables


def _shared(windows: list[Tensor], norm: str) -> float:
    """1, sqrt(m) or m with m the largest number of windows that share an element."""
    count = math.prod(float(w.sum(0).max()) for w in windows)
    return {"linf": 1.0, "l1": count, "l2": _up(math.sqrt(count))}[norm]


def _kronecker_norm(matrices: list[Tensor], norm: str) -> float:
    function = certified_norms.NORMS[norm]
    value = torch.ones((), dtype=torch.float64)
    for matrix in matrices:
        # Entries are quotients of integers, and non-negative: one rounding each, relative.
        value = ulps.round_up(value * function(matrix), 6)
    return float(value)


def _dims(module: nn.Module) -> int:
    return int(type(module).__name__[-2])


def _per_axis(value: int | Sequence[int], dims: int) -> Shape:
    each = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return each * dims if len(each) == 1 else each


def _up(value: float) -> float:
    """Two units in the last place up, exact for whole numbers."""
    return value if value == int(value) else value * (1 + 2**-51)


def _named(*names: str) -> list[type[nn.Module]]:
    return [getattr(nn, f"{name}{dims}d") for name in names for dims in (1, 2, 3)]


TABLE: dict[type[nn.Module], Callable[..., float]] = {
    **dict.fromkeys(_named("MaxPool"), max_pool),
    **dict.fromkeys(_named("AvgPool"), average_pool),
    **dict.fromkeys(_named("AdaptiveMaxPool"), adaptive_max_pool),
    **dict.fromkeys(_named("AdaptiveAvgPool"), adaptive_average_pool),
    **dict.fromkeys(_named("LPPool"), power_pool),
    **dict.fromkeys(
        _named("ZeroPad", "ConstantPad", "ReflectionPad", "ReplicationPad", "CircularPad"), padding
    ),
    nn.Upsample: upsample,
    nn.UpsamplingNearest2d: upsample,
    nn.UpsamplingBilinear2d: upsample,
}
