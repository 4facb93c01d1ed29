"""Networks with a forward of their own, against calling them."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lipdescent.bounds.graph.conversion import double
from lipdescent.bounds.upper_graph import graph_bounds
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.constrained.layers import GroupSort
from lipdescent.domains.domain import Everywhere
from lipdescent.networks.export.network import export
from lipdescent.networks.graph import Attention, Extremum, GraphNetwork
from lipdescent.networks.operations import Gather
from lipdescent.networks.reading import Unreadable
from lipdescent.stacks.model_stack import ModelStack, tensors


class Own(nn.Module):
    """A forward that is a function of the module and its inputs."""

    def __init__(self, function, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part() if callable(part) else part)

    def forward(self, *x):
        return self.function(self, *x)


def linear(features, outputs):
    return lambda: nn.Linear(features, outputs)


def normed(s, x):
    y = torch.cat([s.layer(x), s.group(x), s.instance(x), F.normalize(x, dim=1)], 2)
    return torch.cat([y, x.var(2, keepdim=True).expand_as(x), x.amax(2, keepdim=True)], 2)


def attention(s, x):
    scores = s.q(x) @ s.k(x).transpose(-1, -2) * 0.3
    return (F.softmax(scores, -1) @ s.v(x)).flatten(1)


def resampled(s, x):
    y = F.interpolate(torch.sin(x) * 2 + torch.exp(-x * x), scale_factor=2, mode="bilinear")
    return F.pad(y, (1, 2, 0, 1), value=0.3).flip(2).roll(1, 3)


def pooled(s, x):
    y = F.avg_pool2d(F.max_pool2d(F.hardtanh(x, -1, 2), 2), 2, stride=1)
    return F.pixel_unshuffle(y, 1).flatten(1).clamp(min=0.1).clamp_max(0.7)


def several(s, x):
    y = torch.maximum(x, s.a(x)) + torch.minimum(x, torch.ones(3)) + F.softsign(x)
    return y + F.glu(s.c(x), -1) + x**3 + x.abs() / (2 + torch.cos(x))


def in_place(s, x):
    y = s.a(x)
    view = y.view(-1, 2, 2)
    view.relu_()
    view += 1
    return s.b(y)


def written_into(s, x):
    y = s.a(x).clone()
    y[:, 2:4] = x[:, :2]
    y[:, 5] = x[:, 1]
    mask = torch.tensor([True, False, True, True, False, True])
    return torch.where(mask, y, x.flip(1))


def filled(s, x):
    y = s.a(x).clone()
    y[:, 1], y[:, 2:4], y[:, [0, 5]] = 7, torch.tensor([1.0, 2.0]), x[:, 1:3]
    z = y.index_fill(1, torch.tensor([3]), -1.0)
    z[:, 4].zero_()
    z.index_copy_(1, torch.tensor([2]), x[:, :1])
    y.copy_(x)
    first = z.new_zeros(len(x), 6).fill_(2)
    first[:, torch.tensor([True, False] * 3)] = y[:, 3:]
    y.fill_(3)
    return torch.cat([y + z, first.scatter(1, torch.zeros_like(x[:, :1]).long(), x[:, 5:])], 1)


def shrunk(s, x):
    y = s.a(F.max_pool2d(x, 2)).flatten(1)
    return s.b(F.relu(y - 0.3) - F.relu(-y - 0.3))


def written_later(s, x):
    y = torch.ones(3)
    first = x * y
    y[1] = 5
    second = x * y
    y.mul_(2)
    return torch.cat([first, second, x + y], 1)


def overwritten(s, x):
    y = s.a(x).clone()
    y.zero_()
    return y + x


CASES = {
    "normalised": (
        Own(
            lambda s, x: s.b(F.relu(s.a((x - s.mean) / s.std))),
            a=linear(5, 7), b=linear(7, 2), mean=torch.arange(5.0), std=torch.arange(1.0, 6),
        ),
        (5,),
    ),
    "unsqueeze": (
        Own(
            lambda s, x: F.relu(s.c(F.relu(s.a(x)).unsqueeze(1))).squeeze(2),
            a=linear(6, 5), c=lambda: nn.Conv1d(1, 4, 5),
        ),
        (6,),
    ),
    "indices": (
        Own(
            lambda s, x: torch.hstack([x[:, :1] + 0.1 * x[:, 1:2], x[:, 1:2] + 0.1 * s.a(x)]),
            a=lambda: nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)),
        ),
        (2,),
    ),
    "minus": (Own(lambda s, x: x - s.a(x), a=lambda: nn.Conv2d(1, 1, 3, padding=1)), (1, 6, 6)),
    "twice": (Own(lambda s, x: s.a(torch.tanh(s.a(x))), a=linear(4, 4)), (4,)),
    "gate": (
        Own(lambda s, x: x * torch.sigmoid(s.a(x.mean((2, 3))))[:, :, None, None], a=linear(3, 3)),
        (3, 4, 4),
    ),
    "encoder": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8)),
    "attention": (Own(attention, q=linear(4, 4), k=linear(4, 4), v=linear(4, 4)), (5, 4)),
    "in place": (Own(in_place, a=linear(4, 4), b=linear(4, 4)), (4,)),
    "lstm": (
        Own(
            lambda s, x: s.o(s.r(x)[0][:, -1]),
            r=lambda: nn.LSTM(3, 4, batch_first=True), o=linear(4, 1),
        ),
        (3, 3),
    ),
    "spectral": (
        nn.Sequential(
            parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.LeakyReLU(0.1), nn.Flatten(),
            parametrizations.weight_norm(nn.Linear(64, 2)),
        ),
        (3, 6, 6),
    ),
    "norms": (
        Own(
            normed, layer=lambda: nn.LayerNorm(5), group=lambda: nn.GroupNorm(2, 4),
            instance=lambda: nn.InstanceNorm1d(4, affine=True),
        ),
        (4, 5),
    ),
    "resampled": (Own(resampled), (2, 4, 4)),
    "pooled": (Own(pooled), (2, 8, 8)),
    "einsum": (
        Own(
            lambda s, x: torch.einsum("bij,kj->bik", x, s.w) + (s.u @ x)[:, :, :6],
            w=nn.Parameter(torch.randn(6, 7)), u=nn.Parameter(torch.randn(5, 5)),
        ),
        (5, 7),
    ),
    "functions": (Own(several, a=linear(3, 3), c=linear(3, 6)), (3,)),
    "stack": (Own(lambda s, x: torch.stack([x, s.a(x), 2 * x], 2).mean(2), a=linear(3, 3)), (3,)),
    "sorted": (
        Own(lambda s, x: s.a(x).view(-1, 2, 2).sort(2)[0].flatten(1), a=linear(3, 4)),
        (3,),
    ),
    "written into": (Own(written_into, a=linear(6, 6)), (6,)),
    "filled": (Own(filled, a=linear(6, 6)), (6,)),
    "folded": (Own(lambda s, x: F.fold(s.a(x), (4, 5), (2, 3), 1, 1, 2), a=linear(9, 9)), (12, 9)),
    "shrunk": (Own(shrunk, a=linear(2, 2), b=linear(4, 3)), (1, 4, 4)),
    "constants written later": (Own(written_later), (3,)),
    "overwritten": (Own(overwritten, a=linear(3, 3)), (3,)),
    "batch norm": (
        nn.Sequential(nn.BatchNorm1d(4), nn.PReLU(4), nn.ConstantPad1d(1, 2.0)),
        (4,),
    ),
}  # fmt: skip


def compared(module, shape, *, inputs=None):
    """What was exported, its outputs in float64 at some points compared with the module's own."""
    module.eval()
    found = export(module, inputs or [shape])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, *found.input_shape, generator=generator, dtype=torch.float64)
    plain = copy.deepcopy(found.network).double()
    parts = x.float().split([math.prod(s) for s in inputs], 1) if inputs else [x.float()]
    with torch.no_grad():
        called = module(*parts).reshape(3, -1).double()
        value = plain(x).flatten(1)
        traced = found.evaluate(x, tensors(module))
    assert value.shape == called.shape
    assert (value - traced).abs().max() <= 1e-12 * (1 + traced.abs().max())
    assert (value - called).abs().max() <= 1e-4 * (1 + called.abs().max())
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_plain_network_is_what_the_call_computes(name):
    module, shape = CASES[name]
    found = compared(module, shape)
    for vertex, value in zip(
        found.graph.vertices, found.graph.values(torch.zeros(2, *shape)), strict=True
    ):
        assert tuple(value.shape[1:]) == vertex.shape, vertex
    own = found.state(tensors(module))
    assert own.keys() == tensors(found.network).keys()
    assert all(torch.equal(tensors(found.network)[key], own[key]) for key in own)


def test_a_chain_is_the_sequential_that_it_could_have_been():
    net = Own(lambda s, x: s.b(F.relu(s.a(x)).view(len(x), -1)), a=linear(3, 4), b=linear(4, 2))
    found = export(net.eval(), [(3,)]).network
    assert [type(part) for part in found] == [nn.Linear, nn.ReLU, nn.Linear]
    assert torch.equal(found[0].weight, net.a.weight)
    assert type(found) is nn.Sequential


def test_a_product_and_a_sum_are_one_layer_where_nothing_else_takes_the_product():
    held = {"w": nn.Parameter(torch.randn(3, 4)), "v": nn.Parameter(torch.randn(4, 1))}
    held |= {"b": nn.Parameter(torch.randn(4))}
    net = Own(lambda s, x: F.relu(s.b + x @ s.w) @ s.v + 0.5, **held).eval()
    found = compared(net, (3,))
    assert [type(part) for part in found.network] == [nn.Linear, nn.ReLU, nn.Linear]
    assert torch.equal(found.network[0].bias, net.b)
    assert float(found.network[2].bias) == 0.5
    both = Own(lambda s, x: torch.relu(x @ s.w + s.b) + x @ s.w, **held).eval()
    layers = [v.operation for v in compared(both, (3,)).graph.vertices]
    # The same product is one vertex, but two operations of the program: each may have its bias.
    assert sum(isinstance(layer, nn.Linear) for layer in layers) == 2
    shared = Own(lambda s, x: (lambda h: torch.relu(h + s.b) + h)(x @ s.w), **held).eval()
    layers = [v.operation for v in compared(shared, (3,)).graph.vertices]
    assert sum(isinstance(layer, nn.Linear) for layer in layers) == 1


@pytest.mark.parametrize(
    "how",
    [
        lambda s, x: s.w * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3),
        lambda s, x: x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * s.w,
        lambda s, x: s.w * (x * (1 / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-3))),
    ],
)
def test_an_rms_normalisation_has_its_weights_however_it_is_written(how):
    net = Own(how, w=nn.Parameter(torch.tensor([1.0, -2.0, 0.5])))
    (layer,) = compared(net, (4, 3)).network
    assert isinstance(layer, nn.RMSNorm)
    assert torch.equal(layer.weight, net.w)


class Heads(nn.Module):
    """Self-attention of two heads behind a normalisation, scores written as ``how`` says."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.norm, self.qkv, self.out = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 6)
        self.learnt = nn.Parameter(torch.tensor(1 / 3**0.5))
        self.each = nn.Parameter(torch.full((2, 1, 1), 1 / 3**0.5))
        self.register_buffer("root", torch.tensor(3.0).sqrt())

    def forward(self, x):
        n, t, _ = x.shape
        parts = self.qkv(self.norm(x)).reshape(n, t, 3, 2, 3).permute(2, 0, 3, 1, 4)
        return x + self.out(self.how(self, *parts).transpose(1, 2).reshape(n, t, 6))


def flat_heads(s, q, k, v):
    q, k, v = (part.flatten(0, 1) for part in (q, k, v))
    scores = torch.baddbmm(torch.empty(len(q), 5, 5), q, k.mT, beta=0, alpha=3**-0.5)
    return torch.bmm(scores.softmax(-1), v).unflatten(0, (-1, 2))


def as_sums(s, q, k, v):
    weights = torch.einsum("bhid,bhjd->bhij", q, k).div(3**0.5).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


SCALED = {
    "fused": lambda s, q, k, v: F.scaled_dot_product_attention(q, k, v),
    "scores times": lambda s, q, k, v: (q @ k.mT * 3**-0.5).softmax(-1) @ v,
    "scores by": lambda s, q, k, v: (q @ k.mT / 3**0.5).softmax(-1) @ v,
    "q times": lambda s, q, k, v: ((q * 3**-0.5) @ k.mT).softmax(-1) @ v,
    "q by": lambda s, q, k, v: ((q / 3**0.5) @ k.mT).softmax(-1) @ v,
    "k by": lambda s, q, k, v: (q @ (k / 3**0.5).mT).softmax(-1) @ v,
    "k turned times": lambda s, q, k, v: (q @ (k.mT * 3**-0.5)).softmax(-1) @ v,
    "both": lambda s, q, k, v: ((q * 3**-0.25) @ (k * 3**-0.25).mT).softmax(-1) @ v,
    "twice": lambda s, q, k, v: ((q @ k.mT) * 2 / 12**0.5).softmax(-1) @ v,
    "a tensor": lambda s, q, k, v: (q @ k.mT / torch.tensor(3.0).sqrt()).softmax(-1) @ v,
    "a buffer": lambda s, q, k, v: (q @ k.mT / s.root).softmax(-1) @ v,
    "a parameter": lambda s, q, k, v: (q @ k.mT * s.learnt).softmax(-1) @ v,
    "one of each head": lambda s, q, k, v: (q @ k.mT * s.each).softmax(-1) @ v,
    "dropout": lambda s, q, k, v: F.dropout((q @ k.mT / 3**0.5).softmax(-1), 0.5, s.training) @ v,
    "minus": lambda s, q, k, v: (-(q @ k.mT) / -(3**0.5)).softmax(-1) @ v,
    "einsum": as_sums,
    "bmm": flat_heads,
}


@pytest.mark.parametrize("how", SCALED)
def test_attention_is_one_operation_however_it_is_scaled(how):
    """All are the same function, so the same bound to rounding; the fused one is the reference."""
    found = {}
    for name in ("fused", how):
        module = Heads(SCALED[name]).eval()
        exported = export(module, [(5, 6)])
        joins = [v.operation for v in exported.graph.vertices if isinstance(v.operation, Attention)]
        assert len(joins) == 1
        kinds = [type(v.operation) for v in exported.graph.vertices]
        assert nn.Softmax not in kinds
        x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(exported.network(x), module(x), rtol=1e-4, atol=1e-5)
        found[name] = float(graph_bounds(double(exported.graph), Everywhere().regions((5, 6)))[0])
    assert found[how] == pytest.approx(found["fused"], rel=1e-6)


def test_factors_that_differ_between_the_keys_are_no_scale_of_the_scores():
    """softmax(c_j q k_j) with a factor for each key stays what it is, and is computed rightly."""
    factors = torch.tensor([0.1, 1.0, 2.0, 0.5, 3.0])
    module = Heads(lambda s, q, k, v: (q @ k.mT * factors).softmax(-1) @ v).eval()
    exported = export(module, [(5, 6)])
    assert not any(isinstance(v.operation, Attention) for v in exported.graph.vertices)
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(exported.network(x), module(x), rtol=1e-4, atol=1e-5)


def test_attention_is_one_operation_however_it_is_written():
    for name in ("attention", "encoder"):
        module, shape = CASES[name]
        operations = [v.operation for v in export(module.eval(), [shape]).graph.vertices]
        joins = [type(op) for op in operations if not isinstance(op, nn.Module | None)]
        assert joins.count(Attention) == 1
        assert not any(join.__name__ in ("MatrixProduct", "Product") for join in joins)
        (scale,) = [op.scale for op in operations if isinstance(op, Attention)]
        assert scale == pytest.approx(0.3 if name == "attention" else 0.5)


def test_minimum_and_maximum_side_by_side_are_a_sort():
    def ordered(s, x):
        pairs = s.a(x).view(-1, 3, 2)
        return torch.cat([pairs.min(2, keepdim=True)[0], pairs.max(2, keepdim=True)[0]], 2).flatten(
            1
        )

    found = compared(Own(ordered, a=linear(3, 6)), (3,))
    assert [type(part) for part in found.network] == [nn.Linear, GroupSort]


def halves(x):
    return x.chunk(2, 1)


def columns(x):
    return x.view(len(x), -1, 2, *x.shape[2:]).unbind(2)


def two(x):
    return x.view(len(x), 2, -1, *x.shape[2:])


# However others write MaxMin (GroupSort of two): a permutation of its input.
MAX_MIN = {
    "cat of max and min of halves": lambda x: torch.cat(
        [torch.max(*halves(x)), torch.min(*halves(x))], 1
    ),
    "smaller first": lambda x: torch.cat([torch.minimum(*halves(x)), torch.maximum(*halves(x))], 1),
    "every second": lambda x: torch.stack(
        [torch.max(x[:, ::2], x[:, 1::2]), torch.min(x[:, 1::2], x[:, ::2])], 2
    ).flatten(1, 2),
    "neighbours": lambda x: torch.stack(
        [torch.minimum(*columns(x)), torch.maximum(*columns(x))], 2
    ).flatten(1, 2),
    "over an axis": lambda x: torch.cat([two(x).max(1)[0], two(x).amin(1)], 1),
}


@pytest.mark.parametrize(
    ("first", "shape"),
    [(linear(3, 6), (3,)), (lambda: nn.Conv2d(3, 4, 2), (3, 3, 4))],
    ids=["vector", "image"],
)
@pytest.mark.parametrize("written", MAX_MIN.values(), ids=MAX_MIN)
def test_max_and_min_of_the_same_two_are_a_permutation(written, first, shape):
    kinds = [
        type(part)
        for part in compared(Own(lambda s, x: written(s.a(x)), a=first), shape).network
        if not isinstance(part, Gather) or part.multiplicity() > 1
    ]
    assert kinds.count(GroupSort) == 1
    assert {*kinds[1:]} <= {GroupSort, nn.Flatten, nn.Unflatten}


def test_max_and_min_of_two_networks_are_a_permutation_of_both():
    found = compared(
        Own(
            lambda s, x: torch.cat([torch.max(s.a(x), s.b(x)), torch.min(s.b(x), s.a(x))], 1),
            a=linear(3, 2), b=linear(3, 2),
        ),
        (3,),
    )  # fmt: skip
    operations = [vertex.operation for vertex in found.graph.vertices]
    assert any(isinstance(operation, GroupSort) for operation in operations)
    assert not any(isinstance(operation, Extremum) for operation in operations)


def test_numbers_of_two_pairs_count_twice():
    """Neighbours that overlap: their maxima and minima have the constants 2, sqrt(2) and 1."""

    def both(s, x):
        x = s.a(x)
        return torch.cat([torch.max(x[:, 1:], x[:, :-1]), torch.min(x[:, 1:], x[:, :-1])], 1)

    same = nn.Linear(4, 4, bias=False)
    nn.init.eye_(same.weight)
    found = compared(Own(both, a=lambda: same), (4,))
    stack = ModelStack.from_modules([found.network], (4,))
    for norm, constant in (("l1", 2.0), ("l2", math.sqrt(2)), ("linf", 1.0)):
        bound = layer_product(stack, norm=norm).item()
        assert constant <= bound <= constant * (1 + 1e-12)


def others(x):
    return x[:, :2], x[:, 2:4], x[:, 4:]


@pytest.mark.parametrize(
    "written",
    [
        lambda a, b, c: [torch.max(a, b), torch.min(a, c)],
        lambda a, b, c: [torch.max(a, b), torch.max(b, a)],
        lambda a, b, c: [torch.max(a, b), torch.min(b.flip(1), a)],
        lambda a, b, c: [torch.max(a, b), torch.min(a, b), c],
    ],
    ids=["another", "twice the larger", "in another order", "three parts"],
)
def test_other_two_are_read_as_they_are(written):
    found = compared(Own(lambda s, x: torch.cat(written(*others(s.a(x))), 1), a=linear(3, 6)), (3,))
    assert not any(isinstance(v.operation, GroupSort) for v in found.graph.vertices)


def test_several_inputs_are_one_vector():
    net = Own(lambda s, a, b: s.a(torch.cat([a, b.flatten(1)], 1)), a=linear(7, 2))
    found = compared(net, None, inputs=[(3,), (2, 2)])
    assert found.input_shape == (7,)


def test_one_of_several_outputs():
    net = Own(lambda s, x: (s.a(x), s.b(x).mean(1)), a=linear(3, 2), b=linear(3, 4)).eval()
    x = torch.randn(2, 3)
    first, second = net(x)
    both = export(net, [(3,)])
    assert torch.allclose(both.network(x), torch.cat([first, second[:, None]], 1))
    assert "2 outputs side by side" in both.notes[0]
    assert torch.equal(export(net, [(3,)], output=0).network(x), first)
    with pytest.raises(ValueError, match="output = 2: allowed are 0, 1"):
        export(net, [(3,)], output=2)


def control_flow(s, x):
    return s.a(x) if x.sum() > 0 else x


def no_table_has_it(s, x):
    return torch.fft.rfft(s.a(x)).real


def rounds(s, x):
    return s.a(x.int().float())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (control_flow, r"test_export.py, line \d+\) cannot be exported: .* an if or a shape does"),
        (
            no_table_has_it,
            r"test_export.py, line \d+\): the operation aten.fft_\w+.default gives complex",
        ),
        (rounds, r"line \d+\): a cast to torch.int32 rounds to whole numbers"),
        (lambda s, x: s.a(x).floor(), r"line \d+\): the operation aten.floor.* jumps"),
        (lambda s, x: s.a.weight, "output does not depend on its input"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(function, message):
    with pytest.raises(Unreadable, match=message):
        export(Own(function, a=linear(3, 3)).eval(), [(3,)])


@pytest.mark.parametrize(
    "write",
    [
        lambda y: y.__setitem__((slice(None), 1), 7),
        lambda y: y[:, 1:2].copy_(torch.ones(1)),
        lambda y: y[:, 1].zero_(),
        lambda y: y.__setitem__((slice(None), [1]), torch.ones(1)),
    ],
)
def test_what_is_written_over_adds_nothing_to_the_bound(write):
    def forward(s, x):
        y = s.a(x).clone()
        write(y)
        return y

    net = Own(forward, a=linear(3, 3)).eval()
    kept = net.a.weight.detach().double()[[0, 2]]
    truth = float(torch.linalg.matrix_norm(kept, 2))
    graph = compared(net, (3,)).graph
    found = float(graph_bounds(double(graph), Everywhere().regions((3,)))[0])
    assert truth <= found * (1 + 1e-15) <= truth * (1 + 1e-12)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda s, x: s.a(x).index_put((torch.arange(len(x)), (x[:, 0] * 0).long()), x[:, 0]),
            "a cast to torch.int64 rounds to whole numbers",
        ),
        (
            lambda s, x: s.a(x).index_put((torch.tensor([0]),), x, accumulate=True),
            r"index_put.default with accumulate=True; without it is read",
        ),
        (lambda s, x: torch.zeros(1, 3).long().copy_(x) + x, "a cast to torch.int64 rounds"),
        (lambda s, x: torch.zeros(1, 3).bool().fill_(x[0, 0]) * x, "a cast to torch.bool rounds"),
        (lambda s, x: torch.where(x > 0.1, 0.3 * x + 0.07, x), r"from 0.1 to 0.1 \(by 1.67e-18\)"),
    ],
)
def test_writing_that_is_not_read_says_why(function, message):
    with pytest.raises(Unreadable, match=message):
        export(Own(function, a=linear(3, 3)).eval(), [(3,)])


def test_a_cast_is_noted():
    found = export(Own(lambda s, x: s.a(x.double().float()), a=linear(3, 3)).eval(), [(3,)])
    assert any("torch.float64 is left out" in note for note in found.notes)


STEPS = {
    "linear": lambda s, x, y: s.a(x),
    "relu": lambda s, x, y: F.relu(x),
    "tanh": lambda s, x, y: torch.tanh(x) * 1.5,
    "sum": lambda s, x, y: x + y,
    "difference": lambda s, x, y: x - 0.5 * y,
    "product": lambda s, x, y: torch.sigmoid(x) * y,
    "roll": lambda s, x, y: x.roll(1, 1).flip(1),
    "norm": lambda s, x, y: s.n(x),
    "halves": lambda s, x, y: torch.cat([x[:, :2], y[:, 2:]], 1),
    "matrix": lambda s, x, y: (x.view(-1, 2, 2) @ y.view(-1, 2, 2)).flatten(1),
    "quotient": lambda s, x, y: x / (1 + y * y),
    "larger": lambda s, x, y: torch.maximum(x, y),
    "softmax": lambda s, x, y: F.softmax(x, 1) + (y - s.c) / 3,
}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9)), max_size=8))
def test_random_programs(steps):
    def forward(s, x):
        values = [x]
        for name, back in steps:
            values.append(STEPS[name](s, values[-1], values[-1 - back % len(values)]))
        return torch.cat([s.a(values[-1]), values[len(values) // 2]], 1)

    parts = {"a": linear(4, 4), "n": lambda: nn.LayerNorm(4), "c": torch.arange(4.0)}
    found = compared(Own(forward, **parts), (4,))
    if isinstance(found.network, GraphNetwork) and isinstance(found.network.structure, str):
        assert "graph of operations" in found.network.structure
