"""Do circular residual networks on images keep distances? (Smith et al. 2021, arXiv 2106.02469.)

Handwritten digits, 8 x 8 pixels, two stages of two blocks; k is the largest constant of a branch,
plain networks have none. Smallest singular value of the feature map's Jacobian over test points,
on the frequencies 0 and 1 of each axis (coloured) and on all inputs (black dashes; 0 for every
network with fewer features than pixels); the ratio of largest to smallest on that band, median over
points; share of the energy of the directions found, in which the network is blind, per pair of DFT
frequencies, plain and regularised at the smallest width. A marker is one seed. Of the paper only
abstract and code were at hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure

from lipdescent.experiments._distance import columns, fit, measure_stack, network_name
from lipdescent.experiments._drawing import key_of, panels
from lipdescent.experiments._fitting import Fit
from lipdescent.experiments.distance_preservation import draw_singular_values
from lipdescent.plugins import lookup

BAND = range(2)  # DFT frequencies on both axes


def run(
    *,
    widths: Sequence[int] = (2, 8),
    constants: Sequence[float | None] = (None, 0.9),
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 300,
    learning_rate: float = 2e-2,
    num_points: int = 50,
    num_searches: int = 3,
) -> pd.DataFrame:
    """One row per width (channels; features are 16 times as many), k and seed; k is 0 for none."""
    data = lookup.resolve("datasets", "digits").load(num_train=1000, num_test=397, seed=0)
    inputs, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels)
    how = Fit(steps, batch_size=100, learning_rate=learning_rate)
    rows = []
    for width in widths:
        for k in constants:
            stack = fit(inputs, labels, width=width, k=k, seeds=seeds, stages=2, how=how)
            measured = measure_stack(
                stack,
                data,
                seeds=seeds,
                num_points=num_points,
                band=BAND,
                num_searches=num_searches,
            )
            rows += [{"width": width, "k": k or 0.0} | row for row in measured]
            print(f"width {width}, k {k}: done", flush=True)
    return pd.DataFrame(rows)


def draw(frame: pd.DataFrame) -> Figure:
    """See the module's docstring."""
    figure, axes = panels(4, height=2.5)
    groups = list(frame.groupby(["width", "k"], sort=False))
    draw_singular_values(axes[0], axes[1], groups)
    energies = columns(frame, "energy")
    side = round(len(energies) ** 0.5)
    narrow = [(place, part) for place, part in groups if place[0] == frame["width"].min()]
    shown = [
        (place, part[energies].mean().to_numpy().reshape(side, side)) for place, part in narrow
    ]
    most = max(share.max() for _, share in shown)
    for axis, ((width, k), share) in zip(axes[2:], (shown[0], shown[-1]), strict=True):
        image = axis.imshow(share, origin="lower", vmin=0, vmax=most)
        axis.grid(False)
        axis.set_title(f"energy\n({network_name(width, k)})")
        axis.set_xlabel("DFT freq. (columns)")
    axes[2].set_ylabel("DFT freq. (rows)")
    axes[3].tick_params(labelleft=False)
    figure.colorbar(image, ax=axes[2:], location="bottom", aspect=30, pad=0.02)
    key_of(figure, axes[0], columns=5)
    return figure
