"""What an interrupted or ended training leaves behind, so that another process can go on.

A state holds everything that the next epoch depends on, and nothing else: weights, the optimiser's
memory, checkpoints and curves so far. Random draws depend on seed and epoch alone, so no
generator's state is part of it. A state is only used for the training it came from: same options,
seeds, data, shapes, network and code. The list of epochs may differ where that changes nothing of
the past.
"""

import dataclasses
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lipdescent.storage import checkpoints
from lipdescent.training.block import TrainingData
from lipdescent.training.options import TrainingOptions

logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """What the next epoch of a training depends on, what it has made so far, and whose it is.

    Attributes
    ----------
    live : what training changes, replicas first; how they are divided into blocks is no part.
    saved : epoch -> the checkpoint's state dict, every tensor (replicas, ...).
    curves : rows of an epoch and the replicas' mean train losses.
    stopped, diverged : int64 (replicas,), the epoch or -1.
    epoch : epochs done.
    epochs : the checkpoints' epochs that are wanted, the last one the end.
    fingerprint : of all that a state must have in common with the training that takes it over.
    """

    live: dict[str, Tensor]
    saved: dict[int, dict[str, Tensor]]
    curves: list[list[float]]
    stopped: Tensor
    diverged: Tensor
    epoch: int
    epochs: list[int]
    fingerprint: str
    options: TrainingOptions
    num_train: int

    @property
    def num_epochs(self) -> int:
        return self.epochs[-1]


def end_paths(checkpoints_path: str | Path) -> tuple[Path, Path]:
    """Where an ended training keeps its end state and a second name of its checkpoints."""
    path = Path(checkpoints_path)
    return path.with_suffix(".end.state"), path.with_suffix(".end.checkpoints")


def save(training: TrainingState, path: str | Path, *, with_checkpoints: bool = True) -> None:
    """Write the state atomically."""
    tensors = {f"live/{name}": tensor for name, tensor in training.live.items()}
    if with_checkpoints:
        for epoch, state in training.saved.items():
            tensors |= {f"saved/{epoch}/{name}": tensor for name, tensor in state.items()}
    tensors["stopped"], tensors["diverged"] = training.stopped, training.diverged
    tensors["curves"] = torch.tensor(training.curves, dtype=torch.float64)
    metadata = {
        "fingerprint": training.fingerprint,
        "epoch": str(training.epoch),
        "epochs": json.dumps(training.epochs),
    }
    checkpoints.save_atomically(path, tensors, metadata)


def keep_end(training: TrainingState, checkpoints_path: str | Path) -> None:
    """Keep what a longer training needs: the end state, and the checkpoints by a hard link.

    Snakemake deletes a job's outputs before it runs the job again; the link keeps the checkpoints
    without taking their space twice. Where the file system has no hard links nothing is kept.
    """
    if training.epoch != training.num_epochs:
        return  # fewer epochs were asked for than an earlier training had: keep that one's end
    end_state, kept = end_paths(checkpoints_path)
    # In this order: where there is an end state, the kept checkpoints are its own.
    end_state.unlink(missing_ok=True)
    kept.unlink(missing_ok=True)
    try:
        os.link(checkpoints_path, kept)
    except OSError as error:
        print(f"more epochs will mean training anew: no hard link {kept} ({error})")
        return
    save(training, end_state, with_checkpoints=False)


def resume(training: TrainingState, path: str | Path) -> TrainingState | None:
    """The state at ``path`` for ``training``; None, and a logged line that says why, without."""
    path = Path(path)
    if not path.exists():
        return None
    try:
        tensors, metadata = checkpoints.load(path)
        saved = _saved(path, tensors)
    except ValueError as error:
        logger.info("starting over: %s", error)
        return None
    reason = _why_not(training, metadata, saved)
    if reason:
        logger.info("starting over: %s %s", path, reason)
        return None
    live = {n.removeprefix("live/"): t for n, t in tensors.items() if n.startswith("live/")}
    training.live = live
    epoch, last = int(metadata["epoch"]), training.num_epochs
    training.epoch = epoch
    training.saved = {e: state for e, state in saved.items() if e in training.epochs}
    training.curves = [row for row in tensors["curves"].tolist() if row[0] <= last]
    never = torch.tensor(-1)
    training.stopped = torch.where(tensors["stopped"] > last, never, tensors["stopped"])
    training.diverged = torch.where(tensors["diverged"] > last, never, tensors["diverged"])
    logger.info("going on from epoch %d of %s", epoch, path)
    return training


def fingerprint(
    *,
    options: TrainingOptions,
    seeds: list[int],
    identity: str,
    data: TrainingData,
    shapes: list[tuple[int, ...]],
) -> str:
    """sha256 of what a state must have in common with the training that takes it over."""
    digest = hashlib.sha256()
    described = [dataclasses.asdict(options), seeds, identity]
    digest.update(json.dumps(described, sort_keys=True).encode())
    for tensor in (data.inputs, data.labels):
        digest.update(str(tensor.shape).encode() + tensor.cpu().numpy().tobytes())
    digest.update(str(shapes).encode())
    return digest.hexdigest()


def _saved(path: Path, tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """epoch -> state dict: from the state itself, or from the checkpoints kept beside it."""
    saved: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("saved/"):
            _, epoch, parameter = name.split("/", 2)
            saved.setdefault(int(epoch), {})[parameter] = tensor
    kept = path.with_suffix(".checkpoints")
    if path.name.endswith(".end.state") and kept.exists():
        found = checkpoints.read(kept)
        for i, epoch in enumerate(found.epoch.tolist()):
            saved[epoch] = {name: tensor[i] for name, tensor in found.state.items()}
    return saved


def _why_not(
    training: TrainingState, metadata: dict[str, str], saved: dict[int, dict[str, Tensor]]
) -> str:
    """Why a state cannot be taken over, or an empty text."""
    if "epochs" not in metadata or metadata.get("fingerprint") != training.fingerprint:
        return "belongs to another configuration, data or version of the code"
    epoch, epochs = int(metadata["epoch"]), json.loads(metadata["epochs"])
    missing = [e for e in training.epochs if e <= epoch and e not in saved]
    if missing:
        return f"has no checkpoint of epochs {missing}"
    if epochs[-1] == training.num_epochs:
        return ""
    num_train, options = training.num_train, training.options
    for past in range(min(epoch, training.num_epochs)):
        before, now = (
            options.rates(epoch=past, num_train=num_train, num_epochs=length)
            for length in (epochs[-1], training.num_epochs)
        )
        if not np.array_equal(before, now):
            return (
                f"was trained for {epochs[-1]} epochs and {training.num_epochs} are wanted: the "
                f"learning rates of schedule {options.schedule!r} depend on the length of training"
            )
    return ""
