"""What a figure's file offers. tests/figures/test_contract.py asks it of every one."""

from collections.abc import Mapping
from typing import Any, Protocol

from matplotlib.figure import Figure

from lipdescent.analysis.groups import Group


class FigurePlugin(Protocol):
    """A module ``figures/NAME.py``. Its docstring is the caption.

    It says what is shown of the seeds, and that diverged models are left out.
    """

    def draw(self, group: Group, *, statistics: Mapping[str, Any], loss: str) -> Figure:
        """One data set and architecture, drawn.

        ``group`` has its series as float64 (widths, noises, epochs, seeds), NaN where a model
        diverged or has no such value; every axis may have the length 1, and bounds may be missing.
        ``statistics`` are ``bootstrap``, ``confidence`` and ``interpolation_accuracy`` of the
        configuration, ``loss`` the name of the training loss. The same group gives the same
        figure, without pyplot or a draw from a global generator.
        """
        ...
