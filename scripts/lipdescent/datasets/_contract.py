"""What a data set's file offers. tests/datasets/test_contract.py asks it of every one."""

from typing import Protocol

from lipdescent.datasets import Dataset


class DatasetPlugin(Protocol):
    """A module ``datasets/NAME.py``.

    It may say ``INPUT_SHAPE`` (without the number of points), ``NUM_CLASSES``, ``NUM_TRAIN`` and
    ``NUM_TEST`` as literals: a configuration is then checked before any job. More keyword
    parameters with a default are options of the configuration, under ``datasets: NAME:``.
    """

    def load(
        self, *, num_train: int | None = None, num_test: int | None = None, seed: int = 0
    ) -> Dataset:
        """The first or a random ``num_train`` and ``num_test`` of the points; None for all.

        Inputs are float32 (n, *INPUT_SHAPE), labels int64 (n,) in 0..num_classes-1, on the host
        and without any label noise. The same arguments give the same bytes; random generators of
        numpy and torch are neither drawn from nor seeded.

        Raises
        ------
        ValueError
            For a count that is not between 1 and the number of points, naming it.
        FileNotFoundError
            For data that are not here: what to put where.
        """
        ...
