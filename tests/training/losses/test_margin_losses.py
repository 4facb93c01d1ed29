"""Losses of constrained networks against their definitions."""

import math
from types import SimpleNamespace

import pytest
import torch

from lipdescent.plugins import lookup
from lipdescent.training.engines.layouts import logit_gradient
from lipdescent.training.options import TrainingOptions

losses = SimpleNamespace(
    **{name: lookup.resolve("losses", name) for name in lookup.known("losses")}
)

LOGITS = torch.tensor([[1.0, -0.5, 0.25], [0.1, 0.3, 0.2]], dtype=torch.float64)
TARGETS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
PAIR = torch.tensor([[0.3, 1.1], [0.4, -0.2]], dtype=torch.float64)
PAIR_TARGETS = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
SCORES = torch.tensor([0.8, -0.6], dtype=torch.float64) / math.sqrt(2)  # y f of PAIR


def test_cross_entropy_with_temperature():
    found = losses.cross_entropy_temperature.loss(LOGITS, TARGETS, tau=4.0)
    theirs = torch.nn.functional.cross_entropy(4 * LOGITS, torch.tensor([0, 2]), reduction="none")
    torch.testing.assert_close(found, theirs)
    torch.testing.assert_close(
        losses.cross_entropy_temperature.loss(LOGITS, TARGETS, tau=1.0),
        losses.cross_entropy.loss(LOGITS, TARGETS),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_equals_torch(smoothing):
    options = TrainingOptions(0.1, 5, loss_options={"label_smoothing": smoothing})
    labels = torch.tensor([0, 2])
    leaves = [LOGITS.clone().requires_grad_() for _ in "ab"]
    found = options.make_loss()(leaves[0], TARGETS)
    theirs = torch.nn.functional.cross_entropy(
        leaves[1], labels, label_smoothing=smoothing, reduction="none"
    )
    torch.testing.assert_close(found, theirs)
    torch.testing.assert_close(
        logit_gradient(options.make_loss(), leaves[0].detach(), TARGETS),
        torch.autograd.grad(theirs.sum(), leaves[1])[0],
    )


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, math.nan])
def test_label_smoothing_is_a_share(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing = .*: allowed are numbers from 0 to 1"):
        losses.cross_entropy.loss(LOGITS, TARGETS, label_smoothing=smoothing)


def test_binary_cross_entropy():
    found = losses.binary_cross_entropy.loss(PAIR, PAIR_TARGETS, tau=4.0)
    torch.testing.assert_close(found, -torch.sigmoid(4 * SCORES).log())
    single = losses.binary_cross_entropy.loss(torch.tensor([[1.0]]), torch.tensor([[1.0]]), tau=4.0)
    assert single.item() == pytest.approx(0.0181499, abs=1e-7)  # softplus(-4)


def test_binary_hinge_kr_and_hkr():
    hinge = losses.binary_hinge.loss(PAIR, PAIR_TARGETS, margin=0.7)
    torch.testing.assert_close(hinge, (0.7 - SCORES).clamp_min(0))
    torch.testing.assert_close(losses.binary_kr.loss(PAIR, PAIR_TARGETS), -SCORES)
    both = losses.binary_hkr.loss(PAIR, PAIR_TARGETS, alpha=5.0, margin=0.7)
    torch.testing.assert_close(both, -SCORES + 5 * hinge)


def test_multiclass_hinge_kr_and_hkr():
    hinge = losses.hinge.loss(LOGITS, TARGETS, margin=1.0)
    torch.testing.assert_close(hinge, torch.tensor([0.25, 1.1], dtype=torch.float64))
    kr = losses.kr.loss(LOGITS, TARGETS)
    torch.testing.assert_close(kr, torch.tensor([-1.125, 0.0], dtype=torch.float64))
    torch.testing.assert_close(losses.hkr.loss(LOGITS, TARGETS, alpha=2.0), kr + 2 * hinge)


def test_two_classes_are_the_binary_case_up_to_the_scale_of_f():
    torch.testing.assert_close(losses.kr.loss(PAIR, PAIR_TARGETS), -math.sqrt(2) * SCORES)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf])
def test_temperature_has_to_be_positive(tau):
    for loss in (losses.cross_entropy_temperature.loss, losses.binary_cross_entropy.loss):
        with pytest.raises(ValueError, match="tau"):
            loss(PAIR, PAIR_TARGETS, tau=tau)


def test_other_options_are_checked():
    for loss in (losses.hkr.loss, losses.binary_hkr.loss):
        with pytest.raises(ValueError, match="alpha = -1"):
            loss(PAIR, PAIR_TARGETS, alpha=-1)
        with pytest.raises(ValueError, match="margin = 0"):
            loss(PAIR, PAIR_TARGETS, alpha=1, margin=0)
    with pytest.raises(ValueError, match="binary"):
        losses.binary_kr.loss(LOGITS, TARGETS)
    with pytest.raises(ValueError, match="two classes"):
        losses.hinge.loss(LOGITS[:, :1], TARGETS[:, :1])


@pytest.mark.filterwarnings("ignore")
def test_against_torchlip():
    torchlip = pytest.importorskip("deel.torchlip")
    y, f = torch.tensor([1.0, -1.0, 1.0]), torch.tensor([0.3, 0.2, 1.5])
    # It divides by tau, and its hinge has the margin m / 2.
    theirs = torchlip.TauBCEWithLogitsLoss(4.0)(f, (y + 1) / 2)
    ours = losses.binary_cross_entropy.loss(f[:, None], y[:, None], tau=4.0).mean()
    torch.testing.assert_close(4 * theirs, ours)
    theirs = torchlip.HingeMarginLoss(2.0)(f, y)
    torch.testing.assert_close(
        theirs, losses.binary_hinge.loss(f[:, None], y[:, None], margin=1.0).mean()
    )


@pytest.mark.filterwarnings("ignore")
def test_hkr_and_several_classes_against_torchlip():
    torchlip = pytest.importorskip("deel.torchlip")
    random = torch.Generator().manual_seed(0)
    f, y = torch.randn(8, 1, generator=random), torch.tensor([1.0, -1.0] * 4)[:, None]
    kr = losses.binary_kr.loss(f, y).mean()
    torch.testing.assert_close(torchlip.KRLoss()(f, y), -2 * kr)  # classes are balanced
    # A convex combination a hinge(m / 2) - (1 - a) (E_P f - E_Q f): 2 (1 - a) times ours.
    theirs = torchlip.HKRLoss(alpha=0.9, min_margin=2.0)(f, y)
    ours = losses.binary_hkr.loss(f, y, alpha=0.9 / (2 * 0.1), margin=1.0).mean()
    torch.testing.assert_close(theirs, 2 * 0.1 * ours)
    logits = torch.randn(8, 4, generator=random)
    targets = torch.nn.functional.one_hot(torch.arange(8) % 4, 4).float()
    theirs = torchlip.TauCrossEntropyLoss(5.0)(logits, targets)  # divided by tau
    ours = losses.cross_entropy_temperature.loss(logits, targets, tau=5.0).mean()
    torch.testing.assert_close(5 * theirs.float(), ours)
    # Its categorical hinge has the whole margin.
    theirs = torchlip.CategoricalHingeLoss(2.0)(logits, targets)
    torch.testing.assert_close(theirs, losses.hinge.loss(logits, targets, margin=2.0).mean())
    theirs = torchlip.KRMulticlassLoss()(logits, targets)
    torch.testing.assert_close(theirs, -losses.kr.loss(logits, targets).mean())
