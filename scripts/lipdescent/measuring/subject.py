"""What a measurement is given: a stack of checkpoints and what belongs to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lipdescent.datasets import Dataset
from lipdescent.measurement import NotApplicable
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.storage.checkpoints import Checkpoints


@dataclass(frozen=True)
class Subject:
    """All checkpoints of a stack, epochs outermost.

    Attributes
    ----------
    name : of the measurement: ``metrics``, ``certificates`` or a bound's.
    stack : every checkpoint.
    finite : bool (num_models,), the checkpoints without NaN or inf; only those are measured.
    inputs : ``train`` and ``test`` points, (n, *input_shape).
    earlier : measurements that this one rests on: upper bounds of certificates, norms at the data.
    others : the study's other seeds at the same width, where a kind needs them: their checkpoints,
        as a stack and as they are stored.
    start : the replicas before the first step, where epoch 0 is not among the checkpoints.
    """

    name: str
    stack: ModelStack
    finite: Tensor
    saved: Checkpoints
    dataset: Dataset
    inputs: dict[str, Tensor]
    earlier: Sequence[str | Path] = ()
    start: ModelStack | None = None
    others: Sequence[tuple[ModelStack, Checkpoints]] = ()

    @property
    def sound(self) -> ModelStack:
        """The checkpoints that are measured."""
        return self.stack if bool(self.finite.all()) else self.stack[self.finite]

    @property
    def initial(self) -> dict[str, Tensor]:
        """State before the first step of every checkpoint's network: name -> (num_models, *shape).

        Raises
        ------
        NotApplicable
            If neither epoch 0 nor ``start`` is there, as where they were trained elsewhere.
        """
        epochs, count = self.saved.epoch.tolist(), self.saved.num_replicas
        if self.start is not None:
            state = self.start.state
        elif 0 in epochs:
            first = epochs.index(0) * count
            state = {name: t[first : first + count] for name, t in self.stack.state.items()}
        else:
            raise NotApplicable(f"epochs {epochs}: without the weights before the first step")
        device = self.stack.device
        return {n: t.to(device).repeat(len(epochs), *[1] * (t.dim() - 1)) for n, t in state.items()}
