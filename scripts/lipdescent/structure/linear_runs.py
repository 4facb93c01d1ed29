"""Linear layers that follow each other in a chain, as one map: its norm is at most their product.

Composed are, where the one map is smaller than the largest of its parts or small anyway,

- what ends with ``nn.Linear``: average pools, pads and slices before it, and other ``nn.Linear``.
  The rows of its matrix are pulled back through the layers before it. A pool that repeats each of
  a few numbers 49 times leaves a matrix with a 49th of the columns, say;
- two convolutions of which one is pointwise, as in networks of separable convolutions: a kernel
  again. Padding by zeros commutes with a pointwise convolution, its bias does not matter here.

**Rounding.** An entry of the composed map is a sum of products of at most k factors and terms, so
off by at most gamma(k) times that of the layers' absolute values (Higham 2002, eq. 3.13), whose
norms are at most the products of the layers' own (in l2 of their absolute values, as
:func:`cheap_bound` has them).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp

from lipdescent.arithmetic import certified_norms, ulps
from lipdescent.layers import convolution, linear, pooling
from lipdescent.layers.convolution import Convolution
from lipdescent.networks.expressions import Chain, Layer, Node
from lipdescent.networks.operations import Gather
from lipdescent.shapes import Float64
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.layer_constants import (
    folded_state,
    folding_loss,
    layer_bound,
    layer_constant,
    tensors_of,
)
from lipdescent.structure.rebuilt import evaluate

_SMALL = 2**20  # entries of a matrix that is composed even where its parts are smaller
_FLOPS = 2**30  # of a composed convolution's symbols, of one model
_CHUNK, _CACHED = 2**22, 2**17  # numbers that are pulled back at once; where that is all
_POOLED = 2**16  # entries of a pool's or pad's matrix, of one channel
_MOVES = tuple(kind for kind in linear.TABLE if kind is not nn.Linear)
_RESHAPES = (nn.Flatten, nn.Unflatten)  # the same numbers in the same order
_AVERAGES = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
_PADS = tuple(kind for kind, rule in pooling.TABLE.items() if rule is pooling.padding)


def runs(parts: Sequence[Node]) -> list[tuple[int, int]]:
    """Where the runs of a chain begin and end, in order; what is in none stays by itself."""
    found, i = [], 0
    while i < len(parts):
        run = _matrix_run(parts, i) or _convolution_run(parts, i)
        if run is not None:
            found.append(run)
        i = i + 1 if run is None else run[1]
    return found


def segments(node: Any) -> list[tuple[Any, ...]]:
    """The parts of a node: of a chain those of each run together, others one by one."""
    if not isinstance(node, Chain):
        return [(part,) for part in node.parts]
    cut = dict(runs(node.parts))
    found, i = [], 0
    while i < len(node.parts):
        end = cut.get(i, i + 1)
        found.append(tuple(node.parts[i:end]))
        i = end
    return found


def run_bound(run: Sequence[Layer], stack: ModelStack, *, norm: str) -> Float64[Tensor, " models"]:
    """Certified upper bound on the norm of the layers of a run as one map: (num_models,).

    That of their product where the one map overflows.

    Raises
    ------
    NotApplicable, ValueError
        From a layer, with its path.
    """
    names = [(p.path, p.module, p.input_shape, p.scale and p.scale.path) for p in run]
    key = ("run", *names, norm)

    def take() -> Tensor:
        value = _composed(run, stack, norm)
        if bool(value.isfinite().all()):
            return value
        product = ulps.product_up([layer_bound(layer, stack, norm=norm) for layer in run])
        return torch.where(value.isfinite(), value, product)

    return stack.kept(key, tensors_of(run, stack), take)


def cheap_bound(layer: Layer, stack: ModelStack) -> Float64[Tensor, " models"]:
    """Bound on the l2 norm of a layer's absolute values that takes no eigenvalue.

    The Frobenius norm of a matrix; else |A|_2^2 <= |A|_1 |A|_inf.
    """
    if _is_linear(layer) and layer.scale is None:
        return _frobenius(layer.state(stack.state)["weight"])
    one, other = (layer_bound(layer, stack, norm=norm) for norm in ("l1", "linf"))
    return ulps.round_up(one.sqrt() * other.sqrt(), 4)


def _frobenius(weight: Tensor) -> Tensor:
    """Rounded up, (models,); of ordinary sizes without a copy in float64."""
    flat = weight.flatten(1)
    low, high = torch.aminmax(flat)
    if not 2.0**-400 <= float(torch.maximum(-low, high)) <= 2.0**400 or len(flat) > 1:
        return certified_norms.norm_frobenius(weight)
    squares = [torch.dot(part, part) for part in map(Tensor.double, flat[0].split(_CACHED))]
    return ulps.round_up(torch.stack(squares).sum().sqrt()[None], flat.shape[1] + 8)


def _matrix_run(parts: Sequence[Node], begin: int) -> tuple[int, int] | None:
    if not _in_matrix(parts[begin]) or _moves(parts[begin]):
        return None
    end = last = begin
    while end < len(parts) and _in_matrix(parts[end]):
        end += 1
        last = end if _is_linear(parts[end - 1]) else last
    return (begin, last) if last > begin and _smaller(parts[begin:last]) else None


def _smaller(run: Sequence[Any]) -> bool:
    """Whether the one matrix has fewer entries than the largest, or few, and there are several."""
    entries = math.prod(run[0].input_shape) * math.prod(run[-1].output_shape)
    weights = [math.prod((*p.input_shape, *p.output_shape)) for p in run if _is_linear(p)]
    if sum(not _moves(part) for part in run) < 2:
        return False
    return entries < max(weights) or (len(weights) > 1 and entries <= _SMALL)


def _in_matrix(part: Node) -> bool:
    if _is_linear(part) or _moves(part):
        return True
    if not isinstance(part, Layer) or part.scale is not None:
        return False
    kind: type = type(part.module)
    gathers = isinstance(part.module, Gather) and math.isfinite(part.module.fill)
    return gathers or kind in _AVERAGES or kind in _PADS


def _is_linear(part: Node) -> bool:
    return isinstance(part, Layer) and type(part.module) is nn.Linear and len(part.input_shape) == 1


def _moves(part: Node) -> bool:
    return isinstance(part, Layer) and type(part.module) in _MOVES


def _convolution_run(parts: Sequence[Any], begin: int) -> tuple[int, int] | None:
    pair = parts[begin : begin + 2]
    if len(pair) < 2 or not all(map(_is_convolution, pair)):
        return None
    first, second = pair
    pointwise = [p for p in (first, second) if _is_pointwise(p)]
    if not pointwise:
        return None
    if first in pointwise and any(n != 1 for n in first.module.stride):
        if second not in pointwise:
            return None
        pointwise = [second]
    other = second if first in pointwise else first
    out, inputs = second.output_shape[0], first.input_shape[0]
    places = 1 if _is_pointwise(other) else math.prod(other.output_shape[1:])
    flops = places * out * inputs * min(out, inputs)
    few = out * inputs * math.prod(other.module.kernel_size) <= _SMALL
    return (begin, begin + 2) if few and flops <= _FLOPS else None


def _is_convolution(part: Any) -> bool:
    return (
        isinstance(part, Layer)
        and type(part.module) in convolution.PLAIN
        and part.module.padding_mode == "zeros"
    )


def _is_pointwise(part: Any) -> bool:
    module = part.module
    padded = module.padding not in ("valid", "same") and any(module.padding)
    return all(n == 1 for n in module.kernel_size) and not padded


def _composed(run: Sequence[Layer], stack: ModelStack, norm: str) -> Tensor:
    """Each model by itself, so that none depends on the others."""
    one: Callable[[Sequence[Layer], dict[str, Tensor], str], Tensor] = (
        _convolution_norm if type(run[-1].module) in convolution.PLAIN else _matrix_norm
    )
    values = []
    for i in range(stack.num_models):
        state = {name: tensor[i : i + 1] for name, tensor in stack.state.items()}
        values.append(one(run, state, norm))
    value = torch.cat(values)
    steps = [_terms(layer) for layer in run]
    if norm == "l2":
        sizes = [cheap_bound(part, stack) for part in run]
    else:
        sizes = [layer_constant(part, stack, norm=norm) for part in run]
    error = ulps.gamma(sum(steps) + 4) * ulps.product_up(sizes) * (1 + 2.0**-40)
    # What underflows on the way, and what the layers behind it make of that.
    entries = math.prod(run[0].input_shape) * math.prod(run[-1].output_shape)
    lost = 2 * entries * (sum(steps) + 2) * ulps.TINY * torch.ones_like(value)
    for layer in run:
        if layer.scale is not None:
            lost = lost + folding_loss(layer, stack.state)
    for size in sizes:
        lost = ulps.round_up(lost * size.clamp_min(1.0), 2)
    return ulps.round_up(value + error + lost, 4)


def _terms(layer: Layer) -> int:
    """Roundings of an entry that the layer adds: its terms, and those of a folded weight."""
    folded = 8 if layer.scale is not None else 0
    if _moves(layer):
        return 0
    if _is_linear(layer) or type(layer.module) in convolution.PLAIN:
        return layer.output_shape[0] + layer.input_shape[0] + 2 + folded
    # Pulled back, a number is the sum of what read it.
    return math.prod(layer.output_shape[_channels(layer) :]) + 4


def _matrix_norm(run: Sequence[Layer], state: dict[str, Tensor], norm: str) -> Tensor:
    weight = folded_state(run[-1], state)["weight"][0]
    before = [(layer, _matrix(layer, state, weight)) for layer in run[-2::-1]]
    rows = [_pulled(before, part.to(torch.float64)) for part in weight.split(_rows(run))]
    matrix = torch.cat(rows)[None]
    if not bool(matrix.isfinite().all()):
        return matrix.new_full((1,), math.inf)
    return certified_norms.NORMS[norm](matrix)


def _rows(run: Sequence[Layer]) -> int:
    """So many rows at a time as a cache holds, or there is room for where they meet matrices."""
    largest = max(math.prod(shape) for p in run for shape in (p.input_shape, p.output_shape))
    together = _CHUNK if any(map(_is_linear, run[:-1])) else _CACHED
    return max(1, together // largest)


def _matrix(layer: Layer, state: dict[str, Tensor], like: Tensor) -> Tensor | None:
    """Of a linear layer, or of what a small pool or pad makes of one channel; else None."""
    if _is_linear(layer):
        return folded_state(layer, state)["weight"][0].double()
    inputs, outputs = (s[_channels(layer) :] for s in (layer.input_shape, layer.output_shape))
    places = math.prod(outputs)
    if not isinstance(layer.module, (*_AVERAGES, *_PADS)) or places * math.prod(inputs) > _POOLED:
        return None
    one = replace(layer, input_shape=(1, *inputs), output_shape=(1, *outputs))
    return _pulled_by(one, torch.eye(places, dtype=torch.float64, device=like.device))


def _channels(layer: Layer) -> int:
    """How many axes a pool or pad keeps apart."""
    name = type(layer.module).__name__
    return len(layer.output_shape) - int(name[-2]) if name[-2].isdigit() else 0


def _pulled(before: Sequence[tuple[Layer, Tensor | None]], rows: Tensor) -> Tensor:
    """Rows (r, n) times the matrices of ``before``, the last layer first."""
    for layer, matrix in before:
        if isinstance(layer.module, _RESHAPES):
            continue
        if matrix is None:
            rows = _pulled_by(layer, rows)
        else:  # of a pool or pad for each channel
            rows = (rows.view(-1, len(matrix)) @ matrix).view(len(rows), -1)
    return rows


def _pulled_by(layer: Layer, rows: Tensor) -> Tensor:
    zeros = rows.new_zeros(len(rows), *layer.input_shape)
    pull = vjp(lambda x: evaluate(layer.module, {}, x), zeros)[1]
    return pull(rows.view(-1, *layer.output_shape))[0].flatten(1)


def _convolution_norm(run: Sequence[Layer], state: dict[str, Tensor], norm: str) -> Tensor:
    before: Any = run[0].module
    first, second = (_operator(layer, state) for layer in run)
    a, b = (convolution.one_group(own.kernel) for own in (first, second))
    if _is_pointwise(run[0]) and all(n == 1 for n in before.stride):
        kernel = torch.einsum("bom...,bmi->boi...", b, a.flatten(2).view(a.shape[:3]))
        axes = second.axes
    else:
        kernel = torch.einsum("bom,bmi...->boi...", b.flatten(2).view(b.shape[:3]), a)
        axes = [
            replace(own, stride=own.stride * after.stride, outputs=after.outputs)
            for own, after in zip(first.axes, second.axes, strict=True)
        ]
    if not bool(kernel.isfinite().all()):
        return kernel.new_full((1,), math.inf)
    return convolution.norm_of(Convolution(kernel[:, None], axes), norm)


def _operator(layer: Layer, state: dict[str, Tensor]) -> Convolution:
    module: Any = layer.module
    own = folded_state(layer, state)
    return convolution.operator(module, own, layer.input_shape, layer.output_shape)
