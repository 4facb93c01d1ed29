"""How many data points, and of how much, a bound is given: what fits its share of the budget.

What a bound at points costs is measured before, and it is given fewer. What a bound costs that
takes no points is not known before it has ended: ``shares.py`` says when it is stopped.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.bracketing.shares import NotInBudget
from lipdescent.points._parts import some
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.relu_chain import chain

NORMAL, NUM_NORMAL = "normal", 256  # the split that is drawn where no data are given, its points
UNLIMITED = 2**31
_DEAR, _DEARER = 1.0, 3.0  # seconds of a proof after which a point is not measured; times as many
_ONCE = 5.0  # seconds that a process may take for what it loads at its first proof, and for that
_CUBIC, _CUBIC_FLOPS = ("upper_eclipse_fast", "upper_lipsdp", "upper_local"), 2e10
_REPEATS = 4, 32  # of lower_search where time is no matter, and where its share is minutes:
_REPEAT = 2.0  # one for so many seconds
_SEARCHED, _POPULATION = 2**16, 1200  # points of lower_search, and of each of its populations
# Which take at least one point's Jacobian and its proof; lower_jacobian does too, but is needed.
_OF_POINTS = ("lower_ascent", "lower_attack", "lower_convex_combinations", "lower_gaussian")
_FLOPS = 2**30  # a second, on any machine: what takes less time by this is not measured
# What a bound costs grows with these: for networks of which n points are affordable.
_OPTIONS: dict[str, Callable[[int], dict[str, int]]] = {
    "lower_ascent": lambda n: {
        "restarts": min(4, n),
        "steps": min(16, max(1, n // 4)),
        "num_candidates": max(1, n // 2),
    },
    "lower_attack": lambda n: {"num_points": max(1, n // 10)},
    "lower_search": lambda n: _search(n),
    "lower_gaussian": lambda n: {"num_points": min(1000, n)},
    "lower_convex_combinations": lambda n: {"num_pairs": min(1000, max(1, n // 10))},
}


def options(name: str, count: int, seconds: float) -> dict[str, int]:
    """Options of the bound ``name`` where ``count`` points are affordable, in its share of time."""
    if count >= UNLIMITED:
        if name != "lower_search":
            return {}
        few, many = _REPEATS
        return {"repeats": max(few, int(min(seconds / _REPEAT, many)))}
    return _OPTIONS[name](count) if name in _OPTIONS else {}


def _search(count: int) -> dict[str, int]:
    if count >= _POPULATION:
        return {"populations": min(80, count // _POPULATION)}
    return {"populations": 1, "rounds": max(1, 30 * count // _POPULATION)}


def refuse(name: str, stack: ModelStack, *, seconds: float) -> None:
    """Raise NotInBudget where one operation alone takes longer: nothing stops it."""
    links = chain(stack) if name in _CUBIC else None
    if links is not None:
        largest = max(max(weight.shape[1:]) for weight in links.weights)
        if 2 * largest**3 > seconds * _CUBIC_FLOPS:
            raise NotInBudget(f"a layer has {largest} units, too many for {seconds:.3g} s")


def normal(stack: ModelStack, seed: int) -> dict[str, Tensor]:
    """Standard normal points, for a network without data."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(NUM_NORMAL, *stack.input_shape, generator=generator, dtype=torch.float64)
    return {NORMAL: drawn.to(stack.device)}


class Rate:
    """How many points fit a time: what one costs is measured when it is first asked for.

    Of a network that is no chain the first to be measured is a quick proof of one point, the one
    that is used where only one is affordable: what comes later may be stopped, that bound remains.

    Parameters
    ----------
    prover, inputs : of the network; ``inputs`` split -> (n, *input_shape).
    norm : of the Jacobians and proofs.
    seed : of the points used where there are too many.
    """

    def __init__(
        self, prover: Prover, inputs: Mapping[str, Tensor], *, norm: str, seed: int = 0
    ) -> None:
        self.prover, self.inputs, self.norm, self.seed = prover, inputs, norm, seed
        self.proved = 0.0  # at a point that time was measured with

    def points(self, seconds: float) -> int:
        """Points whose Jacobian norms and proofs take about ``seconds``, at least 1."""
        if self.prover.links is not None and self._is_quick(seconds):
            return UNLIMITED
        # Of a chain a point costs little more than its Jacobian: a search takes several for each.
        share = 1 if self.prover.links is None else 3
        return max(1, math.floor(min(seconds / max(share * self._one, 1e-9), UNLIMITED)))

    def refuse(self, name: str, seconds: float) -> None:
        """Raise NotInBudget where the bound ``name`` takes points, and one takes longer than that.

        It would be stopped without a result, or have no more than the first lower bound has.
        """
        if name not in _OF_POINTS or (self.prover.links is not None and self._is_quick(seconds)):
            return
        if self._one > seconds:
            raise NotInBudget(
                f"one point takes about {self._one:.2g} s, more than its share of {seconds:.2g} s"
            )

    def _is_quick(self, seconds: float) -> bool:
        """Whether the Jacobians of all points and of the search take less than ``seconds``."""
        assert self.prover.links is not None
        weights = self.prover.links.weights
        flops = 2 * weights[-1].shape[1] * sum(weight[0].numel() for weight in weights[:-1])
        count = sum(map(len, self.inputs.values())) + _SEARCHED
        return count * flops < seconds * _FLOPS

    @cached_property
    def _one(self) -> float:
        """Seconds that one point takes; 0 where that is not known: each bound says why."""
        first = some(next(iter(self.inputs.values())), 1, self.seed)
        # A chain's points are taken together: it is the further ones that cost.
        together = 1 if self.prover.links is None else 9
        least = math.inf
        for _ in range(2):  # the first time holds what is paid once
            try:
                if self.prover.links is None and not self.proved:
                    quick = self._seconds_of_a_proof(first)
                    if _DEAR < quick < _ONCE:
                        quick = min(quick, self._seconds_of_a_proof(first))
                    if quick > _DEAR:
                        return _DEARER * quick
                one = self._seconds(first)
                if together > 1:
                    more = first.expand(together, *first.shape[1:])
                    one = max(self._seconds(more) - one, one / together) / (together - 1)
            except Exception:
                return 0.0
            least = min(least, one)
            if least > _DEAR:
                break
        return least

    def _seconds_of_a_proof(self, point: Tensor) -> float:
        start = time.perf_counter()
        self._keep(self.prover.certify(point[None], norm=self.norm, quick=True))
        return time.perf_counter() - start

    def _seconds(self, points: Tensor) -> float:
        start = time.perf_counter()
        jacobian_norms(self.prover.stack, points, norms=[self.norm])
        with self.prover.only_float64():  # more digits are one point's, however many points
            self._keep(self.prover.certify(points[None, :1], norm=self.norm))
        return time.perf_counter() - start

    def _keep(self, found: Tensor) -> None:
        self.proved = max(self.proved, float(found))
