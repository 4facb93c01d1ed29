"""From constrained networks to ordinary ones whose layers' norms are certified."""

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrize

from lipdescent.arithmetic import ulps
from lipdescent.constrained import Constraint, is_constrained
from lipdescent.layers.table import constant
from lipdescent.networks.expressions import Layer
from lipdescent.stacks.model_stack import in_dtype

log = logging.getLogger(__name__)

# Certified norms stay this far below what is promised, so that products of many, each rounded
# up, do too.
SLACK = 2.0**-40
_CHUNK_BYTES = 256 << 20


def materialise(module: nn.Module, state: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """Stack of ordinary networks that compute what the constrained ones do.

    Parameters
    ----------
    module : the structure, with parametrised layers.
    state : raw parameters and buffers, name -> (num_models, *shape).

    Returns
    -------
    The structure with ``nn.Linear``, convolutions and BatchNorm in place of the constrained ones,
    and its state in float64. Where the certified norm of a weight exceeds what the
    :class:`Constraint` promises (by rounding, or because the raw weights were trained in float32)
    it is divided by the excess, so it never does. Models with a raw weight that is not finite
    get NaN, and a warning names layer and models. Unconstrained networks come back as they are.
    """
    if not is_constrained(module):
        return module, state
    plain = _without_parametrisations(copy.deepcopy(module)).eval()
    state = in_dtype(state, torch.float64)
    for layer in (Layer(part, path) for path, part in module.named_modules()):
        if hasattr(type(layer.module), "PLAIN"):
            plain = _replace(plain, layer.path, _plain_batch_norm(layer.module))
            _limit_batch_norm(layer, state)
        elif parametrize.is_parametrized(layer.module):
            parametrizations: Any = layer.module.parametrizations
            for name in parametrizations:
                _materialise_weight(plain, layer, name, state)
    return plain, state


def _materialise_weight(
    plain: nn.Module, layer: Layer, name: str, state: dict[str, Tensor]
) -> None:
    """Move one parametrised tensor of ``state`` to its plain name and value."""
    parametrizations: Any = layer.module.parametrizations
    steps = parametrizations[name]
    prefix = layer.named(f"parametrizations.{name}.")
    raw = {n.removeprefix(prefix): state.pop(n) for n in list(state) if n.startswith(prefix)}
    promises = [step for step in steps if isinstance(step, Constraint)]
    weight = _evaluate(steps, raw)
    own = plain.get_submodule(layer.path)
    own.register_parameter(name, nn.Parameter(torch.zeros_like(weight[0])))
    bad = _not_finite(layer.path, raw, len(weight))
    weight[bad] = 1.0  # anything finite, until the norms are certified
    for promise in promises:
        weight = certify(own, weight, promise)
    weight[bad] = torch.nan
    state[layer.named(name)] = weight


def certify(layer: nn.Module, weight: Tensor, promise: Constraint) -> Tensor:
    """Weights (num_models, ...) divided where needed so that the promise is certified."""
    shapes = _shapes(layer, promise)
    limit = promise.constant * (1 - SLACK)
    for _ in range(3):
        found = torch.as_tensor(constant(layer, {"weight": weight}, norm=promise.norm, **shapes))
        if bool((found <= promise.constant * (1 - SLACK / 2)).all()):
            return weight
        factor = torch.where(found > limit, limit / found, torch.ones_like(found))
        weight = weight * factor.view(-1, *[1] * (weight.dim() - 1))
    raise ValueError(
        f"{type(layer).__name__}: certified {promise.norm} norm {found.max().item()!r}, "
        f"promised is {promise.constant}"
    )


def _without_parametrisations(module: nn.Module) -> nn.Module:
    """The same layers of their original classes; parametrised tensors are missing.

    ``remove_parametrizations`` does not do: it changes the class, which copies share.
    """
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer):
            del layer._modules["parametrizations"]
            layer.__class__ = type(layer).__mro__[1]
    return module


def _shapes(layer: Any, promise: Constraint) -> dict[str, tuple[int, ...]]:
    if isinstance(layer, nn.Linear):
        return {"input_shape": (layer.in_features,), "output_shape": (layer.out_features,)}
    sizes: Any = promise.sizes
    outputs = [
        (n + 2 * p - k) // s + 1
        for n, p, k, s in zip(sizes, layer.padding, layer.kernel_size, layer.stride, strict=True)
    ]
    return {
        "input_shape": (layer.in_channels, *sizes),
        "output_shape": (layer.out_channels, *outputs),
    }


@torch.no_grad()
def _evaluate(steps: nn.Module, raw: dict[str, Tensor]) -> Tensor:
    """Constrained weights in float64, a chunk of models at a time."""
    per_model = sum(t[0].numel() * 8 for t in raw.values())
    count = len(next(iter(raw.values())))
    size = max(1, _CHUNK_BYTES // (16 * per_model))
    parts = []
    for begin in range(0, count, size):
        part = {n: t[begin : begin + size] for n, t in raw.items()}
        parts.append(vmap(lambda own: functional_call(steps, own, ()))(part))
    return torch.cat(parts)


def _not_finite(path: str, raw: dict[str, Tensor], count: int) -> Tensor:
    finite = [t.reshape(count, -1).isfinite().all(1) for t in raw.values()]
    bad = ~torch.stack(finite).all(0)
    if bool(bad.any()):
        models = bad.nonzero()[:, 0].tolist()
        log.warning("%s: raw weights of models %s are not finite", path, models)
    return bad


def _limit_batch_norm(layer: Layer, state: dict[str, Tensor]) -> None:
    weight, var = (state[layer.named(name)] for name in ("weight", "running_var"))
    module: Any = layer.module
    slope = (weight / (var + module.eps).sqrt()).abs().amax(-1)
    slope = ulps.round_up(slope, 4)
    factor = module.constant * (1 - SLACK) / slope
    factor = factor.clamp_max(1.0) if module.soft else factor
    state[layer.named("weight")] = torch.where(slope > 0, factor, 1.0)[:, None] * weight


def _plain_batch_norm(layer: Any) -> nn.Module:
    plain: nn.Module = type(layer).PLAIN(layer.num_features, eps=layer.eps, momentum=layer.momentum)
    return plain.eval()


def _replace(module: nn.Module, path: str, part: nn.Module) -> nn.Module:
    """``module`` with ``part`` at ``path``, or the part itself at the empty path."""
    if not path:
        return part
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, part)
    return module
