"""Units that never switch by hand, gradients by differences, isometry after training."""

import pandas as pd
import pytest
import torch
from image_files import write_mnist
from torch import nn

from lipdescent.constrained.layers import GroupSort
from lipdescent.datasets import fashion_mnist
from lipdescent.experiments import trained_gradients
from lipdescent.stacks.model_stack import ModelStack


def stack_of(*layers):
    return ModelStack.from_modules([nn.Sequential(*layers).double()], (2,))


def identity(bias):
    layer = nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.eye(2), torch.tensor(bias)
    return layer


POINTS = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.5, 3.0], [-1.0, 1.0]])


@pytest.mark.parametrize(
    ("bias", "activation", "share", "expected"),
    [
        ([0.0, 0.0], nn.ReLU(), 1.0, 0.5),  # the second unit is active everywhere
        ([0.0, 0.0], nn.ReLU(), 0.75, 1.0),
        ([-9.0, 0.0], nn.ReLU(), 1.0, 0.5),  # the first is dead, which is not undead
        ([0.0, 0.0], GroupSort(2), 1.0, 0.0),  # the second point swaps
        ([0.0, 0.0], GroupSort(2), 0.75, 1.0),
        ([0.0, 9.0], GroupSort(None), 1.0, 1.0),
    ],
)
def test_units_that_never_switch(bias, activation, share, expected):
    stack = stack_of(identity(bias), activation, nn.Linear(2, 1))
    assert trained_gradients.unvarying(stack, POINTS, share=share) == [expected]


def test_gradients_are_those_of_the_labels_logit():
    stack = stack_of(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3))
    labels = torch.tensor([0, 1, 2, 1])
    found = trained_gradients.input_gradients(stack, POINTS, labels)
    for axis in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[axis] = 1e-6
        sides = [stack(POINTS.double() + s * step)[0].gather(1, labels[:, None]) for s in (1, -1)]
        difference = (sides[0] - sides[1])[:, 0] / 2e-6
        torch.testing.assert_close(found[:, axis], difference, rtol=1e-6, atol=1e-7)


def test_sorting_keeps_every_singular_value_while_it_learns():
    random = torch.Generator().manual_seed(0)
    inputs = torch.rand(60, 24, generator=random)
    labels = torch.arange(60) % 10
    options = {"seeds": [0, 1], "width": 16, "looks": [0, 20]}
    found = trained_gradients.train(inputs, labels, "bjorck", "MaxMin", **options)
    moved = [(found[20].state[name] - found[0].state[name]).abs().amax() for name in found[0].state]
    assert min(moved) > 1e-3
    for row in trained_gradients._measured(found[20], [0, 1], inputs):
        if row["task"] == "singular":
            assert 1 - 1e-9 <= row["smallest"] <= row["largest"] <= 1
    with pytest.raises(ValueError, match="constraints has 'cayley'"):
        trained_gradients.run(constraints=["cayley"])
    with pytest.raises(ValueError, match="group_size = 2 does not divide width = 15"):
        trained_gradients.train(inputs, labels, "bjorck", "MaxMin", **options | {"width": 15})


def test_parts_are_drawn_as_the_whole(tmp_path, monkeypatch):
    """A study that is split has the images in every part."""
    write_mnist(tmp_path, monkeypatch, counts=(30, 10), modules=(fashion_mnist,))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    options = {"seeds": [0], "width": 8, "num_train": 30, "num_points": 10, "looks": [0, 1]}
    parts = [trained_gradients.run(constraints=[name], **options) for name in ("none", "spectral")]
    drawn = trained_gradients.draw(pd.concat(parts, ignore_index=True))
    pictures = [axes.images[0].get_array() for axes in drawn.axes if axes.images]
    assert {picture.shape for picture in pictures} == {(3 * 28, 5 * 28)}
    assert (pictures[0][:28] == pictures[1][:28]).all()
    assert not (pictures[0][28:] == pictures[1][28:]).all()
