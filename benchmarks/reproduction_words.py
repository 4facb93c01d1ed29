"""A paper's statement, and what a study gives for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# The seeds' range is widened by this share: few seeds, and numbers read off figures.
TOLERANCE = 0.1


class Measured(NamedTuple):
    """What one study gives for one statement.

    Attributes
    ----------
    values : one per seed, or one alone.
    bracket : smallest lower and largest upper bound of what the statement is about, over the seeds.
    holds : of a statement without a number, whether it does; None where it has one.
    note : what else the run shows: why it differs, at which widths.
    """

    values: list[float]
    bracket: tuple[float, float] | None = None
    holds: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Statement:
    """One sentence of a paper.

    Attributes
    ----------
    experiment : its number in the list of the main paper's experiments, or the paper's short name.
    paper : number or both ends of a range; None where the sentence has none.
    mark : where the number is from: paper, code, measured (by us, beforehand) or derived.
    studies : the first that has been run is taken; short ones are named so.
    take : a study's results -> what they give.
    tolerance : see :func:`verdict`.
    of_constant : whether the number is said of the true constant, so that the bracket decides.
    from_numbers : whether the study's file in docs/numbers is read, not its results.
    """

    key: str
    experiment: str
    sentence: str
    paper: float | tuple[float, float] | None
    mark: str
    studies: tuple[str, ...]
    take: Callable[[Path], Measured]
    tolerance: float = TOLERANCE
    of_constant: bool = False
    from_numbers: bool = False
