"""The kernel head against scikit-learn's, far inputs by what they are, the experiment's rows."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.metrics import roc_auc_score

from lipdescent.experiments import _colipschitz as colipschitz
from lipdescent.experiments import distance_uncertainty
from lipdescent.experiments._kernel_head import NOISE, KernelHead, area_under_curve


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_head_against_scikit_learn():
    points, x = normal(30, 4), normal(12, 4, seed=1)
    labels = torch.arange(30) % 3
    head = KernelHead.fit(points, labels)
    apart = torch.cdist(points, points)[tuple(torch.triu_indices(30, 30, 1))]
    assert head.length == pytest.approx(apart.sort().values[(len(apart) - 1) // 2].item())
    oracle = GaussianProcessRegressor(RBF(head.length), alpha=NOISE, optimizer=None)
    oracle.fit(points.numpy(), np.eye(3)[labels])
    mean, deviation = oracle.predict(x.numpy(), return_std=True)
    np.testing.assert_allclose(head.mean(x), mean, atol=1e-10)
    np.testing.assert_allclose(head.variance(x), deviation[:, 0] ** 2, atol=1e-10)


def test_variance_grows_from_the_data_to_one():
    points = normal(20, 3)
    head = KernelHead.fit(points, torch.arange(20) % 2)
    steps = torch.tensor([0.0, 1.0, 10.0, 1000.0], dtype=torch.float64)
    found = head.variance(points[:1] + steps[:, None])
    assert (found.diff() > 0).all()
    assert found[0] < NOISE
    assert found[-1] == 1


def test_points_that_are_all_the_same_are_named():
    with pytest.raises(ValueError, match="3 points: allowed are at least two distinct"):
        KernelHead.fit(torch.ones(3, 2), torch.zeros(3, dtype=torch.long))


def test_area_against_scikit_learn():
    positive, negative = normal(40).round(decimals=1), normal(30, seed=1).round(decimals=1) - 0.3
    both = torch.cat([positive, negative])
    expected = roc_auc_score([1] * 40 + [0] * 30, both)
    assert area_under_curve(positive, negative) == pytest.approx(expected, abs=1e-12)
    assert area_under_curve(negative, negative) == pytest.approx(0.5)


def test_far_inputs_are_what_they_are_called():
    near, others = normal(50, 1, 8, 8).float(), normal(7, 1, 8, 8, seed=1).float()
    found = {
        (kind, amount): x
        for kind, amount, x in distance_uncertainty.far_inputs(near, others, seed=0)
    }
    assert set(distance_uncertainty.SHOWN) <= set(found)
    assert torch.equal(found["other classes", 0.0], others)
    assert torch.equal(found["shifted", 2.0][..., 2:], near[..., :-2])
    noise = found["noise", 0.0]
    torch.testing.assert_close(noise.std(), near.std(), rtol=0.05, atol=0)
    length = near.flatten(1).norm(dim=1).median()
    basis = colipschitz.band_basis((8, 8), distance_uncertainty.BAND).float()
    for kind, share in (("low band", 1.0), ("high band", 0.0)):
        for amount in distance_uncertainty.MOVES:
            move = (found[kind, amount] - near).flatten(1)
            torch.testing.assert_close(move.norm(dim=1), (amount * length).expand(50))
            inside = (move @ basis).norm(dim=1) / move.norm(dim=1)
            torch.testing.assert_close(inside, torch.full((50,), share), atol=1e-5, rtol=0)


def test_every_class_is_left_out_by_one_of_five_seeds():
    found = [c for seed in range(5) for c in distance_uncertainty.classes_left_out(seed, 10)]
    assert sorted(found) == list(range(10))


def test_rows_of_a_small_run():
    frame = distance_uncertainty.run(
        datasets=["digits"], coefficients=[0.9], seeds=[0], width=2, steps=20
    )
    areas = frame[frame["quantity"] == "area"]
    assert areas["value"].between(0, 1).all()
    assert len(areas) == 3 * (3 + 1 + 1 + 2 * 4)
    on_pixels = areas[areas["score"] == "pixels"].set_index(["kind", "amount"])["value"]
    assert on_pixels["noise", 0.0] > 0.9  # of one length with the images, but far from each
    assert on_pixels["high band", 2.0] > on_pixels["high band", 0.25]
    accuracy = frame[frame["quantity"] == "accuracy"].set_index("score")["value"]
    assert accuracy["features"] > 0.6
    assert frame[frame["quantity"] == "correlation"]["value"].between(-1, 1).all()
