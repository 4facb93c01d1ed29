"""Histograms and correlations against plain loops, NumPy and SciPy."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn

from lipdescent.architectures import mlp
from lipdescent.measuring.kinds import jacobian_points
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.losses import cross_entropy


def build():
    return mlp.build(6, input_shape=(4,), num_classes=3)


@pytest.fixture
def found(make_stack, generator):
    stack = make_stack(build, 3, (4,), dtype=torch.float64)
    inputs = {
        split: torch.randn(n, 4, dtype=torch.float64, generator=generator)
        for split, n in (("train", 30), ("test", 17))
    }
    labels = {s: torch.randint(3, (3, len(x)), generator=generator) for s, x in inputs.items()}
    measured = jacobian_points.measure(
        stack, inputs=inputs, labels=labels, loss=cross_entropy.loss, num_classes=3,
        bins_per_decade=4,
    )  # fmt: skip
    return stack, inputs, labels, {(m.split, m.quantity): m for m in measured}


def each(stack, x, y, model):
    """Norms, losses and whether it is right, of one model at every point."""
    state = {name: tensor[model] for name, tensor in stack.state.items()}

    def logits(point):
        return torch.func.functional_call(stack.module, state, (point[None],))[0]

    norms = [torch.linalg.matrix_norm(torch.func.jacrev(logits)(point), 2).item() for point in x]
    outputs = torch.stack([logits(point) for point in x])
    losses = nn.functional.cross_entropy(outputs, y, reduction="none").detach().numpy()
    return np.array(norms), losses, (outputs.argmax(1) == y).numpy()


def test_shares_and_correlations_equal_loops(found):
    stack, inputs, labels, measured = found
    for split, x in inputs.items():
        bins = [key[1] for key in measured if key[0] == split and "share" in key[1]]
        for model in range(3):
            norms, losses, right = each(stack, x, labels[split][model], model)
            total = 0
            for name in bins:
                low, high = map(float, name.split("@")[1].split(".."))
                if high:  # the whole edges behind four digits; a point without a slope has 0..0
                    low, high = (10 ** (round(4 * np.log10(edge)) / 4) for edge in (low, high))
                else:
                    high = 1e-300
                chosen = right if "_right@" in name else ~right
                share = ((norms >= low) & (norms < high) & chosen).mean()
                value = measured[split, name].values[model].item()
                assert value == pytest.approx(share)
                total += value
            assert total == pytest.approx(1)
            for name, theirs in (("spearman", spearmanr), ("pearson", pearsonr)):
                value = measured[split, f"jacobian_norm_loss_{name}"].values[model].item()
                assert value == pytest.approx(theirs(norms, losses).statistic)


def test_dead_networks_have_a_bin_of_their_own_and_no_correlation():
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    state = {name: torch.zeros(1, *p.shape) for name, p in module.named_parameters()}
    x = torch.tensor([[1.0, 2.0], [0.5, 0.0]])
    measured = {
        m.quantity: m
        for m in jacobian_points.measure(
            ModelStack(module, state, (2,)), inputs={"test": x},
            labels={"test": torch.tensor([[0, 1]])}, loss=cross_entropy.loss, num_classes=2,
        )
    }  # fmt: skip
    assert measured["jacobian_norm_share_right@0..0"].values.tolist() == [0.5]
    assert measured["jacobian_norm_share_wrong@0..0"].values.tolist() == [0.5]
    assert not measured["jacobian_norm_loss_spearman"].defined.any()
    assert not measured["jacobian_norm_loss_pearson"].defined.any()
