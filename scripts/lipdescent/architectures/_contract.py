"""What an architecture's file offers. tests/architectures/test_contract.py asks it of every one."""

from typing import Protocol

from torch import nn


class ArchitecturePlugin(Protocol):
    """A module ``architectures/NAME.py``.

    It may have ``SIZES``, a function of :mod:`lipdescent.architectures._sizes` with the parameters
    of ``build``: it refuses, without building anything and before any job, what ``build`` refuses.
    Keyword parameters with a default are options of the configuration, under ``architectures:
    NAME:``; a choice among names is annotated as ``Literal``.

    Attributes
    ----------
    WIDTH_UNIT : what a width counts, written out for the axes of figures: ``units``, ``channels``.
    """

    WIDTH_UNIT: str

    def build(self, width: int, *, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A network from float32 (n, *input_shape) to logits (n, num_classes).

        Its weights are float32 on torch's default device, drawn from torch's global generator and
        from nothing else: the caller seeds it. What it computes of a sample does not depend on the
        others, in eval mode, and goes through ``torch.func.functional_call`` and ``vmap``: a stack
        computes many of them at once.

        Raises
        ------
        ValueError
            For inputs or options that do not fit, naming them and what is allowed.
        """
        ...
