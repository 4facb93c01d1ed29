"""Losses, accuracies and distance from initialisation of every checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lipdescent.bounds import Measurement
from lipdescent.evaluation import outputs_of
from lipdescent.stacking import ModelStack


def measure(
    stack: ModelStack,
    *,
    inputs: dict[str, Tensor],
    noisy_labels: Tensor,
    clean_labels: dict[str, Tensor],
    initial: dict[str, Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    num_classes: int,
) -> Iterator[Measurement]:
    """Metrics of a stack.

    Parameters
    ----------
    inputs : "train" and "test" -> (n, *input_shape).
    noisy_labels : int64 (num_models, num_train), what each model was trained on.
    clean_labels : "train" and "test" -> int64 (n,).
    initial : state at epoch 0 for every model, name -> (num_models, *shape).
    loss : (logits, one-hot) -> loss per sample; its mean over samples is reported.
    """
    count = stack.num_models
    train = (clean_labels["train"].expand(count, -1), "_clean")
    test = (clean_labels["test"].expand(count, -1), "")
    for split, labellings in (("train", [(noisy_labels, ""), train]), ("test", [test])):
        results = _losses(
            stack, inputs[split], [labels for labels, _ in labellings], loss, num_classes
        )
        for (_, suffix), (losses, accuracies) in zip(labellings, results, strict=True):
            yield Measurement(f"{split}_loss{suffix}", "metric", "", losses, split)
            yield Measurement(f"{split}_accuracy{suffix}", "metric", "", accuracies, split)
    yield Measurement("distance_from_init", "metric", "l2", _distance(stack, initial))


def _losses(
    stack: ModelStack,
    inputs: Tensor,
    labellings: list[Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    num_classes: int,
) -> list[tuple[Tensor, Tensor]]:
    """Mean loss and accuracy, each (num_models,) float64, for each labelling (num_models, n)."""
    parts: list[list[tuple[Tensor, Tensor]]] = []
    for rows, logits in outputs_of(stack, inputs):
        predicted = logits.argmax(-1)
        parts.append([])
        for labels in labellings:
            targets = torch.nn.functional.one_hot(labels[rows], num_classes).to(logits.dtype)
            losses = loss(logits, targets).mean(1, dtype=torch.float64)
            parts[-1].append((losses, (predicted == labels[rows]).double().mean(1)))
    return [
        (torch.cat([p[i][0] for p in parts]), torch.cat([p[i][1] for p in parts]))
        for i in range(len(labellings))
    ]


def _distance(stack: ModelStack, initial: dict[str, Tensor]) -> Tensor:
    """l2 distance of the parameters from their initial values, (num_models,)."""
    names = [name for name, _ in stack.module.named_parameters()]
    squares = [
        (stack.state[n].double() - initial[n].double()).flatten(1).square().sum(1) for n in names
    ]
    return torch.stack(squares).sum(0).sqrt()
