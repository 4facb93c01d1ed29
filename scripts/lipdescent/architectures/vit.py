"""Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), the ViT of Khromov & Singh.

Self-attention is not Lipschitz on an unbounded domain (Kim et al. 2021, arXiv 2006.04710), but it
is behind a layer normalisation: ``upper_graph`` has an upper bound, other methods have none.
"""

import torch
from torch import Tensor, nn

from lipdescent.architectures import _sizes
from lipdescent.architectures._blocks import Residual

SIZES = _sizes.patches
WIDTH_UNIT = "dimension"


class Patches(nn.Module):
    """Images (n, channels, side, side) -> patches as vectors (n, patches, patch**2 * channels)."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, images: Tensor) -> Tensor:
        p = self.patch
        patches = images.unflatten(3, (-1, p)).unflatten(
            2, (-1, p)
        )  # n, channels, rows, p, cols, p
        return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


class Positions(nn.Module):
    """Put the class token before tokens (n, tokens, width) and add what is learnt per position."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, width))
        self.position = nn.Parameter(torch.randn(1 + tokens, width))

    def forward(self, tokens: Tensor) -> Tensor:
        class_token = self.class_token.expand(len(tokens), 1, -1)
        return torch.cat([class_token, tokens], dim=1) + self.position


class SelfAttention(nn.Module):
    """Queries, keys and values (n, tokens, 3 heads d) -> mixed values (n, tokens, heads d)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        parts = x.reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind()  # each (n, heads, tokens, d)
        # Written out: PyTorch's fused kernels have no rule for stacks of models or of gradients.
        weights = torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1)
        return (weights @ v).transpose(1, 2).reshape(n, tokens, -1)


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
    SIZES(width, input_shape=input_shape, patch=patch)
    channels, side = input_shape[:2]
    features, inner = channels * patch**2, heads * head_width
    layers: list[nn.Module] = [
        Patches(patch),
        nn.LayerNorm(features),
        nn.Linear(features, width),
        nn.LayerNorm(width),
        Positions((side // patch) ** 2, width),
    ]
    for _ in range(blocks):
        attention = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 3 * inner, bias=False),
            SelfAttention(heads),
            nn.Linear(inner, width),
        )
        feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        layers += [Residual(attention), Residual(feed_forward)]
    return nn.Sequential(*layers, nn.LayerNorm(width), ClassToken(), nn.Linear(width, num_classes))
