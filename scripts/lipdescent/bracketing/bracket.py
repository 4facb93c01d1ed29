"""Certified bracket of a network's Lipschitz constant: every bound that fits it, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lipdescent.bounds.proofs.prover import Prover
from lipdescent.bracketing import affordable, checks, domains
from lipdescent.bracketing.ends import check_order
from lipdescent.bracketing.readable import readable
from lipdescent.bracketing.result import Bracket
from lipdescent.bracketing.rows import COLUMNS, rows_of
from lipdescent.domains.domain import Domain, regions_of
from lipdescent.networks.wrappers import unwrapped
from lipdescent.plugins import bound_entries, lookup
from lipdescent.points._parts import some
from lipdescent.stacks import own_call
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.trace import check_state

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

NORMS = ("l2", "linf", "l1")


def bracket(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    norm: str = "l2",
    data: Tensor | np.ndarray | Mapping[str, Tensor | np.ndarray] | None = None,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    budget: float = 20.0,
    domain: Domain | Mapping[str, Any] | str | None = None,
    report: Callable[[str], None] | None = None,
) -> Bracket:
    """Upper and lower bounds of one network's Lipschitz constant, everywhere or on a domain.

    Parameters
    ----------
    model : in eval mode; upper bounds are of known layers (:mod:`lipdescent.layers`).
    input_shape : of one input, without the batch axis.
    norm : "l2", "linf" or "l1", on inputs and outputs.
    data : floating-point inputs (n, *input_shape), or several by the name of their split. Lower
        bounds start from them; without, from 256 standard normal points, the split "normal".
        Any point proves a lower bound, points like the data prove larger ones.
    methods : modules of ``lipdescent.bounds``; all of them unless given. Or a mapping as the
        configuration's ``bounds``, with their options: ``{"upper_lipsdp": {}, "near": {"bound":
        "lower_jacobian", "points": "gaussian_noise", "points_options": {"radius": 0.1}}}``.
    seed : of the bounds that draw, and of the points used where there are too many.
    budget : seconds, about, for each bound: of those at points so many points are used as fit,
        and what takes no points is stopped near twice the budget, but for upper_layer_product.
    domain : where the constant is taken: everywhere unless given, ``Box(0, 1)``, ``Ball(0.1)``
        around data or its ``centers`` (the largest constant of the balls, at most 16 points of the
        data), or as a configuration writes it. Data outside are left out, lower bounds stay
        inside; without data in a box they start from 256 uniform points, the split "uniform".
    report : called with a line of text when a method has ended, and for data that are left out.

    Returns
    -------
    The bracket: ``.lower``, ``.upper``, ``.ratio`` and ``.table``; printed, all of them as text.
    The table has one row per quantity and split: quantity, direction ("upper", "lower", "estimate"
    for a lower bound whose rounding is not proved, "metric"), norm, value, status ("ok",
    "not_applicable", or "error" where the method raised or gave no number), seconds (of its
    method), split, reason (why it is not applicable, not proved, or what went wrong). A network
    that cannot be read still has its lower bounds.

    Raises
    ------
    TypeError
        For what is no network, or none of real numbers.
    ValueError
        For a network whose call gives something else than what is read of it, train mode, hooks,
        parametrised, lazy or shared modules, NaN or infinite weights or data,
        data beyond 1e150, no data points, a shape that does not fit, dtypes that do not, BatchNorm
        without a positive variance, the meta device, an unknown norm or method.
    RuntimeError
        If a lower bound exceeds an upper one.
    """
    entries = _entries(methods, norm)
    bounds = {
        name: lookup.resolve("bounds", bound_entries.bound_of(name, entry))
        for name, entry in entries.items()
    }
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__}, allowed is a torch.nn.Module")
    model, notes = unwrapped(model)
    say = report or (lambda line: None)
    for note in notes:
        say(note)
    model, input_shape = readable(model, input_shape)
    stack = checks.stack_of_one(model, input_shape)
    check_state(stack)
    given = checks.checked_data(data, stack)
    where = domains.settled(domain, given, seed, say)
    regions = regions_of(where, stack.input_shape)
    if regions is None:
        inputs = given or affordable.normal(stack, seed)
    else:
        inputs = domains.inside(given, regions, seed, say, device=stack.device)
    with own_call.preserved(model):
        prover = _checked_prover(model, stack, bounds, inputs)  # held, so that the bounds share it
        count = affordable.num_points(bounds, prover, inputs, norm=norm, budget=budget)
        entries = {n: domains.options(n, e, where, budget) | e for n, e in entries.items()}
        frame = _frame(stack, entries, inputs, norm, seed, (count, budget), where, say)
    check_order(frame)
    return Bracket(frame, norm)


def _entries(
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None, norm: str
) -> dict[str, dict[str, Any]]:
    """Every method with its options, as in the configuration.

    Raises
    ------
    ValueError
        For an unknown norm, bound or set of points, no method, or outputs other than the logits.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r}: allowed are {', '.join(NORMS)}")
    if methods is None:
        methods = lookup.known("bounds")
    if not methods:
        raise ValueError("methods is empty; allowed: " + ", ".join(lookup.known("bounds")))
    given = methods if isinstance(methods, Mapping) else {name: {} for name in methods}
    for name, entry in given.items():
        lookup.resolve("bounds", bound_entries.bound_of(name, entry))
        if "points" in entry:
            lookup.resolve("points", entry["points"])
        if {"norms", "outputs"} & set(entry):
            raise ValueError(
                f"methods: {name} has norms or outputs; allowed is the argument norm, and for the "
                "softmax's constant a network with an nn.Softmax behind it"
            )
    return {name: dict(entry) for name, entry in given.items()}


def _checked_prover(
    model: nn.Module, stack: ModelStack, bounds: Mapping[str, ModuleType], inputs: dict[str, Tensor]
) -> Prover:
    """The network's prover, once its call and its precisions are what the bounds rely on."""
    directions = {bound.DIRECTION for bound in bounds.values()}
    checks.check_reading(model, stack, inputs)
    prover = Prover(stack)
    if "lower" in directions:
        checks.check_precisions(prover)
    return prover


def _frame(
    stack: ModelStack,
    entries: Mapping[str, Mapping[str, Any]],
    inputs: dict[str, Tensor],
    norm: str,
    seed: int,
    affords: tuple[int, float],
    domain: Domain,
    report: Callable[[str], None],
) -> pd.DataFrame:
    """The table of all ``entries``, where so many points and seconds are affordable."""
    import pandas as pd  # not at the top: takes half a second, `lipdescent --help` need not wait

    count, budget = affords
    inputs = {split: some(points, max(2, count), seed) for split, points in inputs.items()}
    rows: list[dict] = []
    for name, entry in entries.items():
        options = affordable.options(bound_entries.bound_of(name, entry), count)
        entry = options | dict(entry)
        found = rows_of(name, stack, inputs, norm=norm, seed=seed, entry=entry, budget=budget)
        rows += [domains.of_domain(row, entry, domain) for row in found]
        report(f"{name}: {rows[-1]['status'].replace('_', ' ')}, {rows[-1]['seconds']:.1f} s")
    return pd.DataFrame(rows, columns=list(COLUMNS))
