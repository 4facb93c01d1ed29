"""Checkpoints of a stack in one safetensors file: nothing is unpickled.

Tensors: ``state/<name>`` (num_epochs, num_replicas, *shape), ``epoch`` (num_epochs,),
``label_noise``, ``seed``, ``stopped_epoch``, ``diverged_epoch`` (num_replicas,). An epoch of -1
means never. Metadata: JSON under ``about``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipdescent import files

FORMAT = "lipdescent-checkpoints-1"


@dataclass(frozen=True)
class Checkpoints:
    """Every saved state of one training job."""

    state: dict[str, Tensor]
    epoch: Tensor
    label_noise: Tensor
    seed: Tensor
    stopped_epoch: Tensor
    diverged_epoch: Tensor
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def num_replicas(self) -> int:
        return len(self.seed)

    def flat_state(self) -> dict[str, Tensor]:
        """name -> (num_epochs * num_replicas, *shape): the stack to measure, epochs outermost."""
        return {name: tensor.flatten(0, 1) for name, tensor in self.state.items()}


def write(path: str | Path, checkpoints: Checkpoints) -> None:
    """Write atomically: the file appears only when complete."""
    tensors = {f"state/{name}": tensor for name, tensor in checkpoints.state.items()}
    for name in ("epoch", "label_noise", "seed", "stopped_epoch", "diverged_epoch"):
        tensors[name] = getattr(checkpoints, name)
    save_atomically(path, tensors, {"format": FORMAT, "about": json.dumps(checkpoints.about)})


def read(path: str | Path) -> Checkpoints:
    """Read what :func:`write` wrote.

    Raises
    ------
    ValueError
        If the file is truncated or is not one of ours; the message names it.
    """
    tensors, metadata = load(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint file of this project (format {FORMAT})")
    state = {n.removeprefix("state/"): t for n, t in tensors.items() if n.startswith("state/")}
    rest = {n: t for n, t in tensors.items() if not n.startswith("state/")}
    return Checkpoints(state=state, about=json.loads(metadata["about"]), **rest)


def save_atomically(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """save_file to a temporary name in the same folder, flushed to disk, then os.replace.

    Raises
    ------
    OSError
        Naming the file, if the disk is full or cannot be written.
    """
    # Imported here: training itself runs where the package is missing (benchmarks/gpu.sh).
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    on_cpu = {n: t.detach().to("cpu").contiguous() for n, t in tensors.items()}
    with files.complete(path) as partial:
        try:
            save_file(on_cpu, partial, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file.

    The file is read into memory: mapped, as safetensors does by default, it would end the process
    with SIGBUS where another process cuts it short or its disk goes away later.

    Raises
    ------
    ValueError
        If the file is truncated or not safetensors; the message names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        content = Path(path).read_bytes()
        tensors = from_bytes(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(f"{path}: truncated or not a safetensors file ({error})") from error
    return tensors, header.get("__metadata__", {})


def empty_epochs(num_replicas: int) -> Tensor:
    """(num_replicas,) of -1: never."""
    return torch.full((num_replicas,), -1, dtype=torch.int64)
