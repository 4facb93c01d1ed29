"""Three Gaussians in the plane: the toy data of Khromov & Singh (2024, arXiv 2302.10886, sec. 3).

Unit Gaussians around three points at the same distance from the origin, 120 degrees apart; 15
training and 5 test points of each class, drawn by torch's generator as in the authors' notebook,
whose seed is 0.
"""

import math

from lipdescent.datasets import Dataset, take

INPUT_SHAPE = (2,)
NUM_TRAIN = 45
NUM_TEST = 15
NUM_CLASSES = 3


def load(
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
    radius: float = 1.5,
    draw_seed: int = 0,
) -> Dataset:
    """``num_train`` of the 45 and ``num_test`` of the 15 points, subsets drawn by ``seed``.

    The centres are at the distance ``radius`` from the origin; ``draw_seed`` draws the points.
    """
    import torch

    across, up = radius * math.cos(math.pi / 6), radius * math.sin(math.pi / 6)
    centres = torch.tensor([[0.0, -radius], [across, up], [-across, up]])
    generator = torch.Generator().manual_seed(draw_seed)
    # In this order: the training points of each class, then the test points of each.
    found = {}
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        each = count // NUM_CLASSES
        drawn = torch.cat([c + torch.randn(each, 2, generator=generator) for c in centres])
        labels = torch.arange(NUM_CLASSES).repeat_interleave(each).numpy()
        wanted = num_train if split == "train" else num_test
        what = f"num_{split}"
        found[split] = take(drawn.numpy(), labels, wanted, seed=seed, what=what)
    return Dataset(*found["train"], *found["test"], NUM_CLASSES)
