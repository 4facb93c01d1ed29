"""Outputs of a graph of operations in float64 with proven bounds on their rounding errors.

As :mod:`lipdescent.bounds.proofs.forward_error`, from vertex to vertex: an input that is off by e
in l2 leaves a layer off by at most K e. K holds near the point, which is less than everywhere for
normalisations, and finite for functions whose slopes are not bounded. What joins values:

- entry by entry |ab - a'b'| <= |a'| |b - b'| + |b'| |a - a'| + |a - a'| |b - b'|, in l2 with the
  largest entries of a' and b'; for products of matrices the same with Frobenius norms;
- |a/b - a'/b'| <= (|a'/b'| |b - b'| + |a - a'|) / |b|, |b| at least |b'| less its error;
- a value that is broadcast is m times as long, in squares.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.ulps import gamma, round_down, round_up
from lipdescent.bounds.proofs.forward_error import ROUNDING, _evaluate, _length
from lipdescent.layers.normalisation import INPUT_NORMS
from lipdescent.layers.table import TABLE
from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Chain, Concat, Layer, Node
from lipdescent.networks.graph import (
    Attention,
    Combination,
    Concatenation,
    Extremum,
    GraphNetwork,
    Join,
    MatrixProduct,
    Product,
    Quotient,
)
from lipdescent.networks.operations import Function
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.layer_constants import layer_bound
from lipdescent.structure.rebuilt import evaluate
from lipdescent.structure.trace import trace

State = dict[str, Tensor]
Known = tuple[Tensor, Tensor]  # a value (n, *shape) and the l2 length (n,) of its error at most
_NEARBY = (*INPUT_NORMS, Function)
MOST_ATTENTIONS = 2  # of which randomly drawn transformers still had a proved bound that is not 0
# |slope| of functions at sizes: (smallest |x| or x, largest x, largest |x|) -> at most.
_SLOPES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "exp": lambda low, high, size: high.exp(),
    "expm1": lambda low, high, size: high.exp(),
    "square": lambda low, high, size: 2 * size,
    "sqrt": lambda low, high, size: 0.5 / low.sqrt(),
    "rsqrt": lambda low, high, size: 0.5 / (low * low.sqrt()),
    "reciprocal": lambda low, high, size: 1 / (low * low),
    "log": lambda low, high, size: 1 / low,
}


class ProvenGraph:
    """Evaluates the models of a stack of graphs, or of traced networks.

    Raises
    ------
    NotApplicable
        For an operation without a rule.
    TypeError, ValueError
        As :func:`lipdescent.structure.trace.trace`.
    """

    def __init__(self, stack: ModelStack) -> None:
        self.stack = stack
        self.operations: list[tuple[Layer | Join, tuple[int, ...]]] = []
        if isinstance(stack.module, GraphNetwork):
            self.output = self._add_graph(stack.module)
        else:
            self.output = self._add(trace(stack), 0)
        kinds = Counter(type(operation) for operation, _ in self.operations)
        attentions = kinds[Attention] + kinds[MatrixProduct] // 2  # written out it has two products
        if attentions > MOST_ATTENTIONS:
            raise NotApplicable(
                f"{attentions} attentions: the proved error grows a thousandfold from one to the "
                f"next, and nothing is left to prove of more than {MOST_ATTENTIONS}"
            )
        self.constants: dict[int, Tensor] = {}
        for i, (layer, _) in enumerate(self.operations):
            if not isinstance(layer, Layer):
                continue
            kind = type(layer.module)
            if kind not in TABLE or kind not in (*ROUNDING, *INPUT_NORMS):
                raise NotApplicable(f"{layer.place}: no error bound")
            if not isinstance(layer.module, _NEARBY) or _is_steady(layer.module):
                self.constants[i] = layer_bound(layer, stack, norm="l2")

    def _add_graph(self, network: GraphNetwork) -> int:
        paths = {id(m): name for name, m in network.named_modules()}
        vertices = network.graph.vertices
        for vertex in vertices[1:]:
            operation: Any = vertex.operation
            if not isinstance(operation, Join):
                shape = vertices[vertex.inputs[0]].shape
                operation = Layer(operation, paths[id(operation)], shape, vertex.shape)
            self.operations.append((operation, vertex.inputs))
        return network.graph.output

    def _add(self, node: Node, at: int) -> int:
        """The index of what ``node`` makes of the value ``at``."""
        if isinstance(node, Layer):
            parts = [replace(node, scale=None)]
            if node.scale is not None:
                shape = node.output_shape
                parts.append(replace(node.scale, input_shape=shape, output_shape=shape))
            for part in parts:
                self.operations.append((part, (at,)))
                at = len(self.operations)
            return at
        if isinstance(node, Chain):
            for step in node.parts:
                at = self._add(step, at)
            return at
        ends = tuple(self._add(part, at) for part in node.parts)
        join: Join = Combination((1.0,) * len(ends))
        if isinstance(node, Concat):
            if node.dim < 1:
                raise NotApplicable(f"a concatenation along dim = {node.dim}: no error bound")
            join = Concatenation(node.dim - 1)
        self.operations.append((join, ends))
        return len(self.operations)

    @torch.no_grad()
    def __call__(self, model: int, points: Tensor) -> Known:
        """Outputs (n, n_out) of one model, and bounds (n,) on the l2 norm of their errors."""
        state = self.stack.state_of(model)
        known: list[Known] = [(points, points.new_zeros(len(points)))]
        with torch.backends.cudnn.flags(enabled=False):
            for i, (operation, places) in enumerate(self.operations):
                inputs = [known[j] for j in places]
                if isinstance(operation, Join):
                    y, error = _joined(operation, inputs)
                else:
                    y, error = self._layer(i, operation, inputs[0], state, model)
                # Whatever overflowed is not known at all.
                known.append((y, torch.where(error.isfinite(), error, torch.inf)))
        y, error = known[self.output]
        return y.flatten(1), error

    def _layer(self, i: int, layer: Layer, known: Known, state: State, model: int) -> Known:
        x, error = known
        if i in self.constants:
            slope = self.constants[i][model]
        elif isinstance(layer.module, Function):
            slope = _slope(layer.module, x, error)
        else:
            return _normalised(layer, x, error, state)
        y, rounding = _evaluate(layer, x, state)
        return y, round_up(slope * error + rounding, 6)


def _is_steady(module: nn.Module) -> bool:
    """Whether a function has bounded slopes on the whole line."""
    is_power = getattr(module, "name", "") == "power" and module.argument not in (0.0, 1.0)
    return isinstance(module, Function) and module.name not in _SLOPES and not is_power


def _power_slope(p: float, low: Tensor, size: Tensor) -> Tensor:
    """|p| |x|^(p - 1), largest at the largest x for p > 1, at the smallest x > 0 for others."""
    if p > 1 and p == int(p):
        return p * size ** (p - 1)
    at = size if p > 1 else low
    return torch.where(low > 0, abs(p) * at ** (p - 1), torch.inf)


def _slope(module: Function, x: Tensor, error: Tensor) -> Tensor:
    """(n,) steepest slope within ``error`` of x; infinite at a pole."""
    flat = x.flatten(1)
    size = flat.abs().amax(1) + error
    values = flat.abs() if module.name == "reciprocal" else flat
    low = round_down(values.amin(1) - error, 4)
    if module.name == "power":
        steep = _power_slope(module.argument, low, size)
    else:
        steep = _SLOPES[module.name](low, flat.amax(1) + error, size)
    steep = round_up(steep, 64)
    if module.name in ("sqrt", "rsqrt", "reciprocal", "log"):
        return torch.where(low > 0, steep, torch.inf)
    return steep


def _normalised(layer: Layer, x: Tensor, error: Tensor, state: State) -> Known:
    """Layer, group, instance and RMS normalisation over groups of d numbers.

    The standard deviation moves by at most |dx| / sqrt(d), so near x the constant is max |gamma|
    over the root of eps and the smallest deviation's square. Evaluating: a computed variance is
    off by gamma(c d) of the mean square, whichever way it is taken, and what it is multiplied
    with by few roundings of (|x| + mean |x|) / sigma |gamma| + |beta|.
    """
    module: Any = layer.module
    y, _ = _plain(layer, x, state)
    own = layer.state(state)
    groups = _groups(module, x)
    d, centred = groups.shape[2], not isinstance(module, nn.RMSNorm)
    eps = torch.finfo(x.dtype).eps if module.eps is None else module.eps
    square = (groups * groups).mean(2)
    mean = groups.abs().mean(2, keepdim=True) if centred else torch.zeros_like(groups[..., :1])
    shift = groups.mean(2, keepdim=True) if centred else 0.0
    variance = ((groups - shift) ** 2).mean(2)
    lost = gamma(32 * d + 128) * square
    deviation = round_down((variance - lost).clamp_min(0).sqrt(), 4)
    least = (deviation - round_up(error / math.sqrt(d), 4)[:, None]).clamp_min(0)
    weight = own["weight"].abs().amax() if "weight" in own else x.new_ones(())
    slope = round_up(weight / (least * least + eps).sqrt().amin(1), 16)
    bottom = round_down((variance - lost).clamp_min(0) + eps, 4)
    relative = lost / bottom  # of the variance; twice that of its root, and more
    size = (groups.abs() + mean) / bottom[..., None].sqrt()
    each = (2 * relative + gamma(8 * d + 128))[..., None] * size
    rounding = round_up(_length(each.reshape(x.shape)) * weight, 8)
    if "bias" in own and own["bias"] is not None:
        rounding = rounding + gamma(16) * _length(own["bias"].abs()[None]) * math.sqrt(
            y[0].numel() / own["bias"].numel()
        )
    rounding = torch.where((relative < 0.25).all(1), rounding + 2.0**-940, torch.inf)
    return y, round_up(slope * error + rounding, 8)


def _plain(layer: Layer, x: Tensor, state: State) -> Known:
    return evaluate(layer.module, layer.state(state), x), x.new_zeros(len(x))


def _groups(module: Any, x: Tensor) -> Tensor:
    """(n, groups, d): the numbers that are normalised together."""
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return x.reshape(len(x), -1, math.prod(module.normalized_shape))
    count = module.num_groups if isinstance(module, nn.GroupNorm) else module.num_features
    return x.reshape(len(x), count, -1)


def _joined(join: Any, inputs: list[Known]) -> Known:
    y = join(*(value for value, _ in inputs))
    numbers = y[0].numel()
    if isinstance(join, Concatenation):
        return y, _length(torch.stack([error for _, error in inputs], 1))
    if isinstance(join, Attention):
        return y, _attention_error(join, inputs)
    if isinstance(join, MatrixProduct):
        return y, _matrix_error(*inputs)
    longer = [e * round_up(y.new_tensor(math.sqrt(numbers / v[0].numel())), 2) for v, e in inputs]
    sizes = [value.flatten(1).abs().amax(1) for value, _ in inputs]
    if isinstance(join, Combination):
        size = Combination(tuple(map(abs, join.factors)))(*(value.abs() for value, _ in inputs))
        total = sum(abs(f) * e for f, e in zip(join.factors, longer, strict=True))
        return y, round_up(total + gamma(2 * len(inputs) + 2) * _length(size), 4 + len(inputs))
    (a, b), (e, f) = sizes, longer
    if isinstance(join, Extremum):
        return y, _length(torch.stack([e, f], 1))
    rounding = gamma(4) * _length(y) + 2.0**-940
    if isinstance(join, Product):
        return y, round_up(a * f + b * e + e * f + rounding, 8)
    if isinstance(join, Quotient):
        least = round_down(inputs[1][0].flatten(1).abs().amin(1) - inputs[1][1], 4)
        largest = round_up(y.flatten(1).abs().amax(1), 2)
        error = round_up((largest * f + e) / least, 8)
        return y, torch.where(least > 0, round_up(error + rounding, 4), torch.inf)
    raise NotApplicable(f"{type(join).__name__}: no error bound")


def _matrix_error(left: Known, right: Known) -> Tensor:
    """Of a product of matrices, its own rounding included."""
    (a, e), (b, f) = left, right
    long, wide = _length(a), _length(b)
    own = round_up(gamma(2 * a.shape[-1] + 4) * long * wide, 4)
    return round_up(long * f + wide * e + e * f + own + 2.0**-940, 12)


def _attention_error(join: Attention, inputs: list[Known]) -> Tensor:
    """Scores, softmax (1/2-Lipschitz), and the product with the values.

    A key 1000 below the largest score of its query, and by more than 2^-40 of its bias, has less
    than the weight exp(-900), however its score is rounded; with minus infinity it has none.
    """
    (q, _), (k, _), (v, wrong) = inputs[:3]
    products = join.scale * (q @ k.mT)
    scores = round_up(
        _matrix_error(*inputs[:2]) * abs(join.scale) + gamma(4) * _length(products), 4
    )
    total, rest = products, 0.0
    for bias, off in inputs[3:]:
        total = products + bias
        last = total.amax(-1, keepdim=True) - 1000.0
        far = total + 2.0**-40 * bias.abs().nan_to_num(0.0, 0.0, 0.0) < last
        near = torch.where(far, 0.0, bias)
        scores = scores + off + gamma(4) * _length(near)
        scores = torch.where(scores < 50, round_up(scores, 8), torch.inf)
        rest = 2.0**-900
    softmax = gamma(4 * k.shape[-2] + 128) * math.sqrt(2 * products[0].numel()) + rest
    return _matrix_error((total.softmax(-1), round_up(scores / 2 + softmax, 4)), (v, wrong))
