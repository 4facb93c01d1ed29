"""Lower Lipschitz quantities against dense matrices and closed forms."""

import math

import pytest
import torch
from torch import nn

from lipdescent import colipschitz
from lipdescent.architectures import bilipschitz_resnet
from lipdescent.constrained.plain import materialise
from lipdescent.stacking import ModelStack


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


def test_linear_circular_network_matches_its_closed_form():
    """x + K2 K1 x at one resolution, average pool of 2, again: block-diagonal under the DFT."""
    torch.manual_seed(0)
    network = bilipschitz_resnet.build(
        1, input_shape=(16,), num_classes=2, stages=2, blocks=1, activation="none"
    )
    stack = ModelStack.from_modules([network], (16,))
    module, state = materialise(stack.module, stack.state)
    features = ModelStack(
        module[:-1], {n: t for n, t in state.items() if not n.startswith("6.")}, (16,)
    )
    assert features.num_models == 1
    jacobian = colipschitz.jacobians(features, normal(1, 16))[0]

    def stage(index, length):
        first, second = (state[f"{index}.branch.{i}.weight"][0] for i in (0, 2))
        gain = colipschitz.circular_gains(second, length) @ colipschitz.circular_gains(
            first, length
        )
        return 1 + gain[:, 0, 0]

    lift = state["1.weight"][0, 0, 0, 0].abs()
    before, after = stage(2, 16), stage(4, 8)
    # Frequencies k and k + 8 of the input alias to k of the output; on the pair the map is one row.
    frequency = torch.arange(16, dtype=torch.float64)
    pool = (math.pi * frequency / 16).cos().abs()
    gains = (lift * before.abs() * pool).view(2, 8).square().sum(0).sqrt() / math.sqrt(2)
    exact = (gains * after.abs()).sort(descending=True).values
    values = torch.linalg.svdvals(jacobian)
    torch.testing.assert_close(values, exact, atol=1e-10, rtol=0)
    low = colipschitz.band_basis(16, range(4))
    on_low = colipschitz.band_singular_values(jacobian, low)
    single = (lift * before.abs() * pool)[:4] * after.abs()[:4] / math.sqrt(2)
    torch.testing.assert_close(on_low.min(), single.min(), atol=1e-10, rtol=0)


def test_low_band_bound():
    assert colipschitz.low_band_bound([0.1, 0.2]) == pytest.approx(2 - 1.1 * 1.2)
    assert colipschitz.low_band_bound([0.9, 0.9]) == 0.0
    with pytest.raises(ValueError, match="branch constant -1"):
        colipschitz.low_band_bound([-1.0])


def test_low_band_bound_holds_for_a_residual_network():
    torch.manual_seed(0)
    coefficient = math.sqrt(0.2)
    network = bilipschitz_resnet.build(
        1, input_shape=(16,), num_classes=2, stages=1, blocks=2, coefficient=coefficient
    )
    for name, p in network.named_parameters():
        if name.endswith("original"):
            p.data *= 100
    module, state = materialise(network, {n: t[None] for n, t in network.state_dict().items()})
    features = ModelStack(
        module[:-1], {n: t for n, t in state.items() if not n.startswith("5.")}, (16,)
    )
    basis = colipschitz.band_basis(16, range(3))
    x, shift = normal(20, 16), normal(20, basis.shape[1], seed=1) @ basis.T
    difference = features(x + shift)[0] - features(x)[0]
    ratios = (difference @ basis @ basis.T).norm(dim=1) / shift.norm(dim=1)
    assert ratios.min() >= colipschitz.low_band_bound([0.2, 0.2]) == pytest.approx(0.56)


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
