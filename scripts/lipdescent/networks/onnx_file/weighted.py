"""Operators with weights: products with matrices, convolutions, normalisations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lipdescent.networks.onnx_file.calls import Call, Rule


def _gemm(c: Call, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """alpha A' B' + beta C."""
    alpha, beta = c.get("alpha", 1.0), c.get("beta", 1.0)
    a = a.mT if c.get("transA", 0) else a
    if not isinstance(c.inputs[1], Tensor):  # one layer
        b = b if c.get("transB", 0) else b.mT
        b = b if alpha == 1 else b * alpha
        row = bias is not None and bias.numel() == (bias.shape[-1] if bias.ndim else 1)
        if bias is None or not row or isinstance(c.inputs[2], Tensor):
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
    total = np.array([(-(-n // s) - 1) * s + d * (k - 1) + 1 - n for n, k, s, d in sizes])
    if (total < 0).any() and c.node.op_type != "Conv":
        raise c.refusal(f"auto_pad {auto} of a kernel smaller than its strides is undefined")
    total = total.clip(0)
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
    options = (
        *(c.get("strides", ones), amount[0].tolist(), c.get("output_padding", zeros)),
        *(c.get("group", 1), c.get("dilations", ones)),
    )
    return getattr(F, f"conv_transpose{count}d")(x, weight, bias, *options)


def _batch_norm(
    c: Call, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
) -> Any:
    # Before version 14, whoever asks for the statistics of the batch has it normalise by them.
    if c.get("training_mode", 0) or (c.opset < 14 and any(c.node.output[1:])):
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


def _folded(c: Call, x: Tensor, *_: Any) -> Tensor:
    size, kernel = (np.asarray(c.argument(i)) for i in (1, 2))
    count = len(size)
    amount = np.reshape(c.get("pads", [0] * 2 * count), (2, count))
    if count != 2 or (amount[0] != amount[1]).any():
        raise c.refusal("allowed are images of two axes with equal pads before and after")
    strides, dilations = c.get("strides", [1, 1]), c.get("dilations", [1, 1])
    return F.fold(x, size.tolist(), kernel.tolist(), dilations, amount[0].tolist(), strides)


RULES: dict[str, Rule] = {
    "Col2Im": _folded,
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
}
