"""Train loss, test loss and the gap between them over a further axis, the size of the data first.

At the last epoch, for the largest width and the least label noise; x is the axis num_train where
the study has it, or else its first further axis of numbers; a line for each architecture and value
of the other axes. Left: test loss (solid) and train loss on the labels trained on (dashed), each
architecture's own training loss: with a temperature tau, the cross-entropy of tau times the logits.
Right: test loss less train loss. Lines are means over seeds; bands of the right panel are Student's
t intervals of these means (95 % unless configured otherwise), with fewer than four seeds the range
over them: the heading says which. Diverged models are left out and counted in the heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.comparisons._lines import first_axis, lines
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _side_by_side as side_by_side
from lipdescent.figures import _style as style

SIZE = "num_train"


def draw(
    groups: Mapping[str, Group], *, statistics: Mapping[str, Any], losses: Mapping[str, str]
) -> Figure:
    """See the module: its docstring is the caption."""
    first = next(iter(groups.values()))
    axis = SIZE if SIZE in first.point else first_axis(first)
    drawn = lines(groups, axis=axis)
    looks = side_by_side.styles(drawn)
    figure, axes = style.new_figure(1, 2, height=3.0)
    left, right = axes[0]
    shown = []
    for name, line in drawn.items():
        at = [group.point.get(axis) if axis else 0 for group in line]
        if None in at:  # an axis that is not the architecture's
            continue
        shown += _draw_line(left, right, np.array(at, float), line, looks[name], statistics)
    left.set_ylabel("\n".join(side_by_side.losses_apart(losses)).replace("test ", ""))
    right.set_ylabel("test loss - train loss")
    values = np.unique([float(g.point.get(axis, 0)) if axis else 0.0 for g in groups.values()])
    for place in (left, right):
        _axes.number_axis(place, values)
        place.set_xlabel(labels.axis_name(axis) if axis else "no further axis")
    for place, of in ((left, shown[::2]), (right, shown[1::2])):
        if of and stats.has_logarithm(np.concatenate(of)):
            _axes.log_values(place)
    keys = {"test": {"color": "black"}, "train": {"color": "black", "linestyle": "--"}}
    side_by_side.legend(figure, looks, keys)
    noise = labels.noise_name(first.label_noise[0])
    told = f"width {first.width[-1]}", f"label noise {noise}", f"epoch {first.epoch[-1]}"
    side_by_side.heading(figure, groups, *told, confidence=statistics["confidence"])
    return figure


def _draw_line(
    left: Axes,
    right: Axes,
    at: np.ndarray,
    line: list[Group],
    look: dict[str, Any],
    statistics: Mapping[str, Any],
) -> list[np.ndarray]:
    """Losses and their difference over ``at``: the values of both panels, as they are drawn."""
    test, train = (
        np.stack([ladder.metric(group, f"{split}_loss")[-1, 0, -1] for group in line])
        for split in ("test", "train")
    )
    left.plot(at, stats.mean(test), **look)
    left.plot(at, stats.mean(train), **look | {"linestyle": "--", "markerfacecolor": "white"})
    gap = stats.mean_estimate(test - train, confidence=statistics["confidence"])
    drawing.curve(right, at, gap, **look)
    return [np.concatenate([test, train]), np.stack([gap.value, gap.low])]
