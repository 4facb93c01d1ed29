"""Effective model complexity: how many training points the training fits, over width.

After Nakkiran et al. (2020): the largest number of training points (the study's axis num_train) at
which the mean train error over seeds, by the labels trained on, is at most 10 %. The true number
lies between that and the study's next larger one, where a bar ends, if the error grows with the
number; a hollow mark says that the largest one in the study was fitted, a width without a mark that
not even the smallest was. Left: at the last epoch, a line for each label noise; black, dashed: the
number of parameters. Right: test loss over the number of training points with the most label noise,
a line for each width (of more than five both ends and three between); rings mark the effective
complexity. Lines are means over seeds, geometric ones of losses without negative values;
bands are Student's t intervals of these means (95 % unless configured otherwise), with fewer than
four seeds the range over them: the heading says which. Diverged models are left out and counted in
the heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import effective_complexity, labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.analysis.statistics import Array
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _side_by_side as side_by_side
from lipdescent.figures import _style as style

AXIS = "num_train"
MAX_WIDTHS = 5
PARAMETERS: dict[str, Any] = {"color": "black", "linestyle": "--"}


def draw(
    groups: Mapping[str, Group], *, statistics: Mapping[str, Any], losses: Mapping[str, str]
) -> Figure:
    """See the module: its docstring is the caption."""
    families = list(_families(groups).values())
    rows = [families[place] for place in side_by_side.spread(len(families))] if families else []
    height = 0.9 + 2.3 * max(len(rows), 1)
    figure, axes = style.new_figure(max(len(rows), 1), 2, height=height)
    first = next(iter(groups.values()))
    looks = style.level_looks(first.label_noise)
    widths = side_by_side.spread(len(first.width), most=MAX_WIDTHS)
    kinds = style.level_looks(first.width[widths].tolist())
    for left, right in axes[len(rows) :]:
        for place in (left, right):
            _axes.say_nothing_here(place, f"no further axis {AXIS}")
            place.set_xticks([])
    for (left, right), names in zip(axes, rows, strict=False):
        family = [groups[name] for name in names]
        sizes = np.array([float(group.point[AXIS]) for group in family])
        error = np.stack([1 - ladder.metric(g, "train_accuracy")[:, :, -1] for g in family])
        found = effective_complexity.of_mean(sizes, error)
        _complexities(left, family[0], sizes, found, looks)
        loss = np.stack([ladder.metric(group, "test_loss")[:, -1, -1] for group in family])
        _losses(right, sizes, loss[:, widths], found[widths, -1], kinds, statistics["confidence"])
        right.set_ylabel(labels.loss_name("test", losses[names[0]]))
        noise = labels.noise_name(first.label_noise[-1])
        right.set_title(", ".join([*_rest(family[0]), f"label noise {noise}"]))
        left.set_title(", ".join(_rest(family[0])))
    _legend(figure, looks, kinds)
    epoch = f"epoch {first.epoch[-1]}"
    side_by_side.heading(figure, groups, epoch, confidence=statistics["confidence"])
    return figure


def _families(groups: Mapping[str, Group]) -> dict[tuple, list[str]]:
    """Names of groups that differ in the number of training points alone, by that number."""
    found: dict[tuple, list[str]] = {}
    for name, group in groups.items():
        if AXIS in group.point:
            rest = tuple(item for item in group.point.items() if item[0] != AXIS)
            found.setdefault((group.architecture, *rest), []).append(name)
    for names in found.values():
        names.sort(key=lambda name: groups[name].point[AXIS])
    return found


def _rest(group: Group) -> list[str]:
    return [labels.place_name(n, value) for n, value in group.point.items() if n != AXIS]


def _complexities(
    place: Axes, group: Group, sizes: Array, found: Array, looks: Mapping[float, Mapping]
) -> None:
    """Effective complexity (W, N) over width, with bars to the next size."""
    above = np.append(sizes[1:], np.nan)
    following = np.where(np.isnan(found), np.nan, above[np.searchsorted(sizes, found) % len(above)])
    shifts = 1.04 ** drawing.shifts(found.shape[1], step=1.0)
    for column, (look, shift) in enumerate(zip(looks.values(), shifts, strict=True)):
        x, low, high = group.width * shift, found[:, column], following[:, column]
        whole, bounded = np.isfinite(low) & np.isnan(high), np.isfinite(high)
        place.plot(x, low, color=look["color"], lw=0.8)
        place.plot(x[bounded], low[bounded], linestyle="", **look)
        place.plot(x[whole], low[whole], linestyle="", markerfacecolor="white", **look)
        place.vlines(x[bounded], low[bounded], high[bounded], color=look["color"], lw=1)
    place.plot(group.width, group.num_parameters, **PARAMETERS)
    _axes.width_axis(place, group.width)
    _axes.log_values(place)
    place.set_xlabel(labels.width_name(group.width_unit))
    place.set_ylabel("effective complexity\n(training points)")
    if not np.isfinite(found).any():
        why = "no width fits\nthe smallest number"
        _axes.say_nothing_here(place, why, diverged=group.diverged, ticks=True)


def _losses(
    place: Axes,
    sizes: Array,
    loss: Array,
    found: Array,
    looks: Mapping[float, Mapping],
    confidence: float,
) -> None:
    """Test loss (P, W, S) over the number of points, a line for each width."""
    for column, (marked, look) in enumerate(zip(found, looks.values(), strict=True)):
        if np.isfinite(loss[:, column]).any():
            y = stats.centre_estimate(loss[:, column], confidence=confidence)
            drawing.curve(place, sizes, y, **look)
            drawing.ring(place, sizes, y.value, marked, look["color"], gid="complexity")
    _axes.number_axis(place, sizes)
    place.set_xlabel("training points")
    if not place.lines:
        _axes.say_nothing_here(place, "all models diverged")
    elif stats.has_logarithm(loss):
        _axes.log_values(place)


def _legend(figure: Figure, looks: Mapping[float, Mapping], kinds: Mapping[float, Mapping]) -> None:
    noises = {f"label noise {labels.noise_name(n)}": look for n, look in looks.items()}
    widths = {f"width {width:g}": look for width, look in kinds.items()}
    marks = {
        "number of parameters": PARAMETERS,
        "effective complexity": drawing.RING | {"gid": "complexity"},
    }
    style.legend(figure, {**noises, **widths, **marks}, columns=5)
