"""A regular grid over the data's bounding box, or a given one, for inputs of few dimensions."""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from lipdescent.points._parts import PART_POINTS, Points, check_count, check_inputs
from lipdescent.stacks.model_stack import ModelStack

MOST = 10**9  # points


def draw(
    stack: ModelStack,
    inputs: Mapping[str, Tensor],
    *,
    labels: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    num_per_axis: int = 100,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Points]:
    """The split ``grid`` of ``num_per_axis`` points along each axis, ends included.

    Parameters
    ----------
    low, high : ends of every axis, in units of the inputs; None: the data's smallest and largest
        value along it.

    Raises
    ------
    ValueError
        Without data, for more than 10^9 points, or low > high.
    """
    check_inputs(inputs)
    check_count("num_per_axis", num_per_axis)
    data = torch.cat([points.flatten(1).to(torch.float64) for points in inputs.values()])
    least, most = data.amin(0), data.amax(0)
    least = least if low is None else torch.full_like(least, low)
    most = most if high is None else torch.full_like(most, high)
    if bool((least > most).any()):
        raise ValueError(f"low = {low}, high = {high}: allowed is low <= high along each axis")
    count = num_per_axis ** len(least)
    if count > MOST:
        raise ValueError(
            f"num_per_axis = {num_per_axis}: {count:.3g} points of {len(least)} dimensions; "
            f"allowed are {MOST} points (a grid is for few dimensions)"
        )
    shape = tuple(stack.input_shape)
    return {"grid": Points(count, partial(_parts, least, most, num_per_axis, shape))}


def _parts(least: Tensor, most: Tensor, each: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    ends = torch.stack([least, most], 1).tolist()
    axes = torch.stack([torch.linspace(a, b, each, dtype=torch.float64) for a, b in ends])
    axes = axes.to(least.device)
    dimensions = torch.arange(len(least), device=least.device)
    for begin in range(0, each ** len(least), PART_POINTS):
        stop = min(begin + PART_POINTS, each ** len(least))
        place = torch.arange(begin, stop, device=least.device)[:, None]
        index = place // each ** dimensions.flip(0) % each
        yield axes[dimensions, index].view(-1, *shape)
