"""Sections of gpu.py: the fused training step against the plain one.

The plain one is the step of the workflow, in its CUDA graph; times are of whole epochs on data that
lie on the device, gathering included. Each figure is written as it is found, and one that fails
takes no other with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

import checkout  # noqa: F401
import torch
from gpu_timing import builder, release, seconds
from torch import Tensor

from lipdescent.training import fused_step
from lipdescent.training.block import Block, TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.options import TrainingOptions

FEATURES, CLASSES, SAMPLES = 40, 10, 4000
UPDATES_COMPARED = 50
SECONDS = 50  # that a section may take
CLIPPED = {"gradient_clip": 50.0}  # as config/studies/ks_fcn_ce.yaml, whose networks end in a ReLU
# Models, batch, width, options; the first ones are the most telling.
CASES = [(4, 512, w, CLIPPED) for w in (131072, 64, 4096, 512, 32768, 16)]
CASES.insert(2, (30, 100, 64, {"momentum": 0.9}))


def fused(report) -> None:
    """Seconds per update, plain and fused, and how far gradients and weights are apart.

    Weights of networks that end in a ReLU come apart where a logit is moved over its kink, by any
    rounding: the control is the plain step from weights that are moved by 1e-6 of themselves.
    """
    interpreted(report)
    cases = [(2, 20, 16, CLIPPED), (3, 20, 8, {"momentum": 0.9})] if report.small else CASES
    report.table(
        "The fused step (Triton) against the plain one in a CUDA graph, MNIST1D's sizes",
        "models", "batch", "width", "step", "microseconds per update", "times as fast as plain",
        f"relative difference of the weights after {UPDATES_COMPARED} updates or a little more",
        "of a first update's gradient",
    )  # fmt: skip
    end = time.perf_counter() + SECONDS
    found: dict[tuple, tuple[float, list[Tensor]]] = {}
    for products in ("bf16x6", "plain, moved by 1e-6", "tf32x3"):
        for case in cases:
            for step in ("plain", products):
                if step == "plain" and case[:3] in found:
                    continue
                if time.perf_counter() > end or not report.in_time(f"{step} {case[:3]}"):
                    report.row(*case[:3], step, "left out, the time was up", "", "", "")
                    continue
                plain = found.get(case[:3])
                cells, own = _row(report, partial(_measured, report, *case, step), plain)
                report.row(*case[:3], step, *cells)
                if step == "plain" and own is not None:
                    found[case[:3]] = own


def _row(report, measure: Callable, plain) -> tuple[list[str], tuple | None]:
    """Cells of a row, and what was measured; None where it failed."""
    try:
        spent, weights, gradients_apart = measure()
    except Exception as error:
        return [failed(error), "", "", ""], None
    finally:
        release(report.device)
    cells = [f"{1e6 * spent:.1f}", "", "", gradients_apart]
    if plain is not None:
        cells[1] = f"{plain[0] / spent:.2f}"
        apart = [float((a - b).norm() / b.norm()) for a, b in zip(weights, plain[1], strict=True)]
        cells[2] = f"{max(apart):.1e}"
    return cells, (spent, weights)


def failed(error: Exception) -> str:
    return f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def interpreted(report) -> None:
    """A rehearsal: with TRITON_INTERPRET=1 the kernels run on a CPU, slowly."""
    if report.small and os.environ.get("TRITON_INTERPRET") == "1":
        fused_step.fused_step_available = fused_step.computed


def _block(device, models: int, batch: int, width: int, options: dict, *, fused: bool) -> Block:
    samples = SAMPLES if device.type == "cuda" else 2 * batch + 10
    draws = torch.Generator().manual_seed(0)
    data = TrainingData(
        torch.randn(samples, FEATURES, generator=draws).to(device),
        torch.randint(CLASSES, (models, samples), generator=draws).to(device),
        CLASSES,
    )
    stack = initial_stack(
        builder("mlp", width, (FEATURES,), bias=False, output_slope=0.0), range(models), (FEATURES,)
    )
    settings = TrainingOptions(learning_rate=0.005, batch_size=batch, fused_step=fused, **options)
    return Block(stack, data, slice(0, models), settings)


def _measured(report, models, batch, width, options, step) -> tuple[float, list[Tensor], str]:
    """Seconds per update, weights after the updates to be compared, error of a first gradient."""
    is_fused, apart = not step.startswith("plain"), ""
    if is_fused:
        fused_step.FLOAT32_PRODUCTS = step
    block = _block(report.device, models, batch, width, options, fused=is_fused)
    if is_fused:
        if block.fused_step is None:
            raise RuntimeError("no fused step: the log says why")
        apart = f"{block.fused_step.try_out(block.engine, block.optimizer, 0):.1e}"
    elif step != "plain":
        draws = torch.Generator(report.device).manual_seed(0)
        for p in block.engine.parameters:
            moves = torch.randn(p.shape, generator=draws, device=p.device)
            p.mul_(1 + 1e-6 * moves)
    samples = len(block.inputs)
    order = torch.arange(samples, device=report.device).repeat(models, 1)
    updates = -(-samples // batch)
    rates = torch.full((updates, models), 0.005, device=report.device)
    for epoch in range(-(-(4 if report.small else UPDATES_COMPARED) // updates)):
        block.run_epoch(order, rates, epoch * updates)
    weights = [p.clone() for p in block.engine.parameters]
    least = 0.05 if report.small else 0.3
    return (
        seconds(partial(block.run_epoch, order, rates, 0), report.device, least=least) / updates,
        weights,
        apart,
    )
