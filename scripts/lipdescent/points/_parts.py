"""A set of points that is never in memory as a whole."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

PART_POINTS, PART_VALUES = 2**13, 2**24  # of a part, at most; 128 MiB of float64
WHOLE_VALUES = 2**28  # 2 GiB, of a set that is wanted in one piece


@dataclass(frozen=True)
class Points:
    """The points of one split.

    Attributes
    ----------
    count : how many (each model has).
    parts : makes them, in the same parts each time: (n, *input_shape), or each model's own,
        (num_models, n, *input_shape).
    own : whether each model has its own.
    """

    count: int
    parts: Callable[[], Iterator[Tensor]]
    own: bool = False

    def whole(self) -> Tensor:
        """All of them.

        Raises
        ------
        ValueError
            If they are too many to be held at once.
        """
        found: list[Tensor] = []
        for part in self.parts():
            found.append(part)
            if sum(one.numel() for one in found) > WHOLE_VALUES:
                raise ValueError(
                    f"points: {self.count} of {part[0].numel()} numbers; allowed are "
                    f"{WHOLE_VALUES} numbers in all for this bound, which needs all at once"
                )
        return torch.cat(found, dim=int(self.own))


def of_tensor(points: Tensor, *, models: int = 1) -> Iterator[Tensor]:
    """Parts of points (n, *input_shape) that make no more than a part for each of ``models``."""
    most = PART_VALUES // max(1, models * points[0].numel())
    yield from points.split(max(1, min(PART_POINTS, most)))


def some(points: Tensor, count: int | None, seed: int) -> Tensor:
    """``count`` of the points, drawn without replacement, in their order; all for None."""
    return points if count is None else points[chosen(points, count, seed).to(points.device)]


def chosen(points: Tensor, count: int | None, seed: int) -> Tensor:
    """Indices of :func:`some`."""
    if count is None or count >= len(points):
        return torch.arange(len(points))
    check_count("num_points", count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(points), generator=generator)[:count].sort().values


def check_count(name: str, value: object) -> None:
    """Raise ValueError for what is not a positive integer."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} = {value!r}: allowed are integers >= 1")


def check_inputs(inputs: Mapping[str, Tensor]) -> None:
    """Raise ValueError without data."""
    if not inputs:
        raise ValueError("inputs: no split; a lower bound on data needs at least one")
