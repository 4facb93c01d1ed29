"""Layers of constrained networks without weights of their own, and a limited BatchNorm."""

import torch
from torch import Tensor, nn


class GroupSort(nn.Module):
    """Sort groups of ``size`` neighbouring features, ascending (Anil et al. 2019, section 4).

    A permutation at every input: 1-Lipschitz in l1, l2 and l_inf, and its Jacobian is orthogonal.
    Features are axis 1 of (batch, features, *sizes). ``size`` None sorts all of them (FullSort);
    2 is MaxMin.

    Raises
    ------
    ValueError
        If ``size`` is below 1, or does not divide the number of features.
    """

    def __init__(self, size: int | None = 2) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise ValueError(f"group size = {size}: allowed are integers >= 1, or None for all")
        self.size = size

    def extra_repr(self) -> str:
        return "all" if self.size is None else str(self.size)

    def lipschitz_constant(self, norm: str) -> float:
        """1 in every norm; what the bounds read."""
        return 1.0

    def forward(self, x: Tensor) -> Tensor:
        features = x.shape[1]
        size = features if self.size is None else self.size
        if features % size:
            raise ValueError(f"group size = {size} does not divide {features} features")
        groups = x.unflatten(1, (features // size, size))
        if size == 2:  # 10 times the speed of a sort
            low, high = groups.unbind(2)
            return torch.stack([torch.minimum(low, high), torch.maximum(low, high)], 2).flatten(
                1, 2
            )
        return groups.sort(2).values.flatten(1, 2)


class InvertibleDownsampling(nn.Module):
    """Space to depth: (batch, c, *sizes) to (batch, c * factor^dims, *sizes / factor).

    Only moves numbers, so every norm and every distance stays. In two dimensions it equals
    ``nn.PixelUnshuffle``; this one takes any number.

    Raises
    ------
    ValueError
        If ``factor`` does not divide a size.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"factor = {factor}: allowed are integers >= 1")
        self.factor = factor

    def extra_repr(self) -> str:
        return str(self.factor)

    def lipschitz_constant(self, norm: str) -> float:
        """1 in every norm; what the bounds read."""
        return 1.0

    def forward(self, x: Tensor) -> Tensor:
        factor, dims = self.factor, x.dim() - 2
        if any(n % factor for n in x.shape[2:]):
            raise ValueError(f"factor = {factor} does not divide the sizes {tuple(x.shape[2:])}")
        split = [n for size in x.shape[2:] for n in (size // factor, factor)]
        x = x.reshape(*x.shape[:2], *split)
        inner = list(range(3, 3 + 2 * dims, 2))
        outer = list(range(2, 2 + 2 * dims, 2))
        return x.permute(0, 1, *inner, *outer).flatten(1, 1 + dims)


class _Limited(nn.modules.batchnorm._BatchNorm):
    """Mixin: gamma / max(1, max|gamma / sqrt(var + eps)| / c) (Smith et al. 2021, section 3).

    Not ``soft``: divided by it, whether it exceeds 1 or not. The variance is the running one, the
    one that the network has in eval mode.
    """

    PLAIN: type[nn.Module]  # the ordinary layer that stands for it when bounds are taken

    def __init__(self, num_features: int, *, constant: float, soft: bool = True) -> None:
        super().__init__(num_features)
        if not 0 < constant < float("inf"):
            raise ValueError(f"constant = {constant}: allowed are positive numbers")
        self.constant, self.soft = float(constant), soft

    def limited_weight(self) -> Tensor:
        assert self.running_var is not None  # both classes below track it
        slope = (self.weight * (self.running_var + self.eps).rsqrt()).abs().amax(-1)
        least = 1.0 if self.soft else torch.finfo(slope.dtype).tiny
        return self.weight / (slope / self.constant).clamp_min(least)

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        assert self.momentum is not None  # nor do both offer an average over all batches
        return nn.functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.limited_weight(),
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


class LimitedBatchNorm1d(_Limited, nn.BatchNorm1d):
    """BatchNorm1d whose constant in eval mode is at most ``constant``, or is it if not ``soft``."""

    PLAIN = nn.BatchNorm1d


class LimitedBatchNorm2d(_Limited, nn.BatchNorm2d):
    """BatchNorm2d whose constant in eval mode is at most ``constant``, or is it if not ``soft``."""

    PLAIN = nn.BatchNorm2d
