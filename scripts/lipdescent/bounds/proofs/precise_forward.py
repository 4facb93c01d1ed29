"""Outputs of deep networks to as many digits as a proof needs, with bounds on their errors.

As in :mod:`lipdescent.bounds.proofs.forward_error` an error e of its input leaves a layer at most
K e large, K the layer's certified l2 constant, and the layer adds its own rounding. Through fifty
layers the product of the K is 1e22, while what float64 rounds is 1e-16: nothing is left. Here
layers are evaluated in fixed point (:mod:`lipdescent.arithmetic.fixed_point`): sums of products are
exact, and what a layer adds is where the limbs of its output are cut off. With one limb more, of
about 19 bits, that is 2^19 times less. Exact are also ReLU and max pools, as the signs of the
numbers are; slopes of a batch normalisation and reciprocals of counts are taken to the last limb
in whole numbers.

Two points' difference is taken of the limbs, so that it may be many digits smaller than the values.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipdescent.arithmetic.certified_norms import length_up
from lipdescent.arithmetic.fixed_point import (
    Fixed,
    added,
    bits_for,
    carried,
    fixed,
    multiplied,
    side_by_side,
    whole,
)
from lipdescent.arithmetic.ulps import round_up
from lipdescent.bounds.proofs.forward_error import ProvenForward, _batch_norm_slope
from lipdescent.layers import convolution, linear
from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Chain, Concat, Layer, Node, Sum, layers
from lipdescent.networks.known_classes import BATCH_NORMS
from lipdescent.networks.operations import Gather
from lipdescent.structure.linear_runs import segments
from lipdescent.structure.rebuilt import evaluate, rebuilt

State = dict[str, Tensor]
_UP = 1 + 2.0**-30  # more than what rounds in a bound on errors


class PreciseForward:
    """Evaluates what a :class:`ProvenForward` does, to any number of limbs.

    Raises
    ------
    NotApplicable
        For a layer without a rule in ``RULES``.
    """

    def __init__(self, forward: ProvenForward) -> None:
        self.forward = forward
        self.terms = 1  # of the longest sum
        for layer in layers(forward.node):
            kind, terms = type(layer.module), 1
            if kind not in RULES:
                raise NotApplicable(f"{layer.place}: not evaluated in fixed point")
            if RULES[kind] is _linear:
                terms = forward.stack.state[layer.named("weight")][0, 0].numel()
            elif RULES[kind] in (_adaptive, _average):
                terms = math.prod(layer.input_shape[1:])
            self.terms = max(self.terms, terms)

    @torch.no_grad()
    def difference(self, model: int, a: Tensor, b: Tensor, *, digits: int) -> tuple[Tensor, Tensor]:
        """f(a) - f(b) (n, n_out) of one model, and bounds (n,) on the l2 norm of its error.

        Parameters
        ----------
        a, b : float64 (n, *input_shape), exact.
        digits : bits of every layer's output, from its largest entry's first one on, at least.

        Raises
        ------
        OverflowError
            Where float64 has no room for so many, or so large ones.
        """
        limbs, bits = 1, 0
        while (limbs - 1) * bits < digits:
            limbs += 1
            bits = bits_for(self.terms, limbs)
            if bits < 4:
                raise OverflowError(f"{digits} bits of sums of {self.terms} terms")
        state = self.forward.stack.state_of(model)
        x, lost = fixed(torch.cat([a, b]), bits, limbs + 64 // bits + 2)
        error = a.new_full((2 * len(a),), _all(lost, x))
        with torch.backends.cudnn.flags(enabled=False):
            y, error = self._run(self.forward.node, x, error, state, model, limbs)
        above, below = (_examples(y, range(s, s + len(a))) for s in (0, len(a)))
        apart, lost = added(above, below.map(torch.neg), limbs=2 * limbs)
        rounding = length_up(apart.rounding()) + _all(lost, apart)
        return apart.value(), round_up(error[: len(a)] + error[len(a) :] + rounding, 8)

    def _run(
        self, node: Node, x: Fixed, error: Tensor, state: State, model: int, limbs: int
    ) -> tuple[Fixed, Tensor]:
        if isinstance(node, Layer):
            return self._layer(node, x, error, state, model, limbs)
        if isinstance(node, Chain):
            for run in segments(node):
                if len(run) == 1:
                    x, error = self._run(run[0], x, error, state, model, limbs)
                    continue
                inner = torch.zeros_like(error)
                for layer in run:
                    x, inner = self._layer(layer, x, inner, state, model, limbs)
                error = round_up(self.forward.runs[run][model] * error + inner, 4)
            return x, error
        results = [self._run(part, x, error, state, model, limbs) for part in node.parts]
        outputs, errors = zip(*results, strict=True)
        total = torch.stack(errors)
        if isinstance(node, Concat):
            return side_by_side(list(outputs), node.dim), length_up(total.T)
        assert isinstance(node, Sum)
        y, lost = added(*outputs, limbs=limbs)
        return y, round_up(total.sum(0) + _all(lost, y), len(outputs) + 4)

    def _layer(
        self, layer: Layer, x: Fixed, error: Tensor, state: State, model: int, limbs: int
    ) -> tuple[Fixed, Tensor]:
        own = layer.state(state)
        y, rounding = RULES[type(layer.module)](layer.module, own, x, limbs)
        if layer.scale is not None:  # a batch normalisation, part of the layer's constant
            own = layer.scale.state(state)
            y, more = _batch_norm(layer.scale.module, own, y, limbs)
            rounding = more + float(_batch_norm_slope(layer.scale.module, own)) * rounding * _UP
        constant = self.forward.constants[layer][model]
        return y, round_up(constant * error + rounding * _UP, 4)


def _examples(x: Fixed, rows: range) -> Fixed:
    return x.map(lambda limb: limb.flatten(1)[rows.start : rows.stop])


def _all(each: float, x: Fixed) -> float:
    """l2 norm of an example whose entries are off by ``each``."""
    return each * math.sqrt(x.limbs[0][0].numel()) * _UP


def _largest(x: Fixed) -> float:
    """l2 norm of the longest example."""
    return float(length_up(x.value().flatten(1)).amax()) * _UP


def _exact(module: Any, state: State, x: Fixed, limbs: int) -> tuple[Fixed, float]:
    return x.map(lambda limb: evaluate(module, state, limb)), 0.0


def _relu(module: nn.Module, state: State, x: Fixed, limbs: int) -> tuple[Fixed, float]:
    on = (x.value() > 0).to(torch.float64)
    return x.map(lambda limb: limb * on), 0.0


def _hardtanh(module: Any, state: State, x: Fixed, limbs: int) -> tuple[Fixed, float]:
    """Beyond a limit the limit: on which side a number is, its difference's sign says."""
    ends = [x.limbs[0].new_tensor(float(end)) for end in (module.max_val, module.min_val)]
    high, low = (fixed(end, x.bits, 64 // x.bits + 2)[0] for end in ends)
    many = len(x.limbs) + abs(x.first) + sum(len(e.limbs) + abs(e.first) for e in (high, low)) + 2
    above = (added(x, high.map(torch.neg), limbs=many)[0].value() > 0).to(torch.float64)
    below = (added(x, low.map(torch.neg), limbs=many)[0].value() < 0).to(torch.float64)
    inside = (1 - above) * (1 - below)
    kept = x.map(lambda limb: limb * inside)
    y, cut = added(
        kept, high.map(lambda limb: limb * above), low.map(lambda limb: limb * below), limbs=limbs
    )
    return y, _all(cut, y)


def _gather(module: Gather, state: State, x: Fixed, limbs: int) -> tuple[Fixed, float]:
    if module.fill != 0:
        raise NotApplicable(f"what is filled with {module.fill:g}: not in fixed point")
    return _exact(module, state, x, limbs)


def _linear(module: Any, state: State, x: Fixed, limbs: int) -> tuple[Fixed, float]:
    """A weight that has more limbs is off by ``lost``.

    An output is off by at most ``lost`` times the sum of the T entries it takes: sqrt(T) times
    their length where they are different ones, T times that of x where padding repeats some.
    """
    weight, lost = fixed(state["weight"], x.bits, limbs)

    layers_of = {id(part): _without_bias(module, part) for part in weight.limbs}
    y, cut = multiplied(x, weight, lambda limb, part: layers_of[id(part)](limb), limbs=limbs)
    terms, outputs = state["weight"][0].numel(), y.limbs[0][0].numel()
    rounding = _all(cut, y)
    if lost:
        repeats = getattr(module, "padding_mode", "zeros") != "zeros"
        taken = terms if repeats else math.sqrt(terms)
        rounding += lost * taken * math.sqrt(outputs) * _largest(x) * _UP
    if state.get("bias") is not None:
        shape = (-1,) if isinstance(module, nn.Linear) else (-1, *[1] * (len(y.shape) - 2))
        bias, lost = fixed(state["bias"].reshape(shape), x.bits, limbs + 64 // x.bits + 2)
        y, cut = added(y, bias, limbs=limbs)
        rounding += _all(cut + lost, y)
    return y, rounding


def _without_bias(module: Any, weight: Tensor) -> Callable[[Tensor], Tensor]:
    if isinstance(module, nn.Linear):
        return lambda x: functional.linear(x, weight)
    layer = rebuilt(module, {"weight": weight})
    return lambda x: type(layer).forward(layer, x)


def _batch_norm(module: Any, state: State, x: Fixed, limbs: int) -> tuple[Fixed, float]:
    """(x - mean) slope + bias; slopes to within one unit of a last limb, in whole numbers."""
    shape = (-1, *[1] * (len(x.shape) - 2))
    count = limbs + 64 // x.bits + 2
    mean, mean_lost = fixed(-state["running_mean"].reshape(shape), x.bits, count)
    centred, cut = added(x, mean, limbs=limbs + 1)
    eps, width = Fraction(module.eps), len(state["running_var"])
    slope_size = float(_batch_norm_slope(module, state))
    last = limbs - math.ceil(math.log2(max(slope_size, 2.0**-40)) / x.bits) + 1
    weight = state["weight"].tolist() if state.get("weight") is not None else [1.0] * width
    known: dict[tuple[float, float], int] = {}
    for pair in zip(weight, state["running_var"].tolist(), strict=True):
        if pair not in known:
            square = (
                Fraction(pair[0]) ** 2 / (Fraction(pair[1]) + eps) * Fraction(4) ** (x.bits * last)
            )
            root = math.isqrt(square.numerator // square.denominator)
            known[pair] = root if pair[0] >= 0 else -root
    pairs = zip(weight, state["running_var"].tolist(), strict=True)
    slopes = whole([known[pair] for pair in pairs], last, x.bits, x.limbs[0])
    slopes = slopes.map(lambda limb: limb.reshape(shape))
    y, more = multiplied(centred, slopes, torch.mul, limbs=limbs)
    rounding = _all((mean_lost + cut) * slope_size + more, y)
    rounding += 2.0 ** (-x.bits * last) * _largest(centred)
    if state.get("bias") is not None:
        bias, lost = fixed(state["bias"].reshape(shape), x.bits, count)
        y, cut = added(y, bias, limbs=limbs)
        rounding += _all(cut + lost, y)
    return y, rounding


def _divided(x: Fixed, counts: Tensor, limbs: int) -> tuple[Fixed, float]:
    """x over whole numbers, which broadcast; their reciprocals to half a unit of a last limb."""
    last = limbs + 1
    units = 1 << (x.bits * last)
    shares = [round(Fraction(units, int(n))) for n in counts.flatten().tolist()]
    share = whole(shares, last, x.bits, x.limbs[0]).map(lambda limb: limb.view(counts.shape))
    y, cut = multiplied(x, share, torch.mul, limbs=limbs)
    return y, _all(cut, y) + 2.0 ** (-x.bits * last) * _largest(x)


def _adaptive(module: Any, state: State, x: Fixed, limbs: int) -> tuple[Fixed, float]:
    """Means over the windows floor(i n / m) to ceil((i + 1) n / m) of each axis."""
    sizes = x.shape[2:]
    wanted = module.output_size
    wanted = wanted if isinstance(wanted, tuple) else (wanted,) * len(sizes)
    members, counts = [], torch.ones((), dtype=torch.float64)
    for n, m in zip(sizes, wanted, strict=True):
        m = n if m is None else m
        first, place = torch.arange(m)[:, None], torch.arange(n)
        inside = (place >= first * n // m) & (place < -(-(first + 1) * n // m))
        members.append(inside.to(x.limbs[0]))
        counts = counts[..., None] * inside.sum(1).to(counts)

    def summed(limb: Tensor) -> Tensor:
        for axis, member in enumerate(members, 2):
            limb = (limb.movedim(axis, -1) @ member.mT).movedim(-1, axis)
        return limb

    sums, cut = carried({level: summed(limb) for level, limb in x.levels()}, x.bits, limbs + 1)
    y, rounding = _divided(sums, counts, limbs)
    return y, rounding + _all(cut, y)


def _average(module: Any, state: State, x: Fixed, limbs: int) -> tuple[Fixed, float]:
    """``divisor_override=1`` gives the windows' sums."""
    kernel = (
        module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,) * 2
    )
    padded = module.padding not in (0, (0, 0)) and not module.count_include_pad
    if module.ceil_mode or padded or module.divisor_override is not None:
        raise NotApplicable("AvgPool2d with windows of several sizes: not in fixed point")

    def summed(limb: Tensor) -> Tensor:
        return functional.avg_pool2d(
            limb, kernel, module.stride, module.padding, divisor_override=1
        )

    sums, cut = carried({level: summed(limb) for level, limb in x.levels()}, x.bits, limbs + 1)
    count = torch.tensor([float(math.prod(kernel))]).double()
    y, rounding = _divided(sums, count, limbs)
    return y, rounding + _all(cut, y)


def _max_pool(module: Any, state: State, x: Fixed, limbs: int) -> tuple[Fixed, float]:
    """The windows' taps one after another; the larger of two by the sign of their difference."""
    kernel, stride, padding, dilation = (
        v if isinstance(v, tuple) else (v, v)
        for v in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    low = -(2.0 ** (x.bits * (1 - x.first)))  # below any number, in the first limb
    sizes = module(x.limbs[0][:1]).shape[2:]  # with ceil_mode windows may reach further
    ends = [
        max(p, s * (m - 1) + d * (k - 1) + 1 - n - p)
        for m, n, k, s, p, d in zip(
            sizes, x.shape[2:], kernel, stride, padding, dilation, strict=True
        )
    ]
    pad = (padding[1], ends[1], padding[0], ends[0])
    fills = [low] + [0.0] * (len(x.limbs) - 1)
    padded = [functional.pad(t, pad, value=v) for t, v in zip(x.limbs, fills, strict=True)]

    def tap(i: int, j: int) -> Fixed:
        begin = i * dilation[0], j * dilation[1]
        rows, columns = (
            slice(b, b + s * (m - 1) + 1, s) for b, s, m in zip(begin, stride, sizes, strict=True)
        )
        return Fixed([t[..., rows, columns] for t in padded], x.first, x.bits)

    best = tap(0, 0)
    for place in range(1, kernel[0] * kernel[1]):
        other = tap(*divmod(place, kernel[1]))
        apart, _ = added(other, best.map(torch.neg), limbs=len(x.limbs) + 2)
        more = apart.value() > 0
        pairs = zip(other.limbs, best.limbs, strict=True)
        best = Fixed([torch.where(more, a, b) for a, b in pairs], x.first, x.bits)
    return best, 0.0


RULES: dict[type[nn.Module], Callable[[Any, State, Fixed, int], tuple[Fixed, float]]] = {
    **dict.fromkeys((kind for kind in linear.TABLE if kind is not nn.Linear), _exact),
    **dict.fromkeys((nn.Linear, *convolution.PLAIN), _linear),
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
    nn.ReLU: _relu,
    **dict.fromkeys((nn.ReLU6, nn.Hardtanh), _hardtanh),
    Gather: _gather,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average,
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _adaptive),
}
