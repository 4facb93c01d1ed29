"""Weights as people store them: safetensors, and files of torch.save, with prefixes of all kinds.

Nothing in a file is executed: what is no plain tensor in a plain dict is refused.
"""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

# Where checkpoints of training loops keep the state_dict, and what wrappers put before its names.
NESTS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "model.")
_SHOWN = 8


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor, from a safetensors file or a state_dict that torch.save has written.

    The state_dict may lie under one of ``NESTS``.

    Raises
    ------
    ValueError
        For a file that is not there, not readable, or holds anything but plain tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a safetensors file ({error})") from error
    with path.open("rb") as file:
        start = file.read(2)
    if start not in (b"PK", b"\x80\x02"):  # an archive, or a pickle of before 2020
        raise ValueError(f"{path}: neither a safetensors file nor one of torch.save")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of archives that are refused in any case
            held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, BadZipFile, ValueError, OSError) as e:
        raise ValueError(f"{path}: {_unloadable(e)}") from e
    return _state(held, path)


def _unloadable(error: BaseException) -> str:
    """Why torch.load would not read a file."""
    said = str(error)
    if "Unsupported" in said or "not an allowed global" in said or "weights_only" in said.lower():
        found = next((line for line in said.splitlines() if "GLOBAL" in line), "").strip()
        return (
            "holds more than plain tensors, such as a whole module, and reading that executes "
            f"code: refused{f' ({found[:200]})' if found else ''}; allowed is a state_dict: "
            "torch.save(model.state_dict(), NEW), where the module's code is"
        )
    first = said.splitlines()[0] if said else ""
    return f"cut short, or not readable ({type(error).__name__}: {first})"


def _state(held: Any, path: Path) -> dict[str, Tensor]:
    """The state_dict in what a file holds."""
    for nest in NESTS:
        if isinstance(held, Mapping) and isinstance(held.get(nest), Mapping):
            held = held[nest]
            break
    if not isinstance(held, Mapping):
        kind = type(held).__name__
        raise ValueError(f"{path}: holds a {kind}; allowed is a state_dict, names and tensors")
    plain = (Tensor, nn.Parameter)
    others = [f"{name} ({type(t).__name__})" for name, t in held.items() if type(t) not in plain]
    if others or not held:
        raise ValueError(
            f"{path}: holds {', '.join(others[:_SHOWN]) or 'nothing'}; allowed is a state_dict of "
            f"tensors, by itself or as one of {', '.join(NESTS)}"
        )
    return dict(held)


def fitted(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file under the names that a network wants, and what was done for that.

    Parameters
    ----------
    state : of the file.
    wanted : the network's own ``state_dict``, whose values only give shapes.
    prefix : of the names to take; the others are left. Without it those of ``PREFIXES`` that all
        names have are taken off, as often as that makes them fit.

    Raises
    ------
    ValueError
        With the names that are missing, unexpected, or of another shape.
    """
    notes = []
    if prefix is not None:
        taken = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        if not taken:
            raise ValueError(f"no name begins with {prefix!r}; the first are {_some(list(state))}")
        left = [name for name in state if not name.startswith(prefix)]
        if left:
            notes.append(
                f"{len(left)} tensors without the prefix {prefix!r} left out: {_some(left)}"
            )
        state = taken
    state = dict(state)
    while not set(wanted) <= set(state):
        found = next((p for p in PREFIXES if all(n.startswith(p) for n in state)), None)
        if found is None or not state:
            break
        notes.append(f"prefix {found!r} taken off")
        state = {name.removeprefix(found): tensor for name, tensor in state.items()}
    _check_names(state, wanted)
    return state, notes


def _check_names(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    shapes = [
        f"{n} is {tuple(t.shape)}, the network's {tuple(wanted[n].shape)}"
        for n, t in state.items()
        if n in wanted and isinstance(wanted[n], Tensor) and t.shape != wanted[n].shape
    ]
    said = [
        f"{what}: {_some(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if said:
        raise ValueError(
            "the weights do not fit the network; " + "; ".join(said) + _hint(state, wanted)
        )


def _hint(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """A prefix with which all names would be there, as the end of an error."""
    first = next(iter(wanted), "")
    for name in state:
        prefix = name.removesuffix(first)
        if prefix != name and prefix and all(prefix + other in state for other in wanted):
            return f"; the prefix {prefix!r} (--prefix, checkpoints.prefix) would make them fit"
    return ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
