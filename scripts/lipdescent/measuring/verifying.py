"""Recompute every invariant of the bounds for single checkpoints, by routes of their own.

What is compared: the ladder's order, bounds against norms in high precision, the stored values
against fresh ones, and the values on a GPU against those on the CPU where there is one.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import mpmath
import numpy as np
import torch
from torch import Tensor

from lipdescent.bounds import lower_jacobian
from lipdescent.measurement import NotApplicable
from lipdescent.networks.graph import GraphNetwork
from lipdescent.networks.reading import Unreadable
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack, tensors
from lipdescent.structure.relu_chain import chain

UPPER = {
    "l2": ("upper_lipsdp", "upper_combettes_pesquet", "upper_eclipse_fast", "upper_layer_product"),
    "linf": ("upper_geolip", "upper_layer_product"),
}
# Smallest first, exact_enumeration on both of its sides, for networks of one hidden layer.
LADDER = {
    norm: ("lower_jacobian", "lower_ascent", "exact_enumeration", *upper)
    for norm, upper in UPPER.items()
}
# Every upper bound of the left side is at most every one of the right side, up to the rounding
# that each of them covers in its own way: equal bounds (a rank-one network's) may differ by it.
ROUNDING = 1e-12
ORDER = {
    "l2": [
        (["exact_enumeration"], ["upper_lipsdp"]),
        (["upper_lipsdp"], ["upper_eclipse_fast", "upper_combettes_pesquet"]),
        (["upper_eclipse_fast", "upper_combettes_pesquet"], ["upper_layer_product"]),
    ],
    "linf": [
        (["exact_enumeration"], ["upper_geolip"]),
        (["upper_geolip"], ["upper_layer_product"]),
    ],
}


# What another device's rounding may change, relatively: iterations end near their optimum, wherever
# it leads them. An ascent from points may end at another maximum and is not compared.
ON_DEVICES = {
    "lower_jacobian": 1e-9,
    "upper_layer_product": 1e-9,
    "upper_combettes_pesquet": 1e-9,
    "upper_eclipse_fast": 1e-9,
    "upper_lipsdp": 1e-3,
    "upper_geolip": 1e-3,
}


@dataclass(frozen=True)
class Check:
    """One invariant of one checkpoint."""

    name: str
    holds: bool
    detail: str


def ladder(
    stack: ModelStack, inputs: dict[str, Tensor], *, norm: str, names: Collection[str] | None = None
) -> dict[tuple[str, str], float]:
    """(quantity, direction) -> value of every rung (of ``names``) there is for a stack of one."""
    found: dict[tuple[str, str], float] = {}
    for name in LADDER[norm]:
        if names is not None and name not in names:
            continue
        try:
            bound = lookup.resolve("bounds", name)
            for m in bound.measure(stack, inputs=inputs, norms=[norm], seed=0):
                if m.quantity == name and m.direction in ("lower", "upper"):
                    best = max if m.direction == "lower" else min
                    value = float(m.values[0])
                    key = (name, m.direction)
                    found[key] = best(found.get(key, value), value)
        except (NotApplicable, Unreadable):
            continue
    return found


def check_order(found: dict[tuple[str, str], float], *, norm: str) -> Iterator[Check]:
    """Every lower against every upper bound, to the last bit, and neighbouring upper bounds."""
    lowers = {q: v for (q, d), v in found.items() if d == "lower"}
    uppers = {q: v for (q, d), v in found.items() if d == "upper"}
    for low, a in lowers.items():
        for up, b in uppers.items():
            yield Check(f"{norm}: {low} <= {up}", a <= b, f"{a!r} <= {b!r}")
    for smaller, larger in ORDER[norm]:
        for low in smaller:
            for up in larger:
                if low in uppers and up in uppers:
                    a, b = uppers[low], uppers[up]
                    holds = a <= b * (1 + ROUNDING)
                    yield Check(f"{norm}: {low} <= {up}", holds, f"{a!r} <= {b!r}")


def check_rounding(stack: ModelStack, found: dict[tuple[str, str], float]) -> Iterator[Check]:
    """Certified bounds against 50-digit arithmetic, for chains of linear layers and ReLUs.

    The layer product must be at least the product of the true spectral norms, and LipSDP at least
    the norm of the Jacobian with every unit on: that pattern is one of those it covers.
    """
    # In the module's order: a state read from a file has its own.
    names_in_order = [name for name in tensors(stack.module) if name.endswith("weight")]
    weights = [stack.state[name][0].double().numpy() for name in names_in_order]
    if isinstance(stack.module, GraphNetwork):  # its weights stand side by side, not in a row
        return
    if any(w.ndim != 2 for w in weights) or max(min(w.shape) for w in weights) > 64:
        return
    with mpmath.workdps(50):
        norms = [exact_spectral_norm(w) for w in weights]
        product = mpmath.fprod(norms)
        value = found.get(("upper_layer_product", "upper"))
        if value is not None:
            holds = mpmath.mpf(value) >= product
            yield Check(
                "l2: upper_layer_product certified",
                holds,
                f"{value!r} >= {mpmath.nstr(product, 20)}",
            )
        value = found.get(("upper_lipsdp", "upper"))
        if value is not None:
            jacobian = mpmath.matrix(weights[-1].tolist())
            for w in reversed(weights[:-1]):
                jacobian = jacobian * mpmath.matrix(w.tolist())
            reached = exact_spectral_norm(jacobian)
            holds = mpmath.mpf(value) >= reached
            detail = f"{value!r} >= {mpmath.nstr(reached, 20)}"
            yield Check("l2: upper_lipsdp certified", holds, detail)


def check_lower(
    stack: ModelStack, inputs: dict[str, Tensor], found: dict[tuple[str, str], float]
) -> Iterator[Check]:
    """The data maximum against 50-digit arithmetic, for one hidden layer of ReLU.

    At the point with the largest norm the pre-activations' signs, the Jacobian and its norm are
    computed anew: the stored bound must be below, and but for rounding equal where no
    pre-activation is 0.
    """
    links = chain(stack)
    value = found.get(("lower_jacobian", "lower"))
    if value is None or links is None or len(links.weights) != 2 or links.slopes != [(0.0, 1.0)]:
        return
    points = torch.cat([x.double() for x in inputs.values()])
    point = points[lower_jacobian.jacobian_norms(stack, points)[0].argmax()].flatten()
    first, last = (w[0].tolist() for w in links.weights)
    bias = links.biases[0][0].tolist() if links.biases[0] is not None else [0.0] * len(first)
    with mpmath.workdps(50):
        x = [mpmath.mpf(v) for v in point.tolist()]
        before = [
            mpmath.fdot(zip(map(mpmath.mpf, w), x, strict=True)) + b
            for w, b in zip(first, bias, strict=True)
        ]
        on = [k for k, z in enumerate(before) if z > 0]
        if not on or min(map(abs, before)) == 0:
            return
        columns = mpmath.matrix([[row[k] for k in on] for row in last])
        norm = exact_spectral_norm(columns * mpmath.matrix([first[k] for k in on]))
        norm = mpmath.ldexp(norm, int(links.exponents[0]))
        holds = (1 - mpmath.mpf(1e-9)) * norm <= mpmath.mpf(value) <= norm
        detail = f"{value!r} against {mpmath.nstr(norm, 20)}"
        yield Check("l2: lower_jacobian certified", holds, detail)


def exact_spectral_norm(matrix: np.ndarray | mpmath.matrix) -> mpmath.mpf:
    """Spectral norm in mpmath's current precision, by the smaller Gram matrix."""
    m = matrix if isinstance(matrix, mpmath.matrix) else mpmath.matrix(matrix.tolist())
    gram = m * m.T if m.rows <= m.cols else m.T * m
    return mpmath.sqrt(max(mpmath.eigsy(gram, eigvals_only=True)))


def check_stored(
    found: dict[tuple[str, str], float], stored: dict[tuple[str, str], float], *, norm: str
) -> Iterator[Check]:
    """Upper bounds in the table are what is found anew in another batch, to 1e-6 relative."""
    for (quantity, direction), value in stored.items():
        fresh = found.get((quantity, direction))
        if direction == "upper" and fresh is not None:
            holds = abs(fresh - value) <= 1e-6 * abs(fresh)
            yield Check(f"{norm}: {quantity} as stored", holds, f"{fresh!r} and {value!r}")


def check_devices(
    stack: ModelStack, inputs: dict[str, Tensor], found: dict[tuple[str, str], float], *, norm: str
) -> Iterator[Check]:
    """On a GPU, the same values as far as rounding allows; nothing where there is no GPU."""
    if not torch.cuda.is_available():
        return
    there = {split: x.cuda() for split, x in inputs.items()}
    own = ladder(stack.to(device="cuda"), there, norm=norm, names=ON_DEVICES)
    for key, value in own.items():
        holds = abs(value - found[key]) <= ON_DEVICES[key[0]] * abs(found[key])
        yield Check(f"{norm}: {key[0]} on the GPU", holds, f"{found[key]!r} and {value!r}")
