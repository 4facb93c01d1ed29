"""Random crops and horizontal flips of image batches, drawn per replica, applied on the device.

The drawing (:func:`draw`) is apart from the doing (:func:`crop_and_flip`): what is drawn are plain
tensors, made ahead for a whole epoch from each replica's own generator, so that a replica's images
do not depend on its stack-mates and a captured CUDA graph only reads tensors.
"""

import torch
from torch import Tensor


def draw(
    num_samples: int, *, padding: int, flip: bool = True, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One replica's crops and flips for ``num_samples`` images.

    Parameters
    ----------
    padding : the images will be padded by this many pixels on every side before they are cropped.
    flip : mirror each image with probability 1/2; otherwise none.

    Returns
    -------
    offsets : int64 (num_samples, 2), row and column of the crop's corner, uniform in
        0..2 * padding.
    flips : bool (num_samples,).

    Raises
    ------
    ValueError
        If ``padding`` is negative.
    """
    if padding < 0:
        raise ValueError(f"padding = {padding}: allowed are integers from 0")
    device = generator.device
    size = (num_samples, 2)
    offsets = torch.randint(2 * padding + 1, size, generator=generator, device=device)
    # Drawn even where it is not used: the same crops with and without flips.
    flips = torch.randint(2, (num_samples,), generator=generator, device=device).bool()
    return offsets, flips & flip


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, *, padding: int) -> Tensor:
    """Zero-pad each image, cut its own size out at its offset, mirror it where ``flips`` says so.

    Without a copy of the padded images and without a loop: one gather and one mask.

    Parameters
    ----------
    images : (..., channels, height, width), for instance (replicas, batch, 3, 32, 32).
    offsets : integers (..., 2) in 0..2 * padding; ``padding`` for both leaves an image in place.
    flips : bool (...).

    Raises
    ------
    ValueError
        If the leading axes differ.
    """
    *leading, channels, height, width = images.shape
    if list(offsets.shape) != [*leading, 2] or list(flips.shape) != leading:
        raise ValueError(
            f"images {tuple(images.shape)} need offsets {(*leading, 2)} and flips "
            f"{tuple(leading)}, given are {tuple(offsets.shape)} and {tuple(flips.shape)}"
        )
    device = images.device
    rows = torch.arange(height, device=device) + (offsets[..., :1] - padding)
    columns = torch.arange(width, device=device).expand(*leading, width)
    columns = torch.where(flips.unsqueeze(-1), width - 1 - columns, columns)
    columns = columns + (offsets[..., 1:] - padding)
    inside = _inside(rows, height).unsqueeze(-1) & _inside(columns, width).unsqueeze(-2)
    source = rows.clamp(0, height - 1).unsqueeze(-1) * width
    source = (source + columns.clamp(0, width - 1).unsqueeze(-2)).flatten(-2).unsqueeze(-2)
    pixels = images.flatten(-2).gather(-1, source.expand(*leading, channels, -1))
    # A selection, not a product: what lies outside is zero even if an image holds inf or NaN.
    return torch.where(inside.unsqueeze(-3), pixels.view_as(images), 0.0)


def _inside(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)
