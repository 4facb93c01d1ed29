"""Regions hold what they say: projections, membership, distances."""

from fractions import Fraction

import pytest
import torch

from lipdescent.domains.domain import Ball, Box, Everywhere, domain_of


@pytest.mark.parametrize("radius", [1e-9, 0.1, 3.0])
def test_projected_points_lie_in_the_ball_in_exact_arithmetic(radius):
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    regions = Ball(radius).regions((3,), centers)
    points = 4 * torch.randn(50, 3, generator=generator, dtype=torch.float64)
    at = regions.nearest(points)
    moved = regions.project(points, at)
    for point, center in zip(moved, centers[at], strict=True):
        square = sum(
            (Fraction(float(p)) - Fraction(float(c))) ** 2
            for p, c in zip(point, center, strict=True)
        )
        assert square <= Fraction(radius) ** 2
    assert regions.contain(moved).float().mean() > 0.9  # but for those within rounding


def test_a_ball_of_radius_0_is_its_centre():
    center = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    regions = Ball(0.0).regions((2,), center)
    assert torch.equal(regions.project(torch.ones(1, 2).double(), torch.tensor([0])), center)
    assert float(regions.reach("l2")) == 0 == float(regions.half().max())


def test_a_box_keeps_what_is_inside_and_moves_the_rest():
    regions = Box(0.0, torch.tensor([1.0, 2.0])).regions((2,))
    points = torch.tensor([[0.5, 1.5], [-1.0, 3.0]], dtype=torch.float64)
    moved = regions.project(points, regions.nearest(points))
    assert moved.tolist() == [[0.5, 1.5], [0.0, 2.0]]
    assert regions.contain(points).tolist() == [True, False]
    assert float(regions.reach("linf")) == pytest.approx(1.0)
    assert float(regions.reach("l2")) == pytest.approx(1.25**0.5)


def test_everywhere_holds_everything():
    regions = Everywhere().regions((2,))
    assert bool(regions.contain(torch.tensor([[1e300, -1e300]])).all())
    assert not regions.bounded


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_boxes_that_are_none_are_refused(low, high):
    with pytest.raises(ValueError, match="allowed"):
        Box(low, high)


def test_a_ball_needs_centres_of_the_inputs_shape():
    with pytest.raises(ValueError, match="without data"):
        Ball(0.1).regions((2,))
    with pytest.raises(ValueError, match="centers"):
        Ball(0.1).regions((2,), torch.zeros(3, 4))


def test_a_configuration_says_the_same_domain():
    assert domain_of({"box": [0, 1]}) == Box(0.0, 1.0)
    assert domain_of({"ball": {"radius": 0.5, "norm": "linf"}}) == Ball(0.5, "linf")
    assert domain_of(None) == Everywhere() == domain_of(Everywhere())
