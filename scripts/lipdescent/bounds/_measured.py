"""Whether what a bound yields can be published, and how its faults are described."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lipdescent.bounds import Measurement

DIRECTIONS = ("upper", "lower", "estimate", "metric")
BOUNDS = ("upper", "lower")


def check_measurement(m: object, num_models: int, *, norms: Sequence[str]) -> None:
    """Raise TypeError or ValueError for what is no measurement of ``num_models`` networks.

    A bound is a number >= 0 or infinite, float64, in one of the norms that were asked for.
    """
    if not isinstance(m, Measurement):
        raise TypeError(f"yields a {type(m).__name__}, expected Measurement")
    if not isinstance(m.values, Tensor) or m.values.dtype != torch.float64:
        kind = getattr(m.values, "dtype", type(m.values).__name__)
        raise TypeError(f"{m.quantity}: values are {kind}, expected float64: round_up, round_down")
    if tuple(m.values.shape) != (num_models,):
        shape = tuple(m.values.shape)
        raise ValueError(f"{m.quantity}: values of shape {shape}, expected ({num_models},)")
    if m.defined is not None and (
        m.defined.dtype != torch.bool or m.defined.shape != m.values.shape
    ):
        raise TypeError(f"{m.quantity}: defined is {m.defined.dtype}, expected bool (num_models,)")
    if m.direction not in DIRECTIONS:
        allowed = ", ".join(DIRECTIONS)
        raise ValueError(f"{m.quantity}: direction {m.direction!r}, allowed are {allowed}")
    if m.direction not in BOUNDS:
        return
    if m.norm not in norms:
        raise ValueError(f"{m.quantity}: norm {m.norm!r}, asked for was {', '.join(norms)}")
    values = m.values if m.defined is None else m.values[m.defined.to(m.values.device)]
    bad = ~(values >= 0)  # NaN, too
    if bool(bad.any()):
        raise ValueError(
            f"{m.quantity}: {float(values[bad][0])} as {m.direction} bound of {int(bad.sum())} of "
            f"{num_models} networks; allowed are numbers >= 0, and inf"
        )


def described(error: BaseException) -> str:
    """``TypeError: message (upper_mine.py, line 12)``, the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).parent.name == "bounds"]
    named = [frame for frame in own if not Path(frame.filename).name.startswith("_")] or own
    frame = (named or frames)[-1] if frames else None
    place = f" ({Path(frame.filename).name}, line {frame.lineno})" if frame else ""
    return f"{type(error).__name__}: {error}{place}"
