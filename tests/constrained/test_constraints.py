"""Constraints hold whatever the weights are, and against closed forms."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from lipdescent.architectures import bilipschitz_resnet, lipschitz_cnn, lipschitz_mlp, wide_resnet
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.constrained import constraints, norms, retractions
from lipdescent.constrained.constraints import bjorck, bjorck_by_products, project_l1_rows
from lipdescent.constrained.layers import GroupSort, InvertibleDownsampling, LimitedBatchNorm1d
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.materialise import materialise
from lipdescent.training.draws import initial_stack
from lipdescent.training.engines.stacked_autograd import StackedAutograd
from lipdescent.training.losses.cross_entropy import loss as cross_entropy

COMMON = settings(deadline=None, derandomize=True, max_examples=20)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(stack):
    return ModelStack(*materialise(stack.module, stack.state), stack.input_shape)


# Björck


@pytest.mark.parametrize(("order", "count"), [(1, 15), (2, 10), (3, 8), (4, 7)])
def test_bjorck_counts_from_a_hundredth(order, count):
    # Beside a singular value of 1 the pre-scaling leaves 0.01 as it is.
    weight = torch.diag(torch.tensor([1.0, 0.01], dtype=torch.float64))

    def error(iterations):
        found = bjorck(weight, order=order, iterations=iterations)
        return (1 - torch.linalg.svdvals(found)).max().item()

    assert error(count) <= 1e-6 < error(count - 1)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(7, 5), (5, 5), (3, 8)])
def test_bjorck_converges_to_the_polar_factor(order, shape):
    weight = normal(*shape)
    u, _, v = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(bjorck(weight, order=order, iterations=40), u @ v)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_both_ways_to_iterate_agree_in_value_and_gradient(order, iterations):
    weight = normal(3, 7, 5).requires_grad_()
    direction = normal(3, 7, 5, seed=1)
    by_eigenvalues = vmap(lambda w: bjorck(w, order=order, iterations=iterations))(weight)
    scaled = weight / constraints._scale(weight.detach())
    by_products = bjorck_by_products(scaled, order=order, iterations=iterations)
    torch.testing.assert_close(by_eigenvalues, by_products)
    gradients = [
        torch.autograd.grad((w * direction).sum(), weight)[0] for w in (by_eigenvalues, by_products)
    ]
    torch.testing.assert_close(*gradients)


def test_gradient_of_the_converged_iteration_is_that_of_the_polar_factor():
    # d polar(W)[E] for square W: U (K o U^T E V - its transpose) V^T, K = 1 / (s_i + s_j).
    weight, direction = normal(4, 4).requires_grad_(), normal(4, 4, seed=1)
    u, s, vh = torch.linalg.svd(weight.detach())
    inner = u.T @ direction @ vh.T
    exact = u @ ((inner - inner.T) / (s[:, None] + s[None])) @ vh
    (found,) = torch.autograd.grad((bjorck(weight, iterations=40) * direction).sum(), weight)
    torch.testing.assert_close(found, exact)


def test_gradient_at_orthonormal_weights_is_finite():
    weight = torch.eye(5, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad((bjorck(weight) * normal(5, 5)).sum(), weight)
    assert gradient.isfinite().all()


def test_order_one_diverges_beyond_root_five_without_the_scaling():
    for start, converges in ((2.2, True), (2.3, False)):
        sigma = torch.tensor([[start]], dtype=torch.float64)
        end = bjorck_by_products(sigma, order=1, iterations=12).abs().item()
        assert (abs(end - 1) < 1e-3) == converges


@COMMON
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    exponent=st.integers(-30, 30),
    rank_one=st.booleans(),
    order=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_bjorck_never_exceeds_one(shape, exponent, rank_one, order, seed):
    weight = normal(*shape, seed=seed) * 10.0**exponent
    if rank_one:
        weight = weight[:, :1] @ weight[:1] / 10.0**exponent
    for dtype, slack in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        found = bjorck(weight.to(dtype), order=order, iterations=6)
        assert torch.linalg.svdvals(found.double()).max() <= 1 + slack


def test_zero_weights_stay_zero():
    assert (bjorck(torch.zeros(3, 2)) == 0).all()
    assert (constraints.Spectral(soft=False)(torch.zeros(3, 2)) == 0).all()


@pytest.mark.parametrize("options", [{"order": 0}, {"order": 5}, {"iterations": -1}])
def test_bjorck_rejects(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        bjorck(torch.eye(2), **options)


# Norms


@COMMON
@given(
    shape=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    exponent=st.integers(-25, 25),
    seed=st.integers(0, 100),
)
def test_gram_iteration_is_an_upper_bound_within_its_factor(shape, exponent, seed):
    weight = normal(*shape, seed=seed) * 10.0**exponent
    exact = torch.linalg.matrix_norm(weight, ord=2)
    bound = norms.spectral_bound(weight)
    assert exact * (1 - 1e-12) <= bound <= exact * min(shape) ** (1 / 128) * (1 + 1e-12)
    assert norms.simple_bound(weight, weight.T @ weight) >= exact * (1 - 1e-12)


def test_gradient_of_the_norm_is_the_outer_product_of_singular_vectors():
    weight = normal(6, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(norms.spectral_bound(weight, iterations=12), weight)
    u, _, vh = torch.linalg.svd(weight.detach())
    torch.testing.assert_close(gradient, torch.outer(u[:, 0], vh[0]), atol=2e-4, rtol=0)


def dense(convolution, shape):
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    return convolution(basis).flatten(1).T


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (2, 5, 4, 3)])
def test_largest_of_many_and_its_gradient(shape):
    """As the largest of all of them by autograd, of stacks, complex, and under vmap."""
    blocks = torch.complex(normal(*shape), normal(*shape, seed=1)).requires_grad_()
    weights = torch.tensor([2.0, 3.0], dtype=torch.float64)
    expected = norms.spectral_bound(blocks).amax(-1)
    (wanted,) = torch.autograd.grad((weights * expected).sum(), blocks)
    for function in (norms.largest_spectral_bound, vmap(norms.largest_spectral_bound)):
        found = function(blocks)
        (gradient,) = torch.autograd.grad((weights * found).sum(), blocks)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_convolution_bound_against_the_dense_operator(mode, dims, padding):
    if mode == "circular" and padding != 1:
        return
    kind = (torch.nn.Conv1d, torch.nn.Conv2d)[dims - 1]
    conv = kind(3, 4, 3, padding=padding, padding_mode=mode, bias=False, dtype=torch.float64)
    sizes = (6,) if dims == 1 else (6, 5)
    conv.weight.data = normal(*conv.weight.shape)
    exact = torch.linalg.matrix_norm(dense(conv, (3, *sizes)).detach(), ord=2)
    bound = norms.convolution_bound(
        conv.weight, sizes=sizes, padding=conv.padding, circular=mode == "circular"
    )
    worst = 3 ** (1 / 128) * (1.0 if mode == "circular" else 1.25)
    assert exact * (1 - 1e-12) <= bound <= exact * worst


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("taps", [1, 3, 5])
def test_strided_convolution_bound_against_the_dense_operator(mode, stride, taps):
    """Of the layer with its stride: as tight as without, and at most what it is without."""
    sizes = (6, 12)
    conv = torch.nn.Conv2d(
        3, 2, taps, stride, taps // 2, padding_mode=mode, bias=False, dtype=torch.float64
    )
    conv.weight.data = normal(*conv.weight.shape)
    exact = torch.linalg.matrix_norm(dense(conv, (3, *sizes)).detach(), ord=2)
    own = {"sizes": sizes, "padding": conv.padding, "circular": mode == "circular"}
    bound = norms.convolution_bound(conv.weight, stride=stride, **own)
    worst = 3 ** (1 / 128) * (1.0 if mode == "circular" else 1.35)
    assert exact * (1 - 1e-12) <= bound <= exact * worst
    assert bound <= norms.convolution_bound(conv.weight, **own) * (1.0 + 1e-12) * worst


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_bound_where_padding_makes_the_output_larger(mode, stride):
    """Circular outputs repeat then: the torus alone bounds nothing."""
    for size, taps, padding in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2)):
        if size + 2 * padding < taps or (mode == "circular" and padding > size):
            continue
        own = stride if mode == "zeros" or size % stride == 0 else 1
        layer = torch.nn.Conv2d(2, 3, taps, stride, padding, padding_mode=mode, bias=False).double()
        with torch.no_grad():
            layer.weight.abs_()
            exact = torch.linalg.matrix_norm(dense(layer, (2, size, size)), 2)
            bound = norms.convolution_bound(
                layer.weight,
                sizes=(size, size),
                padding=layer.padding,
                circular=mode == "circular",
                stride=own,
            )
        assert exact <= bound * (1 + 1e-12), (size, taps, padding)


# Spectral normalisation, projections


def test_soft_and_hard_normalisation():
    small, large = 0.5 * torch.eye(3), 4 * torch.eye(3)
    soft, hard = constraints.Spectral(constant=2.0), constraints.Spectral(constant=2.0, soft=False)
    assert torch.equal(soft(small), small)
    factor = 3 ** (1 / 128)
    torch.testing.assert_close(soft(large), 2 / factor * torch.eye(3))
    torch.testing.assert_close(hard(small), 2 / factor * torch.eye(3))


def test_a_row_inside_the_l1_ball_does_not_move():
    row = torch.tensor([[0.5, -0.3, 0.0]], dtype=torch.float64)
    assert torch.equal(project_l1_rows(row), row)


@COMMON
@given(columns=st.integers(1, 7), scale=st.floats(0.01, 100), seed=st.integers(0, 100))
def test_projection_is_the_nearest_point(columns, scale, seed):
    rows = normal(4, columns, seed=seed) * scale
    found = project_l1_rows(rows)
    assert (found.abs().sum(1) <= 1 + 1e-12).all()
    # <x - p, y - p> <= 0 for every y of the ball; its vertices suffice.
    vertices = torch.cat([torch.eye(columns), -torch.eye(columns)]).double()
    inner = ((rows - found)[:, None] * (vertices[None] - found[:, None])).sum(-1)
    assert inner.max() <= 1e-9 * max(1.0, scale)


@pytest.mark.parametrize("constant", [0.0, -1.0, math.inf, math.nan])
def test_constants_have_to_be_positive(constant):
    with pytest.raises(ValueError, match="positive"):
        constraints.Spectral(constant=constant)
    with pytest.raises(ValueError, match="positive"):
        LimitedBatchNorm1d(3, constant=constant)


def test_unsupported_convolutions_are_named():
    circular = {"padding": 1, "padding_mode": "circular"}
    with pytest.raises(ValueError, match=r"stride \(2,\) on \(7,\): .*divisor of the sizes"):
        constraints.SpectralConvolution(torch.nn.Conv1d(1, 1, 3, stride=2, **circular), (7,))
    with pytest.raises(ValueError, match=r"stride \(2, 1\)"):
        constraints.SpectralConvolution(torch.nn.Conv2d(1, 1, 3, stride=(2, 1)), (8, 8))
    with pytest.raises(ValueError, match="dilation"):
        constraints.SpectralConvolution(torch.nn.Conv1d(1, 1, 3, dilation=2), (8,))
    with pytest.raises(ValueError, match="sizes"):
        constraints.SpectralConvolution(torch.nn.Conv1d(1, 1, 3), (8, 8))
    with pytest.raises(TypeError, match="Linear"):
        constraints.SpectralConvolution(torch.nn.Linear(1, 1), (8,))


# Activations


def test_group_sort():
    x = torch.tensor([[3.0, 1.0, 2.0, 5.0, 4.0, 0.0]])
    assert GroupSort(2)(x).tolist() == [[1.0, 3.0, 2.0, 5.0, 0.0, 4.0]]
    assert GroupSort(3)(x).tolist() == [[1.0, 2.0, 3.0, 0.0, 4.0, 5.0]]
    assert GroupSort(None)(x).tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
    image = normal(2, 6, 3, 3)
    assert torch.equal(GroupSort(2)(image)[:, :, 1, 2], GroupSort(2)(image[:, :, 1, 2]))
    with pytest.raises(ValueError, match="does not divide 6"):
        GroupSort(4)(x)
    with pytest.raises(ValueError, match="group size = 0"):
        GroupSort(0)
    with pytest.raises(ValueError, match="does not divide width = 7"):
        lipschitz_mlp.build(7, input_shape=(4,), num_classes=2)


@pytest.mark.parametrize("size", [1, 2, 3, None])
def test_group_sort_keeps_gradient_norms(size):
    x = normal(6)
    jacobian = torch.autograd.functional.jacobian(lambda v: GroupSort(size)(v[None])[0], x)
    torch.testing.assert_close(jacobian @ jacobian.T, torch.eye(6, dtype=torch.float64))


def test_invertible_downsampling():
    image = normal(2, 3, 4, 6)
    torch.testing.assert_close(
        InvertibleDownsampling(2)(image), torch.nn.functional.pixel_unshuffle(image, 2)
    )
    signal = torch.arange(4.0).view(1, 1, 4)
    assert InvertibleDownsampling(2)(signal).tolist() == [[[0.0, 2.0], [1.0, 3.0]]]
    with pytest.raises(ValueError, match="does not divide"):
        InvertibleDownsampling(3)(signal)


def test_limited_batch_norm():
    layer = LimitedBatchNorm1d(2, constant=0.5).eval()
    layer.running_var.copy_(torch.tensor([1.0, 0.25]))
    slopes = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0], torch.zeros(2))
    torch.testing.assert_close(slopes.diagonal(), torch.tensor([0.25, 0.5]), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("soft", "largest"), [(True, 0.2), (False, 3.0)])
def test_hard_normalisation_of_batch_norm_reaches_its_constant(soft, largest):
    layer = LimitedBatchNorm1d(2, constant=3.0, soft=soft).eval()
    layer.weight.data = torch.tensor([0.2, -0.1])
    state = {name: t[None] for name, t in layer.state_dict().items()}
    module, state = materialise(layer, state)
    found = layer_product(ModelStack(module, state, (2,))).item()
    assert found == pytest.approx(largest, rel=1e-4)
    assert found <= 3
    slopes = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0], torch.zeros(2))
    assert slopes.abs().max().item() == pytest.approx(largest, rel=1e-4)


# Networks: constants, certified, at any time

NETWORKS = {
    "bjorck": (lambda: lipschitz_mlp.build(8, input_shape=(6,), num_classes=3, depth=2), (6,)),
    "fullsort": (
        lambda: lipschitz_mlp.build(8, input_shape=(6,), num_classes=3, group_size=None),
        (6,),
    ),
    "cayley": (
        lambda: lipschitz_mlp.build(8, input_shape=(6,), num_classes=3, constraint="cayley"),
        (6,),
    ),
    "spectral": (
        lambda: lipschitz_mlp.build(8, input_shape=(6,), num_classes=3, constraint="spectral"),
        (6,),
    ),
    "spectral_hard": (
        lambda: lipschitz_mlp.build(8, input_shape=(6,), num_classes=3, constraint="spectral_hard"),
        (6,),
    ),
    "l1_rows": (
        lambda: lipschitz_mlp.build(8, input_shape=(6,), num_classes=3, constraint="l1_rows"),
        (6,),
    ),
    "cnn": (lambda: lipschitz_cnn.build(2, input_shape=(1, 8, 8), num_classes=3), (1, 8, 8)),
}


def certified_constant(name, stack):
    """Of the norm that the constraint bounds."""
    return layer_product(stack, norm="linf" if name == "l1_rows" else "l2")


CONVOLUTIONAL = {
    "cnn": NETWORKS["cnn"],
    "circular": (
        lambda: bilipschitz_resnet.build(2, input_shape=(8,), num_classes=3, coefficient=0.5),
        (8,),
    ),
    "circular images": (
        lambda: bilipschitz_resnet.build(
            2, input_shape=(1, 8, 4), num_classes=3, stages=2, coefficient=0.5, batchnorm=True
        ),
        (1, 8, 4),
    ),
    "strided": (
        lambda: bilipschitz_resnet.build(
            2, input_shape=(1, 8, 4), num_classes=3, stages=2, coefficient=0.5, batchnorm=True,
            downsampling="strided",
        ),
        (1, 8, 4),
    ),
    "wide": (
        lambda: wide_resnet.build(
            1, input_shape=(1, 8, 8), num_classes=3, depth=10, coefficient=0.5
        ),
        (1, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_gradients_of_a_stack_are_those_of_its_models(name):
    build, shape = CONVOLUTIONAL[name]
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(build().double().train())
    stack = ModelStack.from_modules(models, shape)
    for name, constraint in retractions(stack.module).items():
        # Gradients are taken at the raw weights that a step begins with: orthonormal ones.
        constraint.retract_(stack.state[name])
        for i, model in enumerate(models):
            model.get_parameter(name).data.copy_(stack.state[name][i])
    inputs = normal(2, 6, *shape)
    labels = torch.arange(6) % 3
    targets = torch.nn.functional.one_hot(labels, 3).double().expand(2, -1, -1)
    engine = StackedAutograd(stack.module, stack.state, cross_entropy)
    buffers = [torch.zeros_like(p) for p in engine.parameters]
    engine.accumulate(buffers, inputs, targets, decay=0.0)
    names = [n for n in stack.state if n in dict(models[0].named_parameters())]
    found = dict(zip(names, buffers, strict=True))
    for i, model in enumerate(models):
        torch.nn.functional.cross_entropy(model.train()(inputs[i]), labels).backward()
        for parameter, own in model.named_parameters():
            torch.testing.assert_close(found[parameter][i], own.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_networks_are_certified_one_lipschitz_at_any_scale(name, scale):
    build, shape = NETWORKS[name]
    stack = initial_stack(build, [0, 1], shape)
    for key, tensor in stack.state.items():
        if key.endswith("original") and not (name == "cayley" and scale > 1):
            tensor.mul_(scale)
    found = plain(stack)
    assert (certified_constant(name, found) <= 1).all()
    x = normal(5, *shape, dtype=torch.float32)
    torch.testing.assert_close(found(x.double()), stack(x).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_after_every_step_the_norm_is_certified_and_eval_uses_the_new_weights(name):
    build, shape = NETWORKS[name]
    stack = initial_stack(build, [0, 1], shape)
    engine = StackedAutograd(stack.module, stack.state, cross_entropy)
    inputs = normal(2, 10, *shape, dtype=torch.float32)
    targets = torch.nn.functional.one_hot(torch.arange(10) % 3, 3).float().expand(2, -1, -1)
    before = stack(inputs[0])
    for _ in range(3):
        buffers = [torch.zeros_like(p) for p in engine.parameters]
        engine.accumulate(buffers, inputs, targets, decay=0.0)
        assert all(b.isfinite().all() for b in buffers)
        for parameter, buffer in zip(engine.parameters, buffers, strict=True):
            parameter.sub_(buffer, alpha=3.0)
        now = ModelStack(stack.module, engine.state(), shape)
        found = plain(now)
        assert (certified_constant(name, found) <= 1).all()
        after = now(inputs[0])
        torch.testing.assert_close(found(inputs[0].double()), after.double(), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(before, after)
        before = after


def test_l_inf_network_is_certified_in_l_inf():
    stack = initial_stack(
        lambda: lipschitz_mlp.build(
            8, input_shape=(6,), num_classes=3, constraint="l1_rows", constant=2.0
        ),
        [0],
        (6,),
    )
    assert layer_product(plain(stack), norm="linf") <= 2


def test_constant_scales_the_network():
    stack = initial_stack(
        lambda: lipschitz_mlp.build(8, input_shape=(6,), num_classes=8, constant=3.0), [0], (6,)
    )
    assert 3 - 1e-4 < layer_product(plain(stack)) <= 3


def test_isometry_of_a_deep_group_sort_network():
    stack = initial_stack(
        lambda: lipschitz_mlp.build(64, input_shape=(64,), num_classes=64, depth=5), [0], (64,)
    )
    found = plain(stack)

    def network(x):
        return found(x[None])[0, 0]

    jacobian = torch.autograd.functional.jacobian(network, normal(64))
    values = torch.linalg.svdvals(jacobian)
    torch.testing.assert_close(values, torch.ones_like(values), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("normalisation", "scale"), [("soft", 10.0), ("hard", 0.1)])
def test_bilipschitz_resnet_respects_its_coefficient(normalisation, scale):
    stack = initial_stack(
        lambda: bilipschitz_resnet.build(
            4,
            input_shape=(16,),
            num_classes=3,
            coefficient=0.8,
            batchnorm=True,
            normalisation=normalisation,
        ),
        [0],
        (16,),
    )
    for key, tensor in stack.state.items():
        if key.endswith("original") or key.endswith("0.weight"):
            tensor.mul_(scale)
    module, state = materialise(stack.module, stack.state)
    for path, layer in module.named_modules():
        if isinstance(layer, torch.nn.Conv1d) and layer.kernel_size == (3,):
            size = {"2": 16, "3": 16, "5": 8, "6": 8, "8": 4, "9": 4}[path.split(".")[0]]
            conv = torch.nn.Conv1d(
                4, 4, 3, padding=1, padding_mode="circular", bias=False, dtype=torch.float64
            )
            conv.weight.data = state[f"{path}.weight"][0]
            norm = torch.linalg.matrix_norm(dense(conv, (4, size)).detach(), ord=2)
            assert 0.75 < norm <= 0.8
        if type(layer) is torch.nn.BatchNorm1d:
            slope = state[f"{path}.weight"] / (state[f"{path}.running_var"] + layer.eps).sqrt()
            assert 0.8 * (1 - 1e-6) < slope.abs().max() <= 0.8


def test_diverged_models_are_named_and_get_nan(caplog):
    build, shape = NETWORKS["bjorck"]
    stack = initial_stack(build, [0, 1], shape)
    stack.state["0.parametrizations.weight.original"][1, 0, 0] = torch.nan
    found = plain(stack)
    assert found.finite().tolist() == [True, False]
    assert "0: raw weights of models [1]" in caplog.text


def test_unconstrained_networks_come_back_as_they_are():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    state = {name: t[None] for name, t in module.state_dict().items()}
    assert materialise(module, state) == (module, state)


@pytest.mark.parametrize("activation", ["relu", "groupsort"])
def test_without_a_constraint_it_is_pytorchs_network(activation):
    options = {"depth": 2, "constraint": "none", "activation": activation, "dropout": 0.3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = lipschitz_mlp.build(8, input_shape=(6,), num_classes=3, **options)
        torch.manual_seed(0)
        sort = torch.nn.ReLU() if activation == "relu" else GroupSort(2)
        parts = [torch.nn.Linear(6, 8), sort, torch.nn.Dropout(0.3)]
        parts += [torch.nn.Linear(8, 8), sort, torch.nn.Dropout(0.3), torch.nn.Linear(8, 3)]
        plain = torch.nn.Sequential(*parts)
    assert str(found) == str(plain)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    with pytest.raises(ValueError, match=r"constant = 2\.0: without a constraint nothing holds it"):
        lipschitz_mlp.build(8, input_shape=(6,), num_classes=3, constraint="none", constant=2.0)


@pytest.mark.parametrize("option", [{"constraint": "x"}, {"activation": "x"}])
def test_unknown_options_are_named(option):
    with pytest.raises(ValueError, match="allowed are"):
        lipschitz_mlp.build(4, input_shape=(4,), num_classes=2, **option)


@pytest.mark.filterwarnings("ignore")
def test_against_torchlip():
    torchlip = pytest.importorskip("deel.torchlip")
    x = normal(3, 6, dtype=torch.float32)
    torch.testing.assert_close(torchlip.GroupSort2()(x), GroupSort(2)(x))
    torch.testing.assert_close(torchlip.FullSort()(x), GroupSort(None)(x))
    # Its MaxMin is the concatenation of max(x, 0) and max(-x, 0): another function.
    assert torchlip.MaxMin()(x).shape[1] == 12
    image = normal(2, 3, 4, 6)
    found = InvertibleDownsampling(2)(image)
    torch.testing.assert_close(torchlip.InvertibleDownSampling(2)(image), found)
    # It takes a matrix that is scaled already.
    weight = normal(6, 4)
    scaled = weight / torch.linalg.matrix_norm(weight, ord=2)
    theirs = torchlip.normalizers.bjorck_normalization(scaled, eps=1e-10, maxiter=60)
    torch.testing.assert_close(bjorck(weight, iterations=60), theirs)
