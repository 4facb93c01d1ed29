"""Ensembles over seeds against a plain loop of PyTorch, and where their members come from."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, nll_loss

from lipdescent.measuring.kinds import ensemble
from lipdescent.stacks.model_stack import ModelStack


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))


def measured(stack, **given):
    return {m.quantity: m.values for m in ensemble.measure(stack, **given)}


@pytest.fixture
def networks(generator):
    torch.manual_seed(0)
    models = [build() for _ in range(5)]
    for model in models:
        model[3].weight.data *= 20
    inputs = torch.randn(60, 3, generator=generator)
    return models, inputs, torch.randint(4, (60,), generator=generator)


def test_equals_a_plain_loop_over_the_members(networks):
    models, inputs, labels = networks
    stack = ModelStack.from_modules(models, (3,))
    keys, own = [(1, 0.0), (1, 0.0), (2, 0.0), (1, 0.0), (2, 0.0)], torch.tensor([0, 2, 3])
    found = measured(stack, inputs=inputs, labels=labels, ensembles_of=keys, own=own)
    for place, model in enumerate(own.tolist()):
        members = [m.double() for m, key in zip(models, keys, strict=True) if key == keys[model]]
        with torch.no_grad():
            logits = [m(inputs.double()) for m in members]
        softmax = sum(x.softmax(1) for x in logits) / len(logits)
        mean = sum(logits) / len(logits)
        expected = {
            "ensemble_loss_of_mean_softmax": nll_loss(softmax.log(), labels),
            "ensemble_error_of_mean_softmax": (softmax.argmax(1) != labels).double().mean(),
            "ensemble_loss_of_mean_logits": cross_entropy(mean, labels),
            "ensemble_error_of_mean_logits": (mean.argmax(1) != labels).double().mean(),
        }
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name][place], value)
        alone = torch.stack([cross_entropy(x, labels) for x in logits]).mean()
        assert found["ensemble_loss_of_mean_softmax"][place] < alone  # Jensen
        assert found["ensemble_loss_of_mean_logits"][place] < alone
    assert found["ensemble_loss_of_mean_softmax"][0] == found["ensemble_loss_of_mean_softmax"][2]


def test_a_seed_that_has_diverged_is_no_member(networks):
    models, inputs, labels = networks
    models[1][1].weight.data[0, 0] = math.nan
    own, keys = torch.tensor([0, 2]), [(1, 0.0)] * 3
    given = {"inputs": inputs, "labels": labels}
    found = measured(ModelStack.from_modules(models[:3], (3,)), ensembles_of=keys, own=own, **given)
    sound = ModelStack.from_modules([models[0], models[2]], (3,))
    expected = measured(sound, ensembles_of=keys[:2], own=torch.tensor([0, 1]), **given)
    assert all(torch.equal(values, expected[name]) for name, values in found.items())
    assert all(values.isfinite().all() for values in found.values())


def test_no_probability_is_too_small():
    """Logits so far apart that a probability is below the least float64."""
    module = nn.Sequential(nn.Linear(1, 2, bias=False))
    state = {"0.weight": torch.tensor([[[2000.0], [0.0]], [[4000.0], [0.0]]])}
    found = measured(
        ModelStack(module, state, (1,)), inputs=torch.ones(1, 1), labels=torch.tensor([1]),
        ensembles_of=[(0, 0.0)] * 2, own=torch.tensor([0, 1]),
    )  # fmt: skip
    # log(mean(exp(-2000), exp(-4000))) = -2000 - log 2.
    expected = torch.full((2,), 2000 + math.log(2), dtype=torch.float64)
    torch.testing.assert_close(found["ensemble_loss_of_mean_softmax"], expected)
    torch.testing.assert_close(
        found["ensemble_loss_of_mean_logits"], torch.full((2,), 3000.0).double()
    )
    assert found["ensemble_error_of_mean_logits"].tolist() == [1, 1]
