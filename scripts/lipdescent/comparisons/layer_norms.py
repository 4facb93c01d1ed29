"""Test loss and the norms of every layer over epochs, a column for each architecture.

For the largest width and the least label noise, at most three architectures: both ends and one
between. Frobenius norm: root of the sum of the squared weights; spectral norm: the largest singular
value; of a layer's weight as a matrix (outputs, all else), layers from the input on. Lines are
means over seeds; bands are Student's t intervals of these means (95 % unless configured otherwise),
with fewer than four seeds the range over them: the heading says which. Vertical line: the epoch of
the least mean test loss, where it turns. Diverged models are left out and counted in the heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Array
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _side_by_side as side_by_side
from lipdescent.figures import _style as style

NORMS = {"layer_frobenius_norm": "Frobenius norm", "layer_spectral_norm": "spectral norm"}


def draw(
    groups: Mapping[str, Group], *, statistics: Mapping[str, Any], losses: Mapping[str, str]
) -> Figure:
    """See the module: its docstring is the caption."""
    names = [list(groups)[place] for place in side_by_side.spread(len(groups))]
    first, confidence = groups[names[0]], statistics["confidence"]
    figure, axes = style.new_figure(3, len(names), height=5.6, sharex="col", sharey="row")
    layers: dict[str, None] = {}
    for column, name in zip(axes.T, names, strict=True):
        group = groups[name]
        column[0].set_title(labels.variant_name(name).replace("_", " "))
        loss = ladder.metric(group, "test_loss")[-1, 0]
        _curve(column[0], group, loss, confidence, color="black")
        for place, kind in zip(column[1:], NORMS, strict=True):
            found = _layers(group, kind)
            layers |= dict.fromkeys(found)
            for number, values in enumerate(found.values()):
                _curve(place, group, values, confidence, **style.look(number))
            if not found:
                _axes.say_nothing_here(place, "not measured:\nquantities has no layer_norms")
        mean = stats.centre(loss)
        for place in column:
            _axes.epoch_axis(place, group.epoch)
            if np.isfinite(mean).any():
                place.axvline(group.epoch[np.nanargmin(mean)], **drawing.BEST)
        column[-1].set_xlabel("epoch")
    told = list(dict.fromkeys(labels.loss_name("test", losses[name]) for name in names))
    for place, text in zip(axes[:, 0], (" / ".join(told), *NORMS.values()), strict=True):
        place.set_ylabel(text)
    for row in axes:
        _axes.log_values(*row)
    keys = {name: style.look(number) for number, name in enumerate(layers)}
    style.legend(figure, keys | {"least test loss": drawing.BEST}, columns=6)
    at = f"width {first.width[-1]}", f"label noise {labels.noise_name(first.label_noise[0])}"
    side_by_side.heading(figure, groups, *at, confidence=confidence)
    return figure


def _layers(group: Group, kind: str) -> dict[str, Array]:
    """Name of a layer -> its norm (E, S)."""
    found = {
        key.quantity.removeprefix(f"{kind}@").removesuffix(".weight"): values[-1, 0]
        for key, values in group.series.items()
        if key.quantity.startswith(f"{kind}@")
    }
    numbered = sorted(
        found, key=lambda name: [(not p.isdigit(), p.zfill(6)) for p in name.split(".")]
    )
    return {f"layer {name}": found[name] for name in numbered}


def _curve(place: Axes, group: Group, values: Array, confidence: float, **look: Any) -> None:
    drawing.curve(place, group.epoch, stats.mean_estimate(values, confidence=confidence), **look)
