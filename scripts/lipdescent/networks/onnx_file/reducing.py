"""Operators over axes: pools, sums, means, extrema, softmax, concatenation, sorting."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lipdescent.networks.onnx_file.calls import Call, Rule
from lipdescent.networks.onnx_file.weighted import padded, pads

REDUCED: dict[str, Callable[..., Tensor]] = {
    "ReduceSum": torch.sum,
    "ReduceMean": torch.mean,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL1": lambda x, axes, kept: x.abs().sum(axes, kept),
    "ReduceL2": lambda x, axes, kept: torch.linalg.vector_norm(x, 2, axes, kept),
    "ReduceSumSquare": lambda x, axes, kept: x.square().sum(axes, kept),
    "ReduceLogSum": lambda x, axes, kept: x.sum(axes, kept).log(),
    "ReduceLogSumExp": torch.logsumexp,
}


def _reduced(c: Call, x: Tensor, *_: Any) -> Tensor:
    given = c.argument(1, "axes")
    if given is None or not given.size:
        if c.get("noop_with_empty_axes", 0):  # of each number alone
            return REDUCED[c.node.op_type](x.unsqueeze(-1), [x.ndim], False)
        given = np.arange(x.ndim)
    axes = sorted({int(axis) % x.ndim for axis in given.reshape(-1)})
    return REDUCED[c.node.op_type](x, axes, bool(c.get("keepdims", 1)))


def _softmax(c: Call, x: Tensor) -> Tensor:
    """Before version 13 over all axes from ``axis`` on, since then along ``axis``."""
    old = c.opset < 13
    axis = c.get("axis", 1 if old else -1) % x.ndim
    function = F.softmax if c.node.op_type == "Softmax" else F.log_softmax
    if not old or axis == x.ndim - 1:
        return function(x, axis - x.ndim)
    return function(x.flatten(axis), -1).reshape(x.shape)


def _running_sum(c: Call, x: Tensor, *_: Any) -> Tensor:
    axis = int(c.number(1) or 0) % x.ndim
    x = x.flip(axis) if c.get("reverse", 0) else x
    found = x.cumsum(axis)
    if c.get("exclusive", 0):
        found = found - x
    return found.flip(axis) if c.get("reverse", 0) else found


def _pool(c: Call, x: Tensor) -> Any:
    kernel, largest = tuple(c.get("kernel_shape")), c.node.op_type == "MaxPool"
    count = len(kernel)
    name = f"{'max' if largest else 'avg'}_pool{count}d"
    options: Any = {"stride": c.get("strides", [1] * count), "ceil_mode": bool(c.get("ceil_mode"))}
    dilation, counted = c.get("dilations", [1] * count), bool(c.get("count_include_pad", 0))
    own = pads(c, x, kernel)
    if not largest and (any(d != 1 for d in dilation) or not (counted or (own[0] == own[1]).all())):
        raise c.refusal(f"a mean with pads {own.tolist()} and dilations {dilation} is unknown")
    x, options["padding"] = padded(x, own, -math.inf if largest else 0.0)
    options |= {"dilation": dilation} if largest else {"count_include_pad": counted}
    found = getattr(F, name)(x, kernel, **options)
    return [found, None] if largest else found


def _global_pool(c: Call, x: Tensor) -> Tensor:
    axes = tuple(range(2, x.ndim))
    return (x.amax if c.node.op_type == "GlobalMaxPool" else x.mean)(axes, keepdim=True)


def _largest(c: Call, x: Tensor, *_: Any) -> Any:
    count, axis = int(c.number(1, "k") or 0), c.get("axis", -1)
    if count > 1 and not c.get("sorted", 1):
        raise c.refusal("sorted = 0 leaves the order of its outputs open; allowed is sorted = 1")
    return [torch.topk(x, count, axis, bool(c.get("largest", 1)))[0], None]


def _local_response(c: Call, x: Tensor) -> Tensor:
    alpha, beta, bias = c.get("alpha", 1e-4), c.get("beta", 0.75), c.get("bias", 1.0)
    return F.local_response_norm(x, c.get("size"), alpha, beta, bias)


RULES: dict[str, Rule] = {
    **dict.fromkeys(REDUCED, _reduced),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "Concat": lambda c, *values: torch.cat(values, c.get("axis", 1)),
    "CumSum": _running_sum,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    "TopK": _largest,
    "LRN": _local_response,
}
