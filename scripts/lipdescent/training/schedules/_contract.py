"""What a schedule's file offers. tests/training/schedules/test_contract.py asks every one."""

from typing import Protocol

import numpy as np


class SchedulePlugin(Protocol):
    """A module ``training/schedules/NAME.py``.

    More keyword parameters with a default are options of the configuration's ``schedule_options``.
    """

    def factors(
        self, update: np.ndarray, *, updates_per_epoch: int, total_updates: int
    ) -> np.ndarray:
        """Factors of the learning rate, float64 (n,), for updates int64 (n,), 0 for the first.

        In [0, 1], and of each update by itself: a training that goes on asks for the rest only.
        """
        ...
