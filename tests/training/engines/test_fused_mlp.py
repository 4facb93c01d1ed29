"""The hand-written pass against autograd, one model at a time."""

import pytest
import torch
from torch import nn

from lipdescent.architectures import mlp
from lipdescent.training.engines.fused_mlp import StackedMLP, supports
from lipdescent.training.engines.stacked_autograd import StackedAutograd
from lipdescent.training.losses import cross_entropy, hinge, mean_squared_error, squared_error_sum


def margin(z, y):
    own = z.gather(1, y[:, None])[:, 0]
    others = z.masked_fill(nn.functional.one_hot(y, z.shape[1]).bool(), -torch.inf)
    return (1 - own + others.amax(1)).clamp_min(0).mean()


ORACLES = {
    cross_entropy.loss: nn.functional.cross_entropy,
    mean_squared_error.loss: lambda z, y: nn.functional.mse_loss(
        z, nn.functional.one_hot(y, z.shape[1]).to(z.dtype)
    ),
    squared_error_sum.loss: lambda z, y: (
        nn.MSELoss(reduction="sum")(z, nn.functional.one_hot(y, z.shape[1]).to(z.dtype)) / len(z)
    ),
    # Without a closed form of its gradient.
    hinge.loss: margin,
}


@pytest.mark.parametrize("engine", [StackedMLP, StackedAutograd])
@pytest.mark.parametrize("loss", list(ORACLES), ids=lambda f: f.__module__.split(".")[-1])
@pytest.mark.parametrize("slope", [None, 0.0, 0.01])
@pytest.mark.parametrize(("depth", "bias"), [(0, True), (1, False), (3, True)])
def test_gradients_equal_autograd(engine, loss, slope, depth, bias, make_stack, generator):
    def build():
        sizes = {"input_shape": (2, 5), "num_classes": 3, "depth": depth, "bias": bias}
        return mlp.build(7, **sizes, output_slope=slope)

    stack = make_stack(build, 4, (2, 5), dtype=torch.float64)
    inputs = torch.randn(4, 6, 2, 5, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (4, 6), generator=generator)
    targets = nn.functional.one_hot(labels, 3).double()
    run = engine(stack.module, stack.state, loss)
    buffers = [torch.ones_like(p) for p in run.parameters]
    run.accumulate(buffers, inputs, targets, decay=0.5)
    for parameter, buffer in zip(run.parameters, buffers, strict=True):
        parameter.copy_(buffer - 0.5)  # so that state() names and shapes the gradients
    found = run.state()
    for i in range(4):
        model = build_from(stack, i)
        ORACLES[loss](model(inputs[i]), labels[i]).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][i], parameter.grad, rtol=1e-10, atol=1e-12)


def build_from(stack, i):
    model = stack.module
    model.load_state_dict({name: tensor[i] for name, tensor in stack.state.items()})
    model.zero_grad(set_to_none=True)
    return model


def test_state_round_trip(make_stack):
    stack = make_stack(
        lambda: mlp.build(5, input_shape=(4,), num_classes=2, depth=2, bias=True), 3, (4,)
    )
    state = StackedMLP(stack.module, stack.state, cross_entropy.loss).state()
    assert set(state) == set(stack.state)
    for name, tensor in stack.state.items():
        assert torch.equal(state[name], tensor)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Sequential(nn.Linear(2, 3)), True),
        (nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), True),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU()), True),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.LeakyReLU(0.1)), True),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.ReLU()), False),
        (nn.Sequential(nn.ReLU()), False),
        (nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), False),
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), False),
        (nn.Linear(2, 3), True),
        (nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2))), True),
        (nn.Sequential(nn.Flatten(2), nn.Linear(2, 3)), False),
        (nn.Sequential(), False),
    ],
)
def test_supports(module, expected):
    assert supports(module) is expected


def test_refuses_what_it_does_not_support():
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    with pytest.raises(TypeError, match="Tanh"):
        StackedMLP(module, dict(module.state_dict()), cross_entropy.loss)
