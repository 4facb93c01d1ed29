"""Which widths, inputs and options fit the architectures: a function each, its errors name them.

An architecture's file names its own as ``SIZES``: ``build`` calls it, and so does the check of a
configuration before any job, with the options' defaults filled in. No PyTorch here: importing it
would take longer than everything else in a dry run.
"""

import math
from collections.abc import Sequence
from typing import Any


def image_side(input_shape: Sequence[int]) -> tuple[int, int]:
    """``(channels, side)`` of square images (channels, side, side).

    Raises
    ------
    ValueError
        If the inputs are something else.
    """
    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        raise ValueError(
            f"input_shape = {tuple(input_shape)}: allowed are square images (channels, side, side)"
        )
    return input_shape[0], input_shape[1]


def pools_to_one(
    width: int, *, input_shape: Sequence[int], pools: Sequence[int] | None, **_: Any
) -> tuple[int, int, int, int]:
    """Sizes of the max pool after each of four convolutions that leave one pixel of the image.

    By default 1, 2, 2 and a quarter of the side: (1, 2, 2, 8) for 32 x 32.

    Raises
    ------
    ValueError
        If the inputs are not square images, or the pools do not divide their side to one pixel.
    """
    side = image_side(input_shape)[1]
    if pools is None:
        if side < 4 or side % 4:
            raise ValueError(
                f"wrong image size for the pools: {side} x {side}, allowed are multiples of 4 "
                f"(or set pools to 4 integers whose product is {side})"
            )
        return (1, 2, 2, side // 4)
    if len(pools) != 4 or min(pools) < 1 or math.prod(pools) != side:
        raise ValueError(
            f"wrong image size for the pools: {side} x {side} with pools {list(pools)}, "
            f"allowed are 4 positive integers whose product is {side}"
        )
    first, second, third, fourth = pools
    return first, second, third, fourth


def multiple_of_8(width: int, *, input_shape: Sequence[int], **_: Any) -> None:
    """Square images whose side three strides of 2 divide."""
    _multiple_of(8, image_side(input_shape)[1])


def multiple_of_4(width: int, *, input_shape: Sequence[int], **_: Any) -> None:
    """Square images whose side two strides of 2 divide."""
    _multiple_of(4, image_side(input_shape)[1])


def check_coefficient(coefficient: float | None) -> None:
    """The largest constant of a layer.

    Raises
    ------
    ValueError
        If it is neither positive nor None.
    """
    if coefficient is not None and not 0 < coefficient < math.inf:
        raise ValueError(f"coefficient = {coefficient}: allowed are positive numbers, or null")


def wide(
    width: int, *, input_shape: Sequence[int], depth: int, coefficient: float | None, **_: Any
) -> tuple[int, int, int]:
    """``(channels, side, blocks of a stage)`` of wide ResNets on images whose side 4 divides.

    Raises
    ------
    ValueError
        If the inputs are of another kind, the depth is not 6n + 4, or the coefficient is unfit.
    """
    check_coefficient(coefficient)
    channels, side = image_side(input_shape)
    _multiple_of(4, side)
    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"depth = {depth}: allowed are 10, 16, 22, 28, ... (6n + 4)")
    return channels, side, (depth - 4) // 6


def _multiple_of(least: int, side: int) -> None:
    if side < least or side % least:
        raise ValueError(
            f"wrong image size for the strides: {side} x {side}, allowed are multiples of {least}"
        )


def patches(width: int, *, input_shape: Sequence[int], patch: int, **_: Any) -> None:
    """Square images of whole patches."""
    side = image_side(input_shape)[1]
    if side % patch:
        raise ValueError(
            f"wrong image size for the patches: {side} x {side}, "
            f"allowed are multiples of patch = {patch}"
        )


def halved_image(width: int, *, input_shape: Sequence[int], stages: int, **_: Any) -> None:
    """Square images that are halved between stages."""
    side = image_side(input_shape)[1]
    if stages < 1 or side % 2 ** (stages - 1):
        raise ValueError(
            f"stages = {stages}: allowed are numbers >= 1 for which 2^(stages - 1) divides {side}"
        )


def lifted(
    width: int,
    *,
    input_shape: Sequence[int],
    stages: int,
    activation: str,
    coefficient: float | None = None,
    **_: Any,
) -> tuple[int, tuple[int, ...]]:
    """Channels and sizes of signals or images that are lifted to ``width`` channels, then halved.

    Raises
    ------
    ValueError
        If the inputs are of another kind, a size is not divisible, the coefficient is unfit, or the
        width is too small, or odd where pairs are sorted.
    """
    check_coefficient(coefficient)
    shape = (1, *input_shape) if len(input_shape) == 1 else tuple(input_shape)
    if len(shape) not in (2, 3):
        raise ValueError(
            f"input_shape = {tuple(input_shape)}: allowed are (length,), (channels, length) and "
            "(channels, height, width)"
        )
    if stages < 1 or any(n % 2 ** (stages - 1) for n in shape[1:]):
        raise ValueError(
            f"stages = {stages}: allowed are numbers >= 1 for which 2^(stages - 1) divides the "
            f"sizes {shape[1:]}"
        )
    if width < shape[0]:
        raise ValueError(f"width = {width}: allowed are at least the {shape[0]} input channels")
    if activation == "maxmin" and width % 2:
        raise ValueError(f"width = {width}: maxmin needs an even number of channels")
    return shape[0], shape[1:]


def signal(width: int, *, input_shape: Sequence[int], **_: Any) -> tuple[int, int]:
    """Channels and length of signals (length,) or (channels, length) of at least 3 values."""
    if len(input_shape) not in (1, 2) or input_shape[-1] < 3:
        raise ValueError(
            f"input_shape = {tuple(input_shape)}: allowed are (length,) and (channels, length), "
            "length at least 3"
        )
    channels, length = (1, *input_shape)[-2:]
    return channels, length


def image(width: int, *, input_shape: Sequence[int], **_: Any) -> None:
    """Images of any size."""
    if len(input_shape) != 3:
        raise ValueError(
            f"input_shape = {tuple(input_shape)}: allowed is (channels, height, width)"
        )
