"""Operators over axes: pools, sums, means, extrema, softmax, concatenation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import nn

from lipdescent.networks.graph import Concatenation
from lipdescent.networks.onnx_file.builder import Builder, Call, Rule
from lipdescent.networks.onnx_file.weighted import of_axes, padded, pads, spatial
from lipdescent.networks.operations import Function, Reduce
from lipdescent.networks.vertices import Value, shape_of

REDUCED = {
    "ReduceSum": ("sum", ""), "ReduceMean": ("mean", ""), "ReduceMax": ("max", ""),
    "ReduceMin": ("min", ""), "ReduceL2": ("length", ""), "ReduceLogSumExp": ("logsumexp", ""),
    "ReduceL1": ("sum", "abs"), "ReduceSumSquare": ("sum", "square"),
}  # fmt: skip


def axis_of(call: Call, value: Value, axis: int) -> int:
    """Axis of the vertex's shape that an axis of the file is."""
    axis = axis % len(value.size)
    dropped = len(value.size) - len(shape_of(value.size))
    if axis < dropped:
        raise call.refusal(f"works along axis {axis}, the batch; allowed are the axes of one input")
    return axis - dropped


def _reduced(builder: Builder, call: Call) -> Value:
    value, (kind, before) = call.value(), REDUCED[call.node.op_type]
    given = call.argument(1, "axes")
    if given is None or not given.size:
        if call.get("noop_with_empty_axes", 0):
            return value
        given = np.arange(len(value.size) - len(shape_of(value.size)), len(value.size))
    axes = sorted({int(a) % len(value.size) for a in given.reshape(-1)})
    kept = [1 if i in axes else n for i, n in enumerate(value.size)]
    size = (
        tuple(kept)
        if call.get("keepdims", 1)
        else tuple(n for i, n in enumerate(value.size) if i not in axes)
    )
    if before:
        value = builder.apply(Function(before), value, value.size, call)
    inner = [axis_of(call, value, a) for a in axes if value.size[a] > 1]
    if not inner:
        return builder.in_size(value, size, call)
    rest = tuple(n for i, n in enumerate(shape_of(value.size)) if i not in inner)
    index = builder.vertex(Reduce(kind, inner), (value.vertex,), rest or (1,), call)
    return Value(builder.in_shape(Value(index, rest or (1,)), shape_of(size), call), size)


def _softmax(builder: Builder, call: Call) -> Value:
    """Before version 13 over all axes from ``axis`` on, since then along ``axis``."""
    value, old = call.value(), call.opset < 13
    axis = call.get("axis", 1 if old else -1) % len(value.size)
    kind = nn.Softmax if call.node.op_type == "Softmax" else nn.LogSoftmax
    inner = axis_of(call, value, axis)
    if not old or axis == len(value.size) - 1:
        return builder.apply(kind(dim=inner - len(shape_of(value.size))), value, value.size, call)
    flat = builder.in_size(value, (*value.size[:axis], math.prod(value.size[axis:])), call)
    return builder.in_size(builder.apply(kind(dim=-1), flat, flat.size, call), value.size, call)


def _concatenation(builder: Builder, call: Call) -> Value:
    values = builder.dependent(call)
    axis = call.get("axis", 1) % len(values[0].size)
    size = list(values[0].size)
    size[axis] = sum(v.size[axis] for v in values)
    if any(len(shape_of(v.size)) != len(shape_of(tuple(size))) for v in values):
        # A first axis of length 1 that is no batch here: all in shapes with it.
        shape = tuple(size)
        vertices = [builder.in_shape(v, v.size, call) for v in values]
        return Value(builder.vertex(Concatenation(axis), vertices, shape, call), shape)
    inner = axis_of(call, values[0], axis)
    return builder.join(Concatenation(inner), values, tuple(size), call)


def _pool(builder: Builder, call: Call) -> Value:
    value, kernel = call.value(), tuple(call.get("kernel_shape"))
    count, largest = spatial(call, value), call.node.op_type == "MaxPool"
    dilations = call.get("dilations", [1] * count)
    amount, strides = pads(call, value, kernel), call.get("strides", [1] * count)
    options: dict[str, Any] = {"stride": strides, "ceil_mode": bool(call.get("ceil_mode", 0))}
    counted = bool(call.get("count_include_pad", 0))
    if not bool((amount[0] == amount[1]).all()):
        if largest or not counted:
            raise call.refusal(f"pads {amount.tolist()}; allowed are equal ones before and after")
        value, amount = padded(builder, value, amount, call), np.zeros_like(amount)
    options["padding"] = tuple(amount[0].tolist())
    if largest:
        module = of_axes("MaxPool", count)(kernel, dilation=dilations, **options)
        return builder.placed(module, value, call)
    if any(d != 1 for d in dilations):
        raise call.refusal("a dilated mean; allowed are dilations of 1")
    module = of_axes("AvgPool", count)(kernel, count_include_pad=counted, **options)
    return builder.placed(module, value, call)


def _global_pool(builder: Builder, call: Call) -> Value:
    value = call.value()
    count = spatial(call, value, least=0, most=math.inf)
    kind = "max" if call.node.op_type == "GlobalMaxPool" else "mean"
    reduce = Reduce(kind, range(1, count + 1))
    index = builder.vertex(reduce, (value.vertex,), (value.size[1],), call)
    size = (1, value.size[1], *[1] * count)
    return Value(builder.in_shape(Value(index, (1, value.size[1])), size[1:], call), size)


RULES: dict[str, Rule] = {
    **dict.fromkeys(REDUCED, _reduced),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "Concat": _concatenation,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
}
