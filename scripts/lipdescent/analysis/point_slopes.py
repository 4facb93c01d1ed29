"""Exponents over the further axes of a study, along groups that differ in one of them alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lipdescent.analysis import axis_choice, ladder, slopes
from lipdescent.analysis.groups import Group


def panels(groups: Sequence[Group], *, norm: str, options: Mapping[str, Any]) -> list[slopes.Panel]:
    """Fits over every further axis of numbers, of groups that differ in it alone.

    With the least and the most label noise, at the largest width and the last epoch. ``options``
    are those of :func:`lipdescent.analysis.slopes.panels`.
    """
    names_of = dict.fromkeys(axis for group in groups for axis in group.point)
    found: list[slopes.Panel] = []
    for axis in names_of:
        families: dict[tuple, list[Group]] = {}
        for group in groups:
            rest = tuple((n, v) for n, v in group.point.items() if n != axis)
            if axis in group.point:
                key = (group.dataset, group.architecture, *rest)
                families.setdefault(key, []).append(group)
        for family in families.values():
            if len(family) > 1 and axis_choice.numeric(group.point[axis] for group in family):
                found += _over_point(family, axis, norm, options)
    return found


def _over_point(
    family: list[Group], axis: str, norm: str, options: Mapping[str, Any]
) -> list[slopes.Panel]:
    """Panels of one axis and one value of all others, but for the label noise."""
    family = sorted(family, key=lambda group: group.point[axis])
    first = family[0]
    x = np.array([float(group.point[axis]) for group in family])
    curves = [slopes.curves_of(group, norm) for group in family]
    rest = {name: value for name, value in first.point.items() if name != axis}
    found = []
    for noise in first.noise_ends:
        cell = (-1, noise, -1)
        nothing = np.full(len(first.seed), np.nan)
        series = {
            name: np.stack([own[name][cell] if name in own else nothing for own in curves])
            for name in dict.fromkeys(name for own in curves for name in own)
        }
        both = zip(*(ladder.bracket(group, norm) for group in family), strict=True)
        lower, upper = (np.stack([side[cell] for side in sides]) for sides in both)
        at = {
            "architecture": first.architecture,
            **rest,
            "width": first.width[-1].item(),
            "label_noise": first.label_noise[noise].item(),
            "epoch": first.epoch[-1].item(),
        }
        found.append(slopes.fitted(axis, at, x, series, (lower, upper), options))
    return found
