"""Whether what a bound yields can be published, and how its faults are described."""

import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lipdescent.measurement import Measurement

DIRECTIONS = ("upper", "lower", "estimate", "metric")
BOUNDS = ("upper", "lower")


def check_measurement(m: object, name: str, num_models: int, *, norms: Sequence[str]) -> None:
    """Raise TypeError or ValueError for what is no measurement of ``num_models`` networks.

    Its values are float64 (num_models,); a bound has the ``name`` of its file, which suffixes may
    follow, and a norm that was asked for.
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
    if m.direction in BOUNDS and not m.quantity.startswith(name):
        raise ValueError(f"{m.quantity}: allowed for bounds of {name}.py is {name}")
    if m.direction in BOUNDS and m.norm not in norms:
        raise ValueError(f"{m.quantity}: norm {m.norm!r}, asked for was {', '.join(norms)}")


def checked(
    found: Iterable[Measurement], name: str, num_models: int, *, norms: Sequence[str]
) -> Iterator[Measurement]:
    """All that a bound yields, each a row of its own.

    Raises
    ------
    TypeError, ValueError
        As :func:`check_measurement`; for the same quantity twice; if nothing is yielded.
    """
    seen = set()
    for m in found:
        check_measurement(m, name, num_models, norms=norms)
        row = (m.quantity, m.direction, m.norm, m.split)
        if row in seen:
            raise ValueError(f"yields {m.quantity} (norm {m.norm!r}, split {m.split!r}) twice")
        seen.add(row)
        yield m
    if not seen:
        raise ValueError(f"yields no measurement; asked for was {', '.join(norms)}")


def no_bound(m: Measurement) -> Tensor:
    """True where a bound's value is negative: bool (num_models,)."""
    wrong = m.values < 0 if m.direction in BOUNDS else torch.zeros_like(m.values).bool()
    return wrong if m.defined is None else wrong & m.defined.to(wrong.device)


def described(error: BaseException, name: str) -> str:
    """``TypeError: message (upper_mine.py, line 12)``, the last place in a bound's own file."""
    frames = traceback.extract_tb(error.__traceback__)
    files = [(Path(frame.filename), frame.lineno) for frame in frames]
    own = [(p.name, line) for p, line in files if p.parent.name == "bounds" and p.name[0] != "_"]
    place = "{}, line {}".format(*own[-1]) if own else f"{name}.py"
    return f"{type(error).__name__}: {error} ({place})"


def of_the_machine(error: Exception) -> bool:
    """Whether no change of a bound's code would help: memory, disk or device failed."""
    if isinstance(error, (MemoryError, OSError, torch.OutOfMemoryError)):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory", "CUDA error")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
