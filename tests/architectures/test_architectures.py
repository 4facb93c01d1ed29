"""Parameter counts as published, output shapes, errors on images that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipdescent.architectures import vit
from lipdescent.plugins import lookup, signatures

CIFAR = (3, 32, 32)


def build(name, width, input_shape=CIFAR, num_classes=10, **options):
    module = lookup.resolve("architectures", name)
    return module.build(width, input_shape=input_shape, num_classes=num_classes, **options)


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("cnn", 5, 9_985),
        ("cnn", 7, 19_271),
        ("cnn", 12, 55_716),
        ("cnn", 60, 1_367_220),
        ("cnn_batchnorm", 64, 1_558_026),
        ("vit", 5, 49_099),
        ("resnet18", 64, 11_171_146),
        ("resnet_cifar", 16, 272_474),
        ("torchvision_resnet", 64, 11_181_642),
    ],
)
def test_parameter_counts_of_the_papers(name, width, expected):
    assert count(build(name, width)) == expected


# Zagoruyko & Komodakis, table 2, in millions.
@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    [
        (40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (40, 8, 35.7), (28, 10, 36.5), (28, 12, 52.5),
        (22, 8, 17.2), (22, 10, 26.8), (16, 8, 11.0), (16, 10, 17.1),
    ],
)  # fmt: skip
def test_parameter_counts_of_wide_resnets(depth, width, millions):
    with torch.device("meta"):
        found = count(build("wide_resnet", width, depth=depth))
    assert round(found / 1e6, 1) == millions
    assert found == 36_479_194 or (depth, width) != (28, 10)


def test_a_limit_on_layers_has_no_parameters():
    with torch.device("meta"):
        free, limited = (build("wide_resnet", 4, depth=16, coefficient=c) for c in (None, 3.0))
    assert count(free) == count(limited)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 27}, "depth = 27: allowed are 10, 16, 22"),
        ({"depth": 4}, "depth = 4: allowed are 10, 16, 22"),
        ({"coefficient": 0}, "coefficient = 0: allowed are positive numbers, or null"),
        ({"coefficient": float("nan")}, "coefficient = nan: allowed are positive"),
        ({"normalisation": "weak"}, "normalisation = 'weak': allowed are soft, hard"),
    ],
)
def test_what_wide_resnets_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        build("wide_resnet", 1, **options)


def test_conv1d_has_the_size_of_mnist1d_s_authors():
    assert count(build("conv1d", 25, (40,))) == 5_210


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("cnn", (1, 28, 28), {}),
        ("cnn", (1, 14, 14), {"pools": [1, 2, 1, 7]}),
        ("cnn", (1, 8, 8), {}),
        ("cnn_batchnorm", (1, 28, 28), {}),
        ("convnet", (1, 8, 8), {"bias": False}),
        ("conv1d", (40,), {}),
        ("conv1d", (2, 17), {}),
        ("resnet18", (1, 8, 8), {}),
        ("resnet18", CIFAR, {"batchnorm": False}),
        ("resnet_cifar", (1, 8, 8), {}),
        ("resnet_cifar", (1, 28, 28), {"batchnorm": False, "blocks": 1, "dropout": 0.5}),
        ("torchvision_resnet", (1, 28, 28), {}),
        ("torchvision_resnet", CIFAR, {"depth": 50}),
        ("vit", (1, 28, 28), {"patch": 7, "blocks": 2}),
    ],
)
def test_outputs_have_one_logit_per_class(name, shape, options):
    net = build(name, 3, shape, num_classes=7, **options).eval()
    inputs = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    outputs = net(inputs)
    assert outputs.shape == (2, 7)
    assert outputs.isfinite().all()


def test_pools_leave_one_pixel():
    pools = [m.kernel_size for m in build("cnn", 2) if isinstance(m, torch.nn.MaxPool2d)]
    assert pools == [2, 2, 8]
    small = build("cnn", 2, (1, 28, 28))
    assert [m.kernel_size for m in small if isinstance(m, torch.nn.MaxPool2d)] == [2, 2, 7]


def test_resnet18_without_batchnorm_has_none():
    net = build("resnet18", 2, batchnorm=False)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    with_it = [m for m in build("resnet18", 2).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(with_it) == 16  # two in each of eight blocks, none before the last pool


@pytest.mark.parametrize("depth", [18, 50])
def test_at_width_64_it_is_torchvision_s_resnet(depth):
    import torchvision

    own = build("torchvision_resnet", 64, depth=depth).eval()
    reference = getattr(torchvision.models, f"resnet{depth}")(num_classes=10).eval()
    own.load_state_dict(reference.state_dict())
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own(images), reference(images), rtol=0, atol=0)


def test_convnet_is_the_network_of_gamba_s_public_code():
    """Written as their forward pass is: one pool of 2 twice, an adaptive one at the end."""
    net, functional = build("convnet", 3), nn.functional
    assert count(net) == 378 * 9 + 122 * 3 + 10
    convolutions = [layer for layer in net if isinstance(layer, nn.Conv2d)]
    assert all(layer.bias is not None for layer in [*convolutions, net[-1]])
    images = torch.randn(2, *CIFAR, generator=torch.Generator().manual_seed(0))
    x = images
    for i, layer in enumerate(convolutions):
        x = functional.relu(functional.conv2d(x, layer.weight, layer.bias, padding=1))
        x = functional.avg_pool2d(x, 2) if i in (1, 2) else x
    x = functional.adaptive_avg_pool2d(x, 1).flatten(1)
    torch.testing.assert_close(net(images), functional.linear(x, net[-1].weight, net[-1].bias))
    kinds = [type(layer) for layer in build("convnet", 3, pooling="max")]
    assert kinds.count(nn.MaxPool2d) == 3


def test_torchvision_resnet_keeps_its_initialisation():
    weight = build("torchvision_resnet", 16).layer4[1].conv2.weight.detach()
    assert abs(float(weight.std()) - (2 / (128 * 9)) ** 0.5) < 1e-3  # He's, by fan-out


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("cnn", (1, 14, 14), {}, "wrong image size for the pools: 14 x 14, allowed are multiples"),
        ("cnn", (1, 2, 2), {}, "wrong image size for the pools: 2 x 2"),
        ("cnn", CIFAR, {"pools": [1, 2, 2, 7]}, "32 x 32 with pools .* whose product is 32"),
        ("cnn_batchnorm", CIFAR, {"pools": [2, 16]}, "allowed are 4 positive integers"),
        ("convnet", (40,), {}, r"input_shape = \(40,\): allowed are square images"),
        ("cnn", (1, 28, 32), {}, "allowed are square images"),
        ("resnet18", (1, 28, 28), {}, "wrong image size for the strides: 28 x 28"),
        ("resnet_cifar", (1, 6, 6), {}, "6 x 6, allowed are multiples of 4"),
        ("vit", (1, 28, 28), {}, "wrong image size for the patches: 28 x 28, .* patch = 8"),
        ("conv1d", CIFAR, {}, "allowed are .length,. and"),
        ("torchvision_resnet", CIFAR, {"depth": 34}, "depth = 34: allowed are 18, 50"),
        ("torchvision_resnet", (40,), {}, r"input_shape = \(40,\)"),
    ],
)
def test_what_does_not_fit_is_named(name, shape, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, 2, shape, **options)


def test_attention_is_pytorch_s_and_has_a_rule_for_stacks():
    attention = vit.SelfAttention(heads=3)
    x = torch.randn(
        2, 5, 3 * 3 * 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    q, k, v = x.view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    expected = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(x), expected, rtol=1e-12, atol=0)
    # Warnings are errors: a fallback to a loop would be one.
    together = torch.func.vmap(attention)(torch.stack([x, 2 * x]))
    torch.testing.assert_close(together[0], expected, rtol=1e-12, atol=0)


def test_a_model_too_large_for_memory_is_checked_in_no_time():
    """``SIZES`` builds nothing."""
    sizes = signatures.function("architectures", "vit", "SIZES")
    assert sizes is vit.SIZES
    sizes(2**24, input_shape=CIFAR, **signatures.defaults("architectures", "vit"))


CHOICES = [
    (name, option, schema["enum"])
    for name in lookup.known("architectures")
    for option, schema in signatures.types("architectures", name).items()
    if "enum" in schema
]


@pytest.mark.parametrize(
    ("name", "option", "choices"), CHOICES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_choices_of_an_option_are_what_the_configuration_is_checked_against(
    name, option, choices
):
    for choice in choices:
        build(name, 4, (3, 8, 8), **{option: choice})
    with pytest.raises(ValueError, match=f"{option} = .*{', '.join(map(str, choices))}"):
        build(name, 4, (3, 8, 8), **{option: "other"})
