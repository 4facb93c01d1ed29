"""Certified robustness of a stack from its certified Lipschitz constants, and attacks against it.

A classifier keeps its decision within r of an input x if its margin m(x) (label's logit less the
largest other) exceeds sqrt 2 L r in l2 (Tsuzuku et al. 2018, arXiv 1802.04034, proposition 1, for
the vector of logits) and 2 L r in l_inf (Anil et al. 2019, section 7.3), where L is an upper bound
on the Lipschitz constant in that norm. Margins are rounded down, divisors up; a point counts at a
radius if its own is larger, so the decision stands in the closed ball.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lipdescent.arithmetic import ulps
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.robustness import attacks
from lipdescent.robustness.logit_error import logit_error
from lipdescent.stacks.model_stack import ModelStack

NORMS = ("l2", "linf")
_CHUNK_BYTES = 256 << 20


class CertificateViolation(ValueError):
    """An attack within a certified radius succeeded: certificate or attack is wrong."""


def certified_radii(
    stack: ModelStack, inputs: Tensor, labels: Tensor, *, upper: Tensor, norm: str
) -> Tensor:
    """Radius around every input within which its label is certain: float64 (num_models, n).

    Parameters
    ----------
    inputs, labels : (n, *input_shape), int64 (n,) or each model's own (num_models, n).
    upper : (num_models,) certified upper bounds on the Lipschitz constant in ``norm``, the same on
        inputs and logits.
    norm : "l2" or "linf".

    Returns
    -------
    The signed radius: negative where the label is not the prediction (minus the distance within
    which it cannot become so). The label is certain strictly inside.

    Raises
    ------
    ValueError
        If an upper bound is not a positive number, or labels and inputs do not match.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r}: allowed are {', '.join(NORMS)}")
    if upper.shape != (stack.num_models,) or not bool((upper > 0).all()):
        raise ValueError(
            f"upper: {upper.tolist()[:4]}..., allowed are {stack.num_models} positive numbers"
        )
    count = labels.shape[-1]
    if len(inputs) == 0 or len(inputs) != count:
        raise ValueError(f"{len(inputs)} inputs and {count} labels: allowed are equally many")
    factor = math.nextafter(math.sqrt(2), 2) if norm == "l2" else 2.0
    divisor = ulps.round_up(factor * upper.double())
    return ulps.round_down(margins(stack, inputs, labels) / divisor[:, None], 2)


@torch.no_grad()
def margins(stack: ModelStack, inputs: Tensor, labels: Tensor) -> Tensor:
    """f_label - largest other logit, rounded down: float64 (num_models, n).

    At most the margin of the exact logits: those that float64 computes may each be off by
    :func:`lipdescent.robustness.logit_error.logit_error`.
    """
    labels = labels.expand(stack.num_models, -1)
    size = max(1, _CHUNK_BYTES // (64 * inputs.numel() + 1))
    parts = []
    for begin in range(0, stack.num_models, size):
        chunk = stack[begin : begin + size].to(dtype=torch.float64)
        logits = chunk(inputs.double())
        own = torch.nn.functional.one_hot(labels[begin : begin + size], logits.shape[-1]).bool()
        margin = (logits * own).sum(-1) - logits.masked_fill(own, -torch.inf).amax(-1)
        parts.append(ulps.round_down(margin - 2 * logit_error(chunk, inputs), 3))
    return torch.cat(parts)


def certified_accuracy(radii: Tensor, at: Sequence[float]) -> Tensor:
    """Share of points whose certified radius exceeds each of ``at``: float64 (num_models, at)."""
    levels = torch.tensor(list(at), dtype=torch.float64, device=radii.device)
    return (radii[..., None] > levels).double().mean(1)


def mean_certified_radius(radii: Tensor) -> Tensor:
    """Average certified radius of Zhai et al. (2020), (num_models,): wrong points count as 0."""
    return radii.clamp_min(0).mean(1)


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    upper: Mapping[str, Tensor],
    radii: Mapping[str, Sequence[float]],
    seed: int,
    num_points: int = 200,
    attack_steps: int = 10,
) -> Iterator[Measurement]:
    """Certified accuracy, mean certified radius and PGD accuracy on the first test points.

    Accuracies are at radius 0 too: what is right beyond rounding, and what is right. If there are
    training points as well, the mean certified radius on the labels that each model was trained
    on: its mean margin in units of sqrt 2 L (2 L in l_inf), wrong points counted as 0.

    Parameters
    ----------
    inputs, labels : with the split "test", and "train" if wanted; labels int64 (n,) or each
        model's own (num_models, n).
    upper : norm -> (num_models,), the smallest certified upper bound of each model.
    radii : norm -> increasing radii.
    num_points : points used of each split, the same for certificates and attacks.
    attack_steps : of PGD per radius; 0 for no attack.

    Raises
    ------
    CertificateViolation
        If an attack succeeds where the certificate excludes it, naming model, point and radius.
    NotApplicable
        If there is an upper bound in none of the norms.
    """
    wanted = [norm for norm in radii if norm in upper]
    if not wanted:
        raise NotApplicable(f"no certified upper bound in {', '.join(radii)}")
    points = {
        split: (inputs[split][:num_points], labels[split][..., :num_points]) for split in labels
    }
    x, y = points["test"]
    for norm in wanted:
        radius = certified_radii(stack, x, y, upper=upper[norm], norm=norm)
        levels = [0.0, *radii[norm]]
        for level, values in zip(levels, certified_accuracy(radius, levels).T, strict=True):
            yield Measurement(f"certified_accuracy@{level:g}", "metric", norm, values, "test")
        mean = mean_certified_radius(radius)
        yield Measurement("mean_certified_radius", "metric", norm, mean, "test")
        if "train" in points:
            mean = mean_certified_radius(
                certified_radii(stack, *points["train"], upper=upper[norm], norm=norm)
            )
            yield Measurement("mean_certified_radius", "metric", norm, mean, "train")
        if attack_steps:
            standing = attacks.robust(
                stack, x, y, radii=levels, norm=norm, seed=seed, steps=attack_steps
            )
            check_attacks(radius, standing, levels, norm=norm)
            for level, values in zip(levels, standing.double().mean(1).T, strict=True):
                yield Measurement(f"pgd_accuracy@{level:g}", "metric", norm, values, "test")


def check_attacks(radius: Tensor, standing: Tensor, levels: Sequence[float], *, norm: str) -> None:
    """Raise :class:`CertificateViolation` if a certified point was fooled.

    Parameters
    ----------
    radius : certified radii (num_models, n).
    standing : bool (num_models, n, levels), False where an attack of that radius succeeded.
    """
    at = torch.tensor(list(levels), dtype=torch.float64, device=radius.device)
    wrong = ((radius[..., None] > at) & ~standing).nonzero()
    if len(wrong):
        model, point, level = wrong[0].tolist()
        raise CertificateViolation(
            f"{len(wrong)} certified points were fooled; the first is point {point} of model "
            f"{model}, certified in {norm} to {radius[model, point].item()!r}, fooled within "
            f"{levels[level]}"
        )
