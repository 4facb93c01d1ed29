"""Differences of outputs to many digits, against 150-digit arithmetic of loops of our own."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

from lipdescent.architectures._blocks import Residual
from lipdescent.arithmetic.fixed_point import bits_for
from lipdescent.bounds import lower_jacobian, lower_pairs, upper_layer_product
from lipdescent.bounds.proofs.forward_error import ProvenForward
from lipdescent.bounds.proofs.precise_forward import PreciseForward
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.measurement import NotApplicable
from lipdescent.networks.operations import Gather
from lipdescent.stacks.model_stack import ModelStack

mp = mpmath.mp.clone()
mp.dps = 150


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return np.vectorize(mp.mpf, otypes=[object])(tensor.detach().double().numpy())


def over_windows(x: np.ndarray, kernel, stride, padding, fill, function) -> np.ndarray:
    """``function`` of what each window reads: its entries, channel by channel of the output."""
    (p, q), (s, t), (k, m) = padding, stride, kernel
    wide = np.full((len(x), x.shape[1] + 2 * p, x.shape[2] + 2 * q), fill, dtype=object)
    wide[:, p : p + x.shape[1], q : q + x.shape[2]] = x
    rows, columns = (wide.shape[1] - k) // s + 1, (wide.shape[2] - m) // t + 1
    found = [
        function(wide[:, i * s : i * s + k, j * t : j * t + m])
        for i, j in itertools.product(range(rows), range(columns))
    ]
    return np.array(found, dtype=object).T.reshape(-1, rows, columns)


def pooled(x: np.ndarray, module, function, fill) -> np.ndarray:
    sizes = (module.kernel_size, module.stride, module.padding)
    two = [(v, v) if isinstance(v, int) else v for v in sizes]
    each = lambda read: [function(own.flatten().tolist()) for own in read]  # noqa: E731
    return over_windows(x, *two, fill, each)


def slow(module: nn.Module, x: np.ndarray) -> np.ndarray:
    """The module's value at one example, in 150 digits."""
    if isinstance(module, nn.Sequential):
        for part in module:
            x = slow(part, x)
        return x
    if isinstance(module, Residual):
        return slow(module.branch, x) + slow(module.skip, x)
    if isinstance(module, nn.Linear):
        return numbers(module.weight) @ x + numbers(module.bias)
    if isinstance(module, nn.Conv2d):
        weight = numbers(module.weight)
        sizes = weight.shape[2:], module.stride, module.padding
        each = lambda read: [(own * read).sum() for own in weight]  # noqa: E731
        y = over_windows(x, *sizes, mp.mpf(0), each)
        return y if module.bias is None else y + numbers(module.bias)[:, None, None]
    if isinstance(module, nn.BatchNorm2d):
        mean, var, weight, bias = map(
            numbers, (module.running_mean, module.running_var, module.weight, module.bias)
        )
        root = np.array([mp.sqrt(v + mp.mpf(module.eps)) for v in var], dtype=object)
        return (x - mean[:, None, None]) * (weight / root)[:, None, None] + bias[:, None, None]
    if isinstance(module, nn.ReLU):
        return np.vectorize(lambda v: max(v, mp.mpf(0)), otypes=[object])(x)
    if isinstance(module, nn.Hardtanh):
        low, high = mp.mpf(module.min_val), mp.mpf(module.max_val)
        return np.vectorize(lambda v: min(max(v, low), high), otypes=[object])(x)
    if isinstance(module, Gather):
        flat = np.append(x.flatten(), mp.mpf(0))
        return flat[module.index.numpy()]
    if isinstance(module, nn.MaxPool2d) and module.ceil_mode:  # of windows of 3 by steps of 2
        rows, columns = (n - 1 for n in x.shape[1:])
        assert (module.kernel_size, module.stride, module.padding) == (3, 2, 0)
        out = [[x[:, i : i + 3, j : j + 3].max((1, 2)) for j in range(0, columns, 2)]
               for i in range(0, rows, 2)]  # fmt: skip
        return np.moveaxis(np.array(out, dtype=object), 2, 0)
    if isinstance(module, nn.MaxPool2d):
        return pooled(x, module, max, mp.mpf("-inf"))
    if isinstance(module, nn.AvgPool2d):
        return pooled(x, module, lambda own: sum(own) / len(own), mp.mpf(0))
    if isinstance(module, nn.AdaptiveAvgPool2d):
        (n, m), (rows, columns) = x.shape[1:], module.output_size
        out = np.empty((len(x), rows, columns), dtype=object)
        for i, j in np.ndindex(rows, columns):
            part = x[
                :,
                i * n // rows : -(-(i + 1) * n // rows),
                j * m // columns : -(-(j + 1) * m // columns),
            ]
            out[:, i, j] = [own.sum() / own.size for own in part]
        return out
    assert isinstance(module, (nn.Flatten, nn.Dropout, nn.Identity)), type(module)
    return x.flatten() if isinstance(module, nn.Flatten) else x


def block(c: int) -> Residual:
    conv = lambda: nn.Conv2d(c, c, 3, padding=1, bias=False)  # noqa: E731
    return Residual(nn.Sequential(conv(), nn.BatchNorm2d(c), nn.ReLU(), conv(), nn.BatchNorm2d(c)))


NETWORKS = {
    "resnet": lambda: nn.Sequential(
        *(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU()),
        *(nn.MaxPool2d(3, 2, 1), block(3), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d((1, 1))),
        *(nn.Flatten(), nn.Linear(3, 4)),
    ),
    "pools": lambda: nn.Sequential(
        *(nn.MaxPool2d((2, 3), (1, 2)), nn.Conv2d(2, 4, (1, 2), padding=(1, 0), bias=False)),
        *(nn.AvgPool2d(3, 2, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten()),
        *(nn.ReLU(), nn.Linear(24, 3)),
    ),
    "clipped": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.ReLU6(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(4, 3, 1)),
        *(nn.Hardtanh(-0.1, 0.3), Gather(torch.tensor([[25, 3, -1], [7, 7, 20]])), nn.Flatten()),
        nn.Linear(6, 3),
    ),
}  # fmt: skip


def network(name: str, seed: int, scale: float = 1.0) -> nn.Module:
    torch.manual_seed(seed)
    net = NETWORKS[name]().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.1, 3)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight, std=scale)
            nn.init.normal_(module.bias)
    return net


@pytest.mark.parametrize("step", [1.0, 1e-14])
@pytest.mark.parametrize("digits", [40, 150])
@pytest.mark.parametrize("name", NETWORKS)
def test_differences_against_150_digits(name, digits, step):
    for seed in range(2):
        net = network(name, seed, scale=1e3 if seed else 1.0)
        stack = ModelStack.from_modules([net], (2, 8, 9))
        a = torch.randn(1, 2, 8, 9, dtype=torch.float64)
        b = a + step * torch.randn_like(a)
        precise = PreciseForward(ProvenForward(stack))
        value, error = precise.difference(0, a, b, digits=digits)
        truth = slow(net, numbers(a[0])) - slow(net, numbers(b[0]))
        off = mp.sqrt(
            sum((mp.mpf(float(v)) - t) ** 2 for v, t in zip(value[0], truth, strict=True))
        )
        size = mp.sqrt(sum(t**2 for t in truth))
        assert off <= float(error)
        if digits == 150:  # the last step, to float64, is what rounds
            assert float(error) <= 1e-13 * float(size)
            assert off <= 1e-14 * float(size)


def deep_network() -> nn.Module:
    """Its outputs are not much larger than its inputs, the product of its constants is 1e20."""
    torch.manual_seed(0)
    blocks = [
        Residual(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))) for _ in range(24)
    ]
    net = nn.Sequential(*(part for block in blocks for part in (block, nn.ReLU())))
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return nn.Sequential(nn.Flatten(), net, nn.Linear(16, 3)).eval()


def test_a_deep_network_has_a_lower_bound_near_its_estimate():
    net = deep_network()
    stack = ModelStack.from_modules([net], (4, 2, 2))
    assert float(upper_layer_product.layer_product(stack)) > 1e20
    prover = Prover(stack)
    points = torch.randn(1, 2, 4, 2, 2, dtype=torch.float64)
    for norm, order in (("l2", 2), ("linf", math.inf)):
        proved = float(prover.certify(points, norm=norm).amax())
        with prover.only_float64():  # which has no digit left
            assert float(prover.certify(points, norm=norm).amax()) == 0
        jacobians = [
            torch.autograd.functional.jacobian(lambda x: net.double()(x[None])[0], x).flatten(1)
            for x in points[0]
        ]
        largest = max(float(torch.linalg.matrix_norm(j, order)) for j in jacobians)
        assert 0.9 * largest <= proved <= float(upper_layer_product.layer_product(stack, norm=norm))
        assert proved <= 1.5 * largest


def test_bounds_at_points_and_of_pairs_are_proved_too():
    stack = ModelStack.from_modules([deep_network()], (4, 2, 2))
    points = {"": torch.randn(2, 4, 2, 2)}
    for bound in (lower_jacobian, lower_pairs):
        found = next(bound.measure(stack, inputs=points))
        assert found.direction == "lower"
        assert float(found.values) > 0


@pytest.mark.parametrize("layer", [nn.GELU(), nn.AvgPool2d(3, 2, ceil_mode=True)])
def test_what_has_no_rule_is_proved_in_float64(layer):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(1, 1, 6, 6))
    prover = Prover(ModelStack.from_modules([net.eval()], (1, 6, 6)))
    assert prover.direction == "lower"
    if isinstance(layer, nn.GELU):
        with pytest.raises(NotApplicable, match="GELU"):
            PreciseForward(prover.forward)
    assert float(prover.certify(torch.randn(1, 2, 1, 6, 6), norm="l2").amin()) > 0


def test_numbers_out_of_range_prove_what_float64_proves():
    net = network("resnet", 0)
    stack = ModelStack.from_modules([net], (2, 8, 9))
    prover = Prover(stack)
    a = torch.randn(1, 2, 8, 9, dtype=torch.float64) * 1e140
    with pytest.raises(OverflowError):
        prover.precise.difference(0, a, -a, digits=60)
    assert float(prover.quotients(0, a, -a, norm="l2")) > 0


@pytest.mark.parametrize("size", [5, 9, 31])
def test_padding_that_repeats_an_entry_adds_up_what_weights_lose(size):
    """Every tap reads the one entry: with few digits the weights' last limbs are cut off."""
    bits = bits_for(size, 2)
    convolution = nn.Conv1d(
        1, 1, size, padding=size // 2, padding_mode="replicate", bias=False
    ).double()
    with torch.no_grad():
        convolution.weight.fill_(1 - 0.98 * 2.0 ** -(bits + 1))
    stack = ModelStack.from_modules([nn.Sequential(convolution, nn.Flatten()).eval()], (1, 1))
    a = torch.full((1, 1, 1), float((2 ** (bits - 1) - 2) // size)).double()
    precise = PreciseForward(ProvenForward(stack))
    value, error = precise.difference(0, a, torch.zeros_like(a), digits=10)
    truth = size * Fraction(float(convolution.weight.detach()[0, 0, 0])) * Fraction(float(a))
    assert abs(Fraction(float(value)) - truth) <= Fraction(float(error))
