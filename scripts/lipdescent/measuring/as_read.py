"""A study's networks as every measurement of their bounds reads them: a trial, a job, a check."""

from collections.abc import Mapping

from torch import Tensor

from lipdescent.networks.reading import Unreadable
from lipdescent.stacks.model_stack import ModelStack


def as_read(stack: ModelStack, inputs: Mapping[str, Tensor]) -> ModelStack:
    """The stack, as plain networks if its own are written in Python and can be exported.

    Calling them is compared with the plain networks at some of ``inputs``, split -> (n, *shape).

    Imported here, so that a change there reruns no measurement of networks of layers alone:
    :func:`lipdescent.study.code_digest.measurement_files` names it for the others.
    """
    from lipdescent.structure.exported import plain_stack

    try:
        return plain_stack(stack, inputs)
    except Unreadable:
        return stack  # which has its lower bounds; upper ones say why there are none
