"""The step towards orthonormal layers: by hand, in a plain loop, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lipdescent.architectures import lipschitz_mlp
from lipdescent.jobs.progress import Progress
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import batch_order, initial_stack
from lipdescent.training.options import TrainingOptions
from lipdescent.training.parseval import ParsevalStep
from lipdescent.training.stack_training import StackTraining

BETA, RATE, EPOCHS, SEEDS, NUM_TRAIN = 0.2, 0.1, 3, [1, 4], 24


def build():
    return lipschitz_mlp.build(
        8, input_shape=(6,), num_classes=3, constraint="none", activation="relu"
    )


def training(**options):
    random = np.random.default_rng(0)
    inputs = torch.tensor(random.standard_normal((NUM_TRAIN, 6)))
    labels = torch.tensor(random.integers(0, 3, NUM_TRAIN))
    return StackTraining(
        initial_stack(build, SEEDS, (6,)).to(dtype=torch.float64),
        TrainingData(inputs, labels.repeat(len(SEEDS), 1), 3),
        seeds=SEEDS,
        epochs=[0, EPOCHS],
        options=TrainingOptions(learning_rate=RATE, batch_size=8, parseval=BETA, **options),
    )


def test_singular_values_move_as_the_formula_says():
    """Of W + beta (W - W W^T W): s + beta (s - s^3), in the same singular vectors."""
    left, right = (torch.linalg.qr(torch.randn(n, 3, dtype=torch.float64))[0] for n in (5, 4))
    values = torch.tensor([1.4, 1.0, 0.2], dtype=torch.float64)
    weight = (left @ values.diag() @ right.mT)[None].clone()
    for shape in (weight.clone(), weight.mT.clone()):
        ParsevalStep(["w"], BETA).apply_({"w": shape}.get, going=torch.tensor([True]))
        found = torch.linalg.svdvals(shape[0])[:3]
        expected = (values + BETA * (values - values**3)).sort(descending=True).values
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_it_is_a_plain_loop():
    run = training()
    run.run(progress=Progress(1, EPOCHS))
    found = run.result([0.0] * len(SEEDS)).state
    for replica, seed in enumerate(SEEDS):
        model = build().double()
        model.load_state_dict({name: tensor[0, replica] for name, tensor in found.items()})
        step = torch.optim.SGD(model.parameters(), lr=RATE)
        for epoch in range(EPOCHS):
            for batch in batch_order([seed], epoch, NUM_TRAIN)[0].split(8):
                step.zero_grad()
                logits = model(run.data.inputs[batch])
                nn.functional.cross_entropy(logits, run.data.labels[replica, batch]).backward()
                step.step()
                for part in model:
                    if isinstance(part, nn.Linear):
                        w = part.weight.data
                        part.weight.data = (1 + BETA) * w - BETA * w @ w.T @ w
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(found[name][-1, replica], tensor, rtol=0, atol=1e-11)


def test_what_has_stopped_stays_as_it_is():
    weight = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    weight[0, 0, 0] = math.inf
    before = weight.clone()
    ParsevalStep(["w"], BETA).apply_({"w": weight}.get, going=torch.tensor([False, True]))
    assert torch.equal(weight[0], before[0])
    assert not torch.equal(weight[1], before[1])


@pytest.mark.parametrize(
    ("module", "shape", "layer"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3)), (1, 4, 4), r"0 \(Conv2d\)"),
        (
            lipschitz_mlp.build(8, input_shape=(6,), num_classes=3),
            (6,),
            r"0 \(ParametrizedLinear\)",
        ),
    ],
)
def test_other_layers_are_refused_by_name(module, shape, layer):
    state = {name: tensor.detach()[None] for name, tensor in module.state_dict().items()}
    with pytest.raises(TypeError, match=layer + r": training\.parseval is for networks of Linear"):
        ParsevalStep.of(ModelStack(module, state, shape), BETA)
