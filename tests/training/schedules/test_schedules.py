import numpy as np
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
    update = np.array([0, 9_999, 19_999, 2_500 * 8 - 1, 2_500 * 8, 5_000 * 8])
    factors = warmup_step.factors(update, updates_per_epoch=8, total_updates=10**6)
    np.testing.assert_allclose(factors, [1 / 20_000, 0.5, 1, 1, 0.75, 0.75**2])
    factors = call(continuous_decay.factors, every_epochs=50)
    np.testing.assert_allclose(factors[[0, 499, 500, 999]], [1, 1, 0.95, 0.95])


def test_nakkiran_schedule():
    factors = inverse_square_root.factors(
        np.array([0, 511, 512, 1536]), updates_per_epoch=1, total_updates=1
    )
    np.testing.assert_allclose(factors, [1, 1, 2**-0.5, 0.5])
