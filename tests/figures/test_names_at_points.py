"""Names beside points cover neither each other nor curves, and stay inside of their panel."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from lipdescent.figures import _names_at_points as names
from lipdescent.figures import _style as style

FRONTS = {
    "ends close together": [([0.0, 1.0], [0.0, 0.0]), ([0.0, 1.0], [0.02, 0.02])],
    "an end in a corner": [([0.0, 0.0, 1.0], [1.0, 0.99, 0.0])],
    "crossing": [([0.0, 1.0], [0.0, 1.0]), ([0.0, 1.0], [1.0, 0.0]), ([0.5, 0.5], [0.0, 1.0])],
}


@pytest.mark.parametrize("front", FRONTS)
def test_names_cover_nothing(front):
    figure, ((axes, *_),) = style.new_figure(1, 3, height=2.5)
    for x, y in FRONTS[front]:
        axes.plot(x, y, marker="o")
        for end in (0, -1):
            names.name_point(axes, x[end], y[end], "tau = 256", colour="black", size=7)
    axes.margins(0.3)
    style.fit(figure)
    renderer = figure.canvas.get_renderer()
    boxes = [Text.get_window_extent(text, renderer) for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    panel = axes.get_window_extent(renderer)
    for text, box in zip(axes.texts, boxes, strict=True):
        assert panel.x0 <= box.x0
        assert box.x1 <= panel.x1
        assert panel.y0 <= box.y0
        assert box.y1 <= panel.y1
        for line in axes.lines:
            for (x0, y0), (x1, y1) in itertools.pairwise(line.get_xydata()):
                along = np.linspace((x0, y0), (x1, y1), 500)
                at = axes.transData.transform(along)
                assert not ((at > box.min + 2) & (at < box.max - 2)).all(axis=1).any(), text
