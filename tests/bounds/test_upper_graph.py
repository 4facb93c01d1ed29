"""The bound of a graph: closed forms, a study's stack, and why there is none."""

import math

import pytest
import torch
from torch import nn

from lipdescent.bounds import upper_graph
from lipdescent.bounds.graph.analysis import Analysis
from lipdescent.bounds.graph.branching import branch
from lipdescent.bounds.graph.conversion import double, graph_of
from lipdescent.bounds.graph.layer_constants import LayerConstants
from lipdescent.bounds.upper_graph import graph_bounds
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.domains.domain import Ball, Box, Everywhere
from lipdescent.measurement import NotApplicable
from lipdescent.networks import graph as joins
from lipdescent.networks.graph import Graph, Vertex
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure import layer_constants

POINT = torch.zeros(1, 2, dtype=torch.float64)


def joined(*operations, inputs, shape=(2,)) -> Graph:
    vertices = [Vertex(None, (), shape)]
    vertices += [
        Vertex(o, i, shape, f"v{k}")
        for k, (o, i) in enumerate(zip(operations, inputs, strict=True))
    ]
    return double(Graph(tuple(vertices), len(vertices) - 1))


def bound(graph: Graph, domain, norm: str = "l2") -> float:
    regions = domain.regions(graph.input_shape)
    return float(graph_bounds(graph, regions, norm=norm, budget=0.5)[0])


def test_a_product_has_no_constant_everywhere_and_says_what_would_help():
    square = joined(joins.Product(), inputs=[(0, 0)])
    with pytest.raises(NotApplicable, match=r"v0 .*bounded on the whole space; give a domain"):
        bound(square, Everywhere())


@pytest.mark.parametrize("domain", [Box(-1.0, 3.0), Ball(3.0, "linf", POINT)])
def test_the_square_on_an_interval_has_twice_its_largest_number(domain):
    assert bound(joined(joins.Product(), inputs=[(0, 0)]), domain) == pytest.approx(6, rel=1e-9)


def test_a_gate_behind_a_tanh_has_a_constant_everywhere():
    """tanh(x) sigmoid(x): |t' s + t s'| <= 1 * 1 + 1 * 1/4."""
    gate = joined(nn.Tanh(), nn.Sigmoid(), joins.Product(), inputs=[(0,), (0,), (1, 2)])
    assert bound(gate, Everywhere()) <= 1.25 * (1 + 1e-9)


def test_what_cancels_in_a_run_of_linear_maps_cancels():
    """x - W x with W the identity but for one entry."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    difference = joined(layer, joins.Combination((1.0, -1.0)), inputs=[(0,), (0, 1)])
    for domain in (Everywhere(), Box(0.0, 1.0)):
        assert bound(difference, domain) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_layer_norm_is_steep_only_where_its_input_is_nearly_constant(eps):
    norm = joined(nn.LayerNorm(2, eps=eps), inputs=[(0,)])
    assert bound(norm, Everywhere()) == pytest.approx(eps**-0.5, rel=1e-6)
    center = torch.tensor([[1.0, -1.0]], dtype=torch.float64)  # variance 1
    # x -> x / sqrt(x^2 + eps) of half the difference
    truth = eps * (1 + eps) ** -1.5
    assert bound(norm, Ball(0.0, "l2", center)) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("tokens", [2, 5])
def test_attention_behind_a_normalisation_has_a_constant_everywhere(tokens):
    shape = (tokens, 3)
    graph = joined(
        nn.LayerNorm(3, eps=1.0), joins.Attention(0.5), inputs=[(0,), (1, 1, 1)], shape=shape
    )
    found = bound(graph, Everywhere())
    # sqrt(n) + s R^2 (1 + sqrt(n)) with R = sqrt(3), times the constant 1 of the normalisation
    limit = math.sqrt(tokens) + 0.5 * 3 * (1 + math.sqrt(tokens))
    assert found <= limit * (1 + 1e-9)
    bare = joined(joins.Attention(0.5), inputs=[(0, 0, 0)], shape=shape)
    with pytest.raises(NotApplicable, match="domain"):
        bound(bare, Everywhere())
    assert math.isfinite(bound(bare, Box(-1.0, 1.0)))


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_at_a_point_attention_has_the_norm_of_its_jacobian(norm):
    torch.manual_seed(0)
    linears = [nn.Linear(3, 3) for _ in range(3)]
    shape = (4, 3)
    graph = joined(
        nn.LayerNorm(3),
        *linears,
        joins.Attention(0.7),
        nn.Softmax(-1),
        inputs=[(0,), (1,), (1,), (1,), (2, 3, 4), (5,)],
        shape=shape,
    )
    point = torch.randn(1, *shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(graph, point).reshape(12, 12)
    truth = float(torch.linalg.matrix_norm(jacobian, {"l2": 2, "linf": math.inf, "l1": 1}[norm]))
    assert bound(graph, Ball(0.0, "l2", point), norm) == pytest.approx(truth, rel=1e-8)
    near = bound(graph, Ball(1e-4, "l2", point), norm)
    assert truth <= near <= 1.2 * truth


def test_dead_and_active_units_have_their_slopes():
    network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double().eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        network[0].bias.copy_(torch.tensor([10.0, -10.0]))
        network[2].weight.copy_(torch.tensor([[3.0, 5.0]]))
    graph = graph_of(ModelStack.from_modules([network], (1,)), 0)
    assert bound(graph, Box(-1.0, 1.0)) == pytest.approx(3, rel=1e-9)
    assert bound(graph, Everywhere()) == pytest.approx(8, rel=1e-9)
    assert bound(graph, Box(20.0, 21.0)) == pytest.approx(8, rel=1e-9)


def test_branching_closes_the_gap_on_a_box_of_few_inputs():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = graph_of(ModelStack.from_modules([network.double().eval()], (2,)), 0)
    regions = Box(-1.0, 1.0).regions((2,))
    start = float(Analysis(graph).constants(regions)[0])
    found = branch(graph, regions, norm="l2", start=start, gap=0.01, budget=20.0)
    side = torch.linspace(-1, 1, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    jacobians = torch.func.vmap(torch.func.jacrev(network))(grid)
    truth = float(torch.linalg.matrix_norm(jacobians.detach(), 2).max())
    assert truth <= found.upper * (1 + 1e-12)
    assert found.upper <= 1.05 * truth
    assert found.upper <= start


@pytest.mark.parametrize("layer", [nn.LayerNorm(2), nn.RMSNorm(2, eps=1e-2), nn.Softmax(-1)])
def test_a_box_of_few_inputs_is_halved_behind_what_is_not_entry_by_entry(layer):
    graph = joined(layer, nn.Tanh(), inputs=[(0,), (1,)])
    point = torch.tensor([[1.5, 1.0]], dtype=torch.float64)
    truth = torch.linalg.matrix_norm(torch.autograd.functional.jacobian(graph, point)[0, :, 0], 2)
    assert bound(graph, Box(1.0, 2.0)) >= float(truth) * (1 - 1e-9)


def test_balls_around_data_give_a_value_each_of_every_model():
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)).eval() for _ in range(2)]
    stack = ModelStack.from_modules(models, (3,))
    data = {"test": torch.randn(7, 3)}
    domain = {"ball": {"radius": 0.1}}
    found = {m.quantity: m for m in upper_graph.measure(stack, inputs=data, domain=domain)}
    assert {m.direction for m in found.values()} == {"metric"}
    assert bool((found["upper_graph_mean"].values <= found["upper_graph"].values).all())
    for i, model in enumerate(models):
        jacobians = torch.func.vmap(torch.func.jacrev(model.double()))(data["test"].double())
        largest = float(torch.linalg.matrix_norm(jacobians.detach(), 2).max())
        assert largest <= float(found["upper_graph"].values[i]) <= 1.3 * largest


def test_convolutions_pools_and_residual_blocks_are_graphs_too():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

        def forward(self, x):
            return torch.relu(x + self.norm(self.conv(x)))

        def lipschitz_structure(self):
            from lipdescent import chain, residual

            return chain(residual(chain(self.conv, self.norm)), nn.ReLU())

    torch.manual_seed(0)
    network = nn.Sequential(Block(), nn.MaxPool2d(2), Block(), nn.Flatten(), nn.Linear(8, 3)).eval()
    stack = ModelStack.from_modules([network], (2, 4, 4))
    graph = graph_of(stack, 0)
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    assert torch.allclose(graph(x), network.double()(x), atol=1e-12)
    for domain in (Everywhere(), Box(-1.0, 1.0), Ball(0.01, "l2", x[:1])):
        regions = domain.regions((2, 4, 4))
        points = regions.project(x, torch.zeros(5, dtype=int))
        jacobians = [
            torch.autograd.functional.jacobian(graph, p[None]).reshape(3, -1) for p in points
        ]
        truth = max(float(torch.linalg.matrix_norm(j, 2)) for j in jacobians)
        assert truth <= bound(graph, domain)


@pytest.mark.parametrize(
    "options", [{"gap": -1.0}, {"budget": 0.0}, {"num_points": 0}, {"domain": {"box": [1, 0]}}]
)
def test_options_out_of_range_are_refused(options):
    stack = ModelStack.from_modules([nn.Linear(2, 2).eval()], (2,))
    with pytest.raises(ValueError, match="allowed"):
        list(upper_graph.measure(stack, **options))


def normalised_convolution(side: int) -> nn.Sequential:
    """The channel that its normalisation multiplies most is the smallest of the convolution."""
    convolution, norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
    with torch.no_grad():
        convolution.weight[1] = 1e-3 * convolution.weight[0]
        norm.weight.copy_(torch.tensor([0.7, 300.0]))
        norm.running_var.copy_(torch.tensor([2.0, 0.3]))
        norm.running_mean.copy_(torch.tensor([5.0, -1.0]))
    return nn.Sequential(convolution, norm, nn.ReLU(), nn.Flatten(), nn.Linear(2 * side**2, 3))


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_a_batch_normalisation_is_one_with_the_layer_before_it(norm):
    """However large the image is: as the product of layers, which folds it, and above the truth."""
    torch.manual_seed(0)
    side = 40  # 1,600 x 3,200 entries: no matrix of the two is formed, nor their Jacobian
    network = normalised_convolution(side).double().eval()
    shape = (1, side, side)
    stack = ModelStack.from_modules([network], shape)
    graph = graph_of(stack, 0)
    found = [bound(graph, domain, norm) for domain in (Everywhere(), Box(0.0, 1.0))]
    (whole,) = upper_graph.measure(stack, norms=[norm])
    product = float(layer_product(stack, norm=norm))
    assert max(found[0], float(whole.values)) <= product * (1 + 1e-9)
    assert found[1] <= found[0] * (1 + 1e-9)
    order = {"l2": 2, "linf": math.inf, "l1": 1}[norm]
    points = torch.rand(3, *shape, dtype=torch.float64)
    jacobians = [torch.autograd.functional.jacobian(network, x[None])[0, :, 0] for x in points]
    truth = max(float(torch.linalg.matrix_norm(j.flatten(1), order)) for j in jacobians)
    assert truth <= found[1]


def test_a_layer_that_others_take_beside_its_normalisation_keeps_its_constant():
    torch.manual_seed(0)
    first, norm = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([3.0, 0.1]))
    add = joins.Combination((1.0, 1.0))
    both = joined(first, norm.eval(), nn.ReLU(), add, inputs=[(0,), (1,), (2,), (3, 1)])
    slopes = norm.weight / (1 + norm.eps) ** 0.5
    matrix = (torch.eye(2) + torch.diag(slopes.detach())) @ first.weight.detach()
    truth = float(torch.linalg.matrix_norm(matrix.double(), 2))  # where both units are positive
    assert bound(both, Everywhere()) >= truth * (1 - 1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e40])
def test_extreme_weights_have_the_bound_of_the_whole_space_on_a_box(scale):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double().eval()
    with torch.no_grad():
        model[0].weight.mul_(scale)
    graph = graph_of(ModelStack.from_modules([model], (2,)), 0)
    everywhere = graph_bounds(graph, Everywhere().regions((2,)), norm="l2")
    box = graph_bounds(graph, Box(0.0, 1.0).regions((2,)), norm="l2")
    assert 0 < float(box) <= float(everywhere) * (1 + 1e-9)


def test_linear_layers_that_follow_each_other_are_one_map(monkeypatch):
    """The pool shows each number 49 times; the dense layer's own norm is never taken."""
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(7), nn.Flatten()
    dense = nn.Linear(147, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4)
    net = nn.Sequential(*layers, *dense).eval()
    graph = graph_of(ModelStack.from_modules([net], (2, 2, 2)), 0)
    constants = LayerConstants.of_graph(graph)
    ((end, (start, run)),) = constants.runs.items()
    assert [type(layer.module) for layer in run] == [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]
    assert run[-1].scale is not None
    assert graph.vertices[start].shape == (3, 1, 1)
    assert graph.vertices[end].shape == (9,)
    taken = []
    plain = layer_constants.constant
    monkeypatch.setattr(
        layer_constants,
        "constant",
        lambda module, state, **o: taken.append((module, o["norm"])) or plain(module, state, **o),
    )
    stack = ModelStack.from_modules([net], (2, 2, 2))
    (found,) = (float(m.values) for m in upper_graph.measure(stack))
    assert (dense[-1], "l2") in taken
    assert (dense[0], "l2") not in taken
    product = float(layer_product(stack))
    folded = nn.Sequential(*dense[:1], dense[1]).double().eval()
    pool = nn.Sequential(*layers[3:], folded)
    matrix = torch.autograd.functional.jacobian(pool, torch.zeros(1, 3, 1, 1).double())
    exact = float(torch.linalg.matrix_norm(matrix.reshape(9, 3), 2))
    with_run = float(constants.with_run(end, "l2"))
    assert exact * (1 - 1e-12) <= with_run <= exact * (1 + 1e-9)
    assert found <= product * (1 + 1e-9)
