"""Every bound against exact rational arithmetic, on small networks of all slopes and sizes."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
import torch
from exact_networks import Exact, norm_at_most, some_norm_at_least
from small_budgets import SMALL
from torch import nn

from lipdescent.architectures import mlp
from lipdescent.bounds import bracket
from lipdescent.measurement import NotApplicable
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack

BOUNDS = {name: lookup.resolve("bounds", name) for name in lookup.known("bounds")}
# Of the whole space: a bound around points is no bound of what they are compared with here.
BOUNDS = {name: bound for name, bound in BOUNDS.items() if bound.DIRECTION != "metric"}
# Float32 rounds the first of them up or down; 1, steeper ones, and those that turn back.
SLOPES = (0.01, 0.1, 1 / 3, 1.0, 1.5, -0.1, -2.5)


def network(*sizes: int, slope: float | None = None, bias: bool = True, last: bool = False):
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers.append(nn.Linear(a, b, bias=bias, dtype=torch.float64))
        layers.append(nn.ReLU() if slope is None else nn.LeakyReLU(slope))
    return nn.Sequential(*(layers if last else layers[:-1])).eval()


def fill(module: nn.Module, draw) -> nn.Module:
    with torch.no_grad():
        for tensor in module.parameters():
            drawn = [draw() for _ in range(tensor.numel())]
            tensor.copy_(torch.tensor(drawn, dtype=torch.float64).view_as(tensor))
    return module


def measured(module: nn.Sequential) -> list[tuple]:
    """(quantity, direction, norm, value) of every bound that applies."""
    inputs = module[0].in_features
    stack = ModelStack.from_modules([module], (inputs,))
    generator = torch.Generator().manual_seed(0)
    points = 3 * torch.randn(6, inputs, generator=generator, dtype=torch.float64)
    found = []
    for name, bound in BOUNDS.items():
        options = {"inputs": {"": points}, "seed": 0} | SMALL.get(name, {})
        wanted = [list(bound.NORMS)]  # all at once; where one is refused, each by itself
        while wanted:
            norms = wanted.pop()
            try:
                rows = list(bound.measure(stack, norms=norms, **options))
            except (NotApplicable, ValueError) as error:
                # The one refusal of finite weights.
                if not isinstance(error, NotApplicable) and "overflow" not in str(error):
                    raise
                wanted += [[norm] for norm in norms] if len(norms) > 1 else []
            else:
                found += [(m.quantity, m.direction, m.norm, float(m.values[0])) for m in rows]
    return found


def check(module: nn.Sequential, rows: list[tuple] | None = None) -> int:
    """The numbers of bounds that are compared with the exact constant."""
    pieces, compared = Exact.of(module).jacobians(), 0
    for quantity, direction, norm, value in measured(module) if rows is None else rows:
        if direction == "upper":
            assert all(norm_at_most(piece, value, norm) for piece in pieces), (quantity, norm)
            compared += 1
        if direction == "lower" and value > 0:
            assert some_norm_at_least(pieces, value, norm), (quantity, norm)
            compared += 1
    return compared


def test_the_reference_itself():
    """|x| has constant 1, relu(x) - relu(-x) too, and a constant network 0."""
    module = network(1, 2, 1, bias=False)
    for last, slopes in (((1.0, 1.0), {-1, 1}), ((1.0, -1.0), {1})):
        with torch.no_grad():
            module[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
            module[2].weight.copy_(torch.tensor([last]))
        assert {piece[0][0] for piece in Exact.of(module).jacobians()} == slopes
    # Rotated by 45 degrees: four quadrants, in two of which both units are on or off.
    module = network(2, 2, 1, bias=False)
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        module[2].weight.copy_(torch.tensor([[1.0, 2.0]]))
    pieces = {tuple(piece[0]) for piece in Exact.of(module).jacobians()}
    assert pieces == {(3, -1), (1, 1), (0, 0), (2, -2)}
    assert norm_at_most([[Fraction(3), Fraction(4)]], 5.0, "l2")
    assert not norm_at_most([[Fraction(3), Fraction(4)]], 4.999999999999999, "l2")
    assert some_norm_at_least([[[Fraction(3), Fraction(4)]]], 5.0, "l2")
    assert not some_norm_at_least([[[Fraction(3), Fraction(4)]]], 5.000000000000001, "l2")


@pytest.mark.parametrize("slope", SLOPES)
def test_leaky_relus_of_all_slopes(slope):
    """The upper bounds of nine of ten such networks lay below the truth, for slopes in float32."""
    draw = random.Random(int(1000 * slope))
    assert check(fill(network(1, 4, 2, slope=slope), lambda: draw.gauss(0, 1))) >= 10
    assert check(fill(network(2, 3, 2, slope=slope, bias=False), lambda: draw.gauss(0, 1))) >= 10
    deep = network(1, 3, 3, 1, slope=slope, last=True)
    assert check(fill(deep, lambda: draw.choice((-2.0, -1.0, 0.0, 0.5, 1.0)))) >= 5


@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_an_activation_behind_the_logits(slope):
    """Of networks as a study builds them: every bound counts it."""
    draw, known = random.Random(7), {name for name in BOUNDS if "lip" in name or "jac" in name}
    for inputs, bias in ((1, True), (2, False)):
        sizes = {"input_shape": (inputs,), "num_classes": 2, "bias": bias}
        module = mlp.build(3, **sizes, output_slope=slope).double().eval()
        fill(module, lambda: draw.gauss(0, 1))
        rows = measured(module)
        assert check(module, rows) >= 10
        found = {quantity for quantity, *_ in rows}
        assert known - {"upper_block_lipsdp"} <= found, known - found
    dead = two([[1.0, 0.0], [0.0, 1.0]], [[-1.0, -2.0], [-3.0, -1.0]])
    dead.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
    rows = measured(dead)
    lowers = [value for _, direction, _, value in rows if direction == "lower"]
    assert max(lowers) <= 4.001 * slope  # the logits are never positive: norms to 4 without it
    assert check(dead, rows) >= 5


@pytest.mark.parametrize("seed", range(12))
def test_weights_of_all_sizes(seed):
    """Exponents over the whole range of float64, denormals and zeros included."""
    draw = random.Random(seed)
    widest = draw.choice((30, 150, 320))

    def size() -> float:
        sign = draw.choice((-1.0, 1.0, 1.0, 0.0))
        return sign * 10.0 ** draw.uniform(-widest, min(widest, 300))

    slope = draw.choice((None, 0.1, 1e100, 1e-100, -1e50, 1e-320))
    sizes = draw.choice(((1, 3, 2), (2, 3, 2), (1, 3, 2, 1)))
    check(fill(network(*sizes, slope=slope, bias=sizes[0] == 1), size))


def two(first: list, last: list, slope: float | None = None) -> nn.Sequential:
    module = network(len(first[0]), len(first), len(last), slope=slope, bias=False)
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor(first, dtype=torch.float64))
        module[2].weight.copy_(torch.tensor(last, dtype=torch.float64))
    return module


EXTREME = {
    "a unit far below a dead one": two([[1e300], [1e-30]], [[0.0, 1.0]]),
    "a unit far below another": two([[1e300], [1e-30]], [[1e-320, 1e300]]),
    "denormal": two([[1e300], [1e-25]], [[1e-320, 1.0]]),
    "balanced only in pairs": two([[1e200], [1e-200]], [[1e-200, 1e200]]),
    "steep": two([[1.0], [0.0]], [[1e100 * 1e-320, 1e100]], 1e100),
    "flat": two([[1.0], [-1.0]], [[1e-160, 1e-160]], 1e-162),
}


@pytest.mark.parametrize("case", EXTREME)
def test_units_that_underflow_when_scaled_are_not_dead(case):
    module = EXTREME[case]
    assert check(module) >= 5
    frame = bracket(module, (1,), methods=["exact_enumeration", "upper_lipsdp"]).table
    uppers = frame[(frame.direction == "upper") & (frame.status == "ok")].value
    assert len(uppers) > 0
    assert (uppers > 0).all()
    # And the best one is not far above the truth: below twice as much.
    assert some_norm_at_least(Exact.of(module).jacobians(), float(uppers.min()) / 2, "l2")
