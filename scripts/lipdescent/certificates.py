"""Certified robustness of a stack from its certified Lipschitz constants, and attacks against it.

A classifier keeps its decision within r of an input x if its margin m(x) (label's logit less the
largest other) exceeds sqrt 2 L r in l2 (Tsuzuku et al. 2018, arXiv 1802.04034, proposition 1, for
the vector of logits) and 2 L r in l_inf (Anil et al. 2019, section 7.3), where L is an upper bound
on the Lipschitz constant in that norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lipdescent import attacks
from lipdescent.bounds import Measurement, NotApplicable, _rounding
from lipdescent.stacking import ModelStack

NORMS = ("l2", "linf")
# A margin has to exceed this multiple of the largest logit on top: the rounding of the logits,
# which are computed in float64.
LOGIT_ERROR = 2.0**-36
_CHUNK_BYTES = 256 << 20


class CertificateViolation(ValueError):
    """An attack within a certified radius succeeded: certificate or attack is wrong."""


def certified_radii(
    stack: ModelStack, inputs: Tensor, labels: Tensor, *, upper: Tensor, norm: str
) -> Tensor:
    """Radius around every input within which its label is certain: float64 (num_models, n).

    Parameters
    ----------
    inputs, labels : (n, *input_shape), int64 (n,).
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
    if len(inputs) == 0 or len(inputs) != len(labels):
        raise ValueError(f"{len(inputs)} inputs and {len(labels)} labels: allowed are equally many")
    factor = math.nextafter(math.sqrt(2), 2) if norm == "l2" else 2.0
    divisor = _rounding.round_up(factor * upper.double())
    return _rounding.round_down(margins(stack, inputs, labels) / divisor[:, None], 2)


@torch.no_grad()
def margins(stack: ModelStack, inputs: Tensor, labels: Tensor) -> Tensor:
    """f_label - largest other logit less an allowance for rounding, float64 (num_models, n)."""
    own = torch.nn.functional.one_hot(labels).bool()
    size = max(1, _CHUNK_BYTES // (64 * inputs.numel() + 1))
    parts = []
    for begin in range(0, stack.num_models, size):
        logits = stack[begin : begin + size].to(dtype=torch.float64)(inputs.double())
        if own.shape[-1] < logits.shape[-1]:
            own = torch.nn.functional.one_hot(labels, logits.shape[-1]).bool()
        margin = (logits * own).sum(-1) - logits.masked_fill(own, -torch.inf).amax(-1)
        parts.append(margin - LOGIT_ERROR * logits.abs().amax(-1))
    return torch.cat(parts)


def certified_accuracy(radii: Tensor, at: Sequence[float]) -> Tensor:
    """Share of points whose certified radius exceeds each of ``at``: float64 (num_models, at)."""
    levels = torch.tensor(list(at), dtype=torch.float64, device=radii.device)
    return (radii[..., None] > levels).double().mean(1)


def mean_certified_radius(radii: Tensor, *, misclassified: str = "zero") -> Tensor:
    """Mean radius, (num_models,).

    ``misclassified`` points count "zero" (the average certified radius of Zhai et al. 2020) or
    "negative" (their signed radius, whose mean is W1 / 2 at most: Béthune et al. 2022).
    """
    if misclassified not in ("zero", "negative"):
        raise ValueError(f"misclassified = {misclassified!r}: allowed are zero, negative")
    return (radii.clamp_min(0) if misclassified == "zero" else radii).mean(1)


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

    Parameters
    ----------
    inputs, labels : with the split "test".
    upper : norm -> (num_models,), the smallest certified upper bound of each model.
    radii : norm -> increasing radii.
    num_points : test points used, the same for certificates and attacks.
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
    x, y = inputs["test"][:num_points], labels["test"][:num_points]
    for norm in wanted:
        radius = certified_radii(stack, x, y, upper=upper[norm], norm=norm)
        certified = certified_accuracy(radius, radii[norm])
        for i, level in enumerate(radii[norm]):
            name = f"certified_accuracy@{level:g}"
            yield Measurement(name, "metric", norm, certified[:, i], "test")
        mean = mean_certified_radius(radius)
        yield Measurement("mean_certified_radius", "metric", norm, mean, "test")
        if attack_steps:
            yield from _attacked(stack, x, y, radius, list(radii[norm]), norm, seed, attack_steps)


def _attacked(
    stack: ModelStack,
    inputs: Tensor,
    labels: Tensor,
    radius: Tensor,
    levels: list[float],
    norm: str,
    seed: int,
    steps: int,
) -> Iterator[Measurement]:
    options = {"radii": levels, "norm": norm, "seed": seed, "steps": steps}
    standing = attacks.robust(stack.to(dtype=inputs.dtype), inputs, labels, **options)
    check_attacks(radius, standing, levels, norm=norm)
    for i, level in enumerate(levels):
        accuracy = standing[..., i].double().mean(1)
        yield Measurement(f"pgd_accuracy@{level:g}", "metric", norm, accuracy, "test")


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
