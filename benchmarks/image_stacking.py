"""Training steps of image networks: a stack of 16 against one model at a time in plain PyTorch.

Per training sample and model, in microseconds of processor time on one thread, medians of
interleaved repetitions: a plain loop (DataLoader, forward, backward, SGD with momentum), autograd
over stacked_forward in blocks as training makes them, the fused pass StackedCNN for plain chains of
convolutions, and LoopedAutograd, one model after the other. ``*`` marks what training chooses;
ratio is plain / chosen. Then which part of the rate of a 512 x 512 float32 matrix product, measured
in between, the products of a step reach: plain, and chosen, counted by the definition of a
convolution, padding included; the fused pass makes fewer and may reach more than the whole.
1 / plain is the largest ratio that any program could reach that makes all these products.

    python benchmarks/image_stacking.py [--repetitions 5] [--only cnn] [--side 14] [--vmap]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import checkout  # noqa: F401
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy, one_hot

from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.stacks.workload import multiplications
from lipdescent.training.engines import fused_cnn
from lipdescent.training.engines.choice import make_engine, split_into_blocks
from lipdescent.training.engines.looped_autograd import LoopedAutograd
from lipdescent.training.engines.stacked_autograd import StackedAutograd
from lipdescent.training.losses import cross_entropy as our_loss
from lipdescent.training.options import TrainingOptions

SMALL_POOLS = {"pools": [1, 2, 1, 7]}
# architecture, width, side of the image, batch, models, options
CASES = [
    *[("cnn", w, 28, 128, 16, {}) for w in (2, 4, 8, 12)],
    ("cnn", 48, 28, 128, 1, {}),
    *[("cnn", w, 14, 128, 16, SMALL_POOLS) for w in (2, 4, 8, 12, 24)],
    *[("cnn", w, 14, 32, 16, SMALL_POOLS) for w in (2, 4, 8, 12)],
    *[("cnn", w, 8, 32, 16, {}) for w in (2, 4, 8, 12)],
    *[("cnn_batchnorm", w, 28, 128, 16, {}) for w in (2, 4, 8, 12)],
    *[("cnn_batchnorm", w, 14, 32, 16, SMALL_POOLS) for w in (2, 4, 8, 12)],
    ("resnet18", 2, 16, 32, 8, {}),
    ("resnet18", 8, 16, 32, 8, {}),
    ("resnet18", 8, 32, 128, 4, {}),
    ("conv1d", 8, 40, 100, 16, {}),
    ("conv1d", 64, 40, 100, 16, {}),
    ("vit", 6, 16, 32, 8, {}),
]
ENGINES = {
    "stacked_forward": StackedAutograd,
    "fused": fused_cnn.StackedCNN,
    "looped": LoopedAutograd,
}
PEAK_SIDE = 512
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
        loss = our_loss.loss(forward(leaves, x), y).mean(1).sum()
        gradients = torch.autograd.grad(loss, [leaves[n] for n in buffers])
        for (name, buffer), gradient in zip(buffers.items(), gradients, strict=True):
            state[name].add_(buffer.mul_(0.9).add_(gradient), alpha=-0.01)

    return step


def engine_step(kind: type, stack: ModelStack, parts: list[slice], x: Tensor, y: Tensor) -> Step:
    engines = [(part, kind(stack.module, stack[part].state, our_loss.loss)) for part in parts]
    memory = [[torch.zeros_like(p) for p in engine.parameters] for _, engine in engines]

    def step() -> None:
        for (part, engine), buffers in zip(engines, memory, strict=True):
            engine.accumulate(buffers, x[part], y[part], decay=0.9)
            for parameter, buffer in zip(engine.parameters, buffers, strict=True):
                parameter.add_(buffer, alpha=-0.01)

    return step


class Case(NamedTuple):
    steps: dict[str, tuple[Step, int]]  # what is timed -> (one step, samples it takes times models)
    chosen: str
    operations: int | None  # floating-point ones in the products of a training step, per sample


def prepare(name, width, side, batch, models, options, *, with_vmap: bool) -> Case:
    shape = (side,) if name == "conv1d" else (1, side, side)
    architecture = lookup.resolve("architectures", name)

    def build() -> nn.Module:
        return architecture.build(width, input_shape=shape, num_classes=10, **options)

    built = [build() for _ in range(models)]
    module = built[0]
    state = {n: torch.stack([m.state_dict()[n] for m in built]) for n in module.state_dict()}
    inputs, labels = torch.randn(8 * batch, *shape), torch.randint(10, (8 * batch,))
    x = torch.randn(models, batch, *shape)
    y = one_hot(torch.randint(10, (models, batch)), 10).float()
    steps = {"plain": (plain_step(build, inputs, labels, batch), batch)}
    if with_vmap:
        each = vmap(lambda s, inputs: functional_call(module, s, (inputs,)))
        trained = {n for n, _ in module.named_parameters()}
        copied = {n: t.clone() for n, t in state.items()}
        steps["vmap"] = (autograd_step(each, copied, trained, x, y), batch * models)
    stack = ModelStack(module, state, shape)
    training = TrainingOptions(learning_rate=0.01, batch_size=batch)
    parts = split_into_blocks(stack, training, torch.device("cpu"))
    for what, kind in ENGINES.items():
        if what != "fused" or fused_cnn.supports(module):
            steps[what] = (engine_step(kind, stack, parts, x, y), batch * models)
    engine = make_engine(stack, training)
    chosen = next(what for what, kind in ENGINES.items() if type(engine) is kind)
    return Case(steps, chosen, _operations(module, shape))


def _operations(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Outputs, gradients of weights and of inputs, which the first layer's need not; 2 each."""
    first = next((m for m in module.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d))), None)
    if first is None:
        return None  # attention has products that belong to no layer
    unneeded = multiplications(first, shape if len(shape) == 3 else (1, *shape))
    return 2 * (3 * multiplications(module, shape) - unneeded)


def microseconds(step: Step, samples: int, least: float = 0.1) -> float:
    """Processor time per sample and model, over steps of at least ``least`` seconds together."""
    begin, count = time.thread_time(), 0
    while count == 0 or time.thread_time() - begin < least:
        step()
        count += 1
    return (time.thread_time() - begin) / count / samples * 1e6


def row_of(case: tuple, columns: list[str], repetitions: int, with_vmap: bool) -> str:
    steps, chosen, operations = prepare(*case, with_vmap=with_vmap)
    left, right = torch.randn(2, PEAK_SIDE, PEAK_SIDE)
    steps["peak"] = (lambda: torch.mm(left, right), 1)
    for step, _ in steps.values():
        step()
    times: dict[str, list[float]] = {what: [] for what in steps}
    for _ in range(repetitions):
        for what, (step, samples) in steps.items():
            times[what].append(microseconds(step, samples))
    medians = {what: sorted(t)[len(t) // 2] for what, t in times.items()}
    peak = 2 * PEAK_SIDE**3 / medians["peak"]  # operations per microsecond
    parts = [
        "" if operations is None else f"{operations / medians[what] / peak:.0%}"
        for what in ("plain", chosen)
    ]
    name, width, side, batch, models, _ = case
    size = f"{side}" if name == "conv1d" else f"{side} x {side}"
    cells = [
        f"{medians[what]:.1f}{'*' * (what == chosen)}" if what in medians else ""
        for what in columns
    ]
    ratio = f"{medians['plain'] / medians[chosen]:.2f}"
    row = [f"{name} {width}", size, str(batch), str(models), *cells, ratio, *parts]
    return f"| {' | '.join([*row, f'{peak / 1000:.0f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", help="an architecture's name")
    parser.add_argument("--side", type=int, help="only images of this side")
    parser.add_argument("--vmap", action="store_true", help="time vmap over functional_call too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = ["plain", *(["vmap"] if arguments.vmap else []), *ENGINES]
    titles = ["network", "input", "batch", "models", *columns, "ratio"]
    titles += ["plain / peak", "chosen / peak", "peak, GFLOP/s"]
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread\n")
    print(f"| {' | '.join(titles)} |")
    print("|---" * len(titles) + "|")
    for case in CASES:
        if arguments.only in (None, case[0]) and arguments.side in (None, case[2]):
            print(row_of(case, columns, arguments.repetitions, arguments.vmap), flush=True)


if __name__ == "__main__":
    main()
