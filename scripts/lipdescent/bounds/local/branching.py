"""Branch and bound over a box of few inputs, for chains of affine maps and ReLU or LeakyReLU.

The constant on a box is the largest of those of its parts. Parts with the largest bounds are halved
in batches, along the input from which most of what their open units take comes. A half inherits the
states of units (one that is always on or off on a box is so on a part) and the multipliers of
LipSDP (any are valid). Bounds are sought below a goal, a share of the largest bound so far: parts
below it wait, the others are halved again. LipSDP's cost grows with the cube of the open units, and
with many of them it seldom reaches the goal: parts of more than ``_Effort.most`` are halved unseen
and keep the bound of what they were cut from. Any moment's largest bound holds.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lipdescent.bounds.graph.branching import Found, too_narrow
from lipdescent.bounds.local.network import Network, slopes_where
from lipdescent.bounds.local.regions import bounded, parts
from lipdescent.bounds.local.values import values
from lipdescent.domains.domain import Regions

_BATCH = 256  # parts that are halved at once
_ROOM = 2**31  # bytes that open parts may take
_THOROUGH = 150  # steps for the multipliers of the whole box, which all parts start from
_SHARE = 0.75  # the next goal, relative to the largest bound
_LARGEST = 1e37  # multiplier that is stored, in float32, and 1 / smallest


@dataclass
class _Parts:
    """Open parts: boxes (B, n), bounds (B,), states (B, N), multipliers (B, N) of open units, the
    input to halve next (B,)."""

    low: Tensor
    high: Tensor
    bound: Tensor
    state: Tensor
    multipliers: Tensor
    axis: Tensor

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, index: Tensor) -> _Parts:
        return _Parts(*(getattr(self, f.name)[index] for f in fields(self)))

    def __add__(self, other: _Parts) -> _Parts:
        own = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return _Parts(*(torch.cat(pair) for pair in own))

    @property
    def bytes(self) -> int:
        return sum(t.element_size() * t.numel() for t in vars(self).values())

    def halved(self) -> _Parts:
        """Both halves of every part: all lower ones, then all upper ones."""
        rows = torch.arange(len(self))
        cut = self.low[rows, self.axis] / 2 + self.high[rows, self.axis] / 2
        below, above = self.high.clone(), self.low.clone()
        below[rows, self.axis], above[rows, self.axis] = cut, cut
        two = self + self
        two.low, two.high = torch.cat([self.low, above]), torch.cat([below, self.high])
        return two


@dataclass
class _Effort:
    """How many open units LipSDP is tried with: more where the share of successes is worth it."""

    most: float
    worth: float

    def learn(self, count: Tensor, reached: Tensor) -> None:
        hard = count > 0.85 * self.most
        if bool(hard.any()):
            needed = min(0.95, self.worth * self.most**3)
            self.most *= 1.04 if float(reached[hard].double().mean()) > needed else 0.94


@torch.no_grad()
def branch(
    network: Network, regions: Regions, *, norm: str, start: float, gap: float, budget: float
) -> Found:
    """Bound on one box, at most ``start``, which holds already.

    Parameters
    ----------
    regions : one box, of any input shape.
    norm : "l2", "linf" or "l1".
    gap : relative distance between the bound and the largest norm found, at which to stop.
    budget : seconds, about.
    """
    deadline = time.monotonic() + budget
    none = torch.zeros(1, network.units, dtype=torch.int8)
    opened = _Parts(
        regions.low.flatten(1),
        regions.high.flatten(1),
        torch.full((1,), start, dtype=torch.float64),
        none,
        none.float(),
        torch.zeros(1, dtype=torch.int64),
    )
    effort = _Effort(math.inf, 4.0 / (network.units + 64) ** 3)
    lower = _at_points(network, opened.low / 2 + opened.high / 2, norm)
    opened = _bounded(network, opened, norm, 0.0, effort, deadline, steps=_THOROUGH)
    effort.most = 0.6 * network.units + 16
    while len(opened) and time.monotonic() < deadline and opened.bytes < _ROOM:
        first = opened[opened.bound.argmax()[None]]
        top = float(first.bound)
        if top <= lower * (1 + gap) or too_narrow(first.low, first.high, first.axis, regions):
            break
        goal = max(_SHARE * top, lower * (1 + gap))
        worst = opened.bound.topk(min(_BATCH, len(opened))).indices
        worst = worst[opened.bound[worst] > goal]
        rest = torch.ones(len(opened), dtype=torch.bool)
        rest[worst] = False
        halves = opened[worst].halved()
        lower = max(lower, _at_points(network, halves.low / 2 + halves.high / 2, norm))
        halves = _bounded(network, halves, norm, goal, effort, deadline)
        # Parts below the largest norm are done: they only count by ``lower``.
        opened = opened[rest & (opened.bound > lower)] + halves[halves.bound > lower]
    closed = lower * (1 + 2.0**-30)  # parts left out have bounds of at most ``lower``
    upper = max(float(opened.bound.max()) if len(opened) else 0.0, closed)
    return Found(min(upper, start), lower, len(opened))


def _bounded(
    network: Network,
    own: _Parts,
    norm: str,
    goal: float,
    effort: _Effort,
    deadline: float,
    steps: int = 12,
) -> _Parts:
    """The parts with bounds, states, multipliers, axes; after ``deadline`` as they were."""
    counts = (own.state == 0).sum(1)
    for part in parts(counts.argsort(), network, counts):
        if time.monotonic() >= deadline:
            break
        box = Regions(own.low[part], own.high[part], own.low[part] / 2 + own.high[part] / 2)
        known = values(network, box, own.state[part])
        state = known.state()
        own.state[part], own.axis[part] = state, known.influence.nan_to_num(0.0).argmax(1)
        count = (state == 0).sum(1)
        few = count <= effort.most
        if not bool(few.any()):
            continue
        at = part[few]
        given, best = own.multipliers[at].double(), own.bound[at]
        found = bounded(network, known[few], given, best=best, norm=norm, goal=goal, steps=steps)
        own.bound[at] = found.bound
        kept = found.multipliers.clamp(1 / _LARGEST, _LARGEST)
        own.multipliers[at] = torch.where(found.multipliers > 0, kept, 0.0).float()
        if goal:
            effort.learn(count[few], found.bound <= goal)
    return own


def _at_points(network: Network, points: Tensor, norm: str) -> float:
    """Largest norm of the Jacobian at points (B, n), to rounding; at kinks that of one side."""
    hidden, jacobian = points, network.layers[0].weight.expand(len(points), -1, -1)
    for i, negative in enumerate(network.negative):
        before = hidden @ network.layers[i].weight.mT + network.layers[i].bias
        slope = slopes_where(before > 0, negative)
        hidden = slope * before
        jacobian = network.layers[i + 1].weight @ (slope[..., None] * jacobian)
    orders = {"l2": 2, "linf": float("inf"), "l1": 1}
    return float(torch.linalg.matrix_norm(jacobian, orders[norm]).max())
