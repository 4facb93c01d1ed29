"""A stack whose networks were trained elsewhere: its checkpoints from files of weights.

Weights are held as they are stored. Those of bfloat16 and float16 are held in float32, and all of a
stack in float64 where one file has float64: each of these numbers is one of the wider type, so
none is rounded.
"""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from lipdescent.stacks.model_stack import ModelStack
from lipdescent.storage import checkpoints, stamps
from lipdescent.storage.weights import fitted, read_weights

HELD_AS = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
NAMED = 20  # so many files that do not fit
logger = logging.getLogger("lipdescent.read")


def read_stack(
    like: ModelStack,
    files: Mapping[str, str],
    *,
    epochs: list[int],
    seeds: list[int],
    prefix: str | None = None,
    about: checkpoints.Origin | None = None,
) -> checkpoints.Checkpoints:
    """Every checkpoint of a stack; a network with weights that are not finite has diverged.

    Parameters
    ----------
    like : networks of the architecture, one per seed: names and shapes, and the buffers that no
        state_dict has.
    files : file -> digest of its contents, epochs outermost, seeds innermost.
    prefix : of the names in them, see :func:`lipdescent.storage.weights.fitted`.

    Raises
    ------
    ValueError
        With a line for every file that does not fit: the tensors and what is allowed.
    OtherRecipe
        If a file has other contents than its digest says.
    """
    wanted = like.module.state_dict()
    if unknown := [name for name in wanted if name not in like.state]:
        raise ValueError(
            f"the architecture's state_dict has {', '.join(unknown)}: allowed are its parameters "
            "and buffers"
        )
    read = _read_files(files, wanted, prefix)
    floats = [t for state in read for t in state.values() if t.is_floating_point()]
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in floats) else torch.float32
    logger.info("weights of %s, held in %s", _types(floats), dtype)
    shape = len(epochs), len(seeds)
    stacked = {
        name: torch.stack([_held(state[name], dtype) for state in read]).unflatten(0, shape)
        if name in wanted
        else _held(own, dtype).expand(len(epochs), *own.shape)
        for name, own in like.state.items()
    }
    _tell_repeated([stacked[name] for name in wanted], list(files))
    return checkpoints.Checkpoints(
        state=stacked,
        epoch=torch.tensor(epochs),
        label_noise=torch.zeros(len(seeds), dtype=torch.float64),
        seed=torch.tensor(seeds),
        stopped_epoch=checkpoints.empty_epochs(len(seeds)),
        diverged_epoch=_diverged(read, list(files), epochs, len(seeds)),
        about=about,
    )


def _read_files(
    files: Mapping[str, str], wanted: Mapping[str, Tensor], prefix: str | None
) -> list[dict[str, Tensor]]:
    """What each holds, under the network's names; all that do not fit are named at once."""
    read, wrong = [], []
    for path in files:
        try:
            state, notes = fitted(read_weights(path), wanted, prefix=prefix)
            _check_types(state, wanted)
        except ValueError as error:
            wrong.append(f"{path}: {str(error).removeprefix(f'{path}: ')}")
            continue
        for note in notes:
            logger.info("%s: %s", path, note)
        read.append(state)
    for path, digest in files.items():  # read before: what was read is what has the digest
        if stamps.file_digest(path) != digest:
            raise stamps.OtherRecipe(f"{path} changed since this run began; {stamps.START_AGAIN}")
    if wrong:
        more = [f"and {len(wrong) - NAMED} files more"] if len(wrong) > NAMED else []
        raise ValueError("\n".join(wrong[:NAMED] + more))
    return read


def _check_types(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Numbers where the network has numbers; counters and masks in the network's own type."""
    wrong = []
    for name, tensor in state.items():
        own = wanted[name].dtype
        allowed = [*HELD_AS] if own in HELD_AS else [own]
        if tensor.dtype not in allowed or tensor.layout != torch.strided or tensor.is_meta:
            plain = "" if tensor.layout == torch.strided else f" and {tensor.layout}"
            plain += " without values (on the device meta)" if tensor.is_meta else ""
            told = ", ".join(map(str, allowed))
            wrong.append(f"{name} is {tensor.dtype}{plain}; allowed is {told}, not sparse")
    if wrong:
        raise ValueError("; ".join(wrong))


def _held(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In a type that has each of its numbers."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _types(tensors: list[Tensor]) -> str:
    return ", ".join(sorted({str(tensor.dtype) for tensor in tensors})) or "no floating-point type"


def _tell_repeated(state: list[Tensor], files: list[str]) -> None:
    """Log files with all the weights of the last epoch's or seed's, tensors (epochs, seeds, ...).

    A loop that keeps ``state_dict()`` without copying it saves the end of training at every epoch.
    """
    epochs, seeds = state[0].shape[:2]
    place = torch.arange(len(files)).view(epochs, seeds)
    found: list[list[int]] = []
    for dim, length in enumerate((epochs, seeds)):
        later, before = (place.narrow(dim, start, length - 1).flatten() for start in (1, 0))
        flat = (t.reshape(len(files), t[0, 0].numel()) for t in state)
        same = torch.stack([(t[later] == t[before]).all(1) for t in flat]).all(0)
        found += torch.stack([later, before], 1)[same].tolist()
    if found:
        one, other = (files[k] for k in found[0])
        more = f", and {len(found) - 1} more like this" if len(found) > 1 else ""
        logger.warning("%s has the same weights as %s%s: is that meant?", one, other, more)


def _diverged(
    read: list[dict[str, Tensor]], files: list[str], epochs: list[int], count: int
) -> Tensor:
    """First epoch at which a network has a weight that is not finite, (count,); -1: none."""
    found = checkpoints.empty_epochs(count)
    for place, (path, state) in enumerate(zip(files, read, strict=True)):
        bad = [n for n, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
        if bad:
            logger.info("%s: diverged: %s not finite", path, ", ".join(bad))
            if found[place % count] < 0:
                found[place % count] = epochs[place // count]
    return found
