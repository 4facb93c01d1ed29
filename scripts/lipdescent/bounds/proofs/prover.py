"""Lower bounds on the Lipschitz constant that a point proves, rounding included.

Chains of Linear and piecewise-linear activations (:func:`certify_chain`). A running error bound
on every pre-activation tells whether its sign is certain. If it is for all units that matter, the
network is affine near the point, hence L >= |J v| / |v| for every v, with J computed to within
gamma(k) |W_L| D_{L-1} ... D_1 |W_1| (Higham 2002, eq. 3.13). A unit does not matter if it is
constant (all paths from the inputs have weight zero) or cut off from the outputs. Points with an
uncertain sign prove nothing and get 0.

Anything else. Whatever the kinks, |f(a) - f(b)| <= L |a - b| for any two points, so every quotient
is a lower bound; the Jacobian only chooses the direction a - b. Rounding in f is bounded by
``forward_error.py`` for networks made of the layers that it knows. For others, such as attention
or a module with code of its own, it can only be estimated: their numbers are no bounds but
estimates, and are called so (:attr:`Prover.direction`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import length_down, length_up
from lipdescent.arithmetic.ulps import (
    TINY,
    UNIT_ROUNDOFF,
    gamma,
    round_down,
    round_up,
    scaled_to_one,
    times_power,
)
from lipdescent.bounds.jacobians.norms import one_model, steepest
from lipdescent.bounds.proofs.forward_error import ProvenForward
from lipdescent.bounds.proofs.graph_forward import ProvenGraph
from lipdescent.bounds.proofs.precise_forward import PreciseForward
from lipdescent.domains.domain import Regions
from lipdescent.measurement import NotApplicable
from lipdescent.networks.graph import GraphNetwork
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.relu_chain import Chain, chain, slopes_at

_CHUNK = 2**23
_ENOUGH = 0.99  # of a quotient; of what float64 proves less is proved to more digits
_DIGITS = 48  # bits to which layers are evaluated where float64 loses no more than there is
_STEPS = tuple(10.0**-k for k in range(1, 7))  # step of a quotient, relative to the point's size
_QUICK_STEPS = (1e-1, 1e-2, 1e-4)  # of a quick proof
_TOGETHER = 4  # points up to which all steps are evaluated at once


class Prover:
    """What a stack's points prove.

    Attributes
    ----------
    links : the chain that the stack is, or None.
    forward : evaluation with proven errors of another network, or None.
    direction : "lower" with one of them, else "estimate".
    reason : why it is an estimate, or "".
    regions : where the constant is taken, None for everywhere. Points outside are moved into the
        region whose centre is nearest, both points of a pair into that of the first.
    """

    def __init__(self, stack: ModelStack, regions: Regions | None = None) -> None:
        self.stack, self.links = stack, chain(stack)
        self.regions = None if regions is None else regions.to(stack.device)
        self.forward: ProvenForward | ProvenGraph | None = None
        self.reason = ""
        self.precise: PreciseForward | None = None
        if self.links is None:
            try:
                self.forward = _proven_forward(stack)
            except (NotApplicable, TypeError, ValueError) as error:
                self.reason = f"rounding is not proved: {error}"
        if isinstance(self.forward, ProvenForward):
            with contextlib.suppress(NotApplicable):
                self.precise = PreciseForward(self.forward)

    @property
    def direction(self) -> str:
        return "estimate" if self.links is None and self.forward is None else "lower"

    @contextlib.contextmanager
    def only_float64(self) -> Iterator[None]:
        """Nothing inside is proved to more digits than float64 has."""
        precise, self.precise = self.precise, None
        try:
            yield
        finally:
            self.precise = precise

    def inside(self, flat: Tensor) -> Tensor:
        """Points (n, n_in) moved into the regions."""
        if self.regions is None:
            return flat
        shaped = flat.view(-1, *self.stack.input_shape)
        return self.regions.project(shaped, self.regions.nearest(flat)).flatten(1)

    @torch.no_grad()
    def certify(
        self, points: Tensor, *, norm: str, models: Tensor | None = None, quick: bool = False
    ) -> Tensor:
        """Lower bound (or estimate) of the Lipschitz constant that every point proves.

        Parameters
        ----------
        points : (num_models, k, *input_shape), own candidates for each model.
        norm : "l2", "linf" or "l1", the same on inputs and outputs.
        models : indices of the models that the rows of ``points`` belong to; all unless given.
        quick : of a network that is no chain with directions that are found in little time, see
            :func:`lipdescent.bounds.jacobians.norms.steepest`; a smaller but still a proved bound.

        Returns
        -------
        float64 (num_models, k), 0 where a point proves nothing.
        """
        points = points.to(self.stack.device, torch.float64)
        if self.regions is not None:
            flat = points.flatten(0, 1)
            points = self.regions.project(flat, self.regions.nearest(flat)).view_as(points)
        if models is None:
            models = torch.arange(self.stack.num_models, device=points.device)
        if self.links is None:
            pairs = zip(models.tolist(), points, strict=True)
            return torch.stack([self._certify_module(m, own, norm, quick) for m, own in pairs])
        width = max(math.prod(w.shape[1:]) for w in self.links.weights)
        rows = torch.arange(len(models), device=points.device)
        parts = rows.split(max(1, _CHUNK // (points.shape[1] * width)))
        flat = points.flatten(2)
        return torch.cat([certify_chain(self.links[models[i]], flat[i], norm=norm) for i in parts])

    def quotients(self, model: int, a: Tensor, b: Tensor, *, norm: str) -> Tensor:
        """|f(a) - f(b)| / |a - b| less the rounding errors, rounded down; a, b (n, ...)."""
        a, b = self._pair(a, b)
        found = [self._quotients(model, a, b, norm)]
        return self._with_best(model, found, norm)[0]

    def _pair(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs in float64, moved into the region of their first point."""
        a, b = a.to(self.stack.device, torch.float64), b.to(self.stack.device, torch.float64)
        if self.regions is None:
            return a, b
        at = self.regions.nearest(a)
        return self.regions.project(a, at), self.regions.project(b, at)

    def _quotients(self, model: int, a: Tensor, b: Tensor, norm: str) -> _Quotients:
        """What float64 proves of the pairs a, b (n, ...)."""
        if len(a) <= len(_STEPS) * _TOGETHER:
            outputs, errors = self.evaluate(model, torch.cat([a, b]))
            (above, below), (error, other) = outputs.split(len(a)), errors.split(len(a))
        else:
            (above, error), (below, other) = self.evaluate(model, a), self.evaluate(model, b)
        together = round_up(error + other)
        slack = round_up(_lengths(together, norm)[1])
        if self.forward is not None:  # the error's l2 length, at each output
            slack = round_up(together[:, 0] * (together.shape[1] ** 0.5 if norm == "l1" else 1), 4)
        return _Quotients(a, b, above - below, slack, _lengths((a - b).flatten(1), norm)[1], norm)

    def _with_best(self, model: int, found: list[_Quotients], norm: str) -> list[Tensor]:
        """What is proved of each, and the largest one to as many digits as its proof needs."""
        proved = [quotients.proved() for quotients in found]
        guesses = torch.stack([quotients.guess() for quotients in found])
        enough = _ENOUGH * float(guesses.amax())
        if self.precise is None or not enough > 0 or bool((torch.stack(proved) >= enough).any()):
            return proved
        # Of what is about as good the first: the longer a step, the fewer digits it needs.
        which, at = (guesses >= 0.999 * guesses.amax()).nonzero()[0].tolist()
        pair = found[which][torch.tensor([at])]
        digits = _DIGITS + math.ceil(math.log2(max(1.0, float(pair.slack / pair.top()[0]))))
        for more in (0, digits):
            try:
                apart, error = self.precise.difference(model, pair.a, pair.b, digits=digits + more)
            except (NotApplicable, OverflowError):
                return proved
            slack = round_up(error * (apart.shape[1] ** 0.5 if norm == "l1" else 1), 4)
            value = replace(pair, apart=apart, slack=slack).proved()[0]
            proved[which][at] = torch.maximum(proved[which][at], value)
            if value >= enough:
                break
        return proved

    @torch.no_grad()
    def evaluate(self, model: int, points: Tensor) -> tuple[Tensor, Tensor]:
        """f(points) of one model and bounds on its rounding errors, float64 (n, n_out) each.

        Without a proof an allowance: float32 differs from float64 by about 2^29 times as much as
        float64 from the truth. 8 times that estimate, taken over all outputs, and at least 64
        roundings of the outputs; infinite where float32 overflows.
        """
        if self.links is not None:
            links = self.links[model : model + 1]
            *_, (outputs, error) = pre_activations(links, points.flatten(1)[None])
            exponent = links.exponents.clamp(-2000, 2000)[:, None]
            error = times_power(error[0], exponent) + 2.0**-1000
            return times_power(outputs[0], exponent), error
        if self.forward is not None:
            outputs, error = self.forward(model, points)
            return outputs, error[:, None].expand_as(outputs)
        one = self.stack[model : model + 1]
        outputs, rounded = one_model(one)(points), points.to(torch.float32)
        gap = one_model(one, torch.float32)(rounded).to(torch.float64)
        single = one_model(one.to(dtype=torch.float32))
        gap = (gap - single(rounded.to(torch.float64))).abs().amax(-1, keepdim=True)
        floor = 64 * UNIT_ROUNDOFF * outputs.abs().amax(-1, keepdim=True)
        allowance = torch.maximum(8 * 2.0**-29 * gap, floor)
        return outputs, torch.where(allowance.isfinite(), allowance, torch.inf).expand_as(outputs)

    def _certify_module(self, model: int, points: Tensor, norm: str, quick: bool) -> Tensor:
        """Best quotient (k,) along the steepest direction at each point (k, *input_shape)."""
        direction = steepest(self.stack, points, norm, model=model, quick=quick).view_as(points)
        size = points.flatten(1).abs().amax(1)
        size = torch.where(size == 0, 1.0, size.clamp_min(2.0**-500))
        size = size.view(-1, *[1] * (points.ndim - 1))
        pairs = [
            self._pair(points + step * size * direction, points - step * size * direction)
            for step in (_QUICK_STEPS if quick else _STEPS)
        ]
        if len(points) <= _TOGETHER:  # each evaluation reads all weights
            a, b = (torch.cat(ends) for ends in zip(*pairs, strict=True))
            together = self._quotients(model, a, b, norm)
            found = [together[rows] for rows in torch.arange(len(a)).split(len(points))]
        else:
            found = [self._quotients(model, a, b, norm) for a, b in pairs]
        return torch.stack(self._with_best(model, found, norm)).amax(0)


@dataclass(frozen=True)
class _Quotients:
    """Pairs of points a, b (n, ...), f(a) - f(b) (n, n_out) as it was computed.

    ``slack`` (n,): how much of its length rounding may be; ``bottom`` (n,) the pairs' distances,
    rounded up.
    """

    a: Tensor
    b: Tensor
    apart: Tensor
    slack: Tensor
    bottom: Tensor
    norm: str

    def __getitem__(self, at: Tensor) -> _Quotients:
        names = ("a", "b", "apart", "slack", "bottom")
        return replace(self, **{name: getattr(self, name)[at] for name in names})

    def top(self) -> Tensor:
        return round_down(_lengths(self.apart, self.norm)[0], 3)

    def guess(self) -> Tensor:
        """Without the rounding errors, 0 where a quotient means nothing."""
        return self._over(self.top())

    def proved(self) -> Tensor:
        return self._over(self.top() - self.slack)

    def _over(self, top: Tensor) -> Tensor:
        bottom = self.bottom
        quotient = top / round_up(torch.where(bottom > 0, bottom, 1.0), 2)
        sound = (bottom > 2.0**-960) & quotient.isfinite() & (top > 2.0**-900)
        return torch.where(sound, round_down(quotient, 3), 0.0)


def _proven_forward(stack: ModelStack) -> ProvenForward | ProvenGraph:
    if isinstance(stack.module, GraphNetwork) and isinstance(stack.module.structure, str):
        return ProvenGraph(stack)
    try:
        return ProvenForward(stack)
    except NotApplicable as why:
        try:
            return ProvenGraph(stack)  # which knows normalisations
        except NotApplicable:
            raise why from None


def certify(stack: ModelStack, points: Tensor, *, norm: str) -> Tensor:
    """:meth:`Prover.certify` for all models of a stack."""
    return Prover(stack).certify(points, norm=norm)


def certify_chain(links: Chain, points: Tensor, *, norm: str) -> Tensor:
    """:meth:`Prover.certify` for chains; points (num_models, k, n_in)."""
    slopes, regular = _certain_slopes(links, points)
    steep = math.prod(max(1.0, *map(abs, pair)) for pair in links.slopes)
    last = links.weights[-1][:, None]
    product = last.expand(-1, points.shape[1], -1, -1)
    absolute = product.abs()
    for weight, slope in zip(links.weights[-2::-1], slopes[::-1], strict=True):
        product = (product * slope[:, :, None, :]) @ weight[:, None]
        absolute = (absolute * slope.abs()[:, :, None, :]) @ weight.abs()[:, None]
    widths = [weight.shape[2] for weight in links.weights[1:]]
    relative = gamma(sum(widths) + 2 * len(widths) + 2 + 2 * links.roundings)
    # Entries are at most 1: what underflows in a sum, or has in the weights when they were scaled,
    # is below 2^-1074 times the number of paths and the slopes along them.
    paths = sum(map(math.log2, widths)) + 2 * math.log2(steep)
    underflow = 2.0 ** min(paths - 999, 1000)
    value = _certified_norm(product, relative * absolute + underflow, norm)
    value = torch.where(regular, value.clamp_min(0.0), 0.0)
    scaled = times_power(value, links.exponents.clamp(-2000, 2000)[:, None])
    scaled = torch.where(scaled < 2.0**-1000, 0.0, scaled)  # a subnormal may have rounded up
    return scaled.clamp_max(torch.finfo(torch.float64).max)


def _certified_norm(matrix: Tensor, error: Tensor, norm: str) -> Tensor:
    """Lower bound on the norm of every matrix within ``error`` (elementwise) of ``matrix``."""
    outputs, features = matrix.shape[-2:]
    if norm != "l2":
        axis = -1 if norm == "linf" else -2
        k = matrix.shape[axis] + 2
        sums = round_down(matrix.abs().sum(axis), k) - round_up(error.sum(axis), k)
        return round_down(sums).amax(-1)
    # Scaled, as squares of small entries underflow; what vanishes is 2^-1074 of the largest one.
    matrix, exponent = scaled_to_one(matrix)
    error = times_power(error, -exponent[..., None, None]) + 2.0**-1000
    if features >= outputs:
        left = torch.linalg.eigh(_finite(matrix @ matrix.mT))[1][..., -1:]
        vector = matrix.mT @ left
    else:
        vector = torch.linalg.eigh(_finite(matrix.mT @ matrix))[1][..., -1:]
    size = vector.abs().amax((-1, -2), keepdim=True)
    vector = vector / torch.where(size > 0, size, 1.0)
    length = length_up(vector[..., 0])
    image = length_down((matrix @ vector)[..., 0])
    slack = gamma(features + 2) * length_up(matrix.flatten(-2))  # error of matrix @ vector / |v|
    slack = slack + length_up(error.flatten(-2))
    quotient = round_down(image / torch.where(length > 0, length, 1.0), features + outputs + 6)
    value = round_down(quotient - round_up(slack, features * outputs + 8))
    return round_down(times_power(value, exponent))


def _finite(matrix: Tensor) -> Tensor:
    """To look for a direction; where float64 has overflowed, nothing is proved whatever it is."""
    return matrix.nan_to_num(0.0, 0.0, 0.0)


def _lengths(x: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Norms of the rows (n, d), rounded down and rounded up, at any scale: (n,) each."""
    if norm == "l2":
        return length_down(x), length_up(x)
    exact = x.abs().sum(-1) if norm == "l1" else x.abs().amax(-1)
    return round_down(exact, x.shape[-1]), round_up(exact, x.shape[-1])


def pre_activations(links: Chain, points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs of each Linear layer and bounds on their rounding errors, (num_models, k, width).

    points (num_models, k, n_in) are exact. The running error bound is
    e_i = |W_i| e_{i-1} + gamma(n + 2) (|W_i| |h_{i-1}| + |b_i|).
    """
    hidden, error = points, torch.zeros_like(points)
    # The last layer has no slopes: (1, 1) is not used.
    layers = zip(links.weights, links.biases, [*links.slopes, (1.0, 1.0)], strict=True)
    for weight, bias, (negative, positive) in layers:
        transposed, n = weight.mT, weight.shape[2]
        before = hidden @ transposed
        size = hidden.abs() @ transposed.abs()
        # Weights may be off by 2^-1074, and products underflow.
        tiny = hidden.abs().sum(-1, keepdim=True) * TINY + n * 2.0**-1000
        if bias is not None:
            before, size = before + bias[:, None], size + bias.abs()[:, None]
        error = error @ transposed.abs() + gamma(n + 3 + 2 * links.roundings) * size
        error = round_up(error + tiny, n + 4)
        yield before, error
        hidden = before * slopes_at(before, negative, positive)
        error = error * max(abs(negative), abs(positive), 1.0) + 2 * UNIT_ROUNDOFF * hidden.abs()


def _certain_slopes(links: Chain, points: Tensor) -> tuple[list[Tensor], Tensor]:
    """Slopes (num_models, k, width) of every hidden layer, and whether all that matter are certain.

    A unit matters if some path leads to it from the inputs and from it to the outputs, through
    units that may be active.
    """
    reach = torch.ones_like(points)
    slopes, unsure = [], []
    for weight, (negative, positive), (before, error) in zip(
        links.weights, links.slopes, pre_activations(links, points), strict=False
    ):
        slope = slopes_at(before, negative, positive)
        # Not "<=": what overflowed is a doubt, too.
        doubt = ~(before.abs() > error) & (negative != positive)
        reach = _some(reach @ _some(weight.mT))
        slopes.append(slope)
        active = (doubt | (slope != 0)).to(reach.dtype)
        unsure.append((doubt & (reach > 0), active))
        reach = reach * active
    regular = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    influence = points.new_ones(*points.shape[:2], links.weights[-1].shape[1])
    for weight, (doubt, active) in zip(links.weights[:0:-1], unsure[::-1], strict=True):
        influence = _some(influence @ _some(weight))
        regular = regular & ~(doubt & (influence > 0)).any(-1)
        influence = influence * active
    return slopes, regular


def _some(x: Tensor) -> Tensor:
    """1 where x is not 0: whether a path exists, not how heavy it is, which may underflow."""
    return (x != 0).to(x.dtype)
