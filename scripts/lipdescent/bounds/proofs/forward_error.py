"""Outputs of a network in float64 with proven bounds on their rounding errors.

An input that is off by e in l2 leaves a layer off by at most K e, K its certified l2 constant
(:mod:`lipdescent.layers`; linear layers that follow each other may have one for all of them), plus
what evaluating the layer itself rounds (``ROUNDING``). Sums add the errors of their parts,
concatenations their squares. Unlike elementwise error bounds this does not grow by the sums of
absolute weights: through a ResNet-18 it still leaves some digits.

What is assumed of the platform: sums of products are sums of products, in any order, fused or
not (so cuDNN, which may transform convolutions, is off); exp, log1p, erf and tanh are within 16
units in the last place (measured in the tests; the libraries in use document 1 or 2).
"""

import math
from collections.abc import Callable
from itertools import chain as join
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lipdescent.arithmetic.certified_norms import length_up
from lipdescent.arithmetic.ulps import UNIT_ROUNDOFF, gamma, round_up
from lipdescent.constrained.layers import GroupSort, InvertibleDownsampling
from lipdescent.layers import activation, convolution, linear, pooling
from lipdescent.layers.roundings import interpolation, terms
from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Chain, Concat, Layer, Node, Sum, layers
from lipdescent.networks.known_classes import BATCH_NORMS
from lipdescent.networks.operations import Divide, Function, Gather, Reduce, Scale, Shift
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.layer_constants import layer_bound
from lipdescent.structure.linear_runs import cheap_bound, run_bound, segments
from lipdescent.structure.rebuilt import evaluate
from lipdescent.structure.trace import trace

State = dict[str, Tensor]
# (module, its tensors, input, output) -> what evaluating it rounds, in l2: (n,).
Rule = Callable[[Any, State, Tensor, Tensor], Tensor]


class ProvenForward:
    """Evaluates the models of a traced stack.

    Raises
    ------
    NotApplicable
        If a layer has no l2 constant or no rule in ``ROUNDING``.
    TypeError, ValueError
        As :func:`lipdescent.structure.trace.trace`.
    """

    def __init__(self, stack: ModelStack) -> None:
        self.stack, self.node = stack, trace(stack)
        for layer in layers(self.node):
            if type(layer.module) not in ROUNDING:
                raise NotApplicable(f"{layer.place}: no error bound")
        self.runs: dict[tuple[Layer, ...], Tensor] = {}
        self.constants: dict[Layer, Tensor] = {}
        self._take_constants(self.node)

    def _take_constants(self, node: Node) -> None:
        """l2 constants; of layers in a run cheap ones, as only its own roundings pass them."""
        if isinstance(node, Layer):
            self.constants[node] = layer_bound(node, self.stack, norm="l2")
            return
        for run in segments(node):
            if len(run) == 1:
                self._take_constants(run[0])
                continue
            self.runs[run] = run_bound(run, self.stack, norm="l2")
            self.constants |= {layer: cheap_bound(layer, self.stack) for layer in run}

    @torch.no_grad()
    def __call__(self, model: int, points: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (n, n_out) of one model, and bounds (n,) on the l2 norm of their errors.

        ``points`` float64 (n, *input_shape), exact.
        """
        state = self.stack.state_of(model)
        with torch.backends.cudnn.flags(enabled=False):
            y, error = self._run(self.node, points, points.new_zeros(len(points)), state, model)
        return y.flatten(1), error

    def _run(
        self, node: Node, x: Tensor, error: Tensor, state: State, model: int
    ) -> tuple[Tensor, Tensor]:
        if isinstance(node, Layer):
            return self._layer(node, x, error, state, model)
        if isinstance(node, Chain):
            for run in segments(node):
                if len(run) == 1:
                    x, error = self._run(run[0], x, error, state, model)
                    continue
                inner = torch.zeros_like(error)
                for layer in run:
                    x, inner = self._layer(layer, x, inner, state, model)
                error = round_up(self.runs[run][model] * error + inner, 4)
            return x, error
        results = [self._run(part, x, error, state, model) for part in node.parts]
        outputs, errors = zip(*results, strict=True)
        total = torch.stack(errors)
        if isinstance(node, Concat):
            return torch.cat(outputs, node.dim), _length(total.T)
        assert isinstance(node, Sum)
        rounding = gamma(len(outputs)) * _length(torch.stack(outputs).abs().sum(0))
        y = torch.stack(outputs).sum(0)
        return y, round_up(total.sum(0) + rounding, len(outputs) + 4)

    def _layer(
        self, layer: Layer, x: Tensor, error: Tensor, state: State, model: int
    ) -> tuple[Tensor, Tensor]:
        y, rounding = _evaluate(layer, x, state)
        if layer.scale is not None:  # a batch normalisation, part of the layer's constant
            z, more = _evaluate(layer.scale, y, state)
            slope = _batch_norm_slope(layer.scale.module, layer.scale.state(state))
            y, rounding = z, more + round_up(slope * rounding)
        return y, round_up(self.constants[layer][model] * error + rounding, 4)


def _evaluate(layer: Layer, x: Tensor, state: State) -> tuple[Tensor, Tensor]:
    own = layer.state(state)
    y = evaluate(layer.module, own, x)
    rule = ROUNDING[type(layer.module)]
    rounding = rule(layer.module, own, x, y)
    if rule is _exact:
        return y, rounding
    # Whatever underflows is below 2^-1000 in each of less than 2^60 products, and may be all.
    return y, round_up(rounding + 2.0**-940, 4)


def _length(x: Tensor) -> Tensor:
    """l2 norms (n,) of the examples, rounded up, at any scale."""
    return length_up(x.flatten(1))


def _exact(module: nn.Module, state: State, x: Tensor, y: Tensor) -> Tensor:
    return x.new_zeros(len(x))


def _relative(module: nn.Module, state: State, x: Tensor, y: Tensor) -> Tensor:
    """At most 8 roundings of each output."""
    return gamma(16) * _length(y)


def _linear(module: nn.Module, state: State, x: Tensor, y: Tensor) -> Tensor:
    """|fl(W x + b) - (W x + b)| <= gamma(terms) (|W| |x| + |b|), entry by entry."""
    size = functional_call(module, {name: t.abs() for name, t in state.items()}, (x.abs(),))
    return gamma(2 * terms(module, tuple(x.shape[1:])) + 8) * _length(size)


def _average(module: nn.Module, state: State, x: Tensor, y: Tensor) -> Tensor:
    return gamma(2 * x[0].numel() + 8) * _length(module(x.abs()))


def _upsample(module: nn.Upsample, state: State, x: Tensor, y: Tensor) -> Tensor:
    """As many as :func:`interpolation` says for each weight; at most 4 taps per axis."""
    if module.mode.startswith("nearest"):
        return _exact(module, state, x, y)
    each = 4 ** (x.ndim - 2) * gamma(interpolation(tuple(x.shape[1:]), tuple(y.shape[1:])))
    if module.mode == "area":
        each = gamma(2 * x[0].numel() + 8)
    return each * math.sqrt(2 * y[0].numel()) * x.flatten(1).abs().amax(1)


def _batch_norm(module: nn.Module, state: State, x: Tensor, y: Tensor) -> Tensor:
    """(|x| + |mean|) |slope| + |bias|, in whichever order torch multiplies it out."""
    signs = {"running_mean": -1.0, "weight": 1.0, "bias": 1.0}
    plus = {name: signs[name] * t.abs() if name in signs else t for name, t in state.items()}
    # A slope that underflows is off by 2^-1074, times what it multiplies.
    lost = 2.0**-1000 * (_length(x) + math.sqrt(x[0].numel()) * plus["running_mean"].abs().amax())
    return gamma(32) * _length(functional_call(module, plus, (x.abs(),))) + lost


def _batch_norm_slope(module: Any, state: State) -> Tensor:
    slope = (state["running_var"] + module.eps).rsqrt()
    return round_up((slope * state.get("weight", torch.ones_like(slope))).abs().amax(), 16)


def _smooth(module: nn.Module, state: State, x: Tensor, y: Tensor) -> Tensor:
    """64 roundings of |x|, |y| and of 1 (or of the factor alpha): 1 + erf(x) may cancel."""
    scale = max(2.0, abs(cast(float, getattr(module, "alpha", 1.0))))
    return 64 * UNIT_ROUNDOFF * _length(x.abs() + y.abs() + scale)


def _softplus(module: nn.Softplus, state: State, x: Tensor, y: Tensor) -> Tensor:
    """Beyond the threshold torch leaves out log(1 + exp(-threshold)) / beta."""
    jump = 1.001 * math.exp(-module.threshold) / abs(module.beta)
    return _smooth(module, state, x, y) + jump * math.sqrt(y[0].numel())


def _softmax(module: activation.Softmax, state: State, x: Tensor, y: Tensor) -> Tensor:
    """exp(t) is off by |t| exp(t) u <= u and its own error; the sum by those of its terms."""
    terms = activation._classes(module, tuple(x.shape[1:]))
    return y.new_full((len(y),), gamma(4 * terms + 128) * math.sqrt(2 * y[0].numel()))


def _log_softmax(module: nn.LogSoftmax, state: State, x: Tensor, y: Tensor) -> Tensor:
    largest = x.flatten(1).abs().amax(1)
    size = math.sqrt(2 * y[0].numel()) * (1 + 2 * largest)
    return _softmax(module, state, x, y) + round_up(gamma(64) * size, 4)


def _shift(module: nn.Module, state: State, x: Tensor, y: Tensor) -> Tensor:
    return gamma(2) * _length(y)


def _reduce(module: Reduce, state: State, x: Tensor, y: Tensor) -> Tensor:
    """Sums of k terms: gamma(k + 2) of the sum of sizes; the others a few roundings more."""
    if module.kind in ("max", "min"):
        return _exact(module, state, x, y)
    k = module.count(tuple(x.shape[1:]))
    if module.kind in ("sum", "mean"):
        return gamma(2 * k + 8) * _length(module(x.abs()))
    if module.kind == "length":  # |x| as torch takes it, squares not scaled: they must not vanish
        tiny = 2.0**-500 * math.sqrt(x[0].numel())
        return gamma(2 * k + 16) * _length(y) + tiny
    # exp(x - max) is off by |x - max| roundings of itself and its own error, as in the softmax.
    largest = x.flatten(1).abs().amax(1)
    return gamma(4 * k + 128) * math.sqrt(2 * y[0].numel()) * (2 + 4 * largest)


_RELATIVE_FUNCTIONS = ("exp", "expm1", "square", "sqrt", "rsqrt", "reciprocal", "log")


# A gate is off by few roundings of itself and of its argument, times its slope there; x^2 exp(-x^2)
# and the like are below 1.
_STEADY_FUNCTIONS = (
    *("sin", "cos", "atan", "asinh", "erf"),
    *("swish", "erf_gate", "gaussian", "logcosh", "softplus"),
)


def _scalar(module: Function, state: State, x: Tensor, y: Tensor) -> Tensor:
    """64 roundings of |x|, |y| and 1 where slopes are at most 2; else of the result alone."""
    if module.name in ("abs", "at_most"):
        return _exact(module, state, x, y)
    if module.name == "power" or module.name in (*_RELATIVE_FUNCTIONS, "softsign", "isru"):
        return 64 * UNIT_ROUNDOFF * _length(y)
    if module.name not in _STEADY_FUNCTIONS:
        return torch.full_like(x.flatten(1)[:, 0], torch.inf)
    return 64 * UNIT_ROUNDOFF * _length(x.abs() + y.abs() + 1.0)


_EXACT = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Threshold, GroupSort, InvertibleDownsampling)
_RELATIVE = (nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Softshrink, nn.Softsign, nn.Hardswish)
_SMOOTH = (nn.GELU, nn.SiLU, nn.Mish, nn.SELU, nn.ELU, nn.CELU, nn.Tanh, nn.Sigmoid, nn.LogSigmoid)
_ISOMETRIES = (kind for kind in linear.TABLE if kind is not nn.Linear)
_POOLS = {
    kind: _exact if rule in (pooling.max_pool, pooling.adaptive_max_pool) else _average
    for kind, rule in pooling.TABLE.items()
    if rule not in (pooling.power_pool, pooling.upsample, pooling.padding)
}
_PADS = (kind for kind, rule in pooling.TABLE.items() if rule is pooling.padding)

ROUNDING: dict[type[nn.Module], Rule] = {
    **dict.fromkeys(join(_EXACT, _ISOMETRIES, _PADS), _exact),
    **dict.fromkeys((*_RELATIVE, nn.Hardsigmoid), _relative),
    **dict.fromkeys((*_SMOOTH, nn.Tanhshrink), _smooth),
    **dict.fromkeys((nn.Linear, *convolution.TABLE), _linear),
    **_POOLS,
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), _upsample),
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
    nn.Softplus: _softplus,
    **dict.fromkeys((nn.Softmax, nn.Softmin, nn.Softmax2d), _softmax),
    nn.LogSoftmax: _log_softmax,
    **dict.fromkeys((Scale, Divide), _relative),
    Shift: _shift,
    Gather: _exact,
    Reduce: _reduce,
    Function: _scalar,
}
