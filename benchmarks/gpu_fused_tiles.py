"""Section `fused_tiles` of gpu.py: each kernel of the fused step with several tiles, by width.

``Plan.of`` is chosen by it. Times are of replayed graphs, as in training; errors are of the slopes
and of the gradients from float64 products of the same factors. A variant that fails takes no other
with it.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import checkout  # noqa: F401
import torch
from gpu_fused import failed, interpreted
from gpu_timing import builder, release, seconds
from torch import Tensor

from lipdescent.training import fused_step
from lipdescent.training.draws import initial_stack
from lipdescent.training.engines.choice import make_engine
from lipdescent.training.engines.fused_mlp import StackedMLP
from lipdescent.training.fused_step import OneHiddenLayer, Plan, Tile
from lipdescent.training.options import TrainingOptions

FEATURES, CLASSES = 40, 10
SECONDS = 75  # that all may take
COMPILING = 45  # seconds that are waited for other processes' compilations
PER_GRAPH = 20  # launches
MOST_APART = 1e-5  # of a kernel's results, by their norm
FAR = 1e-5  # a hidden unit from its kink, to be compared: rounding does not move it over
WIDTHS = (131072, 4096, 64, 1024, 32768, 256, 16)


@dataclass(frozen=True)
class Variant:
    """A tile, the products in it, and the hidden units of a part or the samples of a span."""

    tile: Tile
    piece: int
    products: str = "bf16x6"

    def __str__(self) -> str:
        t = self.tile
        return (
            f"{t.rows}x{t.units}, {t.warps} warps, {'joined, ' * t.joined}{t.parts} parts, "
            f"stages {t.stages}; {self.piece}; {self.products}"
        )


def variants(width: int, batch: int) -> tuple[list[Variant], list[Variant]]:
    """Of the forward and the backward kernel; the first are what the plan has."""
    plan = Plan.of(width, batch)
    part, span = plan.part, plan.span
    planned = Variant(plan.forward, part), Variant(plan.backward, span)
    if width > 256:
        forward = [
            Variant(Tile(128, 64, 8, joined=True, parts=3, stages=1), part),
            Variant(Tile(128, 64, 8, joined=True, parts=3, stages=1), 2 * part),
            Variant(Tile(128, 64, 8, joined=True, parts=3), part),
            Variant(Tile(128, 64, 4, joined=True, parts=3, stages=1), part),
            Variant(Tile(128, 64, 8, joined=True), part),
            Variant(Tile(64, 64, 4, joined=True), part),
            Variant(Tile(64, 64, 4, joined=True, stages=1), part),
            Variant(Tile(64, 64, 4), part, "tf32x3"),
        ]
    else:
        forward = [
            Variant(Tile(16, 64, 4), part),
            Variant(Tile(32, 64, 4), part),
            Variant(Tile(32, 64, 4, stages=1), part),
            Variant(Tile(16, 16, 1), part),
        ]
    if width > 2048:
        backward = [
            Variant(Tile(64, 64, 4), span),
            Variant(Tile(64, 64, 4, parts=1), span),
            Variant(Tile(32, 64, 4), span),
            Variant(Tile(64, 128, 8), span),
            Variant(Tile(32, 128, 8), span),
            Variant(Tile(64, 64, 4, stages=1), span),
            Variant(Tile(64, 64, 4), span, "tf32x3"),
        ]
    else:
        backward = [
            Variant(Tile(64, 64, 4), 128),
            Variant(Tile(64, 64, 4, parts=1), 128),
            Variant(Tile(32, 64, 4), 64),
            Variant(Tile(32, 32, 2, parts=1), 128),
            Variant(Tile(32, 16, 4, parts=1), 64),
            Variant(Tile(64, 32, 4), 128),
            Variant(Tile(16, 16, 2, parts=1), 64),
        ]
    return tuple(
        list(dict.fromkeys((first, *others)))
        for first, others in zip(planned, (forward, backward), strict=True)
    )


NARROW = [
    Variant(Tile(32, 64, 4, parts=1), 32),
    Variant(Tile(32, 64, 4), 32),
    Variant(Tile(32, 64, 8, parts=1), 32),
    Variant(Tile(16, 64, 4, parts=1), 16),
    Variant(Tile(16, 32, 2, parts=1), 16),
    Variant(Tile(16, 32, 2, parts=1), 32),
    Variant(Tile(16, 16, 1, parts=1), 16),
    Variant(Tile(16, 16, 1, parts=1), 32),
]


class Bench:
    """A stack of networks of one width, a batch, and what float64 makes of it."""

    def __init__(self, device: torch.device, models: int, batch: int, width: int) -> None:
        self.device = device
        self.options = TrainingOptions(
            learning_rate=0.005, batch_size=batch, gradient_clip=50.0, fused_step=True
        )
        draws = torch.Generator().manual_seed(0)
        self.x = torch.randn(models, batch, FEATURES, generator=draws).to(device)
        labels = torch.randint(CLASSES, (models, 1, batch), generator=draws)
        self.targets = (labels == torch.arange(CLASSES)[:, None]).float().to(device).mT
        self.rate = torch.zeros(models, device=device)  # weights stay as they are
        build = builder("mlp", width, (FEATURES,), bias=False)
        stack = initial_stack(build, range(models), (FEATURES,)).to(
            device=device, dtype=torch.float32
        )
        self.engine, self.optimizer = (
            make_engine(stack, self.options),
            self.options.make_optimizer(),
        )
        self.optimizer.prepare(self.engine.parameters)
        first, last = (p.double() for p in self.engine.parameters)
        self.hidden = self.x.double() @ first
        logits = self.hidden.relu() @ last.mT
        self.slopes = (logits.softmax(2) - self.targets) / batch
        self.compared = self.hidden.abs().amin(1) > FAR

    def step(self, forward: Variant, backward: Variant) -> OneHiddenLayer:
        fused_step.FLOAT32_PRODUCTS = forward.products
        plan = Plan(forward.tile, backward.tile, part=forward.piece, span=backward.piece)
        assert isinstance(self.engine, StackedMLP)
        return OneHiddenLayer(self.engine, self.optimizer, self.options, plan=plan)

    def narrow(self, variant: Variant) -> OneHiddenLayer:
        fused_step.FLOAT32_PRODUCTS = variant.products
        plan = Plan(variant.tile, variant.tile, part=256, span=variant.piece, narrow=True)
        assert isinstance(self.engine, StackedMLP)
        return OneHiddenLayer(self.engine, self.optimizer, self.options, plan=plan)

    def both_passes(self, step: OneHiddenLayer) -> tuple[Callable[[], None], float]:
        """As :meth:`forward`; sums over spans are not a part of it, but its error is of them."""
        step._slopes.fill_(torch.nan)
        for buffer in step._by_span:
            buffer.fill_(torch.nan)
        step.both_passes(self.x, self.targets, self.rate)
        found = [by_span.double().sum(0) for by_span in step._by_span]
        run = partial(step.both_passes, self.x, self.targets, self.rate)
        return run, self._error(found, self.slopes)

    def _error(self, gradients: Sequence[Tensor], slopes: Tensor) -> float:
        """Relative, the larger of both weights', where no hidden unit is at its kink."""
        dh = (slopes @ self.engine.parameters[1].double()) * (self.hidden > 0)
        truths = self.x.double().mT @ dh, slopes.mT @ self.hidden.relu()
        mask, errors = self.compared[:, None], []
        for found, truth in zip(gradients, truths, strict=True):
            apart = torch.where(mask, found - truth, 0.0).norm()
            errors.append(float(apart / torch.where(mask, truth, 0.0).norm()))
        return max(errors)

    def forward(self, step: OneHiddenLayer) -> tuple[Callable[[], None], float]:
        """What is to be timed, and its relative error."""
        step._slopes.fill_(torch.nan)
        step.forward(self.x, self.targets)
        found = step._slopes.double().sum(0)[..., :CLASSES]
        error = (found - self.slopes).norm() / self.slopes.norm()
        return partial(step.forward, self.x, self.targets), float(error)

    def backward(self, step: OneHiddenLayer) -> tuple[Callable[[], None], float]:
        """As :meth:`forward`; the sum over spans is a part of it."""
        step.forward(self.x, self.targets)
        for buffer in (*step._buffers, *step._by_span):
            buffer.fill_(torch.nan)

        def run() -> None:
            step.backward(self.x.shape[1], self.rate)
            if step._spans > 1:
                step.add_spans(self.rate)

        run()
        return run, self._error(step._buffers, step._slopes.double().sum(0)[..., :CLASSES])


def compiled(models: int, batch: int, width: int, forward: Variant, backward: Variant) -> None:
    """In a process of its own: Triton keeps what it compiles on the disk."""
    bench = Bench(torch.device("cuda"), models, batch, width)
    bench.step(forward, backward)(bench.x, bench.targets, bench.rate)
    torch.cuda.synchronize()


def compiled_narrow(models: int, batch: int, variant: Variant) -> None:
    """As :func:`compiled`."""
    for width in (16, 64):
        bench = Bench(torch.device("cuda"), models, batch, width)
        bench.narrow(variant)(bench.x, bench.targets, bench.rate)
    torch.cuda.synchronize()


def compile_all(models: int, batch: int) -> str:
    """All variants at once; one that fails is seen again where it is to be timed."""
    jobs: dict[tuple, int] = {}
    for width in (4096, 1024, 256):  # each has code that the others have not
        forward, backward = variants(width, batch)
        for pair in zip_longest(forward, backward):
            own = pair[0] or forward[0], pair[1] or backward[0]
            jobs.setdefault((own, width > 256), width)
    begin, context = time.perf_counter(), multiprocessing.get_context("spawn")
    workers = max(1, min(14, (os.cpu_count() or 2) - 2))
    pool = ProcessPoolExecutor(workers, mp_context=context)
    tasks = [pool.submit(compiled, models, batch, width, *own) for (own, _), width in jobs.items()]
    tasks += [pool.submit(compiled_narrow, models, batch, variant) for variant in NARROW]
    done, late = wait(tasks, timeout=COMPILING)
    pool.shutdown(wait=False, cancel_futures=True)
    bad = sum(task.exception() is not None for task in done)
    spent = time.perf_counter() - begin
    return (
        f"{len(done)} compiled by {workers} processes in {spent:.0f} s, {bad} of them failed, "
        f"{len(late)} late"
    )


def microseconds(run: Callable[[], object], device: torch.device, *, least: float) -> float:
    """Of a call, in a graph of several as in training."""
    if device.type != "cuda":
        return 1e6 * seconds(run, device, least=least)
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(PER_GRAPH):
            run()
    return 1e6 * seconds(graph.replay, device, least=least) / PER_GRAPH


def fused_tiles(report) -> None:
    """Each kernel with several tiles, to choose ``Plan.of`` by; the best ones together."""
    interpreted(report)
    models, batch, widths = (2, 20, (16, 300)) if report.small else (4, 512, WIDTHS)
    end = time.perf_counter() + SECONDS
    if not report.small:
        try:
            report.say("", compile_all(models, batch))
        except Exception as error:
            report.say("", f"Nothing compiled beforehand: {failed(error)}")
    report.table(
        f"Kernels of the fused step by their tiles, {models} networks, batch {batch}",
        "width", "kernel", "tile; part or span; products", "microseconds", "relative error", "",
    )  # fmt: skip
    for width in widths:
        if time.perf_counter() > end or not report.in_time(f"tiles of width {width}"):
            report.row(width, "", "left out, the time was up", "", "", "")
            continue
        try:
            _of_width(report, Bench(report.device, models, batch, width), width, batch, end)
        except Exception as error:
            report.row(width, "", failed(error), "", "", "")
        release(report.device)


def _of_narrow(report, bench: Bench, width: int, end: float) -> None:
    """Updates in two kernels."""
    least = 0.01 if report.small else 0.05
    for variant in NARROW:
        if time.perf_counter() > end:
            report.row(width, "both passes", variant, "left out, the time was up", "", "")
            continue
        try:
            step = bench.narrow(variant)
            run, error = bench.both_passes(step)
            spent = microseconds(run, bench.device, least=least)
            update = partial(step, bench.x, bench.targets, bench.rate)
            whole = microseconds(update, bench.device, least=least)
            report.row(
                width, "both passes", variant, f"{spent:.1f}", f"{error:.1e}",
                f"update of two kernels {whole:.1f}" + (" WRONG" if not error < MOST_APART else ""),
            )  # fmt: skip
        except Exception as error:
            report.row(width, "both passes", variant, failed(error), "", "")
        release(bench.device)


def _of_width(report, bench: Bench, width: int, batch: int, end: float) -> None:
    least = 0.01 if report.small else 0.05
    forwards, backwards = variants(width, batch)
    if width <= fused_step.MOST_NARROW:
        _of_narrow(report, bench, width, end)
    best = []
    for kernel, options in (("forward", forwards), ("backward", backwards)):
        found: dict[Variant, float] = {}
        for variant in options:
            if time.perf_counter() > end:
                report.row(width, kernel, variant, "left out, the time was up", "", "")
                continue
            try:
                other = Variant(Plan.of(width, batch).forward, forwards[0].piece, variant.products)
                pair = (variant, backwards[0]) if kernel == "forward" else (other, variant)
                run, error = getattr(bench, kernel)(bench.step(*pair))
                spent = microseconds(run, bench.device, least=least)
                report.row(
                    width, kernel, variant, f"{spent:.1f}", f"{error:.1e}",
                    "" if error < MOST_APART else "WRONG",
                )  # fmt: skip
                if error < MOST_APART and variant.products == options[0].products:
                    found[variant] = spent
            except Exception as error:
                report.row(width, kernel, variant, failed(error), "", "")
            release(bench.device)
        best.append(min(found, key=found.__getitem__) if found else options[0])
        report.row(width, kernel, best[-1], f"{found.get(best[-1], math.nan):.1f}", "", "BEST")
    for name, pair in (("planned", (forwards[0], backwards[0])), ("best", tuple(best))):
        step = bench.step(*pair)
        whole = microseconds(
            partial(step, bench.x, bench.targets, bench.rate), bench.device, least=least
        )
        clip = microseconds(partial(step.clipped_step, bench.rate), bench.device, least=least)
        report.row(
            width, f"update, {name}", " + ".join(map(str, pair)), f"{whole:.1f}", "",
            f"clipping and step {clip:.1f}",
        )  # fmt: skip
