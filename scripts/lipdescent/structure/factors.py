"""The layer product factor by factor: what each layer, and each branch, contributes to it."""

from collections.abc import Iterator

from torch import Tensor

from lipdescent.networks.expressions import Chain, Layer, Node, Sum
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.composition import bound
from lipdescent.structure.linear_runs import run_bound, segments


def factors(
    node: Node, stack: ModelStack, *, norm: str, depth: int = 0
) -> Iterator[tuple[int, str, Tensor]]:
    """Depth, name and constant of what :func:`bound` of a traced ``node`` is made of, in order.

    Those of depth 0 multiply to the bound: float64 (num_models,) each. A sum or a concatenation is
    followed by its branches, one deeper, and each of these by its own factors.

    Raises
    ------
    NotApplicable, ValueError
        From a layer, with its path.
    """
    for run in segments(node) if isinstance(node, Chain) else [(node,)]:
        part = run[0]
        if len(run) > 1:
            name = f"{part.place} to {run[-1].place}, one map"
            yield depth, name, run_bound(run, stack, norm=norm)
        elif isinstance(part, Layer):
            scale = f" and {part.scale.place}" if part.scale is not None else ""
            yield depth, part.place + scale, bound(part, stack, norm=norm)
        else:
            kind = "sum" if isinstance(part, Sum) else "concatenation"
            name = f"{kind} of {len(part.parts)} branches"
            yield depth, name, bound(part, stack, norm=norm)
            for number, branch in enumerate(part.parts, 1):
                own = f": {branch.place}" if isinstance(branch, Layer) else ""
                yield depth + 1, f"branch {number}{own}", bound(branch, stack, norm=norm)
                if not isinstance(branch, Layer):
                    yield from factors(branch, stack, norm=norm, depth=depth + 2)
