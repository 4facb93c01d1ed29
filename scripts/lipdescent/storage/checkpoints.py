"""Checkpoints of a stack in one safetensors file: nothing is unpickled.

Tensors: ``state/<name>`` (num_epochs, num_replicas, *shape), ``initial/<name>`` (num_replicas,
*shape), the state before the first step if epoch 0 is not among the checkpoints, ``epoch``
(num_epochs,), ``label_noise``, ``seed``, ``stopped_epoch``, ``diverged_epoch`` (num_replicas,). An
epoch of -1 means never. Metadata: an :class:`Origin` as JSON under ``about``, a stamp (see
stamps.py) under ``made``, and a checksum of all tensors.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipdescent.storage import atomic, stamps

FORMAT = "lipdescent-checkpoints-3"
GROUPS = ("state", "initial")
CHECKSUM = "checksum"


@dataclass(frozen=True)
class Origin:
    """How networks were built and trained; noise levels, seeds and epochs are the tensors'.

    Attributes
    ----------
    run : ``dataset``, ``architecture`` (its name in the configuration), ``width`` and ``seeds``.
    module : file name in scripts/lipdescent/architectures, and ``build`` the options of its build.
    training : the options of lipdescent/training/options.py.
    noise_maker : file name in scripts/lipdescent/training/label_noise.
    noise_seed : what the noise was drawn from; None: each model's own seed.
    data : the options with which the data set was loaded.
    code : a digest of all code behind the training; empty where no job made it.
    """

    run: dict[str, Any]
    module: str
    build: dict[str, Any]
    training: dict[str, Any]
    noise_maker: str
    noise_seed: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    code: str = ""


@dataclass(frozen=True)
class Checkpoints:
    """Every saved state of one training job.

    Attributes
    ----------
    about : None where nobody measures them, in a test for instance.
    initial : state before the first step, name -> (num_replicas, *shape), where epoch 0 is not
        among ``epoch``.
    """

    state: dict[str, Tensor]
    epoch: Tensor
    label_noise: Tensor
    seed: Tensor
    stopped_epoch: Tensor
    diverged_epoch: Tensor
    about: Origin | None = None
    initial: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_replicas(self) -> int:
        return len(self.seed)

    @property
    def origin(self) -> Origin:
        """:attr:`about`, which what measures them needs."""
        if self.about is None:
            raise ValueError("the checkpoints do not say how their networks were built and trained")
        return self.about

    def flat_state(self) -> dict[str, Tensor]:
        """name -> (num_epochs * num_replicas, *shape): the stack to measure, epochs outermost."""
        return {name: tensor.flatten(0, 1) for name, tensor in self.state.items()}

    def at_start(self) -> Checkpoints:
        """The replicas before the first step, of :attr:`initial`, as epoch 0."""
        state = {name: tensor.unsqueeze(0) for name, tensor in self.initial.items()}
        return replace(self, state=state, epoch=torch.tensor([0]))


def write(path: str | Path, checkpoints: Checkpoints, made: stamps.Stamp | None = None) -> None:
    """Write atomically, with a stamp: the file appears only when complete."""
    tensors = {
        f"{group}/{name}": tensor
        for group in GROUPS
        for name, tensor in getattr(checkpoints, group).items()
    }
    for name in ("epoch", "label_noise", "seed", "stopped_epoch", "diverged_epoch"):
        tensors[name] = getattr(checkpoints, name)
    about = None if checkpoints.about is None else asdict(checkpoints.about)
    metadata = {"format": FORMAT, "about": json.dumps(about)}
    if made is not None:
        metadata[stamps.KEY] = stamps.dumps(stamps.with_content(made, checksum(tensors)))
    save_atomically(path, tensors, metadata)


def read(path: str | Path) -> Checkpoints:
    """Read what :func:`write` wrote.

    Raises
    ------
    ValueError
        If the file is truncated, altered or is not one of ours; the message names it.
    """
    tensors, metadata = load(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path}: not a checkpoint file of this version of the project (format "
            f"{metadata.get('format')}, wanted is {FORMAT}); starting its study trains it anew"
        )
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    rest: dict[str, Tensor] = {}
    for place, tensor in tensors.items():
        group, _, name = place.partition("/")
        (groups[group] if name else rest)[name or place] = tensor
    about = json.loads(metadata["about"])
    origin = Origin(**about) if about else None
    return Checkpoints(state=groups["state"], initial=groups["initial"], about=origin, **rest)


def checksum(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Digest of the metadata and of names, types, shapes and contents, in the names' order."""
    parts: list[bytes | memoryview] = [json.dumps(metadata or {}, sort_keys=True).encode()]
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        parts.append(tensor.flatten().view(torch.uint8).numpy().data)
    return stamps.digest(*parts)


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
    metadata = {**metadata, CHECKSUM: checksum(on_cpu, metadata)}
    with atomic.complete(path) as partial:
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
        If the file is truncated, not safetensors, or it is not what was written; the message
        names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        content = Path(path).read_bytes()
        tensors = from_bytes(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: truncated or not a safetensors file ({error})") from error
    metadata = header.get("__metadata__", {})
    if stored := metadata.pop(CHECKSUM, None):
        found = checksum(tensors, metadata)
        if found != stored:
            raise ValueError(
                f"{path}: altered since it was written (checksum {found}, {stored} is stored)"
            )
    elif metadata.get("format") == FORMAT:
        raise ValueError(f"{path}: altered since it was written (its checksum is missing)")
    return tensors, metadata


def empty_epochs(num_replicas: int) -> Tensor:
    """(num_replicas,) of -1: never."""
    return torch.full((num_replicas,), -1, dtype=torch.int64)
