"""Search over linear pieces, far from the data too: a lower bound for deep ReLU networks.

Many small populations of points, of which each looks for the piece with the largest Jacobian norm
(``jacobians/search.py``). They start from the data and from Gaussian points on the data's scale and
around it, so that the data need not be near where the network is steepest. What a population ends
in is certified (``proofs/prover.py``). With one hidden layer ``lower_ascent`` is the better one.

The l_inf and l1 norms are one output's and one input's, and climb from fewer places than the l2
norm, which all of them feed. So there populations start once more, from where a search for l2 ends:
1,234 instead of 375 in l_inf on an ACAS-Xu network, in 2.5 times the seconds.

The steepest pieces are small, and finding them is luck: of four seeds one finds 3,903 there, the
others 934 to 2,088; in l2 one of sixteen finds 8,825, the others 863 to 2,545. ``repeats`` takes
that many; ``bracket`` four, and more with a budget of minutes.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lipdescent.bounds.jacobians import norms as jac
from lipdescent.bounds.jacobians.search import drawn_from, mixed_starts, search
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.deadline import over
from lipdescent.domains.domain import Domain, regions_of
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.points._parts import check_count
from lipdescent.stacks.model_stack import ModelStack

DIRECTION = "lower"
NORMS = jac.NORMS
_ISLANDS = 8  # that start from another search's ends


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor],
    norms: Sequence[str] = ("l2",),
    seed: int = 0,
    populations: int = 80,
    rounds: int = 30,
    repeats: int = 1,
    domain: Mapping[str, Any] | Domain | None = None,
) -> Iterator[Measurement]:
    """Yield ``lower_search`` once per norm, with no split: it bounds the global constant.

    Parameters
    ----------
    inputs : split -> (n, *input_shape); every second population starts from them.
    populations : of 10 points and 60 new ones in each round.
    rounds : that they have on their own, and once more as one population.
    repeats : searches, with the seeds ``seed``, ``seed + 1``, ...; the largest value is kept.
    domain : where the constant is taken, everywhere unless given; points are moved into it.

    Raises
    ------
    NotApplicable
        For other networks than chains of Linear and ReLU or LeakyReLU with a hidden layer, or
        another norm.
    TypeError, ValueError
        As for ``lower_jacobian``; also if an option is not a positive integer.
    """
    check_count("populations", populations)
    check_count("rounds", rounds)
    check_count("repeats", repeats)
    jac.check_inputs(stack, inputs, norms)
    prover = Prover(stack, regions_of(domain, stack.input_shape, inputs))
    if prover.links is None or len(prover.links.weights) < 2:
        raise NotApplicable("pieces are searched in chains of Linear and ReLU")
    points = torch.cat([p.to(stack.device, torch.float64).flatten(1) for p in inputs.values()])
    for norm in norms:
        found = []
        for model in range(stack.num_models):
            best = points.new_zeros(())
            for own in range(seed, seed + repeats):
                ends = _ends(prover, model, points, populations, norm, rounds=rounds, seed=own)
                models = torch.tensor([model], device=points.device)
                shaped = ends.view(1, -1, *stack.input_shape)
                proved = prover.certify(shaped, norm=norm, models=models).amax()
                best = torch.maximum(best, proved)
                if over():
                    break
            found.append(best)
        yield Measurement("lower_search", prover.direction, norm, torch.stack(found))


def _ends(
    prover: Prover,
    model: int,
    points: Tensor,
    populations: int,
    norm: str,
    *,
    rounds: int,
    seed: int,
) -> Tensor:
    """Where one search of one model ends: (1, k, n_in)."""
    assert prover.links is not None
    starts = mixed_starts(points, populations, seed=seed)[None]
    look = partial(search, prover.links[model : model + 1], rounds=rounds, seed=seed)
    look = partial(look, project=prover.inside)
    ends = look(starts, norm=norm)
    if norm != "l2" and not over():
        (best,) = look(starts, norm="l2")
        again = drawn_from(best, _ISLANDS, seed=seed)
        ends = torch.cat([ends, look(again[None], norm=norm)], 1)
    return ends
