"""Training steps of image networks: a stack of 16 against one model at a time in plain PyTorch.

Per training sample and model, in microseconds of processor time on one thread, medians of
interleaved repetitions: a plain loop (DataLoader, forward, backward, SGD with momentum), vmap over
functional_call with autograd, autograd over stacked_forward, and for plain chains of convolutions
the fused pass StackedCNN. Ratios are plain / fastest of the last two, side by side in one run.

    python benchmarks/image_stacking.py [--repetitions 5] [--only cnn]
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy, one_hot

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from lipdescent import losses, names, stacked_cnn
from lipdescent.stacked_forward import stacked_forward

SMALL_POOLS = {"pools": [1, 2, 1, 7]}
# architecture, width, side of the image, batch, models, options, time vmap too
CASES = [
    *[("cnn", w, 28, 128, 16, {}, True) for w in (2, 4, 8, 12)],
    *[("cnn", w, 14, 128, 16, SMALL_POOLS, True) for w in (2, 4, 8, 12)],
    *[("cnn", w, 14, 32, 16, SMALL_POOLS, False) for w in (2, 4, 8, 12)],
    *[("cnn", w, 8, 32, 16, {}, False) for w in (2, 4, 8, 12)],
    ("cnn_batchnorm", 4, 28, 128, 16, {}, False),
    ("resnet18", 2, 16, 32, 8, {}, False),
    ("conv1d", 8, 40, 100, 16, {}, False),
    ("vit", 6, 16, 32, 8, {}, False),
]
Step = Callable[[], object]


def plain_step(build: Callable[[], nn.Module], inputs: Tensor, labels: Tensor, batch: int) -> Step:
    model = build()
    data = torch.utils.data.TensorDataset(inputs, labels)
    loader = torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    batches = iter(loader)

    def step() -> None:
        nonlocal batches
        pair = next(batches, None)
        if pair is None:
            batches = iter(loader)
            pair = next(batches)
        loss = cross_entropy(model(pair[0]), pair[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def autograd_step(forward: Callable, state: dict[str, Tensor], trained: set[str], x, y) -> Step:
    """A step of SGD with momentum for every model; ``forward`` (state, inputs) -> outputs."""
    buffers = {name: torch.zeros_like(state[name]) for name in trained}

    def step() -> None:
        leaves = {n: t.detach().requires_grad_(n in trained) for n, t in state.items()}
        loss = losses.cross_entropy(forward(leaves, x), y).mean(1).sum()
        gradients = torch.autograd.grad(loss, [leaves[n] for n in buffers])
        for (name, buffer), gradient in zip(buffers.items(), gradients, strict=True):
            state[name].add_(buffer.mul_(0.9).add_(gradient), alpha=-0.01)

    return step


def fused_step(module: nn.Module, state: dict[str, Tensor], x: Tensor, y: Tensor) -> Step:
    engine = stacked_cnn.StackedCNN(module, state, losses.cross_entropy)
    buffers = [torch.zeros_like(p) for p in engine.parameters]

    def step() -> None:
        engine.accumulate(buffers, x, y, decay=0.9)
        for parameter, buffer in zip(engine.parameters, buffers, strict=True):
            parameter.add_(buffer, alpha=-0.01)

    return step


def steps_of(name, width, side, batch, models, options, with_vmap) -> dict[str, tuple[Step, int]]:
    """What is timed -> (one step, samples it takes times models)."""
    shape = (side,) if name == "conv1d" else (1, side, side)
    architecture = names.resolve("architectures", name)

    def build() -> nn.Module:
        return architecture.build(width, input_shape=shape, num_classes=10, **options)

    built = [build() for _ in range(models)]
    state = {n: torch.stack([m.state_dict()[n] for m in built]) for n in built[0].state_dict()}
    trained = {n for n, _ in built[0].named_parameters()}
    inputs, labels = torch.randn(8 * batch, *shape), torch.randint(10, (8 * batch,))
    x = torch.randn(models, batch, *shape)
    y = one_hot(torch.randint(10, (models, batch)), 10).float()
    module, copy = built[0], lambda: {n: t.clone() for n, t in state.items()}
    steps = {"plain": (plain_step(build, inputs, labels, batch), batch)}
    if with_vmap:
        each = vmap(lambda s, inputs: functional_call(module, s, (inputs,)))
        steps["vmap"] = (autograd_step(each, copy(), trained, x, y), batch * models)

    def stacked(s: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return stacked_forward(module, s, inputs, train=True)[0]

    steps["stacked_forward"] = (autograd_step(stacked, copy(), trained, x, y), batch * models)
    if stacked_cnn.supports(module):
        steps["fused"] = (fused_step(module, state, x, y), batch * models)
    return steps


def microseconds(step: Step, samples: int, least: float = 0.1) -> float:
    """Processor time per sample and model, over steps of at least ``least`` seconds together."""
    begin, count = time.thread_time(), 0
    while count == 0 or time.thread_time() - begin < least:
        step()
        count += 1
    return (time.thread_time() - begin) / count / samples * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", help="an architecture's name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = ["plain", "vmap", "stacked_forward", "fused"]
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread\n")
    print(f"| network | input | batch | models | {' | '.join(columns)} | ratio |")
    print("|---" * (len(columns) + 5) + "|")
    for case in CASES:
        name, width, side, batch, models, _, _ = case
        if arguments.only not in (None, name):
            continue
        steps = steps_of(*case)
        for step, _ in steps.values():
            step()
        times: dict[str, list[float]] = {what: [] for what in steps}
        for _ in range(arguments.repetitions):
            for what, (step, samples) in steps.items():
                times[what].append(microseconds(step, samples))
        medians = {what: sorted(t)[len(t) // 2] for what, t in times.items()}
        best = min(medians[what] for what in ("stacked_forward", "fused") if what in medians)
        cells = [f"{medians[what]:.0f}" if what in medians else "" for what in columns]
        size = f"{side}" if name == "conv1d" else f"{side} x {side}"
        row = [f"{name} {width}", size, str(batch), str(models), *cells]
        print(f"| {' | '.join(row)} | {medians['plain'] / best:.1f} |", flush=True)


if __name__ == "__main__":
    main()
