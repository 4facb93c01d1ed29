"""Bias and variance against closed forms and plain loops over networks."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from lipdescent.bounds import exact_enumeration
from lipdescent.measuring import ensembles
from lipdescent.measuring.kinds import bias_variance
from lipdescent.networks import expressions
from lipdescent.stacks.model_stack import ModelStack


def build(bias=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 4, bias=bias), nn.ReLU(),
                         nn.Linear(4, 2, bias=bias))  # fmt: skip


def scaled(factors):
    """Networks x -> c (relu(x) - relu(-x)) = c x in one dimension."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False), nn.ReLU(),
                           nn.Linear(2, 2, bias=False))  # fmt: skip
    first = torch.tensor([[1.0], [-1.0]]).expand(len(factors), -1, -1)
    second = torch.tensor([[1.0, -1.0], [0.0, 0.0]]) * torch.tensor(factors)[:, None, None]
    return ModelStack(module, {"1.weight": first.clone(), "3.weight": second}, (1,))


def found_of(stack, keys, own=None, **data):
    own = torch.arange(stack.num_models) if own is None else own
    found = bias_variance.measure(stack, ensembles_of=keys, own=own, **data)
    return {m.quantity: m.values for m in found}


def test_lines_through_the_origin_have_a_closed_form():
    """f_s(x) = (s x, 0) with s = 1, 2, 6: fbar = (3 x, 0), variance = 14/3 E x^2."""
    x = torch.tensor([[1.0], [-2.0], [3.0]])
    found = found_of(
        scaled([1.0, 2.0, 6.0]), [0] * 3, inputs={"train": x, "test": x},
        labels=torch.tensor([0, 1, 0]), num_classes=2,
    )  # fmt: skip
    square = 14 / 3
    torch.testing.assert_close(
        found["seed_variance"], torch.tensor([4.0, 1.0, 9.0]).double() * square
    )
    bias = ((1 - 3) ** 2 + (36 + 1) + (1 - 9) ** 2) / 3
    torch.testing.assert_close(
        found["ensemble_square_error"], torch.full((3,), bias, dtype=torch.float64)
    )
    total = found["seed_square_error"].mean()
    torch.testing.assert_close(total, bias + found["seed_variance"].mean())
    assert (found["seed_variance_at_origin"] <= 1e-300).all()  # 0, rounded up
    mean = 2 / 3
    torch.testing.assert_close(
        found["seed_variance_at_mean"], torch.tensor([4.0, 1.0, 9.0]).double() * mean**2
    )
    assert found["mean_square_distance_from_origin"].tolist() == pytest.approx([square] * 3)
    assert found["mean_square_distance_from_mean"].tolist() == pytest.approx([square - mean**2] * 3)
    # The sum of the networks is 9 relu(x) - 9 relu(-x), whose LipSDP value is 18, as FGL's.
    assert found["ensemble_upper_lipsdp"].tolist() == pytest.approx([6] * 3, rel=1e-2)
    assert (found["ensemble_upper_lipsdp"] >= 6).all()
    assert found["ensemble_lower_jacobian"].tolist() == pytest.approx([3] * 3)


@pytest.mark.parametrize("bias", [True, False])
def test_terms_equal_loops_over_networks(make_stack, generator, bias):
    stack = make_stack(lambda: build(bias), 6, (3,), dtype=torch.float64)
    keys = ["a", "b", "a", "b", "b", "a"]
    test, train = (torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (9, 5))
    labels = torch.randint(2, (9,), generator=generator)
    own = torch.tensor([0, 1, 4])
    found = found_of(
        stack, keys, own, inputs={"train": train, "test": test}, labels=labels, num_classes=2
    )
    networks = [
        {name: tensor[i] for name, tensor in stack.state.items()} for i in range(stack.num_models)
    ]

    def output(i, x):
        return torch.func.functional_call(stack.module, networks[i], (x,))

    for place, model in enumerate(own.tolist()):
        members = [i for i, key in enumerate(keys) if key == keys[model]]

        def mean(x, members=members):
            return sum(output(i, x) for i in members) / len(members)

        away = (output(model, test) - mean(test)).square().sum(1).mean()
        torch.testing.assert_close(found["seed_variance"][place], away)
        target = nn.functional.one_hot(labels, 2)
        error = (target - mean(test)).square().sum(1).mean()
        torch.testing.assert_close(found["ensemble_square_error"][place], error)
        centre = test.mean(0, keepdim=True)
        at_mean = (output(model, centre) - mean(centre)).square().sum()
        torch.testing.assert_close(found["seed_variance_at_mean"][place], at_mean)
        steepest = max(
            torch.linalg.matrix_norm(
                torch.autograd.functional.jacobian(lambda p, mean=mean: mean(p)[0], x[None])[:, 0],
                2,
            )
            for x in train
        )
        torch.testing.assert_close(found["ensemble_lower_jacobian"][place], steepest)
        assert found["ensemble_upper_lipsdp"][place] >= steepest


def test_seeds_that_diverged_are_left_out_of_the_mean():
    stack = scaled([1.0, float("nan"), 3.0])
    x = torch.tensor([[1.0], [2.0]])
    data = {"inputs": {"train": x, "test": x}, "labels": torch.tensor([0, 0]), "num_classes": 2}
    found = found_of(stack, [0] * 3, torch.tensor([0, 2]), **data)
    torch.testing.assert_close(found["seed_variance"], torch.full((2,), 2.5, dtype=torch.float64))


def test_the_sum_is_a_network_whose_outputs_add_up_and_whose_bound_is_certified(make_stack):
    stack = make_stack(lambda: build(), 4, (3,), dtype=torch.float64)
    wide = ensembles.sums(stack, torch.tensor([[0, 2], [3, 1]]))
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    each = stack(x)
    torch.testing.assert_close(wide(x), torch.stack([each[0] + each[2], each[3] + each[1]]))
    (exact,) = [m for m in exact_enumeration.measure(wide) if m.direction == "upper"]
    (upper,) = bias_variance.upper_lipsdp.measure(wide)
    assert (upper.values >= exact.values * (1 - 1e-9)).all()


class Backwards(nn.Module):
    """Its last layer is written first, and one is not used."""

    def __init__(self):
        super().__init__()
        self.other, self.last, self.first = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.first(x).relu())

    def lipschitz_structure(self):
        return expressions.chain(self.first, nn.ReLU(), self.last)


def test_layers_are_taken_in_the_order_in_which_they_are_applied(make_stack):
    stack = make_stack(Backwards, 2, (3,), dtype=torch.float64)
    wide = ensembles.sums(stack, torch.tensor([[0, 1]]))
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(wide(x), stack(x).sum(0, keepdim=True))


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(3, 2), nn.ReLU()),
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
    ],
)
def test_other_networks_have_terms_but_no_bound_of_their_mean(module):
    stack = ModelStack.from_modules([module, module], (3,))
    assert ensembles.sums(stack, torch.tensor([[0, 1]])) is None
    x = torch.ones(2, 3)
    data = {"inputs": {"train": x, "test": x}, "labels": torch.tensor([0, 1]), "num_classes": 2}
    found = found_of(stack, [0, 0], **data)
    assert "ensemble_upper_lipsdp" not in found
    assert found["seed_variance"].tolist() == [0, 0]
    assert not math.isnan(found["seed_square_error"][0])


def test_what_the_bounds_are_made_of_is_rounded_up(make_stack, generator):
    """The terms at the reference points and the distances from them, in fractions."""
    stack = make_stack(build, 5, (3,), dtype=torch.float64)
    test = 100 * torch.randn(7, 3, dtype=torch.float64, generator=generator)
    found = found_of(
        stack, [0] * 5, inputs={"train": test, "test": test},
        labels=torch.zeros(7, dtype=torch.int64), num_classes=2,
    )  # fmt: skip
    exact = [
        {name: to_fractions(tensor[i]) for name, tensor in stack.state.items()} for i in range(5)
    ]
    for name, x in (("origin", [Fraction(0)] * 3), ("mean", to_fractions(test.mean(0)))):
        outputs = [output_of(state, x) for state in exact]
        mean = [sum(column) / 5 for column in zip(*outputs, strict=True)]
        for value, own in zip(found[f"seed_variance_at_{name}"].tolist(), outputs, strict=True):
            truth = sum((a - b) ** 2 for a, b in zip(own, mean, strict=True))
            assert truth <= Fraction(value) <= truth * (1 + Fraction(1, 10**9))
        rows = [[a - b for a, b in zip(row, x, strict=True)] for row in to_fractions(test)]
        truth = sum(a * a for row in rows for a in row) / 7
        for value in found[f"mean_square_distance_from_{name}"].tolist():
            assert truth <= Fraction(value) <= truth * (1 + Fraction(1, 10**13))


def test_what_networks_whose_terms_cancel_round_off_is_in_the_variance_at_a_point(generator):
    """Outputs are differences of sums a million times as large: the networks' own error counts."""
    first = torch.randn(6, 8, 3, dtype=torch.float64, generator=generator)
    second = 1e6 * torch.randn(6, 2, 8, dtype=torch.float64, generator=generator)
    state = {
        "1.weight": torch.cat([first, first * (1 + 1e-9)], 1),
        "3.weight": torch.cat([second, -second], 2),
        "1.bias": torch.zeros(6, 16, dtype=torch.float64),
        "3.bias": torch.zeros(6, 2, dtype=torch.float64),
    }
    module = nn.Sequential(nn.Flatten(), nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
    test = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    found = found_of(
        ModelStack(module, state, (3,)), [0] * 6, inputs={"train": test, "test": test},
        labels=torch.zeros(7, dtype=torch.int64), num_classes=2,
    )  # fmt: skip
    x = to_fractions(test.mean(0))
    outputs = [
        output_of({name: to_fractions(t[i]) for name, t in state.items()}, x) for i in range(6)
    ]
    mean = [sum(column) / 6 for column in zip(*outputs, strict=True)]
    for value, own in zip(found["seed_variance_at_mean"].tolist(), outputs, strict=True):
        assert Fraction(value) >= sum((a - b) ** 2 for a, b in zip(own, mean, strict=True))


def to_fractions(tensor):
    if tensor.ndim:
        return [to_fractions(row) for row in tensor]
    return Fraction(tensor.item())


def output_of(state, x):
    """The network of :func:`build`."""
    for layer in (1, 3):
        rows, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        x = [sum(w * v for w, v in zip(row, x, strict=True)) + b
             for row, b in zip(rows, bias, strict=True)]  # fmt: skip
        x = [max(v, Fraction(0)) for v in x] if layer == 1 else x
    return x
