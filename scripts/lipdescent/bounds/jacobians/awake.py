"""Where a network that is constant around all given points begins to change, and why it does not.

A unit whose pre-activation is negative at every point has no derivative there, so that nothing that
follows derivatives ever leaves. Here every activation phi that can be flat is replaced by
phi(x) + x / 10, which is nowhere flat, and points climb towards positive pre-activations z of
chosen units, in Newton steps: x + g (e - z) / |g|^2, g the gradient of z. They start from the
points given, from these at other scales, and from normal points. What they reach are candidates:
what is proved there is proved with the network itself.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lipdescent.bounds.jacobians import norms as jac
from lipdescent.layers import activation
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack

_LEAK = 0.1
_SCALES = (1.0, 1e-2, 1e2)
_STARTS, _UNITS, _LAYERS, _STEPS = 2, 16, 4, 12


_MORE = {
    "lower_ascent": ", and nothing is proved at those that the search reached from them",
    "lower_search": ", and nothing is proved on the pieces that the search reached from them",
    "lower_gaussian": ", and nothing is proved at those drawn from their moments",
    "lower_convex_combinations": ", and nothing is proved at those between them",
    "lower_attack": ", and no attack from them changes the outputs beyond rounding",
    "lower_pairs": ", and no two of them have outputs that differ beyond rounding",
}


class _Leaky(nn.Module):
    """phi(x) + x / 10, which remembers x."""

    def __init__(self, inner: nn.Module, seen: list[Tensor]) -> None:
        super().__init__()
        self.inner, self.seen = inner, seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.inner(x.clone()) + _LEAK * x


def awake(stack: ModelStack, points: Tensor, *, norm: str, seed: int, count: int) -> Tensor:
    """The ``count`` points (count, *input_shape) with the largest Jacobian norms that are found.

    For the first model of ``stack``; ``points`` (n, *input_shape) float64.
    """
    starts = _starts(points, seed)
    tried = torch.cat([starts, *_climb(stack, starts, seed)])
    tried = tried[tried.isfinite().flatten(1).all(1)]
    values = jac.jacobian_norms(stack, tried, norms=[norm])[norm][0].nan_to_num(0.0)
    best = values.topk(min(count, len(tried))).indices
    return tried[best.repeat(-(-count // len(best)))[:count]]


def why_zero(stack: ModelStack, inputs: Mapping[str, Tensor], *, norm: str, quantity: str) -> str:
    """Why a lower bound of the one model of ``stack`` is 0, taken at ``inputs``."""
    if quantity == "exact_enumeration":
        return "proves nothing: no pattern with a Jacobian beyond rounding was shown to occur"
    norms = [jac.jacobian_norms(stack, points, norms=[norm])[norm] for points in inputs.values()]
    count = sum(map(len, inputs.values()))
    if all(bool((values == 0).all()) for values in norms):
        return f"proves nothing: the Jacobian is 0 at all {count} points{_MORE.get(quantity, '')}"
    return (
        "proves nothing: no change exceeds the proven rounding error, or every point lies within "
        "rounding of a kink"
    )


def _starts(points: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(points), generator=generator)[:_STARTS]
    some = points[index.to(points.device)].to(torch.float64)
    size = points.to(torch.float64).abs().amax().clamp_min(1.0)
    noise = torch.randn(some.shape, generator=generator, dtype=torch.float64)
    base = torch.cat([some, size * noise.to(some)])
    return torch.cat([scale * base for scale in _SCALES])


def _climb(stack: ModelStack, starts: Tensor, seed: int) -> list[Tensor]:
    """Where points arrive that climb each activation's units, last layer first."""
    seen: list[Tensor] = []
    module = _leaky_copy(stack.module, seen)
    state = stack.state_of(0)

    def pre_activations(x: Tensor) -> list[Tensor]:
        seen.clear()
        functional_call(module, state, (x,))
        return [z.flatten(1) for z in seen if len(z) == len(x)]

    with torch.no_grad():
        layers = len(pre_activations(starts[:1]))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for layer in range(layers - 1, max(-1, layers - 1 - _LAYERS), -1):
        with torch.no_grad():
            units = pre_activations(starts[:1])[layer].shape[1]
        chosen = torch.randperm(units, generator=generator)[:_UNITS].to(starts.device)
        x = starts.repeat(len(chosen), *[1] * (starts.ndim - 1))
        column = chosen.repeat_interleave(len(starts))
        for step in range(_STEPS):
            with torch.enable_grad():
                leaf = x.clone().requires_grad_()
                z = pre_activations(leaf)[layer].gather(1, column[:, None])[:, 0]
                if not z.requires_grad:  # nothing that the inputs reach
                    break
                (gradient,) = torch.autograd.grad(z.sum(), leaf)
            square = gradient.flatten(1).square().sum(1)
            enough = 1e-3 * 2.0**step * (1 + z.detach().abs())
            length = torch.where(z.detach() <= 0, enough - z.detach(), 0.0)
            length = (length / square).nan_to_num(0.0, 0.0, 0.0)
            x = x + length.view(-1, *[1] * (x.ndim - 1)) * gradient
        found.append(x.detach())
    return found


def _leaky_copy(module: nn.Module, seen: list[Tensor]) -> nn.Module:
    """A copy of which the activations that can be flat are leaky, each wherever it is used."""
    if _can_be_flat(module):
        return _Leaky(copy.deepcopy(module), seen)
    module = copy.deepcopy(module)
    flat = {id(part): part for part in module.modules() if _can_be_flat(part)}
    leaky = {key: _Leaky(part, seen) for key, part in flat.items()}
    for part in list(module.modules()):
        for name, child in list(part._modules.items()):
            if id(child) in leaky and not isinstance(part, _Leaky):
                part._modules[name] = leaky[id(child)]
    return module


def _can_be_flat(module: nn.Module) -> bool:
    if type(module) not in activation.SLOPES or next(module.parameters(), None) is not None:
        return False
    try:
        low, high = activation.slopes(module, {})
    except NotApplicable:
        return False
    return bool(low <= 0 <= high)
