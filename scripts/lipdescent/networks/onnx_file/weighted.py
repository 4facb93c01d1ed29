"""Operators with weights: products with matrices, convolutions, normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lipdescent.networks.graph import Attention, MatrixProduct
from lipdescent.networks.onnx_file.builder import Builder, Call, Rule, tensor
from lipdescent.networks.operations import Divide, Scale
from lipdescent.networks.vertices import Size, Value, shape_of


def set_tensors(module: nn.Module, **arrays: np.ndarray | None) -> nn.Module:
    """The module with copies of these arrays as its parameters and buffers."""
    for name, array in arrays.items():
        if array is None:
            continue
        if name in module._buffers:
            module._buffers[name] = tensor(array)
        else:
            setattr(module, name, nn.Parameter(tensor(array)))
    return module


def linear(weight: np.ndarray, bias: np.ndarray | None = None) -> nn.Linear:
    """x -> weight x + bias on the last axis."""
    outputs, inputs = weight.shape
    module = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    bias = None if bias is None else np.broadcast_to(bias.reshape(-1), (outputs,))
    set_tensors(module, weight=weight, bias=bias)
    return module


def _gemm(builder: Builder, call: Call) -> Value:
    """alpha A' B' + beta C, where A depends on the input and B and C do not."""
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    weight, bias = call.argument(1), call.argument(2)
    value = call.value()
    assert weight is not None
    weight = weight if call.get("transB", 0) else weight.T
    if call.get("transA", 0):
        value = builder.swapped(value, call)
    if bias is not None and bias.size not in (1, len(weight)):
        raise call.refusal(f"its third input has shape {bias.shape}; allowed is a number a column")
    weight = weight if alpha == 1 else weight * np.asarray(alpha, weight.dtype)
    bias = bias if bias is None or beta == 1 else bias * np.asarray(beta, bias.dtype)
    return builder.apply(linear(weight, bias), value, (*value.size[:-1], len(weight)), call)


def _matmul(builder: Builder, call: Call) -> Value:
    a, b = call.inputs
    if isinstance(a, Value) and isinstance(b, np.ndarray) and b.ndim <= 2:
        weight = b.T.reshape(-1, len(b))
        value = builder.apply(linear(weight), a, (*a.size[:-1], len(weight)), call)
        return value if b.ndim == 2 else builder.in_size(value, a.size[:-1], call)
    if isinstance(b, Value) and isinstance(a, np.ndarray) and a.ndim == 2:
        value = b if len(b.size) == 1 else builder.swapped(b, call)
        value = builder.apply(linear(a), value, (*value.size[:-1], len(a)), call)
        return value if len(b.size) == 1 else builder.swapped(value, call)
    first, second = builder.dependent(call)
    if min(len(first.size), len(second.size)) < 2:
        raise call.refusal("a product of a vector with another value; allowed are matrices")
    stacked = np.broadcast_shapes(first.size[:-2], second.size[:-2])
    size = (*stacked, first.size[-2], second.size[-1])
    shapes = [shape_of(v.size) for v in (first, second)]
    if min(map(len, shapes)) < 2:
        raise call.refusal(f"a product of values of sizes {first.size} and {second.size}")
    attention = _attention(builder, call, first, second, size)
    return attention or builder.join(MatrixProduct(), [first, second], size, call)


def _attention(
    builder: Builder, call: Call, weights: Value, values: Value, size: Size
) -> Value | None:
    """softmax(scale q k') v, if that is what the product of two values is."""
    softmax, scale = builder.vertices[weights.vertex], 1.0
    if type(softmax.operation) is not nn.Softmax or softmax.operation.dim != -1:
        return None
    scores = builder.vertices[softmax.inputs[0]]
    while isinstance(scores.operation, (Scale, Divide)) and scores.operation.shape is None:
        number = scores.operation.number
        scale = scale * number if isinstance(scores.operation, Scale) else scale / number
        scores = builder.vertices[scores.inputs[0]]
    if scores.operation != MatrixProduct() or scores.shape != softmax.shape:
        return None
    q, turned = scores.inputs
    key = builder.swapped(Value(turned, builder.vertices[turned].shape), call)
    shapes = [builder.vertices[i].shape for i in (q, key.vertex, values.vertex)]
    if len({shape[:-2] for shape in shapes}) > 1:
        return None
    vertex = builder.vertex(Attention(scale), (q, key.vertex, values.vertex), shape_of(size), call)
    return Value(vertex, size)


def spatial(call: Call, value: Value, *, least: int = 1, most: float = 3) -> int:
    """Number of spatial axes of a value (1, channels, *axes)."""
    if len(value.size) < 2 or value.size[0] != 1:
        raise call.refusal(f"its input has size {value.size}; allowed is (1, channels, ...)")
    count = len(value.size) - 2
    if not least <= count <= most:
        raise call.refusal(f"{count} spatial axes; allowed are {least} to {most}")
    return count


def of_axes(name: str, count: int) -> Any:
    """PyTorch's layer for so many spatial axes, such as ``Conv2d``."""
    return getattr(nn, f"{name}{count}d")


def pads(call: Call, value: Value, kernel: Sequence[int]) -> np.ndarray:
    """Zeros before and after each spatial axis: (2, count)."""
    count = len(kernel)
    auto = call.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        given = None if auto == "VALID" else call.get("pads")
        return np.zeros((2, count), int) if given is None else np.reshape(given, (2, count))
    strides, dilations = call.get("strides", [1] * count), call.get("dilations", [1] * count)
    sizes = zip(value.size[2:], kernel, strides, dilations, strict=True)
    total = np.array([max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in sizes])
    small, large = total // 2, total - total // 2
    return np.stack([small, large] if auto == "SAME_UPPER" else [large, small])


def padded(builder: Builder, value: Value, amount: np.ndarray, call: Call) -> Value:
    """With zeros around the axes behind the channels, (2, axes) of them."""
    places = np.arange(1, 1 + math.prod(value.size)).reshape(value.size)
    widths = [(0, 0), (0, 0), *map(tuple, amount.T)]
    return builder.gathered(value, torch.from_numpy(np.pad(places, widths) - 1), call)


def _convolution(builder: Builder, call: Call) -> Value:
    value, weight, bias = call.value(), call.argument(1), call.argument(2)
    assert weight is not None
    count, kernel = spatial(call, value), weight.shape[2:]
    dilations = call.get("dilations", [1] * count)
    amount = pads(call, value, kernel)
    if not bool((amount[0] == amount[1]).all()):
        value, amount = padded(builder, value, amount, call), np.zeros_like(amount)
    groups = call.get("group", 1)
    module = of_axes("Conv", count)(
        weight.shape[1] * groups, len(weight), kernel, call.get("strides", [1] * count),
        tuple(amount[0].tolist()), dilations, groups, bias is not None, device="meta",
    )  # fmt: skip
    return builder.placed(set_tensors(module, weight=weight, bias=bias), value, call)


def _transposed(builder: Builder, call: Call) -> Value:
    value, weight, bias = call.value(), call.argument(1), call.argument(2)
    assert weight is not None
    count, groups = spatial(call, value), call.get("group", 1)
    amount = np.reshape(call.get("pads", [0] * 2 * count), (2, count))
    if call.get("auto_pad", "NOTSET") != "NOTSET" or call.get("output_shape") is not None:
        raise call.refusal("auto_pad and output_shape are unknown; allowed are pads")
    if not bool((amount[0] == amount[1]).all()):
        raise call.refusal("allowed are equal pads before and after")
    module = of_axes("ConvTranspose", count)(
        len(weight), weight.shape[1] * groups, weight.shape[2:], call.get("strides", [1] * count),
        tuple(amount[0].tolist()), tuple(call.get("output_padding", [0] * count)), groups,
        bias is not None, tuple(call.get("dilations", [1] * count)), device="meta",
    )  # fmt: skip
    return builder.placed(set_tensors(module, weight=weight, bias=bias), value, call)


def _batch_norm(builder: Builder, call: Call) -> Value:
    value = call.value()
    if call.get("training_mode", 0):
        raise call.refusal("is in training mode; export the network in eval mode")
    count, eps = spatial(call, value, least=0), call.get("epsilon", 1e-5)
    scale, shift, mean, variance = (call.argument(i) for i in range(1, 5))
    assert scale is not None
    module = of_axes("BatchNorm", max(count, 1))(len(scale), eps=eps)
    set_tensors(module, weight=scale, bias=shift, running_mean=mean, running_var=variance)
    return builder.apply(module, value, value.size, call)


def _instance_norm(builder: Builder, call: Call) -> Value:
    value, scale = call.value(), call.argument(1)
    count = spatial(call, value)
    assert scale is not None
    module = of_axes("InstanceNorm", count)(len(scale), eps=call.get("epsilon", 1e-5), affine=True)
    set_tensors(module, weight=scale, bias=call.argument(2))
    return builder.apply(module, value, value.size, call)


def _group_norm(builder: Builder, call: Call) -> Value:
    value, scale, shift = call.value(), call.argument(1), call.argument(2)
    spatial(call, value, least=0, most=math.inf)
    channels, groups = value.size[1], call.get("num_groups")
    assert scale is not None
    assert shift is not None
    if scale.size == groups != channels:  # of version 18: one for each group
        scale, shift = (np.repeat(a, channels // groups) for a in (scale, shift))
    module = nn.GroupNorm(groups, channels, eps=call.get("epsilon", 1e-5))
    return builder.apply(set_tensors(module, weight=scale, bias=shift), value, value.size, call)


def _layer_norm(builder: Builder, call: Call) -> Value:
    value, scale, shift = call.value(), call.argument(1), call.argument(2)
    axis = call.get("axis", -1) % len(value.size)
    if axis == 0 and len(shape_of(value.size)) < len(value.size):
        raise call.refusal("normalises over the batch")
    normal = value.size[axis:]
    own = {"weight": scale, "bias": shift}
    if call.node.op_type == "RMSNormalization":
        module: nn.Module = nn.RMSNorm(normal, eps=call.get("epsilon", 1e-5))
    else:
        module = nn.LayerNorm(normal, eps=call.get("epsilon", 1e-5), bias=shift is not None)
    arrays = {n: None if a is None else np.broadcast_to(a, normal) for n, a in own.items()}
    return builder.apply(set_tensors(module, **arrays), value, value.size, call)


RULES: dict[str, Rule] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _layer_norm,
}
