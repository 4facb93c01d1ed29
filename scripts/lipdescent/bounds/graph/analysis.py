"""A bound of a graph's Lipschitz constant on regions, vertex by vertex.

For every vertex, from the input on, what :class:`Known` holds: values (interval arithmetic, affine
forms, and the value at the centre plus or minus the constant times the distance, whichever is
tighter), and a constant, the smallest of

- the rule of its operation: :mod:`elementwise`, :mod:`tokens`, or the constant of the layer;
- the matrices of a run of linear operations (:mod:`runs`) times the constants of what they rest
  on, columns times the largest slopes on the values where that is an activation: |M f(z)| <=
  |M diag(sup |f'|)| L_z;
- two such matrices and the activation between them, by LipSDP with an interval of slopes per unit;
- the norm of an interval that holds every Jacobian, where inputs are few enough.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.certified_norms import norm_frobenius
from lipdescent.arithmetic.ulps import round_up
from lipdescent.bounds.graph import elementwise, tokens, units
from lipdescent.bounds.graph.dependencies import dependencies
from lipdescent.bounds.graph.known import (
    Domain,
    Known,
    Symbols,
    input_known,
    linear_known,
    matrix_norm,
    slope_norm,
    tightened,
    times,
)
from lipdescent.bounds.graph.layer_constants import LayerConstants
from lipdescent.bounds.graph.linear_maps import Linear, linear_of
from lipdescent.bounds.graph.mixtures import fixed, mixed, mixtures
from lipdescent.bounds.graph.ranges import Range, around
from lipdescent.bounds.graph.roots import rooted, roots
from lipdescent.bounds.graph.rows import rows, within_rows
from lipdescent.bounds.graph.runs import Matrix, Run, linear_runs
from lipdescent.bounds.graph.scalars import within
from lipdescent.bounds.lipsdp.per_unit import lipsdp_per_unit
from lipdescent.domains.domain import Regions
from lipdescent.layers import activation
from lipdescent.layers.table import TABLE
from lipdescent.measurement import NotApplicable
from lipdescent.networks import graph as joins
from lipdescent.networks.declared import declaration_of
from lipdescent.networks.graph import Graph
from lipdescent.networks.operations import Gather, Reduce, Shift

_DENSE = 2**21  # entries of all Jacobians of one vertex on one region
_SCALED = 2**23  # entries of a matrix with columns scaled, on all regions
_LARGEST = 1e30  # of numbers that are multiplied freely, and 1 / smallest
_PAIR = 640  # inputs and outputs of a pair of matrices for LipSDP
_MONOTONE = tuple(kind for kind in TABLE if "MaxPool" in kind.__name__)


@dataclass
class Analysis:
    """A graph's bounds; what does not depend on the regions is made once.

    Attributes
    ----------
    influence : float64 (B, n), of the last call: by which inputs a region is best halved.
    constants_of_layers : of the graph's operations; taken of their modules unless given.
    thorough : take every bound of the constants; else only the interval of Jacobians, for many
        small regions.
    """

    graph: Graph
    norm: str = "l2"
    thorough: bool = True
    constants_of_layers: LayerConstants | None = None

    def __post_init__(self) -> None:
        vertices = self.graph.vertices
        self.maps: list[Linear | None] = [
            linear_of(v.operation, vertices[v.inputs[0]].shape)
            if isinstance(v.operation, nn.Module)
            else None
            for v in vertices
        ]
        self.extreme = _extreme(self.graph)
        self.units = units.units(self.graph)
        self.mixtures, self.roots = mixtures(self.graph), roots(self.graph)
        self.rows = {} if self.extreme else rows(self.graph)
        self.depends: list[Tensor | None] = [None] * len(vertices)
        if self.thorough and not self.extreme:
            self.depends = dependencies(self.graph, self.maps)
        self.layers = self.constants_of_layers or LayerConstants.of_graph(self.graph)
        self.runs: list[Run | None] = [None] * len(vertices)
        if self.thorough and not self.extreme:
            self.runs = linear_runs(self.graph, self.maps)
        self.norms: dict[tuple[int, int], Tensor] = {}
        self.influence = torch.zeros(
            0, dtype=torch.float64
        )  # (B, n), of the inputs in the last call
        self.last = {j: i for i, v in enumerate(vertices) for j in v.inputs}
        self.used = {
            j for v in vertices if not isinstance(v.operation, nn.Module) for j in v.inputs
        } | {self.graph.output}
        for i, v in enumerate(vertices):
            if self.maps[i] is None:
                self.used |= set(v.inputs)

    @property
    def dense(self) -> bool:
        """Whether the Jacobian of every vertex is held."""
        largest = max(math.prod(v.shape) for v in self.graph.vertices)
        return not self.extreme and math.prod(self.graph.input_shape) * largest <= _DENSE

    @torch.no_grad()
    def __call__(self, regions: Regions) -> list[Known | None]:
        """What is known of every vertex, what takes room left out; constants (B,).

        Raises
        ------
        NotApplicable
            If the constant of the result is infinite: the reason and what would help.
        """
        domain = Domain(regions, self.norm)
        # Everywhere, a constant bounds no values: that of a layer alone is not needed.
        self.spared = set() if regions.bounded else self.layers.passed
        self.influence = domain.half * 0
        known: list[Any] = [input_known(domain, dense=self.dense)]
        known[0] = replace(known[0], depends=self.depends[0])
        reason, symbols = "", Symbols(math.prod(self.graph.input_shape))
        for i in range(1, self.graph.output + 1):
            vertex = self.graph.vertices[i]
            inputs = [known[j] for j in vertex.inputs]
            own = self._rule(i, inputs, domain, symbols, known)
            if self.thorough and i in self.layers.folded and i not in self.spared:
                own = self._with_normalisation(i, own, known)
            if self.thorough and i in self.layers.runs:
                start = self.layers.runs[i][0]
                value = times(self.layers.with_run(i, self.norm), known[start].constant)
                own = replace(own, constant=torch.minimum(own.constant, value))
            if self.thorough or i == self.graph.output:
                own = self._best(i, own, known)
            own = replace(tightened(own, domain), depends=self.depends[i])
            if not reason and i not in self.spared and not bool(own.constant.isfinite().all()):
                reason = _why(vertex, inputs, regions)
            known.append(own)
            for j in vertex.inputs:
                if self.last[j] == i:
                    known[j] = replace(known[j], form=None, slope=None)
        if reason and not bool(known[self.graph.output].constant.isfinite().any()):
            raise NotApplicable(reason)
        return known

    def constants(self, regions: Regions) -> Tensor:
        """The bound itself on every region: float64 (B,)."""
        found = self(regions)[self.graph.output]
        assert found is not None
        return found.constant

    def _rule(
        self, i: int, inputs: list[Known], domain: Domain, symbols: Symbols, known: list[Any]
    ) -> Known:
        vertex = self.graph.vertices[i]
        operation, x = vertex.operation, inputs[0]
        linear = self.maps[i]
        if linear is not None:
            value = torch.full_like(x.constant, math.inf)
            if self.thorough and i not in self.spared:
                value = times(self.layers.of(i, self.norm), x.constant)
            own = linear_known(linear, x, value, torch.Size(vertex.shape))
            return _with_lengths(operation, x, own)
        if isinstance(operation, joins.Join):
            if isinstance(operation, joins.Attention):
                pairs = zip(inputs, vertex.inputs, strict=True)
                inputs = [within_rows(x, self.rows.get(j)) for x, j in pairs]
            own = _joined(operation, inputs, self.norm)
            if (mixture := self.mixtures.get(i)) is not None:
                gate, second, first = known[mixture.gate], known[mixture.second], mixture.first
                other = known[first] if isinstance(first, int) else fixed(first, second)
                return mixed(own, gate, other, second, self.norm)
            unit = self.units.get(i)
            return own if unit is None else units.of_length(own, inputs[0], unit, self.norm)
        assert isinstance(operation, nn.Module)
        declared = declaration_of(operation)
        if declared is not None and declared.slopes is None:
            return self._layer(i, x)
        own_or_none = elementwise.elementwise(operation, x, symbols)
        if own_or_none is not None and x.form is not None:
            self._add_influence(x, own_or_none)
        if own_or_none is not None:
            root = self.roots.get(i)
            if root is None:
                return own_or_none
            return rooted(own_or_none, known[root.base], root, self.norm)
        if isinstance(operation, tokens.NORMALISATIONS):
            return tokens.normalised(operation, x, domain)
        if isinstance(operation, Gather):  # with minus infinity, what a softmax leaves out
            return tokens.left_out(operation, x, self.norm)
        if isinstance(operation, (nn.Softmax, nn.Softmin, nn.Softmax2d)):
            axis = 1 if isinstance(operation, nn.Softmax2d) else int(operation.dim or -1)
            axis = axis if axis > 0 else x.span.low.ndim + axis
            return tokens.softmax(operation, x, self.norm, x.span.low.shape[axis])
        return self._layer(i, x)

    def _with_normalisation(self, i: int, own: Known, known: list[Any]) -> Known:
        """A batch normalisation and the layer before it as one."""
        start = self.graph.vertices[self.layers.folded[i]].inputs[0]
        value = times(self.layers.with_normalisation(i, self.norm), known[start].constant)
        return replace(own, constant=torch.minimum(own.constant, value))

    def _add_influence(self, x: Known, own: Known) -> None:
        """How much of the values of units without a single slope comes from each input: (B, n)."""
        assert x.form is not None
        assert own.slopes is not None
        open_ = (own.slopes.high > own.slopes.low).flatten(1)
        n = self.influence.shape[1]
        linear = x.form.linear[:, :n].abs().flatten(2)
        half = (x.span.high - x.span.low).flatten(1).clamp_min(1e-300) / 2
        self.influence = self.influence + (linear * (open_ / half)[:, None]).sum(2)

    def _layer(self, i: int, x: Known) -> Known:
        """A layer of which only the constant is known, and whether it is monotone."""
        operation: Any = self.graph.vertices[i].operation
        value = times(self.layers.of(i, self.norm), x.constant)
        reduced = isinstance(operation, Reduce) and operation.kind in ("max", "min")
        if type(operation) in _MONOTONE or reduced:
            return Known(x.span.each(operation), x.point.each(operation), value)
        center, doubt = x.point.middle()
        result = operation(center)
        steep = self.layers.of(i, self.norm)
        distance = doubt.flatten(1).sum(1) if self.norm != "linf" else doubt.flatten(1).amax(1)
        size = center.abs().flatten(1).sum(1) * steep + result.abs().flatten(1).amax(1)
        error = round_up(distance * steep + 2.0**-44 * size, x.span.low[0].numel())
        error = error.reshape(-1, *[1] * (result.ndim - 1)).expand_as(result)
        infinite = torch.full_like(result, math.inf)
        is_length = isinstance(operation, Reduce) and operation.kind == "length"
        span = within(
            operation, Range(torch.zeros_like(result) if is_length else -infinite, infinite)
        )
        return Known(span, around(result, error), value)

    def _best(self, i: int, own: Known, known: list[Any]) -> Known:
        value = own.constant
        if own.slope is not None and (i in self.used or not self.thorough):
            value = torch.minimum(value, slope_norm(own.slope, self.norm))
        if self.thorough and i in self.used and self.runs[i]:
            run = self.runs[i]
            assert run is not None
            parts = [self._through(i, b, m, known, single=len(run) == 1) for b, m in run.items()]
            total = elementwise.together(parts, [known[b].depends for b in run], self.norm)
            value = torch.minimum(value, total)
        return replace(own, constant=value)

    def _through(self, i: int, base: int, m: Matrix, known: list[Any], *, single: bool) -> Tensor:
        """Bound of what comes through a matrix from the vertex ``base``."""
        if (i, base) not in self.norms:
            self.norms[i, base] = matrix_norm(m.center.flatten(1), m.radius.flatten(1), self.norm)
        best = times(self.norms[i, base], known[base].constant)
        slopes = known[base].slopes
        if slopes is None:
            return best
        before = self.graph.vertices[base].inputs[0]
        steep = slopes.size().flatten(1)
        if len(steep) * m.center.numel() > _SCALED or not bool(steep.isfinite().all()):
            return best
        center, radius = m.center.flatten(1), m.radius.flatten(1)
        scaled = steep[..., None] * center
        error = round_up(steep[..., None] * radius + 2.0**-52 * scaled.abs(), 4)
        best = torch.minimum(
            best, times(matrix_norm(scaled, error, self.norm), known[before].constant)
        )
        run = self.runs[before]
        if self.norm == "l2" and single and run is not None and len(run) == 1:
            ((start, first),) = run.items()
            if first.center.shape[0] + center.shape[1] <= _PAIR and center.shape[0] <= 4 * _PAIR:
                best = torch.minimum(best, self._pair(start, first, m, slopes, known))
        return best

    def _pair(
        self, start: int, first: Matrix, last: Matrix, slopes: Range, known: list[Any]
    ) -> Tensor:
        """last diag(s) first, s within the slopes, by LipSDP; times the constant before.

        Rounding in the matrices E, F adds at most sup |s| (|E| |last| + |F| |first| + |E| |F|).
        """
        one, two = first.center.flatten(1).mT, last.center.flatten(1).mT
        before, steep = known[start].constant, slopes.size().flatten(1).amax(1)
        begin = known[start].slopes
        count = len(steep)
        wide = one.expand(count, -1, -1)
        error = norm_frobenius(first.radius.flatten(1)).expand(count)
        if begin is not None and bool(begin.size().isfinite().all()):
            scale = begin.size().flatten(1)[:, None, :]
            error = round_up(
                error * scale.amax((1, 2)) + 2.0**-52 * norm_frobenius(wide * scale), 4
            )
            wide = wide * scale
            before = known[self.graph.vertices[start].inputs[0]].constant
        low, high = slopes.low.flatten(1), slopes.high.flatten(1)
        value = lipsdp_per_unit(wide, two.expand(count, -1, -1), low, high, tolerance=1e-3)[0]
        other = norm_frobenius(last.radius.flatten(1))
        extra = error * (norm_frobenius(two) + other) + other * norm_frobenius(wide)
        return times(round_up(value + round_up(steep * extra, 6)), before)


def _extreme(graph: Graph) -> bool:
    """Whether products of a graph's numbers may leave float64's range: then only constants of
    layers are multiplied, which know how to round there."""
    for vertex in graph.vertices:
        if not isinstance(vertex.operation, nn.Module) or isinstance(vertex.operation, Shift):
            continue  # what is added multiplies nothing
        slope = torch.tensor(
            [float(getattr(vertex.operation, "negative_slope", 1.0))], dtype=torch.float64
        )
        for tensor in (slope, *vertex.operation.parameters(), *vertex.operation.buffers()):
            parts = tensor.detach().flatten().split(2**22)  # a copy of all would take room
            if any(map(_beyond, parts)):
                return True
    return False


def _beyond(numbers: Tensor) -> bool:
    size = numbers.double().abs()
    return bool(((size > _LARGEST) | ((size > 0) & (size < 1 / _LARGEST))).any())


def _joined(operation: joins.Join, inputs: list[Known], norm: str) -> Known:
    rules: dict[type, Callable[[Any], Known]] = {
        joins.Combination: lambda o: elementwise.combination(o.factors, inputs, norm),
        joins.Concatenation: lambda o: elementwise.concatenation(o.axis, inputs, norm),
        joins.Product: lambda o: elementwise.product(inputs[0], inputs[1], norm),
        joins.Quotient: lambda o: elementwise.quotient(inputs[0], inputs[1], norm),
        joins.MatrixProduct: lambda o: tokens.matrix_product(inputs[0], inputs[1], norm),
        joins.Extremum: lambda o: elementwise.extremum(o.largest, inputs[0], inputs[1], norm),
        joins.Attention: lambda o: tokens.attention(o.scale, inputs, norm),
    }
    if type(operation) not in rules:
        raise NotApplicable(f"{type(operation).__name__}: no rule for this operation is known")
    return rules[type(operation)](operation)


def _with_lengths(operation: Any, x: Known, own: Known) -> Known:
    """Rows of bounded length through ``nn.Linear``: |w_i x| <= |w_i| |x|."""
    if type(operation) is not nn.Linear or x.length is None:
        return own
    weight = operation.weight.detach().double()
    rows = round_up(weight.square().sum(1).sqrt(), weight.shape[1] + 4)
    reach = times(x.length[..., None], rows.expand(own.span.low.shape))
    bias = torch.zeros(()) if operation.bias is None else operation.bias.detach().double()
    return replace(own, span=own.span.meet(around(bias.expand_as(reach), reach)))


def _why(vertex: Any, inputs: list[Known], regions: Regions) -> str:
    """Why a vertex has no constant, and the domain that would help."""
    what = type(vertex.operation).__name__
    place = f"{vertex.place} ({what})" if vertex.place else what
    if not all(bool(x.constant.isfinite().all()) for x in inputs):
        return f"{place}: its input has no constant"
    if isinstance(vertex.operation, nn.Module) and (said := activation.jump(vertex.operation)):
        return f"{place}: {said}"
    unbounded = any(not bool(x.span.size().isfinite().all()) for x in inputs)
    if not regions.bounded and unbounded:
        return (
            f"{place} has no constant as its inputs are not bounded on the whole space; give a "
            "domain: a box, such as {box: [0, 1]} for images, or a ball around data, such as "
            "{ball: {radius: 0.1}}"
        )
    return f"{place} has no constant on this domain; a smaller one may have, such as a ball"
