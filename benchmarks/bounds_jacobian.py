"""Jacobian norms of one-hidden-layer ReLU networks: this library against plain PyTorch.

The plain way is what one writes first: for every model one backward pass per logit over the whole
batch, then a power iteration on each sample's Jacobian (l2) or its largest row sum (l_inf).
Networks 40-w-10 with random weights, Gaussian points, float64, one thread. Times are CPU seconds
of the process, medians of ``--repeats`` runs, the two ways in turn in the same process.

1. 4000 samples of one network, l2.
2. One job of the default study: 12 epochs x 30 replicas at width 512, 1000 points, l2 and l_inf;
   the plain way is timed on two of the 360 models and multiplied.
3. With ``--study``: lower_jacobian with all its metrics over the default study, 13 widths x 360
   checkpoints, 1000 training and 1000 test points, l2 and l_inf.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import checkout  # noqa: F401
import torch
from cpu_time import seconds

from lipdescent.architectures import mlp
from lipdescent.bounds import lower_jacobian
from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.stacks.model_stack import ModelStack

WIDTHS = (4, 8, 12, 16, 24, 32, 40, 48, 64, 96, 128, 256, 512)


def plain(module: torch.nn.Module, points: torch.Tensor, norms: list[str]) -> dict:
    points = points.clone().requires_grad_()
    outputs = module(points)
    rows = [
        torch.autograd.grad(outputs[:, k].sum(), points, retain_graph=True)[0]
        for k in range(outputs.shape[1])
    ]
    jacobians = torch.stack(rows, 1)
    found = {}
    if "l2" in norms:
        found["l2"] = torch.stack([power_iteration(jacobian) for jacobian in jacobians])
    if "linf" in norms:
        found["linf"] = jacobians.abs().sum(-1).amax(-1)
    return found


def power_iteration(jacobian: torch.Tensor) -> torch.Tensor:
    """On J J^T, until the norm moves by less than 1e-9, at most 100 steps."""
    gram = jacobian @ jacobian.T
    vector = torch.ones(len(gram), dtype=gram.dtype)
    before = torch.zeros((), dtype=gram.dtype)
    for _ in range(100):
        vector = gram @ vector
        value = vector.norm()
        vector = vector / value
        if abs(value - before) <= 1e-9 * value:
            break
        before = value
    return value.sqrt()


def stack_of(width: int, count: int) -> ModelStack:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        build = [mlp.build(width, input_shape=(40,), num_classes=10) for _ in range(count)]
    return ModelStack.from_modules([module.double() for module in build], (40,))


def compare(repeats: int) -> None:
    points = torch.randn(4000, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    print(
        "| width | here, ms | plain, ms | ratio | difference of the maxima |\n|---|---|---|---|---|"
    )
    for width in (64, 256, 1024):
        stack, ours, theirs = stack_of(width, 1), [], []
        for _ in range(repeats):
            spent, found = seconds(partial(jacobian_norms, stack, points))
            ours.append(spent)
            spent, expected = seconds(partial(plain, stack.module, points, ["l2"]))
            theirs.append(spent)
        a, b = statistics.median(ours), statistics.median(theirs)
        gap = abs(found["l2"].max() / expected["l2"].max() - 1).item()
        print(f"| {width} | {1e3 * a:.1f} | {1e3 * b:.0f} | {b / a:.1f} | {gap:.1e} |", flush=True)


def job(repeats: int) -> None:
    points, norms = torch.randn(1000, 40, dtype=torch.float64), ["l2", "linf"]
    stack, ours, theirs = stack_of(512, 360), [], []
    for _ in range(repeats):
        ours.append(seconds(lambda: jacobian_norms(stack, points, norms=norms))[0])
        both = [seconds(lambda: plain(stack.module, points, norms))[0] for _ in range(2)]
        theirs.append(180 * sum(both))
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"\nJob of width 512: {a:.1f} s here, {b:.0f} s the plain way, ratio {b / a:.1f}")


def study() -> None:
    inputs = {split: torch.randn(1000, 40) for split in ("train", "test")}
    total = 0.0
    print("\n| width | lower_jacobian of 360 checkpoints, s |\n|---|---|")
    for width in WIDTHS:
        stack = stack_of(width, 360).to(dtype=torch.float32)
        measure = lower_jacobian.measure(stack, inputs=inputs, norms=["l2", "linf"])
        spent, _ = seconds(lambda measure=measure: list(measure))
        total += spent
        print(f"| {width} | {spent:.1f} |", flush=True)
    print(f"| all | {total:.1f} |")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--study", action="store_true")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    compare(wanted.repeats)
    job(max(1, wanted.repeats // 3))
    if wanted.study:
        study()


if __name__ == "__main__":
    main()
