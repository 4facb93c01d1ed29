"""Calling a network is compared with what is read of it: hostile networks of many kinds."""

import itertools
import math
import random
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from lipdescent.architectures._blocks import Residual
from lipdescent.bracketing import foreign_network
from lipdescent.bracketing.bracket import bracket
from lipdescent.bracketing.ends import best
from lipdescent.layers.table import TABLE
from lipdescent.networks import operations
from lipdescent.networks.expressions import chain
from lipdescent.stacks.model_stack import ModelStack, tensors
from lipdescent.stacks.own_call import FEW_SCALES, SCALES, random_inputs
from lipdescent.structure.rebuilt import evaluate, rebuilt
from lipdescent.training.draws import initial_stack

BOTH = ["lower_jacobian", "upper_layer_product"]
CHANGED = "differ by .* at outputs up to .*, inputs of size .*hook"


def drawn(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def plain():
    return drawn(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))


class Declared(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        return torch.relu(self.inner(x))

    def lipschitz_structure(self):
        return chain(self.inner, nn.ReLU())


def measured(net, methods=BOTH, shape=(4,), **options):
    few = torch.randn(4, *shape, generator=torch.Generator().manual_seed(5))
    return bracket(net, shape, methods=methods, **{"data": few, "budget": 1e6} | options).table


def refusal(net, error=ValueError, **options):
    """What the refusal of a network says."""
    with pytest.raises(error) as caught:
        measured(net, **options)
    return str(caught.value)


def truth(*matrices):
    """Norm of a product of matrices of float32 weights, in numpy."""
    product = np.eye(matrices[0].shape[1])
    for matrix in matrices:
        product = matrix.detach().double().numpy() @ product
    return np.linalg.svd(product)[1][0]


@pytest.mark.parametrize("build", [plain, lambda: drawn(Declared)])
@pytest.mark.parametrize("methods", [BOTH, BOTH[:1], ["upper_lipsdp"]])
def test_global_hooks_that_change_outputs_are_noticed(build, methods):
    if build is not plain and methods == ["upper_lipsdp"]:
        methods = BOTH
    hooks = [
        torch_module.register_module_forward_hook(
            lambda m, _, out: 10 * out if isinstance(m, nn.Linear) else out
        ),
        torch_module.register_module_forward_pre_hook(
            lambda m, args: (args[0] * (1 + 1e-5),) if isinstance(m, nn.Linear) else None
        ),
    ]
    while hooks:
        assert re.search(CHANGED, refusal(build(), methods=methods))
        hooks.pop().remove()
    assert measured(build(), methods).status.eq("ok").all()


def test_a_global_hook_that_changes_nothing_is_no_alarm():
    seen = []
    hook = torch_module.register_module_forward_hook(lambda m, *_: seen.append(m))
    try:
        assert measured(plain()).status.eq("ok").all()
    finally:
        hook.remove()
    assert seen


# Not torch's own that it does not call from there: Module's forward, and _wrapped_call_impl of
# anything but a layer, as __call__ is bound to Module's.
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *itertools.product([nn.Linear, nn.Sequential], ["_call_impl", "forward", "__call__"]),
        (nn.Linear, "_wrapped_call_impl"),
        (nn.Module, "_call_impl"),
        (nn.Module, "__call__"),
    ],
)
def test_a_replaced_call_of_a_class_is_noticed(monkeypatch, name, kind):
    net, original = plain(), getattr(kind, name)
    monkeypatch.setattr(
        kind, name, lambda self, *x: original(self, *x) * (2 if isinstance(self, nn.Linear) else 3)
    )
    assert re.search("differ by|replaced on the class", refusal(net))


def follows_the_call(net, shape=(4,)):
    """Whether the bracket is that of what calling gives: around its Jacobians, and attained."""
    frame = measured(net, ["exact_enumeration", "upper_layer_product", "lower_jacobian"], shape)
    points = torch.randn(500, *shape, generator=torch.Generator().manual_seed(8))
    slopes = torch.stack([torch.autograd.functional.jacobian(net, x) for x in points])
    largest = float(torch.linalg.matrix_norm(slopes.double(), 2).max())
    lower, upper = best(frame)
    return lower <= upper and largest <= upper * (1 + 1e-5) and lower <= 1.5 * largest


@pytest.mark.parametrize("name", ["_call_impl", "_wrapped_call_impl"])
def test_a_replaced_call_of_an_instance_is_what_is_measured(name):
    net = plain()
    old = net[0].forward
    setattr(net[0], name, lambda x: 100 * old(x))
    assert follows_the_call(net)


def test_a_compiled_call_that_is_another_is_noticed():
    net = plain()
    old = net[0].forward
    net[0]._compiled_call_impl = lambda x: 100 * old(x)
    assert re.search("replaced on the instance|differ by", refusal(net))


class Halved(nn.Sequential):
    def state_dict(self, *args, **kwargs):
        return {name: t / 2 for name, t in super().state_dict(*args, **kwargs).items()}


class Extra(nn.Sequential):
    def get_extra_state(self):
        return {"anything": 1}

    def set_extra_state(self, state):
        del state


@pytest.mark.parametrize("kind", [Halved, Extra, "post hook", "pre hook"])
def test_weights_are_parameters_and_buffers_whatever_the_state_dict_says(kind):
    net = drawn(lambda: (nn.Sequential if isinstance(kind, str) else kind)(nn.Linear(4, 3)))
    if kind == "post hook":
        net.register_state_dict_post_hook(
            lambda _, state, *__: state.update({k: t / 2 for k, t in state.items()})
        )
    if kind == "pre hook":
        net.register_state_dict_pre_hook(lambda m, *_: m[0].bias.data.zero_())
    lower, upper = best(measured(net))
    norm = truth(net[0].weight)
    assert lower <= norm <= upper
    assert lower == pytest.approx(norm, rel=1e-9)
    assert upper == pytest.approx(norm, rel=1e-9)


def test_tensors_are_those_of_state_dict_and_what_it_leaves_out():
    net = drawn(lambda: nn.Sequential(nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2), Declared()))
    assert list(tensors(net)) == list(net.state_dict())
    net.register_buffer("kept", torch.ones(2), persistent=False)
    assert set(tensors(net)) - set(net.state_dict()) == {"kept"}


def test_a_file_of_weights_holds_no_extra_state(tmp_path):
    net = drawn(lambda: nn.Sequential(Extra(nn.Linear(4, 3))))
    save_file({n: t.detach() for n, t in tensors(net).items()}, tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError, match=r"(?s)w\.safetensors: .*; 0: what get_extra_state keeps no"
    ):
        foreign_network._load_weights(net, str(tmp_path / "w.safetensors"))


def hidden_weight(net):
    object.__setattr__(net[0], "weight", 50 * torch.ones(5, 4))


def hidden_module(net):
    vars(net)["1"] = nn.Tanh()


def hooked_linear(net):
    net[0].register_forward_hook(lambda *_: None)


def weight_of_another_class(net):
    class Times(nn.Parameter):
        pass

    net[0].register_parameter("weight", Times(net[0].weight.data))


@pytest.mark.parametrize("change", [hidden_weight, hidden_module, hooked_linear])
def test_what_hides_weights_is_measured_as_it_is_called(change):
    net = plain()
    change(net)
    assert follows_the_call(net)


def test_a_weight_of_another_class_is_named():
    net = plain()
    weight_of_another_class(net)
    assert re.search(r"0 \(Linear\): weight is a Times; allowed", refusal(net, TypeError))


def test_a_setting_that_the_call_reads_elsewhere_is_noticed():
    net = drawn(
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), nn.Flatten())
    )
    assert measured(net, shape=(2, 4)).status.eq("ok").all()
    net[0]._reversed_padding_repeated_twice = [2, 0]
    assert re.search(CHANGED, refusal(net, shape=(2, 4)))


class Gate(Declared):
    """As declared unless ``when`` says otherwise."""

    when = staticmethod(lambda x: False)

    def forward(self, x):
        return super().forward(x) * (2 if self.when(x) else 1)


GATES = {
    "dtype": lambda x: x.dtype == torch.float32,
    "gradients": lambda x: torch.is_grad_enabled(),
    "a single example": lambda x: len(x) == 1,
    "large": lambda x: bool(x.abs().max() > 2e3),
    "small": lambda x: bool(x.flatten(1).abs().amax(1).min() < 1e-2),
    "random": lambda x: torch.rand(()) < 0.5,
    "at the data": lambda x: bool((x == 7).all(1).any()),
}


@pytest.mark.parametrize("name", GATES)
def test_networks_that_are_as_declared_only_sometimes(monkeypatch, name, random_state_untouched):
    net, data = drawn(Gate), torch.full((2, 4), 7.0)
    assert measured(net, data=data).status.eq("ok").all()
    monkeypatch.setattr(Gate, "when", staticmethod(GATES[name]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # of the user, whose draws are not to move
        before = torch.random.get_rng_state()
        assert "differ" in refusal(net, data=data)
        assert torch.equal(before, torch.random.get_rng_state())


class Meddling(Declared):
    """Its call draws, counts, and changes modes, weights and inputs, all without effect on it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        random.random()
        np.random.rand()  # noqa: NPY002 what is not to reach the caller
        torch.rand(3)
        y = super().forward(x)
        x.zero_()
        self.inner.training = True
        return y


def test_calling_leaves_weights_modes_data_and_random_states(random_state_untouched):
    net, data = drawn(Meddling), torch.ones(3, 4)
    before = {name: t.detach().clone() for name, t in tensors(net).items()}
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    measured(net, data=data)
    assert all(torch.equal(before[name], t) for name, t in tensors(net).items())
    assert not any(m.training for m in net.modules())
    assert torch.equal(data, torch.ones(3, 4))
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


IN_PLACE = [
    nn.ReLU(True), nn.LeakyReLU(0.2, True), nn.ELU(1.0, True), nn.SiLU(True),
    nn.Hardtanh(-1.0, 1.0, True),
    nn.Threshold(0, 0, True), nn.Mish(True), nn.RReLU(inplace=True), nn.Hardswish(True),
    nn.Hardsigmoid(True), nn.SELU(True), nn.CELU(1.0, True), nn.ReLU6(True), nn.Dropout(0.5, True),
]  # fmt: skip


@pytest.mark.parametrize("activation", IN_PLACE, ids=lambda m: type(m).__name__)
def test_layers_that_work_in_place_are_measured_and_change_no_data(activation):
    def net(first):
        return drawn(lambda: nn.Sequential(first, nn.Linear(4, 3), first, nn.Linear(3, 2)))

    data = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    given = data.clone()
    methods = [*BOTH, "lower_pairs"]
    frame = measured(net(activation), methods, data=data)
    assert torch.equal(given, data)
    copy = rebuilt(activation, {})
    copy.inplace = False
    other = measured(net(copy), methods, data=data)
    assert frame.value.tolist() == pytest.approx(other.value.tolist(), rel=1e-9)
    assert frame.status.eq("ok").all()


def test_a_branch_that_works_in_place_on_what_the_skip_reads_is_noticed():
    branch = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))
    assert re.search(CHANGED, refusal(drawn(lambda: Residual(branch))))


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e18, 1e30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounding_and_overflow_are_no_alarm(factor, dtype):
    """A network whose outputs cancel, in whose own precision large inputs overflow."""

    class Cancelling(Declared):
        def forward(self, x):
            y = self.inner(x)
            return torch.relu((y + 100 * y) - 100 * y) if dtype.itemsize > 2 else super().forward(x)

    for kind in (nn.Identity, Cancelling):
        net = drawn(lambda kind=kind: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), kind()))
        net[0].weight.data.mul_(factor)
        frame = measured(net.to(dtype))
        assert (frame.status == "ok").all()
        lower, upper = best(frame)
        assert 0 <= lower <= upper < math.inf


REFUSALS = {
    "flatten": (lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), r"1 \(Flatten\) changes"),
    "bilinear": (lambda: nn.Sequential(nn.Bilinear(4, 4, 2)), r"0 \(Bilinear\) fails .*input2"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), r"0 \(LazyLinear\): weight has no shape yet"),
    "padding": (
        lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Conv1d(2, 2, 1),
                              nn.MaxPool1d(2, 1, padding=1, dilation=3)),
        r"2 \(MaxPool1d\): \d+ of its outputs are -inf at every input, .* only padding",
    ),
    "compiled": (lambda: type("OptimizedModule", (Declared,), {})(), "OptimizedModule.*_orig_mod"),
    "scripted": (lambda: torch.jit.script(plain()), "TorchScript; allowed"),
    "complex": (lambda: nn.Linear(4, 3, dtype=torch.cfloat), "weight is torch.complex64"),
    "tuple": (lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.MaxPool1d(2, return_indices=True),
                                    nn.Linear(1, 1)), "returns a tuple"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_cannot_be_measured_is_named_with_its_place(name):
    build, match = REFUSALS[name]
    assert re.search(match, refusal(drawn(build), (ValueError, TypeError)))


@pytest.mark.filterwarnings("ignore")
def test_a_dynamically_quantised_network_is_refused():
    kind = pytest.importorskip("torch.ao.nn.quantized.dynamic").Linear
    said = refusal(nn.Sequential(kind(4, 3)).eval(), TypeError)
    assert re.search(r"0 \(Linear\) of torch\.ao\..* is quantised", said)


def test_a_declared_product_of_inputs_has_no_constant():
    class Square(Declared):
        def __init__(self):
            super().__init__()
            self.inner = nn.Bilinear(4, 4, 3)

        def forward(self, x):
            return self.inner(x, x)

        def lipschitz_structure(self):
            return chain(self.inner)

    frame = measured(drawn(Square), BOTH[1:])
    assert list(frame.status) == ["not_applicable"]
    assert "MatrixProduct" in frame.reason[0]


SETTINGS = {
    nn.Linear: (lambda: nn.Linear(4, 3, bias=False), (4,)),
    nn.Conv1d: (lambda: nn.Conv1d(4, 6, 3, 2, 2, 2, 2, False, "reflect"), (4, 9)),
    nn.Conv2d: (lambda: nn.Conv2d(2, 3, (3, 2), 1, "same", padding_mode="circular"), (2, 5, 6)),
    nn.ConvTranspose2d: (lambda: nn.ConvTranspose2d(4, 2, 3, 2, 1, 1, 2, False), (4, 3, 4)),
    nn.BatchNorm1d: (lambda: nn.BatchNorm1d(4, eps=0.1, affine=False), (4,)),
    nn.LayerNorm: (lambda: nn.LayerNorm((4,), eps=0.2, bias=False), (4,)),
    nn.GroupNorm: (lambda: nn.GroupNorm(2, 4, eps=0.3), (4, 3)),
    nn.PReLU: (lambda: nn.PReLU(4, 0.3), (4,)),
    nn.Softplus: (lambda: nn.Softplus(2.0, 30.0), (4,)),
    nn.LPPool1d: (lambda: nn.LPPool1d(2, 2, 1, True), (2, 5)),
    nn.AvgPool2d: (lambda: nn.AvgPool2d(2, 1, 1, True, False, 3), (2, 5, 5)),
    nn.MaxPool1d: (lambda: nn.MaxPool1d(3, 1, 1, 1), (2, 5)),
    nn.ConstantPad1d: (lambda: nn.ConstantPad1d((1, -1), 0.5), (2, 5)),
    nn.Upsample: (lambda: nn.Upsample(scale_factor=2, mode="linear", align_corners=True), (2, 5)),
    nn.Hardtanh: (lambda: nn.Hardtanh(-0.2, 0.4), (4,)),
    nn.GELU: (lambda: nn.GELU("tanh"), (4,)),
    nn.Flatten: (lambda: nn.Flatten(2), (2, 2, 2)),
    nn.Unflatten: (lambda: nn.Unflatten(1, (2, 2)), (4,)),
    nn.PixelShuffle: (lambda: nn.PixelShuffle(2), (4, 3, 3)),
}


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_a_rebuilt_layer_computes_what_the_layer_does(kind, random_state_untouched):
    build, shape = SETTINGS[kind]
    layer = drawn(build)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for tensor in layer.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
        x = torch.randn(3, *shape)
    assert torch.equal(evaluate(layer, tensors(layer), x), layer(x))


OPERATIONS = {
    operations.Scale: lambda: operations.Scale((4,)),
    operations.Divide: lambda: operations.Divide((4,)),
    operations.Shift: lambda: operations.Shift((4,)),
    operations.Gather: lambda: operations.Gather(torch.tensor([1, 0])),
    operations.Reduce: lambda: operations.Reduce("sum", [1]),
    operations.Function: lambda: operations.Function("sin"),
}


def test_every_layer_of_the_table_can_be_rebuilt_and_is_torchs_own():
    given = {nn.Linear: (4, 3), nn.PReLU: (), nn.LayerNorm: (4,), nn.GroupNorm: (2, 4)}
    skipped = ("Transformer", "MultiheadAttention", "Bilinear")
    tried = 0
    for kind in TABLE:
        if kind.__name__.startswith(skipped):
            continue
        if "Conv" in kind.__name__:
            layer = kind(4, 4, 3, groups=2)
        elif "Norm" in kind.__name__:
            layer = kind(*given.get(kind, (4,)))
        elif "Pool" in kind.__name__:
            layer = kind(2, 2) if "LP" in kind.__name__ else kind(2)
        elif "ConstantPad" in kind.__name__ or kind is nn.Threshold:
            layer = kind(1, 1.0)
        elif kind is nn.Unflatten:
            layer = kind(1, (2, 2))
        elif kind in OPERATIONS:
            layer = OPERATIONS[kind]()
        elif any(word in kind.__name__ for word in ("Pad", "Pixel", "ChannelShuffle")):
            layer = kind(2)
        elif "Upsampl" in kind.__name__:
            layer = kind(scale_factor=2)
        else:
            layer = kind(*given.get(kind, ()))
        again = rebuilt(layer.eval(), tensors(layer))
        hidden = {"training", "_parameters", "_buffers", *tensors(layer)}
        for name in set(vars(layer)) - hidden:
            assert bool(torch.as_tensor(vars(again)[name] == vars(layer)[name]).all()), (kind, name)
        tried += 1
    assert tried >= 90


def hooked():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    net[0].register_forward_hook(lambda m, x, out: 2 * out)
    return net


def test_a_study_does_not_train_a_network_whose_call_is_another(random_state_untouched):
    with pytest.raises(ValueError, match=r"differ by .*inputs of size 1; .*hook"):
        initial_stack(hooked, [0, 1], (4,))
    stack = initial_stack(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU()), [0, 0, 1], (4,))
    assert stack.num_models == 3


def test_a_stack_leaves_the_inputs_of_modules_that_work_in_place():
    net = drawn(lambda: nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Linear(4, 2)))
    stack, x = ModelStack.from_modules([net, net], (4,)), -torch.ones(3, 4)
    out = stack(x)
    assert torch.equal(x, -torch.ones(3, 4))
    expected = F.linear(-0.1 * torch.ones(3, 4), net[1].weight, net[1].bias)
    torch.testing.assert_close(out[0], expected)


class Moody(Declared):
    def __init__(self, mood):
        super().__init__()
        self.mood = mood

    def forward(self, x):
        return super().forward(x) * (2 if self.mood(x) else 1)


@pytest.mark.parametrize(
    "mood",
    [
        lambda x: x.dtype == torch.float32 and not torch.is_grad_enabled(),
        lambda x: x.dtype == torch.float32 and len(x) > 16,
        lambda x: not torch.is_grad_enabled(),
        lambda x: x.dtype == torch.float32,
        lambda x: x.dtype == torch.float64,
        lambda x: len(x) == 1,
    ],
)
def test_a_call_that_depends_on_gradients_batch_or_dtype_is_noticed(mood):
    assert "differ by" in refusal(drawn(lambda: Moody(mood)))


@pytest.mark.parametrize(("space", "name"), [(torch, "relu"), (F, "relu"), (F, "linear")])
@pytest.mark.parametrize("build", [plain, lambda: drawn(Declared)])
def test_a_replaced_function_of_torch_is_named(monkeypatch, space, name, build):
    original = getattr(space, name)
    monkeypatch.setattr(space, name, lambda *args, **options: 10 * original(*args, **options))
    said = refusal(build())
    assert re.search(rf"{name} was replaced by a function of .*{__name__}", said)


def test_a_process_that_flushes_subnormal_numbers_takes_no_bounds():
    net = plain().double()
    for weight in (net[0].weight, net[2].weight):
        weight.data *= 1e-158
    torch.set_flush_denormal(True)
    try:
        assert "flushes subnormal numbers" in refusal(net)
    finally:
        torch.set_flush_denormal(False)
    assert best(measured(net))[1] > 0


@pytest.mark.parametrize(("shape", "scales"), [((3, 64, 64), SCALES), ((3, 224, 224), FEW_SCALES)])
def test_networks_with_large_inputs_are_compared_at_few(shape, scales):
    x, places = random_inputs(shape, torch.device("cpu"))
    assert set(FEW_SCALES) <= set(SCALES)
    assert {min(SCALES), max(SCALES), 1.0} == set(FEW_SCALES)
    assert [float(f"{row.std():.1g}") for row in x] == list(scales)
    assert places == [f"inputs of size {scale:g}" for scale in scales]
