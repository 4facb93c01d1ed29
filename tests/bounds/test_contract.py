"""Every bound keeps the contract of bounds/_contract.py.

That its values are bounds, rounding included, each one's own tests say; that it runs where the
stack is, test_cuda.py of every bound.
"""

import functools

import contracts
import pytest
import torch
from small_budgets import SMALL
from torch import Tensor, nn

from lipdescent.bounds._contract import BoundPlugin
from lipdescent.bounds._measured import DIRECTIONS, checked, no_bound
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.stacks.model_stack import ModelStack

BOUNDS = contracts.plugins("bounds")
# What each is asked for here; blocks are made for convolutions.
FULLY_CONNECTED = [name for name in BOUNDS if "block" not in name]
every_bound = pytest.mark.parametrize("name", BOUNDS)


def network(name: str) -> tuple[nn.Sequential, tuple[int, ...]]:
    if name in FULLY_CONNECTED:
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (4,)
    conv = [nn.Conv2d(2, 2, 3, padding=1) for _ in range(2)]
    return nn.Sequential(conv[0], nn.ReLU(), conv[1]), (2, 4, 4)


def given(name: str) -> tuple[ModelStack, dict[str, Tensor], dict[str, Tensor]]:
    """Three networks, points of two splits, labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nets, shape = zip(*(network(name) for _ in range(3)), strict=True)
        points = {split: torch.randn(5, *shape[0]) for split in ("train", "test")}
    labels = {split: torch.arange(5) % 3 for split in points}
    return ModelStack.from_modules([net.eval() for net in nets], shape[0]), points, labels


def measured(name: str, data: tuple, **wanted) -> list[Measurement]:
    bound, (stack, points, labels) = BOUNDS[name], data
    options = {"norms": bound.NORMS, "seed": 0} | SMALL.get(name, {}) | wanted
    if contracts.takes(bound.measure, "labels"):
        options["labels"] = labels
    return list(bound.measure(stack, inputs=points, **options))


@functools.cache
def of_every_norm(name: str) -> list[Measurement]:
    with contracts.no_global_draws():
        return measured(name, given(name))


def rows(found: list[Measurement]) -> dict[tuple, Tensor]:
    return {(m.quantity, m.direction, m.norm, m.split): m.values for m in found}


@every_bound
def test_signature(name):
    bound = BOUNDS[name]
    contracts.check(bound, BoundPlugin)
    assert bound.DIRECTION in DIRECTIONS
    assert bound.NORMS
    assert set(bound.NORMS) <= {"l1", "l2", "linf"}
    assert set(contracts.needed(bound.measure)) <= {"inputs", "labels"}, "options have defaults"


@every_bound
def test_measurements_are_of_every_norm_without_a_global_draw(name):
    bound = BOUNDS[name]
    found = list(checked(of_every_norm(name), name, 3, norms=bound.NORMS))
    assert {m.norm for m in found} >= set(bound.NORMS)
    assert bound.DIRECTION in {m.direction for m in found}
    assert not any(no_bound(m).any() for m in found)
    assert not any(m.values[m.defined if m.defined is not None else ...].isnan().any()
                   for m in found)  # fmt: skip


@every_bound
def test_the_same_seed_gives_the_same_bits_and_nothing_is_written_into(name):
    data, untouched = given(name), given(name)
    first, again = (rows(measured(name, data, norms=BOUNDS[name].NORMS[:1])) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0, equal_nan=True)
    for own, kept in zip((data[0].state, *data[1:]), (untouched[0].state, *untouched[1:]),
                         strict=True):  # fmt: skip
        assert all(torch.equal(own[key], kept[key]) for key in kept)


@every_bound
def test_a_model_s_values_are_its_own(name):
    """To rounding; test_batch_independence.py has large and awkward stacks."""
    stack, points, labels = given(name)
    together = rows(of_every_norm(name))
    for key, value in rows(measured(name, (stack[1:2], points, labels))).items():
        torch.testing.assert_close(value, together[key][1:2], rtol=1e-9, atol=0, equal_nan=True)


@every_bound
def test_what_it_does_not_know_is_not_applicable(name):
    with pytest.raises(NotApplicable, match="norm 'l3'"):
        measured(name, given(name), norms=["l3"])
