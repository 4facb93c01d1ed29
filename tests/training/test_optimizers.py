"""Against torch.optim, one model at a time."""

import pytest
import torch

from lipdescent.training.optimizers import SGD, Adam, clip_, gradient_norms

RATES = [0.1, 0.02, 0.0]


@pytest.mark.parametrize(
    ("ours", "theirs", "clip"),
    [
        (SGD(), {"cls": torch.optim.SGD}, None),
        (
            SGD(momentum=0.9, weight_decay=0.01),
            {"cls": torch.optim.SGD, "momentum": 0.9, "weight_decay": 0.01},
            None,
        ),
        (
            SGD(momentum=0.9, weight_decay=0.01, gradient_clip=0.5),
            {"cls": torch.optim.SGD, "momentum": 0.9, "weight_decay": 0.01},
            0.5,
        ),
        (
            Adam(weight_decay=0.3, decoupled=True),
            {"cls": torch.optim.AdamW, "weight_decay": 0.3},
            None,
        ),
        (Adam(weight_decay=0.01), {"cls": torch.optim.Adam, "weight_decay": 0.01}, None),
        (
            Adam(betas=(0.5, 0.9), gradient_clip=0.1),
            {"cls": torch.optim.Adam, "betas": (0.5, 0.9)},
            0.1,
        ),
    ],
)
def test_equals_torch_optim(ours, theirs, clip, generator):
    shapes = [(3, 4), (5,)]
    stacked = [torch.randn(3, *s, dtype=torch.float64, generator=generator) for s in shapes]
    alone = [[p[i].clone().requires_grad_() for p in stacked] for i in range(3)]
    kind = dict(theirs)
    cls = kind.pop("cls")
    references = [cls(ps, lr=rate, **kind) for ps, rate in zip(alone, RATES, strict=True)]
    ours.prepare(stacked)
    rate = torch.tensor(RATES, dtype=torch.float64)
    for update in range(5):
        gradients = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in stacked]
        for buffer, gradient in zip(ours.buffers, gradients, strict=True):
            buffer.mul_(ours.decay).add_(gradient)
        ours.step(stacked, rate, update)
        for i, reference in enumerate(references):
            for p, g in zip(alone[i], gradients, strict=True):
                p.grad = g[i].clone()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(alone[i], clip)
            reference.step()
    for i in range(3):
        for ours_p, theirs_p in zip(stacked, alone[i], strict=True):
            torch.testing.assert_close(ours_p[i], theirs_p.detach(), rtol=1e-9, atol=1e-12)


def test_clip_leaves_small_gradients_alone():
    gradients = [torch.tensor([[3.0, 4.0], [0.3, 0.4]])]
    assert gradient_norms(gradients).tolist() == pytest.approx([5.0, 0.5])
    clip_(gradients, 1.0)
    assert gradient_norms(gradients).tolist() == pytest.approx([1.0, 0.5], rel=1e-5)
