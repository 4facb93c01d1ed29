"""Words for curves against curves whose truth is known: noise, one peak, double descent."""

import numpy as np
import pytest

from lipdescent.analysis import curve_shape
from lipdescent.analysis.curve_shape import DOUBLE_DESCENT, NO_PEAK, ONE_PEAK, UNKNOWN

WIDTHS = 12
PLACES = np.linspace(0, 1, WIDTHS)
# Mean curves that lack a step of double descent, and what may be said of them.
NULLS = {
    "flat": (0 * PLACES, set()),
    "falling": (-3 * PLACES, set()),
    "falls once, early": (-20.0 * (PLACES > 0.3), set()),
    "falls once, late": (-20.0 * (PLACES > 0.9), set()),
    "falls, rises and stays": (np.interp(PLACES, [0, 0.2, 0.5, 1], [9, 0, 20, 20]), set()),
    "rises and falls": (np.interp(PLACES, [0, 0.5, 1], [0, 20, 0]), {ONE_PEAK}),
    "stays, rises and falls": (20.0 * ((PLACES > 0.5) & (PLACES < 0.8)), {ONE_PEAK}),
}
NOISES = {
    "normal": lambda draws, shape: draws.normal(size=shape),
    "skew": lambda draws, shape: draws.exponential(size=shape),
    "larger at some widths": lambda draws, shape: (
        draws.normal(size=shape) * np.geomspace(0.3, 3, shape[-1])
    ),
    "shared by a seed's networks": lambda draws, shape: (
        draws.normal(size=shape) + 2 * draws.normal(size=(*shape[:2], 1))
    ),
}


def verdicts(curve, *, noise, seeds, studies, scale=1.0):
    """Share of each word over made-up studies."""
    draws = np.random.default_rng(3)
    values = curve + scale * NOISES[noise](draws, (studies, seeds, len(curve)))
    found = [curve_shape.shape(study.T, confidence=0.95).verdict for study in values]
    return {word: found.count(word) / studies for word in (DOUBLE_DESCENT, ONE_PEAK, NO_PEAK)}


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("noise", NOISES)
def test_curves_that_lack_a_step_are_rarely_given_its_word(name, noise):
    curve, allowed = NULLS[name]
    found = verdicts(curve, noise=noise, seeds=6, studies=250)
    wrong = sum(found[word] for word in {DOUBLE_DESCENT, ONE_PEAK} - allowed)
    # 5 %, and 2.3 standard errors of 250 draws.
    assert wrong <= 0.05 + 2.3 * np.sqrt(0.05 * 0.95 / 250)


@pytest.mark.parametrize("seeds", [4, 20])
def test_pure_noise_has_no_peak_at_any_number_of_seeds(seeds):
    found = verdicts(0 * PLACES, noise="normal", seeds=seeds, studies=500)
    assert found[NO_PEAK] >= 0.95
    # What the word was given to before: a largest mean inside of the grid.
    means = np.random.default_rng(0).normal(size=(500, WIDTHS)).argmax(-1)
    assert ((means > 0) & (means < WIDTHS - 1)).mean() > 0.75


@pytest.mark.parametrize(("seeds", "least"), [(4, 0.5), (6, 0.95), (10, 0.99)])
def test_double_descent_with_moderate_noise_is_found(seeds, least):
    """Losses 2, 1.4, 5, 2.4 at the four turns; those of the seeds differ by a tenth."""
    curve = np.log(np.interp(PLACES, PLACES[[0, 3, 6, 11]], [2, 1.4, 5, 2.4]))
    found = verdicts(curve, noise="normal", seeds=seeds, studies=200, scale=0.1)
    assert found[DOUBLE_DESCENT] >= least
    # One peak is tested for at fewer places.
    one = np.log(np.interp(PLACES, [0, 0.5, 1], [1.4, 5, 2.4]))
    assert verdicts(one, noise="normal", seeds=seeds, studies=200, scale=0.1)[ONE_PEAK] >= least


def test_limits_of_the_steps_hold_though_their_places_are_chosen():
    draws = np.random.default_rng(0)
    curve = np.array([2.0, 0, 5, 5, 1])
    steps = {"descent": 2, "rise": 5, "fall": 4}
    missed = dict.fromkeys(steps, 0)
    for noise in draws.normal(size=(400, 6, 5)):
        found = curve_shape.shape((curve + noise / 3).T, confidence=0.95)
        assert (found.verdict, found.minimum) == (DOUBLE_DESCENT, 1)
        assert found.peak in (2, 3)
        for name, size in steps.items():
            missed[name] += getattr(found, name) > size
    assert max(missed.values()) / 400 <= 0.05


def test_what_cannot_be_told_is_unknown():
    assert curve_shape.shape(np.ones((5, 3)), confidence=0.95).verdict == UNKNOWN
    assert curve_shape.shape(np.ones((2, 9)), confidence=0.95).verdict == UNKNOWN
    assert curve_shape.shape(np.ones((5, 6)), confidence=0.95).verdict == NO_PEAK
    absent = np.full((5, 6), np.nan)
    assert curve_shape.shape(absent, confidence=0.95).verdict == NO_PEAK
    with np.errstate(divide="ignore"):
        dead = np.log(np.zeros((5, 6)))
    assert curve_shape.shape(dead, confidence=0.95).verdict == NO_PEAK
    three = curve_shape.shape(np.array([[0.0], [9], [1]]) + np.arange(6) / 10, confidence=0.95)
    assert (three.verdict, three.peak, three.minimum) == (ONE_PEAK, 1, -1)
