"""Against plain PyTorch, one model at a time."""

import torch
from torch import nn

from lipdescent.architectures import mlp
from lipdescent.measuring import fitted_scale
from lipdescent.measuring.kinds import metrics
from lipdescent.stacks import evaluation
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.losses import cross_entropy


def build():
    return mlp.build(7, input_shape=(4,), num_classes=3)


def test_metrics_equal_plain_pytorch(make_stack, generator, monkeypatch):
    stack = make_stack(build, 5, (4,), dtype=torch.float64)
    initial = make_stack(build, 5, (4,), seed=1, dtype=torch.float64).state
    inputs = {
        s: torch.randn(n, 4, dtype=torch.float64, generator=generator)
        for s, n in (("train", 20), ("test", 11))
    }
    clean = {s: torch.randint(3, (len(x),), generator=generator) for s, x in inputs.items()}
    noisy = torch.randint(3, (5, 20), generator=generator)
    monkeypatch.setitem(evaluation.CHUNK_BYTES, "cpu", 3000)  # several chunks
    found = {
        m.quantity: m.values
        for m in metrics.measure(
            stack, inputs=inputs, noisy_labels=noisy, clean_labels=clean,
            loss=cross_entropy.loss, num_classes=3,
        )
    }  # fmt: skip
    moved = metrics.distance(stack, initial)
    for i in range(5):
        state = {name: tensor[i] for name, tensor in stack.state.items()}
        for name, x, y in (
            ("train_{}", inputs["train"], noisy[i]),
            ("train_{}_clean", inputs["train"], clean["train"]),
            ("test_{}", inputs["test"], clean["test"]),
        ):
            logits = torch.func.functional_call(stack.module, state, (x,))
            torch.testing.assert_close(
                found[name.format("loss")][i], nn.functional.cross_entropy(logits, y)
            )
            accuracy = (logits.argmax(1) == y).double().mean()
            torch.testing.assert_close(found[name.format("accuracy")][i], accuracy)
        alone, beta = fitted_scale.calibrated(logits[None], clean["test"])
        torch.testing.assert_close(found["test_loss_calibrated"][i], alone[0])
        torch.testing.assert_close(found["inverse_temperature"][i], beta[0])
        assert (found["num_train"][i], found["num_classes"][i]) == (20, 3)
        distance = torch.cat([(state[n] - initial[n][i]).flatten() for n in state]).norm()
        torch.testing.assert_close(moved[i], distance)


def test_the_path_length_adds_up_the_ways_between_checkpoints():
    """A weight that goes 0, 3, then back to 1, and one that goes 0, 4, 4: lengths 5 and 7."""
    module = nn.Linear(2, 1, bias=False)
    places = torch.tensor([[[[3.0, 4.0]], [[1.0, 0.0]]], [[[1.0, 4.0]], [[1.0, 0.0]]]])
    stack = ModelStack(module, {"weight": places.flatten(0, 1)}, (2,))
    initial = {"weight": torch.zeros(2, 1, 2)}
    found = metrics.path_length(stack, initial, epochs=2)
    assert found.tolist() == [5.0, 1.0, 7.0, 1.0]
