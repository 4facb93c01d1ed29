"""A model's bounds do not depend on the models that are measured with it, nor on its place.

Each rung of the ladder, for a model alone, in a batch of 3 and in a shuffled batch of 24. Batched
products round by the size of the batch and by how a matrix lies in memory, so the last digits may
differ; a search that amplifies them fails here.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from lipdescent.architectures import mlp
from lipdescent.architectures._blocks import Residual
from lipdescent.measurement import NotApplicable
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack

RELATIVE = 1e-9
EVERY_NORM = ("l2", "linf")
RUNGS = {
    "upper_layer_product": EVERY_NORM,
    "upper_combettes_pesquet": ("l2",),
    "upper_eclipse_fast": ("l2",),
    "upper_lipsdp": ("l2",),
    "upper_geolip": ("linf",),
    "upper_block_lipsdp": ("l2",),
    "exact_enumeration": EVERY_NORM,
    "lower_jacobian": EVERY_NORM,
    "lower_ascent": EVERY_NORM,
    "lower_attack": EVERY_NORM,
    "lower_convex_combinations": EVERY_NORM,
    "lower_gaussian": EVERY_NORM,
    "lower_pairs": EVERY_NORM,
}

# The search of deep chains is a model's own, one after another.
OPTIONS = {"lower_ascent": {"populations": 2, "rounds": 4}}


def mlps(*widths: int, inputs: int = 11, outputs: int = 5) -> ModelStack:
    """24 networks: Gaussian weights of several scales, orthonormal ones, units that are copies."""
    generator = torch.Generator().manual_seed(7)
    sizes = [inputs, *widths, outputs]
    models = []
    for index in range(24):
        model = mlp.build(widths[0], input_shape=(inputs,), num_classes=outputs, depth=len(widths))
        linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        assert [layer.out_features for layer in linear] == sizes[1:]
        for layer in linear:
            weight = torch.randn(layer.weight.shape, generator=generator)
            if index % 4 == 1:
                weight = (
                    torch.linalg.qr(weight.T)[0].T
                    if len(weight) <= weight.shape[1]
                    else (torch.linalg.qr(weight)[0])
                )
            elif index % 4 == 2:
                weight[: len(weight) // 2] = weight[-(len(weight) // 2) :]
            layer.weight.data = weight * (0.1, 0.3, 1.0)[index % 3]
            if layer.bias is not None:
                layer.bias.data = 0.1 * torch.randn(layer.bias.shape, generator=generator)
        models.append(model)
    return ModelStack.from_modules(models, (inputs,))


def convolutions() -> ModelStack:
    torch.manual_seed(3)
    pair = lambda: [nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)]  # noqa: E731
    nets = [nn.Sequential(*pair(), Residual(nn.Sequential(*pair()))).eval() for _ in range(24)]
    return ModelStack.from_modules(nets, (3, 6, 6))


STACKS = {  # none is changed: a part of one is a stack of its own
    "width 6": lambda: mlps(6),
    "width 40": lambda: mlps(40),
    "two hidden layers": lambda: mlps(7, 7),
    "convolutions": convolutions,
}
# Left out: what takes many seconds for 24 networks.
CASES = [
    (rung, kind)
    for rung in RUNGS
    for kind in STACKS
    if kind != "convolutions" or rung in ("upper_layer_product", "upper_block_lipsdp")
    if (rung, kind) != ("exact_enumeration", "width 40")
]


@functools.cache
def stack_of(kind: str) -> ModelStack:
    return STACKS[kind]()


def values(rung: str, stack: ModelStack) -> dict[tuple, Tensor]:
    inputs = torch.randn(12, *stack.input_shape, generator=torch.Generator().manual_seed(0))
    rows = lookup.resolve("bounds", rung).measure(
        stack, inputs={"train": inputs}, norms=RUNGS[rung], seed=0, **OPTIONS.get(rung, {})
    )
    return {(m.quantity, m.direction, m.norm, m.split): m.values for m in rows}


@pytest.mark.parametrize(("rung", "kind"), CASES)
def test_a_model_alone_is_a_model_in_a_batch(rung: str, kind: str) -> None:
    stack = stack_of(kind)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    try:
        shuffled = values(rung, stack[order])
    except NotApplicable as reason:
        pytest.skip(f"{rung}, {kind}: {reason}")
    together = {key: value[order.argsort()] for key, value in shuffled.items()}
    for index in ([0, 1, 2], [0], [1], [2], [23]):
        for key, value in values(rung, stack[index]).items():
            torch.testing.assert_close(
                value, together[key][index], rtol=RELATIVE, atol=0, equal_nan=True, msg=str(key)
            )


def test_convolutions_are_bounded_the_same_way_in_any_stack():
    """Whether a dense matrix is affordable is a matter of one model's size."""
    build = lookup.resolve("architectures", "cnn").build
    one = [build(6, input_shape=(1, 8, 8), num_classes=10) for _ in range(20)]
    stack = ModelStack.from_modules(one, (1, 8, 8))
    bound = lookup.resolve("bounds", "upper_layer_product")
    together = next(iter(bound.measure(stack))).values
    alone = torch.cat([next(iter(bound.measure(stack[i : i + 1]))).values for i in range(3)])
    torch.testing.assert_close(alone, together[:3], rtol=RELATIVE, atol=0)


def signals() -> ModelStack:
    torch.manual_seed(0)
    build = lookup.resolve("architectures", "conv1d").build
    nets = [build(4, input_shape=(40,), num_classes=10) for _ in range(12)]
    return ModelStack.from_modules(nets, (40,))


@pytest.mark.parametrize("make", [convolutions, signals])
def test_block_lipsdp_is_the_same_to_the_last_bit(make):
    stack = make()[:12]
    bound = lookup.resolve("bounds", "upper_block_lipsdp").block_lipsdp
    together = bound(stack)
    for part in (slice(0, 6), slice(3, 5), slice(0, 1), slice(7, 8)):
        assert torch.equal(bound(stack[part]), together[part])
