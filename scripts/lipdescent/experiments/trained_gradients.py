"""Gradients of trained classifiers: singular values, units that never switch, pictures.

Fashion-MNIST, three hidden layers, hinge loss, three activations (Anil et al. 2019, arXiv
1811.05381, section 7). Top: singular values of the Jacobian of the logits over training steps,
median (line) and range (band) over test points and seeds, drawn from 1e-6: orthonormal weights and
sorting keep them all at 1 while the network learns. Middle: share of hidden units that do the same
at 99 % of the test points or more, at the last step, a point per seed: a ReLU that is active
("undead"), a sorted feature that comes from the same unit. Below: test images and the input
gradients of their label's logit, scaled each to its largest entry.
"""

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from lipdescent.bounds.jacobians.norms import one_model, rows
from lipdescent.constrained.layers import GroupSort
from lipdescent.datasets import fashion_mnist
from lipdescent.experiments._drawing import key_of, look, steps_axis, strips
from lipdescent.experiments._fitting import Forward, check_looks, watched
from lipdescent.experiments._lipschitz_mlps import lipschitz_mlps
from lipdescent.experiments.wasserstein import ACTIVATIONS
from lipdescent.figures._style import new_figure
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.seeding import generator
from lipdescent.training.losses import hinge

Constraint = Literal["none", "spectral", "bjorck"]
NAMES = {
    "none": "unconstrained",
    "spectral": "spectral norm at most 1",
    "bjorck": "orthonormal (Björck)",
}
MARGINS = {"none": 1.0, "spectral": 0.25, "bjorck": 0.25}  # a constant of 1 allows small ones only
SIDE, CLASSES = 28, 10
PICTURES = 5  # images with gradients
FLOOR = 1e-6  # of the singular values that are drawn
SAME = 0.99  # share of the points at which a unit does the same


def train(
    inputs: Tensor,
    labels: Tensor,
    constraint: Constraint,
    activation: str,
    *,
    seeds: Sequence[int],
    width: int,
    looks: Sequence[int],
    batch_size: int = 100,
) -> dict[int, ModelStack]:
    """Step -> networks with certified weights, one per seed; Adam at .003 along a cosine."""
    targets = nn.functional.one_hot(labels, CLASSES).to(inputs.dtype)
    random = [generator("trained_gradients", "batches", seed) for seed in seeds]

    def loss(forward: Forward, step: int) -> Tensor:
        draws = [torch.randint(len(inputs), (batch_size,), generator=g) for g in random]
        index = torch.stack(draws)
        logits = forward(inputs[index])
        return hinge.loss(logits, targets[index], margin=MARGINS[constraint]).mean(1)

    kind = {"depth": 3, "constraint": constraint, **ACTIVATIONS[activation]}
    drawn = lipschitz_mlps(seeds, inputs.shape[1:], CLASSES, width, **kind)
    return watched(drawn, loss, looks=looks, learning_rate=3e-3)


def unvarying(stack: ModelStack, inputs: Tensor, *, share: float = SAME) -> list[float]:
    """Share of the hidden units that do the same at ``share`` of the inputs or more, per model.

    A ReLU that is active; a place in a sorted group that takes the same unit.

    Parameters
    ----------
    stack : a chain of Linear, ReLU and GroupSort layers.
    inputs : (n, *input_shape).
    """
    found = []
    for model in range(stack.num_models):
        module = copy.deepcopy(stack.module).double()
        module.load_state_dict({name: tensor[model] for name, tensor in stack.state.items()})
        x, same = inputs.double(), []
        with torch.no_grad():
            for layer in module.children():
                if isinstance(layer, nn.ReLU):
                    same.append((x > 0).double().mean(0))
                if isinstance(layer, GroupSort):
                    groups = x.unflatten(1, (-1, layer.size or x.shape[1]))
                    taken = groups.argsort(dim=2, stable=True)
                    same.append((taken == taken.mode(0).values).double().mean(0).flatten())
                x = layer(x)
        found.append((torch.cat(same) >= share).double().mean().item())
    return found


def input_gradients(stack: ModelStack, inputs: Tensor, labels: Tensor) -> Tensor:
    """Gradients of the labels' logits of the first model: float64, as ``inputs``."""
    leaf = inputs.double().requires_grad_()
    with torch.enable_grad():
        logits = one_model(stack)(leaf)
        own = logits.gather(1, labels[:, None]).sum()
    return torch.autograd.grad(own, leaf)[0]


def run(
    *,
    constraints: Sequence[Constraint] = get_args(Constraint),
    seeds: Sequence[int] = (0, 1, 2),
    width: int = 64,
    num_train: int = 2000,
    num_points: int = 200,
    looks: Sequence[int] = (0, 10, 30, 100, 300),
) -> pd.DataFrame:
    """Rows of tasks ``singular``, ``units`` and ``pixels``.

    Raises
    ------
    ValueError
        If a constraint is unknown, ``looks`` do not increase, or MaxMin cannot sort the width.
    """
    for constraint in constraints:
        if constraint not in NAMES:
            raise ValueError(f"constraints has {constraint!r}: allowed are {', '.join(NAMES)}")
    check_looks(looks)
    data = fashion_mnist.load(num_train=num_train, num_test=num_points, normalise="none")
    train_x, test_x = map(torch.from_numpy, (data.train_inputs, data.test_inputs))
    train_y, test_y = map(torch.from_numpy, (data.train_labels, data.test_labels))
    table = _picture_rows("image", "", test_x[:PICTURES])
    for constraint in constraints:
        for activation in ACTIVATIONS:
            about = {"constraint": constraint, "activation": activation}
            stacks = train(
                train_x, train_y, constraint, activation, seeds=seeds, width=width, looks=looks
            )
            for step, stack in stacks.items():
                table += [about | {"step": step} | row for row in _measured(stack, seeds, test_x)]
            last = stacks[looks[-1]]
            right = last(test_x.double()).argmax(-1) == test_y
            for row in table[-len(seeds) :]:
                row["accuracy"] = right[list(seeds).index(row["seed"])].double().mean().item()
            pictures = input_gradients(last, test_x[:PICTURES], test_y[:PICTURES])
            table += _picture_rows(constraint, activation, pictures)
    return pd.DataFrame(table)


def _measured(stack: ModelStack, seeds: Sequence[int], points: Tensor) -> list[dict[str, Any]]:
    """Singular values at the first points, units that never switch, a row each and seed."""
    table = []
    for i, seed in enumerate(seeds):
        function = one_model(stack[i : i + 1])
        jacobians = rows(function, points[:30].double(), CLASSES).flatten(2)
        values = torch.linalg.svdvals(jacobians)
        quantiles = {"smallest": values.min(), "median": values.median(), "largest": values.max()}
        told = {name: value.item() for name, value in quantiles.items()}
        table.append({"task": "singular", "seed": seed} | told)
    shares = unvarying(stack, points)
    named = zip(seeds, shares, strict=True)
    return table + [{"task": "units", "seed": seed, "share": share} for seed, share in named]


def _picture_rows(constraint: str, activation: str, pictures: Tensor) -> list[dict[str, Any]]:
    about = {"task": "pixels", "constraint": constraint, "activation": activation}
    return [
        about | {"image": i, "pixel": j, "value": value}
        for i, picture in enumerate(pictures.flatten(1).tolist())
        for j, value in enumerate(picture)
    ]


def draw(frame: pd.DataFrame) -> Figure:
    """Singular values over steps, units that never switch, pictures of gradients."""
    constraints = [name for name in NAMES if (frame["constraint"] == name).any()]
    figure, grid = new_figure(
        3, len(constraints), height=4.9, gridspec_kw={"height_ratios": (3, 1.4, 1.7)}, sharey="row"
    )
    for (top, middle, bottom), constraint in zip(grid.T, constraints, strict=True):
        part = frame[frame["constraint"] == constraint]
        _draw_values(top, part[part["task"] == "singular"])
        top.set_title(NAMES[constraint])
        _draw_units(middle, part[part["task"] == "units"])
        _draw_pictures(bottom, frame, constraint, first=constraint == constraints[0])
    grid[0, 0].set_ylabel("singular values")
    grid[1, 0].set_ylabel("units that\nnever switch")
    key_of(figure, grid[0, 0], columns=3)
    return figure


def _draw_values(axis: Axes, part: pd.DataFrame) -> None:
    for i, (activation, rows_of) in enumerate(part.groupby("activation", sort=False)):
        by_step = rows_of.groupby("step")
        steps = np.sort(rows_of["step"].unique()).astype(float)
        low = by_step["smallest"].min().clip(lower=FLOOR)
        colour = look(i)["color"]
        axis.fill_between(steps, low, by_step["largest"].max(), alpha=0.15, color=colour, lw=0)
        median = by_step["median"].median().clip(lower=FLOOR)
        axis.plot(steps, median, label=activation, **look(i))
    axis.set_yscale("log")
    steps_axis(axis, steps, "steps")


def _draw_units(axis: Axes, part: pd.DataFrame) -> None:
    last = part[part["step"] == part["step"].max()]
    names = list(last["activation"].unique())
    for i, name in enumerate(names):
        shares = last[last["activation"] == name]["share"]
        axis.plot([i] * len(shares), shares, linestyle="", **look(i))
    axis.set_xticks(range(len(names)), names)
    axis.set(xlabel="activation", xlim=(-0.5, len(names) - 0.5), ylim=(-0.05, 1.05))


def _draw_pictures(axis: Axes, frame: pd.DataFrame, constraint: str, *, first: bool) -> None:
    """Images, then the gradients of the networks with ReLU and with MaxMin."""
    pixels = frame[frame["task"] == "pixels"].sort_values(["image", "pixel"])
    # Every part of a study that is split has the images.
    pixels = pixels.drop_duplicates(["constraint", "activation", "image", "pixel"])
    rows = {}
    for kind, activation in (("image", ""), (constraint, "ReLU"), (constraint, "MaxMin")):
        chosen = (pixels["constraint"] == kind) & (pixels["activation"] == activation)
        values = pixels[chosen]["value"].to_numpy(float).reshape(-1, SIDE, SIDE)
        largest = np.abs(values).max((1, 2), keepdims=True)
        rows[activation or kind] = values / np.where(largest > 0, largest, 1)
    strips(axis, rows, named=first, cmap="RdBu_r", vmin=-1, vmax=1)
