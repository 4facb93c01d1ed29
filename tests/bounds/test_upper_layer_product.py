"""The layer product against hand-made values and its place in the ladder."""

import math

import pytest
import torch
from torch import nn

from lipdescent.architectures import mlp
from lipdescent.architectures._blocks import Residual
from lipdescent.bounds.upper_layer_product import layer_product, measure
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack

ORDER = {"l1": 1, "l2": 2, "linf": math.inf}


def two_layers(first, second):
    with torch.random.fork_rng(devices=[]):
        net = mlp.build(len(first), input_shape=(len(first[0]),), num_classes=len(second))
    net[0].weight.data = torch.tensor(first, dtype=torch.float64)
    net[2].weight.data = torch.tensor(second, dtype=torch.float64)
    return ModelStack.from_modules([net.eval()], (len(first[0]),))


@pytest.mark.parametrize("second", [[[1.0, 1.0]], [[1.0, -1.0]]])
def test_the_absolute_value_and_the_identity_get_2(second):
    assert float(layer_product(two_layers([[1.0], [-1.0]], second))) == pytest.approx(2, rel=1e-14)


def test_it_is_the_product_of_torchs_norms_for_every_model_and_norm(make_stack):
    stack = make_stack(lambda: mlp.build(9, input_shape=(6,), num_classes=1, depth=3), 5, (6,))
    found = {m.norm: m for m in measure(stack, norms=["l1", "l2", "linf"])}
    for norm, order in ORDER.items():
        expected = torch.ones(5, dtype=torch.float64)
        for weight in stack.state.values():
            expected = expected * torch.linalg.matrix_norm(weight.double(), order)
        m = found[norm]
        assert isinstance(m, Measurement)
        assert (m.quantity, m.direction, m.split) == ("upper_layer_product", "upper", "")
        assert m.values.dtype == torch.float64
        assert (m.values >= expected * (1 - 1e-14)).all()
        torch.testing.assert_close(m.values, expected, rtol=1e-10, atol=0)


def test_power_iteration_from_a_start_orthogonal_to_the_top_would_say_1():
    stack = two_layers([[10.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert float(layer_product(stack)) == pytest.approx(10, rel=1e-13)


@pytest.mark.parametrize(
    ("architecture", "width", "shape", "options"),
    [
        ("cnn", 2, (1, 8, 8), {}),
        ("cnn_batchnorm", 2, (1, 8, 8), {}),
        ("resnet18", 2, (3, 8, 8), {}),
        ("resnet18", 2, (3, 8, 8), {"batchnorm": False}),
        ("conv1d", 3, (1, 40), {}),
        ("torchvision_resnet", 2, (3, 16, 16), {}),
    ],
)
def test_every_convolutional_architecture(architecture, width, shape, options, make_stack):
    build = lookup.resolve("architectures", architecture).build
    stack = make_stack(lambda: build(width, input_shape=shape, num_classes=3, **options), 2, shape)
    value = layer_product(stack)
    assert value.shape == (2,)
    net = nn.Module.eval(stack.module).double()
    for i in range(2):
        net.load_state_dict({name: t[i].double() for name, t in stack.state.items()})
        x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(i)).double()
        jacobian = torch.autograd.functional.jacobian(net, x).reshape(3, -1)
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= float(value[i])


def test_an_image_network_equals_the_product_of_its_dense_layers():
    """Overlapping pool 2, skip connection 1 + branch, batch normalisation folded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        branch = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU())
        net = nn.Sequential(nn.Conv2d(1, 2, 3), Residual(branch), nn.MaxPool2d(3, 2), nn.Flatten())
    net = net.double().eval()
    norms = []
    for part, shape in ((net[0], (1, 7, 7)), (branch[:2], (2, 5, 5))):
        size = math.prod(shape)
        unit = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        with torch.no_grad():
            matrix = (part(unit) - part(torch.zeros_like(unit[:1]))).flatten(1)
        norms.append(float(torch.linalg.matrix_norm(matrix, 2)))
    value = float(layer_product(ModelStack.from_modules([net], (1, 7, 7))))
    assert value == pytest.approx(norms[0] * (1 + norms[1]) * 2, rel=1e-9)


def test_an_unknown_norm_and_bad_weights_are_refused():
    stack = two_layers([[1.0], [-1.0]], [[1.0, 1.0]])
    with pytest.raises(NotApplicable, match="'l3'"):
        list(measure(stack, norms=["l3"]))
    stack.state["0.weight"][0, 0] = math.nan
    with pytest.raises(ValueError, match=r"0\.weight of model 0"):
        layer_product(stack)


def test_dead_neurons_and_zero_layers(random_state_untouched):
    stack = two_layers([[1.0, 2.0], [0.0, 0.0]], [[1.0, 5.0]])
    expected = math.sqrt(5) * math.sqrt(26)
    assert float(layer_product(stack)) == pytest.approx(expected, rel=1e-13)
    stack = two_layers([[0.0, 0.0], [0.0, 0.0]], [[1.0, 5.0]])
    assert float(layer_product(stack)) <= 1e-300


def test_float32_weights_are_lifted_to_float64(make_stack):
    build = lambda: mlp.build(8, input_shape=(5,), num_classes=3)  # noqa: E731
    single = make_stack(build, 3, (5,))
    torch.testing.assert_close(
        layer_product(single), layer_product(single.to(dtype=torch.float64)), rtol=0, atol=0
    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu(make_stack):
    build = lookup.resolve("architectures", "resnet18").build
    stack = make_stack(lambda: build(4, input_shape=(3, 16, 16), num_classes=3), 2, (3, 16, 16))
    cuda = layer_product(stack.to(device="cuda"))
    torch.testing.assert_close(cuda.cpu(), layer_product(stack), rtol=1e-9, atol=0)
