"""No number of lower precision than float64 enters certified arithmetic.

``torch.where(condition, 0.1, 1.0)`` of two Python numbers is float32: an upper bound that it enters
lies below the truth. Here every bound, layer constant and certificate runs under a mode that stops
at the first such result.
"""

from __future__ import annotations

import functools
import itertools
import sys

import pytest
import torch
from leaves import tensors
from small_budgets import SMALL
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lipdescent.constrained.layers import GroupSort, InvertibleDownsampling
from lipdescent.layers.table import NORMS, TABLE
from lipdescent.measurement import NotApplicable
from lipdescent.networks import operations
from lipdescent.networks.expressions import Layer
from lipdescent.plugins import lookup
from lipdescent.robustness import certificates
from lipdescent.robustness.logit_error import logit_error
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.layer_constants import layer_bound
from lipdescent.structure.trace import trace

LOW = (torch.float32, torch.float16, torch.bfloat16, torch.complex64)
BOUNDS = {name: lookup.resolve("bounds", name) for name in lookup.known("bounds")}


# Operations that only move numbers, or are exact: what a network's own float32 weights and data go
# through on their way to float64.
MOVES = {
    "abs", "alias", "as_strided", "cat", "clone", "detach", "expand", "index", "index_select",
    "permute", "reshape", "select", "slice", "split", "squeeze", "stack", "t",
    "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "_reshape_alias", "empty_like",
    "copy_",
}  # fmt: skip


# A refusal of what the network itself, in its own precision, would divide by: no bound. And an
# attack that looks for points, in the network's precision; the bound is taken at what it finds.
# And rough norms, which only say where the largest may be.
PLACES = {"check_state", "noise", "perturbed", "rough_norms"}


def _in_named_place() -> bool:
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in PLACES:
            return True
        frame = frame.f_back
    return False


class Float64Only(TorchDispatchMode):
    """Raises where an operation returns numbers of lower precision than float64.

    Allowed are ``MOVES`` of numbers that have it already.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or every operation goes through a wrapper: nothing is compiled here

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        own = [out] if isinstance(out, torch.Tensor) else tensors([out])
        given = tensors(args)
        if kwargs:
            given += tensors(kwargs.values())
        if all(t.dtype not in LOW for t in own) and all(t.dtype not in LOW for t in given):
            return out
        floats = [t for t in given if t.is_floating_point() or t.is_complex()]
        low, given = ([t for t in some if t.dtype in LOW] for some in (own, floats))
        moved = func.overloadpacket.__name__ in MOVES and len(given) == len(floats)
        if low and not moved:
            assert _in_named_place(), f"{func} returns {low[0].dtype}"
        # A float32 tensor, not only a number, that float64 silently takes in.
        if given and len(given) < len(floats):
            fine = func.overloadpacket.__name__ == "copy_" or _in_named_place()
            assert fine, f"{func} mixes {given[0].dtype} with float64"
        return out


def network(*layers: nn.Module, dtype=torch.float64) -> nn.Module:
    """In eval mode, with random weights and statistics."""
    module = nn.Sequential(*layers).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(drawn.abs() + 0.5 if "running_var" in name else drawn)
    return module


def networks(dtype: torch.dtype) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    def chain(*sizes, slope=0.1):
        parts = [(nn.Linear(a, b), nn.LeakyReLU(slope)) for a, b in itertools.pairwise(sizes)]
        return network(*itertools.chain(*parts), nn.Linear(sizes[-1], 3), dtype=dtype)

    conv = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.LeakyReLU(0.3), nn.MaxPool2d(2)]
    conv += [nn.Conv2d(3, 2, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(2, 3)]
    merged = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU()]
    dead = network(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), dtype=dtype)
    with torch.no_grad():
        dead[2].bias.fill_(-1e3)
    return {
        "shallow": (chain(4, 6), (4,)),
        "shallow, branch and bound": (chain(4, 16, slope=1 / 3), (4,)),
        "deep": (chain(4, 5, 5, slope=-0.2), (4,)),
        "dead": (dead, (4,)),
        "merged": (network(*merged, dtype=dtype), (4,)),
        "convolutions": (network(*conv, dtype=dtype), (1, 6, 6)),
    }


CASES = list(networks(torch.float64))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_of_float64(name, case):
    check(name, case, torch.float64)


@pytest.mark.parametrize("case", ["deep", "merged"])
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_of_float32(name, case):
    check(name, case, torch.float32)


@functools.cache
def stack_of(case: str, dtype: torch.dtype) -> ModelStack:
    """One for all bounds, which keep beside it what others need not compute again."""
    module, shape = networks(dtype)[case]
    return ModelStack.from_modules([module], shape)


def check(name, case, dtype):
    stack = stack_of(case, dtype)
    shape = stack.input_shape
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(3, *shape, generator=generator, dtype=torch.float64).to(dtype)
    # Norms differ in how Jacobians are reduced, which chains show in a fraction of the time.
    norms = BOUNDS[name].NORMS if "shallow" in case or case == "deep" else BOUNDS[name].NORMS[:1]
    for norm in norms:
        with Float64Only():
            try:
                inputs, more = {"": points}, SMALL.get(name, {})
                found = list(
                    BOUNDS[name].measure(stack, inputs=inputs, norms=[norm], seed=0, **more)
                )
            except NotApplicable:
                continue
        assert found


SHAPES: dict[type, tuple[tuple, dict, tuple[int, ...]]] = {
    nn.Linear: ((4, 3), {}, (4,)),
    nn.PReLU: ((3,), {}, (3, 4)),
    nn.Threshold: ((0.1, 0.1), {}, (4,)),
    nn.Softmax: ((1,), {}, (4,)),
    nn.Softmin: ((1,), {}, (4,)),
    nn.LogSoftmax: ((1,), {}, (4,)),
    nn.Softmax2d: ((), {}, (3, 2, 2)),
    nn.Unflatten: ((1, (2, 2)), {}, (4,)),
    nn.PixelShuffle: ((2,), {}, (4, 2, 2)),
    nn.PixelUnshuffle: ((2,), {}, (1, 4, 4)),
    nn.ChannelShuffle: ((2,), {}, (4, 2, 2)),
    nn.SyncBatchNorm: ((2,), {}, (2, 4)),
    nn.LayerNorm: ((4,), {}, (2, 4)),
    nn.RMSNorm: ((4,), {"eps": 1e-5}, (2, 4)),
    nn.GroupNorm: ((2, 4), {}, (4, 4)),
    nn.Upsample: ((), {"scale_factor": 1.5, "mode": "linear"}, (2, 5)),
    nn.UpsamplingNearest2d: ((3,), {}, (2, 2, 2)),
    nn.UpsamplingBilinear2d: ((3,), {}, (2, 2, 2)),
    operations.Scale: (((2, 5),), {}, (2, 5)),
    operations.Divide: (((5,),), {}, (2, 5)),
    operations.Shift: (((5,),), {}, (2, 5)),
    operations.Gather: ((torch.tensor([[3, -1], [3, 0]]), 0.5), {}, (4,)),
    operations.Reduce: (("sum", [1]), {}, (2, 5)),
    operations.Function: (("sin",), {}, (4,)),
}
NEVER = {kind for kind, rule in TABLE.items() if rule.__name__ in ("attention", "unbounded")}


def made(kind: type[nn.Module]) -> tuple[nn.Module, tuple[int, ...]]:
    """A layer of the table, and the shape of an input that it takes."""
    if kind in SHAPES:
        arguments, options, shape = SHAPES[kind]
        return kind(*arguments, **options), shape
    name, digit = kind.__name__, kind.__name__[-2]
    sizes = (5,) * (int(digit) if digit.isdigit() else 1)
    if name.startswith("Conv"):
        return kind(2, 3, 3, stride=2, padding=1), (2, *sizes)
    if "Norm" in name:
        return kind(2, affine=True), (2, *sizes)
    if name.startswith("LPPool"):
        return kind(2, 2), (2, *sizes)
    if "Pool" in name:
        return kind(2), (2, *sizes)
    if "Pad" in name:
        return (kind(1, 0.5) if name.startswith("Constant") else kind(1)), (2, *sizes)
    return kind(), (2, *sizes)


# Of those without a constant nothing is computed.
COMPUTED = [kind for kind in TABLE if kind not in NEVER and kind is not nn.Hardshrink]


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize(
    "kind", [*COMPUTED, GroupSort, InvertibleDownsampling], ids=lambda k: k.__name__
)
def test_layers_of_the_table(kind):
    layer, shape = made(kind) if kind in TABLE else (kind(), (2, 4, 4))
    module = network(layer, nn.Flatten(), nn.Identity())
    with torch.no_grad():
        features = module(torch.zeros(2, *shape, dtype=torch.float64)).shape[1]
    module = network(layer, nn.Flatten(), nn.Linear(features, 2))
    stack = ModelStack.from_modules([module, module], shape)
    points = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with Float64Only():
        structure = trace(stack)
        parts = structure.parts if not isinstance(structure, Layer) else [structure]
        known = 0
        for part, norm in itertools.product(parts, NORMS):
            try:
                known += layer_bound(part, stack, norm=norm).dtype == torch.float64
            except NotApplicable:
                assert norm != "l2"
        assert known >= len(parts)
        if kind is nn.RReLU:
            return  # torch does not compute a stack of them
        try:
            error = logit_error(stack, points)
        except NotApplicable:
            return
        assert error.dtype == torch.float64
        upper = torch.ones(2, dtype=torch.float64)
        labels = torch.zeros(2, dtype=torch.int64)
        for norm in certificates.NORMS:
            radii = certificates.certified_radii(stack, points, labels, upper=upper, norm=norm)
            assert certificates.mean_certified_radius(radii).dtype == torch.float64
            assert certificates.certified_accuracy(radii, [0.0, 0.1]).dtype == torch.float64


def test_the_guard_sees_what_it_is_for():
    condition = torch.tensor([True, False])
    with Float64Only(), pytest.raises(AssertionError, match="float32"):
        torch.where(condition, 0.1, 1.0)
    with Float64Only(), pytest.raises(AssertionError, match="float32"):
        torch.tensor(0.1)
    single, double = torch.ones(2), torch.ones(2, dtype=torch.float64)
    with Float64Only(), pytest.raises(AssertionError, match="mixes"):
        single * double
    with Float64Only():
        torch.where(condition, double.new_tensor(0.1), 1.0)
        single[:1].to(torch.float64) * double
