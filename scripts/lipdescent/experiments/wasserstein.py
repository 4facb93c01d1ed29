"""Dual estimates of the Wasserstein-1 distance, exact value 1 (dotted), a point per seed.

Networks of one and the same constraint (orthonormal weights, every layer 1-Lipschitz) differ in
their activation alone. Left: |x| on the line; middle: three cones in the plane; right: a cone in
128 dimensions (Anil et al. 2019, arXiv 1811.05381, section 7.1). Every estimate is a lower bound:
it is taken with certified weights, of norm at most 1.
"""

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.experiments._drawing import GREY, look, panels
from lipdescent.experiments._fitting import Forward, certified, minimise
from lipdescent.experiments._lipschitz_mlps import lipschitz_mlps
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.seeding import generator

Task = Literal["absolute_value", "three_cones", "high_dimensional_cone"]
# task -> dimension, hidden layers and their width, steps; the exact distance is 1 in all of them.
TASKS: dict[Task, dict[str, int]] = {
    "absolute_value": {"dimension": 1, "depth": 2, "width": 128, "steps": 300},
    "three_cones": {"dimension": 2, "depth": 3, "width": 128, "steps": 800},
    "high_dimensional_cone": {"dimension": 128, "depth": 3, "width": 128, "steps": 400},
}
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "ReLU": {"activation": "relu"},
    "MaxMin": {"group_size": 2},
    "FullSort": {"group_size": None},
}
_CONES = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]])


def sample(task: Task, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` points of each of the two distributions, (count, dimension).

    absolute_value: 0 against +-1; three_cones: (-2,0), (0,0), (2,0) against the unit circles about
    them; high_dimensional_cone: the origin against the unit sphere.
    """
    dimension = TASKS[task]["dimension"]
    if task == "absolute_value":
        inner = torch.zeros(count, 1)
        return inner, torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0)[:, None]
    inner = torch.zeros(count, dimension)
    if task == "three_cones":
        inner = _CONES[torch.arange(count) % 3]
    noise = torch.randn(count, dimension, generator=random)
    return inner, inner + noise / noise.norm(dim=1, keepdim=True)


def estimate(stack: ModelStack, task: Task, *, count: int = 3000) -> Tensor:
    """E_Q f - E_P f on fresh points, float64 (num_models,): a lower bound for 1-Lipschitz f."""
    inner, outer = sample(task, count, generator("wasserstein", "test", task))
    values = stack(torch.cat([inner, outer]).double())[..., 0]
    return values[:, count:].mean(1) - values[:, :count].mean(1)


def fit(
    task: Task,
    activation: str,
    *,
    seeds: Sequence[int],
    width: int | None = None,
    batch_size: int = 128,
    learning_rate: float = 5e-3,
    steps: int | None = None,
) -> ModelStack:
    """Train one network per seed to maximise the dual objective; Adam, cosine."""
    options = TASKS[task]
    random = [generator("wasserstein", task, seed) for seed in seeds]

    def loss(forward: Forward, step: int) -> Tensor:
        inner, outer = zip(*[sample(task, batch_size, g) for g in random], strict=True)
        values = forward(torch.cat([torch.stack(inner), torch.stack(outer)], 1))[..., 0]
        return values[:, :batch_size].mean(1) - values[:, batch_size:].mean(1)

    kind = {"depth": options["depth"], **ACTIVATIONS[activation]}
    drawn = lipschitz_mlps(seeds, (options["dimension"],), 1, width or options["width"], **kind)
    return minimise(drawn, loss, steps=steps or options["steps"], learning_rate=learning_rate)


def run(*, seeds: Sequence[int] = (0, 1, 2), tasks: Sequence[Task] = tuple(TASKS)) -> pd.DataFrame:
    """One row per task, activation and seed: the estimate and the certified constant."""
    rows = []
    for task in tasks:
        for activation in ACTIVATIONS:
            stack = certified(fit(task, activation, seeds=seeds))
            values, constants = estimate(stack, task), layer_product(stack)
            print(f"{task}, {activation}: {values.tolist()}, constant {constants.max().item()!r}")
            rows += [
                (task, activation, seed, value, constant)
                for seed, value, constant in zip(
                    seeds, values.tolist(), constants.tolist(), strict=True
                )
            ]
    columns = ["task", "activation", "seed", "estimate", "certified_constant"]
    return pd.DataFrame(rows, columns=columns)


def draw(frame: pd.DataFrame) -> Figure:
    """One panel per task, one column per activation, a point per seed."""
    figure, axes = panels(frame["task"].nunique(), sharey=True)
    for axis, (task, rows) in zip(axes, frame.groupby("task", sort=False), strict=True):
        for i, (_, part) in enumerate(rows.groupby("activation", sort=False)):
            axis.plot([i] * len(part), part["estimate"], linestyle="", **look(i))
        axis.axhline(1, color=GREY, linestyle=":")
        axis.set_xticks(range(len(ACTIVATIONS)), list(ACTIVATIONS))
        axis.set(xlim=(-0.5, len(ACTIVATIONS) - 0.5), xlabel="activation")
        axis.set_title(str(task).replace("_", " "))
    axes[0].set_ylabel("estimated distance (exact: 1)")
    return figure
