"""Snowflakes against their closed forms, distances against geometry of other libraries."""

import numpy as np
import pytest
from matplotlib.path import Path

from lipdescent.experiments import _koch, koch_snowflakes

ORDERS = [0, 1, 2, 4]


def flake(order, radius=0.42):
    return _koch.snowflake(order, centre=(0.1, -0.2), radius=radius)


@pytest.mark.parametrize("order", ORDERS)
def test_perimeter_and_area_are_the_known_ones(order):
    corners, side = flake(order), 0.42 * np.sqrt(3)
    assert corners.shape == (3 * 4**order, 2)
    following = np.roll(corners, -1, 0)
    perimeter = np.linalg.norm(following - corners, axis=1).sum()
    assert perimeter == pytest.approx(3 * side * (4 / 3) ** order)
    area = abs((corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0]).sum()) / 2
    triangle = np.sqrt(3) / 4 * side**2
    assert area == pytest.approx(triangle * (1 + 3 / 5 * (1 - (4 / 9) ** order)))
    assert np.linalg.norm(corners - (0.1, -0.2), axis=1).max() == pytest.approx(0.42)


@pytest.mark.parametrize("order", ORDERS)
def test_signs_are_those_of_matplotlib_and_distances_those_to_the_edge(order):
    random = np.random.default_rng(order)
    points, corners = random.uniform(-0.8, 0.8, (400, 2)), flake(order)
    found = _koch.signed_distance(points, [corners])
    np.testing.assert_array_equal(found > 0, Path(corners).contains_points(points))
    ends = np.roll(corners, -1, 0)
    parts = np.linspace(0, 1, 41)[:, None, None]
    dense = ((1 - parts) * corners + parts * ends).reshape(-1, 2)
    nearest = np.linalg.norm(points[:, None] - dense, axis=-1).min(1)
    spacing = np.linalg.norm(ends - corners, axis=1).max() / 40
    assert (np.abs(found) <= nearest + 1e-12).all()
    assert (np.abs(found) >= nearest - spacing / 2 - 1e-12).all()


def test_distances_to_a_triangle_are_those_on_paper():
    centre, tip = np.array([[0.1, -0.2]]), np.array([[0.1, -0.2 + 0.42 + 0.3]])
    corners = flake(0)
    assert _koch.signed_distance(centre, [corners]) == pytest.approx([0.21])
    assert _koch.signed_distance(tip, [corners]) == pytest.approx([-0.3])


def test_the_distance_to_two_is_the_larger_and_1_lipschitz():
    pair = koch_snowflakes.snowflakes(4)
    points = np.random.default_rng(1).uniform(-1, 1, (300, 2)) * koch_snowflakes.WINDOW
    both = _koch.signed_distance(points, pair)
    alone = [_koch.signed_distance(points, [one]) for one in pair]
    np.testing.assert_allclose(both, np.maximum(*alone))
    apart = np.linalg.norm(points[:, None] - points, axis=-1)
    assert (np.abs(both[:, None] - both) <= apart + 1e-12).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": -1, "radius": 1}, "order = -1: allowed are integers >= 0"),
        ({"order": 1, "radius": 0}, "radius = 0: allowed are positive numbers"),
    ],
)
def test_no_other_snowflakes(options, message):
    with pytest.raises(ValueError, match=message):
        _koch.snowflake(centre=(0, 0), **options)


def test_networks_come_nearer_to_the_distance_and_are_certified():
    options = {"seeds": [0], "kinds": ["MaxMin, distance"], "width": 16, "num_rows": 13}
    options |= {"num_train": 2000, "order": 2, "depth": 2}
    early, late = (koch_snowflakes.run(steps=steps, **options) for steps in (1, 150))
    early, late = (f[f["what"] == "network"].iloc[0] for f in (early, late))
    assert late["mean_error"] < early["mean_error"] / 2 < 0.5
    assert late["largest_gradient"] <= late["certified_constant"] + 1e-12
    assert late["certified_constant"] <= 1
    field = koch_snowflakes.run(steps=1, **options).query("what == 'field'")
    corners = koch_snowflakes.snowflakes(2)
    inside = np.any([Path(c).contains_points(field[["x", "y"]]) for c in corners], axis=0)
    np.testing.assert_array_equal(field["distance"] > 0, inside)


@pytest.mark.parametrize("option", [{"margin": 0.0}, {"learning_rate": -1.0}, {"num_rows": 0}])
def test_bad_options_are_named(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"{name} = {value}: allowed are"):
        koch_snowflakes.run(**option)
