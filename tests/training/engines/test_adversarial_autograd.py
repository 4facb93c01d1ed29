"""Training on attacked points is a plain PyTorch loop that attacks every batch first."""

import pytest
import torch
from torch import nn

from lipdescent.architectures import lipschitz_mlp
from lipdescent.robustness import attacks
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.engines.adversarial_autograd import AdversarialAutograd
from lipdescent.training.engines.choice import make_engine
from lipdescent.training.losses import cross_entropy
from lipdescent.training.options import TrainingOptions

RATE, STEPS = 0.05, 3


def networks(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        build = {"input_shape": (6,), "num_classes": 4, "depth": 2, "constraint": "none"} | options
        return [lipschitz_mlp.build(8, **build).double() for _ in range(2)]


def margins(model, x, y):
    logits = model(x)
    own = logits.gather(1, y[:, None])[:, 0]
    others = logits.masked_fill(nn.functional.one_hot(y, 4).bool(), -torch.inf)
    return own - others.amax(1)


def attacked(model, x, y, norm, radius, steps):
    """Madry et al. (2018), by hand: from the point, down the margin, put back into the ball."""
    delta = torch.zeros_like(x)
    for _ in range(steps):
        leaf = (x + delta).requires_grad_()
        (gradient,) = torch.autograd.grad(margins(model, leaf, y).sum(), leaf)
        size = gradient.norm(dim=1, keepdim=True)
        step = gradient.sign() if norm == "linf" else gradient / size
        delta = delta - 2.5 * radius / steps * step
        limit = radius * attacks.INSIDE
        if norm == "linf":
            delta = delta.clamp(-limit, limit)
        else:
            delta = delta * (limit / delta.norm(dim=1, keepdim=True)).clamp(max=1)
    return (x + delta).detach()


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 0.4)])
@pytest.mark.parametrize("network", [{"activation": "relu"}, {"group_size": None}])
def test_it_is_a_plain_loop(norm, radius, network):
    models = networks(**network)
    stack = ModelStack.from_modules(models, (6,))
    options = TrainingOptions(
        learning_rate=RATE, batch_size=5, adversary={"norm": norm, "radius": radius, "steps": 4}
    )
    engine = make_engine(stack, options)
    assert type(engine) is AdversarialAutograd
    random = torch.Generator().manual_seed(1)
    inputs = torch.randn(STEPS, 2, 5, 6, generator=random, dtype=torch.float64)
    labels = torch.randint(4, (STEPS, 2, 5), generator=random)
    buffers = [torch.zeros_like(p) for p in engine.parameters]
    for x, y in zip(inputs, labels, strict=True):
        engine.accumulate(buffers, x, nn.functional.one_hot(y, 4).double(), decay=0.0)
        for parameter, buffer in zip(engine.parameters, buffers, strict=True):
            parameter.sub_(RATE * buffer)
    found = engine.state()
    for index, model in enumerate(models):
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        for x, y in zip(inputs[:, index], labels[:, index], strict=True):
            moved = attacked(model, x, y, norm, radius, 4)
            assert (margins(model, moved, y) < margins(model, x, y)).all()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(moved), y).backward()
            optimizer.step()
        for name, tensor in model.named_parameters():
            torch.testing.assert_close(found[name][index], tensor.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"norm": "l1", "radius": 0.1}, r"adversary\.norm = 'l1': allowed are l2, linf"),
        ({"norm": "l2", "radius": 0}, r"adversary\.radius = 0: allowed are positive"),
        ({"norm": "l2", "radius": 1, "steps": 0}, r"adversary\.steps = 0: allowed are integers"),
    ],
)
def test_what_is_out_of_range_is_named(wanted, message):
    stack = ModelStack.from_modules(networks(), (6,))
    with pytest.raises(ValueError, match=message):
        AdversarialAutograd(
            stack.module, stack.state, cross_entropy.loss, wanted=wanted, input_shape=(6,)
        )


def test_not_with_a_penalty():
    options = TrainingOptions(
        learning_rate=RATE,
        batch_size=5,
        adversary={"norm": "l2", "radius": 0.1},
        penalty={"kind": "largest_jacobian", "coefficient": 0.1},
    )
    with pytest.raises(ValueError, match=r"training\.penalty and training\.adversary"):
        make_engine(ModelStack.from_modules(networks(), (6,)), options)
