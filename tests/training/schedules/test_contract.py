"""Every schedule keeps the contract of training/schedules/_contract.py."""

import contracts
import numpy as np
import pytest

from lipdescent.training.schedules._contract import SchedulePlugin

SCHEDULES = contracts.plugins("schedules")
PER_EPOCH, TOTAL = 10, 1000
UPDATES = np.arange(TOTAL)
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def factors(name: str, update: np.ndarray) -> np.ndarray:
    schedule = SCHEDULES[name].factors
    return schedule(update, updates_per_epoch=PER_EPOCH, total_updates=TOTAL)


@every_schedule
def test_signature(name):
    contracts.check(SCHEDULES[name], SchedulePlugin)
    assert not contracts.needed(SCHEDULES[name].factors)[2:], "options have defaults"


@every_schedule
def test_factors_are_in_range_and_start_where_they_should(name):
    with contracts.no_global_draws():
        found = factors(name, UPDATES)
    assert (found.shape, found.dtype) == (UPDATES.shape, np.float64)
    assert ((found >= 0) & (found <= 1)).all()
    assert found[0] <= 1e-3 + 0.02 if name.startswith("warmup") else found[0] == 1


@every_schedule
def test_an_update_s_factor_does_not_depend_on_the_others(name):
    """A training that goes on after a stop asks for what is left."""
    update = UPDATES.copy()
    assert np.array_equal(factors(name, update[357:450]), factors(name, update)[357:450])
    assert np.array_equal(update, UPDATES)
    assert factors(name, update[:0]).shape == (0,)
