"""Wasserstein-1 distance between images and a generator's: critics against the exact distance.

A generator is trained against a 1-Lipschitz critic; then critics of one and the same constraint
(orthonormal weights) and three activations estimate the distance between as many generated as real
images, over their training steps (Anil et al. 2019, arXiv 1811.05381, section 7.2). Lines are
medians over seeds, bands their range, relative to the exact distance of the two finite samples
(dotted), found by a best matching: a certified lower bound stays below it. The grey line is the
distance between two samples of real images. Below: images and what the first generator makes.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.datasets import digits, fashion_mnist
from lipdescent.experiments._drawing import GREY, key_of, look, steps_axis, strips
from lipdescent.experiments._fitting import Descent, Forward, check_looks, watched
from lipdescent.experiments._lipschitz_mlps import lipschitz_mlps
from lipdescent.experiments._transport import dual_estimate, exact_distance
from lipdescent.experiments.wasserstein import ACTIVATIONS
from lipdescent.figures._style import new_figure
from lipdescent.stacks.forward import stacked_forward
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.seeding import generator
from lipdescent.training.draws import initial_stack

Images = Literal["digits", "fashion_mnist"]
LATENT = 16  # dimension of the generator's normal noise
CRITIC_STEPS = 3  # of the WGAN's critic for each of the generator's
SHOWN = 8  # images of the figure


def load(name: Images, num_points: int) -> tuple[Tensor, Tensor]:
    """Two samples (num_points, pixels) of training images, pixels in [0, 1], none in both."""
    loaders = {"digits": digits.load, "fashion_mnist": fashion_mnist.load}
    if name not in loaders:
        raise ValueError(f"images = {name!r}: allowed are {', '.join(loaders)}")
    options: dict[str, Any] = {"image_size": 14} if name == "fashion_mnist" else {}
    data = loaders[name](normalise="none", **options)
    found = torch.from_numpy(data.train_inputs).flatten(1)
    if not 1 <= num_points <= len(found) // 2:
        raise ValueError(
            f"num_points = {num_points}: allowed are 1 to {len(found) // 2}, half of {name}"
        )
    order = torch.randperm(len(found), generator=generator("generated_distances", "images", name))
    return found[order[:num_points]], found[order[num_points : 2 * num_points]]


def make_generator(pixels: int, width: int) -> nn.Sequential:
    """Normal noise to an image with pixels in [0, 1]."""
    return nn.Sequential(
        nn.Linear(LATENT, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, pixels),
        nn.Sigmoid(),
    )


def train_generators(
    data: Tensor, *, seeds: Sequence[int], width: int, steps: int, batch_size: int = 64
) -> ModelStack:
    """One generator per seed, against its own critic of orthonormal layers and MaxMin.

    The WGAN of Arjovsky et al. (2017, arXiv 1701.07875) with the constraint in place of their
    clipping; Adam at .001 (generator) and .002 (critic).
    """
    pixels = data.shape[1]
    makers = initial_stack(lambda: make_generator(pixels, width), list(seeds), (LATENT,))
    critics = _critics(seeds, pixels, width, "MaxMin")
    random = [generator("generated_distances", "wgan", seed) for seed in seeds]
    making, judging = (Descent(makers, learning_rate=1e-3), Descent(critics, learning_rate=2e-3))

    def noise() -> Tensor:
        return torch.stack([torch.randn(batch_size, LATENT, generator=g) for g in random])

    def judge(forward: Forward, step: int) -> Tensor:
        index = [torch.randint(len(data), (batch_size,), generator=g) for g in random]
        real = data[torch.stack(index)]
        with torch.no_grad():
            made = making.forward(noise())
        values = forward(torch.cat([real, made], 1))[..., 0]
        return values[:, batch_size:].mean(1) - values[:, :batch_size].mean(1)

    def make(forward: Forward, step: int) -> Tensor:
        return -judging.forward(forward(noise()))[..., 0].mean(1)

    for _ in range(steps):
        for _ in range(CRITIC_STEPS):
            judging.step(judge)
        making.step(make)
    return making.stack()


def generated(makers: ModelStack, seeds: Sequence[int], count: int) -> Tensor:
    """``count`` images of every generator, (num_models, count, pixels)."""
    draws = [generator("generated_distances", "made", seed) for seed in seeds]
    noise = torch.stack([torch.randn(count, LATENT, generator=g) for g in draws])
    with torch.no_grad():
        return stacked_forward(makers.module, makers.state, noise, train=False)[0]


def train_critics(
    real: Tensor,
    made: Tensor,
    activation: str,
    *,
    seeds: Sequence[int],
    width: int,
    looks: Sequence[int],
) -> dict[int, ModelStack]:
    """Step -> certified critics, one per seed, maximising the dual objective on whole samples.

    Parameters
    ----------
    real : (n, pixels); ``made`` (num_models, n, pixels), each critic's own.
    looks : increasing numbers of steps; Adam at .02 along a cosine to the last of them.
    """
    count = len(real)
    both = torch.cat([real.expand(len(seeds), -1, -1), made], 1)

    def loss(forward: Forward, step: int) -> Tensor:
        values = forward(both)[..., 0]
        return values[:, count:].mean(1) - values[:, :count].mean(1)

    stack = _critics(seeds, real.shape[1], width, activation)
    return watched(stack, loss, looks=looks, learning_rate=2e-2)


def _critics(seeds: Sequence[int], pixels: int, width: int, activation: str) -> ModelStack:
    return lipschitz_mlps(seeds, (pixels,), 1, width, depth=3, **ACTIVATIONS[activation])


def run(
    *,
    images: Sequence[Images] = ("digits", "fashion_mnist"),
    seeds: Sequence[int] = (0, 1, 2),
    num_points: int = 400,
    width: int = 64,
    generator_steps: int = 1000,
    looks: Sequence[int] = (0, 10, 30, 100, 300, 1000),
) -> pd.DataFrame:
    """Rows of estimates over steps, and of the images shown (task ``pixels``).

    Raises
    ------
    ValueError
        If ``looks`` do not increase, or an option is out of range.
    """
    check_looks(looks)
    rows: list[dict[str, Any]] = []
    for name in images:
        real, others = load(name, num_points)
        makers = train_generators(real, seeds=seeds, width=2 * width, steps=generator_steps)
        made = generated(makers, seeds, num_points)
        exact = [exact_distance(real, own) for own in made]
        among = exact_distance(real, others)
        for activation in ACTIVATIONS:
            critics = train_critics(real, made, activation, seeds=seeds, width=width, looks=looks)
            for step, stack in critics.items():
                constants = layer_product(stack)
                for i, seed in enumerate(seeds):
                    found = dual_estimate(stack[i : i + 1], real, made[i]).item()
                    _check(found, exact[i], f"{name}, {activation}, seed {seed}, step {step}")
                    row: dict[str, Any] = {
                        "task": "estimate",
                        "images": name,
                        "activation": activation,
                    }
                    row |= {"seed": seed, "step": step, "estimate": found, "exact": exact[i]}
                    rows.append(row | {"among_images": among, "constant": constants[i].item()})
        rows += _pixels(name, real, made[0])
    return pd.DataFrame(rows)


def _check(estimate: float, exact: float, what: str) -> None:
    if not estimate <= exact:
        raise ValueError(f"{what}: the estimate {estimate!r} exceeds the exact distance {exact!r}")


def _pixels(name: str, real: Tensor, made: Tensor) -> list[dict[str, Any]]:
    """The first images of both samples, a row per pixel."""
    return [
        {"task": "pixels", "images": name, "kind": kind, "image": i, "pixel": j, "value": value}
        for kind, sample in (("real", real), ("generated", made))
        for i, image in enumerate(sample[:SHOWN].tolist())
        for j, value in enumerate(image)
    ]


def draw(frame: pd.DataFrame) -> Figure:
    """Images of both samples, and below estimates relative to the exact distance over steps."""
    names = list(frame["images"].unique())
    figure, grid = new_figure(2, len(names), height=3.4, gridspec_kw={"height_ratios": (1, 3)})
    for (strip, axis), name in zip(grid.T, names, strict=True):
        of = frame[frame["images"] == name]
        part = of[of["task"] == "estimate"]
        _draw_images(strip, of[of["task"] == "pixels"])
        _draw_estimates(axis, part)
        axis.set(ylim=(-0.08, 1.05), ylabel="estimate / exact distance")
        exact = part["exact"].median()
        strip.set_title(f"{name.replace('_', '-')}: exact distance {exact:.2f}")
    key_of(figure, grid[1, 0])
    return figure


def _draw_estimates(axis: Axes, part: pd.DataFrame) -> None:
    for i, (activation, rows) in enumerate(part.groupby("activation", sort=False)):
        ratio = (rows["estimate"] / rows["exact"]).groupby(rows["step"])
        steps = ratio.median().index.to_numpy(float)
        colour = look(i)["color"]
        axis.fill_between(steps, ratio.min(), ratio.max(), alpha=0.2, color=colour, lw=0)
        axis.plot(steps, ratio.median(), label=activation, **look(i))
    axis.axhline(1, color="black", linestyle=":", label="exact distance")
    among = (part["among_images"] / part["exact"]).median()
    axis.axhline(among, color=GREY, label="exact, among images")
    steps_axis(axis, steps, "steps of the critic")


def _draw_images(axis: Axes, pixels: pd.DataFrame) -> None:
    """A row of images, a row of what the generator makes, white lines between."""
    ordered = pixels.sort_values(["image", "pixel"])
    side = int(np.sqrt(ordered["pixel"].max() + 1))
    rows = {}
    for name, kind in (("images", "real"), ("generated", "generated")):
        values = ordered[ordered["kind"] == kind]["value"].to_numpy(float).reshape(-1, side, side)
        rows[name] = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    strips(axis, rows, cmap="gray_r", vmin=0, vmax=1)
