"""Constants of single layers against the dense matrix or the Jacobian of the layer itself."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from lipdescent.arithmetic import hermitian
from lipdescent.layers import _torus, activation, convolution, table
from lipdescent.measurement import NotApplicable

ORDER = {"l1": 1, "l2": 2, "linf": math.inf}


def dense_matrix(layer, shape):
    """Matrix of the linear part of a layer: its outputs at the unit vectors, in float64."""
    size = math.prod(shape)
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        return (layer(unit) - layer(zero)).flatten(1).T


def constant(layer, shape, norm, *, state=None):
    layer = layer.double().eval()
    with torch.no_grad():
        output = layer(torch.zeros(1, *shape, dtype=torch.float64))
    if state is None:
        state = {name: t.detach()[None] for name, t in layer.state_dict().items()}
    value = table.constant(
        layer, state, input_shape=shape, output_shape=tuple(output.shape[1:]), norm=norm
    )
    return torch.as_tensor(value, dtype=torch.float64).reshape(-1)


def drawn(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = build().double()
        for name, buffer in layer.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.1)
        for parameter in layer.parameters():
            parameter.data.normal_()
    return layer.eval()


LINEAR = {
    "linear": (lambda: nn.Linear(7, 5), (7,)),
    "linear on rows": (lambda: nn.Linear(4, 3), (2, 4)),
    "scalar output": (lambda: nn.Linear(7, 1), (7,)),
    "scalar input": (lambda: nn.Linear(1, 7), (1,)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 5, padding=2), (3, 12)),
    "conv1d same, even kernel": (lambda: nn.Conv1d(2, 3, 4, padding="same"), (2, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 6, 6)),
    "conv2d valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (2, 6, 5)),
    "non-square": (lambda: nn.Conv2d(2, 3, (3, 5), padding=(1, 2)), (2, 4, 9)),
    "stride": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 7, 8)),
    "stride above kernel": (lambda: nn.Conv2d(2, 3, 2, stride=3), (2, 8, 7)),
    "dilation": (lambda: nn.Conv2d(2, 3, 3, dilation=2, padding=2), (2, 7, 6)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(3, 3, 3, groups=3, padding=1), (3, 5, 5)),
    "kernel above image": (lambda: nn.Conv2d(2, 2, 5, padding=2), (2, 3, 2)),
    "much padding": (lambda: nn.Conv2d(2, 2, 3, padding=4), (2, 4, 3)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 6)),
    "circular stride": (
        lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="circular"),
        (2, 5, 6),
    ),
    "reflect": (lambda: nn.Conv2d(2, 3, 5, padding=2, padding_mode="reflect"), (2, 5, 6)),
    "replicate": (lambda: nn.Conv2d(2, 3, 5, padding=2, padding_mode="replicate"), (2, 5, 6)),
    "reflect 1d": (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 2, 3, padding=1), (2, 3, 4, 3)),
    "transposed": (
        lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1),
        (3, 4, 3),
    ),
    "transposed 1d": (lambda: nn.ConvTranspose1d(3, 2, 4, stride=3), (3, 5)),
    "transposed groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2), (4, 3, 4)),
    "average pool": (lambda: nn.AvgPool2d(2), (2, 6, 6)),
    "average pool, overlapping": (lambda: nn.AvgPool2d(3, stride=1, padding=1), (2, 5, 4)),
    "average pool, ceil": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), (2, 6, 8)),
    "average pool, no pad": (
        lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        (2, 6, 7),
    ),
    "average pool, divisor": (lambda: nn.AvgPool2d(3, 2, divisor_override=4), (2, 7, 7)),
    "average pool 1d": (lambda: nn.AvgPool1d(3, 2, 1), (2, 9)),
    "adaptive average": (lambda: nn.AdaptiveAvgPool2d((3, 4)), (2, 7, 5)),
    "adaptive average above": (lambda: nn.AdaptiveAvgPool2d(4), (2, 2, 3)),
    "global average": (lambda: nn.AdaptiveAvgPool2d(1), (2, 4, 4)),
    "power pool 1": (lambda: nn.LPPool2d(1, 3, 2), (2, 7, 8)),
    "upsample nearest": (lambda: nn.Upsample(scale_factor=2), (2, 3, 4)),
    "upsample nearest, odd": (lambda: nn.Upsample(size=(5, 7)), (2, 3, 4)),
    "upsample linear": (lambda: nn.Upsample(scale_factor=2, mode="linear"), (2, 5)),
    "upsample bilinear": (lambda: nn.Upsample(scale_factor=2.5, mode="bilinear"), (2, 3, 4)),
    "upsample corners": (
        lambda: nn.Upsample(size=(5, 9), mode="bilinear", align_corners=True),
        (2, 3, 4),
    ),
    "upsample bicubic": (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), (2, 3, 4)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(4), (4,)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(3), (3, 2, 2)),
    "batch norm, not affine": (lambda: nn.BatchNorm2d(3, affine=False), (3, 2, 2)),
    "instance norm, running": (
        lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        (3, 2, 2),
    ),
    "flatten": (nn.Flatten, (2, 3)),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), (4, 2, 3)),
    "channel shuffle": (lambda: nn.ChannelShuffle(2), (4, 2, 3)),
    "dropout": (nn.Dropout, (3,)),
    "zero pad": (lambda: nn.ZeroPad2d((1, 2, 0, 3)), (2, 3, 3)),
    "constant pad": (lambda: nn.ConstantPad2d(1, 3.5), (2, 3, 3)),
    "reflection pad": (lambda: nn.ReflectionPad2d((1, 2, 2, 1)), (2, 4, 3)),
    "replication pad": (lambda: nn.ReplicationPad1d((3, 1)), (2, 4)),
    "circular pad": (lambda: nn.CircularPad2d((1, 2, 2, 1)), (2, 4, 3)),
    "circular pad that crops": (lambda: nn.CircularPad2d((3, -1, 1, -1)), (1, 5, 6)),
    "circular pad that crops, right": (lambda: nn.CircularPad1d((-1, 4)), (2, 4)),
    "taps that meet on the torus": (
        lambda: nn.Conv1d(2, 2, 3, padding="same", dilation=2, padding_mode="circular"),
        (2, 2),
    ),
    "crop": (lambda: nn.ReflectionPad1d((-1, 2)), (2, 5)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_layer_has_the_norm_of_its_dense_matrix(name, norm):
    build, shape = LINEAR[name]
    layer = drawn(build)
    truth = float(torch.linalg.matrix_norm(dense_matrix(layer, shape), ORDER[norm]))
    value = float(constant(layer, shape, norm))
    assert truth * (1 - 1e-14) <= value <= truth * (1 + 1e-10)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", [n for n in LINEAR if "conv" in str(LINEAR[n][0]()).lower()])
def test_the_torus_bound_is_above_the_dense_norm(name, monkeypatch):
    monkeypatch.setattr(convolution, "_DENSE_FLOPS", 0)
    monkeypatch.setattr(convolution, "_DENSE_FLOPS_TIGHT", 0)
    build, shape = LINEAR[name]
    for seed in range(3):
        layer = drawn(build, seed)
        matrix = dense_matrix(layer, shape)
        for norm, order in ORDER.items():
            truth = float(torch.linalg.matrix_norm(matrix, order))
            value = float(constant(layer, shape, norm))
            padded = getattr(layer, "padding_mode", "zeros") in ("reflect", "replicate")
            assert value >= truth * (1 - 1e-14)
            if norm == "l2" and not padded and min(shape[1:]) >= 5 and name != "circular stride":
                assert value <= truth * 1.3


def test_the_torus_bound_does_not_depend_on_how_frequencies_are_cut(monkeypatch):
    """One chunk, or many of which most need no eigenvalues and some shifts end early."""
    monkeypatch.setattr(convolution, "_DENSE_FLOPS_TIGHT", 0)
    monkeypatch.setattr(convolution, "_DENSE_FLOPS", 0)
    for seed in range(5):
        layer = drawn(lambda: nn.Conv2d(3, 5, 3, padding=1), seed)
        whole = float(constant(layer, (3, 9, 9), "l2"))
        for entries in (1, 40, 200):
            with monkeypatch.context() as context:
                context.setattr(_torus, "_CHUNK", entries)
                cut = float(constant(layer, (3, 9, 9), "l2"))
            assert cut == pytest.approx(whole, rel=1e-11)


@given(st.data())
def test_random_convolutions_are_bounded_from_above(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups, dims = draw(1, 2), draw(1, 2)
    size = [draw(1, 7) for _ in range(dims)]
    kernel, stride = [draw(1, 4) for _ in range(dims)], [draw(1, 3) for _ in range(dims)]
    dilation, padding = [draw(1, 2) for _ in range(dims)], [draw(0, 3) for _ in range(dims)]
    axes = zip(size, kernel, dilation, padding, strict=True)
    assume(all(n + 2 * p >= d * (k - 1) + 1 for n, k, d, p in axes))
    kind = nn.Conv2d if dims == 2 else nn.Conv1d
    mode = data.draw(st.sampled_from(["zeros", "circular", "replicate", "reflect"]))
    assume(mode != "circular" or all(p <= n for p, n in zip(padding, size, strict=True)))
    assume(mode != "reflect" or all(p < n for p, n in zip(padding, size, strict=True)))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer = drawn(
        lambda: kind(groups * draw(1, 2), groups * draw(1, 2), kernel, padding_mode=mode, **options)
    )
    shape = (layer.in_channels, *size)
    matrix = dense_matrix(layer, shape)
    with pytest.MonkeyPatch.context() as patch:
        if draw(0, 1):
            patch.setattr(convolution, "_DENSE_FLOPS", 0)
            patch.setattr(convolution, "_DENSE_FLOPS_TIGHT", 0)
        for norm, order in ORDER.items():
            truth = float(torch.linalg.matrix_norm(matrix, order))
            assert float(constant(layer, shape, norm)) >= truth * (1 - 1e-14)


def separable(a, b):
    layer = drawn(lambda: nn.Conv2d(1, 1, 3, padding=1, bias=False))
    row = torch.tensor([a, b, a], dtype=torch.float64)
    layer.weight.data = torch.outer(row, row)[None, None]
    return layer


@pytest.mark.parametrize(
    ("a", "b", "n", "expected"),
    [
        (1, 1, 5, 7.464101615),
        (1, 1, 8, 8.290859369),
        (1, 1, 32, 8.945745085),
        (1, 2, 8, 15.049629853),
    ],
)
@pytest.mark.parametrize("dense", [True, False])
def test_zero_padded_separable_kernels_have_a_closed_form(a, b, n, expected, dense, monkeypatch):
    if not dense:
        monkeypatch.setattr(convolution, "_DENSE_FLOPS_TIGHT", 0)
    value = float(constant(separable(a, b), (1, n, n), "l2"))
    closed = (b + 2 * a * math.cos(math.pi / (n + 1))) ** 2
    assert value == pytest.approx(expected, abs=6e-10)
    assert closed * (1 - 1e-15) <= value <= closed * (1 + 1e-10)


def test_the_circular_norm_at_the_size_of_the_image_is_no_bound(monkeypatch):
    monkeypatch.setattr(convolution, "_DENSE_FLOPS_TIGHT", 0)
    layer = nn.Conv1d(1, 1, 3, padding=1, bias=False).double().eval()
    layer.weight.data = torch.tensor([[[-1.0, 1.0, -1.0]]], dtype=torch.float64)
    truth = float(torch.linalg.matrix_norm(dense_matrix(layer, (1, 5)), 2))
    circular = torch.fft.fft(torch.tensor([1.0, -1.0, 0, 0, -1.0], dtype=torch.float64)).abs().max()
    assert float(circular) < 0.97 * truth
    assert truth <= float(constant(layer, (1, 5), "l2")) <= truth * (1 + 1e-10)


@pytest.mark.parametrize("norm", ORDER)
def test_matrices_with_known_norms(norm):
    u, v = torch.randn(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    linear = nn.Linear(6, 6, bias=False)
    rank_one = {"l2": u.norm() * v.norm(), "l1": u.abs().sum() * v.abs().max()}
    rank_one["linf"] = u.abs().max() * v.abs().sum()
    orthogonal = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))[0]
    ones = torch.zeros(6, 6)
    ones[0] = 1.0
    cases = {
        "rank one": (torch.outer(u, v), float(rank_one[norm])),
        "ones(1, n)": (ones, {"l2": math.sqrt(6), "linf": 6.0, "l1": 1.0}[norm]),
        "(10, 1)": (torch.diag(torch.tensor([1.0, 10, 0, 0, 0, 0])), 10.0),
        "small": (1e-4 * torch.outer(u, v), 1e-4 * float(rank_one[norm])),
        "tiny": (1e-200 * torch.outer(u, v), 1e-200 * float(rank_one[norm])),
        "huge": (1e200 * torch.outer(u, v), 1e200 * float(rank_one[norm])),
        "zero": (torch.zeros(6, 6), 0.0),
    }
    if norm == "l2":
        cases["orthogonal"] = (orthogonal, float(torch.linalg.matrix_norm(orthogonal.double(), 2)))
    for what, (matrix, expected) in cases.items():
        value = float(constant(linear, (6,), norm, state={"weight": matrix[None]}))
        assert expected * (1 - 1e-14) <= value <= expected * (1 + 1e-10) + 1e-300, what


@pytest.mark.parametrize("name", ["linear", "conv2d", "stride", "reflect", "transposed groups"])
@pytest.mark.parametrize("norm", ORDER)
def test_a_stack_has_the_constants_of_its_models(name, norm):
    build, shape = LINEAR[name]
    models = [drawn(build, seed) for seed in range(3)]
    state = {n: torch.stack([m.state_dict()[n] for m in models]) for n in models[0].state_dict()}
    together = constant(models[0], shape, norm, state=state)
    apart = torch.cat([constant(model, shape, norm) for model in models])
    assert together.shape == (3,)
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=0)


@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_a_kernel_of_any_scale(factor, monkeypatch):
    monkeypatch.setattr(convolution, "_DENSE_FLOPS_TIGHT", 0)
    layer = separable(factor, factor)
    layer.weight.data = layer.weight.data / factor
    value = float(constant(layer, (1, 5, 5), "l2"))
    assert value == pytest.approx(7.464101615137754 * factor, rel=1e-9)


MAX_POOLS = {
    "k=3 s=2": (lambda: nn.MaxPool2d(3, 2), (2, 9, 9), 2.0),
    "k=2 s=2": (lambda: nn.MaxPool2d(2), (2, 8, 8), 1.0),
    "1d k=3 s=2": (lambda: nn.MaxPool1d(3, 2), (2, 9), math.sqrt(2)),
    "k=3 s=1 padded": (lambda: nn.MaxPool2d(3, 1, 1), (1, 5, 6), 3.0),
    "non-square": (lambda: nn.MaxPool2d((3, 2), (1, 2)), (1, 6, 6), math.sqrt(3)),
    "dilated": (lambda: nn.MaxPool2d(2, 1, dilation=2), (1, 6, 6), 2.0),
    "ceil": (lambda: nn.MaxPool2d(3, 2, ceil_mode=True), (1, 6, 6), 2.0),
    "one window": (lambda: nn.MaxPool2d(3, 2), (1, 3, 3), 1.0),
    "adaptive": (lambda: nn.AdaptiveMaxPool2d((2, 3)), (1, 5, 4), None),
    "power 2": (lambda: nn.LPPool2d(2, 3, 2), (2, 9, 9), 2.0),
}


@pytest.mark.parametrize("name", MAX_POOLS)
def test_max_pools_are_attained_at_a_spike(name):
    build, shape, expected = MAX_POOLS[name]
    layer = build()
    spikes = dense_matrix(layer, shape)  # column j: the change by a spike in element j
    value = {norm: float(constant(layer, shape, norm)) for norm in ORDER}
    if expected is not None:
        assert value["l2"] == pytest.approx(expected, rel=1e-15)
    assert value["l2"] == pytest.approx(float(spikes.norm(dim=0).max()), rel=1e-14)
    assert value["l1"] == pytest.approx(float(spikes.abs().sum(0).max()), rel=1e-14)
    if isinstance(layer, nn.LPPool2d):
        assert value["linf"] == pytest.approx(3.0, rel=1e-14)
    else:
        assert value["linf"] == 1.0
    x, y = torch.randn(2, 200, *shape, generator=torch.Generator().manual_seed(0)).double()
    change = (layer(x) - layer(y)).flatten(1)
    for norm, order in ORDER.items():
        quotients = change.norm(order, 1) / (x - y).flatten(1).norm(order, 1)
        assert float(quotients.max()) <= value[norm]


def test_odd_power_pools_have_no_constant():
    with pytest.raises(NotApplicable, match="p = 3"):
        constant(nn.LPPool1d(3, 2), (1, 4), "l2")


CONSTANTS = [
    (nn.ReLU(), 1.0),
    (nn.ReLU6(), 1.0),
    (nn.Hardtanh(-2.0, 3.0), 1.0),
    (nn.LeakyReLU(0.1), 1.0),
    (nn.LeakyReLU(-2.0), 2.0),
    (nn.PReLU(init=1.75), 1.75),
    (nn.PReLU(init=-1.75), 1.75),
    (nn.RReLU(1.0, 3.0), 2.0),
    (nn.ELU(), 1.0),
    (nn.ELU(2.5), 2.5),
    (nn.CELU(0.3), 1.0),
    (nn.SELU(), 1.7580993408),
    (nn.GELU(), 1.1289041452),
    (nn.GELU("tanh"), 1.1289930687),
    (nn.SiLU(), 1.0998393201),
    (nn.Mish(), 1.0884981613),
    (nn.Hardswish(), 1.5),
    (nn.Hardsigmoid(), 0.16666667163),
    (nn.Sigmoid(), 0.25),
    (nn.Tanh(), 1.0),
    (nn.Softplus(), 1.0),
    (nn.Softplus(beta=3.0), 1.0),
    (nn.Softsign(), 1.0),
    (nn.LogSigmoid(), 1.0),
    (nn.Softshrink(0.3), 1.0),
    (nn.Tanhshrink(), 1.0),
]


@pytest.mark.parametrize(("module", "expected"), CONSTANTS, ids=lambda v: str(v))
def test_activations_against_their_slopes_on_a_grid(module, expected):
    module = module.double().eval()
    x = torch.linspace(-60, 60, 240_001, dtype=torch.float64)[:, None]
    x = (x + 1e-7).requires_grad_()  # past the kinks
    slope = torch.autograd.grad(module(x).sum(), x)[0]
    state = {name: t.detach()[None] for name, t in module.state_dict().items()}
    low, high = (float(s) for s in activation.slopes(module, state))
    assert low <= float(slope.min()) <= low + 2e-3
    assert high - 2e-3 <= float(slope.max()) <= high
    for norm in ORDER:
        value = float(constant(module, (1,), norm))
        assert value == pytest.approx(expected, abs=6e-11)
        assert value >= float(slope.abs().max())


def test_transcendental_constants_are_rounded_up():
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        functions = {
            nn.GELU(): (lambda x: x * mpmath.ncdf(x), 1.4),
            nn.GELU("tanh"): (
                lambda x: (
                    x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + 0.044715 * x**3)))
                ),
                1.4,
            ),
            nn.SiLU(): (lambda x: x / (1 + mpmath.exp(-x)), 2.4),
            nn.Mish(): (lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))), 1.5),
        }
        for module, (function, start) in functions.items():
            for sign, guess in ((1, start), (-1, -start if start != 1.5 else -2.25)):
                x = mpmath.findroot(lambda t, f=function: mpmath.diff(f, t, 2), guess)
                slope = mpmath.diff(function, x)
                bound = activation.slopes(module, {})[0 if sign < 0 else 1]
                assert 0 <= sign * (bound - slope) <= 1e-15


def test_functions_that_jump_or_multiply_have_no_constant():
    for module in (nn.Hardshrink(), nn.Threshold(0.1, 20.0), nn.Softplus(threshold=1.0), nn.GLU()):
        with pytest.raises(NotApplicable):
            constant(module, (4,), "l2")


def jacobian_norms(module, points, order):
    jacobians = [torch.autograd.functional.jacobian(module, p[None])[0, :, 0] for p in points]
    return max(float(torch.linalg.matrix_norm(j, order)) for j in jacobians)


@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_softmax_and_log_softmax(norm, n):
    points = 8 * torch.randn(200, n, generator=torch.Generator().manual_seed(0)).double()
    points[0] = 0.0
    points[0, 2:] = -60.0
    points[1] = -60.0
    points[1, 0] = 60.0
    for module in (nn.Softmax(1), nn.Softmin(-1), nn.LogSoftmax(1)):
        sign = -1 if isinstance(module, nn.Softmin) else 1
        value = float(constant(module, (n,), norm))
        attained = jacobian_norms(module, sign * points, ORDER[norm])
        assert attained * (1 - 1e-12) <= value <= attained * (1 + 1e-12) + (n == 1) * 1e-12


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.LayerNorm(5), (5,)),
        (lambda: nn.LayerNorm(5, elementwise_affine=False), (5,)),
        (lambda: nn.GroupNorm(2, 4), (4, 3)),
        (lambda: nn.InstanceNorm1d(4, affine=True), (4, 3)),
        (lambda: nn.RMSNorm(5, eps=1e-3), (5,)),
    ],
)
def test_input_norms_are_attained_at_a_constant_input(build, shape):
    layer = drawn(build)
    if getattr(layer, "weight", None) is not None:
        with torch.no_grad():
            layer.weight.fill_(-1.7)
    flat = lambda x: layer(x.reshape(1, *shape)).reshape(1, -1)  # noqa: E731
    value = float(constant(layer, shape, "l2"))
    zero = torch.zeros(1, math.prod(shape), dtype=torch.float64)
    assert jacobian_norms(flat, zero, 2) == pytest.approx(value, rel=1e-9)
    points = 1e-2 * torch.randn(20, math.prod(shape), generator=torch.Generator().manual_seed(0))
    assert jacobian_norms(flat, points.double(), 2) <= value
    with pytest.raises(NotApplicable, match="l2"):
        constant(layer, shape, "linf")


def test_errors_name_the_layer_and_what_is_allowed():
    state = {"weight": torch.ones(1, 2, 2)}
    shapes = {"input_shape": (2,), "output_shape": (2,)}

    class MyLinear(nn.Linear):
        pass

    with pytest.raises(TypeError, match="MyLinear: unknown layer type"):
        table.constant(MyLinear(2, 2).eval(), state, norm="l2", **shapes)
    with pytest.raises(ValueError, match="train mode"):
        table.constant(nn.Linear(2, 2), state, norm="l2", **shapes)
    with pytest.raises(ValueError, match="'l3': allowed are l1, l2, linf"):
        table.constant(nn.Linear(2, 2).eval(), state, norm="l3", **shapes)
    layer = nn.BatchNorm1d(2, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="no running statistics"):
        table.constant(layer, {}, norm="l2", **shapes)
    with pytest.raises(NotApplicable, match=r"Kim et al\. 2021"):
        table.constant(nn.MultiheadAttention(2, 1).eval(), {}, norm="l2", **shapes)


def test_the_constants_do_not_touch_the_random_state(random_state_untouched, monkeypatch):
    monkeypatch.setattr(convolution, "_DENSE_FLOPS_TIGHT", 0)
    assert float(constant(separable(1, 1), (1, 5, 5), "l2")) > 7.4


def test_an_order_that_is_wrong_costs_time_and_no_proof():
    """The largest stands in the last chunk, where none is looked for."""
    drawn = torch.randn(1, 6, 20, 30, dtype=torch.complex128)
    chunks = [scale * hermitian.gram(drawn) for scale in (1.0, 0.5, 3.0)]
    truth = float(torch.linalg.eigvalsh(chunks[2]).max())
    for descending in (True, False):
        found = float(_torus.largest_eigenvalue(chunks, descending=descending))
        assert truth * (1 - 1e-13) <= found <= truth * (1 + 1e-10)
