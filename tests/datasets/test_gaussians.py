"""The toy data are those of torch's own distributions, drawn in the paper's order."""

import math

import numpy as np
import pytest
import torch

from lipdescent.architectures import mlp_of_seed
from lipdescent.datasets import gaussians


@pytest.mark.usefixtures("random_state_untouched")
def test_they_are_what_torchs_distributions_draw():
    found = gaussians.load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        across, up = 1.5 * math.cos(math.pi / 6), 1.5 * math.sin(math.pi / 6)
        classes = [
            torch.distributions.MultivariateNormal(torch.tensor(centre), torch.eye(2))
            for centre in ([0.0, -1.5], [across, up], [-across, up])
        ]
        train = torch.cat([one.sample((15,)) for one in classes])
        test = torch.cat([one.sample((5,)) for one in classes])
    np.testing.assert_array_equal(found.train_inputs, train.numpy())
    np.testing.assert_array_equal(found.test_inputs, test.numpy())
    assert found.train_labels.tolist() == [0] * 15 + [1] * 15 + [2] * 15
    assert found.test_labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    # The range that the authors' notebook prints.
    both = np.concatenate([found.train_inputs, found.test_inputs])
    assert both.min() == pytest.approx(-3.816042, rel=1e-6)
    assert both.max() == pytest.approx(4.1605024, rel=1e-6)


@pytest.mark.usefixtures("random_state_untouched")
def test_the_networks_first_loss_is_the_papers():
    """1.1601 and 1.1581, train and test, before the first step."""
    data = gaussians.load()
    networks = [mlp_of_seed.build(100, input_shape=(2,), num_classes=3) for _ in range(2)]
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)
    for split, loss in (("train", 1.1601), ("test", 1.1581)):
        inputs, labels = (
            torch.from_numpy(getattr(data, f"{split}_{kind}")) for kind in ("inputs", "labels")
        )
        with torch.no_grad():
            found = torch.nn.functional.cross_entropy(networks[0](inputs), labels)
        assert round(float(found), 4) == loss


def test_centres_and_seeds():
    far, other = gaussians.load(radius=100.0), gaussians.load(draw_seed=1)
    lengths = np.linalg.norm(far.train_inputs, axis=1)
    assert abs(lengths.mean() - 100) < 1
    assert not np.array_equal(other.train_inputs, gaussians.load().train_inputs)
