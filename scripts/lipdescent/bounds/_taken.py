"""A bound as an entry of the configuration wants it: on its points, of its outputs, by its name.

**Points.** Whatever set a bound is given, it sees tensors in place of the data. A set that is too
large to be held, or of which each model has its own points, is given in parts, or model by model.

**Softmax.** softmax has the Jacobian diag(p) - p p^T, which is symmetric with rows of absolute sum
2 p_i (1 - p_i) <= 1/2: its norm is at most 1/2 in l_inf and l1 and, as |A|_2^2 <= |A|_1 |A|_inf, in
l2. Two logits far above the others come as close to 1/2 as one likes. So half an upper bound of
the logits is one of softmax(f), in the same norm. Lower bounds are taken of the network with a
softmax layer behind it, whose rounding the proofs know. Rows have the norm ``l2_softmax``: no
bracket, figure or sentence mixes them with those of the logits.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lipdescent.arithmetic.ulps import round_up
from lipdescent.bounds._measured import checked
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.plugins import bound_entries, lookup
from lipdescent.points._parts import Points
from lipdescent.stacks.model_stack import ModelStack

SOFTMAX = "_softmax"  # behind the norm
Take = Callable[[ModelStack, Mapping[str, Tensor]], Iterator[Measurement]]


def take(
    bound: ModuleType,
    name: str,
    stack: ModelStack,
    *,
    entry: Mapping[str, Any],
    inputs: Mapping[str, Tensor],
    labels: Callable[[], Mapping[str, Tensor] | None],
    norms: Sequence[str],
    seed: int,
) -> Iterator[Measurement]:
    """All that the entry ``name: entry`` of ``bounds`` asks for, in ``norms``.

    ``labels`` makes the data's labels, if there are any; it is called where they are needed.

    Raises
    ------
    TypeError, ValueError
        If the bound yields what cannot be published, the same quantity twice, or nothing.
    """
    file = bound_entries.bound_of(name, entry)
    options = bound_entries.own_options(entry) | {"norms": norms, "seed": seed}
    sets = None
    if "points" in entry:
        draw = lookup.resolve("points", entry["points"]).draw
        sets = draw(stack, inputs, labels=labels(), seed=seed, **entry.get("points_options", {}))
    if "labels" in inspect.signature(bound.measure).parameters:
        options["labels"] = labels() if sets is None else None

    def measure(own: ModelStack, points: Mapping[str, Tensor]) -> Iterator[Measurement]:
        return bound.measure(own, inputs=points, **options)

    for outputs in entry.get("outputs", ["logits"]):
        networks, half = stack, False
        if outputs == "softmax":
            half = bound.DIRECTION == "upper"
            networks = stack if half else with_softmax(stack)
        if sets is None:
            found = measure(networks, inputs)
        else:
            found = _on_sets(measure, networks, sets, getattr(bound, "combined", None))
        for m in checked(found, file, stack.num_models, norms=norms):
            if half and m.direction != "upper":
                continue
            norm = m.norm + SOFTMAX * (outputs == "softmax")
            values = halved(m.values) if half else m.values
            quantity = bound_entries.called(m.quantity, name, entry)
            where = m.largest_at if sets is None and outputs == "logits" else None
            yield replace(m, quantity=quantity, norm=norm, values=values, largest_at=where)


def with_softmax(stack: ModelStack) -> ModelStack:
    """softmax of all outputs of a stack's networks."""
    module = nn.Sequential(stack.module, nn.Flatten(), nn.Softmax(dim=-1))
    state = {f"0.{name}": tensor for name, tensor in stack.state.items()}
    return ModelStack(module, state, stack.input_shape)


def halved(values: Tensor) -> Tensor:
    """Half of upper bounds, rounded up where that is not exact (subnormal numbers)."""
    half = values / 2
    return torch.where(half * 2 < values, round_up(half), half)


def _on_sets(
    measure: Take,
    stack: ModelStack,
    sets: Mapping[str, Points],
    combined: Callable[[str, Tensor, Tensor], Tensor] | None,
) -> Iterator[Measurement]:
    """Set by set and part by part where the bound says how parts combine, else all at once."""
    own = any(points.own for points in sets.values())
    if combined is None:
        whole = {split: points.whole() for split, points in sets.items()}
        yield from _each(measure, stack, whole) if own else measure(stack, whole)
        return
    for split, points in sets.items():
        take_part = partial(_each, measure, stack) if own else partial(measure, stack)
        found, sizes = [], []
        for part in points.parts():
            found.append(list(take_part({split: part})))
            sizes.append(part.shape[int(own)])
        counts = torch.tensor(sizes)
        for rows in zip(*found, strict=True):
            values = torch.stack([m.values for m in rows])
            if len(rows) > 1:
                values = combined(rows[0].quantity, values, counts.to(values))[None]
            yield replace(rows[0], values=values[0])


def _each(measure: Take, stack: ModelStack, points: Mapping[str, Tensor]) -> Iterator[Measurement]:
    """Every model at its own points, split -> (num_models, n, *input_shape)."""
    found = [
        list(measure(stack[i : i + 1], {split: own[i] for split, own in points.items()}))
        for i in range(stack.num_models)
    ]
    for rows in zip(*found, strict=True):
        if len({(m.quantity, m.direction, m.norm, m.split) for m in rows}) > 1:
            raise NotApplicable("what it yields differs between the models of a stack")
        defined = None
        if any(m.defined is not None for m in rows):
            every = [m.defined if m.defined is not None else ~m.values.isnan() for m in rows]
            defined = torch.cat(every)
        yield replace(rows[0], values=torch.cat([m.values for m in rows]), defined=defined)
