"""All architectures over the training epoch, at the largest width and the least label noise.

Train accuracy, test error (the share of test points that are classified wrongly), test loss (each
architecture's own training loss: with a temperature tau, the cross-entropy of tau times the
logits; losses of different kinds have panels of their own) and the certified bracket on the
Lipschitz constant in l2 (dashed: best lower, solid: best upper bound; the true constants, in
geometric mean over seeds, lie between). Lines are means over seeds, geometric ones but of
accuracies, errors and of losses that can be negative; bands, of all but the bracket, are Student's
t intervals of these means (95 % unless configured otherwise), with fewer than four seeds the range
over them: the heading says which. A ring marks the first epoch whose mean train accuracy reaches
the dashed line (99.5 % unless configured otherwise). Diverged models are left out and counted in
the heading.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lipdescent.analysis import labels, ladder
from lipdescent.analysis import statistics as stats
from lipdescent.analysis.groups import Group
from lipdescent.figures import _axes
from lipdescent.figures import _drawing as drawing
from lipdescent.figures import _side_by_side as side_by_side
from lipdescent.figures import _style as style


def draw(
    groups: Mapping[str, Group], *, statistics: Mapping[str, Any], losses: Mapping[str, str]
) -> Figure:
    """See the module: its docstring is the caption."""
    looks = side_by_side.styles(groups)
    apart = side_by_side.losses_apart(losses)
    count = 3 + len(apart)
    columns = 2 if count == 4 else 3
    figure, grid = style.new_figure(-(-count // columns), columns, height=4.4)
    for unused in grid.flat[count:]:
        unused.remove()
    fit, wrong, *tests, bracket = grid.flat[:count]
    test_of = {
        name: place for place, names in zip(tests, apart.values(), strict=True) for name in names
    }
    for name, group in groups.items():
        look, epochs = looks[name], group.epoch
        found = {
            quantity: estimated(values[-1, 0], confidence=statistics["confidence"])
            for quantity, values, estimated in (
                ("accuracy", ladder.metric(group, "train_accuracy"), stats.share_estimate),
                ("error", ladder.test_error(group), stats.share_estimate),
                ("loss", ladder.metric(group, "test_loss"), stats.centre_estimate),
            )
        }
        fitted = stats.first_reaching(
            found["accuracy"].value, epochs, level=statistics["interpolation_accuracy"]
        )
        for place, y in zip((fit, wrong, test_of[name]), found.values(), strict=True):
            drawing.curve(place, epochs, y, **look)
            drawing.ring(place, epochs, y.value, fitted, look["color"], gid="fitted")
        lower, upper = (stats.geometric_mean(side[-1, 0]) for side in ladder.bracket(group, "l2"))
        if np.isfinite(lower).any():
            drawing.bracket(bracket, epochs, lower, upper, look=look)
            drawing.ring(bracket, epochs, upper, fitted, look["color"], gid="fitted")
    drawing.level_line(fit, statistics["interpolation_accuracy"])
    fit.set_ylabel("train accuracy")
    wrong.set_ylabel(labels.ERROR)
    for test, title in zip(tests, apart, strict=True):
        test.set_ylabel(title)
        _axes.log_values(test)
    bracket.set_ylabel(labels.constant_name("certified bracket", "l2"))
    for place in (fit, wrong, *tests, bracket):
        _axes.epoch_axis(place, group.epoch)
        place.set_xlabel("epoch")
    if bracket.lines:
        _axes.log_values(bracket)
    else:
        _axes.say_nothing_here(bracket, _axes.NO_BRACKET)
    fits = {"fitted": drawing.RING | {"gid": "fitted"}}
    side_by_side.legend(figure, looks, fits | drawing.MARKS)
    noise = labels.noise_name(group.label_noise[0])
    told = f"width {group.width[-1]}", f"label noise {noise}"
    side_by_side.heading(figure, groups, *told, confidence=statistics["confidence"])
    return figure
