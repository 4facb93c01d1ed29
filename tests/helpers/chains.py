"""Chains of linear layers by their weights alone, and weights to make them of."""

import torch

from lipdescent.structure.affine_chain import AffineChain


def chain(weights: list[torch.Tensor], slopes: tuple[float, float] = (0.0, 1.0)) -> AffineChain:
    weights = [w.double()[None] for w in weights]
    none = torch.zeros(1, dtype=torch.float64)
    return AffineChain(weights, [], [slopes] * (len(weights) - 1), [none] * len(weights))


def gaussian(sizes: list[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pairs = zip(sizes[1:], sizes[:-1], strict=True)
    return [torch.randn(m, n, generator=generator, dtype=torch.float64) for m, n in pairs]
