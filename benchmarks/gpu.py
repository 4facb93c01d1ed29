"""What a CUDA device does: the checks of tests/cuda_checks.py, then benchmarks; see gpu.sh.

Times are of whole epochs as the workflow trains them (order of the batches, gathering, graphs),
after one epoch of warming up, the device synchronised at both ends. "Plain" is one model in plain
PyTorch with a DataLoader and its batches copied to the device, as most training scripts do it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import multiprocessing
import platform
import re
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import checkout  # noqa: F401
import gpu_fused
import gpu_fused_tiles
import gpu_workflow
import numpy as np
import torch
from cuda_checks import CHECKS
from gpu_timing import builder, release, seconds, wait
from torch import Tensor
from torch.nn.functional import cross_entropy

from lipdescent.bounds import upper_block_lipsdp, upper_layer_product
from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.jobs import device as devices
from lipdescent.stacks.workload import multiplications
from lipdescent.study import sections
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.engines import fused_cnn, stacked_autograd
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import StackTraining

CIFAR = (3, 32, 32)
FORWARD_AND_BACKWARD = 3  # products of a training step over those of a forward pass


class Report:
    """The Markdown file, written line by line."""

    def __init__(self, path: Path, device: torch.device, *, minutes: float = math.inf) -> None:
        self.path, self.device = path, device
        self.end = time.perf_counter() + 60 * minutes
        path.write_text("")
        self.small = device.type == "cpu"
        self.peaks: dict[str, float] = {}
        self.again: set[str] | None = None  # the checks to run, None for all
        self.networks: list[str] | None = None  # those that are timed, None for all

    def say(self, *lines: str) -> None:
        with self.path.open("a") as file:
            for line in lines:
                print(line, flush=True)
                file.write(line + "\n")

    def table(self, title: str, *columns: str) -> None:
        self.say("", f"## {title}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|")

    def row(self, *cells: object) -> None:
        self.say(f"| {' | '.join(map(str, cells))} |")

    def chosen(self, cases: Sequence[tuple]) -> list[tuple]:
        """Those of the networks asked for; a case begins with its network."""
        return [case for case in cases if self.networks is None or case[0] in self.networks]

    def in_time(self, what: str) -> bool:
        """Whether there is time left; where there is none, what is left out is said."""
        if time.perf_counter() < self.end:
            return True
        self.say("", f"Left out, as the time was up: {what}.", "")
        return False


def checks(report: Report) -> None:
    report.table("Checks", "check", "result", "seconds")
    for name, check in CHECKS.items():
        if report.again is not None and name not in report.again:
            continue
        if not report.in_time(f"check {name}"):
            break
        begin = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                check(str(report.device))
            result = "passed"
        except ModuleNotFoundError as error:
            result = f"not run: {error}"
        except Exception as error:
            result = f"FAILED: {' '.join(str(error).split())[:200]}"
            traceback.print_exc()
        report.row(name, result, f"{time.perf_counter() - begin:.1f}")


def workflow(report: Report) -> None:
    """The default study from the data to the report, on the device."""
    place = str(report.device)

    def compared() -> None:
        for name, (apart, count) in gpu_workflow.bounds_apart("gpu", place).items():
            what = f"largest relative difference to the processor, {name}"
            report.row(what, f"{apart:.1e} of {count} checkpoints")

    study_run(report, "gpu", place, compared)


def processor(report: Report) -> None:
    """The same on the processor, and the device's table against its."""

    def compared() -> None:
        if not Path("results/gpu/table.parquet").exists():
            return
        for quantity in ("train_loss", "test_loss", "test_accuracy", "upper_layer_product"):
            report.row(
                f"largest difference, {quantity}", gpu_workflow.apart("gpu", "processor", quantity)
            )

    study_run(report, "processor", "cpu", compared)


def study_run(
    report: Report, study: str, device: str, compared: Callable[[], None] | None = None
) -> None:
    """The default study: its seconds, those of its stages, what ``compared`` adds to them; when
    each of its jobs began and ended, with an x for those that the end waited for."""
    report.table(f"The workflow end to end on {device}", "what", "found")
    if absent := gpu_workflow.missing():
        report.row("not run", f"missing: {', '.join(absent)}; make gpu-wheels brings them")
        return
    folder = report.path.parent.resolve()
    begin, spent = gpu_workflow.run_study(study, device, folder, small=report.small)
    report.row("default study, data to report", f"{spent:.0f} s")
    jobs = gpu_workflow.jobs(study)
    for stage, (count, total, longest) in gpu_workflow.stages(jobs).items():
        report.row(stage, f"{count} jobs, {total:.1f} s, longest {longest:.1f} s")
    if compared is not None:
        compared()
    on_chain = set(gpu_workflow.chain(jobs))
    report.table(f"When its jobs ran on {device}", "job", "start", "end", "CPU s", "on the chain")
    for job in jobs:
        times = (f"{job.start - begin:.1f}", f"{job.end - begin:.1f}", f"{job.cpu:.1f}")
        report.row(f"{job.rule} {job.name}".strip(), *times, "x" if job in on_chain else "")


def peaks(report: Report) -> None:
    """Matrix products and copies, measured."""
    size = 512 if report.small else 8192
    report.table("Peaks", "what", "measured")
    for precision in ("float32", "tf32", "bfloat16", "float64"):
        dtype = getattr(torch, "float32" if precision == "tf32" else precision)
        devices.set_precision(precision)
        a, b = (torch.randn(size, size, device=report.device).to(dtype) for _ in range(2))
        spent = seconds(lambda a=a, b=b: a @ b, report.device, least=0.2)
        report.peaks[precision] = 2 * size**3 / spent
        report.row(
            f"{precision} product of {size} x {size}", f"{2e-12 * size**3 / spent:.3g} Tflop/s"
        )
    devices.set_precision("float32")
    a = torch.empty(2**24 if report.small else 2**28, device=report.device)
    b = torch.empty_like(a)
    spent = seconds(lambda: b.copy_(a), report.device, least=0.2)
    report.row("copy, read + written", f"{2e-9 * a.numel() * 4 / spent:.4g} GB/s")


def stack_epoch(build, shape, *, models, batch, samples, device, precision="float32", **options):
    """One epoch of ``models`` networks in the way the workflow trains them, as a call."""
    dtype = devices.set_precision(precision)
    seeds = list(range(models))
    data = TrainingData(
        torch.randn(samples, *shape, device=device, dtype=dtype),
        torch.randint(10, (models, samples), device=device),
        10,
    )
    settings = {"learning_rate": 0.001, "batch_size": batch, "momentum": 0.9}
    training = StackTraining(
        initial_stack(build, seeds, shape),
        data,
        seeds=seeds,
        epochs=[0, 10**9],
        options=TrainingOptions(**settings | options, precision=precision),
    )
    training.epoch = 1  # epoch 0 would also be looked at
    return training.one_epoch


def plain_epoch(build, shape, *, batch, samples, device, resident=False):
    """One epoch of one network in plain PyTorch, as a call.

    Batches come from a DataLoader, or, ``resident``, from tensors that lie on the device.
    """
    devices.set_precision("float32")
    model = build().to(device)
    inputs, labels = torch.randn(samples, *shape), torch.randint(10, (samples,))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, labels),
        batch_size=batch, shuffle=True, pin_memory=device.type == "cuda",
    )  # fmt: skip
    here, marks = inputs.to(device), labels.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)

    def batches():
        if not resident:
            for pair in loader:
                yield (t.to(device, non_blocking=True) for t in pair)
            return
        for rows in torch.randperm(samples, device=device).split(batch):
            yield here[rows], marks[rows]

    def epoch() -> None:
        for x, y in batches():
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

    return epoch


def training(report: Report) -> None:
    small, device = report.small, report.device
    cases = [
        ("mlp", (40,), 4000, 100, 30, (64,), {}),
        ("cnn", CIFAR, 8192, 128, 16, (12,), {}),
        ("resnet18", CIFAR, 4096, 128, 8, (16,), {}),
        ("vit", CIFAR, 2048, 128, 8, (64,), {}),
        ("cnn", CIFAR, 8192, 128, 16, (8, 20), {}),
    ]
    if small:
        cases = [
            ("mlp", (40,), 500, 100, 4, (64,), {}),
            ("cnn", (3, 16, 16), 64, 32, 3, (8,), {}),
            ("resnet18", (3, 8, 8), 64, 32, 2, (4,), {}),
        ]
    modes = [("float32", {}), ("tf32", {}), ("bfloat16", {"channels_last": True})]
    modes = modes[:1] + modes[2:] if small else modes
    if not report.peaks:
        peaks(report)
    report.table(
        "A stack against one model at a time in plain PyTorch (float32)",
        "network", "models", "batch", "precision", "models x samples/s", "plain", "ratio",
        "ratio, data on the device", "of the measured peak",
    )  # fmt: skip
    least, profiles = 0.2 if small else 1.2, []
    for name, shape, samples, batch, models, widths, options in report.chosen(cases):
        for width in widths:
            if not report.in_time(f"{name} {width}"):
                break
            build = builder(name, width, shape, **options)
            sizes = {"batch": batch, "samples": samples, "device": device}
            alone, resident = (
                seconds(plain_epoch(build, shape, **sizes, resident=r), device, least=least)
                for r in (False, True)
            )
            products = multiplications(build(), shape)
            for precision, layout in modes:
                epoch = stack_epoch(
                    build, shape, models=models, batch=batch, samples=samples, device=device,
                    precision=precision, **layout,
                )  # fmt: skip
                spent = seconds(epoch, device, least=least)
                rate = models * samples / spent
                flops = 2 * FORWARD_AND_BACKWARD * products * rate
                report.row(
                    f"{name} {width}", models, batch, " ".join([precision, *layout]),
                    f"{rate:.3g}", f"{samples / alone:.3g}", f"{models * alone / spent:.1f}",
                    f"{models * resident / spent:.1f}",
                    f"{100 * flops / report.peaks[precision]:.1f} %",
                )  # fmt: skip
                label = f"{name} {width}, {models} models, {precision}"
                profiles.append((label, -(-samples // batch), profiled(epoch, device)))
                del epoch
                release(device)
    devices.set_precision("float32")
    profile_table(report, profiles)


def profile_table(
    report: Report, profiles: Sequence[tuple[str, int, tuple[float, float, int, str] | None]]
) -> None:
    """What :func:`profiled` found of stacks, each with its updates in an epoch."""
    report.table(
        "Where an epoch's time goes",
        "stack", "host and device (ms)", "device busy (ms)", "kernels per update", "longest (ms)",
    )  # fmt: skip
    for label, updates, found in profiles:
        if found is not None:
            wall, busy, count, longest = found
            report.row(label, f"{wall:.2f}", f"{busy:.2f}", f"{count / updates:.1f}", longest)


def profiled(
    epoch: Callable[[], None], device: torch.device
) -> tuple[float, float, int, str] | None:
    """Milliseconds and kernels of one epoch: all, device, number, the kinds that take longest.

    None where there is no device or its profiler does not work.
    """
    if device.type != "cuda":
        return None
    try:
        wait(device)
        begin = time.perf_counter()
        epoch()
        wait(device)
        wall = time.perf_counter() - begin
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            epoch()
            wait(device)
        kinds = [k for k in profile.key_averages() if k.self_device_time_total > 0]
        kinds.sort(key=lambda k: -k.self_device_time_total)
        longest = "; ".join(
            f"{k.self_device_time_total / 1e3:.2f} {k.key[:60].replace('|', ' ')} ({k.count})"
            for k in kinds[:6]
        )
        busy = sum(k.self_device_time_total for k in kinds) / 1e3
        return 1e3 * wall, busy, sum(k.count for k in kinds), longest
    except RuntimeError as error:
        print(f"no profile: {error}")
        return None


def convolutions(report: Report) -> None:
    """Ways to convolve a stack in float32: cuDNN's groups, products by rows, the fused pass."""
    plain = {"batchnorm": False}
    cases = [
        *(("cnn", CIFAR, 2048, 128, 16, width, {}) for width in (2, 4, 8, 12, 16, 20, 32)),
        ("cnn", CIFAR, 2048, 128, 4, 64, {}),
        *(("resnet18", CIFAR, 1024, 128, 9, width, plain) for width in (1, 4, 8, 12)),
        *(("resnet18", CIFAR, 1024, 128, 8, width, {}) for width in (4, 16, 24)),
        ("resnet18", CIFAR, 1024, 128, 4, 32, {}), ("resnet18", CIFAR, 512, 128, 4, 48, {}),
        ("resnet18", CIFAR, 512, 128, 2, 64, {}),
    ]  # fmt: skip
    if report.small:
        cases = [("cnn", (3, 8, 8), 64, 32, 2, 4, {}), ("resnet18", (3, 8, 8), 64, 32, 2, 2, plain)]
    ways = {"groups": (False, False), "rows": (True, False), "fused": (False, True)}
    usual = stacked_autograd.pays_by_rows
    report.table("Convolutions of a stack, float32", "stack", "models", *ways, "profile of rows")
    for name, shape, samples, batch, models, width, options in report.chosen(cases):
        if not report.in_time(f"{name} {width}"):
            break
        cells, profile = [], None
        build = builder(name, width, shape, **options)
        for way, (rows, fused) in ways.items():
            if way == "fused" and name != "cnn":
                cells.append("")
                continue
            stacked_autograd.pays_by_rows = lambda module, rows=rows: rows
            fused_cnn.ON_CUDA = fused
            try:
                epoch = stack_epoch(
                    build, shape, models=models, batch=batch, samples=samples, device=report.device
                )
                spent = seconds(epoch, report.device, least=0.3)
                cells.append(f"{models * samples / spent:.3g}")
                if way == "rows":
                    profile = profiled(epoch, report.device)
                del epoch
            except RuntimeError as error:
                cells.append(" ".join(str(error).split())[:100])
            finally:
                stacked_autograd.pays_by_rows, fused_cnn.ON_CUDA = usual, False
            release(report.device)
        label = f"{name} {width}{', no BatchNorm' if options else ''}"
        report.row(label, models, *cells, profile[-1] if profile else "")


def resnet64(report: Report) -> None:
    """One wide network: the workflow against a plain loop with every usual remedy."""
    width, shape, samples, batch = (
        (4, (3, 8, 8), 64, 32) if report.small else (64, CIFAR, 8192, 128)
    )
    device, least = report.device, 0.2 if report.small else 1.5
    build = builder("resnet18", width, shape)
    report.table(f"ResNet18 of width {width} alone, batch {batch}", "way", "samples/s")
    rates, profiles = [], []
    for mode in ("default",) if report.small else ("default", "reduce-overhead"):
        loop = tuned_epoch(build, shape, samples, batch, report, mode)
        rates.append(samples / seconds(loop, device, least=least))
        text = f"plain loop: bfloat16, channels last, compiled ({mode}), data resident"
        report.row(text, f"{rates[-1]:.4g}")
        profiles.append((text, profiled(loop, device)))
        del loop
        release(device)
    for precision, last in (("bfloat16", True), ("bfloat16", False), ("tf32", False)):
        epoch = stack_epoch(
            build, shape, models=1, batch=batch, samples=samples, device=device,
            precision=precision, channels_last=last,
        )  # fmt: skip
        spent = seconds(epoch, device, least=least)
        text = f"lipdescent: {precision}{', channels_last' if last else ''}"
        share = 100 * samples / spent / max(rates)
        report.row(text, f"{samples / spent:.4g} ({share:.0f} % of the faster plain loop)")
        profiles.append((text, profiled(epoch, device)))
        del epoch
        release(device)
    devices.set_precision("float32")
    updates = -(-samples // batch)
    profile_table(report, [(label, updates, profile) for label, profile in profiles])


def tuned_epoch(build, shape, samples, batch, report, mode) -> Callable[[], None]:
    """With "reduce-overhead" passes are replayed from CUDA graphs, as ours are."""
    devices.set_precision("tf32")
    device = report.device
    model = build().to(device, memory_format=torch.channels_last)
    if not report.small:
        model = torch.compile(model, mode=mode)
    inputs = torch.randn(samples, *shape, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (samples,), device=device)
    fused = device.type == "cuda"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, fused=fused)

    def epoch() -> None:
        order = torch.randperm(samples, device=device)
        for rows in order.split(batch):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


# Study -> how many of its widths are measured, None for all; the others are interpolated.
PROJECTED: dict[str, int | None] = {
    "ks_fcn_ce, fused": None, "ks_fcn_ce": None, "gamba_resnet18_cifar10": 3, "ks_cnn_cifar10": 3,
    "nakkiran_resnet18": 3,
}  # fmt: skip
SLICE = 16  # updates of an epoch that stand for all


def projections(report: Report) -> None:
    """Whole studies on this device from a slice of an epoch of their stacks; training only.

    At the largest number of epochs: studies that stop where the gradient is small take less.
    """
    report.table("Projections (training only)", "study", "of it", "projected", "minutes by width")
    for study, count in PROJECTED.items():
        if not report.in_time(f"the projection of {study}"):
            break
        try:
            report.row(study, *projected(report, study, count))
        except (RuntimeError, ValueError) as error:
            report.row(study, "failed", " ".join(str(error).split())[:200], "")
            traceback.print_exc()
        release(report.device)
    devices.set_precision("float32")


def projected(report: Report, study: str, count: int | None) -> tuple[str, str, str]:
    """What of a study was measured, hours in all, minutes by width."""
    # Here, as they need YAML: everything else of this file does without.
    import expected_cost

    from lipdescent.jobs import resources

    name, _, fused = study.partition(", ")
    config = expected_cost.study(name)
    grid, (architecture,) = config["grid"], config["grid"]["architecture"]
    options = sections.training_options(config, architecture)
    shape = expected_cost.SHAPES.get(grid["dataset"][0], CIFAR)
    samples, batch = resources.num_train(config, grid["dataset"][0]), options["batch_size"]
    models = len(grid["seed"]) * len(grid["label_noise"])
    widths, epochs = grid["width"], grid["epoch"][-1]
    if report.small:
        widths, models, count, samples = [w for w in widths if w <= 16][:2], 2, 2, 2 * batch
    chosen = widths
    if count is not None:
        places = np.linspace(0, len(widths) - 1, min(count, len(widths)))
        chosen = [widths[round(i)] for i in places]
    least = 0.1 if report.small else 0.4
    part = min(samples, SLICE * batch)
    found = []
    for width in chosen:
        if not report.in_time(f"{study} from width {width}"):
            break
        build = builder(
            sections.module(config, architecture), width, shape,
            **sections.build_options(config, architecture),
        )  # fmt: skip
        settings = {k: v for k, v in options.items() if k not in ("batch_size", "stopping")}
        settings["fused_step"] = bool(fused)
        epoch = stack_epoch(
            build, shape, models=models, batch=batch, samples=part, device=report.device, **settings
        )
        of_epoch = math.ceil(samples / batch) / math.ceil(part / batch)
        found.append(epochs * of_epoch * seconds(epoch, report.device, least=least))
        del epoch
        release(report.device)
    measured = chosen[: len(found)]
    total = np.exp(np.interp(np.log(widths), np.log(measured), np.log(found)))
    each = ", ".join(f"{w}: {s / 60:.1f}" for w, s in zip(measured, found, strict=True))
    what = f"{models} models at each of {len(widths)} widths, {epochs} epochs of {samples}"
    missing = "" if len(found) == len(chosen) else f", {len(found)} of {len(chosen)} measured"
    return what, f"{total.sum() / 3600:.3g} h{missing}", each


SHARING = (131072, 512, 64, 16)  # widths of ks_fcn_ce whose stacks share a device, as jobs do


def sharing(report: Report) -> None:
    """Epochs of one wide and three narrow stacks, each in a process of its own: alone, together."""
    widths = (32, 16) if report.small else SHARING
    context = multiprocessing.get_context("spawn")
    report.table(
        "Stacks that share a device, ks_fcn_ce, fused",
        "width", "epochs per second alone", "beside the others", "ratio",
    )  # fmt: skip
    least = 0.5 if report.small else 4.0
    alone = [_beside(context, report, [width], least)[0] for width in widths]
    together = _beside(context, report, widths, least)
    for width, one, shared in zip(widths, alone, together, strict=True):
        report.row(width, f"{one:.4g}", f"{shared:.4g}", f"{shared / one:.2f}")


def _beside(context, report: Report, widths: Sequence[int], least: float) -> list[float]:
    """Epochs per second of stacks of these widths that train at once, a process for each."""
    ready, results = context.Barrier(len(widths)), [context.Queue() for _ in widths]
    jobs = [
        context.Process(
            target=_shared, args=(report.device, report.small, width, least, ready, put)
        )
        for width, put in zip(widths, results, strict=True)
    ]
    for job in jobs:
        job.start()
    found = [result.get(timeout=120) for result in results]
    for job in jobs:
        job.join()
    return found


def _shared(device, small: bool, width: int, least: float, ready, found) -> None:
    import expected_cost

    config = expected_cost.study("ks_fcn_ce")
    (architecture,) = config["grid"]["architecture"]
    options = sections.training_options(config, architecture)
    settings = {k: v for k, v in options.items() if k not in ("batch_size", "stopping")}
    settings["fused_step"] = not small
    shape = expected_cost.SHAPES[config["grid"]["dataset"][0]]
    build = builder(
        sections.module(config, architecture), width, shape,
        **sections.build_options(config, architecture),
    )  # fmt: skip
    epoch = stack_epoch(
        build, shape, models=4, batch=512, samples=1024 if small else 4000, device=device,
        **settings,
    )  # fmt: skip
    epoch()
    wait(device)
    ready.wait(timeout=100)
    found.put(1 / seconds(epoch, device, least=least))


def bounds(report: Report) -> None:
    """The same on the device and on this machine's processor, and how far they differ."""
    product, block = upper_layer_product.layer_product, upper_block_lipsdp.block_lipsdp
    cases: list[tuple[str, str, int, tuple[int, ...], int, Callable]] = [
        ("Jacobian norms, 1000 points", "mlp", 256, (40,), 64, partial(_norms, n=1000)),
        ("Jacobian norms, 64 points", "cnn", 12, CIFAR, 2, partial(_norms, n=64)),
        ("layer product", "cnn", 16, CIFAR, 8, product),
        ("block LipSDP", "cnn", 8, CIFAR, 4, block),
        ("layer product", "resnet18", 8, CIFAR, 2, product),
    ]
    if report.small:
        cases = [(*case[:2], 2, case[3], 2, case[5]) for case in cases]
    threads = torch.get_num_threads()
    report.table(
        f"Bounds: {report.device} against the processor ({threads} threads)",
        "bound", "network", "models", "device (s)", "processor (s)", "ratio", "largest difference",
    )  # fmt: skip
    for what, name, width, shape, models, function in cases:
        if not report.in_time(f"{what} of {name} {width}"):
            return
        stack = initial_stack(builder(name, width, shape), list(range(models)), shape)
        there = stack.to(device=report.device)
        on_device, on_cpu = function(there), function(stack)
        device_seconds = seconds(partial(function, there), report.device, least=0.5)
        cpu = torch.device("cpu")
        cpu_seconds = seconds(partial(function, stack), cpu, least=0.5)
        apart = float((on_device.cpu() - on_cpu).abs().max() / on_cpu.abs().max())
        report.row(
            what, f"{name} {width}", models, f"{device_seconds:.3g}", f"{cpu_seconds:.3g}",
            f"{cpu_seconds / device_seconds:.1f}", f"{apart:.1e}",
        )  # fmt: skip
        release(report.device)


def _norms(stack, *, n: int) -> Tensor:
    points = torch.randn(n, *stack.input_shape, generator=torch.Generator().manual_seed(0))
    return jacobian_norms(stack, points, norms=["l2"])["l2"]


SECTIONS = (
    checks, workflow, peaks, training, convolutions, gpu_fused.fused, gpu_fused_tiles.fused_tiles,
    projections, sharing, bounds, resnet64, processor,
)  # fmt: skip
HALVES = {
    1: ("checks", "training", "workflow"),
    2: (
        "checks", "fused", "convolutions", "projections", "sharing", "resnet64", "bounds",
        "processor",
    ),
}  # fmt: skip


def failed_checks(page: Path) -> set[str]:
    """Names of the checks that failed, on the page of another call; none without that page."""
    text = page.read_text() if page.exists() else ""
    return set(re.findall(r"^\| ([^|]+) \| FAILED", text, re.MULTILINE))


def main() -> None:
    known = {section.__name__: section for section in SECTIONS}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("results/gpu/gpu.md"))
    parser.add_argument("--only", nargs="+", choices=known, default=list(known))
    parser.add_argument("--networks", nargs="+", help="of the sections training, convolutions")
    parser.add_argument("--half", type=int, choices=HALVES, help="1 or 2; 2 goes on where 1 ended")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="what comes later is left out"
    )
    arguments = parser.parse_args()
    device = devices.choose(arguments.device)
    out, names = arguments.out, arguments.only
    out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.half:
        first, out = (out.with_stem(f"{out.stem}{half}") for half in (1, arguments.half))
        names = HALVES[arguments.half]
    report = Report(out, device, minutes=arguments.minutes)
    report.networks = arguments.networks
    if arguments.half == 2:
        report.again = failed_checks(first)
    torch.manual_seed(0)
    report.say(
        f"# {devices.describe(device)}",
        "",
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"
        + (", a rehearsal in a reduced size: no figure here is a result" if report.small else ""),
    )
    for name in names:
        if not report.in_time(f"section {name}"):
            continue
        begin = time.perf_counter()
        try:
            known[name](report)
        except Exception:
            report.say("", f"Section {name} failed:", "", "```", traceback.format_exc(), "```")
        report.say("", f"Section {name}: {time.perf_counter() - begin:.0f} s.")
        release(device)
    report.say("", f"Written to {out}.")


if __name__ == "__main__":
    main()
