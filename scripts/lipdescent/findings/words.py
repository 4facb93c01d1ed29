"""Numbers, intervals and ranges in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lipdescent.analysis.power_law import Range
from lipdescent.analysis.statistics import Estimate
from lipdescent.arithmetic import decimals
from lipdescent.jobs.words import counted

Facts = dict[str, Any]
NORMS = {"l1": "l1", "l2": "l2", "linf": "l-infinity"}
NORMS |= {f"{norm}_softmax": f"softmax, {name}" for norm, name in NORMS.items()}
SIDES = ("best lower", "best upper")


def elsewhere(files: str) -> str:
    """Of networks that were trained elsewhere, and the pattern of their files."""
    return (
        f"The networks were trained elsewhere and read from the files {files}. That they were "
        "trained on the data set named, with its labels, is not known here: the study says so. "
        "0 % label noise is these labels, whatever has made some of them wrong before."
    )


def interval(estimate: Facts, form: str = "{:.2f}") -> str:
    """``32 [32, 40]``; a dash where there is no value, or no upper end."""
    if not known(estimate):
        return "-"
    text = form.format(estimate["value"])
    if estimate["low"] is None:
        return text
    high = "-" if estimate["high"] is None else form.format(estimate["high"])
    return f"{text} [{form.format(estimate['low'])}, {high}]"


def value(estimate: Facts, form: str = "{:.2f}") -> str:
    """The value without its interval."""
    return form.format(estimate["value"]) if known(estimate) else "?"


def at_least(value: float | None, form: str = ".2f") -> str:
    """A lower bound, rounded down; a dash where there is none."""
    return "-" if value is None else decimals.at_least(value, form)


def at_most(value: float | None, form: str = ".2f") -> str:
    """An upper bound, rounded up; a dash where there is none."""
    return "-" if value is None else decimals.at_most(value, form)


def number(value: float) -> float | None:
    """For JSON, which has no NaN and no infinity."""
    return float(value) if np.isfinite(value) else None


def numbers(found: Range | Estimate) -> Facts:
    """Field -> number, for JSON."""
    return {name: number(value) for name, value in found._asdict().items()}


def known(estimate: Facts) -> bool:
    """Whether there is a value."""
    return estimate["value"] is not None


def outside(value: float | None, low: float | None, high: float | None) -> bool:
    """Whether a value is known and lies outside a known range."""
    if value is None:
        return False
    return (low is not None and value < low) or (high is not None and value > high)


def edge(peaks: Facts, place: int) -> str:
    """A star for a peak at an end of the grid."""
    outside = known(peaks["peak_width"][place]) and not peaks["peak_inside_grid"][place]
    return " *" if outside else ""


def count(values: Sequence, word: str) -> str:
    """``6 seeds``, ``1 seed``."""
    return counted(len(values), word)


def span(values: Sequence, form: Callable[[Any], str] = str) -> str:
    """``4 to 512``."""
    return form(values[0]) if len(values) == 1 else f"{form(values[0])} to {form(values[-1])}"


def share(part: int, whole: int, noun: str = "level") -> str:
    """``all 5 levels``, ``both levels``, ``2 of 5 levels``, ``the only level``."""
    if whole == 1:
        return f"{'the only' if part else 'not the only'} {noun}"
    every = "both" if whole == 2 else f"all {whole}"
    return f"{every} {noun}s" if part == whole else f"{part} of {whole} {noun}s"


def widths(possible: Sequence[int], every: Sequence[int]) -> str:
    """``16 to 40`` where they follow each other in the grid, else ``16, 40 or 64``."""
    if len(possible) == 1:
        return str(possible[0])
    places = [list(every).index(width) for width in possible]
    if places == list(range(places[0], places[-1] + 1)):
        return f"{possible[0]} {'or' if len(possible) == 2 else 'to'} {possible[-1]}"
    return f"{', '.join(map(str, possible[:-1]))} or {possible[-1]}"


def grid_end(possible: Sequence[int], every: Sequence[int]) -> str:
    """``the grid's end`` where what is largest may lie beyond; empty where it is inside."""
    ends = [end for end, at in (("start", every[0]), ("end", every[-1])) if at in possible]
    return f"the grid's {'ends' if len(ends) > 1 else ends[0]}" if ends else ""


def named(name: str, same: Mapping[str, str]) -> str:
    """``best upper (LipSDP)``: with the bound that is the best of its side everywhere."""
    own = [bound.partition(" (")[0] for bound, best in same.items() if best == name]
    return f"{name} ({own[0]})" if own else name


def distinct(names: Sequence[str], same: Mapping[str, str]) -> list[str]:
    """Names of bounds, less those that say again what the best of their side says.

    ``same`` are those that do so everywhere: name -> the best's.
    """
    return [name for name in names if same.get(name) not in names]
