"""GeoLIP's SDP of deep networks from below, by low-rank ascent, and the multipliers read off it.

Wang, Prakriya & Jha, arXiv 2203.01212, sec. 5, as a problem over vectors: z_0j of length at most
one for every input ("linf"; of joint length one in "l2"), and for every unit with slopes in
[m - r, m + r] and incoming weights w_k

    |z_k - m y_k| <= r |y_k|,  y_k = w_k z,

maximise |e^T z_L|. Given the rest, z_k = m y_k + r |y_k| u_k with u_k the direction of the
gradient at z_k, and z_0j the direction of the gradient there: a step sets all of them at once,
from one pass forward and one back. With those directions what follows a layer is convex in its z,
so that no step lowers the value; extrapolated by ``momentum``, which gives that up, the steps
converge in some tens or hundreds. Each costs as much as ``rank`` points and their gradients.

With one multiplier for a whole layer ("per layer") lengths are those of all its vectors together:
|z - m y| <= r |y|, which allows more, so that the value is larger.

Where it ends, gradient_k = 2 l_k (z_k - m y_k) and gradient_j = 2 s_j z_0j give the dual's
multipliers, nearly optimal: l_k = |gradient_k| / (2 r |y_k|), s_j = |gradient_j| / 2.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lipdescent.bounds.lipsdp.momentum import momentum
from lipdescent.shapes import Float64
from lipdescent.structure.slope_intervals import Interval, recentred

_MOMENTUM = 0.9
_LEAST = 1e-10  # a multiplier, of the largest in its layer


class Ascent:
    """All problems (P) of one network: they differ in their last layer, (P, outputs, w).

    With several outputs e the value is the joint length of their vectors e^T z_L.

    Attributes
    ----------
    value : float64 (P,), reached by the last step; no rounding is accounted for.
    inputs : float64 (P, n), s. units : float64 (P, w_i) for each hidden layer, l.
    """

    def __init__(
        self,
        weights: Sequence[Float64[Tensor, "problems out in"]],
        slopes: Sequence[Interval],
        *,
        norm: str,
        rank: int,
        per_layer: bool = False,
    ) -> None:
        *self.hidden, self.last = weights
        last = self.last
        self.of_inputs = _joint if norm == "l2" else _length
        self.of_units = _joint if per_layer else _length
        self.slopes = [recentred(interval) for interval in slopes]
        # One start for all problems, so that a result does not depend on the rest of the batch.
        generator = torch.Generator().manual_seed(weights[0].shape[2])
        sizes = [weights[0].shape[2], *(w.shape[1] for w in self.hidden)]
        drawn = [torch.randn(k, rank, generator=generator, dtype=torch.float64) for k in sizes]
        starts = [s.to(last.device).expand(len(last), -1, -1) for s in drawn]
        self.places = starts
        self.before, self.steps = self.places, 0
        self.step()

    def step(self) -> None:
        """Pass forward from where the last steps lead, then set all directions, last ones first."""
        ahead = momentum(self.steps, most=_MOMENTUM)
        start, *turns = (
            now + ahead * (now - then) for now, then in zip(self.places, self.before, strict=True)
        )
        self.before, self.steps = self.places, self.steps + 1
        z, reached = _unit(start, self.of_inputs), []
        units: list[Tensor] = []
        places: list[Tensor] = []
        turns = [_unit(turn, self.of_units) for turn in turns]
        for weight, (middle, radius), turn in zip(self.hidden, self.slopes, turns, strict=True):
            y = weight @ z
            reached.append((y, self.of_units(y)))
            z = middle * y + radius * reached[-1][1] * turn
        output = self.last @ z
        self.value = _joint(output)[:, 0, 0]
        gradient = self.last.mT @ _unit(output, _joint)
        for i in reversed(range(len(self.hidden))):
            (y, length), (middle, radius) = reached[i], self.slopes[i]
            places.insert(0, _unit(gradient, self.of_units))
            multiplier = self.of_units(gradient) / (2 * radius * length.clamp_min(1e-300))
            units.insert(0, _positive(multiplier[..., 0].expand(y.shape[:2])))
            parts = gradient * turns[i]
            along = parts.sum(-1, keepdim=True) if length.shape[1] > 1 else parts.sum((1, 2), True)
            along = middle * gradient + radius * along * _unit(y, self.of_units)
            gradient = self.hidden[i].mT @ along
        self.places, self.units = [_unit(gradient, self.of_inputs), *places], units
        sizes = self.of_inputs(gradient)[..., 0].expand(gradient.shape[:2])
        self.inputs = _positive(sizes / 2)


def _length(x: Tensor) -> Tensor:
    """Of every vector: (P, w, 1)."""
    return x.norm(dim=-1, keepdim=True)


def _joint(x: Tensor) -> Tensor:
    """Of all together: (P, 1, 1)."""
    return torch.linalg.matrix_norm(x, keepdim=True)


def _unit(x: Tensor, length: Callable[[Tensor], Tensor]) -> Tensor:
    return x / length(x).clamp_min(1e-300)


def _positive(x: Tensor) -> Tensor:
    """(P, w) with ones for problems that are zero, and nothing far below the largest."""
    largest = x.amax(1, keepdim=True)
    return torch.where(largest > 0, torch.maximum(x, _LEAST * largest), 1.0)
