"""The layers of a network without branches, in the order in which they are applied."""

from collections.abc import Callable

from torch import nn

from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Layer, layers, steps
from lipdescent.networks.known_classes import NO_OPERATION
from lipdescent.networks.reading import declares, read
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.trace import trace
from lipdescent.structure.unchanged import check_module


def plain_chain(stack: ModelStack, known: Callable[[nn.Module], bool]) -> list[Layer]:
    """Layers of a network that is one chain of ``known`` ones; those that do nothing are left out.

    Nothing is evaluated, so that networks may over- or underflow; but where ``lipschitz_structure``
    says what is computed, that is compared with calling the network.

    Raises
    ------
    NotApplicable
        For branches, layers that are not ``known``, and modules that are not what their classes
        say (train mode, hooks, parametrisations, shared weights); it names the place.
    """
    found = []
    for part in steps(read(stack.module)):
        if not isinstance(part, Layer):
            first = next(layers(part)).place
            raise NotApplicable(f"{first} lies in a branch: not a layer of a fully connected chain")
        if type(part.module) in NO_OPERATION:
            continue
        if not known(part.module):
            raise NotApplicable(f"{part.place}: not a layer of a fully connected chain")
        found.append(part)
    try:
        check_module(stack.module)
        if declares(stack.module):
            trace(stack)
    except (TypeError, ValueError) as error:
        raise NotApplicable(str(error)) from error
    return found
