"""Training and measuring of the distance preservation experiments, on signals and on images."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn

from lipdescent.architectures import bilipschitz_resnet
from lipdescent.datasets import Dataset
from lipdescent.experiments import _colipschitz as colipschitz
from lipdescent.experiments._fitting import Fit, certified, classify
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.draws import initial_stack
from lipdescent.training.losses import cross_entropy


def feature_map(stack: ModelStack) -> ModelStack:
    """The network without its last layer, the linear one."""
    layers = cast(nn.Sequential, stack.module)
    last = f"{len(layers) - 1}."
    state = {name: t for name, t in stack.state.items() if not name.startswith(last)}
    return ModelStack(layers[:-1], state, stack.input_shape)


def fit(
    inputs: Tensor, labels: Tensor, *, width: int, seeds: Sequence[int], how: Fit, **options: Any
) -> ModelStack:
    """Networks of ``width`` channels, ``options`` of ``bilipschitz_resnet``; Adam, cosine."""
    build = partial(
        bilipschitz_resnet.build,
        width,
        input_shape=tuple(inputs.shape[1:]),
        num_classes=10,
        **options,
    )
    return certified(
        classify(
            initial_stack(build, list(seeds), inputs.shape[1:]),
            inputs,
            labels,
            [cross_entropy.loss] * len(seeds),
            seeds=seeds,
            num_classes=10,
            how=how,
        )
    )


def measure(
    features: ModelStack,
    points: Tensor,
    *,
    band: Sequence[int],
    num_searches: int,
    search_steps: int = 200,
) -> dict[str, Any]:
    """Quantities of a single model; energies are means over the counter-examples.

    ``band`` : frequencies of the low band, on every axis; as the DCT's are half as far apart,
    up to twice the largest there.
    """
    sizes, flat = tuple(n for n in points.shape[1:] if n > 1), points.flatten(1)
    jacobian = colipschitz.jacobians(features, points).flatten(2)
    values = colipschitz.band_singular_values(jacobian)
    found = {"features": jacobian.shape[1], "full_smallest": values[:, -1].min().item()}
    for transform in colipschitz.TRANSFORMS:
        wanted = band if transform == "dft" else range(2 * max(band) + 1)
        basis = colipschitz.band_basis(sizes, wanted, transform=transform)
        values = colipschitz.band_singular_values(jacobian, basis)
        found[f"{transform}_smallest"] = values[:, -1].min().item()
        ratio = values[:, 0] / values[:, -1]
        found[f"{transform}_ratio"] = ratio.median().item()
        found[f"{transform}_worst_ratio"] = ratio.max().item()
        ratios = colipschitz.distance_ratios(features, points, basis=basis)
        found[f"{transform}_pair_ratio"] = ratios.min().item()
    found["pair_ratio"] = colipschitz.distance_ratios(features, points).min().item()
    radius = flat.norm(dim=1).median().item() / 10
    searches = [
        colipschitz.counter_example(features, x, radius=radius, steps=search_steps)
        for x in points[:num_searches]
    ]
    best = min(searches, key=lambda search: search.ratio)
    found["counter_ratio"] = best.ratio
    found["counter_infinitesimal"] = min(s.infinitesimal for s in searches)
    energy = [
        colipschitz.energy_per_frequency(s.direction.view(sizes), transform="dft") for s in searches
    ]
    return (
        found
        | numbered("energy", torch.stack(energy).mean(0))
        | numbered("start", best.start)
        | numbered("direction", best.direction)
    )


def measure_stack(
    stack: ModelStack, dataset: Dataset, *, seeds: Sequence[int], num_points: int, **options: Any
) -> Iterable[dict[str, Any]]:
    """:func:`measure` and test accuracy of every model."""
    inputs = torch.from_numpy(dataset.test_inputs)
    predicted = stack(inputs.double()).argmax(-1)
    accuracy = (predicted == torch.from_numpy(dataset.test_labels)).double().mean(1)
    features = feature_map(stack)
    for i, seed in enumerate(seeds):
        row = {"seed": seed, "accuracy": accuracy[i].item()}
        yield row | measure(features[i : i + 1], inputs[:num_points], **options)


def numbered(name: str, values: Tensor) -> dict[str, float]:
    """A tensor as columns ``name_0``, ``name_1``, ..."""
    return {f"{name}_{i}": value for i, value in enumerate(values.flatten().tolist())}


def columns(frame: pd.DataFrame, name: str) -> list[str]:
    """Columns that :func:`numbered` made and that hold something."""
    found = [
        c
        for c in map(str, frame)
        if c.startswith(f"{name}_") and c.removeprefix(f"{name}_").isdigit()
    ]
    return [c for c in found if frame[c].notna().any()]


def network_name(width: Any, k: Any) -> str:
    """``2 channels, plain``."""
    return f"{width} ch., " + (f"$k={k:g}$" if k else "plain")
