"""What a bound's file offers. tests/bounds/test_contract.py asks it of every one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from lipdescent.measurement import Measurement
from lipdescent.stacks.model_stack import ModelStack


class BoundPlugin(Protocol):
    """A module ``bounds/NAME.py``.

    ``DIRECTION`` is "upper", "lower", "estimate" (no proof) or "metric" (no bound of the whole
    function); ``NORMS`` are the norms that it knows, of "l1", "l2", "linf": the same on inputs and
    outputs.

    ``measure`` may ask for ``labels`` too, by a keyword parameter of that name: split -> int64 (n,)
    or (num_models, n). One that can begin where the norms of another bound are largest names that
    as ``STARTS_FROM`` and takes ``largest``, None where it is not known: norm -> split -> int64
    (num_models, k). More keyword parameters with a default are options of the configuration, under
    ``bounds: NAME:``.
    """

    DIRECTION: str
    NORMS: tuple[str, ...]

    def measure(
        self,
        stack: ModelStack,
        *,
        inputs: Mapping[str, Tensor],
        norms: Sequence[str] = ("l2",),
        seed: int = 0,
    ) -> Iterator[Measurement]:
        """Yield measurements of every model of the stack, float64 (num_models,) on its device.

        ``inputs`` are the data by split, (n, *stack.input_shape) in the weights' precision. They
        and the weights are read only. An upper or a lower bound is one of the function that the
        stored weights define in exact arithmetic, every rounding included, in logits per unit of
        input. It is called ``NAME``, or ``NAME`` with a suffix, once for each norm and split. What
        is random is drawn from ``seed`` alone, so that the same call gives the same bits, and no
        model's value depends on the models beside it.

        Raises
        ------
        NotApplicable
            Where the bound does not exist: an unknown norm, a layer without a constant. The message
            is the reason that tables and reports give.
        """
        ...
