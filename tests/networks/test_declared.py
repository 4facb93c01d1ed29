"""Layers whose constant, slopes or range a user declares: believed, tried, and said to be so."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import lipdescent
from lipdescent.analysis import ladder
from lipdescent.analysis.groups import Group, Series
from lipdescent.analysis.labels import rung_name
from lipdescent.bracketing.bracket import bracket
from lipdescent.findings.document import about
from lipdescent.measuring.kinds import bound
from lipdescent.measuring.subject import Subject
from lipdescent.networks import declared
from lipdescent.networks.declared import declaration_of
from lipdescent.networks.operations import Function
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.storage.checkpoints import Checkpoints, Origin
from lipdescent.structure.exported import plain_stack


class Snake(nn.Module):
    """Slopes 1 + sin(2 x)."""

    def forward(self, x):
        return x + torch.sin(x) ** 2


class Rotation(nn.Module):
    """An orthogonal matrix, kept where no reader looks for it."""

    def __init__(self, size):
        super().__init__()
        self.inner = nn.Linear(size, size, bias=False)
        nn.init.orthogonal_(self.inner.weight)

    def forward(self, x):
        return self.inner(x.flip(-1))


class Wave(nn.Module):
    def forward(self, x):
        return torch.sin(x)


@pytest.fixture(autouse=True)
def only_mine(monkeypatch):
    monkeypatch.setattr(declared, "_DECLARED", {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def norm(matrix):
    return float(torch.linalg.matrix_norm(matrix.detach().double(), 2))


def test_slopes_give_every_bound_that_uses_them_and_rows_say_so():
    lipdescent.layer(slopes=(0, 2))(Snake)
    net = nn.Sequential(nn.Linear(3, 4), Snake(), nn.Linear(4, 2)).eval()
    methods = ["upper_layer_product", "upper_lipsdp", "upper_graph", "lower_jacobian"]
    found = bracket(net, (3,), methods=methods)
    rows = found.table.set_index("quantity")
    product = 2 * norm(net[0].weight) * norm(net[2].weight)
    assert rows.value["upper_layer_product"] == pytest.approx(product, rel=1e-9)
    assert rows.value["upper_layer_product"] >= product
    assert rows.value["upper_lipsdp"] <= rows.value["upper_layer_product"]
    points = torch.randn(2000, 3, dtype=torch.float64) * 3
    jacobians = torch.vmap(torch.func.jacrev(net.double()))(points)
    assert torch.linalg.matrix_norm(jacobians, 2).max() <= found.upper
    uppers = rows[rows.direction == "upper"]
    assert list(uppers.status) == ["ok"] * 3
    assert set(uppers.reason) == {"declared, not proved here: 1 (Snake): slopes (0.0, 2.0)"}
    assert "upper_lipsdp" in repr(found)
    assert "declared, not proved here: 1 (Snake)" in repr(found)


def test_a_constant_of_each_norm_with_modules_inside():
    lipdescent.layer(constant={"l2": 1.0})(Rotation)
    net = nn.Sequential(nn.Linear(3, 4), Rotation(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    found = bracket(net, (3,), methods=["upper_layer_product", "lower_jacobian"])
    product = norm(net[0].weight) * norm(net[3].weight)
    assert product <= found.upper <= product * (1 + 1e-9)
    table = bracket(net, (3,), norm="linf", methods=["upper_layer_product"]).table
    assert table.status[0] == "not_applicable"
    assert "1 (Rotation): no constant is declared in linf, only in l2" in table.reason[0]


def test_a_constant_from_an_instances_settings():
    class Times(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return self.factor * x.roll(1, -1)

    lipdescent.layer(constant=lambda module: abs(module.factor))(Times)
    layers = [nn.Linear(3, 3), Times(-2.0), Times(0.25)]
    found = bracket(nn.Sequential(*layers).eval(), (3,), methods=["upper_layer_product"])
    assert found.upper == pytest.approx(norm(layers[0].weight) / 2, rel=1e-9)


def test_a_range_bounds_what_follows():
    """Squares have no constant on the whole space, but where their inputs are within [-1, 1]."""
    net = nn.Sequential(nn.Linear(2, 3), Wave(), Function("square"), nn.Linear(3, 2)).eval()
    lipdescent.layer(slopes=(-1, 1))(Wave)
    without = bracket(net, (2,), methods=["upper_graph"])
    assert without.table.status[0] == "not_applicable"
    lipdescent.layer(slopes=(-1, 1), range=(-1, 1))(Wave)
    found = bracket(net, (2,), methods=["upper_graph"])
    assert found.upper <= 2.001 * norm(net[0].weight) * norm(net[3].weight)
    points = torch.randn(2000, 2, dtype=torch.float64) * 3
    jacobians = torch.vmap(torch.func.jacrev(net.double()))(points)
    assert torch.linalg.matrix_norm(jacobians, 2).max() <= found.upper


def test_subclasses_are_not_declared():
    class Steeper(Snake):
        def forward(self, x):
            return 5 * super().forward(x)

    lipdescent.layer(slopes=(0, 2))(Snake)
    assert declaration_of(Snake()) is not None
    assert declaration_of(Steeper()) is None
    net = nn.Sequential(nn.Linear(3, 3), Steeper()).eval()
    found = bracket(net, (3,), methods=["upper_layer_product"])
    least = 5 * 0.9 * norm(net[0].weight) / math.sqrt(3)
    assert not found.upper < least
    assert "declared" not in repr(found)


FALSE = {
    "constant": (
        {"constant": 1.9},
        Snake,
        r"a quotient of 1\.9\d+ in l1, declared is constant 1\.9",
    ),
    "slopes above": ({"slopes": (0, 1.5)}, Snake, r"a slope of .*, declared are 0, 1\.5"),
    "slopes below": ({"slopes": (0.5, 2)}, Snake, r"a slope of .*, declared are 0\.5, 2"),
    "range": ({"slopes": (-1, 1), "range": (-0.5, 0.5)}, Wave, r"declared is range -0\.5, 0\.5"),
}


@pytest.mark.parametrize("name", FALSE)
def test_a_declaration_that_is_plainly_false_ends_everything(name):
    options, kind, match = FALSE[name]
    lipdescent.layer(**options)(kind)
    net = nn.Sequential(nn.Linear(3, 4), kind(), nn.Linear(4, 2)).eval()
    with pytest.raises(ValueError, match=rf"1 \({kind.__name__}\): .*{match}"):
        bracket(net, (3,), methods=["upper_layer_product"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "declare a constant or slopes"),
        ({"range": (0, 1)}, "declare a constant or slopes"),
        ({"constant": -1.0}, r"constant = -1\.0; allowed are finite numbers >= 0"),
        ({"constant": math.nan}, "constant = nan"),
        ({"constant": {"l3": 1.0}}, "norm 'l3'; allowed are l1, l2, linf"),
        ({"slopes": (1, 0)}, r"slopes = \(1, 0\); allowed are finite numbers \(low, high\)"),
        ({"slopes": (0, math.inf)}, "slopes = "),
        ({"constant": 1.0, "range": (1, 0)}, "range = "),
    ],
)
def test_bad_declarations_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        lipdescent.layer(**options)(Snake)


@pytest.mark.parametrize("kind", [nn.ReLU, 3, dict])
def test_what_cannot_be_declared(kind):
    with pytest.raises(TypeError, match="layer: "):
        lipdescent.layer(constant=1.0)(kind)


class Branching(nn.Module):
    """Cannot be traced: what it does depends on the values."""

    def __init__(self, size=None):
        super().__init__()
        self.inner = None if size is None else nn.Linear(size, size, bias=False)

    def forward(self, x):
        if float(x.detach().abs().max()) > 1e30:
            return x
        y = x + torch.sin(x) ** 2
        return y if self.inner is None else 0.1 * torch.sin(self.inner(y))


class Functional(nn.Module):
    """Declared layers, one of them twice and one with weights, in a forward of its own."""

    def __init__(self, gate=True):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.wavy, self.own, self.gate = Branching(), Branching(4), gate

    def forward(self, x):
        h = self.wavy(self.wavy(self.a(x)).view(len(x), 2, 2)).flatten(1)
        h = h - self.own(h)
        return self.b(torch.tanh(h) * torch.sigmoid(h) if self.gate else h)


@pytest.mark.parametrize("gate", [True, False])
def test_a_declared_layer_in_a_forward_is_not_looked_into(gate):
    lipdescent.layer(constant=2.0)(Branching)
    net = Functional(gate).eval()
    with torch.no_grad():
        net.own.inner.weight.mul_(0.1)
    found = bracket(net, (3,), methods=["upper_graph", "lower_jacobian"])
    assert "forward" not in vars(net.wavy)
    rows = found.table.set_index("quantity")
    assert rows.status["upper_graph"] == "ok"
    assert "declared, not proved here" in rows.reason["upper_graph"]
    x = 3 * torch.randn(200, 3, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(_traceable(net)))(x)
    truth = float(torch.linalg.matrix_norm(jacobian, 2).max())
    assert truth <= rows.value["upper_graph"]
    by_hand = 4 * norm(net.a.weight) * 3 * norm(net.b.weight) * (1.25 if gate else 1)
    assert rows.value["upper_graph"] <= by_hand * (1 + 1e-9)


def _traceable(net):
    """The same function of one point in float64, without the branch on values."""

    def wavy(x):
        return x + torch.sin(x) ** 2

    a, b, inner = (m.weight.detach().double() for m in (net.a, net.b, net.own.inner))
    shift = net.a.bias.detach().double()

    def function(x):
        h = wavy(wavy(a @ x + shift))
        h = h - 0.1 * torch.sin(inner @ wavy(h))
        return b @ (torch.tanh(h) * torch.sigmoid(h) if net.gate else h)

    return function


def test_weights_of_a_declared_layer_are_each_models_own():
    lipdescent.layer(constant=2.0)(Branching)
    nets = [Functional().eval() for _ in range(2)]
    stack = ModelStack.from_modules([copy.deepcopy(net) for net in nets], (3,))
    plain = plain_stack(stack)
    x = torch.randn(5, 3)
    for model, net in enumerate(nets):
        state = {name: tensor[model] for name, tensor in plain.state.items()}
        found = torch.func.functional_call(plain.module, state, (x,))
        assert torch.allclose(found, net(x), rtol=1e-4, atol=1e-5)


def test_a_study_marks_what_rests_on_a_declaration():
    """Neither an upper bound nor one of a bracket: its direction is that it was declared."""
    lipdescent.layer(slopes=(0, 2))(Snake)
    never, x = torch.full((1,), -1), {"train": torch.randn(4, 3)}
    for layer, direction in ((Snake(), "declared"), (nn.Tanh(), "upper")):
        net = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2)).eval()
        stack = ModelStack.from_modules([net], (3,))
        saved = Checkpoints(
            {}, torch.tensor([0]), torch.zeros(1), torch.tensor([0]), never, never,
            Origin(run={"width": 4}, module="m", build={}, training={}, noise_maker="n"),
        )  # fmt: skip
        subject = Subject("upper_layer_product", stack, torch.ones(1).bool(), saved, None, x)
        (found,) = bound.take(subject, {"norms": ["l2"]})
        assert (found.quantity, found.direction) == ("upper_layer_product", direction)


def test_figures_and_findings_keep_declared_bounds_out_of_brackets():
    shape = (2, 1, 1, 1)
    series = {
        Series("upper_layer_product", "declared", "l2", ""): np.full(shape, 3.0),
        Series("lower_jacobian", "lower", "l2", "train"): np.full(shape, 1.0),
    }
    one = np.zeros(1, dtype=np.int64)
    group = Group(
        "s", "d", "a", np.array([1, 2]), np.zeros(1), one, one, series,
        np.zeros(shape, dtype=bool), (),
    )  # fmt: skip
    assert np.isnan(ladder.bracket(group, "l2")[1]).all()
    assert ladder.absence(group, "upper") == "declared, not proved"
    assert float(ladder.best(group, "declared", "l2").max()) == 3.0
    names = [rung_name(rung) for rung in ladder.rungs(group, "l2")]
    assert names == ["layer product (declared)", "Jacobian (lower)"]
    facts = {"width": [1, 2], "label_noise": [0.0], "seed": [0], "num_models": 2, "epoch": 0}
    facts |= {"num_diverged": 0, "not_applicable": [], "declared": ["upper_layer_product"]}
    told = about(facts)
    assert "upper_layer_product" in told
    assert "declared, not proved here" in told
