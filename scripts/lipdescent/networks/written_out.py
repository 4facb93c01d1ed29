"""Activations that a network writes out in several operations, as the one function that they are.

``x * sigmoid(b * x)`` is a product of two values, of which one is not bounded, so that nothing
bounds its slope on the whole space; as one function it has the slopes of SiLU. Exporters of other
formats write most activations so. What is read is the same function in exact arithmetic: numbers
that multiply are kept as operations of their own and come behind it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from torch import nn

from lipdescent.networks.graph import Combination, Extremum, Graph, Product, Quotient, Vertex
from lipdescent.networks.operations import Divide, Function, Reduce, Scale, Shift

Found = tuple[int, list[nn.Module]]  # the vertex, and what is applied to it, one after another
_CUBE = 0.044715  # of GELU's tanh form, as torch has it


def recognised(graph: Graph) -> Graph:
    """The same graph, with one vertex (or one and its factors) for each activation written out."""
    vertices: list[Vertex] = []
    new: dict[int, int] = {}
    written = _Written(graph.vertices)
    for i, vertex in enumerate(graph.vertices):
        found = written.function(i)
        if found is None:
            vertices.append(replace(vertex, inputs=tuple(new[j] for j in vertex.inputs)))
        else:
            at = new[found[0]]
            for module in found[1]:
                vertices.append(replace(vertex, operation=module.eval(), inputs=(at,)))
                at = len(vertices) - 1
        new[i] = len(vertices) - 1
    return Graph(tuple(vertices), new[graph.output])


def affine_of(vertices: Sequence[Vertex], i: int) -> Iterator[tuple[int, Fraction, Fraction]]:
    """Vertices x of which a vertex is a x + b with numbers: x, a, b, without rounding."""
    a, b = Fraction(1), Fraction(0)
    while True:
        yield i, a, b
        own: Any = vertices[i].operation
        if isinstance(own, (Scale, Divide, Shift)) and own.weight is None:
            if not math.isfinite(own.number) or (isinstance(own, Divide) and not own.number):
                return
            number = Fraction(own.number)
            b += a * number if isinstance(own, Shift) else 0
            a = (
                a * number
                if isinstance(own, Scale)
                else a / number
                if isinstance(own, Divide)
                else a
            )
        elif not isinstance(own, (nn.Flatten, nn.Unflatten)):
            return
        (i,) = vertices[i].inputs


class _Written:
    """Vertices, and what those before each of them are."""

    def __init__(self, vertices: tuple[Vertex, ...]) -> None:
        self.vertices = vertices

    def function(self, i: int) -> Found | None:
        """Of which vertex a vertex is a known function, if it is one."""
        operation, inputs = self.vertices[i].operation, self.vertices[i].inputs
        if isinstance(operation, Product):
            if (square := self._square(i)) is not None:
                return square[0], [Function("square"), *square[1]]
            pairs = inputs, inputs[::-1]
            return next((f for x, gate in pairs if (f := self._gated(x, gate))), None)
        if isinstance(operation, Quotient):
            return self._over_its_size(*inputs)
        if isinstance(operation, Extremum):
            pairs = inputs, inputs[::-1]
            return next((f for x, y in pairs if (f := self._leaky(operation, x, y))), None)
        for sign in (1.0, -1.0):
            if operation == Combination((1.0, sign)):
                return self._shrunk(inputs[0], inputs[1], sign)
        name = self._name(i)
        return {"exp": self._bell, "log": self._logarithm, "log1p": self._logarithm}.get(
            name, lambda j: None
        )(i)

    def _name(self, i: int) -> str:
        """Of a function of one number, "" for anything else."""
        operation = self.vertices[i].operation
        return operation.name if isinstance(operation, Function) else ""

    def _only(self, i: int) -> int:
        return self.vertices[i].inputs[0]

    def _added(self, i: int) -> float | None:
        """The number that a vertex adds, None if it does something else."""
        operation: Any = self.vertices[i].operation
        return (
            operation.number if isinstance(operation, Shift) and operation.weight is None else None
        )

    def _factors(self, i: int) -> Iterator[tuple[int, list[nn.Module]]]:
        """Vertices of which a vertex is a multiple by numbers, and these, in their order."""
        factors: list[nn.Module] = []
        yield i, factors
        while isinstance(own := self.vertices[i].operation, (Scale, Divide)) and own.weight is None:
            factors, i = [type(own)(None, own.number), *factors], self._only(i)
            yield i, factors

    def _gated(self, x: int, gate: int) -> Found | None:
        """x times a gate of x, each perhaps times numbers."""
        for inner, outer in self._factors(gate):
            for at, factors in self._factors(x):
                found = self._gate(inner, at)
                if found is not None:
                    return found[0], [*found[1], *factors, *outer]
        return None

    def _gate(self, gate: int, x: int) -> Found | None:
        """x times the gate, if that is a known one of x, of c x or of x / d."""
        kind: Any = self.vertices[gate].operation
        if isinstance(kind, nn.Sigmoid):
            return self._with_argument("swish", x, self._only(gate))
        if self._name(gate) == "rsqrt" and (eps := self._of_square(self._only(gate), x)):
            return x, [Function("isru", eps)]
        if isinstance(kind, nn.Hardsigmoid):
            return self._hard_swish(x, self._only(gate))
        if self._is_clipped_at_6(kind) and self._added(self._only(gate)) == 3:
            before = self._only(gate)
            return (x, [nn.Hardswish(), Scale(None, 6.0)]) if self._only(before) == x else None
        if isinstance(kind, nn.Tanh) and self._is_softplus(self._only(gate), x):
            return x, [nn.Mish()]
        shrunk = self._added(self._only(gate)) if isinstance(kind, nn.ReLU) else None
        if shrunk is not None and shrunk < 0 and self._name(x) == "sign":
            size, own = self._only(self._only(gate)), self._only(x)
            known = self._name(size) == "abs" and self._only(size) == own
            return (own, [nn.Softshrink(-shrunk)]) if known else None
        if self._added(gate) == 1:
            before = self._only(gate)
            if self._name(before) == "erf":
                return self._with_argument("erf_gate", x, self._only(before))
            tanh = isinstance(self.vertices[before].operation, nn.Tanh)
            if tanh and self._is_cubic(self._only(before), x):
                return x, [nn.GELU(approximate="tanh"), Scale(None, 2.0)]
        return None

    def _hard_swish(self, x: int, inner: int) -> Found | None:
        """x g(inner), where inner is x or k x: then it is inner g(inner) / k."""
        own: Any = self.vertices[inner].operation
        if inner == x:
            return x, [nn.Hardswish()]
        if not isinstance(own, Scale) or own.weight is not None or not own.number:
            return None
        return (
            (inner, [nn.Hardswish(), Divide(None, own.number)]) if self._only(inner) == x else None
        )

    def _with_argument(self, name: str, x: int, inner: int) -> Found | None:
        """x g(inner), where inner is x, c x, or x / d: then it is d times inner g(inner)."""
        own: Any = self.vertices[inner].operation
        if inner == x:
            return x, [nn.SiLU() if name == "swish" else Function(name, 1.0)]
        if not isinstance(own, (Scale, Divide)) or own.weight is not None or not own.number:
            return None
        if self._only(inner) != x:
            return None
        if isinstance(own, Scale):
            return x, [Function(name, float(own.number))]
        return inner, [Function(name, 1.0), Scale(None, own.number)]

    def _is_clipped_at_6(self, kind: Any) -> bool:
        clipped = isinstance(kind, nn.Hardtanh) and (kind.min_val, kind.max_val) == (0, 6)
        return isinstance(kind, nn.ReLU6) or clipped

    def _is_softplus(self, i: int, x: int) -> bool:
        operation = self.vertices[i].operation
        if isinstance(operation, nn.Softplus):
            return operation.beta == 1 and self._only(i) == x
        known = self._name(i) == "log1p" and self._name(self._only(i)) == "exp"
        return known and self._only(self._only(i)) == x

    def _is_cubic(self, i: int, x: int) -> bool:
        """sqrt(2 / pi) (x + 0.044715 x^3), as torch computes it."""
        own: Any = self.vertices[i].operation
        if not isinstance(own, Scale) or own.weight is not None:
            return False
        if abs(own.number - math.sqrt(2 / math.pi)) > 2.0**-52:
            return False
        total = self.vertices[self._only(i)]
        if total.operation != Combination((1.0, 1.0)) or x not in total.inputs:
            return False
        cube = total.inputs[1] if total.inputs[0] == x else total.inputs[0]
        scale: Any = self.vertices[cube].operation
        if not isinstance(scale, Scale) or scale.number != _CUBE or scale.weight is not None:
            return False
        power: Any = self.vertices[self._only(cube)].operation
        known = self._name(self._only(cube)) == "power" and power.argument == 3
        return known and self._only(self._only(cube)) == x

    def _of_square(self, i: int, x: int) -> float | None:
        """eps > 0 of x^2 + eps."""
        eps = self._added(i)
        if eps is None or not eps > 0 or self._name(self._only(i)) != "square":
            return None
        return eps if self._only(self._only(i)) == x else None

    def _over_its_size(self, x: int, by: int) -> Found | None:
        """x / (|x| + e) and x / sqrt(x^2 + e)."""
        eps = self._added(by)
        is_size = eps is not None and eps > 0 and self._name(self._only(by)) == "abs"
        for at, factors in self._factors(x):
            if is_size and self._only(self._only(by)) == at:
                softsign = nn.Softsign() if eps == 1 else Function("softsign", eps or 1.0)
                return at, [softsign, *factors]
            if self._name(by) == "sqrt" and (eps := self._of_square(self._only(by), at)):
                return at, [Function("isru", eps), *factors]
        return None

    def _leaky(self, operation: Extremum, x: int, y: int) -> Found | None:
        """max(x, a x) with a number a <= 1."""
        own: Any = self.vertices[y].operation
        if not operation.largest or not isinstance(own, Scale) or own.weight is not None:
            return None
        known = self._only(y) == x and own.number <= 1
        return (x, [nn.LeakyReLU(float(own.number))]) if known else None

    def _shrunk(self, x: int, y: int, sign: float) -> Found | None:
        """x - tanh(x), x - clamp(x, -t, t), and ramps of both sides: relu(x - t) - relu(-x - t)."""
        own: Any = self.vertices[y].operation
        taken = sign < 0 and self.vertices[y].inputs == (x,)
        if taken and isinstance(own, nn.Tanh):
            return x, [nn.Tanhshrink()]
        if taken and isinstance(own, nn.Hardtanh) and own.min_val == -own.max_val < 0:
            return x, [nn.Softshrink(own.max_val)]
        for at, side, (size, by) in self._ramps(x):
            other = (at, -side, (-size / Fraction(sign), by))
            if by < 0 and abs(size) == 1 and size == side and other in self._ramps(y):
                return at, [nn.Softshrink(-float(by))]
        return None

    def _ramps(self, i: int) -> list[tuple[int, Fraction, tuple[Fraction, Fraction]]]:
        """x of the same shape, a, (c, b) of c relu(a x + b)."""
        return [
            (x, a, (c, b))
            for ramp, c, shift in affine_of(self.vertices, i)
            if not shift and isinstance(self.vertices[ramp].operation, nn.ReLU)
            for x, a, b in affine_of(self.vertices, self._only(ramp))
            if self.vertices[x].shape == self.vertices[i].shape
        ]

    def _bell(self, i: int) -> Found | None:
        """exp(-c x^2), or of the squares' sum: of the length."""
        for at, factors in self._factors(self._only(i)):
            total: Any = self.vertices[at].operation
            summed = isinstance(total, Reduce) and total.kind == "sum"
            square = self._square(self._only(at) if summed else at)
            if square is None:
                continue
            steep = _exact_factor([*square[1], *factors])
            if steep is not None and steep < 0:
                length = [Reduce("length", total.axes)] if summed else []
                return square[0], [*length, Function("gaussian", -steep)]
        return None

    def _square(self, i: int) -> Found | None:
        """The vertex whose square a vertex is, and by what numbers that is multiplied."""
        if self._name(i) == "square":
            return self._only(i), []
        if not isinstance(self.vertices[i].operation, Product):
            return None
        one, other = (list(self._factors(j)) for j in self.vertices[i].inputs)
        return next(((a, [*f, *g]) for a, f in one for b, g in other if a == b), None)

    def _logarithm(self, i: int) -> Found | None:
        """log(1 + exp(x)), and log(cosh(x))."""
        before = self._only(i)
        if self._name(i) == "log" and self._name(before) == "cosh":
            return self._only(before), [Function("logcosh")]
        if self._name(i) == "log":
            if self._added(before) != 1:
                return None
            before = self._only(before)
        elif self._name(i) != "log1p":
            return None
        precise = float(self._name(i) == "log1p")
        known = self._name(before) == "exp"
        return (self._only(before), [Function("softplus", precise)]) if known else None


def _exact_factor(factors: list[nn.Module]) -> float | None:
    """The product of numbers that multiply or divide, if float64 holds it."""
    total = Fraction(1)
    for own in factors:
        number = Fraction(float(own.number))  # type: ignore[arg-type]
        if isinstance(own, Scale):
            total *= number
        elif number:
            total /= number
    value = float(total)
    return value if math.isfinite(value) and Fraction(value) == total else None
