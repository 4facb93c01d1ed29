"""The linearised network against its closed form, and against differences of the network."""

import pytest
import torch
from torch import nn

from lipdescent.architectures import mlp
from lipdescent.measuring.kinds import linearised
from lipdescent.stacks.model_stack import ModelStack


def found_of(stack, initial, **options):
    found = linearised.measure(stack, initial=initial, **options)
    return {(m.quantity, m.split): m.values for m in found}


def test_one_hidden_layer_has_a_closed_form(make_stack, generator):
    """f = V relu(W x): f_lin has the Jacobian (V0 D W0) + V0 D dW + dV D W0, D of W0 x."""
    stack, first = (
        make_stack(lambda: mlp.build(7, input_shape=(4,), num_classes=3, bias=False), 3, (4,),
                   dtype=torch.float64)
        for _ in range(2)
    )  # fmt: skip
    start = {n: t + 0.3 * torch.randn(t.shape, dtype=t.dtype, generator=generator)
             for n, t in first.state.items()}  # fmt: skip
    inputs = {s: torch.randn(n, 4, dtype=torch.float64, generator=generator)
              for s, n in (("train", 9), ("test", 6))}  # fmt: skip
    found = found_of(stack, start, inputs=inputs, num_points=None)
    into, out = stack.state
    for model in range(3):
        w, v = stack.state[into][model], stack.state[out][model]
        w0, v0 = start[into][model], start[out][model]
        for split, x in inputs.items():
            norms, off, whole = [], 0.0, 0.0
            for point in x:
                gate = torch.diag((w0 @ point > 0).double())
                jacobian = v0 @ gate @ w + (v - v0) @ gate @ w0
                norms.append(torch.linalg.matrix_norm(jacobian, 2).item())
                exact = v @ (w @ point).relu()  # homogeneous: f_lin(x) is its Jacobian times x
                off += (exact - jacobian @ point).square().sum().item()
                whole += exact.square().sum().item()
            values = {
                name: found[f"linearised_{name}", split][model].item()
                for name in ("jacobian_norm_max", "jacobian_norm_mean", "relative_error")
            }
            assert values["jacobian_norm_max"] == pytest.approx(max(norms))
            assert values["jacobian_norm_mean"] == pytest.approx(sum(norms) / len(norms))
            assert values["relative_error"] == pytest.approx((off / whole) ** 0.5)


def build():
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(),
                         nn.Dropout(0.5), nn.Linear(32, 3))  # fmt: skip


def test_the_error_is_of_second_order_and_none_at_the_start(make_stack, generator):
    stack = make_stack(build, 2, (1, 4, 4), dtype=torch.float64)
    inputs = {"train": torch.randn(8, 1, 4, 4, dtype=torch.float64, generator=generator)}
    ways = {
        n: torch.randn(t.shape, dtype=torch.float64, generator=generator)
        for n, t in stack.state.items()
        if "running" not in n and t.is_floating_point()
    }

    def error(step):
        moved = {n: t + step * ways[n] if n in ways else t for n, t in stack.state.items()}
        other = ModelStack(stack.module, moved, stack.input_shape)
        return found_of(other, stack.state, inputs=inputs)["linearised_relative_error", "train"]

    assert error(0.0).tolist() == pytest.approx([0, 0], abs=1e-12)
    large, small = error(1e-4), error(1e-5)
    assert (small > 0).all()
    assert (large / small).tolist() == pytest.approx([100, 100], rel=0.2)
