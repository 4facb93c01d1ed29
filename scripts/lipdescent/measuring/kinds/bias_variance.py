"""Squared error of the test outputs over seeds: that of their mean, and how far each lies from it.

With f_s the network of seed s, fbar their mean and y the one-hot label,

    mean_s E_x |y - f_s|^2 = E_x |y - fbar|^2 + mean_s E_x |f_s - fbar|^2

holds exactly over the seeds at hand: the rows of a seed are its own terms, so a mean over seeds
makes the whole. x runs over the test points, errors are sums over the classes. Seeds that have
diverged are left out of fbar. Beside them what a bound of the variance needs (Khromov & Singh 2024,
arXiv 2302.10886, the section on bias and variance): the terms at two reference points x', the
origin and the mean test point, and the mean squared distances to them, both rounded up, and of
networks with one hidden layer LipSDP's certified bound and the largest Jacobian norm on the
training points of fbar itself.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lipdescent.arithmetic.ulps import gamma, round_up
from lipdescent.bounds import upper_lipsdp
from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.measurement import Measurement
from lipdescent.measuring import ensembles
from lipdescent.measuring.subject import Subject
from lipdescent.stacks.evaluation import outputs_of
from lipdescent.stacks.model_stack import ModelStack

ALL_SEEDS = True  # read by study/recipes.py without importing this file, as the next two
SEEDS_NEEDED = 2
LOSSES = ("mean_squared_error",)
REFERENCES = ("origin", "mean")


def take(subject: Subject, options: dict[str, Any]) -> Iterator[Measurement]:
    """Every checkpoint's terms, fbar being that of all blocks of seeds."""
    whole, keys = ensembles.of_all_seeds(subject)
    own = subject.finite.nonzero().flatten().cpu()
    yield from measure(
        whole,
        inputs=subject.inputs,
        labels=torch.from_numpy(subject.dataset.test_labels),
        num_classes=subject.dataset.num_classes,
        ensembles_of=keys,
        own=own,
        **options,
    )


def measure(
    stack: ModelStack,
    *,
    inputs: dict[str, Tensor],
    labels: Tensor,
    num_classes: int,
    ensembles_of: Sequence[tuple],
    own: Tensor,
) -> Iterator[Measurement]:
    """Terms of the models ``own`` of a stack.

    Parameters
    ----------
    inputs : "train" and "test" -> (n, *input_shape).
    labels : int64 (num_test,).
    ensembles_of : a key per model; finite models of equal keys make one fbar.
    own : int64 (num_own,), the finite models whose terms are wanted.
    """
    members = ensembles.members_of(stack, ensembles_of, own)
    test = inputs["test"].to(torch.float64)
    references = torch.stack([torch.zeros_like(test[0]), test.mean(0)])
    points = torch.cat([references, test])
    targets = torch.nn.functional.one_hot(labels, num_classes).to(points)
    exact, terms = stack.to(dtype=torch.float64), {}
    for models in members.values():
        for model, found in _terms(exact[torch.tensor(models)], points, targets).items():
            terms[models[model]] = found
    rows = torch.stack([terms[model] for model in own.tolist()]) if len(own) else points[:0]
    names = ["ensemble_square_error", "seed_square_error", "seed_variance",
             *(f"seed_variance_at_{x}" for x in REFERENCES)]  # fmt: skip
    for name, values in zip(names, rows.T.cpu(), strict=True):
        yield Measurement(name, "metric", "", values.contiguous(), "test")
    for name, reference in zip(REFERENCES, references, strict=True):
        distance = (test - reference).flatten(1).square().sum(1).mean()
        distance = round_up(distance, len(test) + reference.numel() + 6)
        values = distance.cpu().expand(len(own)).clone()
        yield Measurement(f"mean_square_distance_from_{name}", "metric", "l2", values, "test")
    yield from _constants(stack, members, inputs["train"], [ensembles_of[i] for i in own.tolist()])


def _terms(stack: ModelStack, points: Tensor, targets: Tensor) -> dict[int, Tensor]:
    """Place in the ensemble -> its five terms; the first points are the references."""
    outputs = torch.cat([part for _, part in outputs_of(stack, points)])
    mean, first = outputs.mean(0), len(REFERENCES)
    away = (outputs - mean).square().sum(-1)
    shared = (targets - mean[first:]).square().sum(-1).mean()
    errors = (targets - outputs[:, first:]).square().sum(-1).mean(1)
    start = _away_at_most(stack, points[:first])
    return {
        place: torch.stack([shared, errors[place], away[place, first:].mean(), *start[place]])
        for place in range(len(outputs))
    }


@torch.no_grad()
def _away_at_most(stack: ModelStack, points: Tensor) -> Tensor:
    """|f_s - fbar|^2 at points (n, *input_shape), with the rounding of all networks: (S, n)."""
    prover, count = Prover(stack), stack.num_models
    pairs = [prover.evaluate(model, points) for model in range(count)]
    outputs, errors = (torch.stack(side) for side in zip(*pairs, strict=True))
    sizes = outputs.abs()
    own = gamma(count + 3) * (sizes + sizes.mean(0))  # of the mean and the difference
    errors = round_up(errors + errors.mean(0) + own, count + 6)
    away = round_up((outputs - outputs.mean(0)).abs() + errors, 2)
    return round_up(away.square().sum(-1), away.shape[-1] + 2)


def _constants(
    stack: ModelStack, members: dict[tuple, list[int]], train: Tensor, keys: list[tuple]
) -> Iterator[Measurement]:
    """Bounds of every own model's fbar, where it is one network with one hidden layer."""
    upper: dict[tuple, Tensor] = {}
    lower: dict[tuple, Tensor] = {}
    for size in {len(models) for models in members.values()}:
        same = [key for key, models in members.items() if len(models) == size]
        groups = torch.tensor([members[key] for key in same], device=stack.device)
        wide = ensembles.sums(stack, groups)
        if wide is None:
            return
        (bound,) = upper_lipsdp.measure(wide)
        steepest = jacobian_norms(wide, train)["l2"].amax(1) / size
        upper |= dict(zip(same, round_up(bound.values.cpu() / size), strict=True))
        lower |= dict(zip(same, steepest.cpu(), strict=True))
    if keys:
        for name, found, split in (
            ("ensemble_upper_lipsdp", upper, ""),
            ("ensemble_lower_jacobian", lower, "train"),
        ):
            values = torch.stack([found[key] for key in keys])
            yield Measurement(name, "metric", "l2", values, split)
