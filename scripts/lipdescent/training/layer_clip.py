"""Layers of ordinary weights whose operator norms are brought to at most a given value.

After every update a weight whose l2 norm exceeds the value is scaled to it (Gouk et al. 2021,
arXiv 1804.04368, sec. 4; the clipping of Khromov & Singh 2024, arXiv 2302.10886). The certified
product of the layers' norms is then at most the product of the values, up to rounding. The
networks begin as PyTorch initialises them: only an update clips.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipdescent.constrained.norms import convolution_bound
from lipdescent.networks.expressions import place
from lipdescent.stacks.model_stack import ModelStack

Norm = Callable[[Tensor], Tensor]


class LayerClip:
    """The weights of a network, their norms, and the largest value that they may have.

    Linear layers are scaled by their spectral norm. Convolutions by an upper bound of theirs on the
    real input size, which exceeds it by a few per cent, more for strides and small images.
    """

    def __init__(self, norms: dict[str, Norm], largest: float) -> None:
        self._norms, self._largest = norms, largest

    @classmethod
    def of(cls, stack: ModelStack, largest: float) -> Self:
        """For the networks of ``stack``.

        Raises
        ------
        TypeError
            For a layer with weights that is neither linear nor a convolution of zeros or circular
            padding, or whose weights are constrained already, naming it.
        """
        return cls(_norms(stack), largest)

    @torch.no_grad()
    def apply_(self, live_weight: Callable[[str], Tensor], *, going: Tensor) -> None:
        """Scale weights in place.

        Parameters
        ----------
        live_weight : from a weight's name to (models, *shape), a view of what is trained.
        going : bool (models,); others stay as they are, and so do weights that are not finite.
        """
        for name, norm in self._norms.items():
            weight = live_weight(name)
            factors = torch.ones(len(weight), dtype=torch.float64, device=weight.device)
            # One at a time: products of several round otherwise than those of one.
            for r in going.nonzero().flatten().tolist():
                own = weight[r].to(torch.float64)
                if bool(own.isfinite().all()):
                    factors[r] = (self._largest / norm(own)).clamp(max=1.0)
            weight.mul_(factors.view(-1, *[1] * (weight.ndim - 1)).to(weight.dtype))


def spectral_norm(matrix: Tensor) -> Tensor:
    """Of (m, n) in float64, by the eigenvalues of its smaller Gram matrix: to rounding."""
    wide = matrix.shape[0] <= matrix.shape[1]
    gram = matrix @ matrix.mT if wide else matrix.mT @ matrix
    return torch.linalg.eigvalsh(gram)[-1].clamp_min(0).sqrt()


def _norms(stack: ModelStack) -> dict[str, Norm]:
    """Name of each weight -> its norm."""
    module = copy.deepcopy(stack.module).to_empty(device="cpu").float().eval()
    found: dict[str, Norm] = {}
    for path, layer in module.named_modules():
        if not (layer._parameters or parametrize.is_parametrized(layer)):
            continue
        name = f"{path}.weight" if path else "weight"
        if type(layer) is nn.Linear:
            found[name] = spectral_norm
        elif type(layer) in (nn.Conv1d, nn.Conv2d) and _is_plain(layer):
            layer.register_forward_pre_hook(partial(_note, found, name))
        else:
            raise TypeError(
                f"{place(layer, path)}: training.layer_clip is for layers of which the weights "
                "alone make the norm; allowed are Linear, Conv1d and Conv2d without dilation and "
                "groups, of zeros or circular padding, not constrained, and layers without weights"
            )
    with torch.no_grad():
        module(torch.zeros(1, *stack.input_shape))
    return found


def _note(found: dict[str, Norm], name: str, layer: Any, inputs: tuple[Tensor]) -> None:
    """A convolution's norm, from the size of what it is given. A stride only leaves outputs out."""
    found[name] = partial(
        convolution_bound,
        sizes=inputs[0].shape[2:],
        padding=layer.padding,
        circular=layer.padding_mode == "circular",
    )


def _is_plain(layer: nn.Conv1d | nn.Conv2d) -> bool:
    known = not isinstance(layer.padding, str) and layer.padding_mode in ("zeros", "circular")
    return known and set(layer.dilation) == {1} and layer.groups == 1
