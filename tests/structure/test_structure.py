"""How layers are put together: walking networks, folding, and what is refused."""

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lipdescent.architectures._blocks import Residual
from lipdescent.layers.table import constant
from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import add, chain, concat, residual
from lipdescent.networks.expressions import layers as leaves
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure import layer_constants
from lipdescent.structure.composition import bound
from lipdescent.structure.trace import trace

ORDER = {"l1": 1, "l2": 2, "linf": math.inf}


def make(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build().double()
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter.data.normal_()
            del name
    return module.eval()


def upper(module, shape, norm="l2"):
    stack = ModelStack.from_modules([module], shape)
    return float(bound(trace(stack), stack, norm=norm))


def jacobian_norm(module, shape, norm, *, points=4):
    x = torch.randn(points, *shape, generator=torch.Generator().manual_seed(3)).double()
    norms = []
    for p in x:
        j = torch.autograd.functional.jacobian(module, p[None])
        j = j.reshape(-1, math.prod(shape))
        norms.append(float(torch.linalg.matrix_norm(j, ORDER[norm])))
    return max(norms)


class Block(nn.Module):
    """A user's block: functional ReLU, skip connection."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(x + self.norm(self.conv(x)))

    def lipschitz_structure(self):
        return chain(residual(chain(self.conv, self.norm)), nn.ReLU())


class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 5)

    def forward(self, x):
        return torch.cat([torch.tanh(self.a(x)), self.b(x)], 1)

    def lipschitz_structure(self):
        return concat(chain(self.a, nn.Tanh()), self.b)


NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)), (5,)),
    "scalar": (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1)), (5,)),
    "nested": (
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(5, 7), nn.Sequential(nn.ReLU(), nn.Linear(7, 2))),
            nn.Sequential(nn.ReLU(), nn.Linear(2, 3)),
        ),
        (5,),
    ),
    "residual": (
        lambda: nn.Sequential(
            Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))),
            Residual(nn.Linear(4, 2), nn.Linear(4, 2)),
        ),
        (4,),
    ),
    "user's block": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            Block(3),
            nn.Flatten(),
            nn.Linear(27, 2),
        ),
        (2, 5, 5),
    ),
    "concat": (TwoBranches, (4,)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.SiLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(3, 4, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(4, 3),
            nn.LogSoftmax(1),
        ),
        (1, 8, 8),
    ),
}


@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_bound_is_above_every_jacobian(name, norm):
    build, shape = NETWORKS[name]
    module = make(build)
    assert upper(module, shape, norm) >= jacobian_norm(module, shape, norm)


@pytest.mark.parametrize("norm", ORDER)
def test_chains_sums_and_concatenations(norm):
    a, b = make(lambda: nn.Linear(4, 3)), make(lambda: nn.Linear(4, 3), 1)
    size = {m: float(torch.linalg.matrix_norm(m.weight.detach(), ORDER[norm])) for m in (a, b)}

    class Both(nn.Module):
        def __init__(self, how):
            super().__init__()
            self.a, self.b, self.how = a, b, how

        def forward(self, x):
            y = [self.a(x), self.b(x)]
            return y[0] + y[1] if self.how is add else torch.cat(y, 1)

        def lipschitz_structure(self):
            return self.how(self.a, self.b)

    x, y = size.values()
    expected = {"l1": x + y, "l2": math.hypot(x, y), "linf": max(x, y)}[norm]
    assert upper(Both(concat).eval(), (4,), norm) == pytest.approx(expected, rel=1e-12)
    assert upper(Both(add).eval(), (4,), norm) == pytest.approx(x + y, rel=1e-12)
    square = make(lambda: nn.Linear(4, 4))
    alone = float(torch.linalg.matrix_norm(square.weight.detach(), ORDER[norm]))
    twice = nn.Sequential(square, nn.Sequential(nn.Sequential(nn.ReLU()), a)).eval()
    assert upper(twice, (4,), norm) == pytest.approx(alone * x, rel=1e-12)
    skip = Residual(square).eval()
    assert upper(skip, (4,), norm) == pytest.approx(1 + alone, rel=1e-12)


@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: [nn.Linear(5, 4), nn.BatchNorm1d(4)], (5,)),
        (lambda: [nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)], (2, 6, 5)),
        (lambda: [nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)], (4, 3, 3)),
        (lambda: [nn.Conv1d(2, 3, 3, stride=2), nn.BatchNorm1d(3)], (2, 9)),
    ],
)
def test_batch_norm_is_folded_into_the_weights_before_it(build, shape, norm):
    module = make(lambda: nn.Sequential(*build()))
    assert next(iter(leaves(trace(ModelStack.from_modules([module], shape))))).scale
    size = math.prod(shape)
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    with torch.no_grad():
        matrix = (module(unit) - module(torch.zeros_like(unit[:1]))).flatten(1).T
    truth = float(torch.linalg.matrix_norm(matrix, ORDER[norm]))
    assert truth * (1 - 1e-14) <= upper(module, shape, norm) <= truth * (1 + 1e-9)


def test_batch_norm_along_another_axis_is_not_folded():
    module = make(lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(3)))
    found = list(leaves(trace(ModelStack.from_modules([module], (3, 5)))))
    assert [type(leaf.module) for leaf in found] == [nn.Linear, nn.BatchNorm1d]
    assert upper(module, (3, 5)) >= jacobian_norm(module, (3, 5), "l2")


def torchvision_net(name):
    resnet = pytest.importorskip("torchvision.models.resnet")
    if name == "basic":
        return make(lambda: resnet.BasicBlock(3, 3)), (3, 4, 4)
    down = lambda: nn.Sequential(nn.Conv2d(3, 4, 1, 2), nn.BatchNorm2d(4))  # noqa: E731
    if name == "bottleneck":
        return make(lambda: resnet.Bottleneck(3, 1, 2, down())), (3, 4, 4)
    net = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)
    return make(lambda: net), (3, 16, 16)


@pytest.mark.parametrize("name", ["basic", "bottleneck", "resnet"])
def test_torchvision_residual_networks(name):
    module, shape = torchvision_net(name)
    value = upper(module, shape)
    assert math.isfinite(value)
    assert value >= jacobian_norm(module, shape, "l2", points=1)
    if name == "basic":  # not counted as 1, and the skip connection is added
        branch = nn.Sequential(module.conv1, module.bn1, module.relu, module.conv2, module.bn2)
        assert value == pytest.approx(1 + upper(branch, shape), rel=1e-12)
    if name == "resnet":
        stack = ModelStack.from_modules([module], shape)
        pool = next(leaf for leaf in leaves(trace(stack)) if leaf.path == "maxpool")
        found = constant(
            pool.module, {}, input_shape=(64, 8, 8), output_shape=(64, 4, 4), norm="l2"
        )
        assert found == 2.0


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(3 * x)


class Wrong(Hidden):
    def lipschitz_structure(self):
        return chain(self.inner)


class Foreign(Hidden):
    def lipschitz_structure(self):
        return chain(nn.Linear(4, 4))


class Gated(Hidden):
    """As declared but for inputs of some norms."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x):
        size = x.norm(dim=-1, keepdim=True)
        y = self.inner(x)
        return torch.where((size > self.low) & (size < self.high), 100 * y, y)

    def lipschitz_structure(self):
        return chain(self.inner)


class Mixing(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def refusal(module, shape, error):
    """What the error says."""
    with pytest.raises(error) as caught:
        upper(module, shape)
    return str(caught.value)


def test_what_the_walker_cannot_see_is_an_error():
    hidden = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Hidden())).eval()
    assert re.search(r"1\.1: unknown module .*Hidden", refusal(hidden, (4,), TypeError))
    assert re.search("forward.. differ", refusal(nn.Sequential(Wrong()).eval(), (4,), ValueError))
    assert "no submodule" in refusal(Foreign().eval(), (4,), ValueError)

    class Subclass(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert re.search(
        "0: unknown module .*Subclass",
        refusal(nn.Sequential(Subclass(4, 4)).eval(), (4,), TypeError),
    )

    class Longer(nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    assert re.search(
        "the network: unknown module .*Longer",
        refusal(Longer(nn.Linear(4, 4)).eval(), (4,), TypeError),
    )

    class Filled(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(4, 4))

    assert upper(Filled().eval(), (4,)) > 0
    replaced = nn.Sequential(nn.Linear(4, 4)).eval()
    replaced[0].forward = lambda x: 2 * x
    assert "forward was replaced" in refusal(replaced, (4,), ValueError)


@pytest.mark.parametrize(("low", "high"), [(50, math.inf), (3e3, math.inf), (0, 0.05), (0, 5e-3)])
def test_a_structure_is_compared_with_forward_at_many_scales(low, high):
    assert re.search(
        r"forward.. differ by .*inputs of size", refusal(Gated(low, high).eval(), (4,), ValueError)
    )
    assert upper(Gated(0, 0).eval(), (4,)) > 0


def test_weights_that_are_not_what_the_forward_pass_uses_are_an_error():
    shared = nn.Linear(4, 4)
    assert "shared with 0" in refusal(
        nn.Sequential(shared, nn.ReLU(), shared).eval(), (4,), ValueError
    )
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    tied[1].weight = tied[0].weight
    assert re.search(r"1\.weight is shared with 0\.weight", refusal(tied, (4,), ValueError))
    spectral = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4))).eval()
    assert "parametrised" in refusal(spectral, (4,), ValueError)
    hooked = nn.Sequential(nn.Linear(4, 4)).eval()
    hooked[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert "hooks" in refusal(hooked, (4,), ValueError)
    activation = nn.ReLU()
    reused = nn.Sequential(nn.Linear(4, 4), activation, nn.Linear(4, 4), activation).eval()
    assert upper(reused, (4,)) > 0  # no weights: nothing is shared


def test_modes_weights_and_shapes_are_checked():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    stack = ModelStack.from_modules([module, module], (4,))
    module[1].train()
    with pytest.raises(ValueError, match=r"1 \(BatchNorm1d\) is in train mode"):
        trace(stack)
    module.eval()
    assert re.search(
        r"0 \(Linear\) does not take an input of shape \(5,\)", refusal(module, (5,), ValueError)
    )
    for bad in (math.nan, math.inf):
        stack.state["0.weight"][1, 2, 3] = bad
        with pytest.raises(ValueError, match=r"0\.weight of model 1: contains NaN or inf"):
            trace(stack)
    softmax = nn.Sequential(nn.Linear(4, 4), nn.Softmax(0)).eval()
    assert "examples of a batch influence each other" in refusal(softmax, (4,), ValueError)
    pool = nn.Sequential(nn.Conv1d(1, 1, 1), nn.MaxPool1d(2, return_indices=True)).eval()
    assert "returns a tuple" in refusal(pool, (1, 4), ValueError)
    assert "no parameters" in refusal(nn.Sequential(nn.ReLU()), (4,), ValueError)


def test_attention_is_not_applicable():
    encoder = nn.TransformerEncoderLayer(4, 1, 8, batch_first=True)
    assert re.search(
        "0.*Kim et al. 2021", refusal(nn.Sequential(encoder).eval(), (3, 4), NotApplicable)
    )
    vit = pytest.importorskip("lipdescent.architectures.vit")
    module = make(lambda: vit.build(4, input_shape=(1, 8, 8), num_classes=2, patch=4, blocks=1))
    assert "attention is not globally Lipschitz" in refusal(module, (1, 8, 8), NotApplicable)


def test_a_structure_may_say_that_there_is_no_constant():
    class Square(nn.Module):
        def forward(self, x):
            return x * x

        def lipschitz_structure(self):
            raise NotApplicable("a square grows without limit")

    assert "square grows" in refusal(
        nn.Sequential(nn.Linear(2, 2), Square()).eval(), (2,), NotApplicable
    )


def test_tracing_leaves_module_and_random_state_alone(random_state_untouched):
    module = make(NETWORKS["user's block"][0])
    before = {name: t.clone() for name, t in module.state_dict().items()}
    assert upper(module, (2, 5, 5)) > 0
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())


def test_products_that_underflow_stay_above_the_truth():
    net = make(lambda: nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)))
    for linear in net:
        linear.weight.data = torch.eye(2, dtype=torch.float64) * 1e-200
    assert 0 < upper(net, (2,)) < 1e-300


def test_outputs_that_overflow_or_are_empty_are_named():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).double().eval()
    for parameter in module.parameters():
        parameter.data.fill_(1e200)
    assert "the outputs overflow float64" in refusal(module, (2,), ValueError)
    module = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Upsample(scale_factor=0.6, mode="area")).eval()
    assert re.search(
        r"1 \(Upsample\) (has no outputs|does not take an input)",
        refusal(module, (1, 1), ValueError),
    )


def test_constants_are_kept_while_the_weights_are_the_same():
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    stack = ModelStack.from_modules([module], (5,))
    first = bound(trace(stack), stack, norm="l2")
    stack.state["0.weight"].mul_(2.0)
    doubled = bound(trace(stack), stack, norm="l2")
    torch.testing.assert_close(doubled, 2 * first, rtol=1e-10, atol=0)
    stack.state["2.weight"] = 4 * stack.state["2.weight"]
    eightfold = bound(trace(stack), stack, norm="l2")
    torch.testing.assert_close(eightfold, 8 * first, rtol=1e-10, atol=0)


def test_constants_are_not_computed_twice(monkeypatch):
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    stack = ModelStack.from_modules([module], (5,))
    first = bound(trace(stack), stack, norm="l2")
    monkeypatch.delattr(layer_constants, "constant")
    assert torch.equal(bound(trace(stack), stack, norm="l2"), first)


def test_a_network_is_compared_again_once_its_tensors_or_settings_change():
    module = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten()).eval()
    stack = ModelStack.from_modules([module], (1, 5))
    first = trace(stack)
    assert trace(stack) is first
    stack.state["0.weight"].mul_(2)
    assert trace(stack) is not first
    module[0].stride = (2,)
    assert [layer.output_shape for layer in trace(stack).parts] == [(2, 3), (2, 3), (6,)]
    module[0].forward = lambda x: x
    with pytest.raises(ValueError, match="forward"):
        trace(stack)


class Declared(nn.Module):
    """Its structure has functions that are made anew whenever it is read."""

    def __init__(self):
        super().__init__()
        self.linear, self.slope = nn.Linear(3, 4), 0.5

    def forward(self, x):
        return F.leaky_relu(self.linear(x), self.slope)

    def lipschitz_structure(self):
        return chain(self.linear, nn.LeakyReLU(self.slope))


def test_functions_that_a_reading_makes_are_told_by_their_settings():
    module = Declared().eval()
    stack = ModelStack.from_modules([module], (3,))
    first = trace(stack)
    assert trace(stack) is first
    module.slope = 3.0
    second = trace(stack)
    assert second is not first
    small, large = (float(bound(node, stack, norm="l1")) for node in (first, second))
    assert large == pytest.approx(3 * small)
