"""Signed distance of two Koch snowflakes (positive inside) by networks that are 1-Lipschitz.

Lines: level sets, every .1, thick the level 0, with the snowflakes' outline in white beneath it;
colour: norm of the gradient, 1 almost everywhere for a distance. First panel: the true distance.
The others, the first seed's: MaxMin networks fitted to the true distance, MaxMin networks that saw
only on which side points lie (hKR), and ReLU networks of the same orthonormal weights fitted to the
distance (Béthune et al. 2022, arXiv 2104.05097). Errors in the titles are means of |f - distance|
over the whole window, means over seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from torch import Tensor

from lipdescent.architectures import lipschitz_mlp
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.experiments import _koch
from lipdescent.experiments._fitting import Forward, certified, minimise
from lipdescent.experiments._lipschitz_mlps import lipschitz_mlps
from lipdescent.figures._style import new_figure
from lipdescent.stacks.forward import stacked_forward
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.seeding import generator
from lipdescent.training.losses import binary_hkr, positive

Kind = Literal["MaxMin, distance", "MaxMin, sides", "ReLU, distance"]
KINDS: dict[Kind, lipschitz_mlp.Activation] = {
    "MaxMin, distance": "groupsort",
    "MaxMin, sides": "groupsort",
    "ReLU, distance": "relu",
}
CENTRES, RADIUS = ((-0.48, -0.08), (0.48, 0.08)), 0.42
WINDOW = 1.0, 0.6  # half of its width and height
LEVEL = 0.1
TRUTH = "true distance"


@dataclass(frozen=True)
class Fitting:
    """How the networks are fitted: Adam on random points of the window, its rate along a cosine.

    ``alpha`` and ``margin`` are those of the hKR loss.
    """

    width: int
    depth: int
    steps: int
    batch_size: int
    num_train: int
    learning_rate: float
    alpha: float
    margin: float


def run(
    *,
    kinds: Sequence[Kind] = tuple(KINDS),
    seeds: Sequence[int] = (0, 1, 2),
    order: int = 4,
    width: int = 64,
    depth: int = 4,
    steps: int = 4000,
    batch_size: int = 256,
    num_train: int = 20000,
    learning_rate: float = 5e-3,
    alpha: float = 50.0,
    margin: float = 0.01,
    num_rows: int = 81,
) -> pd.DataFrame:
    """Values on a grid (``what`` = field), and what they say of every network (``what`` = network).

    Raises
    ------
    ValueError
        If margin or learning rate are not positive, or a count is below 1.
    """
    positive(margin=margin, learning_rate=learning_rate)
    for name, count in {"num_rows": num_rows, "batch_size": batch_size}.items():
        if count < 1:
            raise ValueError(f"{name} = {count}: allowed are integers >= 1")
    how = Fitting(width, depth, steps, batch_size, num_train, learning_rate, alpha, margin)
    polygons = snowflakes(order)
    grid = window_grid(num_rows)
    distance = _koch.signed_distance(grid, polygons)
    shown = {"what": "field", "x": grid[:, 0], "y": grid[:, 1], "distance": distance}
    parts = []
    for name in kinds:
        stack = certified(fit(name, polygons, seeds=seeds, how=how))
        values, norms = values_and_gradients(stack, torch.from_numpy(grid))
        for place, seed in enumerate(seeds):
            told = _told(distance, values[place], norms[place])
            told |= {"certified_constant": layer_product(stack)[place].item()}
            parts.append(pd.DataFrame([{"what": "network", "network": name, "seed": seed} | told]))
        own = {"network": name, "seed": seeds[0], "value": values[0], "gradient_norm": norms[0]}
        parts.append(pd.DataFrame(shown | own))
    outline = [{"what": "outline", "x": x, "y": y, "polygon": i}
               for i, polygon in enumerate(polygons) for x, y in polygon]  # fmt: skip
    return pd.concat([*parts, pd.DataFrame(outline)], ignore_index=True)


def snowflakes(order: int) -> list[np.ndarray]:
    """Corners of the two."""
    return [_koch.snowflake(order, centre=centre, radius=RADIUS) for centre in CENTRES]


def window_grid(num_rows: int) -> np.ndarray:
    """Points (n, 2) of a square grid over the window, row by row from below."""
    columns = round(num_rows * WINDOW[0] / WINDOW[1])
    x = np.linspace(-WINDOW[0], WINDOW[0], columns)
    y = np.linspace(-WINDOW[1], WINDOW[1], num_rows)
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def fit(
    kind: Kind, polygons: Sequence[np.ndarray], *, seeds: Sequence[int], how: Fitting
) -> ModelStack:
    """One network per seed, on one set of points; each seed's batches are its own."""
    half = torch.tensor(WINDOW)
    random = generator("koch", "train")
    points = (2 * torch.rand(how.num_train, 2, generator=random) - 1) * half
    exact = torch.from_numpy(_koch.signed_distance(points.double().numpy(), polygons)).float()
    draws = [generator("koch", seed) for seed in seeds]

    def loss(forward: Forward, step: int) -> Tensor:
        sizes = (how.batch_size,)
        index = torch.stack([torch.randint(len(points), sizes, generator=g) for g in draws])
        values, wanted = forward(points[index]), exact[index][..., None]
        if kind == "MaxMin, sides":
            sign = torch.where(wanted > 0, 1.0, -1.0)
            each = binary_hkr.loss(values, sign, alpha=how.alpha, margin=how.margin)
            return each.mean(1)
        return (values - wanted).abs().mean((1, 2))

    options: dict[str, Any] = {"depth": how.depth, "activation": KINDS[kind]}
    stack = lipschitz_mlps(seeds, (2,), 1, how.width, **options)
    return minimise(stack, loss, steps=how.steps, learning_rate=how.learning_rate)


def values_and_gradients(stack: ModelStack, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """f and the l2 norm of its gradient at points (n, 2), both (num_models, n)."""
    leaf = points.expand(stack.num_models, *points.shape).clone().requires_grad_()
    with torch.enable_grad():
        values = stacked_forward(stack.module, stack.state, leaf, train=False)[0][..., 0]
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach().numpy(), gradient.norm(dim=-1).numpy()


def _told(distance: np.ndarray, values: np.ndarray, norms: np.ndarray) -> dict[str, Any]:
    """Errors against the distance, share of points on their side, quantiles of gradient norms."""
    error = np.abs(values - distance)
    return {
        "mean_error": error.mean(),
        "largest_error": error.max(),
        "accuracy": ((values > 0) == (distance > 0)).mean(),
        "median_gradient": np.median(norms),
        "low_gradient": np.quantile(norms, 0.05),
        "largest_gradient": norms.max(),
    }


def draw(frame: pd.DataFrame) -> Figure:
    """The true distance, then a panel per network: level sets over gradient norms."""
    fields = frame[frame["what"] == "field"]
    networks = list(fields["network"].unique())
    rows = 1 + len(networks) // 2
    figure, axes = new_figure(rows, 2, height=0.2 + 2.2 * rows)
    outlines = [
        part[["x", "y"]].to_numpy()
        for _, part in frame[frame["what"] == "outline"].groupby("polygon")
    ]
    first = fields[fields["network"] == networks[0]]
    image = _field(axes.flat[0], first, first["distance"].to_numpy(), None, outlines)
    axes.flat[0].set_title(TRUTH)
    told = frame[frame["what"] == "network"].groupby("network")["mean_error"].mean()
    for axis, name in zip(axes.flat[1:], networks, strict=False):
        part = fields[fields["network"] == name]
        image = _field(axis, part, part["value"].to_numpy(), "gradient_norm", outlines)
        axis.set_title(f"{name}: error {told[name]:.4f}")
    for axis in axes.flat[1 + len(networks) :]:
        axis.set_axis_off()
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("norm of the gradient")
    return figure


def _field(
    axis: Axes, rows: pd.DataFrame, values: np.ndarray, norm: str | None, outlines: list
) -> Any:
    """Level sets of ``values`` on the grid, over the column ``norm`` (None: 1 everywhere)."""
    x, y = (np.unique(rows[name]) for name in ("x", "y"))
    shape = len(y), len(x)
    colours = rows[norm].to_numpy() if norm else np.ones(len(rows))
    image = axis.pcolormesh(x, y, colours.reshape(shape), vmin=0, vmax=1, rasterized=True)
    for corners in outlines:
        axis.fill(*corners.T, facecolor="none", edgecolor="white", linewidth=0.5)
    levels = LEVEL * np.arange(-20, 21)
    axis.contour(
        x, y, values.reshape(shape), levels=levels, colors="black", linestyles="-",
        linewidths=np.where(levels == 0, 1.2, 0.4),
    )  # fmt: skip
    axis.set(aspect="equal", xlabel="x", ylabel="y")
    axis.grid(False)
    axis.xaxis.set_major_locator(MultipleLocator(0.5))
    axis.yaxis.set_major_locator(MultipleLocator(0.5))
    axis.set(xlim=(-WINDOW[0], WINDOW[0]), ylim=(-WINDOW[1], WINDOW[1]))
    return image
