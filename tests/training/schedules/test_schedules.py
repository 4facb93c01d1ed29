import numpy as np
import pytest
import torch

from lipdescent.training.schedules import continuous_decay, cosine, inverse_square_root, warmup_step

PER_EPOCH, TOTAL = 10, 1000
UPDATES = np.arange(TOTAL)


def call(function, **options):
    return function(UPDATES, updates_per_epoch=PER_EPOCH, total_updates=TOTAL, **options)


def test_cosine_equals_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=TOTAL)
    expected = []
    for _ in range(TOTAL):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    np.testing.assert_allclose(call(cosine.factors), expected, atol=1e-9)


def test_khromov_singh_schedules():
    update = np.array([0, 9_999, 19_999, 39_999, 40_000, 60_000, 80_000, 100_000, 2_400_000])
    factors = warmup_step.factors(update, updates_per_epoch=8, total_updates=10**6)
    expected = [1 / 20_000, 0.5, 1, 1, 0.75, 0.75**2, 0.75**3, 0.75**3, 0.75**3]
    np.testing.assert_allclose(factors, expected)
    factors = call(continuous_decay.factors, every_epochs=50)
    np.testing.assert_allclose(factors[[0, 499, 500, 999]], [1, 1, 0.95, 0.95])


@pytest.mark.parametrize("warmup_updates", [0, 70])
@pytest.mark.parametrize("drops", [0, 3])
def test_warmup_step_equals_torch(warmup_updates, drops):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kinds = torch.optim.lr_scheduler
    milestones = [(i + 1) * 20 * PER_EPOCH for i in range(drops)]
    steps = kinds.MultiStepLR(optimizer, milestones, gamma=0.75)
    theirs = steps
    if warmup_updates:
        rise = kinds.LambdaLR(optimizer, lambda update: (update + 1) / warmup_updates)
        theirs = kinds.SequentialLR(optimizer, [rise, steps], [warmup_updates])
    expected = []
    for _ in range(TOTAL):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    found = call(warmup_step.factors, warmup_updates=warmup_updates, step_epochs=20, drops=drops)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_nakkiran_schedule():
    factors = inverse_square_root.factors(
        np.array([0, 511, 512, 1536]), updates_per_epoch=1, total_updates=1
    )
    np.testing.assert_allclose(factors, [1, 1, 2**-0.5, 0.5])
