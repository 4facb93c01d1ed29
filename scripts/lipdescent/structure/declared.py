"""Whether what a user declares of a layer is plainly false: tried at random inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipdescent.networks.declared import declaration_of
from lipdescent.stacks.model_stack import in_dtype
from lipdescent.structure.rebuilt import evaluate

_SCALES = (1e-3, 1e-2, 1e-1, 1.0, 3.0, 10.0, 1e2)
_STEPS = (1e-5, 1e-2, 1.0)  # relative distances of the two points of a quotient
_POINTS = 32  # at each scale and distance
_ORDERS = {"l1": 1.0, "l2": 2.0, "linf": torch.inf}
_ROUNDING = 1e-6  # relative, of a quotient; and of the values, by what they are apart


@torch.no_grad()
def check_declared(
    module: nn.Module, state: dict[str, Tensor], input_shape: Sequence[int], place: str
) -> None:
    """Raise ValueError where a sampled quotient, slope or value contradicts a declaration.

    Parameters
    ----------
    module : of a declared class.
    state : its own tensors, one model's.
    input_shape : without the batch axis.
    place : what errors call it.
    """
    declaration = declaration_of(module)
    assert declaration is not None
    own = in_dtype(state, torch.float64)
    x, y = _pairs(input_shape)
    above, below = (evaluate(module, own, points) for points in (x, y))
    finite = (above.isfinite() & below.isfinite()).flatten(1).all(1)
    x, y, above, below = (t[finite] for t in (x, y, above, below))
    noise = 2.0**-40 * (above.abs() + below.abs())
    if declaration.slopes is not None:
        if above.shape != x.shape:
            raise ValueError(f"{place}: slopes are declared, but it changes the shape of its input")
        low, high = declaration.slopes
        moved, by, doubt = (
            above - below,
            x - y,
            noise + _ROUNDING * (x - y).abs() * max(abs(low), abs(high)),
        )
        ends = torch.stack([low * by, high * by])
        if bool(((moved > ends.amax(0) + doubt) | (moved < ends.amin(0) - doubt)).any()):
            slope = (moved / by).flatten()
            worst = slope[((slope - low) * (slope - high)).nan_to_num(-1.0).argmax()]
            raise ValueError(
                f"{place}: a slope of {float(worst):.6g}, declared are {low:g}, {high:g}"
            )
    for norm, constant in declaration.constants(module).items():
        order = _ORDERS[norm]
        far, near, slack = (
            torch.linalg.vector_norm(t.flatten(1), order, dim=1)
            for t in (above - below, x - y, noise)
        )
        wrong = far - slack > constant * near * (1 + _ROUNDING)
        if bool(wrong.any()):
            found = float((far / near)[wrong].max())
            raise ValueError(
                f"{place}: two inputs with a quotient of {found:.6g} in {norm}, declared is "
                f"constant {constant:g}"
            )
    if declaration.range is not None:
        low, high = declaration.range
        if bool(((above + noise < low) | (above - noise > high)).any()):
            found = float(above.flatten()[(above - (low + high) / 2).abs().argmax()])
            raise ValueError(
                f"{place}: a value of {found:.6g}, declared is range {low:g}, {high:g}"
            )


def _pairs(input_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Pairs of inputs of several sizes and distances, float64 (n, *input_shape) each."""
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(_POINTS, *input_shape, generator=generator, dtype=torch.float64)

    x, y = [], []
    for scale in _SCALES:
        for step in _STEPS:
            x.append(scale * normal())
            y.append(x[-1] + scale * step * normal())
    return torch.cat(x), torch.cat(y)
