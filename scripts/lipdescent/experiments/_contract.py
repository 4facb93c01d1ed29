"""What an experiment's file offers. tests/experiments/test_contract.py asks it of every one."""

from typing import Protocol

import pandas as pd
from matplotlib.figure import Figure


class ExperimentPlugin(Protocol):
    """A module ``experiments/NAME.py``. Its docstring is the figure's caption.

    It may have ``CHECK``, a function of :mod:`lipdescent.experiments._options` with the parameters
    of ``run``: it refuses before any job what ``run`` refuses.
    """

    def run(self) -> pd.DataFrame:
        """A tidy table: a column each for what was varied and measured, a row each time.

        Keyword parameters with a default are options of the configuration, under ``experiments:
        NAME:``; a list may be run in parts, side by side (``execution: split:``), whose rows are
        joined. Random numbers come from seeds of its own: the same options give the same table, and
        the random generators of numpy and torch are as before.

        Raises
        ------
        ValueError
            For an option that is out of range, naming it.
        """
        ...

    def draw(self, frame: pd.DataFrame) -> Figure:
        """Its figure, from the table alone, as it is read back from a file."""
        ...
