"""Jacobian norms point by point: their histogram, and how they go with the loss.

The l2 operator norm of the Jacobian of the logits at every training and test point (autograd's
convention at kinks: no bounds), apart for points that the model classifies rightly and wrongly,
training points by the labels trained on; and the rank correlation (Spearman) and the linear one
(Pearson) between the norm and the loss over the points.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipdescent.analysis import statistics
from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.measurement import Measurement
from lipdescent.measuring.point_labels import labels_of
from lipdescent.measuring.subject import Subject
from lipdescent.stacks.evaluation import outputs_of
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.options import loss_of


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """Histograms and correlations of every checkpoint, for the training and the test points."""
    labels = labels_of(subject)
    yield from measure(
        subject.sound,
        inputs=subject.inputs,
        labels=labels | {"test": labels["test"].expand(len(labels["train"]), -1)},
        loss=loss_of(subject.saved.origin.training),
        num_classes=subject.dataset.num_classes,
        **options,
    )


def measure(
    stack: ModelStack,
    *,
    inputs: dict[str, Tensor],
    labels: dict[str, Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    num_classes: int,
    bins_per_decade: int = 10,
    num_points: int | None = None,
) -> Iterator[Measurement]:
    """Yield shares of the points, ``jacobian_norm_share_right@LOW..HIGH``, and correlations.

    ``_right`` and ``_wrong`` are shares of all points of the split, so together they add up to 1;
    bins are [LOW, HIGH), powers of 10^(1 / bins_per_decade); of norms that are 0 ``@0..0``. A bin
    that no model has is left out.

    Parameters
    ----------
    inputs, labels : split -> (n, *input_shape) and int64 (num_models, n).
    num_points : of each split only this many points, the first.
    """
    for split, points in inputs.items():
        points, targets = points[:num_points], labels[split][:, :num_points]
        norms = jacobian_norms(stack, points)["l2"].cpu()
        loss_parts, right_parts = [], []
        for rows, logits in outputs_of(stack, points):
            one_hot = torch.nn.functional.one_hot(targets[rows], num_classes).to(logits.dtype)
            loss_parts.append(loss(logits, one_hot).double())
            right_parts.append(logits.argmax(-1) == targets[rows])
        losses, right = torch.cat(loss_parts).cpu(), torch.cat(right_parts).cpu()
        place = (norms.log10() * bins_per_decade).floor()
        for name, chosen in (("right", right), ("wrong", ~right)):
            for bin_place in place.unique().tolist():
                share = ((place == bin_place) & chosen).double().mean(1)
                quantity = f"jacobian_norm_share_{name}@{_edges(bin_place, bins_per_decade)}"
                yield Measurement(quantity, "metric", "l2", share, split)
        pair = norms.numpy(), losses.numpy()
        for name, function in (("spearman", statistics.spearman), ("pearson", statistics.pearson)):
            values = torch.from_numpy(np.asarray(function(*pair), dtype=np.float64))
            exists = torch.isfinite(values)
            yield Measurement(f"jacobian_norm_loss_{name}", "metric", "l2", values, split, exists)


def _edges(place: float, per_decade: int) -> str:
    if place == float("-inf"):
        return "0..0"
    return "..".join(f"{10 ** (p / per_decade):.4g}" for p in (place, place + 1))
