"""Margins of 1-Lipschitz functions against linear programs, and the class's dimension."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import linprog

from lipdescent.experiments import margin_class


def largest_margin(points, labels):
    """Of values v_i = f(x_i): max m with y_i v_i >= m and |v_i - v_j| <= |x_i - x_j|."""
    count = len(points)
    rows, bounds = [], []
    for i in range(count):
        rows.append([-labels[i] * (j == i) for j in range(count)] + [1])
        bounds.append(0)
    for i, j in itertools.permutations(range(count), 2):
        rows.append([(k == i) - (k == j) for k in range(count)] + [0])
        bounds.append(abs(points[i] - points[j]))
    free = [(None, None)] * count + [(None, 10)]
    return -linprog([0] * count + [-1], A_ub=rows, b_ub=bounds, bounds=free).fun


@pytest.mark.parametrize("seed", range(6))
def test_the_construction_fits_as_much_as_a_linear_program(seed):
    random = np.random.default_rng(seed)
    points = [Fraction(int(p), 1000) for p in sorted(random.choice(1000, 5, replace=False))]
    labels = random.permutation([-1, 1, 1, -1, 1]).tolist()
    best = Fraction(largest_margin(list(map(float, points)), labels)).limit_denominator(10000)
    assert margin_class.constructed(points, labels, best) == best
    more = best + Fraction(1, 10000)
    assert margin_class.constructed(points, labels, more) < more


@pytest.mark.parametrize("margin", ["0.5", "0.25", "0.2", "0.125", "0.1", "0.3"])
def test_so_many_points_are_shattered_and_no_more(margin):
    """The margins at which floats would round floor(L / 2m) down are among them."""
    length, m = Fraction(1), Fraction(margin)
    most = margin_class.most_points(length, m)
    assert most == int(np.floor(float(length / m) / 2 + 1e-9)) + 1
    points = margin_class.evenly(most, length) if most > 1 else [length]
    assert margin_class.shattered(points, m)
    # One more: the alternating labels of evenly spread points, the best spread there is.
    more = margin_class.evenly(most + 1, length)
    alternating = [(-1) ** i for i in range(most + 1)]
    assert largest_margin(list(map(float, more)), alternating) < float(m)
    assert not margin_class.shattered(more, m)


def test_two_points_nearer_than_twice_the_margin_have_one_label():
    m = Fraction(1, 10)
    near, apart = [Fraction(0), 2 * m - Fraction(1, 10**9)], [Fraction(0), 2 * m]
    assert not margin_class.shattered(near, m)
    assert margin_class.shattered(apart, m)


def test_networks_fit_no_more_than_the_best_margin():
    margins, constant = margin_class.trained_margins(3, Fraction(1), seed=0, steps=150, width=8)
    assert len(margins) == 8
    assert constant <= 1
    mixed = [m for m, y in zip(margins, itertools.product((-1, 1), repeat=3), strict=True)
             if len({*y}) == 2]  # fmt: skip
    assert min(mixed) > 0.2
    alternating = margins[0b010], margins[0b101]
    assert max(alternating) <= 0.25 + 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margins": [0.0]}, "margin = 0.0: allowed are positive numbers"),
        ({"length": -1.0}, "length = -1.0: allowed are positive numbers"),
        ({"counts": [1], "margins": []}, "counts contains 1: allowed are integers >= 2"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        margin_class.run(**options)
