"""Test loss and error of the ensemble over seeds: the mean of probabilities, and that of logits.

The members are the networks of one epoch and label noise that have not diverged; every one of them
has the ensemble's value in its row. Losses are cross-entropy in nats. That of the mean of the
softmax outputs is at most the mean of the members' losses (Jensen), and so is that of the mean of
the logits; errors may be larger than every member's.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lipdescent.measurement import Measurement
from lipdescent.measuring.ensembles import members_of, of_all_seeds
from lipdescent.measuring.subject import Subject
from lipdescent.stacks.evaluation import outputs_of
from lipdescent.stacks.model_stack import ModelStack

ALL_SEEDS = True  # read by study/recipes.py without importing this file, as the next two
SEEDS_NEEDED = 2
LOSSES = ("cross_entropy",)
NAMES = tuple(
    f"ensemble_{what}_of_mean_{of}" for of in ("softmax", "logits") for what in ("loss", "error")
)


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """Of every checkpoint, over all blocks of seeds."""
    stack, keys = of_all_seeds(subject)
    labels = torch.from_numpy(subject.dataset.test_labels)
    own = subject.finite.nonzero().flatten().cpu()
    inputs = subject.inputs["test"]
    yield from measure(stack, inputs=inputs, labels=labels, ensembles_of=keys, own=own, **options)


def measure(
    stack: ModelStack, *, inputs: Tensor, labels: Tensor, ensembles_of: Sequence[tuple], own: Tensor
) -> Iterator[Measurement]:
    """Of the ensembles that the models ``own`` of a stack are members of.

    Parameters
    ----------
    inputs : (n, *input_shape).
    labels : int64 (n,).
    ensembles_of : a key per model; finite models of equal keys make one ensemble.
    own : int64 (num_own,), finite models.
    """
    members = members_of(stack, ensembles_of, own)
    exact, points = stack.to(dtype=torch.float64), inputs.to(torch.float64)
    found = {
        key: _scores(exact[torch.tensor(models)], points, labels.to(points.device))
        for key, models in members.items()
    }
    for place, name in enumerate(NAMES):
        values = [found[ensembles_of[model]][place] for model in own.tolist()]
        yield Measurement(name, "metric", "", torch.tensor(values, dtype=torch.float64), "test")


def _scores(stack: ModelStack, points: Tensor, labels: Tensor) -> list[float]:
    """In the order of ``NAMES``."""
    logits = torch.cat([part for _, part in outputs_of(stack, points)])
    mean_softmax = logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))
    scores: list[float] = []
    for logarithms in (mean_softmax, logits.mean(0).log_softmax(-1)):
        scores.append(float(-logarithms.gather(1, labels[:, None]).mean()))
        scores.append(float((logarithms.argmax(1) != labels).double().mean()))
    return scores
