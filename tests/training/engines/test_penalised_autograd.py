"""A penalty on Jacobians is what a plain PyTorch loop with torch.func trains with."""

import pytest
import torch
from torch import nn

from lipdescent.architectures import cnn, lipschitz_mlp, mlp
from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.engines.penalised_autograd import KINDS, PenalisedAutograd, penalty
from lipdescent.training.losses import cross_entropy
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import StackTraining

SHAPES = {"mlp": (6,), "cnn": (3, 32, 32)}
RATE, MOMENTUM, STEPS = 0.05, 0.9, 2


def networks(name, count=2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "mlp":
            build = lambda: mlp.build(9, input_shape=(6,), num_classes=4, depth=2, bias=True)  # noqa: E731
        else:
            build = lambda: cnn.build(2, input_shape=(3, 32, 32), num_classes=4)  # noqa: E731
        return [build().double() for _ in range(count)]


def batches(shape, count):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(STEPS, count, 5, *shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (STEPS, count, 5), generator=generator)
    return inputs, labels


def plain(model, inputs, labels, kind, coefficient):
    """One model by torch's own optimiser, torch.func's Jacobians and matrix norms."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    for x, y in zip(inputs, labels, strict=True):
        parameters = dict(model.named_parameters())

        def outputs(point, own=parameters):
            return torch.func.functional_call(model, own, (point[None],))[0]

        jacobians = torch.func.vmap(torch.func.jacrev(outputs))(x).flatten(2)
        norms = torch.linalg.matrix_norm(jacobians, ord=2)
        extra = norms.max() if kind == "largest_jacobian" else norms.square().mean()
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(x), y) + coefficient * extra).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_a_plain_loop(kind, name):
    models = networks(name)
    stack = ModelStack.from_modules(models, SHAPES[name])
    wanted = {"kind": kind, "coefficient": 0.3}
    engine = PenalisedAutograd(stack.module, stack.state, cross_entropy.loss, wanted=wanted)
    inputs, labels = batches(SHAPES[name], len(models))
    start = [p.clone() for p in engine.parameters]
    buffers = [torch.zeros_like(p) for p in engine.parameters]
    for x, y in zip(inputs, labels, strict=True):
        engine.accumulate(buffers, x, nn.functional.one_hot(y, 4).double(), decay=MOMENTUM)
        for parameter, buffer in zip(engine.parameters, buffers, strict=True):
            parameter.sub_(RATE * buffer)
    assert any(not torch.equal(a, b) for a, b in zip(start, engine.parameters, strict=True))
    found = engine.state()
    for index, model in enumerate(models):
        plain(model, inputs[:, index], labels[:, index], kind, 0.3)
        for key, tensor in model.named_parameters():
            torch.testing.assert_close(found[key][index], tensor.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_with_it_ends_with_smaller_jacobians(kind):
    """By the way that a study trains; half as large at least, the loss being the same."""
    inputs, labels = (
        torch.randn(40, 6, generator=torch.Generator().manual_seed(3)),
        torch.arange(40) % 4,
    )
    data = TrainingData(inputs, labels.expand(2, -1), 4)
    norms = []
    for coefficient in (None, 0.3):
        wanted = None if coefficient is None else {"kind": kind, "coefficient": coefficient}
        options = TrainingOptions(learning_rate=0.1, batch_size=20, penalty=wanted)
        stack = initial_stack(lambda: mlp.build(8, input_shape=(6,), num_classes=4), [0, 1], (6,))
        training = StackTraining(stack, data, seeds=[0, 1], epochs=[0, 60], options=options)
        for _ in range(60):
            training.one_epoch()
        assert len(training.blocks) == 1
        trained = ModelStack(stack.module, training.blocks[0].engine.state(), (6,))
        norms.append(jacobian_norms(trained, inputs.double())["l2"].amax(1))
    assert (norms[1] < 0.5 * norms[0]).all()


def test_without_a_coefficient_it_is_the_loss_alone():
    models = networks("mlp")
    stack = ModelStack.from_modules(models, (6,))
    inputs, labels = batches((6,), 2)
    targets = nn.functional.one_hot(labels[0], 4).double()
    found = {}
    for coefficient in (0.0, 0.1):
        wanted = {"kind": KINDS[0], "coefficient": coefficient}
        engine = PenalisedAutograd(stack.module, stack.state, cross_entropy.loss, wanted=wanted)
        found[coefficient] = [torch.zeros_like(p) for p in engine.parameters]
        engine.accumulate(found[coefficient], inputs[0], targets, decay=0.0)
    for index, model in enumerate(models):
        loss = nn.functional.cross_entropy(model(inputs[0, index]), labels[0, index])
        own = torch.autograd.grad(loss, list(model.parameters()))
        for buffer, gradient in zip(found[0.0], own, strict=True):
            torch.testing.assert_close(buffer[index], gradient, rtol=1e-10, atol=1e-14)
    assert any(not torch.allclose(a, b) for a, b in zip(*found.values(), strict=True))


@pytest.mark.parametrize("sizes", [(2, 7), (7, 2)])
def test_norms_of_wide_and_tall_jacobians(sizes):
    weight = torch.randn(*sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(1, 3, sizes[0], dtype=torch.float64).requires_grad_()
    outputs = inputs @ weight
    norm = torch.linalg.matrix_norm(weight, ord=2)
    torch.testing.assert_close(penalty(outputs, inputs, KINDS[0]), norm[None])
    torch.testing.assert_close(penalty(outputs, inputs, KINDS[1]), norm[None] ** 2)


def test_a_constant_network_has_no_penalty_and_a_finite_gradient():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    model[0].weight.data.zero_()
    stack = ModelStack.from_modules([model], (3,))
    wanted = {"kind": KINDS[0], "coefficient": 1.0}
    engine = PenalisedAutograd(stack.module, stack.state, cross_entropy.loss, wanted=wanted)
    buffers = [torch.zeros_like(p) for p in engine.parameters]
    x = torch.ones(1, 2, 3, dtype=torch.float64)
    engine.accumulate(buffers, x, torch.eye(2, dtype=torch.float64)[None], decay=0.0)
    assert all(buffer.isfinite().all() for buffer in buffers)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), r"1 \(BatchNorm1d\).*influence"),
        (nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.1)), r"1 \(Dropout\)"),
        (lipschitz_mlp.build(4, input_shape=(3,), num_classes=2), "bounded by its constraints"),
    ],
)
def test_networks_without_a_jacobian_path_are_refused(module, message):
    stack = ModelStack.from_modules([module], (3,))
    wanted = {"kind": KINDS[0], "coefficient": 0.1}
    with pytest.raises(TypeError, match=message):
        PenalisedAutograd(stack.module, stack.state, cross_entropy.loss, wanted=wanted)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"kind": "jacobian", "coefficient": 1.0}, "kind = 'jacobian': allowed are largest"),
        ({"kind": KINDS[0], "coefficient": -1.0}, r"coefficient = -1\.0"),
    ],
)
def test_mistakes_are_named(wanted, message):
    stack = ModelStack.from_modules(networks("mlp", 1), (6,))
    with pytest.raises(ValueError, match=message):
        PenalisedAutograd(stack.module, stack.state, cross_entropy.loss, wanted=wanted)
