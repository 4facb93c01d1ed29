"""Constraints on weights: parametrisations to register on ``nn.Linear`` and convolutions.

Each says in ``norm`` and ``constant`` what it promises: the operator norm of the layer is at most
``constant``. Weights of any leading shape (..., out, in, *kernel) are taken, so that they can be
called on whole stacks as well.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipdescent.constrained import Constraint
from lipdescent.constrained._polynomial import COEFFICIENTS, iterate
from lipdescent.constrained.norms import convolution_bound, simple_bound, spectral_bound
from lipdescent.constrained.retraction import retract_, tangent_

MAX_ORDER = 4


def bjorck(weight: Tensor, *, order: int = 1, iterations: int = 12) -> Tensor:
    """Orthonormalise (..., m, n): all singular values towards 1, none above.

    Björck & Bowie (1971), as in Anil et al. (2019, arXiv 1811.05381, eq. 3): W <- W (I + Q / 2 +
    3/8 Q^2 + ...) with Q = I - W^T W and powers up to ``order``; order 1 is
    W <- 3/2 W - 1/2 W W^T W. Each step keeps singular values of [0, 1] in it; the division by an
    upper bound of the norm brings them there, whatever W is (the bound counts as constant in the
    gradient: the limit does not depend on it). From 0.01 to 1e-6 below 1 it takes 15, 10, 8, 7
    iterations of order 1, 2, 3, 4.

    Raises
    ------
    ValueError
        If ``order`` is not 1 to 4 or ``iterations`` is negative.
    """
    if order not in range(1, MAX_ORDER + 1):
        raise ValueError(f"order = {order}: allowed are 1 to {MAX_ORDER}")
    if iterations < 0:
        raise ValueError(f"iterations = {iterations}: allowed are integers >= 0")
    if weight.shape[-2] < weight.shape[-1]:
        return bjorck(weight.mT, order=order, iterations=iterations).mT
    weight = weight / _scale(weight.detach())
    if weight.device.type == "cpu":  # on CUDA, eigenvalues are slower than products
        return iterate(weight, order=order, iterations=iterations)
    return bjorck_by_products(weight, order=order, iterations=iterations)


def _scale(weight: Tensor) -> Tensor:
    """Upper bound on the norm, (..., 1, 1)."""
    largest = weight.abs().amax((-2, -1), keepdim=True)
    largest = largest.clamp_min(torch.finfo(weight.dtype).tiny)
    weight = weight / largest
    bound = largest * simple_bound(weight, weight.mT @ weight)[..., None, None]
    return bound.clamp_min(torch.finfo(weight.dtype).tiny)


def bjorck_by_products(weight: Tensor, *, order: int, iterations: int) -> Tensor:
    """:func:`bjorck` of (..., m, n), m >= n, singular values at most 1, as it is written."""
    identity = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    for _ in range(iterations):
        weight = weight @ _series(identity - weight.mT @ weight, identity, order)
    return weight


def _series(q: Tensor, identity: Tensor, order: int) -> Tensor:
    """Sum of COEFFICIENTS[i] Q^i up to ``order``, with as few products as possible."""
    total = identity + COEFFICIENTS[1] * q
    if order >= 2:
        square = q @ q
        total = total + COEFFICIENTS[2] * square
    if order == 3:
        total = total + COEFFICIENTS[3] * (square @ q)
    if order == 4:
        total = total + square @ (COEFFICIENTS[3] * q + COEFFICIENTS[4] * square)
    return total


def project_l1_rows(weight: Tensor, *, radius: float = 1.0) -> Tensor:
    """Nearest point, row by row, with sum of absolute values at most ``radius``: (..., n).

    Duchi et al. (2008), algorithm of figure 1. A row that is already inside does not move.
    """
    absolute = weight.abs()
    ordered = absolute.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - radius
    count = torch.arange(1, weight.shape[-1] + 1, dtype=weight.dtype, device=weight.device)
    active = (ordered * count > excess).sum(-1, keepdim=True).clamp_min(1)
    threshold = excess.gather(-1, active - 1) / active
    outside = absolute.sum(-1, keepdim=True) > radius
    projected = weight.sign() * (absolute - threshold).clamp_min(0)
    return torch.where(outside, projected, weight)


class Scaled(Constraint):
    """``constant`` times a matrix whose spectral norm is at most 1 already.

    For torch's ``parametrizations.orthogonal`` before it, and for K-Lipschitz scaling.
    """

    def __init__(self, *, constant: float = 1.0) -> None:
        super().__init__("l2", constant)

    def forward(self, weight: Tensor) -> Tensor:
        return self.constant * weight


class Bjorck(Constraint):
    """Orthonormal rows or columns of a matrix, times ``constant``; see :func:`bjorck`."""

    retract_, tangent_ = staticmethod(retract_), staticmethod(tangent_)

    def __init__(self, *, order: int = 1, iterations: int = 12, constant: float = 1.0) -> None:
        super().__init__("l2", constant)
        bjorck(torch.eye(1), order=order, iterations=iterations)
        self.order, self.iterations = order, iterations

    def forward(self, weight: Tensor) -> Tensor:
        return self.constant * bjorck(weight, order=self.order, iterations=self.iterations)


class Spectral(Constraint):
    """Spectral normalisation of a matrix with coefficient c = ``constant``.

    Soft: W / max(1, |W|_2 / c), as in Smith et al. (2021, arXiv 2106.02469) after Behrmann et al.
    (2019). Hard: c W / |W|_2. The norm is :func:`spectral_bound`, from above: torch's
    ``spectral_norm`` takes a power iteration, from below.
    """

    def __init__(self, *, constant: float = 1.0, soft: bool = True) -> None:
        super().__init__("l2", constant)
        self.soft = soft

    def forward(self, weight: Tensor) -> Tensor:
        return _normalised(weight, spectral_bound(weight), 2, self)


class L1Rows(Constraint):
    """l_inf norm of a matrix at most ``constant``: rows projected onto the L1 ball."""

    def __init__(self, *, constant: float = 1.0) -> None:
        super().__init__("linf", constant)

    def forward(self, weight: Tensor) -> Tensor:
        return project_l1_rows(weight, radius=self.constant)


class SpectralConvolution(Constraint):
    """:class:`Spectral` for a convolution, by its norm on the real input size.

    ``orthonormal``: the kernel as a matrix (out, in * taps) goes through :func:`bjorck` first, and
    the division is hard.
    """

    def __init__(
        self,
        convolution: nn.Conv1d | nn.Conv2d,
        sizes: Sequence[int],
        *,
        constant: float = 1.0,
        soft: bool = True,
        orthonormal: bool = False,
        iterations: int = 12,
    ) -> None:
        super().__init__("l2", constant)
        _check_convolution(convolution, sizes)
        self.sizes, self.padding = tuple(sizes), tuple(map(int, convolution.padding))
        self.circular, self.stride = convolution.padding_mode == "circular", convolution.stride[0]
        self.soft, self.orthonormal = soft and not orthonormal, orthonormal
        self.iterations = iterations

    def forward(self, weight: Tensor) -> Tensor:
        dims = len(self.sizes)
        if self.orthonormal:
            flat = weight.flatten(-dims - 1)
            flat = bjorck(flat, iterations=self.iterations)
            weight = flat.reshape(weight.shape)
        bound = convolution_bound(
            weight,
            sizes=self.sizes,
            padding=self.padding,
            circular=self.circular,
            stride=self.stride,
        )
        return _normalised(weight, bound, dims + 2, self)


def constrain(layer: nn.Module, constraint: Constraint) -> nn.Module:
    """Register ``constraint`` on the weight of ``layer`` and return the layer."""
    return parametrize.register_parametrization(layer, "weight", constraint)


def _normalised(
    weight: Tensor, norm: Tensor, dims: int, constraint: Spectral | SpectralConvolution
) -> Tensor:
    norm = norm.view(*norm.shape, *[1] * dims) / constraint.constant
    if constraint.soft:
        return weight / norm.clamp_min(1.0)
    return weight / norm.clamp_min(torch.finfo(weight.dtype).tiny)


def _check_convolution(convolution: nn.Module, sizes: Sequence[int]) -> None:
    kind = type(convolution).__name__
    if not isinstance(convolution, nn.Conv1d | nn.Conv2d):
        raise TypeError(f"{kind}: allowed are Conv1d and Conv2d")
    if len(sizes) != len(convolution.kernel_size) or min(sizes) < 1:
        raise ValueError(f"sizes = {tuple(sizes)}: allowed is one positive size per axis of {kind}")
    if {*convolution.dilation, convolution.groups} != {1} or isinstance(convolution.padding, str):
        raise ValueError(
            f"{kind} with dilation {convolution.dilation}, groups {convolution.groups}, padding "
            f"{convolution.padding!r}: allowed are 1, 1, integers"
        )
    if convolution.padding_mode not in ("zeros", "circular"):
        mode = convolution.padding_mode
        raise ValueError(f"{kind}: padding_mode = {mode!r}: allowed are zeros, circular")
    stride = convolution.stride[0]
    circular = convolution.padding_mode == "circular"
    if set(convolution.stride) != {stride} or (circular and any(n % stride for n in sizes)):
        raise ValueError(
            f"{kind} with stride {convolution.stride} on {tuple(sizes)}: allowed is the same on "
            "every axis, with circular padding a divisor of the sizes"
        )
    if circular:
        for n, p, k in zip(sizes, convolution.padding, convolution.kernel_size, strict=True):
            if 2 * p != k - 1:
                raise ValueError(
                    f"{kind}: circular padding {p} of a kernel of {k} taps on {n} "
                    f"elements: allowed is (taps - 1) / 2"
                )
