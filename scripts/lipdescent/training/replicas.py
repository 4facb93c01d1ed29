"""The replicas of a training job: every label noise with every seed of the block."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lipdescent.datasets import Dataset, check_labels
from lipdescent.plugins import lookup
from lipdescent.storage.checkpoints import Checkpoints


def replicas(label_noise: Sequence[float], seeds: Sequence[int]) -> tuple[list[float], list[int]]:
    """Label noise and seed of each replica, seeds innermost."""
    pairs = [(float(noise), seed) for noise in label_noise for seed in seeds]
    return [noise for noise, _ in pairs], [seed for _, seed in pairs]


def noisy_labels(
    dataset: Dataset,
    *,
    maker: str,
    label_noise: Sequence[float],
    seeds: Sequence[int],
    noise_seed: int | None = None,
) -> Tensor:
    """Training labels int64 (num_replicas, num_train) of replicas given by noise and seed.

    The noise is drawn from the replica's seed, or from ``noise_seed``: then it is the same for
    all seeds.

    Raises
    ------
    TypeError, ValueError
        For what a noise maker made that are no labels of the data set, naming the maker.
    """
    make = lookup.resolve("label_noise", maker).noisy
    drawn = seeds if noise_seed is None else [noise_seed] * len(seeds)
    labels = [
        make(dataset.train_labels, num_classes=dataset.num_classes, fraction=noise, seed=seed)
        for noise, seed in zip(label_noise, drawn, strict=True)
    ]
    for made in labels:
        if made.shape != dataset.train_labels.shape:
            raise ValueError(
                f"noise_maker {maker}: labels of shape {made.shape}, not "
                f"{dataset.train_labels.shape}"
            )
        check_labels(made, dataset.num_classes, f"noise_maker {maker}")
    return torch.from_numpy(np.stack(labels).astype(np.int64))


def checkpoint_labels(saved: Checkpoints, dataset: Dataset) -> Tensor:
    """Labels that each checkpoint was trained on: int64 (num_models, num_train)."""
    labels = noisy_labels(
        dataset,
        maker=saved.origin.noise_maker,
        label_noise=saved.label_noise.tolist(),
        seeds=saved.seed.tolist(),
        noise_seed=saved.origin.noise_seed,
    )
    return labels.repeat(len(saved.epoch), 1)
