"""Every loss keeps the contract of training/losses/_contract.py."""

from functools import partial

import contracts
import pytest
import torch
from pretend_cuda import PretendCuda
from torch import Tensor

from lipdescent.training.losses._contract import LossPlugin

LOSSES = contracts.plugins("losses")
# Values of options that have no default.
OPTIONS = {"tau": 2.0, "alpha": 3.0}
every_loss = pytest.mark.parametrize("name", LOSSES)


def loss(name: str):
    function = LOSSES[name].loss
    return partial(function, **{option: OPTIONS[option] for option in contracts.needed(function)})


def batch(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits and targets, (3 models, 4 samples, classes); two classes where there must be."""
    classes, draws = 2 if name.startswith("binary") else 5, torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, classes, generator=draws, dtype=torch.float64)
    labels = torch.randint(classes, (3, 4), generator=draws)
    return logits.to(dtype), torch.nn.functional.one_hot(labels, classes).to(dtype)


@every_loss
def test_signature(name):
    contracts.check(LOSSES[name], LossPlugin)
    assert set(contracts.needed(LOSSES[name].loss)) <= set(OPTIONS), "give it a value here"


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_loss_per_sample_in_the_precision_of_the_logits(name, dtype):
    given = batch(name, dtype)
    kept = [t.clone() for t in given]
    with contracts.no_global_draws():
        found = loss(name)(*given)
    assert (found.shape, found.dtype) == ((3, 4), dtype)
    assert found.isfinite().all()
    assert torch.equal(found, loss(name)(*given))
    assert all(map(torch.equal, given, kept))


@every_loss
def test_samples_do_not_know_of_each_other(name):
    logits, targets = batch(name)
    alone = [[loss(name)(logits[i, j], targets[i, j]) for j in range(4)] for i in range(3)]
    torch.testing.assert_close(loss(name)(logits, targets), torch.tensor(alone).double())


@every_loss
def test_gradient_is_that_of_differences(name):
    """Of autograd, and of the closed form where there is one."""
    logits, targets = batch(name)
    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(name)(x, targets), leaf)
    closed_form = getattr(LOSSES[name].loss, "logit_gradient", None)
    if closed_form is not None:
        (gradient,) = torch.autograd.grad(loss(name)(leaf, targets).sum(), leaf)
        torch.testing.assert_close(closed_form(logits, targets), gradient)


@every_loss
def test_it_stays_on_the_device(name):
    expected = loss(name)(*batch(name))
    with PretendCuda() as device:
        found = loss(name)(*(t.to("cuda") for t in batch(name)))
        assert device.place(found) == 0
        torch.testing.assert_close(found.cpu(), expected)
