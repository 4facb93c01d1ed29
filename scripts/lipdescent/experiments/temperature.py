"""What temperature and margin do to 1-Lipschitz classifiers (Béthune et al. 2022, 2104.05097).

First panel: the one-dimensional mixture .9 N(-2, .3^2) + .1 N(1, .1^2) against its mirror image,
binary cross-entropy with temperature tau: accuracy and mean signed certified radius (limit
W1 / 2 = 1.70). Second: two moons, accuracy against the mean certified radius, a point per tau.
Third: Fashion-MNIST, accuracy against certified accuracy for cross-entropy (tau), hinge (margin)
and hKR (alpha). All certificates use the certified constant.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lipdescent.architectures import lipschitz_mlp
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.experiments._drawing import (
    GREY,
    key_of,
    look,
    name_point,
    panels,
    say_nothing_here,
    small,
    width_axis,
)
from lipdescent.experiments._fitting import Fit, Forward, certified, classify, minimise
from lipdescent.plugins import lookup
from lipdescent.robustness import certificates
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.seeding import generator
from lipdescent.training.draws import initial_stack
from lipdescent.training.losses import cross_entropy_temperature, hinge, hkr

Task = Literal["mixture", "moons", "fashion_mnist"]
TAUS = (1, 2, 4, 8, 64, 256)
RADIUS_LIMIT = 1.70  # half the Wasserstein-1 distance, (.9 (2 + 2) - .1 (1 + 1)) / 2
LOSSES = {"cross_entropy_temperature": cross_entropy_temperature, "hinge": hinge, "hkr": hkr}
# Loss -> what the legend and its options are called.
LOSS_NAMES = {
    "cross_entropy_temperature": ("cross-entropy (tau)", "tau"),
    "hinge": ("hinge (margin)", "m"),
    "hkr": ("hKR (alpha)", "alpha"),
}
FASHION_LOSSES = (
    *[("cross_entropy_temperature", "tau", tau) for tau in (1, 4, 16, 64, 256)],
    *[("hinge", "margin", margin) for margin in (0.02, 0.1, 0.5, 2)],
    *[("hkr", "alpha", alpha) for alpha in (1, 5, 25, 100)],
)


def mixture(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` points of each class: inputs (2 count, 1), labels +-1 (2 count, 1)."""
    rare = torch.rand(2 * count, generator=random) < 0.1
    noise = torch.randn(2 * count, generator=random)
    x = torch.where(rare, 1 + 0.1 * noise, -2 + 0.3 * noise)
    sign = torch.where(torch.arange(2 * count) < count, 1.0, -1.0)
    return (sign * x)[:, None], -sign[:, None]  # P, around -2, is class -1


def fit_mixture(
    *, taus: Sequence[float], seeds: Sequence[int], steps: int = 300, count: int = 100
) -> tuple[ModelStack, list[tuple[float, int]]]:
    """1-256-128-64-1 GroupSort networks, Adam 1e-3, one per tau and seed."""
    replicas = list(itertools.product(taus, seeds))

    def build() -> torch.nn.Module:
        return lipschitz_mlp.network([1, 256, 128, 64, 1])

    tau = torch.tensor([float(t) for t, _ in replicas])[:, None]
    data = {seed: mixture(count, generator("mixture", seed)) for seed in seeds}
    x = torch.stack([data[seed][0] for _, seed in replicas])
    y = torch.stack([data[seed][1] for _, seed in replicas])[..., 0]

    def loss(forward: Forward, step: int) -> Tensor:
        return torch.nn.functional.softplus(-tau * y * forward(x)[..., 0]).mean(1)

    stack = initial_stack(build, [seed for _, seed in replicas], (1,))
    stack = minimise(stack, loss, steps=steps, learning_rate=1e-3, cosine=False)
    return certified(stack), replicas


def run_mixture(
    *, taus: Sequence[float], seeds: Sequence[int], **options: Any
) -> list[dict[str, Any]]:
    """Accuracy, loss and mean signed radius on 5000 fresh points of each class."""
    stack, replicas = fit_mixture(taus=taus, seeds=seeds, **options)
    x, y = mixture(5000, generator("mixture", "test"))
    signed = stack(x.double())[..., 0] * y[:, 0] / layer_product(stack)[:, None]
    rows = []
    for (tau, seed), score in zip(replicas, signed, strict=True):
        loss = torch.nn.functional.softplus(-tau * score).mean()
        rows.append(
            {
                "task": "mixture",
                "loss": "binary_cross_entropy",
                "option": float(tau),
                "seed": seed,
                "accuracy": (score > 0).double().mean().item(),
                "test_loss": loss.item(),
                "mean_radius": score.mean().item(),
            }
        )
    return rows


def _fit_classifiers(
    inputs: Tensor,
    labels: Tensor,
    *,
    sizes: Sequence[int],
    choices: Sequence[tuple[str, str, float]],
    seeds: Sequence[int],
    how: Fit,
) -> tuple[ModelStack, list]:
    """A network per choice (loss, option's name, value) and seed; Adam 5e-3, cosine."""
    replicas = list(itertools.product(choices, seeds))

    def build() -> torch.nn.Module:
        return lipschitz_mlp.network(sizes)

    own_seeds = [seed for _, seed in replicas]
    stack = classify(
        initial_stack(build, own_seeds, inputs.shape[1:]),
        inputs,
        labels,
        [partial(LOSSES[name].loss, **{key: value}) for (name, key, value), _ in replicas],
        seeds=own_seeds,
        num_classes=sizes[-1],
        how=how,
    )
    return certified(stack), replicas


def _certify(
    task: str, stack: ModelStack, replicas: list, inputs: Tensor, labels: Tensor, radius: float
) -> list[dict[str, Any]]:
    upper = layer_product(stack)
    radii = certificates.certified_radii(stack, inputs, labels, upper=upper, norm="l2")
    at = certificates.certified_accuracy(radii, [radius])[:, 0]
    mean = certificates.mean_certified_radius(radii)
    accuracy = (stack(inputs.double()).argmax(-1) == labels).double().mean(1)
    return [
        {
            "task": task,
            "loss": name,
            "option": float(value),
            "seed": seed,
            "accuracy": accuracy[i].item(),
            "mean_radius": mean[i].item(),
            "radius": radius,
            "certified_accuracy": at[i].item(),
        }
        for i, ((name, _, value), seed) in enumerate(replicas)
    ]


def run_moons(*, seeds: Sequence[int], steps: int) -> list[dict[str, Any]]:
    """Two moons with noise .15: 200 training points, 1000 test points."""
    from sklearn.datasets import make_moons

    x, y = make_moons(1200, noise=0.15, random_state=0)
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y)
    stack, replicas = _fit_classifiers(
        x[:200],
        y[:200],
        sizes=[2, 64, 64, 2],
        choices=[("cross_entropy_temperature", "tau", tau) for tau in (1, 4, 16, 64, 256)],
        seeds=seeds,
        how=Fit(steps, batch_size=100),
    )
    return _certify("moons", stack, replicas, x[200:], y[200:], 0.1)


def run_fashion(*, seeds: Sequence[int], steps: int, num_train: int) -> list[dict[str, Any]]:
    """Fashion-MNIST with pixels in [0, 1], 784-64-10; certified at l2 radius .1."""
    data = lookup.resolve("datasets", "fashion_mnist").load(
        num_train=num_train, num_test=1000, normalise="none"
    )
    train, test = (torch.from_numpy(x).flatten(1) for x in (data.train_inputs, data.test_inputs))
    stack, replicas = _fit_classifiers(
        train,
        torch.from_numpy(data.train_labels),
        sizes=[784, 64, 10],
        choices=FASHION_LOSSES,
        seeds=seeds,
        how=Fit(steps, batch_size=128),
    )
    return _certify("fashion_mnist", stack, replicas, test, torch.from_numpy(data.test_labels), 0.1)


def run(
    *,
    seeds: Sequence[int] = (0, 1, 2),
    tasks: Sequence[Task] = get_args(Task),
    taus: Sequence[float] = TAUS,
    steps: int = 300,
    num_train: int = 10000,
    fashion_steps: int = 1000,
) -> pd.DataFrame:
    """Rows of the mixture, the moons and Fashion-MNIST."""
    known = {
        "mixture": partial(run_mixture, taus=taus, steps=steps),
        "moons": partial(run_moons, steps=steps),
        "fashion_mnist": partial(run_fashion, steps=fashion_steps, num_train=num_train),
    }
    for task in tasks:
        lookup.check("task", task, list(known))
    return pd.DataFrame([row for task in tasks for row in known[task](seeds=seeds)])


def draw(frame: pd.DataFrame) -> Figure:
    """Mixture over tau; accuracy against radius; accuracy against certified accuracy."""
    figure, (left, middle, right) = panels(3, height=2.7)
    _draw_mixture(left, frame[frame["task"] == "mixture"])
    moons = frame[frame["task"] == "moons"]
    _draw_front(middle, moons, "mean_radius", first=2)
    middle.set(title="two moons", xlabel="mean certified radius (l2)")
    images = frame[frame["task"] == "fashion_mnist"]
    if len(images):
        _draw_front(right, images, "certified_accuracy", first=2)
        right.set_title("Fashion-MNIST")
        right.set_xlabel(f"certified accuracy, radius {images['radius'].iloc[0]:g} (l2)")
    else:
        say_nothing_here(right, "no images here")
        right.set_xticks([])
    key_of(figure, left, right, columns=5)
    return figure


def _draw_mixture(axis: Axes, rows: pd.DataFrame) -> None:
    median = rows.groupby("option")[["accuracy", "mean_radius"]].median()
    for i, (column, name) in enumerate(
        (("accuracy", "test accuracy"), ("mean_radius", "mean signed radius"))
    ):
        axis.plot(median.index, median[column], label=name, **look(i))
    axis.axhline(RADIUS_LIMIT, color=GREY, linestyle=":", label="half the transport distance")
    axis.set_ylim(0, 1.85)
    width_axis(axis, np.sort(median.index.to_numpy(float)))
    axis.set(xlabel="temperature tau", ylabel="accuracy, radius", title="mixture on the line")


def _draw_front(axis: Axes, rows: pd.DataFrame, column: str, *, first: int) -> None:
    """Accuracy over ``column``, medians over seeds, one line per loss; options beside its ends."""
    for i, (loss, part) in enumerate(rows.groupby("loss", sort=False)):
        short, option = LOSS_NAMES[str(loss)]
        median = part.groupby("option")[[column, "accuracy"]].median()
        x, y = median[column], median["accuracy"]
        axis.plot(x, y, label=short, **look(first + i))
        for place in (0, -1):
            name, colour = f"{option} = {median.index[place]:g}", look(first + i)["color"]
            name_point(axis, x.iloc[place], y.iloc[place], name, colour=colour, size=small())
    axis.margins(0.2, 0.16)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_ylabel("test accuracy")
