"""Certified bracket of a network's Lipschitz constant: every bound that fits it, in one table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lipdescent.bounds import _taken
from lipdescent.bounds._measured import BOUNDS, described, no_bound
from lipdescent.bounds.jacobians.awake import why_zero
from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.bracketing.checks import _check_precisions, _checked_data, _stack_of_one
from lipdescent.measurement import NotApplicable
from lipdescent.plugins import bound_entries, lookup
from lipdescent.stacks import own_call
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.trace import check_state, first_state, outputs, trace
from lipdescent.structure.unchanged import check_module

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

NORMS = ("l2", "linf", "l1")
COLUMNS = ("quantity", "direction", "norm", "value", "status", "seconds", "split", "reason")
# Not bounds of the global Lipschitz constant: around a point, or over all activation patterns.
LOCAL, PATTERNS = "upper_local", "fgl"
NUM_COMPARED = 2  # points of each split at which calling the network is compared
NORMAL, NUM_NORMAL = "normal", 256  # the split that is drawn where no data are given, its points
_UNLIMITED = 2**31
# What a bound costs grows with these: for networks of which n points are affordable.
_OPTIONS: dict[str, Callable[[int], dict[str, int]]] = {
    "lower_ascent": lambda n: {"restarts": min(4, n), "steps": min(16, 4 * n)},
    "lower_attack": lambda n: {"num_points": max(1, n // 10)},
    "lower_gaussian": lambda n: {"num_points": min(1000, n)},
    "lower_convex_combinations": lambda n: {"num_pairs": min(1000, max(1, n // 5))},
}


def bracket(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    norm: str = "l2",
    data: Tensor | np.ndarray | Mapping[str, Tensor | np.ndarray] | None = None,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    budget: float = 20.0,
    report: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Upper and lower bounds of one network's Lipschitz constant.

    Parameters
    ----------
    model : in eval mode, made of known layers (:mod:`lipdescent.layers`).
    input_shape : of one input, without the batch axis.
    norm : "l2", "linf" or "l1", on inputs and outputs.
    data : floating-point inputs (n, *input_shape), or several by the name of their split. Lower
        bounds start from them; without, from 256 standard normal points, the split "normal".
        Any point proves a lower bound, points like the data prove larger ones.
    methods : modules of ``lipdescent.bounds``; all of them unless given. Or a mapping as the
        configuration's ``bounds``, with their options: ``{"upper_lipsdp": {}, "near": {"bound":
        "lower_jacobian", "points": "gaussian_noise", "points_options": {"radius": 0.1}}}``.
    seed : of the bounds that draw, and of the points used where there are too many.
    budget : seconds, about, for each bound at data points of networks other than chains of Linear
        and ReLU: so many points are used as fit.
    report : called with a line of text when a method has ended.

    Returns
    -------
    One row per quantity and split: quantity, direction ("upper", "lower", "estimate" for a lower
    bound whose rounding is not proved, "metric"), norm, value, status ("ok",
    "not_applicable", or "error" where the method raised or gave no number), seconds (of its
    method), split, reason (why it is not applicable, not proved, or what went wrong).

    Raises
    ------
    TypeError
        For a module that is neither known nor says what it computes, with its path.
    ValueError
        For a network whose call gives something else than what is read of it, train mode, hooks,
        parametrised, lazy or shared modules, NaN or infinite weights or data,
        data beyond 1e150, no data points, a shape that does not fit, dtypes that do not, BatchNorm
        without a positive variance, the meta device, an unknown norm or method.
    RuntimeError
        If a lower bound exceeds an upper one.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r}: allowed are {', '.join(NORMS)}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__}, allowed is a torch.nn.Module")
    entries = _entries(methods)
    if not entries:
        raise ValueError("methods is empty; allowed: " + ", ".join(lookup.known("bounds")))
    check_module(model)
    stack = _stack_of_one(model, input_shape)
    check_state(stack)
    inputs = _checked_data(data, stack) or _normal(stack, seed)
    with own_call.preserved(model):
        frame = _frame(model, stack, entries, inputs, norm, seed, budget, report)
    check_order(frame)
    return frame


def _entries(
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None,
) -> dict[str, dict[str, Any]]:
    """Every method with its options, as in the configuration.

    Raises
    ------
    ValueError
        For an unknown bound or set of points, or outputs other than the logits.
    """
    if methods is None:
        methods = lookup.known("bounds")
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


def best(frame: pd.DataFrame) -> tuple[float, float]:
    """Largest lower and smallest upper bound of the global constant, NaN where there is none."""
    sound = frame[(frame.status == "ok") & ~frame.quantity.str.startswith(LOCAL)]
    lower = sound[(sound.direction == "lower") & ~sound.quantity.str.contains(PATTERNS)]
    return float(lower.value.max()), float(sound[sound.direction == "upper"].value.min())


def check_order(frame: pd.DataFrame) -> None:
    """Raise RuntimeError where the largest lower bound exceeds the smallest upper one."""
    lower, upper = best(frame)
    if lower > upper:
        sound = frame[frame.status == "ok"]
        pair = [sound[sound.value == value].quantity.iloc[0] for value in (lower, upper)]
        raise RuntimeError(f"{pair[0]} = {lower!r} exceeds {pair[1]} = {upper!r}")


def _frame(
    model: nn.Module,
    stack: ModelStack,
    entries: Mapping[str, Mapping[str, Any]],
    inputs: dict[str, Tensor],
    norm: str,
    seed: int,
    budget: float,
    report: Callable[[str], None] | None,
) -> pd.DataFrame:
    import pandas as pd

    bounds = {
        name: lookup.resolve("bounds", bound_entries.bound_of(name, entry))
        for name, entry in entries.items()
    }
    upper = any(bound.DIRECTION == "upper" for bound in bounds.values())
    _check_reading(model, stack, inputs, known_layers=upper)
    prover = Prover(stack)  # held, so that the bounds share it
    if any(bound.DIRECTION == "lower" for bound in bounds.values()):
        _check_precisions(prover)
    affordable = _affordable(bounds, prover, inputs, norm, budget)
    inputs = {split: _some(points, affordable, seed) for split, points in inputs.items()}
    rows: list[dict] = []
    for name, bound in bounds.items():
        file = bound_entries.bound_of(name, entries[name])
        options = _OPTIONS.get(file, lambda n: {})(affordable) if affordable < _UNLIMITED else {}
        entry = options | entries[name]
        measure = partial(_measured, name, bound, stack, inputs, norm, seed, entry)
        rows += _rows(file, bound_entries.called(file, name, entry), bound, norm, measure)
        if report is not None:
            report(f"{name}: {rows[-1]['status'].replace('_', ' ')}, {rows[-1]['seconds']:.1f} s")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _check_reading(
    model: nn.Module, stack: ModelStack, inputs: Mapping[str, Tensor], *, known_layers: bool
) -> None:
    """Compare calling the user's own module with what is read of it, at random inputs and data.

    Without known layers what is read is the module itself on the tensors of the stack; where they
    are needed (``known_layers``), unknown ones are a TypeError.
    """
    structure = None
    try:
        structure = trace(stack)
    except NotApplicable:
        pass  # each upper bound says so in its row
    except TypeError:
        if known_layers:
            raise

    def read(points: Tensor, dtype: torch.dtype) -> Tensor:
        if structure is not None:
            return outputs(structure, stack, points, dtype)
        state = {name: t.clone() for name, t in first_state(stack, dtype).items()}
        return functional_call(stack.module, state, (points.to(dtype, copy=True),))

    points, places = own_call.random_inputs(stack.input_shape, stack.device)
    for split, own in inputs.items():
        points = torch.cat([points, own[:NUM_COMPARED].to(torch.float64)])
        places += [f"point {i} of the data {split!r}" for i in range(len(own[:NUM_COMPARED]))]
    own_call.check_call(model, read, points, places)


def _rows(
    file: str, name: str, bound: ModuleType, norm: str, measure: Callable[[], Iterator[dict]]
) -> list[dict]:
    """What ``measure`` gives, or one row ``name`` that says why it gives nothing, with its time."""
    start = time.perf_counter()
    try:
        if norm not in bound.NORMS:
            raise NotApplicable(f"exists in {', '.join(bound.NORMS)}")
        rows = list(measure())
    except NotApplicable as error:
        rows = [_nothing(name, bound, norm, str(error))]
    except Exception as error:  # one method's fault takes nothing from the others
        rows = [_nothing(name, bound, norm, described(error, file), status="error")]
    seconds = time.perf_counter() - start
    return [row | {"seconds": seconds} for row in rows]


def _nothing(
    name: str, bound: ModuleType, norm: str, reason: str, *, status: str = "not_applicable"
) -> dict:
    row = {"quantity": name, "direction": bound.DIRECTION, "norm": norm, "split": ""}
    row |= {"value": float("nan"), "status": status, "reason": reason}
    return row | {"seconds": 0.0}


def _measured(
    name: str,
    bound: ModuleType,
    stack: ModelStack,
    inputs: dict[str, Tensor],
    norm: str,
    seed: int,
    entry: dict[str, Any],
) -> Iterator[dict]:
    # Copies: a bound may work in place.
    copies = {split: points.clone() for split, points in inputs.items()}
    given = {"inputs": copies, "labels": lambda: None, "norms": [norm], "seed": seed}
    for m in _taken.take(bound, name, stack, entry=entry, **given):
        if m.defined is not None and not bool(m.defined[0]):
            continue
        if bool(no_bound(m).any() | (m.values.isnan().any() & (m.direction in BOUNDS))):
            raise ValueError(f"{m.quantity} = {float(m.values[0])}; allowed are numbers >= 0")
        row = {"quantity": m.quantity, "direction": m.direction, "norm": m.norm}
        row |= {"value": float(m.values[0]), "status": "ok", "split": m.split}
        row["reason"] = Prover(stack).reason if m.direction == "estimate" else ""
        if m.direction == "lower" and row["value"] == 0:
            row["reason"] = (
                f"nothing is proved at the points {entry['points']}"
                if "points" in entry
                else why_zero(
                    stack, inputs, norm=m.norm, quantity=bound_entries.bound_of(name, entry)
                )
            )
        yield row


def _normal(stack: ModelStack, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(NUM_NORMAL, *stack.input_shape, generator=generator, dtype=torch.float64)
    return {NORMAL: drawn.to(stack.device)}


def _affordable(
    bounds: Mapping[str, ModuleType],
    prover: Prover,
    inputs: dict[str, Tensor],
    norm: str,
    budget: float,
) -> int:
    """Points whose Jacobian norms and proofs take about ``budget`` seconds, at least 1."""
    if not budget > 0:
        raise ValueError(f"budget = {budget}: allowed are seconds > 0")
    on_data = any(bound.DIRECTION == "lower" for bound in bounds.values())
    if not on_data or prover.links is not None:
        return _UNLIMITED
    first = next(iter(inputs.values()))[:1]
    seconds = budget
    for _ in range(2):  # the first time holds what is paid once
        start = time.perf_counter()
        try:
            jacobian_norms(prover.stack, first, norms=[norm])
            prover.certify(first[None], norm=norm)
        except Exception:  # each bound that meets it says so in its row
            return _UNLIMITED
        seconds = min(seconds, time.perf_counter() - start)
        if seconds > budget / 20:
            break
    return max(1, math.floor(min(budget / seconds, _UNLIMITED)))


def _some(points: Tensor, count: int, seed: int) -> Tensor:
    """``count`` of the points (two, for a pair, at least), drawn by ``seed``."""
    count = max(2, count)
    if len(points) <= count:
        return points
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(points), generator=generator)[:count].sort().values
    return points[chosen.to(points.device)]
