"""From a network to the expression of its layers, with their shapes."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lipdescent.arithmetic.ulps import TINY
from lipdescent.layers import activation, convolution, pooling
from lipdescent.layers.table import TABLE, is_known
from lipdescent.measurement import NotApplicable
from lipdescent.networks.declared import declaration_of, undeclared
from lipdescent.networks.expressions import Chain, Concat, Layer, Node, layers, place, steps
from lipdescent.networks.known_classes import BATCH_NORMS, NO_OPERATION, is_attention
from lipdescent.networks.reading import declares, read, unknown
from lipdescent.stacks import own_call
from lipdescent.stacks.model_stack import ModelStack, tensors
from lipdescent.structure.declared import check_declared
from lipdescent.structure.rebuilt import evaluate
from lipdescent.structure.unchanged import check_module

_GRAIN = 2**16  # numbers of which torch gives each thread some
_WITHOUT = " Without lipschitz_structure() the forward itself is read, where it can be exported."


def trace(stack: ModelStack) -> Node:
    """Expression of a stack's network with the shapes of each layer.

    A batch normalisation right behind a linear layer or a convolution is its
    ``scale``; layers that do nothing are left out. Calling the network is compared with evaluating
    what was read, built anew layer by layer, at random inputs of eight scales, 1e-3 to 1e4. That
    finds slips and changes from outside, not every difference: a declared structure is trusted.

    Raises
    ------
    TypeError
        For a module that is neither in the table nor says what it computes, with its path.
    NotApplicable
        For attention.
    ValueError
        For train mode, hooks, parametrisations, shared weights, weights or a shape that do not
        fit, examples that influence each other, and a call that gives something else than the
        layers do.
    """
    if hasattr(stack.module, "lipschitz_structure"):
        cast(Any, stack.module).lipschitz_structure()  # or it says why there is none
    check_module(stack.module)
    check_state(stack)
    _refuse_attention(stack.module)
    node = read(stack.module)
    for layer in layers(node):
        if not is_known(layer.module):
            raise unknown(layer)
    # What is checked by evaluating depends on the tensors alone, and on what the layers are.
    within = set(map(id, stack.module.modules()))
    key = ("trace", _identity(node, within), repr(stack.module))
    return stack.kept(key, stack.state, lambda: _run_and_compared(node, stack))


def _identity(node: Node, within: set[int]) -> Hashable:
    """What tells two readings apart. Functions that each reading makes anew are told by what they
    are: those of the table, without tensors and no part of the network.
    """
    if not isinstance(node, Layer):
        dim = node.dim if isinstance(node, Concat) else None
        return type(node), dim, tuple(_identity(part, within) for part in node.parts)
    module = node.module
    made = type(module) in TABLE and id(module) not in within
    settings = {name: repr(value) for name, value in vars(module).items() if name[0] != "_"}
    if not made or tensors(module) or any(isinstance(v, Tensor) for v in vars(module).values()):
        return node
    return type(module), tuple(sorted(settings.items())), node.path


def _run_and_compared(node: Node, stack: ModelStack) -> Node:
    """With shapes and simplified, once the call is what the layers do."""
    state = stack.state_of(0)
    x, places = own_call.random_inputs(stack.input_shape, stack.device)
    with torch.no_grad():
        y, node = _run(node, x, state)
        for layer in layers(node):
            if declaration_of(layer.module) is not None:
                check_declared(layer.module, layer.state(state), layer.input_shape, layer.place)
        if not bool(y.isfinite().flatten(1).all(1).any()):
            raise ValueError("the outputs overflow float64 at inputs of size 1e-3 to 1e4")

        def evaluated(inputs: Tensor, dtype: torch.dtype) -> Tensor:
            if dtype != torch.float64:
                return outputs(node, stack, inputs, dtype)
            return y if inputs is x else _run(node, inputs, state)[0]

        own_call.check_evaluation(
            lambda first: y[:1],
            evaluated,
            x[:1],
            places,
            message="examples of a batch influence each other: alone and among others, outputs",
            cause="",
        )
        # Of tensors of its own: a call may change them.
        called = {n: t.clone() if t.dtype == stack.state[n].dtype else t for n, t in state.items()}
        own_call.check_evaluation(
            lambda inputs: functional_call(stack.module, called, (inputs,)),
            evaluated,
            x,
            places,
            message="lipschitz_structure() and forward()"
            if declares(stack.module)
            else "calling the network and evaluating its layers",
            cause=own_call.CAUSES + (_WITHOUT if declares(stack.module) else ""),
        )
    return _simplify(node)


def outputs(structure: Node, stack: ModelStack, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """What the layers of :func:`trace` make of inputs (n, ...) in ``dtype``, the first model's."""
    return _run(structure, inputs.to(dtype), stack.state_of(0, dtype))[0]


def check_state(stack: ModelStack, *, masks: bool = False) -> None:
    """Raise ValueError for NaN, inf or a variance that is not positive, naming the tensor.

    ``masks``: minus infinity is allowed in buffers, as an attention's mask has it. And where the
    processor takes subnormal numbers for 0: errors of underflow are then larger.
    """
    _check_subnormals()
    if not stack.num_models:
        raise ValueError("the network has no parameters or buffers: there is nothing to measure")
    check_finite(without_masks(stack.module, stack.state) if masks else stack.state)
    for path, part in stack.module.named_modules():
        variance = stack.state.get(Layer(part, path).named("running_var"))
        if variance is None or not hasattr(part, "eps"):
            continue
        smallest = float(variance.to(torch.float64).min())
        computed = float((variance + part.eps).min())  # as the network adds them, in its own dtype
        if not min(smallest + part.eps, computed) > 0:
            raise ValueError(
                f"{place(part, path)}: running_var = {smallest:g} with eps = {part.eps:g}; "
                "allowed is running_var + eps > 0"
            )


def without_masks(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors but for buffers of finite numbers and minus infinity, which leave keys out."""
    own = {name for name, _ in module.named_buffers()}
    return {
        name: t
        for name, t in state.items()
        if name not in own
        or not t.is_floating_point()
        or not bool((t == -math.inf).any())
        or bool((t.isnan() | (t == math.inf)).any())
    }


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError for NaN or inf in tensors (models, ...), naming tensor and model."""
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # One pass, without a temporary: NaN propagates.
        if all(math.isfinite(x) for x in torch.aminmax(tensor.detach())):
            continue
        bad = ~tensor.isfinite().reshape(len(tensor), -1).all(1)
        if bool(bad.any()):
            index = int(bad.nonzero()[0, 0])
            raise ValueError(f"{name} of model {index}: contains NaN or inf; allowed are finite")


def _check_subnormals() -> None:
    """Raise ValueError where one of the threads flushes; each has a flag of its own."""
    smallest = torch.full((_GRAIN * torch.get_num_threads(),), TINY, dtype=torch.float64)
    if not bool((smallest * 1.0 > 0).all()):
        raise ValueError(
            "this process flushes subnormal numbers to zero, which voids bounds; call "
            "torch.set_flush_denormal(False), or import no library compiled with -ffast-math"
        )


def _refuse_attention(module: nn.Module) -> None:
    for path, m in undeclared(module):
        if TABLE.get(type(m)) is activation.attention or is_attention(m):
            try:
                activation.attention(m, {})
            except NotApplicable as error:
                raise NotApplicable(f"{place(m, path)}: {error}") from None


def _run(node: Node, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Node]:
    """Output (inputs, ...) of the structure, and the structure with shapes."""
    if isinstance(node, Layer):
        y = _call(node, x, state)
        if node.scale is not None:
            y = _call(node.scale, y, state)
        return y, replace(node, input_shape=tuple(x.shape[1:]), output_shape=tuple(y.shape[1:]))
    if isinstance(node, Chain):
        done = []
        for part in node.parts:
            x, part = _run(part, x, state)
            done.append(part)
        return x, Chain(tuple(done))
    outputs, parts = zip(*[_run(part, x, state) for part in node.parts], strict=True)
    if isinstance(node, Concat):
        return torch.cat(outputs, node.dim), replace(node, parts=parts)
    shapes = {tuple(y.shape[1:]) for y in outputs}
    if len(shapes) > 1:
        raise ValueError(f"a sum of outputs of different shapes: {sorted(shapes)}")
    return torch.stack(outputs).sum(0), replace(node, parts=parts)


def _call(layer: Layer, x: Tensor, state: dict[str, Tensor]) -> Tensor:
    where = layer.place
    if isinstance(layer.module, nn.Bilinear):
        raise NotApplicable(f"{where} multiplies two inputs: no global constant")
    try:
        y = evaluate(layer.module, layer.state(state), x)
    except Exception as error:  # whatever a layer raises at what does not fit
        shape = tuple(x.shape[1:])
        raise ValueError(f"{where} does not take an input of shape {shape}: {error}") from error
    if not isinstance(y, Tensor):
        raise ValueError(f"{where} returns a {type(y).__name__}; allowed is one tensor")
    if not y.numel():
        raise ValueError(f"{where} has no outputs at an input of shape {tuple(x.shape[1:])}")
    if y.ndim < 2 or len(y) != len(x):
        raise ValueError(
            f"{where} changes the batch axis: {len(x)} inputs of shape {tuple(x.shape[1:])} become "
            f"{tuple(y.shape)}; allowed is to keep it, and one more axis, as nn.Flatten() does"
        )
    if type(layer.module) in pooling.TABLE and bool(x.isfinite().all() & (y == -torch.inf).any()):
        raise ValueError(
            f"{where}: {int((y[0] == -torch.inf).sum())} of its outputs are -inf at every input, "
            "as their windows hold only padding; allowed is less padding or dilation"
        )
    return y


def _simplify(node: Node) -> Node:
    if isinstance(node, Layer):
        return node
    if not isinstance(node, Chain):
        return replace(node, parts=tuple(_simplify(part) for part in node.parts))
    parts: list[Node] = []
    for part in (step for inner in node.parts for step in steps(_simplify(inner))):
        if isinstance(part, Layer) and type(part.module) in NO_OPERATION:
            continue
        last = parts[-1] if parts else None
        if isinstance(last, Layer) and isinstance(part, Layer) and folds(last, part):
            parts[-1] = replace(last, scale=part)
        else:
            parts.append(part)
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def folds(first: Layer, second: Layer) -> bool:
    """Whether the second layer is a batch normalisation that is multiplied into the first."""
    if first.scale is not None or type(second.module) not in BATCH_NORMS:
        return False
    flat = type(first.module) is nn.Linear and len(first.output_shape) == 1
    return flat or type(first.module) in convolution.TABLE
