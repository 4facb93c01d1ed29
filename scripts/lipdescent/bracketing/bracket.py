"""Certified bracket of a network's Lipschitz constant: every bound that fits it, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lipdescent.bounds.proofs.prover import Prover
from lipdescent.bracketing import affordable, checks, domains
from lipdescent.bracketing.ends import check_order
from lipdescent.bracketing.readable import Opaque, readable
from lipdescent.bracketing.result import Bracket
from lipdescent.bracketing.rows import COLUMNS, Asked, rows_of
from lipdescent.bracketing.shares import Shares
from lipdescent.domains.domain import Domain, Regions, regions_of
from lipdescent.networks.wrappers import unwrapped
from lipdescent.plugins import bound_entries, lookup
from lipdescent.stacks import own_call
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.exported import check_at
from lipdescent.structure.trace import check_state

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

NORMS = ("l2", "linf", "l1")
# What is measured, a stack of it alone, and what compares it with the call it was read from.
Network = tuple[nn.Module, ModelStack, Callable[[dict[str, Tensor]], None] | None]


def bracket(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    norm: str = "l2",
    data: Tensor | np.ndarray | Mapping[str, Tensor | np.ndarray] | None = None,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    budget: float = 60.0,
    domain: Domain | Mapping[str, Any] | str | None = None,
    output: int | str | None = None,
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
    budget : seconds, about, for all methods together, once the network has been read: as many
        points are used as fit, searches stop, what has no result near twice the budget is
        "not_in_budget". A SIGALRM of your own comes when the method that runs has ended.
    domain : where the constant is taken: everywhere unless given, ``Box(0, 1)``, ``Ball(0.1)``
        around data or its ``centers`` (the largest constant of the balls, at most 16 points of the
        data), or as a configuration or the command line writes it: "box:0,1". Data outside are
        left out; without data in a box 256 uniform points, the split "uniform", are used.
    output : which one, where the network returns several, by its place (0, 1, ...) or its name
        ("logits" of a dictionary); all side by side, in one norm, unless given.
    report : called with a line of text when a method has ended, and for data that are left out.

    Returns
    -------
    The bracket: ``.lower``, ``.upper``, ``.ratio`` and ``.table``; printed, all of them as text.
    A network that cannot be read still has its lower bounds.

    Raises
    ------
    TypeError
        For what is no network, or none of real numbers.
    ValueError
        For an output that there is not, a network whose call gives something else than what is
        read of it, train mode, hooks, parametrised, lazy or shared modules, NaN or infinite weights
        or data, data beyond 1e150, no data points, a shape that does not fit, dtypes that do not,
        BatchNorm without a positive variance, the meta device, an unknown norm or method.
    RuntimeError
        If a lower bound exceeds an upper one.
    """
    entries, say = _entries(methods, norm), report or (lambda line: None)
    network = _read(model, input_shape, output, say)
    frame = _frame(network, entries, data, domain, norm=norm, seed=seed, budget=budget, report=say)
    check_order(frame)
    return Bracket(frame, norm)


def _read(
    model: nn.Module,
    input_shape: Sequence[int],
    output: int | str | None,
    say: Callable[[str], None],
) -> Network:
    """The network that is measured, and a stack of it alone whose bounds mean something."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__}, allowed is a torch.nn.Module")
    model, notes = unwrapped(model)
    for note in notes:
        say(note)
    own = model
    model, input_shape, found = readable(model, input_shape, output=output)
    stack = checks.stack_of_one(model, input_shape)
    check_state(stack, masks=isinstance(model, Opaque))
    compare = None if found is None else partial(check_at, own, found)
    return model, stack, compare


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
    model: nn.Module,
    stack: ModelStack,
    bounds: Mapping[str, ModuleType],
    inputs: dict[str, Tensor],
    regions: Regions | None,
    *,
    directly: bool,
) -> Prover:
    """The network's prover, once its precisions, and its call, are what the bounds rely on."""
    directions = {bound.DIRECTION for bound in bounds.values()}
    if directly:
        checks.check_reading(model, stack, inputs)
    prover = Prover(stack, regions)
    if "lower" in directions:
        checks.check_precisions(prover)
    return prover


def _frame(
    network: Network,
    entries: Mapping[str, Mapping[str, Any]],
    data: Any,
    domain: Domain | Mapping[str, Any] | str | None,
    *,
    norm: str,
    seed: int,
    budget: float,
    report: Callable[[str], None],
) -> pd.DataFrame:
    """The table of all ``entries``, in their order, as far as the budget goes."""
    import pandas as pd  # not at the top: takes half a second, `lipdescent --help` need not wait

    model, stack, compare = network
    given = checks.checked_data(data, stack)
    where = domains.settled(domain, given, seed, report)
    regions = regions_of(where, stack.input_shape)
    if regions is None:
        inputs = given or affordable.normal(stack, seed)
    else:
        inputs = domains.inside(given, regions, seed, report, device=stack.device)
    if given and compare is not None:  # random ones have been compared
        compare(inputs)
    bounds = {n: lookup.resolve("bounds", bound_entries.bound_of(n, e)) for n, e in entries.items()}
    own = {n: bound for n, bound in bounds.items() if norm in bound.NORMS}
    shares = Shares(budget, {n: bound_entries.bound_of(n, entries[n]) for n in own})
    found: dict[str, list[dict]] = {}
    with own_call.preserved(model):
        # Held, so that the bounds share it: its constants of layers are those of the layer product.
        # A plain network has been compared with the user's own.
        directly = compare is None or not own_call.is_large(stack.input_shape)
        prover = _checked_prover(model, stack, bounds, inputs, regions, directly=directly)
        rate = affordable.Rate(prover, inputs, norm=norm, seed=seed)
        asked = Asked(stack, inputs, where, norm, seed, rate, shares)
        for name in [*(n for n in entries if n not in own), *shares.order]:
            found[name] = rows = rows_of(name, entries[name], asked)
            report(f"{name}: {rows[-1]['status'].replace('_', ' ')}, {rows[-1]['seconds']:.1f} s")
    rows = [row for name in entries for row in found[name]]
    return pd.DataFrame(rows, columns=list(COLUMNS))
