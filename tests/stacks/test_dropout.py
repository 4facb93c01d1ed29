"""Dropout masks against published SplitMix64, and against the chances that they promise."""

import math

import pytest
import torch
from torch import nn

from lipdescent.stacks.dropout import MaskedBy, kept, numbers, off
from lipdescent.stacks.forward import stacked_forward

# The first numbers of SplitMix64 from the state 1234567, as other implementations list them.
PUBLISHED = [
    6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
    16408922859458223821,
]  # fmt: skip
KEYS = torch.tensor([1234567, 5, -3, 2**62])


def splitmix64(key: int, place: int) -> int:
    """In Python's integers, which do not wrap around."""
    z = (key + (place + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_the_published_numbers():
    found = numbers(torch.tensor([1234567]), 5)[0].tolist()
    assert [n % 2**64 for n in found] == PUBLISHED
    assert [n % 2**64 for n in numbers(KEYS[:1], 3, first=2)[0].tolist()] == PUBLISHED[2:]


def test_numbers_of_every_key():
    for key, row in zip(KEYS.tolist(), numbers(KEYS, 50).tolist(), strict=True):
        assert [n % 2**64 for n in row] == [splitmix64(key, i) for i in range(50)]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.875])
def test_as_many_are_dropped_as_p_says(p):
    count = 100_000
    dropped = (~kept(KEYS, count, p=p)).sum(1)
    deviation = math.sqrt(count * p * (1 - p))
    assert ((dropped - count * p).abs() < 5 * deviation).all()
    together = ~kept(KEYS[:1], count, p=p) & ~kept(KEYS[1:2], count, p=p)
    assert abs(int(together.sum()) - count * p * p) < 5 * math.sqrt(count) * p


def test_odd_numbers_of_entries_and_smaller_p_drop_fewer():
    assert torch.equal(kept(KEYS, 7, p=0.5), kept(KEYS, 8, p=0.5)[:, :7])
    assert (kept(KEYS, 999, p=0.2) >= kept(KEYS, 999, p=0.4)).all()
    assert kept(KEYS, 999, p=0.0).all()


def test_what_stays_is_divided_by_its_chance_and_each_layer_has_its_own_mask():
    x = torch.ones(len(KEYS), 3, 4, 5)
    masked = MaskedBy(KEYS)
    first, second = masked(0.25, x), masked(0.25, x)
    assert set(first.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert not torch.equal(first, second)
    again = MaskedBy(KEYS[2:3])
    assert torch.equal(again(0.25, x[2:3])[0], first[2])
    assert torch.equal(again(0.25, x[2:3])[0], second[2])
    assert torch.equal(off(0.25, x), x)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.AlphaDropout(0.5)),
        nn.Sequential(nn.Dropout2d(0.5)),
        nn.Sequential(nn.TransformerEncoderLayer(4, 1, 4, dropout=0.5)),
    ],
    ids=lambda network: type(network[0]).__name__,
)
def test_other_random_layers_are_refused_by_name(network):
    state = {name: tensor[None] for name, tensor in network.state_dict().items()}
    inputs = torch.ones(1, 2, 3, 4)
    with pytest.raises(TypeError, match=r"0.*Dropout.*set p to 0"):
        stacked_forward(network, state, inputs, train=True, dropout=MaskedBy(KEYS[:1]))
