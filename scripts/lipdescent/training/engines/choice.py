"""Which engine trains a network, and how many replicas at once."""

import torch
from torch import nn

from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.engines.adversarial_autograd import AdversarialAutograd
from lipdescent.training.engines.engine import Engine, EngineOptions, Setting
from lipdescent.training.engines.fused_cnn import StackedCNN
from lipdescent.training.engines.fused_mlp import StackedMLP
from lipdescent.training.engines.looped_autograd import LoopedAutograd
from lipdescent.training.engines.penalised_autograd import PenalisedAutograd
from lipdescent.training.engines.stacked_autograd import StackedAutograd

# The first that supports a network, and pays for it, trains it; the last one always pays.
ENGINES: tuple[type[Engine], ...] = (StackedMLP, StackedCNN, LoopedAutograd, StackedAutograd)


def choose(module: nn.Module, setting: Setting) -> type[Engine]:
    """A fused pass where there is one, autograd for every other architecture.

    On a CPU large networks without a fused pass are not stacked. Where no engine supports the
    network it is the last one, whose constructor says why.
    """
    found = (kind for kind in ENGINES if kind.supports(module) and kind.pays(module, setting))
    return next(found, ENGINES[-1])


def make_engine(stack: ModelStack, options: EngineOptions) -> Engine:
    """The engine of a stack that is on its device.

    Raises
    ------
    ValueError
        If there is a penalty as well as an adversary.
    """
    if options.penalty is not None and options.adversary is not None:
        raise ValueError("training.penalty and training.adversary: allowed is one of them")
    if options.adversary is not None:
        return AdversarialAutograd.of(stack, options)
    if options.penalty is not None:
        return PenalisedAutograd.of(stack, options)
    return choose(stack.module, _setting(stack, options, stack.device)).of(stack, options)


def split_into_blocks(
    stack: ModelStack, options: EngineOptions, device: torch.device, *, at_once: int | None = None
) -> list[slice]:
    """Slices of the replica axis: what a CPU's cache or the device's memory holds at a time.

    ``at_once`` is the largest number of replicas in a slice; by default the engine says.
    """
    count = stack.num_models
    if at_once is None:
        setting = _setting(stack, options, device)
        at_once = choose(stack.module, setting).at_once(stack.module, setting)
    num_blocks = -(-count // max(1, count if at_once is None else at_once))
    size = -(-count // num_blocks)
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def _setting(stack: ModelStack, options: EngineOptions, device: torch.device) -> Setting:
    return Setting(tuple(stack.input_shape), options.batch_size, options.precision, device)
