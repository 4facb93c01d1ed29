"""Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), the ViT of Khromov & Singh.

Self-attention is not Lipschitz on an unbounded domain (Kim et al. 2021, arXiv 2006.04710), so
there are lower bounds but no upper ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lipdescent.architectures._blocks import Residual, image_side


class PatchTokens(nn.Module):
    """Images (n, channels, side, side) -> tokens (n, 1 + patches, width), the class token first."""

    def __init__(self, width: int, *, channels: int, side: int, patch: int) -> None:
        super().__init__()
        features = channels * patch**2
        self.patch = patch
        self.embed = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, width), nn.LayerNorm(width)
        )
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 1 + (side // patch) ** 2, width))

    def forward(self, images: Tensor) -> Tensor:
        n, channels, side, _ = images.shape
        grid, p = side // self.patch, self.patch
        patches = images.reshape(n, channels, grid, p, grid, p).permute(0, 2, 4, 3, 5, 1)
        tokens = self.embed(patches.reshape(n, grid**2, p * p * channels))
        class_token = self.class_token.expand(n, -1, -1)
        return torch.cat([class_token, tokens], dim=1) + self.position


class SelfAttention(nn.Module):
    """Multi-head attention of normalised tokens (n, tokens, width)."""

    def __init__(self, width: int, *, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        qkv = self.queries_keys_values(self.norm(x)).reshape(n, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (n, heads, tokens, head_width)
        mixed = scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(n, tokens, -1))


class ClassToken(nn.Module):
    """Tokens (n, tokens, width) -> the class token (n, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def build(
    width: int,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    patch: int = 8,
    blocks: int = 6,
    heads: int = 6,
    head_width: int = 64,
) -> nn.Sequential:
    """Pre-norm transformer of ``blocks`` blocks, MLP of ``4 * width`` GELU units, class token.

    Normal positions and class token, as in Khromov & Singh; of width 5 it has 49,099 parameters
    on CIFAR-10.

    Raises
    ------
    ValueError
        If the inputs are not square images whose side is a multiple of ``patch``.
    """
    channels, side = image_side(input_shape)
    if side % patch:
        raise ValueError(
            f"wrong image size for the patches: {side} x {side}, "
            f"allowed are multiples of patch = {patch}"
        )
    layers: list[nn.Module] = [PatchTokens(width, channels=channels, side=side, patch=patch)]
    for _ in range(blocks):
        feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        layers.append(Residual(SelfAttention(width, heads=heads, head_width=head_width)))
        layers.append(Residual(feed_forward))
    return nn.Sequential(*layers, nn.LayerNorm(width), ClassToken(), nn.Linear(width, num_classes))
