"""Certificates and attacks against linear classifiers, where both are exact."""

import math

import pytest
import torch
from torch import nn

from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.experiments._fitting import certified, minimise
from lipdescent.measurement import NotApplicable
from lipdescent.plugins import lookup
from lipdescent.robustness import attacks, certificates
from lipdescent.robustness.certificates import CertificateViolation
from lipdescent.robustness.logit_error import logit_error
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.materialise import materialise
from lipdescent.training.draws import initial_stack
from lipdescent.training.losses import hinge


def stack_of(*weights):
    modules = []
    for weight in weights:
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
        linear.weight.data = weight.clone()
        modules.append(nn.Sequential(linear))
    return ModelStack.from_modules(modules, (weights[0].shape[1],))


def opposite(direction):
    """Logits (w x, -w x): the l2 margin radius is exact, norm of the map sqrt 2 |w|."""
    direction = torch.as_tensor(direction, dtype=torch.float64)
    return torch.stack([direction, -direction])


def test_radii_of_a_linear_classifier_are_its_distances_to_the_boundary():
    w = torch.tensor([3.0, 4.0], dtype=torch.float64)
    stack = stack_of(opposite(w), opposite(2 * w))
    x = torch.tensor([[1.0, 0.5], [-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([0, 1, 1])
    radii = certificates.certified_radii(stack, x, y, upper=layer_product(stack), norm="l2")
    exact = torch.stack([x[0] @ w, -x[1] @ w, -x[2] @ w]) / 5
    torch.testing.assert_close(radii, exact.expand(2, 3), rtol=1e-9, atol=0)
    assert (radii <= exact).all()


@pytest.mark.parametrize("name", ["mlp", "lipschitz_mlp", "bilipschitz_resnet", "cnn_batchnorm"])
def test_logits_are_within_their_error(name):
    """Against what float32 computes, whose error is 2^29 times as large."""
    shape = (1, 8, 8) if name == "cnn_batchnorm" else (16,)
    torch.manual_seed(0)
    network = lookup.resolve("architectures", name).build(4, input_shape=shape, num_classes=3)
    state = {n: t[None] for n, t in network.state_dict().items()}
    stack = ModelStack(*materialise(network, state), shape)
    x = 10 * torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    error = logit_error(stack, x)[0]
    single = stack.to(dtype=torch.float32)(x).double() - stack.to(dtype=torch.float64)(x.double())
    assert (single[0].abs().amax(1) <= error * 2.0**29).all()
    assert (error <= 1e-6 * stack.to(dtype=torch.float64)(x.double())[0].abs().amax()).all()


def test_margins_that_cancel_are_not_trusted():
    """Logits of size 1 made of terms of size 2^60: an allowance by their own size is too small."""
    big = 2.0**60
    weight = torch.tensor([[big, -big, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    stack = stack_of(weight)
    x = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    margin = certificates.margins(stack, x, torch.tensor([0])).item()
    assert -(2.0**20) < margin < 0.5  # 0.5 if it were exact
    upper = layer_product(stack)
    radius = certificates.certified_radii(stack, x, torch.tensor([0]), upper=upper, norm="l2")
    assert radius.item() < 0


def test_radii_in_l_inf():
    stack = stack_of(opposite([3.0, 4.0]))
    x = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    upper = layer_product(stack, norm="linf")
    radii = certificates.certified_radii(stack, x, torch.tensor([0]), upper=upper, norm="linf")
    torch.testing.assert_close(radii.item(), 5 / 7, rtol=1e-9, atol=0)


def test_certified_accuracy_and_mean_radius():
    radii = torch.tensor([[0.1, 0.3, -0.2, 0.0]], dtype=torch.float64)
    assert certificates.certified_accuracy(radii, [0.0, 0.1, 0.2]).tolist() == [[0.5, 0.25, 0.25]]
    assert certificates.mean_certified_radius(radii).item() == pytest.approx(0.1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_pgd_is_exact_for_linear_classifiers(norm):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    stack = stack_of(*[opposite(w) for w in weights])
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    y = torch.arange(40) % 2
    margin = (x @ weights.T).T * (1 - 2 * y)
    distance = (
        margin / torch.linalg.vector_norm(weights, ord=2 if norm == "l2" else 1, dim=1)[:, None]
    )
    radii = [0.1, 0.4, 1.0]
    found = attacks.robust(stack, x, y, radii=radii, norm=norm, seed=0)
    for i, radius in enumerate(radii):
        certain = (distance - radius).abs() > 0.02
        assert torch.equal(found[..., i][certain], (distance > radius)[certain])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_every_point_that_is_judged_lies_in_its_ball(norm, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    stack = stack_of(*[opposite(w) for w in torch.randn(3, 5, generator=generator).double()])
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    judge, judged = attacks._right, []

    def all_stand(stack, points, labels):  # so that no point is left out
        judged.append(points)
        return torch.ones_like(judge(stack, points, labels))

    monkeypatch.setattr(attacks, "_right", all_stand)
    attacks.robust(stack, x, torch.arange(40) % 2, radii=[0.1, 0.4, 1.0], norm=norm, seed=0)
    order = 2 if norm == "l2" else math.inf
    sizes = [torch.linalg.vector_norm(points - x, ord=order, dim=-1).max() for points in judged]
    assert sizes[0] == 0
    for size, radius in zip(sizes[1:], [0.1, 0.4, 1.0], strict=True):
        assert 0.99 * radius < size <= radius


def measured(stack, upper, **options):
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = (x @ torch.tensor([3.0, 4.0], dtype=torch.float64) < 0).long()
    found = certificates.measure(
        stack,
        inputs={"test": x},
        labels={"test": y},
        upper=upper,
        radii={"l2": [0.1, 0.5], "linf": [0.1]},
        seed=0,
        **options,
    )
    return {(m.quantity, m.norm): m.values for m in found}


def test_measure_orders_certified_below_pgd_below_clean():
    stack = stack_of(opposite([3.0, 4.0]), opposite([4.0, 3.0]))
    upper = {norm: layer_product(stack, norm=norm) for norm in ("l2", "linf")}
    found = measured(stack, upper)
    for norm, radius in (("l2", "0"), ("l2", "0.1"), ("l2", "0.5"), ("linf", "0.1")):
        certified = found[f"certified_accuracy@{radius}", norm]
        assert (certified <= found[f"pgd_accuracy@{radius}", norm]).all()
    assert (found["certified_accuracy@0.5", "l2"] < found["certified_accuracy@0.1", "l2"]).all()
    assert found["mean_certified_radius", "l2"][0] > found["mean_certified_radius", "l2"][1]


def test_accuracy_at_radius_zero_is_the_accuracy():
    stack = stack_of(opposite([3.0, 4.0]), opposite([4.0, -3.0]))
    found = measured(stack, {"l2": layer_product(stack)})
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    right = (x @ torch.tensor([[3.0, 4.0], [4.0, -3.0]], dtype=torch.float64).T > 0).T
    labelled_first = x @ torch.tensor([3.0, 4.0], dtype=torch.float64) > 0
    accuracy = (right == labelled_first).double().mean(1)
    torch.testing.assert_close(found["pgd_accuracy@0", "l2"], accuracy)
    torch.testing.assert_close(found["certified_accuracy@0", "l2"], accuracy)


def test_each_model_may_have_its_own_labels():
    stack = stack_of(opposite([3.0, 4.0]), opposite([6.0, 8.0]))
    x = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    own = torch.tensor([[0], [1]])
    radii = certificates.certified_radii(stack, x, own, upper=layer_product(stack), norm="l2")
    torch.testing.assert_close(radii[:, 0], torch.tensor([1.0, -1.0]).double(), rtol=1e-9, atol=0)


def test_a_wrong_upper_bound_is_found_by_the_attack():
    stack = stack_of(opposite([3.0, 4.0]))
    with pytest.raises(CertificateViolation, match="certified in l2"):
        measured(stack, {"l2": layer_product(stack) / 3})


def test_without_an_upper_bound_there_is_a_status_not_a_number():
    with pytest.raises(NotApplicable, match="no certified upper bound"):
        measured(stack_of(opposite([3.0, 4.0])), {})


def test_bad_input_is_named():
    stack = stack_of(opposite([3.0, 4.0]))
    x, y = torch.ones(2, 2, dtype=torch.float64), torch.tensor([0, 1])
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="norm 'l1'"):
        certificates.certified_radii(stack, x, y, upper=one, norm="l1")
    with pytest.raises(ValueError, match="upper"):
        certificates.certified_radii(stack, x, y, upper=-one, norm="l2")
    with pytest.raises(ValueError, match="upper"):
        certificates.certified_radii(stack, x, y, upper=one * torch.nan, norm="l2")
    with pytest.raises(ValueError, match="equally many"):
        certificates.certified_radii(stack, x, y[:1], upper=one, norm="l2")
    with pytest.raises(ValueError, match="radius = -1"):
        attacks.robust(stack, x, y, radii=[-1.0], norm="l2", seed=0)
    with pytest.raises(ValueError, match="steps = 0"):
        attacks.robust(stack, x, y, radii=[1.0], norm="l2", seed=0, steps=0)
    with pytest.raises(ValueError, match="increasing"):
        attacks.robust(stack, x, y, radii=[0.2, 0.1], norm="l2", seed=0)


GROUPSORT = {
    "l2": {"constraint": "bjorck", "constant": 3.0},
    "every layer": {"constraint": "spectral", "constant": 1.3, "group_size": None},
    "linf": {"constraint": "l1_rows", "constant": 10.0},
    "none": {"constraint": "none", "activation": "relu"},
}


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", GROUPSORT)
def test_no_certificate_of_a_trained_classifier_is_beaten(name, norm):
    """Three classes on a circle; attacks of nearly the largest, and of more than any, radius."""
    build = lookup.resolve("architectures", "lipschitz_mlp").build
    random = torch.Generator().manual_seed(0)
    x = torch.randn(90, 2, generator=random)
    y = (torch.atan2(x[:, 0], x[:, 1]) * 3 / (2 * math.pi) + 1.5).long().clamp(0, 2)

    def make():
        return build(8, input_shape=(2,), num_classes=3, depth=2, **GROUPSORT[name])

    stack = minimise(
        initial_stack(make, [0, 1], (2,)),
        lambda forward, step: hinge.loss(
            forward(x.expand(2, -1, -1)), nn.functional.one_hot(y, 3).expand(2, -1, -1)
        ).mean(1),
        steps=100,
        learning_rate=0.02,
    )
    stack = certified(stack)
    upper = layer_product(stack, norm=norm)
    radius = certificates.certified_radii(stack, x, y, upper=upper, norm=norm)
    levels = [0.0, *(radius.max().item() * share for share in (0.1, 0.3, 0.9)), 5.0]
    standing = attacks.robust(stack, x, y, radii=levels, norm=norm, seed=0, steps=30)
    certificates.check_attacks(radius, standing, levels, norm=norm)
    share = (radius[..., None] > torch.tensor(levels)).double().mean(1)
    assert (share <= standing.double().mean(1)).all()
    assert (share[:, 1] > 0.1).all(), "some points are certified"
    assert standing[..., -1].double().mean() < 0.5, "the attack can do something"
