"""Lower Lipschitz quantities against dense matrices and closed forms."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from lipdescent.architectures import bilipschitz_resnet
from lipdescent.experiments import _circular_networks as circular_networks
from lipdescent.experiments import _colipschitz as colipschitz
from lipdescent.experiments import distance_preservation_images as images
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.materialise import materialise


def linear_stack(matrix):
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, dtype=torch.float64)
    layer.weight.data = matrix.clone()
    return ModelStack.from_modules([nn.Sequential(layer)], (matrix.shape[1],))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_singular_values_of_a_linear_map():
    matrix = normal(7, 4)
    values = colipschitz.band_singular_values(
        colipschitz.jacobians(linear_stack(matrix), normal(3, 4))
    )
    torch.testing.assert_close(values, torch.linalg.svdvals(matrix).expand(3, 4))


@pytest.mark.parametrize("outputs", [3, 9])
def test_jacobians_by_rows_and_by_columns(outputs):
    """tanh(A x), whose Jacobian is diag(1 - tanh^2) A."""
    matrix, points = normal(outputs, 5), normal(4, 5, seed=1)
    stack = linear_stack(matrix)
    stack = ModelStack(nn.Sequential(stack.module[0], nn.Tanh()), stack.state, (5,))
    slopes = 1 - (points @ matrix.T).tanh().square()
    torch.testing.assert_close(colipschitz.jacobians(stack, points), slopes[:, :, None] * matrix)


def test_fewer_outputs_than_inputs_have_a_null_space():
    jacobian = colipschitz.jacobians(linear_stack(normal(3, 5)), normal(1, 5))
    assert colipschitz.band_singular_values(jacobian)[0, 3:].tolist() == [0.0, 0.0]
    low = colipschitz.band_basis(5, [0, 1])
    assert colipschitz.band_singular_values(jacobian, low).min() > 0


@pytest.mark.parametrize("transform", ["dft", "dct"])
@pytest.mark.parametrize("length", [7, 8])
def test_bands_are_an_orthonormal_basis_together(transform, length):
    count = length // 2 + 1 if transform == "dft" else length
    basis = colipschitz.band_basis(length, range(count), transform=transform)
    torch.testing.assert_close(basis.T @ basis, torch.eye(length, dtype=torch.float64))
    signal = normal(length)
    shares = colipschitz.energy_per_frequency(signal, transform=transform)
    assert shares.sum().item() == pytest.approx(1)


def test_energy_against_the_fft():
    signal = normal(8)
    power = torch.fft.rfft(signal).abs().square()
    power[1:4] *= 2
    found = colipschitz.energy_per_frequency(signal)
    torch.testing.assert_close(found, power / power.sum())


def test_distance_ratios_lie_between_the_singular_values():
    matrix = normal(6, 4)
    ratios = colipschitz.distance_ratios(linear_stack(matrix), normal(10, 4))
    values = torch.linalg.svdvals(matrix)
    assert ratios.shape == (1, 45)
    assert values[-1] <= ratios.min() <= ratios.max() <= values[0]
    with pytest.raises(ValueError, match="distinct"):
        colipschitz.distance_ratios(linear_stack(matrix), torch.ones(3, 4))


def features_of(network, shape, *, scale=1.0):
    """Feature map of one network with certified weights."""
    for name, parameter in network.named_parameters():
        if name.endswith("original"):
            parameter.data *= scale
    module, state = materialise(network, {n: t[None] for n, t in network.state_dict().items()})
    last = f"{len(module) - 1}."
    state = {n: t for n, t in state.items() if not n.startswith(last)}
    return ModelStack(module[:-1], state, shape).to(dtype=torch.float64)


@pytest.mark.parametrize(("width", "stages", "coefficient"), [(1, 2, None), (3, 3, 0.7)])
def test_linear_circular_network_matches_its_closed_form(width, stages, coefficient):
    torch.manual_seed(0)
    network = bilipschitz_resnet.build(
        width,
        input_shape=(16,),
        num_classes=2,
        stages=stages,
        blocks=2,
        activation="none",
        coefficient=coefficient,
    )
    features = features_of(network, (16,))
    samples = 16 // 2 ** (stages - 1)
    jacobian = colipschitz.jacobians(features, normal(1, 16))[0]
    responses = circular_networks.frequency_responses(features)
    exact = circular_networks.singular_values(responses, samples)
    found = colipschitz.band_singular_values(jacobian[None])[0]
    torch.testing.assert_close(found, exact, atol=1e-10, rtol=0)
    waves = torch.fft.fft(torch.eye(16, dtype=torch.complex128), norm="ortho").conj()
    lengths = torch.linalg.vector_norm(jacobian.to(waves) @ waves, dim=0)
    torch.testing.assert_close(lengths, responses.norm(dim=1), atol=1e-10, rtol=0)
    assert (responses[::samples][1::2] == 0).all()  # Nyquist of some stage
    low = range(samples // 2)
    on_low = colipschitz.band_singular_values(jacobian, colipschitz.band_basis(16, low))
    torch.testing.assert_close(on_low.min(), lengths[: len(low)].min(), atol=1e-10, rtol=0)


def test_closed_form_by_hand():
    """One channel, x + K2 K1 x and a pool of 2: |1 + K2 K1| cos(w / 2) / sqrt 2."""
    torch.manual_seed(0)
    network = bilipschitz_resnet.build(
        1, input_shape=(8,), num_classes=2, stages=2, blocks=1, activation="none"
    )
    features = features_of(network, (8,))
    w = 2 * math.pi / 8 * torch.arange(8, dtype=torch.float64)

    def transfer(place, angle):
        a, b, c = features.state[place][0, 0, 0]
        return a * torch.exp(-1j * angle) + b + c * torch.exp(1j * angle)

    first = 1 + transfer("2.branch.0.weight", w) * transfer("2.branch.2.weight", w)
    second = 1 + transfer("4.branch.0.weight", 2 * w) * transfer("4.branch.2.weight", 2 * w)
    lift = features.state["1.weight"][0, 0, 0, 0].abs()
    expected = lift * first.abs() * second.abs() * (w / 2).cos().abs() / math.sqrt(2)
    found = circular_networks.frequency_responses(features)[:, 0].abs()
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_closed_form_needs_a_linear_network():
    network = bilipschitz_resnet.build(2, input_shape=(8,), num_classes=2, stages=1)
    with pytest.raises(TypeError, match="ReLU: allowed are circular linear layers"):
        circular_networks.frequency_responses(features_of(network, (8,)))


def test_bounds_of_branch_constants_are_rounded_down():
    constants, lift = [0.1, 0.3], 0.7
    low, textbook = colipschitz.low_band_bound, colipschitz.textbook_bound
    exact = [Fraction(k) for k in constants]
    for found, truth in (
        (low(constants, lift=lift), 2 - (1 + exact[0]) * (1 + exact[1])),
        (textbook(constants, lift=lift), (1 - exact[0]) * (1 - exact[1])),
    ):
        truth *= Fraction(lift)
        assert truth * (1 - Fraction(1, 2**50)) <= Fraction(found) <= truth
    assert low([0.9, 0.9]) == 0.0
    assert textbook([0.5, 1.0]) == textbook([0.5, 3.0, 3.0]) == 0.0
    assert textbook([0.5, 0.9]) > 0
    for function in (low, textbook):
        for bad in (-1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"branch constant {bad}"):
                function([0.1, bad])


def test_branch_constants_against_dense_matrices():
    """Linear branches: the product of the norms of their two convolutions."""
    torch.manual_seed(0)
    network = bilipschitz_resnet.build(
        2, input_shape=(1, 4, 4), num_classes=2, stages=2, blocks=1, activation="none",
        downsampling="strided",
    )  # fmt: skip
    found = colipschitz.branch_constants(features_of(network, (1, 4, 4)))
    assert [identity for _, identity in found] == [True, False]
    sizes = iter((4, 4, 4, 2))  # of the inputs of every convolution
    for (constant, _), block in zip(found, (network[1], network[2]), strict=True):
        product = 1.0
        for layer in (block.branch[0].double(), block.branch[2].double()):
            side = next(sizes)
            unit = torch.eye(2 * side**2, dtype=torch.float64).view(-1, 2, side, side)
            with torch.no_grad():
                dense = (layer(unit) - layer(0 * unit)).flatten(1)
            product *= torch.linalg.matrix_norm(dense, 2).item()
        assert product <= constant.item() <= product * (1 + 1e-9)


@pytest.mark.parametrize("downsampling", ["none", "average", "strided"])
def test_what_is_proved_of_images_holds(downsampling):
    """Between any two inputs, and on the low band; nothing is claimed of two resolutions."""
    options = images.network(downsampling, 0.55)
    torch.manual_seed(1)
    network = bilipschitz_resnet.build(2, input_shape=(1, 4, 4), num_classes=2, **options)
    features = features_of(network, (1, 4, 4), scale=5)
    told = images.bounds(features, coefficient=0.55)
    assert told["k"] <= told["k_allowed"] == 0.55**4
    if downsampling != "none":
        assert not any(told[name] for name in told if name.startswith(("textbook", "low_band")))
        assert told["identity"] == (downsampling == "average")
        return
    basis = colipschitz.band_basis((4, 4), [0, 1])
    x, d = normal(50, 16), normal(50, 16, seed=1)
    for shift, name in ((d, "textbook"), (d @ basis @ basis.T, "low_band")):
        moved = [features((x + z).view(-1, 1, 4, 4))[0] for z in (shift, 0 * shift)]
        ratios = (moved[0] - moved[1]).norm(dim=1) / shift.norm(dim=1)
        assert 0 < told[f"{name}_allowed"] <= told[f"{name}_certified"] <= ratios.min()


def test_bounds_hold_for_a_residual_network():
    torch.manual_seed(0)
    network = bilipschitz_resnet.build(
        1, input_shape=(16,), num_classes=2, stages=1, blocks=2, coefficient=math.sqrt(0.2)
    )
    features = features_of(network, (16,), scale=100)
    basis = colipschitz.band_basis(16, range(3))
    x, shift = normal(20, 16), normal(20, basis.shape[1], seed=1) @ basis.T
    difference = features(x + shift)[0] - features(x)[0]
    ratios = (difference @ basis @ basis.T).norm(dim=1) / shift.norm(dim=1)
    assert ratios.min() >= colipschitz.low_band_bound([0.2, 0.2]) == pytest.approx(0.56)
    values = colipschitz.band_singular_values(colipschitz.jacobians(features, x))
    assert values.min() >= 0.8**2  # prod (1 - k) of branch constants k


def test_bands_of_images():
    basis = colipschitz.band_basis((4, 6), [0, 1], transform="dct")
    assert basis.shape == (24, 4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4, dtype=torch.float64))
    vertical = torch.outer(colipschitz.band_basis(4, [1])[:, 0], torch.ones(6).double())
    for transform, place in (("dft", (1, 0)), ("dct", (1, 0))):
        basis = (
            vertical
            if transform == "dft"
            else torch.outer(
                colipschitz.band_basis(4, [1], transform="dct")[:, 0], torch.ones(6).double()
            )
        )
        shares = colipschitz.energy_per_frequency(basis, transform=transform)
        assert shares.sum().item() == pytest.approx(1)
        assert shares[place].item() == pytest.approx(1)


def test_counter_example_in_a_null_space():
    found = colipschitz.counter_example(linear_stack(normal(3, 5)), normal(5), radius=2.0)
    assert found.infinitesimal <= 1e-12
    assert found.ratio <= 1e-12
    assert found.direction.norm().item() == pytest.approx(2.0)
    with pytest.raises(ValueError, match="radius"):
        colipschitz.counter_example(linear_stack(normal(3, 5)), normal(5), radius=0.0)


def test_counter_example_finds_the_smallest_singular_value():
    matrix = normal(6, 4)
    found = colipschitz.counter_example(linear_stack(matrix), normal(4), radius=1.0)
    smallest = torch.linalg.svdvals(matrix)[-1].item()
    assert found.ratio == pytest.approx(smallest, rel=1e-9)


@pytest.mark.parametrize("bad", [{"transform": "x"}, {"frequencies": [9]}, {"frequencies": []}])
def test_bands_are_checked(bad):
    with pytest.raises(ValueError, match="allowed are"):
        colipschitz.band_basis(8, **({"frequencies": [0]} | bad))
