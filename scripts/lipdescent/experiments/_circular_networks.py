"""Closed form of linear circular residual networks: block diagonal under the Fourier transform.

A circular convolution multiplies the coefficients of every frequency by its symbol, a matrix from
input to output channels; x + K2 K1 x by I + K2 K1; an average pool of two samples by
(1 + exp(i w)) / 2, of size cos(w / 2), exactly 0 at the Nyquist frequency, where w = 2 pi f / n.
What a pool leaves of frequencies f and f + n / 2 lands on the same frequency of n / 2 samples.
"""

import math

import torch
from torch import Tensor, nn

from lipdescent.architectures._blocks import Residual
from lipdescent.stacks.model_stack import ModelStack


def symbol(kernel: Tensor, length: int) -> Tensor:
    """Matrices of a circular convolution at frequencies 0 .. length - 1: complex128.

    Parameters
    ----------
    kernel : (out, in, taps), centred as ``nn.Conv1d`` with padding (taps - 1) / 2.

    Returns
    -------
    (length, out, in): the layer's map of the k-th Fourier coefficients.
    """
    taps = kernel.shape[-1]
    place = torch.arange(taps, dtype=torch.float64) - (taps - 1) // 2
    angle = 2 * math.pi / length * torch.arange(length, dtype=torch.float64)[:, None] * place
    wave = torch.polar(torch.ones_like(angle), angle)
    return torch.einsum("ft,oit->foi", wave, kernel.to(wave))


def frequency_responses(stack: ModelStack) -> Tensor:
    """What the first model makes of a wave of unit length at every frequency: (length, channels).

    The model is a linear network of ``bilipschitz_resnet`` on signals, without its last linear
    layer. Frequencies that agree modulo the number of outputs' samples land on the same one.

    Raises
    ------
    TypeError
        For a layer that is not linear and circular.
    """
    length = math.prod(stack.input_shape)
    gains = torch.ones(length, 1, 1, dtype=torch.complex128)
    samples = length
    for path, layer in stack.module.named_children():
        weights = {
            name.removeprefix(f"{path}."): tensor[0].double()
            for name, tensor in stack.state.items()
            if name.startswith(f"{path}.")
        }
        gains, samples = _layer(layer, weights, gains, samples)
    return gains[:, :, 0]


def singular_values(responses: Tensor, samples: int) -> Tensor:
    """All of them, descending, of a network that leaves ``samples`` samples: (length,).

    Frequencies that land together are the columns of one block.
    """
    blocks = responses.view(-1, samples, responses.shape[1]).permute(1, 2, 0)
    values = torch.linalg.svdvals(blocks).flatten()
    missing = len(responses) - len(values)
    return torch.nn.functional.pad(values, (0, max(0, missing))).sort(descending=True).values


def _layer(
    layer: nn.Module, weights: dict[str, Tensor], gains: Tensor, samples: int
) -> tuple[Tensor, int]:
    if isinstance(layer, nn.Flatten | nn.Unflatten | nn.Identity):
        return gains, samples
    if isinstance(layer, nn.Conv1d):
        whole = symbol(weights["weight"], samples).repeat(len(gains) // samples, 1, 1)
        return whole @ gains, samples
    if isinstance(layer, Residual) and isinstance(layer.skip, nn.Identity):
        branch = gains
        for name, part in layer.branch.named_children():
            prefix = f"branch.{name}."
            own = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
            branch, samples = _layer(part, own, branch, samples)
        return gains + branch, samples
    if isinstance(layer, nn.AvgPool1d) and layer.kernel_size in (2, (2,)):
        angle = 2 * math.pi / samples * torch.arange(samples, dtype=torch.float64)
        mean = (1 + torch.polar(torch.ones_like(angle), angle)) / 2
        mean[samples // 2] = 0  # exactly
        # Per unit of length: half of the samples are left.
        factor = mean.repeat(len(gains) // samples) / math.sqrt(2)
        return factor[:, None, None] * gains, samples // 2
    raise TypeError(f"{type(layer).__name__}: allowed are circular linear layers")
