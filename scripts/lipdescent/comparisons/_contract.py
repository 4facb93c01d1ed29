"""What a comparison's file offers. tests/comparisons/test_contract.py asks it of every one."""

from collections.abc import Mapping
from typing import Any, Protocol

from matplotlib.figure import Figure

from lipdescent.analysis.groups import Group


class ComparisonPlugin(Protocol):
    """A module ``comparisons/NAME.py``. Its docstring is the caption.

    It says what is shown of the seeds, and that diverged models are left out.
    """

    def draw(
        self,
        groups: Mapping[str, Group],
        *,
        statistics: Mapping[str, Any],
        losses: Mapping[str, str],
    ) -> Figure:
        """Several architectures of a data set, drawn.

        ``groups`` and ``losses`` are by architecture, in the configuration's order; all else is as
        in :class:`lipdescent.figures._contract.FigurePlugin`.
        """
        ...
