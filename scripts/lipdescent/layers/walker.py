"""From a network to the expression of its layers, with their shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from lipdescent.layers import convolution, known_networks
from lipdescent.layers.expressions import Chain, Concat, Layer, Node, Sum
from lipdescent.stacking import ModelStack, shared_tensor

# Of the inputs at which a declared structure is compared with forward; the first two elsewhere.
SCALES = (1.0, 8.0, 1e-3, 1e-2, 1e-1, 1e2, 1e3, 1e4)


def trace(stack: ModelStack) -> Node:
    """Structure of a stack's network with the shapes of each layer.

    Chains are flat; a batch normalisation right behind a linear layer or a convolution is its
    ``scale``; layers that do nothing are left out. A declared structure is trusted: ``forward`` is
    compared with it at random inputs of eight scales, 1e-3 to 1e4, which finds slips, not every
    difference.

    Raises
    ------
    TypeError
        For a module that is neither in the table nor says what it computes, with its path.
    NotApplicable
        For attention.
    ValueError
        For train mode, hooks, parametrisations, shared weights, weights or a shape that do not
        fit, examples that influence each other, and a declared structure that differs from
        ``forward``.
    """
    check_module(stack.module)
    check_state(stack)
    known_networks.refuse_attention(stack.module)
    names = {id(m): name for name, m in stack.module.named_modules()}
    node = _resolve(stack.module, names, "")
    state = {
        name: t[0].to(torch.float64) if t.is_floating_point() else t[0]
        for name, t in stack.state.items()
    }
    plain = _plain(stack.module)
    scales = SCALES[:2] if plain else SCALES
    x = _inputs(stack, scales)
    with torch.no_grad():
        y, node = _run(node, x, state)
        alone = _run(node, x[:1], state)[0]
        _compare(y[:1], alone, scales, "examples of a batch influence each other")
        if not plain:
            message = "lipschitz_structure() and forward() differ"
            _compare(y, functional_call(stack.module, state, (x,)), scales, message)
    return _simplify(node)


def _inputs(stack: ModelStack, scales: Sequence[float]) -> Tensor:
    """A normal input for each scale: float64 (scales, *input_shape)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(scales), *stack.input_shape, generator=generator, dtype=torch.float64)
    sizes = torch.tensor(scales, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1))
    return (x * sizes).to(stack.device)


def layers(node: Node) -> Iterator[Layer]:
    """All layers, in the order of evaluation."""
    if isinstance(node, Layer):
        yield node
    else:
        for part in node.parts:
            yield from layers(part)


def layer_state(layer: Layer, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of one layer under their names in it, from those of the network."""
    start = f"{layer.path}." if layer.path else ""
    own = [*layer.module._parameters, *layer.module._buffers]
    return {name: state[start + name] for name in own if start + name in state}


def check_module(module: nn.Module) -> None:
    """Raise ValueError where the weights are not what the forward pass uses, or for train mode."""
    for path, m in module.named_modules(remove_duplicate=False):
        place = f"{path or 'the network'} ({type(m).__name__})"
        if m.training:
            raise ValueError(f"{place} is in train mode; call eval() first")
        if parametrize.is_parametrized(m):
            raise ValueError(f"{place} is parametrised; call remove_parametrizations() first")
        if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks:
            raise ValueError(f"{place} has hooks (weight_norm?) that may change it; remove them")
        if "forward" in vars(m):
            raise ValueError(f"{place}: forward was replaced on the instance")
    if shared := shared_tensor(module):
        raise ValueError(f"{shared[1]} is shared with {shared[0]}; allowed: own weights each")


def check_state(stack: ModelStack) -> None:
    """Raise ValueError for NaN, inf or a variance that is not positive, naming the tensor."""
    if not stack.num_models:
        raise ValueError("the network has no parameters or buffers: there is nothing to measure")
    for name, tensor in stack.state.items():
        bad = ~tensor.isfinite().reshape(len(tensor), -1).all(1)
        if bool(bad.any()):
            index = int(bad.nonzero()[0, 0])
            raise ValueError(f"{name} of model {index}: contains NaN or inf; allowed are finite")
    for path, part in stack.module.named_modules():
        variance = stack.state.get(f"{path}.running_var" if path else "running_var")
        if variance is None or not hasattr(part, "eps"):
            continue
        smallest = float(variance.to(torch.float64).min())
        computed = float((variance + part.eps).min())  # as the network adds them, in its own dtype
        if not min(smallest + part.eps, computed) > 0:
            raise ValueError(
                f"{path or 'the network'} ({type(part).__name__}): running_var = {smallest:g} with "
                f"eps = {part.eps:g}; allowed is running_var + eps > 0"
            )


def _resolve(part: nn.Module | Node, names: dict[int, str], owner: str) -> Node:
    if isinstance(part, (Chain, Sum, Concat)):
        return replace(part, parts=tuple(_resolve(p, names, owner) for p in part.parts))
    if isinstance(part, Layer):
        return part
    if not isinstance(part, nn.Module):
        raise TypeError(f"{owner}: {part!r} in lipschitz_structure(); allowed: modules, chain, ...")
    if id(part) in names:
        path = names[id(part)]
    elif next(part.parameters(), None) is None and next(part.buffers(), None) is None:
        path = f"{owner}.<{type(part).__name__}>"
        part.eval()  # made by lipschitz_structure(), nobody else has set its mode
    else:
        raise ValueError(
            f"{owner}: a {type(part).__name__} in lipschitz_structure() is no submodule"
        )
    inner = known_networks.structure(part, path)
    return Layer(part, path) if inner is None else _resolve(inner, names, path)


def _plain(module: nn.Module) -> bool:
    """Whether only ``nn.Sequential`` puts the layers together."""
    if known_networks.is_sequential(module):
        return all(_plain(m) for m in module)
    return known_networks.structure(module, "") is None


def _run(node: Node, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Node]:
    """Output (inputs, ...) of the structure, and the structure with shapes."""
    if isinstance(node, Layer):
        y = _call(node, x, state)
        shapes = {"input_shape": tuple(x.shape[1:]), "output_shape": tuple(y.shape[1:])}
        return y, replace(node, **shapes)
    if isinstance(node, Chain):
        parts = []
        for part in node.parts:
            x, part = _run(part, x, state)
            parts.append(part)
        return x, Chain(tuple(parts))
    outputs, parts = zip(*[_run(part, x, state) for part in node.parts], strict=True)
    if isinstance(node, Concat):
        return torch.cat(outputs, node.dim), replace(node, parts=parts)
    shapes = {tuple(y.shape[1:]) for y in outputs}
    if len(shapes) > 1:
        raise ValueError(f"a sum of outputs of different shapes: {sorted(shapes)}")
    return torch.stack(outputs).sum(0), Sum(parts)


def _call(layer: Layer, x: Tensor, state: dict[str, Tensor]) -> Tensor:
    place = f"{layer.path or 'the network'} ({type(layer.module).__name__})"
    try:
        y = functional_call(layer.module, layer_state(layer, state), (x,))
    except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
        shape = tuple(x.shape[1:])
        raise ValueError(f"{place} does not take an input of shape {shape}: {error}") from error
    if not isinstance(y, Tensor):
        raise ValueError(f"{place} returns a {type(y).__name__}; allowed is one tensor")
    if not y.numel():
        raise ValueError(f"{place} has no outputs at an input of shape {tuple(x.shape[1:])}")
    if len(y) != len(x):
        raise ValueError(f"{place} changes the batch axis; allowed is to keep it")
    return y


def _compare(a: Tensor, b: Tensor, scales: Sequence[float], message: str) -> None:
    """Raise ValueError unless each input's outputs agree; ``scales`` name the inputs."""
    if a.shape != b.shape:
        raise ValueError(f"{message}: shapes {tuple(a.shape)} and {tuple(b.shape)}")
    errors, sizes = ((t.flatten(1).abs().amax(1)) for t in (a - b, b))
    for scale, error, size in zip(scales, errors.tolist(), sizes.tolist(), strict=False):
        if not math.isfinite(size):
            raise ValueError(f"the outputs overflow float64 at inputs of size {scale:g}")
        if not error <= 1e-5 * size:
            where = f"outputs up to {size:.3g}, inputs of size {scale:g}"
            raise ValueError(f"{message} by {error:.3g} at {where}")


def _simplify(node: Node) -> Node:
    if isinstance(node, Layer):
        return node
    if not isinstance(node, Chain):
        return replace(node, parts=tuple(_simplify(part) for part in node.parts))
    flat: list[Node] = []
    for part in map(_simplify, node.parts):
        flat.extend(part.parts if isinstance(part, Chain) else [part])
    parts: list[Node] = []
    for part in flat:
        if isinstance(part, Layer) and type(part.module) in known_networks.NO_OPERATION:
            continue
        if parts and _folds(parts[-1], part):
            parts[-1] = replace(parts[-1], scale=part)
        else:
            parts.append(part)
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def _folds(first: Node, second: Node) -> bool:
    if not (isinstance(first, Layer) and isinstance(second, Layer)) or first.scale is not None:
        return False
    if type(second.module) not in known_networks.BATCH_NORMS:
        return False
    flat = type(first.module) is nn.Linear and len(first.output_shape) == 1
    return flat or type(first.module) in convolution.TABLE
