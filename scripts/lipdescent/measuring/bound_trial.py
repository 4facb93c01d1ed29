"""Train a small random network for an epoch and take every measurement of it, to see what raises.

Nothing of it is kept: what counts is that a study does not stop after hours of training.
"""

import contextlib
import importlib
import json
import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from lipdescent.datasets import Dataset
from lipdescent.measurement import NotApplicable
from lipdescent.measuring.measure import checkpoint_stack
from lipdescent.measuring.subject import Subject
from lipdescent.plugins import bound_entries, lookup
from lipdescent.storage.checkpoints import Checkpoints, Origin, empty_epochs
from lipdescent.structure.exported import needs_export
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import initial_stack
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import StackTraining

SEEDS = [0, 1]
# A bound that has not refused by then has read the network and is computing.
SECONDS = 2.0


def mistakes(task: dict[str, Any], loaded: Dataset | None = None) -> list[str]:
    """A line for everything that cannot be done with a network of the study.

    ``task`` is one of :func:`lipdescent.jobs.network_trial._tasks`, ``loaded`` its data set where
    its file does not say the shape of its inputs.
    """
    network = task["network"]
    shape = loaded.input_shape if loaded else tuple(network["input_shape"])
    classes = loaded.num_classes if loaded else network["num_classes"]
    options = json.loads(network["options"])
    module = lookup.resolve("architectures", network["module"])
    build = partial(
        module.build, network["width"], input_shape=shape, num_classes=classes, **options
    )
    what = (
        f"architectures.{task['architecture']} ({network['module']}) of width {network['width']} "
        f"on data set {task['dataset']} with inputs {shape}"
    )
    # Built here, where what it imports stays; called where it can be stopped.
    if wrong := _raised(build) or _wrong(lambda: initial_stack(build, SEEDS, shape)):
        return [f"config: {what}: cannot be built: {wrong}"]
    for name, entry in task["bounds"].items():
        lookup.resolve("bounds", bound_entries.bound_of(name, entry))
        if "points" in entry:
            lookup.resolve("points", entry["points"])
    _prepare_export(build().eval())
    data = random_data(shape, classes, task["points"])
    found = []
    trained_here = "learning_rate" in task["training"]  # elsewhere, only its loss is known
    if trained_here and (wrong := _wrong(lambda: _train(build, data, task["training"]))):
        found.append(f"config: {what}: cannot be trained: {wrong}")
    # Made where it can be stopped, so anew in each process.
    subject = cache(partial(_subject, build, data, task))
    for name, asked in {"metrics": {}, **task["quantities"], **task["bounds"]}.items():
        if wrong := _wrong(partial(_measure, name, asked, subject)):
            section = "quantities" if name in task["quantities"] else "bounds"
            key, ways = f"{section}.{name}", f"those that can (write {name}: null to take it out)"
            if name == "metrics":  # of every network
                key, ways = name, "networks, data and losses that have them"
            found.append(f"config: {key} cannot be taken of {what}: {wrong}; allowed are {ways}")
    return found


def _prepare_export(network: nn.Module) -> None:
    """Import here what ``torch.export`` imports, where ``network`` will be exported.

    That takes about as long as a trial may, and each is a process of its own: no bound would come
    to read the network.
    """
    with contextlib.suppress(Exception):  # what is wrong with the network, a trial will say
        if needs_export(network):
            importlib.import_module("torch.export._trace")  # no export: a fork could not train then


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


def _subject(build: Callable[[], nn.Module], data: Dataset, task: dict[str, Any]) -> Subject:
    """Random networks, by the way that a job reads them."""
    network = task["network"]
    state = initial_stack(build, SEEDS, data.input_shape).state
    saved = Checkpoints(
        state={name: tensor.unsqueeze(0) for name, tensor in state.items()},
        epoch=torch.tensor([0]),
        label_noise=torch.zeros(len(SEEDS), dtype=torch.float64),
        seed=torch.tensor(SEEDS),
        stopped_epoch=empty_epochs(len(SEEDS)),
        diverged_epoch=empty_epochs(len(SEEDS)),
        about=Origin(
            run={"width": network["width"]},
            module=network["module"],
            build=json.loads(network["options"]),
            training=task["training"],
            noise_maker=task["noise_maker"],
        ),
    )
    stack = checkpoint_stack(saved, data)
    dtype = next(t.dtype for t in stack.state.values() if t.is_floating_point())
    inputs = {
        split: torch.from_numpy(getattr(data, f"{split}_inputs")).to(dtype)
        for split in ("train", "test")
    }
    return Subject("", stack, stack.finite(), saved, data, inputs)


def _measure(name: str, options: dict[str, Any], subject: Callable[[], Subject]) -> None:
    """One measurement of them, by the way that a job takes it."""
    kind = lookup.resolve("measurements", lookup.measurement_kind(name))
    list(kind.take(replace(subject(), name=name), options))


def _wrong(attempt: Callable[[], object]) -> str:
    """What it raises; nothing if it is not applicable, or still computing when time is up.

    It has a process of its own, which ends when time is up: to be interrupted anywhere, in an
    import for instance, would leave this one in a state that nobody foresaw.
    """
    said, crash = _tried(attempt)
    if crash:  # one that does not come again is no reason to refuse a study
        said, crash = _tried(attempt)
    return f"its process was ended by {crash}" if crash else said


def _tried(attempt: Callable[[], object]) -> tuple[str, str]:
    """What it raised in a process of its own, and the signal that this crashed by."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python warns of other threads; what they hold is not needed for reading a network.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        os.write(writer, _raised(attempt, BaseException).encode()[:2000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        said = stream.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    crashed = status < 0 and -status not in (signal.SIGALRM, signal.SIGKILL)
    return said, signal.Signals(-status).name if crashed else ""


def _raised(attempt: Callable[[], object], kind: type[BaseException] = Exception) -> str:
    try:
        attempt()
    except (NotApplicable, MemoryError):
        return ""
    except kind as error:  # whatever it is, the job would end with it
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""
