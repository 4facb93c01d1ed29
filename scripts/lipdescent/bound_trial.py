"""Train a small random network for an epoch and take every measurement of it, to see what raises.

Nothing of it is kept: what counts is that a study does not stop after hours of training.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from lipdescent import measuring, names
from lipdescent.bounds import NotApplicable
from lipdescent.checkpoints import Checkpoints, empty_epochs
from lipdescent.datasets import Dataset
from lipdescent.measurements import Subject
from lipdescent.replica_block import TrainingData
from lipdescent.training import StackTraining, initial_stack
from lipdescent.training_options import TrainingOptions

SEEDS = [0, 1]
# A bound that has not refused by then has read the network and is computing.
SECONDS = 1.0


class _Late(BaseException):
    """Time is up; no library catches it as an error of its own."""


def mistakes(task: dict[str, Any], loaded: Dataset | None = None) -> list[str]:
    """A line for everything that cannot be done with a network of the study.

    ``task`` is one of :func:`lipdescent.network_trial._tasks`, ``loaded`` its data set where its
    file does not say the shape of its inputs.
    """
    network = task["network"]
    shape = loaded.input_shape if loaded else tuple(network["input_shape"])
    classes = loaded.num_classes if loaded else network["num_classes"]
    options = json.loads(network["options"])
    module = names.resolve("architectures", network["module"])
    build = partial(
        module.build, network["width"], input_shape=shape, num_classes=classes, **options
    )
    what = (
        f"architectures.{task['architecture']} ({network['module']}) of width {network['width']} "
        f"on data set {task['dataset']} with inputs {shape}"
    )
    if wrong := _wrong(lambda: initial_stack(build, SEEDS, shape)):
        return [f"config: {what}: cannot be built: {wrong}"]
    data = random_data(shape, classes, task["points"])
    found = []
    if wrong := _wrong(lambda: _train(build, data, task["training"])):
        found.append(f"config: {what}: cannot be trained: {wrong}")
    for name, asked in {"metrics": {}, **task["bounds"]}.items():
        if wrong := _wrong(lambda n=name, o=asked: _measure(n, o, build, data, task)):
            key = name if name == "metrics" else f"bounds.{name}"
            found.append(
                f"config: {key} cannot be taken of {what}: {wrong}; allowed are bounds that can "
                f"(write {name}: null to take it out)"
            )
    return found


def random_data(shape: tuple[int, ...], classes: int, count: int) -> Dataset:
    """``count`` random points of both splits."""
    source = np.random.default_rng(0)
    points = source.standard_normal((2, count, *shape), dtype=np.float32)
    labels = source.integers(classes, size=(2, count))
    return Dataset(points[0], labels[0], points[1], labels[1], classes)


def _train(build: Callable[[], nn.Module], data: Dataset, options: dict[str, Any]) -> None:
    """An epoch of two batches where there are points for them."""
    batch = max(2, len(data.train_labels) // 2)
    wanted = TrainingOptions(**{**options, "batch_size": batch, "precision": "float32"})
    labels = torch.from_numpy(data.train_labels).expand(len(SEEDS), -1)
    StackTraining(
        initial_stack(build, SEEDS, data.input_shape),
        TrainingData(torch.from_numpy(data.train_inputs), labels, data.num_classes),
        seeds=SEEDS,
        epochs=[0, 1],
        options=wanted,
    ).one_epoch()


def _measure(
    name: str,
    options: dict[str, Any],
    build: Callable[[], nn.Module],
    data: Dataset,
    task: dict[str, Any],
) -> None:
    """One measurement of random networks, by the way that a job takes it."""
    network = task["network"]
    state = initial_stack(build, SEEDS, data.input_shape).state
    saved = Checkpoints(
        state={name: tensor.unsqueeze(0) for name, tensor in state.items()},
        epoch=torch.tensor([0]),
        label_noise=torch.zeros(len(SEEDS), dtype=torch.float64),
        seed=torch.tensor(SEEDS),
        stopped_epoch=empty_epochs(len(SEEDS)),
        diverged_epoch=empty_epochs(len(SEEDS)),
        about={
            "run": {"width": network["width"]},
            "training": task["training"],
            "build": json.loads(network["options"]),
        },
    )
    stack = measuring.checkpoint_stack(saved, data, module=network["module"])
    inputs = {s: torch.from_numpy(getattr(data, f"{s}_inputs")) for s in ("train", "test")}
    subject = Subject(name, stack, stack.finite(), saved, data, inputs, task["noise_maker"])
    kind = names.resolve("measurements", names.measurement_kind(name))
    list(kind.take(subject, options))


def _wrong(attempt: Callable[[], object]) -> str:
    """What it raises; nothing if it is not applicable, or still computing when time is up."""
    try:
        with _at_most(SECONDS):
            attempt()
    except (NotApplicable, MemoryError, _Late):
        return ""
    except Exception as error:  # whatever it is, the job would end with it
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
