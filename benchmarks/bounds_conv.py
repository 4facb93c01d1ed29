"""Certified norms of convolutions and of stacks of layers: time and tightness.

1. Conv 3 x 3, zero padding, 32 x 32: our certified bound against scipy's svds of the sparse
   Toeplitz matrix (matrix built beforehand and timed apart). The truth is svds' value.
2. Layer norms of 100 checkpoints in one batch against torch's float64 SVD, one at a time.
3. Product against block LipSDP of convolution pairs and residual blocks.

CPU seconds of one thread (so that other load on the machine does not count), medians.
``OPENBLAS_NUM_THREADS=1 python benchmarks/bounds_conv.py [--channels 16,64]``
"""

from __future__ import annotations

import argparse
from functools import partial

import checkout  # noqa: F401
import numpy as np
import scipy.sparse
import torch
from cpu_time import seconds
from scipy.sparse.linalg import svds
from torch import nn

from lipdescent.architectures._blocks import Residual
from lipdescent.arithmetic import certified_norms
from lipdescent.bounds.upper_block_lipsdp import block_lipsdp
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.layers.table import constant
from lipdescent.stacks.model_stack import ModelStack


def toeplitz(kernel: np.ndarray, size: int) -> scipy.sparse.csr_matrix:
    """Sparse matrix of the zero-padded 'same' convolution with kernel (out, in, k, k)."""
    taps, shift = kernel.shape[2], kernel.shape[2] // 2
    matrix = scipy.sparse.csr_matrix((kernel.shape[0] * size**2, kernel.shape[1] * size**2))
    for k in range(taps):
        for m in range(taps):
            move = scipy.sparse.kron(
                scipy.sparse.eye(size, k=k - shift), scipy.sparse.eye(size, k=m - shift)
            )
            matrix = matrix + scipy.sparse.kron(kernel[:, :, k, m], move, format="csr")
    return matrix


def convolutions(channels: list[int]) -> None:
    print("| channels | ours s | svds s | svds/ours | build matrix s | ours / truth |")
    print("|---|---|---|---|---|---|")
    for c in channels:
        torch.manual_seed(0)
        layer = nn.Conv2d(c, c, 3, padding=1).eval()
        state = {name: t.detach()[None] for name, t in layer.state_dict().items()}
        shape = (c, 32, 32)
        shapes = {"input_shape": shape, "output_shape": shape}
        run = partial(constant, layer, state, **shapes, norm="l2")
        run()
        ours, value = seconds(run, 5)
        kernel = layer.weight.detach().double().numpy()
        build, matrix = seconds(partial(toeplitz, kernel, 32))
        largest = partial(svds, matrix, k=1, return_singular_vectors=False, random_state=0)
        theirs, truth = seconds(largest)
        ratio = float(value) / truth[0]
        print(
            f"| {c} | {ours:.3f} | {theirs:.1f} | {theirs / ours:.0f} | {build:.1f} | {ratio:.5f} |"
        )


def stacks() -> None:
    print("\n| 100 checkpoints of | batch s | one SVD at a time s | ratio |\n|---|---|---|---|")
    generator = torch.Generator().manual_seed(0)
    for m, n in ((16, 40), (64, 40), (512, 40), (10, 64), (10, 512), (256, 256)):
        weights = torch.randn(100, m, n, generator=generator, dtype=torch.float64)
        batch, value = seconds(partial(certified_norms.certified_spectral_norm, weights), 5)
        single, truth = seconds(
            lambda w=weights: torch.stack([torch.linalg.svdvals(x)[0] for x in w]), 3
        )
        assert (value >= truth * (1 - 1e-14)).all()
        print(f"| {m} x {n} | {batch:.4f} | {single:.4f} | {single / batch:.1f} |")


def blocks() -> None:
    print("\n| block, 32 x 32 | product | block LipSDP | seconds |\n|---|---|---|---|")
    for c in (16, 64):
        torch.manual_seed(0)
        pair = [nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1)]
        nets = {"pair": nn.Sequential(*pair), "residual": Residual(nn.Sequential(*pair))}
        for name, net in nets.items():
            stack = ModelStack.from_modules([net.eval()], (c, 32, 32))
            took, value = seconds(partial(block_lipsdp, stack))
            product = float(layer_product(stack))
            print(f"| {name}, {c} channels | {product:.4f} | {float(value):.4f} | {took:.1f} |")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", default="16,64")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    convolutions([int(c) for c in args.channels.split(",")])
    stacks()
    blocks()


if __name__ == "__main__":
    main()
