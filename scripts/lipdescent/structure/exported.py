"""Networks whose ``forward`` is written in Python, as plain networks that all bounds read.

What a network of known layers is read as stays as it is. Any other one is exported
(:mod:`lipdescent.networks.export`), and calling it is compared with the plain network that results.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from lipdescent.layers import activation
from lipdescent.layers.table import TABLE, is_known
from lipdescent.measurement import NotApplicable
from lipdescent.networks.declared import undeclared
from lipdescent.networks.export.network import Exported, export
from lipdescent.networks.export.outputs import plain
from lipdescent.networks.expressions import layers
from lipdescent.networks.graph import GraphNetwork
from lipdescent.networks.known_classes import is_attention
from lipdescent.networks.reading import declares, read
from lipdescent.stacks import own_call
from lipdescent.stacks.model_stack import ModelStack, in_dtype, tensors
from lipdescent.structure.unchanged import check_measurable, check_module

Shapes = Sequence[int] | Sequence[Sequence[int]]
COMPARED = 8  # points of each split of a user's data at which a call is compared, at most
# Products of inputs, which a graph says more of.
_PRODUCTS = (activation.attention, activation.unbounded)


def needs_export(module: nn.Module) -> bool:
    """Whether ``module`` is something else than known layers, or than it says itself."""
    try:
        found = list(layers(read(module)))
    except NotApplicable:
        return not isinstance(module, GraphNetwork)
    if any(is_attention(part) for _, part in undeclared(module)):
        return True
    for layer in found:
        if not is_known(layer.module) or TABLE.get(type(layer.module)) in _PRODUCTS:
            return True
        if isinstance(layer.module, nn.RMSNorm) and layer.module.eps is None:
            return True  # torch takes it by the type of what the network computes with
    try:
        check_module(module)
    except (TypeError, ValueError):
        return not declares(module)  # what it says of itself stands, and is refused by name
    return False


def plain_network(
    module: nn.Module, input_shape: Shapes, *, output: int | str | None = None
) -> Exported:
    """The plain network of any ``module``, compared with calling it.

    Parameters
    ----------
    module : in eval mode. It is left as it is.
    input_shape : of one input without the batch axis, or of each argument of ``forward``. The
        plain network takes several as one vector, side by side, in which one norm is taken.
    output : which one, where ``forward`` returns several, by its place (0, 1, ...) or its name
        ("logits" of a dictionary); all side by side, flat, unless given.

    Raises
    ------
    Unreadable
        For operations, control flow and shapes that are not known, with file and line.
    TypeError, ValueError
        For networks that cannot be measured (train mode, quantised, lazy), or whose call at random
        inputs of sizes 1e-3 to 1e4 gives something else than what was read.
    """
    check_measurable(module)
    shapes = several(input_shape)
    with own_call.preserved(module):
        found = export(module, shapes, output=output)
        _compare(module, found)
    return found


def check_at(module: nn.Module, found: Exported, inputs: Mapping[str, Tensor]) -> None:
    """Compare calling a module with its plain network at a user's own points, too.

    Parameters
    ----------
    found : what :func:`plain_network` gives of it.
    inputs : split -> (n, *input_shape of the plain network); some of each split are taken.

    Raises
    ------
    ValueError
        Where they differ by more than rounding, with the point.
    """
    parts, places = [], []
    for split, points in inputs.items():
        step = -(-len(points) // COMPARED)
        parts.append(points[::step].to(torch.float64))
        places += [f"point {i} of the data {split!r}" for i in range(0, len(points), step)]
    if parts:
        with own_call.preserved(module):
            _compare(module, found, torch.cat(parts), places)


def several(input_shape: Shapes) -> list[tuple[int, ...]]:
    """One shape per argument of ``forward``; ValueError for anything but positive integers."""
    given: Any = input_shape
    one = isinstance(given, Sequence) and all(isinstance(n, int) for n in given)
    shapes = [given] if one else given
    if not isinstance(shapes, Sequence) or not all(map(_is_shape, shapes)):
        raise ValueError(
            f"input_shape {given!r}: allowed are positive integers, no batch axis, such as "
            "(1, 28, 28), or such a shape per argument"
        )
    return [tuple(shape) for shape in shapes]


def _is_shape(shape: object) -> bool:
    return isinstance(shape, Sequence) and all(isinstance(n, int) and n > 0 for n in shape)


def plain_stack(stack: ModelStack, inputs: Mapping[str, Tensor] | None = None) -> ModelStack:
    """The stack itself, or the plain networks of its models where theirs must be exported.

    Every model's tensors are computed from its own: taken over, or evaluated as the network does.
    The first model's call is compared with its plain network, at ``inputs``, too, if given.

    Raises
    ------
    Unreadable, ValueError
        As :func:`plain_network`.
    """
    if not stack.num_models or not needs_export(stack.module):
        return stack
    if "plain" not in stack.known:
        one = {name: tensor[0] for name, tensor in stack.state.items()}
        module = _loaded(stack.module, one)
        found = plain_network(module, stack.input_shape)
        check_at(module, found, inputs or {})
        state = _states(found, stack.state)
        stack.known["plain"] = ModelStack(found.network, state, found.input_shape)
    return stack.known["plain"]


def _loaded(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """``module``, whose own weights nobody reads, with these."""
    own = tensors(module)
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)
    return module


def _states(found: Exported, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    sources = found.program.sources
    direct = {
        name: state[sources[constant.key]]
        for name, constant in found.tensors.items()
        if isinstance(constant.key, fx.Node) and constant.key in sources
    }
    if len(direct) == len(found.tensors) and not found.settled:
        return direct
    count = len(next(iter(state.values())))
    each = [found.state({name: t[i] for name, t in state.items()}) for i in range(count)]
    made = {name: torch.stack([one[name] for one in each]) for name in found.tensors}
    return made | direct


class _AsOne(nn.Module):
    """A network of several inputs and outputs as one of vectors."""

    def __init__(self, module: nn.Module, shapes: Sequence[Sequence[int]], output: int | None):
        super().__init__()
        self.module, self.shapes, self.output = module, shapes, output

    def forward(self, x: Tensor) -> Tensor:
        ends = list(accumulate(torch.Size(shape).numel() for shape in self.shapes))
        flat = x.flatten(1)
        parts = [
            flat[:, start:end].reshape(len(x), *shape)
            for start, end, shape in zip([0, *ends], ends, self.shapes, strict=False)
        ]
        result = self.module(*parts)
        outputs = _tensors_in(result)
        chosen = outputs if self.output is None else [outputs[self.output]]
        for y in chosen:
            if not y.ndim or len(y) != len(x):
                raise ValueError(
                    f"the output of shape {tuple(y.shape)} at {len(x)} inputs: examples are mixed; "
                    "allowed is to keep the batch axis first"
                )
        return torch.cat([y.reshape(len(x), -1) for y in chosen], 1)


def _tensors_in(result: object) -> list[Tensor]:
    """The tensors of an output, in the order in which PyTorch flattens it."""
    result = plain(result)
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Mapping):
        return [t for value in result.values() for t in _tensors_in(value)]
    if isinstance(result, (tuple, list)):
        return [t for value in result for t in _tensors_in(value)]
    return []


def _compare(
    module: nn.Module, found: Exported, x: Tensor | None = None, places: Sequence[str] = ()
) -> None:
    """At ``x``, whose points errors call ``places``; at random inputs unless given."""
    network, own = found.network, tensors(module)
    device = next((t.device for t in own.values()), torch.device("cpu"))
    if any(t.is_meta for t in own.values()):
        return  # no values to compare: who asks for a bound is told so
    if not tensors(network):
        return
    if x is None:
        x, places = own_call.random_inputs(found.input_shape, device)
    x = x.to(device)

    def plain(points: Tensor, dtype: torch.dtype) -> Tensor:
        state = in_dtype(tensors(network), dtype)
        return functional_call(network, state, (points.to(dtype),)).flatten(1)

    with torch.no_grad():
        own_call.check_evaluation(
            lambda points: found.evaluate(points, own),
            plain,
            x,
            places,
            message="the operations that PyTorch traced and what is read of them",
        )
    called = _AsOne(module, found.program.shapes, found.output).eval()
    own_call.check_call(called, plain, x, places)
