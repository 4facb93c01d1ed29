"""Operators with weights: products with matrices, convolutions, normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lipdescent.networks.onnx_file.builder import Call, Rule


def _gemm(c: Call, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """alpha A' B' + beta C."""
    alpha, beta = c.get("alpha", 1.0), c.get("beta", 1.0)
    a = a.mT if c.get("transA", 0) else a
    if not isinstance(c.inputs[1], Tensor):  # one layer
        b = b if c.get("transB", 0) else b.mT
        b = b if alpha == 1 else b * alpha
        if bias is None or isinstance(c.inputs[2], Tensor) or bias.numel() not in (1, len(b)):
            product = F.linear(a, b)
            return product if bias is None else product + beta * bias
        return F.linear(a, b, (bias if beta == 1 else bias * beta).flatten().expand(len(b)))
    product = a @ (b.mT if c.get("transB", 0) else b)
    product = product if alpha == 1 else product * alpha
    return product if bias is None else product + beta * bias


def _einsum(c: Call, *values: Tensor) -> Tensor:
    return torch.einsum(c.get("equation"), *values)


def pads(c: Call, x: Tensor, kernel: Sequence[int]) -> np.ndarray:
    """Numbers before and after each spatial axis: (2, count)."""
    count = len(kernel)
    auto = c.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        given = None if auto == "VALID" else c.get("pads")
        return np.zeros((2, count), int) if given is None else np.reshape(given, (2, count))
    strides, dilations = c.get("strides", [1] * count), c.get("dilations", [1] * count)
    sizes = zip(x.shape[2:], kernel, strides, dilations, strict=True)
    total = np.array([max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in sizes])
    small, large = total // 2, total - total // 2
    return np.stack([small, large] if auto == "SAME_UPPER" else [large, small])


def padded(x: Tensor, amount: np.ndarray, fill: float = 0.0) -> tuple[Tensor, tuple[int, ...]]:
    """What is left to pad by the layer itself, where both sides are alike."""
    if bool((amount[0] == amount[1]).all()):
        return x, tuple(amount[0].tolist())
    return F.pad(x, amount.T[::-1].flatten().tolist(), value=fill), (0,) * amount.shape[1]


def _convolution(c: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    count = weight.ndim - 2
    x, amount = padded(x, pads(c, x, weight.shape[2:]))
    ones = [1] * count
    options = (c.get("strides", ones), amount, c.get("dilations", ones), c.get("group", 1))
    return getattr(F, f"conv{count}d")(x, weight, bias, *options)


def _transposed(c: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    count = weight.ndim - 2
    ones, zeros = [1] * count, [0] * count
    if c.get("auto_pad", "NOTSET") != "NOTSET" or c.get("output_shape") is not None:
        raise c.refusal("auto_pad and output_shape are unknown; allowed are pads")
    amount = np.reshape(c.get("pads", 2 * zeros), (2, count))
    if not bool((amount[0] == amount[1]).all()):
        raise c.refusal("allowed are equal pads before and after")
    options = (c.get("strides", ones), amount[0].tolist(), c.get("output_padding", zeros))
    options += (c.get("group", 1), c.get("dilations", ones))
    return getattr(F, f"conv_transpose{count}d")(x, weight, bias, *options)


def _batch_norm(
    c: Call, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
) -> Any:
    if c.get("training_mode", 0):
        raise c.refusal("is in training mode; export the network in eval mode")
    eps = c.get("epsilon", 1e-5)
    return F.batch_norm(x, mean, variance, scale, shift, training=False, eps=eps)


def _instance_norm(c: Call, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=shift, eps=c.get("epsilon", 1e-5))


def _group_norm(c: Call, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    groups = c.get("num_groups")
    if len(scale) == groups != x.shape[1]:  # of version 18: one for each group
        repeats = x.shape[1] // groups
        scale, shift = (t.repeat_interleave(repeats) for t in (scale, shift))
    return F.group_norm(x, groups, scale, shift, c.get("epsilon", 1e-5))


def _layer_norm(c: Call, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    axis = c.get("axis", -1) % x.ndim
    if axis == 0 and x.shape[0] == 1 and x.ndim > 1:
        raise c.refusal("normalises over the batch")
    normal, eps = tuple(x.shape[axis:]), c.get("epsilon", 1e-5)
    scale = scale.expand(normal)
    if c.node.op_type in ("RMSNormalization", "SimplifiedLayerNormalization"):
        return F.rms_norm(x, normal, scale, eps)
    return F.layer_norm(x, normal, scale, None if shift is None else shift.expand(normal), eps)


def _attention(
    c: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *rest: Tensor | None
) -> Tensor:
    """Of queries, keys and values (1, heads, tokens, size), or heads side by side in the last."""
    if any(part is not None for part in rest) or c.get("softcap", 0.0):
        raise c.refusal("keys of the past and softcap are unknown; allowed are q, k, v and a mask")
    flat = q.ndim == 3
    if flat:
        heads = c.get("q_num_heads"), c.get("kv_num_heads"), c.get("kv_num_heads")
        q, k, v = (
            t.unflatten(-1, (n, -1)).transpose(1, 2) for t, n in zip((q, k, v), heads, strict=True)
        )
    options = {"is_causal": bool(c.get("is_causal", 0)), "scale": c.get("scale")}
    grouped = q.shape[1] != k.shape[1]
    found = F.scaled_dot_product_attention(q, k, v, mask, **options, enable_gqa=grouped)
    return found.transpose(1, 2).flatten(2) if flat else found


def _resampled(c: Call, x: Tensor, *_: Any) -> Tensor:
    """Each axis by its own matrix: neighbours of the places that outputs have in the input."""
    if c.get("antialias", 0) or c.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise c.refusal("antialias and keep_aspect_ratio_policy are unknown; allowed are none")
    axes = [axis % x.ndim for axis in c.get("axes", range(x.ndim))]
    old = c.node.op_type == "Upsample" or len(c.inputs) < 2 or c.opset < 11
    scales, sizes = c.argument(1 if old else 2, "scales"), None if old else c.argument(3)
    for i, axis in enumerate(axes):
        before = x.shape[axis]
        given = scales is None or not scales.size
        scale = sizes[i] / before if given else float(scales[i])  # type: ignore[index]
        after = int(sizes[i] if given else math.floor(before * scale))  # type: ignore[index]
        if after == before and scale == 1:
            continue
        matrix = _resampling(c, before, after, scale, old=old)
        if c.get("mode", "nearest") == "nearest":
            x = x.index_select(axis, torch.from_numpy(matrix.argmax(1)))
        else:
            turned = F.linear(x.movedim(axis, -1), torch.from_numpy(matrix).to(x.dtype))
            x = turned.movedim(-1, axis)
    return x


def _resampling(c: Call, before: int, after: int, scale: float, *, old: bool) -> np.ndarray:
    """The matrix (after, before) of one axis, by ONNX's definition."""
    j, kind = np.arange(after), c.get("coordinate_transformation_mode", "half_pixel")
    half = (j + 0.5) / scale - 0.5
    symmetric = before / 2 * (1 - after / (before * scale)) + half
    places = {
        "half_pixel": half,
        "half_pixel_symmetric": symmetric,
        "pytorch_half_pixel": half if after > 1 else half * 0,
        "align_corners": j * (before - 1) / max(after - 1, 1),
        "asymmetric": j / scale,
    }
    kind = "asymmetric" if old else kind
    if kind not in places:
        raise c.refusal(f"{kind} is unknown; allowed are {', '.join(places)}")
    place = places[kind]
    mode, how = c.get("mode", "nearest"), "floor" if old else c.get("nearest_mode", "")
    if mode == "nearest":
        nearest = {
            "floor": np.floor,
            "ceil": np.ceil,
            "round_prefer_ceil": lambda p: np.floor(p + 0.5),
        }.get(how, lambda p: np.ceil(p - 0.5))
        return np.eye(before)[nearest(place).astype(int).clip(0, before - 1)]
    reach = 2 if mode == "cubic" else 1
    matrix, low = np.zeros((after, before)), np.floor(place).astype(int)
    for k in range(1 - reach, reach + 1):
        weight = _kernel(place - (low + k), c.get("cubic_coeff_a", -0.75), cubic=reach == 2)
        inside = (low + k >= 0) & (low + k < before)
        weight = weight * inside if c.get("exclude_outside", 0) else weight
        np.add.at(matrix, (j, (low + k).clip(0, before - 1)), weight)
    return matrix / matrix.sum(1, keepdims=True)


def _kernel(x: np.ndarray, a: float, *, cubic: bool) -> np.ndarray:
    x = abs(x)
    if not cubic:
        return (1 - x).clip(0)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    return np.where(x <= 1, near, np.where(x < 2, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a, 0))


RULES: dict[str, Rule] = {
    "Gemm": _gemm,
    "MatMul": lambda c, a, b: torch.matmul(a, b),
    "Einsum": _einsum,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _layer_norm,
    "SimplifiedLayerNormalization": _layer_norm,
    "Attention": _attention,
    "Resize": _resampled,
    "Upsample": _resampled,
}
