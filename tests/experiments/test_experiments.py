"""Experiments, small: closed forms, orders that have to hold, tables and figures that fit."""

import math

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from lipdescent.architectures import mlp
from lipdescent.experiments import (
    distance_preservation,
    distance_preservation_images,
    geolip,
    isometry,
    temperature,
    two_points,
    wasserstein,
)
from lipdescent.experiments._fitting import certified
from lipdescent.stacks.model_stack import ModelStack


def test_absolute_value_tells_sorting_from_relu():
    found = {}
    for activation in ("ReLU", "MaxMin"):
        stack = wasserstein.fit(
            "absolute_value", activation, seeds=[0], width=16, steps=150, batch_size=32
        )
        found[activation] = wasserstein.estimate(certified(stack), "absolute_value").item()
    assert 0.99 <= found["MaxMin"] <= 1.001
    assert found["ReLU"] <= 0.70


@pytest.mark.parametrize("task", wasserstein.TASKS)
def test_samples_are_at_distance_one(task):
    inner, outer = wasserstein.sample(task, 9, torch.Generator().manual_seed(0))
    assert inner.shape == outer.shape == (9, wasserstein.TASKS[task]["dimension"])
    torch.testing.assert_close((outer - inner).norm(dim=1), torch.ones(9))


def test_two_points_reach_the_best_loss_and_no_better():
    for tau, _, found in two_points.fit(taus=[1.0, 4.0], seeds=[0, 1, 2]):
        best = math.log1p(math.exp(-tau))
        assert best <= found <= best + 1e-4


def test_gradient_flow_against_its_closed_form():
    times = [1, 10, 100]
    for time, slope in zip(times, two_points.gradient_flow(times), strict=True):
        assert slope == pytest.approx(two_points.exact_slope(time), abs=1e-5)
        assert math.exp(slope) + slope == pytest.approx(time + 1, rel=1e-3)
    assert two_points.exact_slope(1000) == pytest.approx(6.902, abs=1e-3)


def test_isometry_of_sorting_networks():
    frame = isometry.run(seeds=[0], depths=[3], width=16, num_points=5)
    for activation in ("MaxMin", "FullSort"):
        row = frame[frame["activation"] == activation].iloc[0]
        assert 1 - 1e-4 <= row["smallest"] <= row["largest"] <= 1 + 1e-4
    assert frame[frame["activation"] == "ReLU"].iloc[0]["median"] < 0.9
    assert isinstance(isometry.draw(frame), Figure)


def test_mixture_has_its_mean_and_labels():
    x, y = temperature.mixture(20000, torch.Generator().manual_seed(0))
    positive = x[y > 0]
    assert positive.mean().item() == pytest.approx(0.9 * 2 - 0.1, abs=0.02)
    assert ((positive + 1).abs() < 0.5).double().mean().item() == pytest.approx(0.1, abs=0.01)
    torch.testing.assert_close(y.sum(), torch.tensor(0.0))


def test_networks_are_named():
    assert geolip.parse("64 plain") == (64, 1, "plain")
    assert geolip.parse("3x64 PGD") == (64, 3, "PGD")
    for wrong in ("64", "x64 pgd", "wide plain", "64 pgd"):
        with pytest.raises(ValueError, match="allowed are names as"):
            geolip.parse(wrong)


def test_bounds_out_of_order_stop_the_run():
    rows = [("lower_jacobian", 2.0), ("upper_geolip", 3.0), ("upper_layer_product", 4.0)]
    frame = pd.DataFrame(
        [
            (8, 1, "plain", "linf", logit, name, value)
            for logit in ("all", "0")
            for name, value in rows
        ],
        columns=["width", "depth", "training", "norm", "logit", "quantity", "value"],
    )
    geolip.check_order(frame)
    for row in (1, 4):  # of the whole map, and of a logit
        wrong = frame.copy()
        wrong.loc[row, "value"] = 5.0
        with pytest.raises(ValueError, match="out of order"):
            geolip.check_order(wrong)
    wrong = frame.copy()
    wrong.loc[4, "value"] = 3.5  # in order, but above the whole map's
    with pytest.raises(ValueError, match="a logit's bound is above"):
        geolip.check_order(wrong)


def test_logits_are_outputs_of_the_network():
    with torch.random.fork_rng(devices=[]):
        module = mlp.build(6, input_shape=(784,), num_classes=10, depth=2, bias=True)
        stack = ModelStack.from_modules([module], (784,))
    points = torch.randn(3, 784, generator=torch.Generator().manual_seed(0))
    found = geolip.per_logit(stack, width=6, depth=2)(points)[..., 0]
    assert torch.allclose(found, stack(points)[0].mT, atol=1e-6)


def test_attack_of_training_stays_in_its_ball():
    weight = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
    x, labels = torch.zeros(1, 4, 5), torch.tensor([[0, 1, 2, 0]])
    moved = geolip.pgd_batches(lambda z: z @ weight.mT, x, labels)
    assert (moved - x).abs().max() <= geolip.ATTACK_RADIUS

    def loss(z):
        return torch.nn.functional.cross_entropy((z @ weight.mT)[0], labels[0])

    assert loss(moved) > loss(x)


def test_narrow_networks_have_counter_examples():
    frame = distance_preservation.run(
        widths=[2], constants=[0.5], bounded=[0.1], seeds=[0], steps=3, num_points=6, num_searches=1
    )
    row = frame[frame["task"] == "trained"].iloc[0]
    assert row["full_smallest"] == 0
    assert row["counter_infinitesimal"] <= 1e-5
    assert row["dft_smallest"] > 0
    assert frame["linear_error"].max() <= 1e-5
    bounded = frame[frame["task"] == "one_resolution"].iloc[0]
    assert bounded["projected_smallest"] >= bounded["bound"] == pytest.approx(2 - 1.1**2)
    assert isinstance(distance_preservation.draw(frame), Figure)


def test_counter_examples_among_images():
    frame = distance_preservation_images.run(
        datasets=["digits"], widths=[2], coefficients=[0.5], seeds=[0], steps=2, num_points=3,
        num_searches=1, search_steps=2,
    )  # fmt: skip
    narrowing = frame[frame["downsampling"] != "none"]
    assert (narrowing["features"] == 32).all()
    assert (narrowing["full_smallest"] == 0).all()
    assert (narrowing["counter_infinitesimal"] <= 1e-5).all()
    assert (frame["dft_smallest"] > 0).all()
    assert (frame["dct_smallest"] > 0).all()
    assert (frame["k"] <= 0.5**4).all()
    one = frame[frame["downsampling"] == "none"].iloc[0]
    assert 0 < one["textbook_allowed"] <= one["textbook_certified"] <= one["full_smallest"]
    assert 0 < one["low_band_allowed"] <= one["low_band_certified"] <= one["dft_smallest"]
    assert isinstance(distance_preservation_images.draw(frame), Figure)
