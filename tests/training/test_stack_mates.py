"""A model's bits do not depend on how many models it is trained with, nor on its place."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from torch import nn

from lipdescent.jobs.progress import Progress
from lipdescent.plugins import lookup
from lipdescent.stacks import products
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.engines.fused_cnn import StackedCNN
from lipdescent.training.engines.fused_mlp import StackedMLP
from lipdescent.training.engines.looped_autograd import LoopedAutograd
from lipdescent.training.engines.stacked_autograd import StackedAutograd
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import StackTraining

MODELS, EPOCHS, CLASSES = 3, [0, 1, 2], 10
SIGNAL, IMAGE = (40,), (1, 8, 8)


def architecture(name, width, **options):
    build = lookup.resolve("architectures", name).build
    return partial(build, width, num_classes=CLASSES, **options)


def chain(activation, *, input_shape):
    return nn.Sequential(
        nn.Linear(input_shape[0], 9), activation(), nn.Linear(9, 7), activation(),
        nn.Linear(7, CLASSES),
    )  # fmt: skip


NETWORKS = {
    "conv1d": (architecture("conv1d", 2), SIGNAL, StackedAutograd),
    "conv1d of 1 channel": (architecture("conv1d", 1), SIGNAL, StackedAutograd),
    "cnn_batchnorm": (architecture("cnn_batchnorm", 2), IMAGE, StackedAutograd),
    "resnet18": (architecture("resnet18", 2), IMAGE, StackedAutograd),
    "chain with LeakyReLU": (partial(chain, nn.LeakyReLU), SIGNAL, StackedAutograd),
    "chain with Tanh": (partial(chain, nn.Tanh), SIGNAL, StackedAutograd),
    "chain with GELU": (partial(chain, nn.GELU), SIGNAL, StackedAutograd),
    "vit": (architecture("vit", 2, blocks=1, patch=4), IMAGE, LoopedAutograd),
    "cnn": (architecture("cnn", 2), IMAGE, StackedCNN),
    "mlp": (architecture("mlp", 7, depth=3, bias=True), SIGNAL, StackedMLP),
    "mlp of 1 unit": (architecture("mlp", 1, bias=True), SIGNAL, StackedMLP),
}


def trained(build, shape, *, num_train, at_once):
    """Engine, checkpoints and training losses of three models, ``at_once`` of them in a block."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_train, *shape, generator=generator)
    labels = torch.randint(CLASSES, (MODELS, num_train), generator=generator)
    seeds = list(range(MODELS))
    training = StackTraining(
        initial_stack(partial(build, input_shape=shape), seeds, shape),
        TrainingData(inputs, labels, CLASSES),
        seeds=seeds,
        epochs=EPOCHS,
        options=TrainingOptions(learning_rate=0.05, momentum=0.9, batch_size=32),
        at_once=at_once,
    )
    training.run(progress=Progress(MODELS, EPOCHS[-1]))
    assert len(training.blocks) == -(-MODELS // at_once)
    return type(training.blocks[0].engine), training.result([0.0] * MODELS), training.curves


# The last batch has 16 samples, or a single one: then a product is one of vectors.
@pytest.mark.parametrize("num_train", [48, 33])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_in_blocks_of_any_size_gives_the_same_bits(name, num_train):
    build, shape, engine = NETWORKS[name]
    if name in ("cnn_batchnorm", "resnet18") and num_train == 33:
        num_train = 34  # one sample has no variance
    kind, together, curves = trained(build, shape, num_train=num_train, at_once=MODELS)
    assert kind is engine
    for at_once in (2, 1):
        _, apart, own_curves = trained(build, shape, num_train=num_train, at_once=at_once)
        for tensor_name, tensor in together.state.items():
            assert torch.equal(apart.state[tensor_name], tensor), (at_once, tensor_name)
        assert own_curves == curves


@pytest.mark.parametrize("sizes", [(25, 100, 10), (7, 40, 9), (1, 64, 7), (9, 1, 33), (16, 512, 1)])
def test_products_of_a_model_alone_and_among_others(sizes, generator):
    """Matrices of these sizes begin at different places of a cache line."""
    assert os.environ["MKL_CBWR"]
    m, k, n = sizes
    left = torch.randn(5, m, k, generator=generator)
    right = torch.randn(5, k, n, generator=generator)
    start = torch.randn(5, m, 1, generator=generator)
    product, sum_ = products.bmm(left, right), products.baddbmm(start, left, right, beta=0.5)
    torch.testing.assert_close(product, left @ right, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(sum_, 0.5 * start + left @ right, rtol=1e-5, atol=1e-4)
    for i in range(5):
        for part in (slice(i, i + 1), slice(i, i + 3), slice(0, i + 1)):
            own = left[part], right[part]
            assert torch.equal(products.bmm(*own), product[part])
            assert torch.equal(products.baddbmm(start[part], *own, beta=0.5), sum_[part])
            out = torch.empty_like(product[part])
            assert products.bmm(*own, out=out) is out
            assert torch.equal(out, product[part])
            out = start[part].expand(out.shape).clone()
            products.baddbmm(out, *own, beta=0.5, out=out)
            assert torch.equal(out, sum_[part])
