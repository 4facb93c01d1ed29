"""The table of peers: what it says of values that are wrong, late, or not there."""

import math

import peers
import pytest
from torch import nn

from lipdescent.bounds import upper_lipsdp


def missing():
    raise ImportError("no such package")


@pytest.mark.parametrize(
    ("answer", "value", "verdict"),
    [
        (lambda: 1.999, "1.999", "REFUTED: the constant is at least 2"),
        (lambda: 2.5, "2.5", "no proof; not refuted"),
        (lambda: math.nan, "no solution within the limit", ""),
        (missing, "not installed", ""),
        (lambda: 1 / 0, "fails: ZeroDivisionError", ""),
    ],
)
def test_what_a_row_says_of_a_peer(answer, value, verdict):
    cells = peers.row("a network", 2.0, "a peer", answer)
    assert (cells[2], cells[-1]) == (value, verdict)


def test_an_own_bound_is_certified_and_rounded_up():
    model = peers.chain(3, 4, 2)
    value = peers.own(model, 3, "upper_lipsdp")
    cells = peers.row("3-4-2", 0.0, "upper_lipsdp", lambda: value)
    assert float(cells[2]) >= value
    assert cells[-1] == "certified"
    weights = [layer.weight.detach() for layer in model if isinstance(layer, nn.Linear)]
    assert value == pytest.approx(float(upper_lipsdp.lipsdp(weights)), rel=1e-9)


def test_batch_normalisation_that_a_peer_skips_matters():
    """The question shows what it is for: the bound of the linear layers alone is refuted."""
    (question,) = peers.batch_normalised(1.0)
    without = peers.chain(10, 16, 16, 4)
    linear = [layer for layer in question.answers[-1][1].args[0] if isinstance(layer, nn.Linear)]
    for own, other in zip(linear, peers.weights_of(without), strict=True):
        assert own.weight.shape == other.shape
    skipped = float(upper_lipsdp.lipsdp([layer.weight.detach() for layer in linear]))
    assert skipped < question.lower
