"""Networks that only differ in their weights, added up: their mean is one network's output over S.

The sum of S networks with one hidden layer is a network with S times the width, whose weights are
theirs, unchanged, side by side. So every bound for such networks is one for the sum, and a bound of
the sum over S one for the mean.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipdescent.measuring.subject import Subject
from lipdescent.networks import expressions
from lipdescent.networks.reading import read
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.relu_chain import chain


def sums(stack: ModelStack, groups: Tensor) -> ModelStack | None:
    """The sums of some models of a stack, each one network with a wide hidden layer.

    Parameters
    ----------
    groups : int64 (num_sums, S), the models that are added up.

    Returns
    -------
    ``num_sums`` networks in the stack's dtype, or None unless the models are fully connected with
    one hidden layer and a ReLU or LeakyReLU.
    """
    links = chain(stack)
    if links is None or len(links.slopes) != 1:
        return None
    layers = list(expressions.layers(read(stack.module)))  # in the order in which they are applied
    linears = [layer.path for layer in layers if type(layer.module) is nn.Linear]
    shapes = nn.ReLU, nn.LeakyReLU
    activation = next((layer.module for layer in layers if type(layer.module) in shapes), None)
    if activation is None or len(linears) != 2:
        return None
    first, second = linears
    into, out = (stack.state[f"{name}.weight"][groups] for name in (first, second))
    count, size, width, inputs = into.shape
    state = {
        "1.weight": into.reshape(count, size * width, inputs),
        "3.weight": out.transpose(1, 2).reshape(count, out.shape[2], size * width),
    }
    biased = [f"{name}.bias" in stack.state for name in (first, second)]
    if biased[0]:
        state["1.bias"] = stack.state[f"{first}.bias"][groups].reshape(count, size * width)
    if biased[1]:
        state["3.bias"] = stack.state[f"{second}.bias"][groups].sum(1)
    wide = nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, size * width, bias=biased[0]),
        copy.deepcopy(activation),
        nn.Linear(size * width, out.shape[2], bias=biased[1]),
    ).to(into.dtype)
    return ModelStack(wide, state, stack.input_shape)


def joined(stacks: list[ModelStack]) -> ModelStack:
    """All models of several stacks of one structure, in this order."""
    state = {name: torch.cat([s.state[name] for s in stacks]) for name in stacks[0].state}
    return ModelStack(stacks[0].module, state, stacks[0].input_shape)


def of_all_seeds(subject: Subject) -> tuple[ModelStack, list[tuple[int, float]]]:
    """The checkpoints of all blocks of seeds, the subject's own first; epoch and noise of each."""
    parts = [subject.saved, *(saved for _, saved in subject.others)]
    epochs = len(subject.saved.epoch)
    noise = torch.cat([part.label_noise.repeat(epochs) for part in parts])
    epoch = torch.cat([part.epoch.repeat_interleave(part.num_replicas) for part in parts])
    whole = joined([subject.stack, *(stack for stack, _ in subject.others)])
    return whole, list(zip(epoch.tolist(), noise.tolist(), strict=True))


def members_of(stack: ModelStack, keys: Sequence[tuple], own: Tensor) -> dict[tuple, list[int]]:
    """Key -> its finite models in a stack with a key per model; the keys of the models ``own``."""
    members: dict[tuple, list[int]] = {}
    for model in stack.finite().nonzero().flatten().tolist():
        members.setdefault(keys[model], []).append(model)
    return {key: members[key] for key in dict.fromkeys(keys[model] for model in own.tolist())}
