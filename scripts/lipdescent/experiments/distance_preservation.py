"""Do circular residual networks keep distances? (Smith et al. 2021, arXiv 2106.02469.)

MNIST1D, three stages of two blocks, two average pools: smallest singular value of the feature
map's Jacobian on all inputs and on the low-frequency band, the band's ratio of largest to
smallest, and the energy per frequency of the counter-examples found: pairs of inputs that the
network cannot tell apart. k is the largest constant of a branch; plain networks have none. Of the
paper only abstract and code were at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lipdescent import colipschitz, losses, names
from lipdescent.architectures import bilipschitz_resnet
from lipdescent.experiments._drawing import key_of, look, panels
from lipdescent.experiments._fitting import certified, classify
from lipdescent.stacking import ModelStack
from lipdescent.training import initial_stack


def feature_map(stack: ModelStack) -> ModelStack:
    """The network without its last layer, the linear one."""
    last = f"{len(stack.module) - 1}."
    state = {name: t for name, t in stack.state.items() if not name.startswith(last)}
    return ModelStack(stack.module[:-1], state, stack.input_shape)


def fit(
    inputs: Tensor,
    labels: Tensor,
    *,
    width: int,
    k: float | None,
    seeds: Sequence[int],
    steps: int,
    stages: int = 3,
    blocks: int = 2,
) -> ModelStack:
    """Networks of ``width`` channels, a branch's constant at most ``k``; Adam 5e-3, cosine."""
    build = partial(
        bilipschitz_resnet.build,
        width,
        input_shape=tuple(inputs.shape[1:]),
        num_classes=10,
        stages=stages,
        blocks=blocks,
        coefficient=None if k is None else k**0.5,
    )
    return certified(
        classify(
            initial_stack(build, list(seeds), inputs.shape[1:]),
            inputs,
            labels,
            [losses.cross_entropy] * len(seeds),
            seeds=seeds,
            num_classes=10,
            steps=steps,
            batch_size=100,
        )
    )


def measure(
    features: ModelStack, points: Tensor, *, band: Sequence[int], num_searches: int
) -> dict[str, Any]:
    """Quantities of a single model; energies are means over the counter-examples."""
    jacobian = colipschitz.jacobians(features, points)
    found = {"full_smallest": colipschitz.band_singular_values(jacobian)[:, -1].min().item()}
    for transform in colipschitz.TRANSFORMS:
        # DCT frequencies are half as far apart.
        wanted = band if transform == "dft" else range(2 * max(band) + 1)
        basis = colipschitz.band_basis(points.shape[1], wanted, transform=transform)
        values = colipschitz.band_singular_values(jacobian, basis)
        found[f"{transform}_smallest"] = values[:, -1].min().item()
        found[f"{transform}_ratio"] = (values[:, 0] / values[:, -1]).median().item()
        if transform == "dft":
            ratios = colipschitz.distance_ratios(features, points, basis=basis)
            found["low_pair_ratio"] = ratios.min().item()
    found["pair_ratio"] = colipschitz.distance_ratios(features, points).min().item()
    radius = points.norm(dim=1).median().item() / 10
    searches = [
        colipschitz.counter_example(features, x, radius=radius) for x in points[:num_searches]
    ]
    found["counter_ratio"] = min(s.ratio for s in searches)
    found["counter_infinitesimal"] = min(s.infinitesimal for s in searches)
    energy = torch.stack([colipschitz.energy_per_frequency(s.direction) for s in searches])
    return found | {f"energy_{i}": e for i, e in enumerate(energy.mean(0).tolist())}


def run(
    *,
    widths: Sequence[int] = (2, 8),
    constants: Sequence[float | None] = (None, 0.9, 0.5),
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 600,
    num_points: int = 100,
    num_searches: int = 5,
    band: Sequence[int] = (0, 1, 2, 3),
) -> pd.DataFrame:
    """One row per width (channels; features are 10 times as many), k and seed; k is 0 for none."""
    data = names.resolve("datasets", "mnist1d").load(num_train=1000)
    inputs, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels)
    points = torch.from_numpy(data.test_inputs[:num_points])
    test_labels = torch.from_numpy(data.test_labels)
    rows = []
    for width in widths:
        for k in constants:
            stack = fit(inputs, labels, width=width, k=k, seeds=seeds, steps=steps)
            predicted = stack(torch.from_numpy(data.test_inputs).double()).argmax(-1)
            accuracy = (predicted == test_labels).double().mean(1)
            features = feature_map(stack)
            for i, seed in enumerate(seeds):
                row = {"width": width, "k": k or 0.0, "seed": seed, "accuracy": accuracy[i].item()}
                one = features[i : i + 1]
                row |= measure(one, points, band=band, num_searches=num_searches)
                print({name: value for name, value in row.items() if "energy" not in name})
                rows.append(row)
    return pd.DataFrame(rows)


def draw(frame: pd.DataFrame) -> Figure:
    """Smallest singular values, band ratios, energy of the counter-examples."""
    figure, (left, middle, right) = panels(3)
    groups = list(frame.groupby(["width", "k"], sort=False))
    energies = [name for name in frame if name.startswith("energy_")]
    labels = []
    for i, ((width, k), part) in enumerate(groups):
        labels.append(f"{width} ch., " + (f"k={k:g}" if k else "plain"))
        for axis, column in ((left, "dft_smallest"), (middle, "dft_ratio")):
            axis.plot([i] * len(part), part[column], linestyle="", **look(i))
        left.plot([i] * len(part), part["full_smallest"], linestyle="", marker="_", color="black")
        right.plot(range(len(energies)), part[energies].mean(), label=labels[-1], **look(i))
    left.set_title("smallest singular value\nlow band (all inputs: black)")
    middle.set_title("low band\nlargest / smallest")
    middle.set_yscale("log")
    right.set_title("energy of counter-examples")
    right.set_xlabel("DFT frequency")
    for axis in (left, middle):
        axis.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
    key_of(figure, right, columns=3)
    return figure
