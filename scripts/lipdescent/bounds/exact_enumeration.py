"""The largest Jacobian over all activation patterns, and the largest proved to occur.

One hidden layer of ReLU or LeakyReLU units, in l2 and l_inf. Two measurements of the same name:

- "upper": FGL, the maximum over all 2^h patterns (Wang, Prakriya & Jha, arXiv 2203.01212, sec. 3),
  certified; an upper bound on the Lipschitz constant that can exceed it: relu(x) - relu(-x) has
  FGL 2 and constant 1, as its two units are never on together.
- "lower": the largest norm of a pattern for which a point is found whose pre-activations have
  its signs beyond rounding. The pattern then holds on an open set, so the norm is a lower bound.

If the live units are at most as many as the inputs and W1 has full row rank, W1 x + b takes every
value, so every pattern occurs, biases or not, and both are the exact constant. Otherwise
patterns are tried from the top, each with a linear programme; its answer is only a proposal, what
counts is the check of the signs.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from lipdescent.arithmetic.certified_norms import norm_frobenius
from lipdescent.arithmetic.ulps import round_up, scaled_to_one, times_power, unscaled_up
from lipdescent.bounds._patterns import Layer, branch_and_bound, enumerate_patterns
from lipdescent.bounds.proofs.prover import certify
from lipdescent.bounds.upper_geolip import chain_excess
from lipdescent.measurement import Measurement, NotApplicable, refuse_other_norms
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import affine_chain
from lipdescent.structure.relu_chain import chain as linear_pieces
from lipdescent.structure.scaling import balanced, scaled_slopes, with_lost

DIRECTION = "upper"
NORMS = ("l2", "linf")
_FARTHEST = 1e100  # of points, in every coordinate about


@torch.no_grad()
def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
    max_units: int = 64,
    max_nodes: int = 4096,
    tolerance: float = 1e-6,
    candidates: int = 32,
) -> Iterator[Measurement]:
    """Yield ``exact_enumeration`` twice per norm, directions "upper" and "lower".

    Parameters
    ----------
    inputs, seed : not used.
    max_units : largest width; beyond it the bound does not apply.
    max_nodes : of branch and bound, beyond 14 units. When they are used up the upper side is above
        FGL, but valid.
    tolerance : relative gap at which branch and bound stops.
    candidates : patterns tried, from the top, for the lower side.

    Raises
    ------
    NotApplicable
        For another norm, other networks, or more than ``max_units`` units.
    ValueError
        For weights that are not finite.
    """
    refuse_other_norms(norms, NORMS)
    for norm in norms:
        upper, lower = fgl(
            stack,
            norm=norm,
            max_units=max_units,
            max_nodes=max_nodes,
            tolerance=tolerance,
            candidates=candidates,
        )
        yield Measurement("exact_enumeration", "upper", norm, upper)
        yield Measurement("exact_enumeration", "lower", norm, lower)


@torch.no_grad()
def fgl(
    stack: ModelStack,
    *,
    norm: str = "l2",
    max_units: int = 64,
    max_enumerated: int = 14,
    max_nodes: int = 4096,
    tolerance: float = 1e-6,
    candidates: int = 32,
) -> tuple[Tensor, Tensor]:
    """FGL (certified from above) and the largest norm of a realised pattern: (num_models,) each.

    Arguments and errors as in :func:`measure`; ``max_enumerated`` is the largest width of which all
    patterns are looked at, beyond it branch and bound.
    """
    chain = affine_chain(stack)
    if linear_pieces(stack) is None or chain.depth != 1:
        raise NotApplicable("patterns are enumerated for one hidden layer of ReLU or LeakyReLU")
    if chain.slopes[0][1] != 1.0:
        raise NotApplicable(f"LeakyReLU with slopes {chain.slopes[0]}; allowed are slopes up to 1")
    width = chain.weights[0].shape[1]
    if width > max_units:
        raise NotApplicable(f"{width} hidden units, more than max_units = {max_units}")
    (slopes,), power = scaled_slopes(chain.slopes)
    uppers, lowers = [], []
    for model in range(stack.num_models):
        first, last = chain.weights[0][model], chain.weights[1][model]
        live = (first != 0).any(1) & (last != 0).any(0)
        zero = first.new_zeros(())
        if not live.any():
            uppers.append(zero)
            lowers.append(zero)
            continue
        units = balanced(first[None, live], last[None, :, live])
        layer = Layer(units.rows[0], units.columns[0].mT, *slopes)
        if len(layer.first) <= max_enumerated:
            upper, patterns = enumerate_patterns(layer, norm=norm, keep=candidates)
        else:
            upper, patterns = branch_and_bound(
                layer, norm=norm, keep=candidates, max_nodes=max_nodes, tolerance=tolerance
            )
        steep = max(map(abs, slopes))
        lost = torch.where(units.lost[0] > 0, round_up(steep * units.lost[0]), 0.0)
        uppers.append(unscaled_up(with_lost(upper, lost), units.exponent[0] + power))
        rows, bias = first[live], chain.biases[0][model][live]
        found = realise(patterns, rows, bias, first_only=True)
        found = torch.cat([found, _anywhere(rows, bias)])
        lowers.append(_proved(stack[model : model + 1], found, norm))
    return with_lost(torch.stack(uppers), chain_excess(chain, norm)), torch.stack(lowers)


def realise(patterns: Tensor, weight: Tensor, bias: Tensor, *, first_only: bool = False) -> Tensor:
    """Points (k, n_in) whose pre-activations have the signs of some of the patterns, in order.

    Parameters
    ----------
    patterns : bool (N, h). weight, bias : float64 (h, n_in), (h,), no zero row in ``weight``.
    first_only : stop at the first pattern for which a point is found.
    """
    rows, exponent = scaled_to_one(weight[:, None])
    scale = rows[:, 0].norm(dim=1)
    rows, offset = rows[:, 0] / scale[:, None], times_power(bias, -exponent) / scale
    size = 1 + offset.abs().amax()
    if not size < _FARTHEST:  # a kink further out than any point whose image float64 holds
        return rows.new_zeros(0, rows.shape[1])
    inverse = None
    if len(rows) <= rows.shape[1] and torch.linalg.svdvals(rows)[-1] > 1e-8:
        inverse = torch.linalg.pinv(rows)
    points = []
    for pattern in patterns:
        signs = 2 * pattern.to(rows.dtype) - 1
        if inverse is not None:
            point = inverse @ (size * signs - offset)
        else:
            point = _widest(signs[:, None] * rows, signs * offset, size)
        if point is not None and bool((signs * (rows @ point + offset) > 0).all()):
            points.append(point)
            if first_only:
                break
    return torch.stack(points) if points else rows.new_zeros(0, rows.shape[1])


def _widest(rows: Tensor, offset: Tensor, size: Tensor) -> Tensor | None:
    """The point with the largest smallest rows @ x + offset in a box, if that is positive."""
    a, c = rows.cpu().numpy(), offset.cpu().numpy()
    box = 1e4 * float(size)
    answer = linprog(
        np.append(np.zeros(a.shape[1]), -1.0),
        A_ub=np.hstack([-a, np.ones((len(a), 1))]),
        b_ub=c,
        bounds=[(-box, box)] * a.shape[1] + [(None, float(size))],
        method="highs",
    )
    if answer.x is None or not answer.x[-1] > 0:
        return None
    return torch.from_numpy(answer.x[:-1]).to(rows)


def _anywhere(weight: Tensor, bias: Tensor) -> Tensor:
    """64 Gaussian points (64, n_in) on the scale of the kinks: their patterns do occur."""
    generator = torch.Generator().manual_seed(weight.shape[1])
    points = torch.randn(64, weight.shape[1], generator=generator, dtype=weight.dtype)
    distance = bias.abs() / norm_frobenius(weight[:, None])
    scale = 1 + torch.where(distance < _FARTHEST, distance, 0.0).amax()
    return points.to(weight.device) * scale


def _proved(stack: ModelStack, points: Tensor, norm: str) -> Tensor:
    """Largest certified Jacobian norm at the points."""
    shaped = points.reshape(1, len(points), *stack.input_shape)
    return certify(stack, shaped, norm=norm).amax().to(points.device)
