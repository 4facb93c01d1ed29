"""What the layers of a stack make of its batches: one operation each for all models.

Convolutions, linear layers, normalisations and pools have a rule in ``LAYERS``; what is unknown is
vectorised by ``torch.func.vmap``.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrize

from lipdescent.constrained import Constraint
from lipdescent.networks.expressions import Layer
from lipdescent.networks.known_classes import BATCH_NORMS, DROPOUT, qualified_name
from lipdescent.stacks import products
from lipdescent.stacks.convolution import channel_axis, convolve, lies_by_rows, one_channel_axis
from lipdescent.stacks.dropout import Dropout
from lipdescent.stacks.normalisation import normalise, normalise_batch
from lipdescent.stacks.pooling import max_pool, tiling
from lipdescent.stacks.sorting import SortPairs

EXACT = (nn.Identity, nn.LeakyReLU)  # of one entry and rounded once
SMOOTH = (nn.ELU, nn.GELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Tanh)
CONSTRAINED = (nn.Linear, nn.Conv1d, nn.Conv2d)  # whose constraints take whole stacks


class Pass:
    """One pass: the stacked tensors, the mode, and the new buffers as they arise."""

    def __init__(
        self,
        state: dict[str, Tensor],
        train: bool,
        retracted: Collection[str],
        dropout: Dropout | None,
    ) -> None:
        self.state, self.train, self.retracted, self.dropout = state, train, retracted, dropout
        self.buffers: dict[str, Tensor] = {}

    def tensor(self, layer: Layer, name: str) -> Tensor:
        return self.state[layer.named(name)]

    def weight_and_bias(self, layer: Layer) -> tuple[Tensor | None, Tensor | None]:
        """None each where the layer has none."""
        return self.state.get(layer.named("weight")), self.state.get(layer.named("bias"))


def of_layer(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    """What a layer of every model makes of its batch."""
    module, kind = layer.module, type(layer.module)
    if isinstance(module, CONSTRAINED) and parametrize.is_parametrized(module, "weight"):
        return _constrained(run, layer, x)
    known = LAYERS.get(kind) or LAYERS.get(qualified_name(module))
    if known is not None:
        return known(run, layer, x)
    if any(getattr(part, "inplace", False) for part in module.modules()):
        x = x.clone()  # it may be the caller's, or be read again
    if kind in EXACT:
        return module(x)
    if kind in SMOOTH:
        return _smooth(module, x)
    return _unknown(run, layer, x)


def _constrained(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    """Constraints of this library take whole stacks; other parametrisations one model."""
    parametrizations: Any = layer.module.parametrizations
    steps = parametrizations["weight"]
    if set(parametrizations) != {"weight"} or not all(
        isinstance(step, Constraint) for step in steps
    ):
        return _unknown(run, layer, x)
    name = layer.named("parametrizations.weight.original")
    weight = run.state[name]
    if name in run.retracted:
        weight = steps[0].constant * weight
    else:
        for step in steps:
            weight = step(weight)
    run.state = run.state | {layer.named("weight"): weight}
    known = _linear if isinstance(layer.module, nn.Linear) else _convolution
    return known(run, layer, x)


def _smooth(module: nn.Module, x: Tensor) -> Tensor:
    """A model at a time, in the order in which it lies in memory.

    A CPU takes the last entries of a tensor one by one and rounds them otherwise than the vectors
    before them: in one pass a model's bits would depend on where it ends.
    """
    if x.device.type != "cpu":
        return module(x)
    order = [0, *sorted(range(1, x.ndim), key=x.stride, reverse=True)]
    out = torch.stack([module(part) for part in x.permute(order)])
    return out.permute([order.index(axis) for axis in range(x.ndim)])


def _linear(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    weight, (_, bias) = run.tensor(layer, "weight"), run.weight_and_bias(layer)
    flat = x.reshape(x.shape[0], -1, x.shape[-1]).mT
    # (out, in) @ (in, batch): the fast way round for few outputs.
    if bias is None:
        out = products.bmm(weight, flat).mT
    else:
        out = products.baddbmm(bias.unsqueeze(2), weight, flat).mT
    return out.reshape(*x.shape[:-1], -1)


def _group_sort(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    if layer.module.size != 2 or x.shape[2] % 2:
        return _per_sample(layer.module, x)
    if x.dim() == 3:  # as _linear leaves it, features lie a batch apart
        return SortPairs.apply(x.mT).mT
    return SortPairs.apply(x.transpose(1, 2)).transpose(1, 2)


def _convolution(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    module: Any = layer.module
    weight, (_, bias) = run.tensor(layer, "weight"), run.weight_and_bias(layer)
    wrapped = module.padding_mode == "circular" and not isinstance(module.padding, str)
    if module.padding_mode != "zeros" and not wrapped:
        return _unknown(run, layer, x)
    return convolve(module, x, weight, bias)


def _max_pool(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    if lies_by_rows(x) and (size := tiling(layer.module)):
        return max_pool(x, size)
    return _per_channel(layer.module, x)


def _batch_norm(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    """Each model's own statistics; the running ones change as PyTorch's do."""
    module: Any = layer.module
    names = (layer.named("running_mean"), layer.named("running_var"))
    running = [run.state[name] for name in names if name in run.state]
    weight, bias = run.weight_and_bias(layer)
    if running and not run.train:
        mean, var = running
        return normalise(x, mean, var, weight, bias, eps=module.eps)
    count = x[0, :, 0].numel()
    if count < 2:
        raise ValueError(
            f"{layer.path} ({module}): batch statistics of a single value per channel, in a "
            "batch of one sample; allowed are num_train and batch_size whose last batch has two or "
            "more"
        )
    out, *batch_statistics = normalise_batch(x, weight, bias, eps=module.eps)
    if running:
        _update(run, layer, running, batch_statistics)
    return out


def _update(run: Pass, layer: Layer, old: Sequence[Tensor], new: Sequence[Tensor]) -> None:
    seen = run.tensor(layer, "num_batches_tracked") + 1
    run.buffers[layer.named("num_batches_tracked")] = seen
    momentum: Any = layer.module.momentum
    momentum = 1 / seen.unsqueeze(1) if momentum is None else momentum
    for name, before, now in zip(("running_mean", "running_var"), old, new, strict=True):
        run.buffers[layer.named(name)] = before + momentum * (now - before)


def _layer_norm(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    module: Any = layer.module
    shape = module.normalized_shape
    out = nn.functional.layer_norm(x, shape, eps=module.eps)
    between = [1] * (x.ndim - 1 - len(shape))
    weight, bias = run.weight_and_bias(layer)
    for tensor, combine in ((weight, torch.mul), (bias, torch.add)):
        if tensor is not None:
            out = combine(out, tensor.view(len(tensor), *between, *shape))
    return out


def _dropout(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    module: Any = layer.module
    if not run.train or module.p == 0:
        return x
    if run.dropout is None or type(module) is not nn.Dropout:
        raise TypeError(
            f"{layer.path} ({module}): dropout needs random numbers per replica; set p to 0"
        )
    return run.dropout(module.p, x)


def _global_average(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    if layer.module.output_size in (1, (1, 1)):
        return x.mean((3, 4), keepdim=True)
    return _per_channel(layer.module, x)


def _average(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    pool = layer.module
    if pool.kernel_size == x.shape[3] == x.shape[4] and not pool.padding:
        return x.mean((3, 4), keepdim=True)
    return _per_channel(pool, x)


def _per_channel(module: nn.Module, x: Tensor) -> Tensor:
    """A layer that treats channels alike: those of all models are the channels of one image.

    So grouped convolutions leave them in memory: nothing is copied.
    """
    if lies_by_rows(x):
        return _per_sample(module, x)
    return channel_axis(module(one_channel_axis(x)), x.shape[0])


def _per_sample(module: nn.Module, x: Tensor) -> Tensor:
    """A layer without weights that treats samples alike: models and batch are one axis."""
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _unknown(run: Pass, layer: Layer, x: Tensor) -> Tensor:
    module, start = layer.module, layer.named("")
    for name, part in module.named_modules():
        if isinstance(part, DROPOUT) and run.train and part.p > 0:
            raise TypeError(
                f"{layer.named(name)} ({part}): dropout inside a layer that is called as a whole "
                "has no random numbers per replica; set p to 0"
            )
    own = {n.removeprefix(start): t for n, t in run.state.items() if n.startswith(start)}
    buffers = {name for name, _ in module.named_buffers()}
    own = {name: t.clone() if name in buffers else t for name, t in own.items()}
    if not own and not any(isinstance(part, BATCH_NORMS) for part in module.modules()):
        return _per_sample(module, x)
    was_training = module.training
    module.train(run.train)
    try:  # buffers are changed in place, each model's its own
        out = vmap(lambda s, inputs: functional_call(module, s, (inputs,)))(own, x)
    finally:
        module.train(was_training)
    if run.train:
        run.buffers.update({start + name: own[name] for name in buffers})
    return out


# Layer type, or its qualified name where the package is only imported on demand -> its pass.
LAYERS: dict[type | str, Callable[[Pass, Layer, Tensor], Tensor]] = {
    nn.ReLU: lambda run, layer, x: nn.functional.relu(x),  # never in place
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.MaxPool1d: _max_pool,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _global_average,
    nn.LayerNorm: _layer_norm,
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
    **dict.fromkeys(DROPOUT, _dropout),
    "lipdescent.constrained.layers.GroupSort": _group_sort,
}
