"""Losses, accuracies and distances from the start of the training."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.measuring import fitted_scale
from lipdescent.measuring.point_labels import labels_of
from lipdescent.measuring.subject import Subject
from lipdescent.stacks.evaluation import outputs_of
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.options import loss_of


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """Everything in metrics.py, with each model's own noisy labels and initial weights."""
    saved, dataset = subject.saved, subject.dataset
    labels = labels_of(subject)
    device = subject.stack.device
    yield from measure(
        subject.sound,
        inputs=subject.inputs,
        noisy_labels=labels["train"],
        clean_labels={
            "train": torch.from_numpy(dataset.train_labels).to(device),
            "test": labels["test"],
        },
        loss=loss_of(saved.origin.training),
        num_classes=dataset.num_classes,
    )
    yield from distances(subject)


def distances(subject: Subject) -> Iterator[Measurement]:
    """From the weights before the first step, straight and along the checkpoints."""
    finite, saved = subject.finite, subject.saved
    try:
        first = subject.initial
    except NotApplicable as reason:
        print(f"distances: not applicable: {reason}")
        nothing = torch.full((int(finite.sum()),), torch.nan, dtype=torch.float64)
        for name in ("distance_from_init", "path_length"):
            absent = torch.zeros(len(nothing), dtype=torch.bool)
            yield Measurement(name, "metric", "l2", nothing, defined=absent)
        return
    start = {name: tensor[finite] for name, tensor in first.items()}
    yield Measurement("distance_from_init", "metric", "l2", distance(subject.sound, start))
    initial = {name: tensor[: saved.num_replicas] for name, tensor in first.items()}
    travelled = path_length(subject.stack, initial, epochs=len(saved.epoch))
    yield Measurement("path_length", "metric", "l2", travelled[finite])


def measure(
    stack: ModelStack,
    *,
    inputs: dict[str, Tensor],
    noisy_labels: Tensor,
    clean_labels: dict[str, Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    num_classes: int,
) -> Iterator[Measurement]:
    """Metrics of a stack.

    Parameters
    ----------
    inputs : "train" and "test" -> (n, *input_shape).
    noisy_labels : int64 (num_models, num_train), what each model was trained on.
    clean_labels : "train" and "test" -> int64 (n,).
    loss : (logits, one-hot) -> loss per sample; its mean over samples is reported.

    ``test_loss_calibrated`` is the cross-entropy at a fitted scale of the logits, ``inverse_
    temperature`` that scale (:mod:`measuring.fitted_scale`). ``num_train`` and ``num_classes`` are
    what figures need of the data: the threshold p = n and what chance would give.
    """
    count = stack.num_models
    scores = _scores(loss, num_classes)
    test_scores = dict(scores)
    if num_classes > 1 and len(inputs["test"]) > 1:
        test_scores["calibrated"] = fitted_scale.calibrated
    train = [(noisy_labels, ""), (clean_labels["train"].expand(count, -1), "_clean")]
    for split, labellings, taken in (
        ("train", train, scores),
        ("test", [(clean_labels["test"].expand(count, -1), "")], test_scores),
    ):
        results = _taken(stack, inputs[split], [labels for labels, _ in labellings], taken)
        for (_, suffix), found in zip(labellings, results, strict=True):
            for name in ("loss", "accuracy"):
                (values,) = found[name]
                yield Measurement(f"{split}_{name}{suffix}", "metric", "", values, split)
            if "calibrated" in found:
                least, beta = found["calibrated"]
                yield Measurement("test_loss_calibrated", "metric", "", least, split)
                yield Measurement("inverse_temperature", "metric", "", beta, split)
    for name, number in (("num_train", len(inputs["train"])), ("num_classes", num_classes)):
        constant = torch.full((count,), number, dtype=torch.float64)
        yield Measurement(name, "metric", "", constant)


# (logits (models, n, num_classes), labels (models, n)) -> one or more (models,) float64
Score = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def _scores(loss: Callable[[Tensor, Tensor], Tensor], num_classes: int) -> dict[str, Score]:
    """Mean loss and accuracy."""

    def mean_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor]:
        targets = torch.nn.functional.one_hot(labels, num_classes).to(logits.dtype)
        return (loss(logits, targets).mean(1, dtype=torch.float64),)

    def accuracy(logits: Tensor, labels: Tensor) -> tuple[Tensor]:
        return ((logits.argmax(-1) == labels).double().mean(1),)

    return {"loss": mean_loss, "accuracy": accuracy}


def _taken(
    stack: ModelStack, inputs: Tensor, labellings: list[Tensor], scores: dict[str, Score]
) -> list[dict[str, tuple[Tensor, ...]]]:
    """Every score of each labelling (num_models, n), from one pass over the points."""
    parts: list[list[dict[str, tuple[Tensor, ...]]]] = [[] for _ in labellings]
    for rows, logits in outputs_of(stack, inputs):
        for part, labels in zip(parts, labellings, strict=True):
            part.append({name: score(logits, labels[rows]) for name, score in scores.items()})
    return [
        {
            name: tuple(map(torch.cat, zip(*(chunk[name] for chunk in part), strict=True)))
            for name in scores
        }
        for part in parts
    ]


def distance(stack: ModelStack, initial: dict[str, Tensor]) -> Tensor:
    """l2 distance of the parameters from their initial values, (num_models,)."""
    names = [name for name, _ in stack.module.named_parameters()]
    squares = [
        (stack.state[n].double() - initial[n].double()).flatten(1).square().sum(1) for n in names
    ]
    return torch.stack(squares).sum(0).sqrt()


def path_length(stack: ModelStack, initial: dict[str, Tensor], *, epochs: int) -> Tensor:
    """Length of the way from checkpoint to checkpoint in l2, (num_models,), epochs outermost.

    The way of the training itself is at least as long. ``initial``: name -> (num_replicas, *shape).
    """
    replicas = stack.num_models // epochs
    squares = torch.zeros(epochs, replicas, dtype=torch.float64, device=stack.device)
    for name, _ in stack.module.named_parameters():
        places = stack.state[name].double().reshape(epochs, *initial[name].shape)
        before = torch.cat([initial[name].double()[None], places[:-1]])
        squares = squares + (places - before).flatten(2).square().sum(2)
    return squares.sqrt().cumsum(0).flatten()
