"""One reader: the expression of a network and every view of it agree with calling the network."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.func import jacrev
from torch.nn import functional as F

from lipdescent import structure
from lipdescent.architectures import bilipschitz_resnet, lipschitz_cnn, lipschitz_mlp, vit
from lipdescent.architectures._blocks import Residual
from lipdescent.bounds.proofs.forward_error import ProvenForward
from lipdescent.measurement import NotApplicable
from lipdescent.networks.expressions import Chain, Concat, Layer, Sum, chain, concat, layers
from lipdescent.networks.expressions import residual as skipped
from lipdescent.robustness.logit_error import logit_error
from lipdescent.stacks.forward import stacked_forward
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.affine_chain import affine_chain
from lipdescent.structure.composition import bound
from lipdescent.structure.materialise import materialise
from lipdescent.structure.relu_chain import chain as relu_chain
from lipdescent.structure.trace import outputs, trace
from lipdescent.training.engines import fused_cnn, fused_mlp


class Functional(nn.Module):
    """As everybody writes it, with what it computes."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.third(F.relu(self.second(F.leaky_relu(self.first(x), 0.2))))

    def lipschitz_structure(self):
        return chain(self.first, nn.LeakyReLU(0.2), self.second, nn.ReLU(), self.third)


class Branches(nn.Module):
    """Declared: a skip connection, then two branches side by side."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.left, self.right = nn.Conv2d(2, 3, 1), nn.Sequential(nn.Conv2d(2, 1, 1), nn.Tanh())

    def forward(self, x):
        x = F.relu(x + self.norm(self.conv(x)))
        return torch.cat([self.left(x), self.right(x)], 1)

    def lipschitz_structure(self):
        block = chain(skipped(chain(self.conv, self.norm)), nn.ReLU())
        return chain(block, concat(self.left, self.right))


def linear_relu():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def one():
    return nn.Linear(6, 3)


def nested():
    inner = nn.Sequential(nn.Sequential(nn.Linear(8, 7, bias=False)), nn.ReLU(), nn.Linear(7, 3))
    return nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.Identity(), nn.ReLU()), inner)


def normalised():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def conv():
    pool, relu = nn.MaxPool2d(2), nn.ReLU()
    first = [nn.Conv2d(1, 2, 3, padding=1), relu, pool]
    return nn.Sequential(
        *first, nn.Conv2d(2, 3, 3, padding=1), relu, pool, nn.Flatten(), nn.Linear(12, 4)
    )


def residual():
    branch = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.SiLU())
    body = [Residual(branch), Residual(nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)), nn.AvgPool2d(2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(12, 3))


def resnet(block):
    with torch.device("meta"):  # whose layers are wide
        net = torchvision.models.resnet.ResNet(block, [1, 1, 1, 1])
    net.conv1, net.bn1 = nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8)
    net.layer1 = nn.Sequential(block(8, 8 // block.expansion), nn.ReLU())
    down = nn.Sequential(nn.Conv2d(8, 4 * block.expansion, 1, 2, bias=False))
    net.layer2 = nn.Sequential(block(8, 4, 2, down))
    net.layer3 = net.layer4 = nn.Identity()
    net.fc = nn.Linear(4 * block.expansion, 3)
    return net


def vgg():
    features = torchvision.models.vgg.make_layers([3, "M", 2, "M"], batch_norm=True)
    with torch.device("meta"):  # whose classifier is large
        net = torchvision.models.vgg.VGG(features, init_weights=False)
    net.avgpool = nn.AdaptiveAvgPool2d(2)
    net.classifier = nn.Sequential(nn.Linear(8, 5), nn.ReLU(True), nn.Dropout(0.0), nn.Linear(5, 3))
    return net


def transformer():
    return vit.build(3, input_shape=(1, 8, 8), num_classes=3, patch=4, blocks=1, heads=2)


IMAGE = {"input_shape": (1, 8, 8), "num_classes": 3}
# Name -> the network, the shape of an input, the views that exist of it beside the stacked pass.
BOUNDED = {"trace"}
CHAIN = {"trace", "relu", "affine"}
NETWORKS = {
    "Sequential": (linear_relu, (2, 3), CHAIN | {"fused_mlp"}),
    "one layer": (one, (6,), CHAIN | {"fused_mlp"}),
    "nested": (nested, (6,), CHAIN | {"fused_mlp"}),
    "declared chain": (Functional, (6,), CHAIN),
    "batch norm": (normalised, (6,), BOUNDED | {"affine"}),
    "conv": (conv, (1, 8, 8), BOUNDED | {"fused_cnn"}),
    "residual": (residual, (2, 4, 4), BOUNDED),
    "declared branches": (Branches, (2, 4, 4), BOUNDED),
    "ResNet": (lambda: resnet(torchvision.models.resnet.BasicBlock), (3, 16, 16), BOUNDED),
    "Bottleneck": (lambda: resnet(torchvision.models.resnet.Bottleneck), (3, 16, 16), BOUNDED),
    "VGG": (vgg, (3, 8, 8), BOUNDED),
    "constrained MLP": (
        lambda: lipschitz_mlp.build(4, input_shape=(6,), num_classes=3),
        (6,),
        {"materialise"},
    ),
    "constrained CNN": (lambda: lipschitz_cnn.build(2, **IMAGE), (1, 8, 8), {"materialise"}),
    "bi-Lipschitz": (lambda: bilipschitz_resnet.build(2, **IMAGE), (1, 8, 8), {"materialise"}),
    "ViT": (transformer, (1, 8, 8), set()),
}


def drawn(name, count=2):
    """Networks in float64 with lively statistics, as a stack, and inputs (count, 3, *shape)."""
    build, shape, views = NETWORKS[name]
    modules = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for _ in range(count):
            modules.append(build().double().eval())
            for key, buffer in modules[-1].named_buffers():
                if "running" in key:
                    buffer.copy_(torch.rand_like(buffer) + 0.5)
        inputs = torch.randn(count, 3, *shape, dtype=torch.float64)
    return modules, ModelStack.from_modules(modules, shape), inputs, views


def having(view):
    return [name for name, (_, _, views) in NETWORKS.items() if view in views]


def evaluated(node, x):
    """What the words of an expression mean, by the modules themselves."""
    if isinstance(node, Layer):
        return node.module(x.clone())
    if isinstance(node, Chain):
        for part in node.parts:
            x = evaluated(part, x)
        return x
    values = [evaluated(part, x) for part in node.parts]
    return sum(values) if isinstance(node, Sum) else torch.cat(values, node.dim)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_expression_is_the_network_and_names_all_its_tensors(name, declared):
    (module, _), stack, (x, _), _ = drawn(name)
    node = structure.read(module, declared=declared)
    assert torch.equal(evaluated(node, x), module(x))
    found = [module.get_submodule(leaf.path) for leaf in layers(node) if "<" not in leaf.path]
    own = [tensor for part in found for tensor in (*part.parameters(), *part.buffers())]
    assert {id(t) for t in own} == {id(t) for t in (*module.parameters(), *module.buffers())}
    for leaf in layers(node):
        for key, tensor in leaf.state(stack.state).items():
            assert torch.equal(tensor[0], dict(leaf.module.state_dict())[key])


@pytest.mark.parametrize("name", NETWORKS)
def test_chains_are_flat(name):
    def chains(node):
        if isinstance(node, Chain):
            yield node
        for part in getattr(node, "parts", ()):
            yield from chains(part)

    for node in chains(structure.read(drawn(name)[0][0])):
        assert len(node.parts) != 1
        assert not any(isinstance(part, Chain) for part in node.parts)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_stacked_pass_gives_what_each_network_gives(name):
    modules, stack, inputs, _ = drawn(name)
    found = stacked_forward(stack.module, stack.state, inputs, train=False)[0]
    expected = torch.stack([m(x) for m, x in zip(modules, inputs, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    trained, buffers = stacked_forward(stack.module, stack.state, inputs, train=True)
    expected = torch.stack([m.train()(x) for m, x in zip(modules, inputs, strict=True)])
    torch.testing.assert_close(trained, expected, rtol=1e-8, atol=1e-8)
    for key, now in buffers.items():
        after = torch.stack([m.get_buffer(key) for m in modules])
        torch.testing.assert_close(now, after.to(now.dtype), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["declared branches", "ResNet"])
def test_the_stacked_pass_takes_an_expression(name):
    modules, stack, inputs, _ = drawn(name)
    node = structure.read(stack.module)
    assert any(isinstance(part, Concat) for part in node.parts) == (name == "declared branches")
    found = stacked_forward(node, stack.state, inputs, train=False)[0]
    expected = torch.stack([m(x) for m, x in zip(modules, inputs, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", having("trace"))
def test_shapes_products_and_errors_are_those_of_the_network(name):
    (module, _), stack, (x, _), _ = drawn(name)
    node, seen = trace(stack), []
    called = copy.deepcopy(module)
    for path, part in called.named_modules():
        part.register_forward_hook(
            lambda _, given, y, path=path: seen.append((path, given[0].shape[1:], y.shape[1:]))
        )
    y = called(x).detach()
    for leaf in (leaf for leaf in layers(node) if "<" not in leaf.path):
        assert (leaf.path, leaf.input_shape, leaf.output_shape) in seen
    torch.testing.assert_close(outputs(node, stack, x, torch.float64), y, rtol=1e-11, atol=1e-11)
    for norm, order in {"l1": 1, "l2": 2, "linf": torch.inf}.items():
        slopes = [
            torch.linalg.vector_norm((y[i] - y[j]).flatten(), order)
            / torch.linalg.vector_norm((x[i] - x[j]).flatten(), order)
            for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        assert float(max(slopes)) <= float(bound(node, stack, norm=norm)[0])
    proved, error = ProvenForward(stack)(0, x)
    apart = proved - y.flatten(1)
    assert bool((apart.norm(dim=1) <= 2 * error).all())
    assert bool((apart.abs().amax(1) <= 2 * logit_error(stack, x)[0]).all())


@pytest.mark.parametrize("name", having("relu"))
def test_the_relu_chain_has_the_networks_jacobians(name):
    (module, _), stack, (x, _), _ = drawn(name)
    links = relu_chain(stack)[:1]
    for point in x:
        hidden, product = point.flatten(), torch.eye(6, dtype=torch.float64)
        for i, (weight, bias) in enumerate(zip(links.weights, links.biases, strict=True)):
            hidden, product = (
                weight[0] @ hidden + (0 if bias is None else bias[0]),
                weight[0] @ product,
            )
            if i < len(links.slopes):
                slope = torch.where(hidden > 0, links.slopes[i][1], links.slopes[i][0])
                hidden, product = slope * hidden, slope[:, None] * product
        expected = jacrev(lambda p: module(p[None])[0])(point).reshape(3, 6)
        torch.testing.assert_close(torch.ldexp(product, links.exponents[0]), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_only_chains_are_chains(name):
    _, stack, _, views = drawn(name)
    assert (relu_chain(stack) is not None) == ("relu" in views)
    if "affine" not in views:
        with pytest.raises(NotApplicable, match=r"\w+ \(\w+\)( lies in a branch)?: not a layer"):
            affine_chain(stack)


@pytest.mark.parametrize("name", having("affine"))
def test_the_affine_chain_gives_the_networks_outputs(name):
    (module, _), stack, (x, _), _ = drawn(name)
    links, hidden = affine_chain(stack), x.flatten(1)
    for i, (weight, bias) in enumerate(zip(links.weights, links.biases, strict=True)):
        hidden = hidden @ weight[0].T + bias[0]
        if i < links.depth:  # ReLU and LeakyReLU are given by their slopes
            low, high = links.slopes[i]
            hidden = torch.where(hidden > 0, high * hidden, low * hidden)
    torch.testing.assert_close(hidden, module(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", having("materialise"))
def test_constrained_networks_are_read_as_ordinary_ones(name):
    (module, _), stack, (x, _), _ = drawn(name)
    with pytest.raises(ValueError, match="parametrised"):
        trace(stack)
    plain = ModelStack(*materialise(stack.module, dict(stack.state)), stack.input_shape)
    found = outputs(trace(plain), plain, x, torch.float64)
    torch.testing.assert_close(found, module(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", [fused_mlp, fused_cnn])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_engine_supports_what_it_passes_as_the_network_does(name, engine):
    modules, stack, inputs, views = drawn(name)
    short = engine.__name__.rpartition(".")[2]
    assert engine.supports(stack.module) == (short in views)
    if short not in views:
        return
    kind = engine.StackedMLP if engine is fused_mlp else engine.StackedCNN
    passed = kind(stack.module, stack.state, lambda logits, targets: (logits - targets).sum(-1))
    expected = torch.stack([m(x).sum(-1) for m, x in zip(modules, inputs, strict=True)])
    zero = torch.zeros(2, 3, expected.shape[-1] if expected.ndim > 2 else 1, dtype=torch.float64)
    torch.testing.assert_close(passed.losses(inputs, zero), expected)
    assert {key: t.tolist() for key, t in passed.state().items()} == {
        key: t.tolist() for key, t in stack.state.items()
    }


def test_attention_has_no_bound():
    with pytest.raises(NotApplicable, match="attention"):
        trace(drawn("ViT")[1])


def test_a_declared_chain_gets_what_the_same_layers_in_a_row_get():
    module = Functional().eval()
    row = nn.Sequential(
        module.first, nn.LeakyReLU(0.2), module.second, nn.ReLU(), module.third
    ).eval()
    declared, plain = (affine_chain(ModelStack.from_modules([m], (6,))) for m in (module, row))
    assert all(map(torch.equal, declared.weights, plain.weights))
    assert all(map(torch.equal, declared.biases, plain.biases))
    assert declared.slopes == plain.slopes


def test_a_chain_that_is_declared_but_not_computed_is_refused():
    class Wrong(Functional):
        def forward(self, x):
            return 2 * super().forward(x)

    stack = ModelStack.from_modules([Wrong().eval()], (6,))
    with pytest.raises(NotApplicable, match=r"lipschitz_structure\(\) and forward\(\) differ"):
        affine_chain(stack)
    assert relu_chain(stack) is None
    found = stacked_forward(stack.module, stack.state, torch.ones(1, 2, 6), train=False)[0]
    torch.testing.assert_close(found[0], stack.module(torch.ones(2, 6)))  # training calls it


def test_what_lipschitz_structure_may_not_say():
    class Text(Functional):
        def lipschitz_structure(self):
            return chain(self.first, "relu")

    class Foreign(Functional):
        def lipschitz_structure(self):
            return chain(nn.Linear(6, 3))

    with pytest.raises(TypeError, match=r"0: 'relu' in lipschitz_structure\(\); allowed: modules"):
        structure.read(nn.Sequential(Text()))
    with pytest.raises(ValueError, match=r"0: a Linear in lipschitz_structure\(\) is no submodule"):
        structure.read(nn.Sequential(Foreign()))
