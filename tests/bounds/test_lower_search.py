"""Search: never above the exact constant, often there, and better than looking at random points."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from lipdescent.bounds import lower_ascent, lower_jacobian, lower_search
from lipdescent.bounds.jacobians.search import mixed_starts, search
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.relu_chain import chain

ORDERS = {"l2": 2, "linf": torch.inf, "l1": 1}
SMALL = {"populations": 4, "rounds": 10}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def network(widths, seed: int = 0, slope: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        with torch.random.fork_rng(devices=[]):
            layer = nn.Linear(n_in, n_out).double()
        layer.weight.data = draw(n_out, n_in, seed=100 * seed + i) / n_in**0.5
        layer.bias.data = 0.5 * draw(n_out, seed=100 * seed + 50 + i)
        layers += [layer, nn.LeakyReLU(slope) if slope else nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def found(modules, points, norm="l2", bound=lower_search, **options) -> list[float]:
    stack = ModelStack.from_modules(modules, tuple(points.shape[1:]))
    (measured,) = bound.measure(stack, inputs={"a": points}, norms=[norm], **options)
    assert (measured.quantity.split(".")[-1], measured.split) == (bound.__name__.split(".")[-1], "")
    assert (measured.direction, measured.norm) == ("lower", norm)
    return measured.values.tolist()


def exact_on_a_line(module: nn.Sequential, norm: str, slope: float) -> float:
    """The largest slope of a network of one input: its pieces, layer by layer."""
    infinite = torch.tensor(torch.inf, dtype=torch.float64)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    pieces = [(-infinite, infinite, one, zero)]
    for layer in module:
        if isinstance(layer, nn.Linear):
            w, b = layer.weight.detach(), layer.bias.detach()
            pieces = [(low, high, w @ a, w @ c + b) for low, high, a, c in pieces]
            continue
        split = []
        for low, high, a, c in pieces:
            zeros = -c / a
            inside = zeros[(zeros > low) & (zeros < high)].sort().values
            ends = [low, *inside, high]
            for left, right in itertools.pairwise(ends):
                middle = (left.clamp(-1e6) + right.clamp(max=1e6)) / 2
                factor = torch.where(a * middle + c > 0, 1.0, slope).double()
                split.append((left, right, a * factor, c * factor))
        pieces = split
    return max(float(torch.linalg.vector_norm(a, ord=ORDERS[norm])) for _, _, a, _ in pieces)


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("slope", [0.0, 0.125])
def test_finds_the_steepest_piece_of_a_line(norm, slope):
    modules = [network((1, 8, 8, 8, 3), seed, slope) for seed in range(3)]
    values = found(modules, draw(40, 1), norm, **SMALL)
    for module, value in zip(modules, values, strict=True):
        best = exact_on_a_line(module, norm, slope)
        assert best * (1 - 1e-10) <= value <= best


@pytest.mark.parametrize("bound", [lower_search, lower_ascent])
def test_more_than_random_points_in_deep_narrow_networks(bound):
    module = network((5, 20, 20, 20, 20, 4), seed=1)
    points = torch.cat([scale * draw(20_000, 5, seed=7) for scale in (0.1, 1.0, 10.0)])
    stack = ModelStack.from_modules([module], (5,))
    sampled = lower_jacobian.jacobian_norms(stack, points).amax().item()
    (value,) = found([module], draw(256, 5), bound=bound, populations=8, rounds=20)
    assert value > sampled


def test_ascent_is_never_below_the_data():
    """Whichever point is the best, it counts: today's candidates are a few of the data."""
    points = 3 * draw(600, 3)
    for widths in ((3, 20, 2), (3, 12, 12, 2)):
        modules = [network(widths, seed) for seed in range(4)]
        options = {"num_candidates": 1, "steps": 1, "restarts": 1, **SMALL}
        values = found(modules, points, bound=lower_ascent, **options)
        stack = ModelStack.from_modules(modules, (3,))
        data = next(iter(lower_jacobian.measure(stack, inputs={"a": points}))).values
        assert (torch.tensor(values, dtype=torch.float64) >= data).all()


def test_no_model_depends_on_the_others_and_the_seed_is_all():
    modules = [network((4, 9, 9, 2), seed) for seed in range(3)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    together = found(modules, draw(30, 4), **SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    assert together == found(modules, draw(30, 4), **SMALL)
    assert together == [found([one], draw(30, 4), **SMALL)[0] for one in modules]
    assert together[0] != found(modules[:1], draw(30, 4), seed=1, populations=1, rounds=1)[0]


def test_a_projection_keeps_the_search_in_its_domain():
    links = chain(ModelStack.from_modules([network((4, 16, 16, 2))], (4,)))
    starts = mixed_starts(draw(50, 4), 4, seed=0)
    options = {"norm": "l2", "rounds": 5, "seed": 0}
    ends = search(links, starts[None], project=lambda x: x.clamp(-0.3, 0.3), **options)
    assert ends.abs().max() <= 0.3
    assert search(links, starts[None], **options).abs().max() > 0.3


@pytest.mark.parametrize("domain", [{"box": [-0.3, 0.4]}, {"ball": {"radius": 0.2, "norm": "l2"}}])
def test_a_domain_of_inputs_with_axes_is_that_of_the_flat_network(domain):
    """Networks read from ONNX files have inputs such as (1, 1, 5)."""
    module, points = network((4, 12, 12, 2), seed=1), 0.1 * draw(12, 4)
    shaped = nn.Sequential(nn.Flatten(), *module)
    for bound in (lower_search, lower_ascent):
        flat = own_values(bound, module, points, domain=domain, **SMALL)
        assert flat[0] > 0
        assert own_values(bound, shaped, points.view(-1, 1, 2, 2), domain=domain, **SMALL) == flat


def own_values(bound, module, points, **options) -> list[float]:
    stack = ModelStack.from_modules([module], tuple(points.shape[1:]))
    return [float(one.values[0]) for one in bound.measure(stack, inputs={"a": points}, **options)]


def test_where_nothing_changes_nothing_is_proved():
    module = network((3, 5, 5, 2))
    module[2].weight.data.zero_()
    assert found([module], draw(10, 3), **SMALL) == [0.0]


def test_refusals():
    with pytest.raises(NotApplicable, match="chains of Linear and ReLU"):
        found([network((3, 2))], draw(10, 3))
    with pytest.raises(NotApplicable, match="chains of Linear and ReLU"):
        found([nn.Sequential(nn.Linear(3, 5).double(), nn.GELU())], draw(10, 3))
    for name in SMALL:
        with pytest.raises(ValueError, match=f"{name} = 0"):
            found([network((3, 5, 5, 2))], draw(10, 3), **{name: 0})


def test_other_norms_climb_from_where_the_l2_norm_is_large():
    """At least what the l2 search's own points have in that norm, but for chance: then more."""
    modules = [network((5, 20, 20, 20, 20, 4), seed) for seed in range(3)]
    points = draw(40, 5)
    values = {norm: found(modules, points, norm, **SMALL) for norm in ("linf", "l1")}
    starts = mixed_starts(points, SMALL["populations"], seed=0).expand(3, -1, -1, -1)
    links = chain(ModelStack.from_modules(modules, (5,)))
    ends = search(links, starts, norm="l2", rounds=SMALL["rounds"], seed=0)
    for i, module in enumerate(modules):
        there = torch.func.vmap(torch.func.jacrev(module))(ends[i]).detach()
        for norm, by_model in values.items():
            largest = float(torch.linalg.matrix_norm(there, ORDERS[norm]).amax())
            assert by_model[i] >= largest * (1 - 1e-9)


def test_repeated_searches_keep_the_best_of_their_seeds():
    points, module = draw(20, 3), network([3, 8, 8, 2])
    few = {"populations": 1, "rounds": 1}  # after more of them all seeds are equally good
    for norm in ("l2", "linf"):
        alone = [found([module], points, norm, seed=s, **few)[0] for s in (5, 6, 7)]
        assert max(alone) > alone[0]
        assert found([module], points, norm, seed=5, repeats=3, **few) == [max(alone)]
    with pytest.raises(ValueError, match="repeats"):
        found([module], points, repeats=0)
