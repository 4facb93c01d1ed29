"""Stacks and single networks whose forward is written in Python, as plain ones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lipdescent.bounds import upper_layer_product, upper_lipsdp
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.exported import needs_export, plain_network, plain_stack


class Functional(nn.Module):
    """(x - mean) / std, a hidden layer with a weight that is computed, ReLU, output."""

    def __init__(self):
        super().__init__()
        self.hidden = parametrizations.weight_norm(nn.Linear(3, 5))
        self.out = nn.Linear(5, 2)
        self.register_buffer("mean", torch.tensor([1.0, 2, 3]))
        self.register_buffer("std", torch.tensor([0.5, 2, 4]))

    def forward(self, x):
        return self.out(F.relu(self.hidden((x - self.mean) / self.std)))


def stack_of(kind, count, shape):
    modules = []
    for seed in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            modules.append(kind().eval())
    return modules, ModelStack.from_modules(modules, shape)


def test_every_model_of_a_stack_has_its_own_weights():
    modules, stack = stack_of(Functional, 3, (3,))
    plain = plain_stack(stack)
    assert plain.num_models == 3
    x = torch.randn(4, 3)
    for outputs, module in zip(plain(x), modules, strict=True):
        assert torch.allclose(outputs, module(x), atol=1e-6)


def test_bounds_are_those_of_the_layers_in_sequence():
    """The divisors are powers of two, so that folding them into the weights is exact."""
    modules, stack = stack_of(Functional, 2, (3,))
    plain = plain_stack(stack)
    folded = []
    for module in modules:
        first, last = nn.Linear(3, 5), nn.Linear(5, 2)
        weight = module.hidden.weight.detach()
        first.weight.data = weight / module.std
        first.bias.data = module.hidden.bias.detach() - weight @ (module.mean / module.std)
        last.load_state_dict(module.out.state_dict())
        folded.append(nn.Sequential(first, nn.ReLU(), last).eval())
    same = ModelStack.from_modules(folded, (3,))
    value, expected = (next(upper_lipsdp.measure(s)).values for s in (plain, same))
    assert torch.allclose(value, expected, rtol=1e-6)
    assert (value >= expected * (1 - 1e-9)).all()
    points = torch.randn(2, 50, 3, dtype=torch.float64)
    proved, other = (Prover(s).certify(points, norm="l2") for s in (plain, same))
    assert torch.allclose(proved, other, rtol=1e-5)
    assert Prover(plain).links is not None


class Held(nn.Module):
    """A function of x and a tensor that is another one in every network."""

    def __init__(self, function):
        super().__init__()
        self.function, self.t = function, nn.Parameter(torch.rand(()))
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        return self.out(self.function(x, self.t))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, t: torch.where(x > t, x, t),
        lambda x, t: x.masked_fill(x < t, t),
        lambda x, t: torch.where(torch.tensor([True, False, True]), x, t),
    ],
)
def test_learnt_thresholds_and_numbers_are_those_of_each_network(function):
    modules, stack = stack_of(lambda: Held(function), 3, (3,))
    x = torch.randn(20, 3)
    for outputs, module in zip(plain_stack(stack)(x), modules, strict=True):
        assert torch.allclose(outputs, module(x), atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, t: torch.where(t > 0.6, x, 2 * x),
        lambda x, t: x.masked_fill(torch.tensor([True, False, True]), t),
        lambda x, t: x.index_fill(1, torch.tensor([1]), t),
    ],
)
def test_what_is_read_into_the_network_is_the_same_in_a_stack(function):
    modules, stack = stack_of(lambda: Held(function), 3, (3,))
    assert plain_network(modules[0], (3,)).settled
    with pytest.raises(ValueError, match="a number that is filled in is not the same in all netw"):
        plain_stack(stack)
    modules = [modules[0], modules[0]]
    assert plain_stack(ModelStack.from_modules(modules, (3,))).num_models == 2


def test_networks_of_known_layers_stay_what_they_are():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    stack = ModelStack.from_modules([net], (3,))
    assert plain_stack(stack) is stack
    assert not needs_export(net)
    assert needs_export(Functional().eval())


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x):
        return self.a(x - x.mean(0, keepdim=True))


class Counting(nn.Module):
    """Computes something else for batches of other sizes than one."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x):
        return self.a(x) if len(x) == 1 else self.a(x) + 0.1


@pytest.mark.parametrize("kind", [Mixing, Counting])
def test_what_one_example_does_not_show_is_found(kind):
    with pytest.raises(ValueError, match=r"differ by|influence each other"):
        plain_network(kind().eval(), (3,))


def test_the_weights_are_left_as_they_were():
    net = Functional().eval()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    plain_network(net, (3,))
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not net.training


def test_a_constant_of_an_expression_bounds_its_jacobians():
    torch.manual_seed(0)

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = x - 0.5 * torch.tanh(self.a(x))
            return torch.cat([y[:, :2], F.relu(self.b(y)), y.flip(1)], 1) / 3

    net = Branches().eval()
    found = plain_network(net, (4,))
    stack = ModelStack.from_modules([found.network], (4,))
    for norm, order in (("l2", 2), ("linf", float("inf")), ("l1", 1)):
        bound = float(next(upper_layer_product.measure(stack, norms=[norm])).values)
        for x in torch.randn(20, 4):
            jacobian = torch.autograd.functional.jacobian(lambda p: net(p[None])[0], x)
            assert torch.linalg.matrix_norm(jacobian, order) <= bound
