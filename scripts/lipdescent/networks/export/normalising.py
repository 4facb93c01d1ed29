"""Normalisations: of a batch, of layers, of groups of channels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from lipdescent.networks.export.builder import Builder, Constant, refused
from lipdescent.networks.vertices import Value

Arguments = dict[str, Any]


def example_of(node: fx.Node, value: Value, what: str) -> tuple[int, ...]:
    """Shape of the one example that an operation takes as a batch."""
    if len(value.size) < 2 or value.size[0] != 1:
        raise refused(node, f"{what} of inputs {value.size}, whose first axis is not the example's")
    return value.size[1:]


def _batch_norm(b: Builder, node: fx.Node, a: Arguments) -> Any:
    value, mean, variance = a["input"], a["running_mean"], a["running_var"]
    if a.get("training") or mean is None:
        raise refused(node, "batch normalisation with the statistics of the batch")
    shape = example_of(node, value, "batch normalisation")
    weight, bias, channels = a["weight"], a["bias"], shape[0]
    kind = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(shape) - 1]
    tensors = {"running_mean": mean, "running_var": variance, **_affine(weight, bias, mean)}
    counted = Constant(torch.zeros((), dtype=torch.int64), lambda c: torch.tensor(0), "counted")
    layer = b.module(
        kind,
        channels,
        eps=a["eps"],
        affine="weight" in tensors,
        tensors=tensors | {"num_batches_tracked": counted},
    )
    found = b.apply(layer, value, value.size, node)
    return [found, None, None] if isinstance(node.meta["val"], (tuple, list)) else found


def _affine(weight: Any, bias: Any, like: Constant) -> dict[str, Constant]:
    """Weight and bias, each filled up where there is only the other."""
    if weight is None and bias is None:
        return {}
    one, zero = like.map(torch.ones_like, "ones"), like.map(torch.zeros_like, "zeros")
    return {"weight": one if weight is None else weight, "bias": zero if bias is None else bias}


def _layer_norm(b: Builder, node: fx.Node, a: Arguments) -> Any:
    value, weight, bias = a["input"], a["weight"], a["bias"]
    layer = b.module(
        nn.LayerNorm,
        tuple(a["normalized_shape"]),
        a["eps"],
        weight is not None,
        bias is not None,
        tensors={"weight": weight, "bias": bias},
    )
    found = b.apply(layer, value, value.size, node)
    return [found, None, None] if isinstance(node.meta["val"], (tuple, list)) else found


def _rms_norm(b: Builder, node: fx.Node, a: Arguments) -> Value:
    weight = a["weight"]
    layer = b.module(
        nn.RMSNorm,
        tuple(a["normalized_shape"]),
        a["eps"],
        weight is not None,
        tensors={"weight": weight},
    )
    return b.apply(layer, a["input"], a["input"].size, node)


def _group_norm(b: Builder, node: fx.Node, a: Arguments) -> Value:
    value, weight = a["input"], a["weight"]
    channels = example_of(node, value, "group normalisation")[0]
    tensors = {} if weight is None else _affine(weight, a["bias"], weight)
    layer = b.module(
        nn.GroupNorm, a["num_groups"], channels, a["eps"], bool(tensors), tensors=tensors
    )
    return b.apply(layer, value, value.size, node)


def _instance_norm(b: Builder, node: fx.Node, a: Arguments) -> Value:
    value, weight = a["input"], a["weight"]
    if not a["use_input_stats"]:
        return _batch_norm(b, node, {**a, "training": False})
    shape = example_of(node, value, "instance normalisation")
    kind = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[len(shape) - 2]
    tensors = {} if weight is None else _affine(weight, a["bias"], weight)
    layer = b.module(kind, shape[0], a["eps"], affine=bool(tensors), tensors=tensors)
    return b.apply(layer, value, value.size, node)


RULES: dict[str, Callable[[Builder, fx.Node, Arguments], Any]] = {
    **dict.fromkeys(
        ("batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), _batch_norm
    ),
    "layer_norm": _layer_norm,
    "native_layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "rms_norm": _rms_norm,
}
