"""Several architectures of one data set side by side, for figures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import labels
from lipdescent.analysis.groups import Group, load_group
from lipdescent.analysis.statistics import Array
from lipdescent.figures import _style as style

MAX_PANELS = 3
BROWN = "#8C510A"  # of the eighth of many names


def load(path: str | Path, *, dataset: str, architectures: Sequence[str]) -> dict[str, Group]:
    """Architecture -> its group, in the order of the configuration."""
    return {name: load_group(path, dataset=dataset, architecture=name) for name in architectures}


def styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of every architecture, the same in every figure of a study."""
    colours = (*style.OKABE_ITO, BROWN)
    return {name: style.look(place, colours) for place, name in enumerate(names)}


def spread(count: int, *, most: int = MAX_PANELS) -> list[int]:
    """Places of at most ``most`` panels for ``count`` values: both ends, and what is between."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(most, count))})


def width_name(groups: Mapping[str, Group]) -> str:
    """Of an axis over the widths of several architectures."""
    return labels.width_name(*(group.width_unit for group in groups.values()))


def over_radius(group: Group, kind: str, norm: str) -> dict[float, Array]:
    """Radius -> accuracies (W, N, E, S) of one kind ("pgd_accuracy") and norm, radii increasing."""
    found = {
        float(key.quantity.removeprefix(f"{kind}@")): values
        for key, values in group.series.items()
        if key.quantity.startswith(f"{kind}@") and key.norm == norm
    }
    return dict(sorted(found.items()))


def losses_apart(losses: Mapping[str, str]) -> dict[str, list[str]]:
    """``test cross entropy (nats)`` -> architectures trained with it; losses have no common unit.

    The parameters of a loss, such as a temperature, tell no kinds apart.
    """
    found: dict[str, list[str]] = {}
    for name, loss in losses.items():
        found.setdefault(labels.loss_name("test", loss), []).append(name)
    return found


def legend(
    figure: Figure, looks: Mapping[str, dict[str, str]], extra: Mapping[str, dict[str, Any]]
) -> None:
    """Architectures, then ``extra`` lines."""
    names = [name.replace("_", " ") for name in _told_apart(list(looks))]
    style.legend(figure, {**dict(zip(names, looks.values(), strict=True)), **extra}, columns=6)


def _told_apart(variants: Sequence[str]) -> list[str]:
    """Names of architectures at points, less what all of them share (but never all of it)."""
    parts = [variant.split("+") for variant in variants]
    shared = set(parts[0]).intersection(*parts) if len(parts) > 1 else set()
    return [", ".join([p for p in own if p not in shared] or own) for own in parts]


def heading(
    figure: Figure,
    groups: Mapping[str, Group],
    *parts: str,
    confidence: float,
    drawn: str = "bands",
) -> None:
    """One line above the axes, as of a single group (:func:`_style.heading`)."""
    models = sum(group.num_models for group in groups.values())
    counts = models, sum(group.num_diverged for group in groups.values())
    first = next(iter(groups.values()))
    style.heading_of(figure, first, *parts, counts=counts, confidence=confidence, drawn=drawn)
