"""Labels of replicas: each seed's own noise, or one noise for all."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lipdescent.datasets import Dataset
from lipdescent.plugins import lookup
from lipdescent.storage.checkpoints import Checkpoints, Origin, empty_epochs
from lipdescent.training.replicas import checkpoint_labels, noisy_labels, replicas

LABELS = np.random.default_rng(0).integers(10, size=400)
DATASET = Dataset(np.zeros((400, 1)), LABELS, np.zeros((1, 1)), LABELS[:1], 10)
NOISE, SEEDS = replicas([0.2, 0.5], [0, 1, 2])


def labels(maker, **options):
    return noisy_labels(DATASET, maker=maker, label_noise=NOISE, seeds=SEEDS, **options)


@pytest.mark.parametrize("maker", lookup.known("label_noise"))
def test_a_seed_of_its_own_gives_all_seeds_the_same_noise(maker):
    rows = labels(maker, noise_seed=7)
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[3], rows[5])
    assert not torch.equal(rows[0], rows[3])
    make = lookup.resolve("label_noise", maker).noisy
    expected = make(LABELS, num_classes=10, fraction=0.2, seed=7)
    np.testing.assert_array_equal(rows[2].numpy(), expected)
    other = labels(maker, noise_seed=8)
    assert torch.equal(rows, other) == (maker == "pair_swap")  # one permutation for ever


@pytest.mark.parametrize("maker", sorted({*lookup.known("label_noise")} - {"pair_swap"}))
def test_by_default_it_is_each_seeds_own(maker):
    rows = labels(maker)
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(rows[1], labels(maker, noise_seed=1)[1])


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda y: y / 2, "TypeError: noise_maker mine: float64; allowed are integers"),
        (lambda y: y + 1, r"ValueError: noise_maker mine: 10, and .*allowed are 0 to 9"),
        (lambda y: y[:7], r"ValueError: noise_maker mine: labels of shape \(7,\), not \(400,\)"),
    ],
)
def test_noise_that_is_no_label_is_refused_by_its_maker_s_name(made, error, monkeypatch):
    maker = SimpleNamespace(noisy=lambda labels, **_: made(labels))
    monkeypatch.setattr(lookup, "resolve", lambda *_: maker)
    with pytest.raises((TypeError, ValueError)) as caught:
        labels("mine")
    assert re.match(error, f"{caught.typename}: {caught.value}")


@pytest.mark.parametrize("noise_seed", [None, 4])
def test_checkpoints_know_what_they_were_trained_on(noise_seed):
    """Those of before there was such a seed too: they do not name it."""
    seed = {} if noise_seed is None else {"noise_seed": noise_seed}
    saved = Checkpoints(
        state={}, epoch=torch.tensor([0, 1]), label_noise=torch.tensor(NOISE),
        seed=torch.tensor(SEEDS), stopped_epoch=empty_epochs(6), diverged_epoch=empty_epochs(6),
        about=Origin({}, "mlp", {}, {}, "bernoulli_wrong", **seed),
    )  # fmt: skip
    found = checkpoint_labels(saved, DATASET)
    expected = labels("bernoulli_wrong", noise_seed=noise_seed)
    assert torch.equal(found, torch.cat([expected, expected]))
