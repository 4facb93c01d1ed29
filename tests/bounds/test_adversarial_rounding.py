"""Error bounds of every summing layer at data on which rounding does its worst.

2^52 beside .5, which loses every half; signs that cancel; many channels. The truth is in rational
numbers: the layer's matrix comes from unit vectors, whose images are sums of one term, with the
weights that are meant (a third, not its float64) where the layer divides.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from lipdescent.bounds import bracket
from lipdescent.bounds.proofs.forward_error import ROUNDING
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.constrained.layers import GroupSort, InvertibleDownsampling
from lipdescent.layers.roundings import terms
from lipdescent.robustness.logit_error import logit_error
from lipdescent.stacks.model_stack import ModelStack

LAYERS = {
    "linear": (lambda: nn.Linear(64, 2), (64,), 1),
    "conv": (lambda: nn.Conv1d(32, 2, 3, padding=1), (32, 4), 1),
    "conv, groups, dilation": (
        lambda: nn.Conv2d(8, 4, 3, padding=2, dilation=2, groups=2), (8, 4, 4), 1),
    "conv, stride": (lambda: nn.Conv2d(6, 2, 3, stride=2, padding=1), (6, 5, 5), 1),
    "conv, circular, wrapped": (
        lambda: nn.Conv1d(4, 2, 7, padding=3, padding_mode="circular"), (4, 3), 1),
    "conv, replicate": (
        lambda: nn.Conv1d(4, 2, 5, padding=2, padding_mode="replicate"), (4, 4), 1),
    "conv, reflect": (lambda: nn.Conv1d(4, 2, 5, padding=2, padding_mode="reflect"), (4, 4), 1),
    "conv 3d": (lambda: nn.Conv3d(4, 1, 2), (4, 2, 2, 2), 1),
    "transposed, one output channel": (lambda: nn.ConvTranspose1d(64, 1, 1), (64, 1), 1),
    "transposed, stride": (
        lambda: nn.ConvTranspose1d(32, 2, 3, stride=2, output_padding=1, padding=1), (32, 3), 1),
    "transposed, groups": (lambda: nn.ConvTranspose2d(16, 4, 2, groups=4), (16, 2, 2), 1),
    "transposed, dilation": (lambda: nn.ConvTranspose2d(8, 1, 3, dilation=2), (8, 3, 3), 1),
    "transposed 3d": (lambda: nn.ConvTranspose3d(8, 1, 2, stride=2), (8, 2, 2, 2), 1),
    "average": (lambda: nn.AvgPool1d(64), (1, 64), 64),
    "average, padded": (lambda: nn.AvgPool2d(3, 2, 1), (2, 5, 5), 9),
    "average, ceil": (
        lambda: nn.AvgPool1d(3, 2, ceil_mode=True, count_include_pad=False), (2, 8), 6),
    "average, adaptive": (lambda: nn.AdaptiveAvgPool1d(2), (2, 9), 5),
    "average, global": (lambda: nn.AdaptiveAvgPool2d(1), (2, 6, 6), 36),
    "upsample, linear": (
        lambda: nn.Upsample(scale_factor=3, mode="linear", align_corners=False), (2, 5), 6),
    "upsample, bilinear": (
        lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), (1, 4, 4), 16),
    "upsample, nearest": (lambda: nn.Upsample(scale_factor=2, mode="nearest"), (2, 4), 1),
    "upsample, area": (lambda: nn.Upsample(size=3, mode="area"), (2, 7), 6),
    "pad": (lambda: nn.CircularPad1d(2), (2, 4), 1),
    "group sort": (lambda: GroupSort(2), (8,), None),
    "downsampling": (lambda: InvertibleDownsampling(2), (2, 4), 1),
    "max pool": (lambda: nn.MaxPool1d(3, 2), (2, 7), None),
}  # fmt: skip


def draws(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """One example: 2^52 first, then halves; halves of both signs; and a normal one."""
    generator = torch.Generator().manual_seed(seed)
    large = torch.full(shape, 0.5, dtype=torch.float64)
    large[0] = 2.0**52
    signs = torch.randint(2, shape, generator=generator) * 2.0 - 1.0
    mixed = large * signs.double()
    cancelling = mixed.clone()
    if shape[0] > 1:
        cancelling[-1] = -cancelling[0]
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.stack([large, mixed, cancelling, 0.5 + 0.02 * normal, 10.0**150 * normal])


def exact_outputs(layer: nn.Module, x: torch.Tensor, share: int | None) -> list[list[Fraction]]:
    if share is None:  # moves numbers only
        return [[Fraction(float(v)) for v in row] for row in layer(x).flatten(1)]
    bias, layer.bias = getattr(layer, "bias", None), None
    size = x[0].numel()
    matrix = layer(torch.eye(size, dtype=torch.float64).view(size, *x.shape[1:])).flatten(1).T
    layer.bias = bias
    outputs = layer(x)
    offset = torch.zeros(outputs.shape[1:], dtype=torch.float64)
    if bias is not None:
        offset += bias.view(-1, *[1] * (outputs.ndim - 2))
    rows = []
    for line in matrix.tolist():
        entries = [(i, Fraction(v)) for i, v in enumerate(line) if v]
        if share > 1:
            entries = [(i, Fraction(round(v * share), share)) for i, v in entries]
        rows.append(entries)
    columns = [[Fraction(v) for v in row] for row in x.flatten(1).tolist()]
    starts = [Fraction(v) for v in offset.flatten().tolist()]
    return [
        [s + sum(v * column[i] for i, v in row) for row, s in zip(rows, starts, strict=True)]
        for column in columns
    ]


def cases():
    """A layer without weights has one; where two taps of one output read one element, images of
    unit vectors round, too, with weights that are not whole numbers."""
    for name, (make, *_) in LAYERS.items():
        overlapping = any(mode in name for mode in ("wrapped", "replicate", "reflect"))
        yield name, "ones"
        if list(make().parameters()):
            yield name, "signs"
            if not overlapping:
                yield name, "normal"


@pytest.mark.parametrize(("name", "weights"), [*cases()])
@torch.no_grad()
def test_summing_layers(name, weights):
    make, shape, share = LAYERS[name]
    layer = make().double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for tensor in layer.parameters():
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        tensor.copy_(
            {"ones": torch.ones_like(drawn), "signs": drawn.sign(), "normal": drawn}[weights]
        )
    x = draws(shape, seed=1)
    state = dict(layer.named_parameters())
    y = layer(x)
    allowed = ROUNDING[type(layer)](layer, state, x, y)
    for example, exact in enumerate(exact_outputs(layer, x, share)):
        found = [Fraction(v) for v in y[example].flatten().tolist()]
        square = sum((f - e) ** 2 for f, e in zip(found, exact, strict=True))
        assert square <= Fraction(float(allowed[example])) ** 2, example
        worst = max(abs(f - e) for f, e in zip(found, exact, strict=True))
        stack = ModelStack.from_modules([nn.Sequential(layer, nn.PReLU().double())], shape)
        assert worst <= Fraction(float(logit_error(stack, x[example : example + 1])))


@pytest.mark.parametrize(
    ("layer", "shape", "count"),
    [
        (nn.Linear(5, 2), (5,), 6),
        (nn.Linear(5, 2, bias=False), (5,), 5),
        (nn.Conv2d(8, 4, 3, groups=2, padding=1), (8, 4, 4), 37),
        (nn.Conv1d(4, 2, 7, padding=3, padding_mode="circular"), (4, 3), 29),
        (nn.ConvTranspose1d(64, 1, 1, bias=False), (64, 1), 64),
        (nn.ConvTranspose1d(64, 1, 3, stride=3, bias=False), (64, 2), 64),
        (nn.ConvTranspose2d(16, 4, 2, groups=4), (16, 2, 2), 17),
    ],
)
def test_terms(layer, shape, count):
    assert terms(layer, shape) == count


def test_a_transposed_convolution_of_many_channels():
    """166.9 was printed for L = 8: the error of 64 terms counted as that of one."""
    layer = nn.ConvTranspose1d(64, 1, 1, bias=False).double().eval()
    nn.init.ones_(layer.weight)
    points = torch.full((2, 64, 1), 0.52, dtype=torch.float64)
    points[1] = 0.48
    points[:, 0] = 2.0**52
    frame = bracket(layer, (64, 1), data=points, methods=["lower_pairs"]).table
    assert (frame[frame.direction == "lower"].value <= 8).all()


@pytest.mark.parametrize("size", [1e-200, 1e-162, 1e-310])
def test_what_underflows_is_no_proof(size):
    """Outputs, weights and distances whose squares and products float64 does not hold."""
    conv = nn.Sequential(nn.Conv1d(2, 2, 1), nn.Tanh(), nn.Conv1d(2, 1, 1)).double().eval()
    with torch.no_grad():
        for i, tensor in enumerate(conv.parameters()):
            generator = torch.Generator().manual_seed(i)
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(size * drawn)
    stack = ModelStack.from_modules([conv], (2, 3))
    points = torch.randn(6, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    prover = Prover(stack)
    assert prover.direction == "lower"
    _, error = prover.evaluate(0, points)
    assert (error > 0).all()
    sizes = [Fraction(float(conv[i].weight.detach().abs().sum())) for i in (0, 2)]
    largest = float(2 * sizes[0] * sizes[1])  # 0 where float64 does not hold it
    for norm in ("l2", "linf", "l1"):
        found = prover.quotients(0, points, points + size * points.flip(0), norm=norm)
        assert (found <= largest).all()
