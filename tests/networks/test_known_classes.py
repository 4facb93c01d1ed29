"""Readers of networks take the same classes for the same, and skip all of PyTorch's dropout."""

import pytest
import torch
from torch import nn
from torch.nn.modules import dropout as torch_dropout
from torchvision.models import resnet

from lipdescent.layers.table import constant
from lipdescent.networks.expressions import layers
from lipdescent.networks.known_classes import DROPOUT
from lipdescent.stacks.forward import stacked_forward
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import affine_chain
from lipdescent.structure.relu_chain import chain
from lipdescent.structure.trace import outputs as outputs_as_read
from lipdescent.structure.trace import trace
from lipdescent.training.engines import looped_autograd

INPUTS = torch.randn(1, 7, 6, generator=torch.Generator().manual_seed(0))
# Those of channels complain about vectors, which PyTorch passes through nevertheless.
pytestmark = pytest.mark.filterwarnings("ignore:dropout[23]d")


def network(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), *between).eval()


def stack_of(*between):
    return ModelStack.from_modules([network(*between)], (6,))


def test_the_list_is_pytorchs():
    offered = {getattr(torch_dropout, name) for name in torch_dropout.__all__}
    assert set(DROPOUT) == offered


@pytest.mark.parametrize("kind", DROPOUT)
def test_every_view_of_a_network_skips_dropout(kind):
    found, without = stack_of(kind(0.5)), stack_of()
    ours, theirs = chain(found), chain(without)
    assert [w.tolist() for w in ours.weights] == [w.tolist() for w in theirs.weights]
    assert affine_chain(found).product().tolist() == affine_chain(without).product().tolist()
    kinds = [type(layer.module) for layer in layers(trace(found))]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear]
    shapes = {"input_shape": (6,), "output_shape": (6,)}
    assert [constant(kind().eval(), {}, norm=n, **shapes) for n in ("l1", "l2", "linf")] == [
        1.0
    ] * 3


@pytest.mark.parametrize("kind", DROPOUT)
def test_a_stack_passes_dropout_by_and_refuses_to_draw(kind):
    found, without = stack_of(kind(0.5)), stack_of()
    expected = stacked_forward(without.module, without.state, INPUTS, train=False)[0]
    for p, train in ((0.5, False), (0.0, True)):
        off = network(kind(p))
        outputs = stacked_forward(off, found.state, INPUTS, train=train)[0]
        assert torch.equal(outputs, expected)
    with pytest.raises(TypeError, match=f"{kind.__name__}.*set p to 0"):
        stacked_forward(found.module, found.state, INPUTS, train=True)
    # Masks of plain dropout are drawn in training, from keys; those of whole channels are not.
    assert looped_autograd.supports(found.module) == (kind is nn.Dropout)
    assert looped_autograd.supports(without.module)


@pytest.mark.parametrize("block", [resnet.BasicBlock, resnet.Bottleneck])
def test_torchvision_resnets_are_passed_and_read_as_they_call_themselves(block):
    torch.manual_seed(0)
    module = resnet.ResNet(block, [1, 1, 1, 1], num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    stack = ModelStack.from_modules([module], images.shape[1:])
    with torch.no_grad():
        outputs = stacked_forward(module, stack.state, images[None], train=False)[0]
        torch.testing.assert_close(outputs[0], module(images))
        read = outputs_as_read(trace(stack), stack, images, torch.float32)  # compared there, too
        torch.testing.assert_close(read, module(images))
