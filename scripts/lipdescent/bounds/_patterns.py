"""Maximum over activation patterns of the norm of W2 diag(s) W1, each s_i one of two slopes.

The norm is convex in s, so its maximum over the box is taken at such a vertex. This maximum is the
"formal global Lipschitz constant" (FGL; Wang, Prakriya & Jha, arXiv 2203.01212, sec. 3) of a
network with one hidden layer: at least its Lipschitz constant, equal to it if the maximising
pattern occurs at some input.

One model at a time. :func:`enumerate_patterns` looks at all vertices; :func:`branch_and_bound`
fixes one unit after the other, bounding what is left by the SDP with slopes per unit
(``lipsdp/per_unit.py``, ``upper_geolip``). Both give an upper bound that is certified, and patterns
(rows of True where the slope is ``high``) by falling norm; the first attains the upper bound to
within ``tolerance`` unless the budget ends the search.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lipdescent.arithmetic.certified_norms import certified_spectral_norm, norm_frobenius, norm_linf
from lipdescent.arithmetic.ulps import gamma, round_up
from lipdescent.bounds.lipsdp.per_unit import lipsdp_per_unit
from lipdescent.bounds.upper_geolip import one_hidden_layer
from lipdescent.deadline import over

_BATCH = 64  # nodes split at once
_CHUNK = 2**14  # patterns looked at once
_UNDERFLOW = 2.0**-900  # entries are at most 1, slopes at most 4: what underflows is below this


@dataclass(frozen=True)
class Layer:
    """One hidden layer without biases: first (h, n_in), last (n_out, h), slopes low < high.

    Both as :func:`lipdescent.structure.scaling.balanced` scales them, slopes at most 4 in size.
    """

    first: Tensor
    last: Tensor
    low: float
    high: float

    def slopes(self, patterns: Tensor) -> Tensor:
        # Of two Python numbers torch.where makes float32.
        low, high = self.first.new_tensor(self.low), self.first.new_tensor(self.high)
        return torch.where(patterns, high, low)

    def jacobians(self, patterns: Tensor) -> Tensor:
        """(N, n_out, n_in) for patterns (N, h)."""
        return (self.last * self.slopes(patterns)[:, None, :]) @ self.first

    def norms(self, patterns: Tensor, norm: str) -> Tensor:
        """Norms (N,), rounded up."""
        units, steep = len(self.first), max(abs(self.low), abs(self.high))
        matrices = self.jacobians(patterns)
        size = steep * (self.last.abs() @ self.first.abs())
        if norm == "linf":
            return round_up(norm_linf(matrices) + norm_linf(gamma(units + 4) * size + _UNDERFLOW))
        error = round_up(gamma(units + 4) * norm_frobenius(size) + _UNDERFLOW, units + 8)
        return certified_spectral_norm(matrices, error=error)


def enumerate_patterns(layer: Layer, *, norm: str, keep: int) -> tuple[Tensor, Tensor]:
    """FGL, and the ``keep`` best of all 2^h patterns (keep, h), best first.

    l2: patterns in the order of their Frobenius norm s^T Q s, Q = (W1 W1^T) * (W2^T W2), until it
    falls below the largest spectral norm seen.
    """
    units = len(layer.first)
    count = 2**units
    if norm == "linf":
        value = torch.cat(
            [layer.norms(_binary(part, units), norm) for part in _parts(layer, count)]
        )
        order = value.topk(min(keep, count)).indices
        return value.amax(), _binary(order, units)
    gram = (layer.first @ layer.first.mT) * (layer.last.mT @ layer.last)
    steep = max(abs(layer.low), abs(layer.high))
    share = gamma(units**2 + sum(layer.last.shape) + layer.first.shape[1]) * steep**2
    error = _UNDERFLOW + round_up(
        share
        * (
            layer.first.abs() @ layer.first.abs().mT * (layer.last.abs().mT @ layer.last.abs())
        ).sum(),
        units**2,
    )
    parts = []
    for part in _parts(layer, count):
        s = layer.slopes(_binary(part, units))
        parts.append(round_up(((s @ gram) * s).sum(1) + error).clamp_min(0.0).sqrt())
    frobenius = round_up(torch.cat(parts))
    order = frobenius.argsort(descending=True)
    value = torch.zeros_like(frobenius)
    start, size = 0, 256
    while start < count and frobenius[order[start]] > value.amax():
        index = order[start : start + size]
        value[index] = layer.norms(_binary(index, units), norm)
        start, size = start + size, min(2 * size, _CHUNK)
    best = value.topk(min(keep, count)).indices
    return value.amax(), _binary(best, units)


def branch_and_bound(
    layer: Layer, *, norm: str, keep: int, max_nodes: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Upper bound on FGL, equal to it within ``tolerance`` unless ``max_nodes`` ends the search."""
    outputs = [slice(k, k + 1) for k in range(len(layer.last))] if norm == "linf" else [slice(None)]
    starts = _local_search(layer, norm)
    best = layer.norms(starts, norm)
    order = best.argsort(descending=True)
    patterns, best = starts[order], best[order]
    units = len(layer.first)
    low = layer.first.new_full((len(outputs), units), layer.low)
    high = layer.first.new_full((len(outputs), units), layer.high)
    logit = torch.arange(len(outputs), device=low.device)
    bound, score = _relax(layer, low, high, logit, norm)
    closed, nodes = best[0], len(bound)
    while True:
        enough = best[0] * (1 + tolerance)
        out = bound <= enough
        closed = torch.maximum(closed, torch.where(out, bound, 0.0).amax()) if len(out) else closed
        low, high, logit, bound, score = (x[~out] for x in (low, high, logit, bound, score))
        if not len(bound) or nodes >= max_nodes or over():
            break
        chosen = bound.topk(min(_BATCH, len(bound))).indices
        rest = torch.ones_like(bound, dtype=torch.bool)
        rest[chosen] = False
        split = (low != high)[chosen]
        unit = torch.where(split, score[chosen], -1.0).argmax(1)
        row = torch.arange(len(chosen), device=unit.device)
        down, up = high[chosen].clone(), low[chosen].clone()
        down[row, unit], up[row, unit] = layer.low, layer.high
        child_low, child_high = torch.cat([low[chosen], up]), torch.cat([down, high[chosen]])
        child_logit = logit[chosen].repeat(2)
        child_bound, child_score = _relax(layer, child_low, child_high, child_logit, norm)
        child_bound = torch.minimum(child_bound, bound[chosen].repeat(2))
        nodes += len(child_bound)
        leaf = (child_low == child_high).all(1)
        if leaf.any():
            found = child_low[leaf] == layer.high
            patterns = torch.cat([patterns, found])
            best = torch.cat([best, layer.norms(found, norm)])
            order = best.argsort(descending=True)[:keep]
            patterns, best = patterns[order], best[order]
            closed = torch.maximum(closed, torch.maximum(best[0], child_bound[leaf].amax()))
        low, high, logit, bound, score = (
            torch.cat([x[rest], y[~leaf]])
            for x, y in (
                (low, child_low),
                (high, child_high),
                (logit, child_logit),
                (bound, child_bound),
                (score, child_score),
            )
        )
    upper = torch.maximum(closed, bound.amax()) if len(bound) else closed
    return upper, patterns[:keep]


def _relax(
    layer: Layer, low: Tensor, high: Tensor, logit: Tensor, norm: str
) -> tuple[Tensor, Tensor]:
    """Upper bounds (N,) of nodes, and how much each unit (N, h) is worth fixing."""
    first = layer.first.expand(len(low), -1, -1)
    if norm == "linf":
        last = layer.last[logit][:, None]
        bound = one_hidden_layer(first, last, low, high, tolerance=1e-4, max_iterations=128)[:, 0]
        return bound, last[:, 0].abs() * layer.first.abs().sum(1) * (high - low)
    last = layer.last.expand(len(low), -1, -1)
    bound, _, slack = lipsdp_per_unit(first, last, low, high, tolerance=1e-4, max_iterations=128)
    return bound, slack


def _local_search(layer: Layer, norm: str) -> Tensor:
    """Patterns that no change of all units at once along the best direction improves."""
    generator = torch.Generator().manual_seed(len(layer.first))
    random = torch.randint(2, (64, len(layer.first)), generator=generator) == 1
    patterns = random.to(layer.first.device)
    patterns = torch.cat([patterns, torch.ones_like(patterns[:1]), torch.zeros_like(patterns[:1])])
    for _ in range(30):
        matrices = layer.jacobians(patterns)
        if norm == "linf":
            row = matrices.abs().sum(-1).argmax(-1)
            v = matrices[torch.arange(len(row), device=row.device), row].sign()
            gain = (v @ layer.first.mT) * layer.last[row]
        else:
            left, _, right = torch.linalg.svd(matrices, full_matrices=False)
            gain = (right[:, 0] @ layer.first.mT) * (left[:, :, 0] @ layer.last)
        new = gain > 0
        if torch.equal(new, patterns):
            break
        patterns = new
    return patterns.unique(dim=0)


def _parts(layer: Layer, count: int) -> tuple[Tensor, ...]:
    entries = layer.first.shape[1] * len(layer.last)
    size = max(64, min(_CHUNK, 2**23 // entries))
    return torch.arange(count, device=layer.first.device).split(size)


def _binary(index: Tensor, units: int) -> Tensor:
    """Pattern with number ``index``: (N,) to bool (N, units)."""
    return (index[:, None] >> torch.arange(units, device=index.device)) & 1 == 1
