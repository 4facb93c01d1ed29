"""Which options fit the experiments: a function each, its errors name them.

An experiment's file names its own as ``CHECK``: ``run`` calls it, and so does the check of a
configuration before any job, which leaves out what the configuration does. No PyTorch here:
importing it would take longer than everything else in a dry run.
"""

from collections.abc import Sequence
from typing import Any

from lipdescent.architectures._sizes import check_coefficient

DATASETS = ("digits", "fashion_mnist")
DOWNSAMPLING = ("none", "average", "strided")


def residual_images(
    *,
    datasets: Sequence[str] = DATASETS,
    coefficients: Sequence[float | None] = (None,),
    seeds: Sequence[int] = (0,),
    steps: int = 1,
    downsampling: Sequence[str] = DOWNSAMPLING,
    widths: Sequence[int] = (),
    width: int | None = None,
    **_: Any,
) -> None:
    """Residual networks on images: data sets, kinds of networks, largest constants of a layer.

    Raises
    ------
    ValueError
        For another data set or kind than ours, a coefficient that is neither positive nor None, a
        width or a number of steps below 1, or lists that are empty or name something twice.
    """
    wanted: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "datasets": (datasets, DATASETS),
        "downsampling": (downsampling, DOWNSAMPLING),
    }
    for name, (values, allowed) in wanted.items():
        for value in values:
            if value not in allowed:
                raise ValueError(f"{name} = {value!r}: allowed are {', '.join(allowed)}")
    for coefficient in coefficients:
        check_coefficient(coefficient)
    every: dict[str, Sequence[Any]] = {
        "datasets": datasets,
        "downsampling": downsampling,
        "coefficients": coefficients,
        "seeds": seeds,
    }
    for name, each in every.items():
        if not each or len(set(each)) < len(each):
            raise ValueError(f"{name} = {list(each)}: allowed is at least one, each once")
    for number in (*widths, *(() if width is None else (width,))):
        if number < 1:
            raise ValueError(f"width = {number}: allowed are numbers >= 1")
    if steps < 1:
        raise ValueError(f"steps = {steps}: allowed are numbers >= 1")
