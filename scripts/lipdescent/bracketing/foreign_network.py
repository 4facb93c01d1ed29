"""A network that was not trained here, its weights and data, from the files that hold them."""

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn

from lipdescent.storage.weights import fitted, read_weights

MODULE = "_lipdescent_model_file"  # a name of its own: a file random.py must not be random


def load_shape(text: str) -> tuple[int, ...]:
    """``1,28,28`` -> (1, 28, 28); ValueError for anything but positive integers."""
    try:
        shape = tuple(int(n) for n in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError(f"--input-shape {text}: allowed are positive integers, such as 1,28,28")
    return shape


def load_model(
    where: str,
    weights: str | None = None,
    *,
    prefix: str | None = None,
    report: Callable[[str], None] | None = None,
) -> nn.Module:
    """The network that ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION`` returns, in eval mode.

    Parameters
    ----------
    weights : a file that :func:`lipdescent.storage.weights.read_weights` reads; without, the
        network keeps the weights it was built with.
    prefix : of the names in it that are the network's; :func:`lipdescent.storage.weights.fitted`.
    report : called with a line of text for each change of names.

    Raises
    ------
    ValueError
        For a file, module or function that is not there, code that raises (with its line), a
        result that is no module, weights that cannot be read or do not fit.
    """
    build = load_function(where)
    with _neighbours(_file(where)), _named(where):
        model = build()
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ValueError(f"{where}: returns a {kind}, allowed is a torch.nn.Module")
    if weights is not None:
        _load_weights(model, weights, prefix, report)
    return model.eval()


def load_function(where: str) -> Callable[..., Any]:
    """The function or class that ``FILE.py:NAME`` or ``MODULE:NAME`` is; ValueError without it."""
    source, _, function = where.rpartition(":")
    if not source or not function:
        raise ValueError(f"{where}: expected FILE.py:FUNCTION or MODULE:FUNCTION")
    path = _file(where)
    if path is not None and not path.is_file():
        raise ValueError(f"there is no file {source}")
    with _neighbours(path), _named(where):
        module = importlib.import_module(source) if path is None else _executed(path)
        build = getattr(module, function, None)
    if not callable(build):
        own = [name for name, value in vars(module).items() if _made_in(module, value)]
        raise ValueError(f"{source} has no function {function}; it has {', '.join(own) or 'none'}")
    return build


def _made_in(module: ModuleType, value: object) -> bool:
    return callable(value) and getattr(value, "__module__", "") == module.__name__


def load_data(path: str, input_shape: Sequence[int]) -> dict[str, torch.Tensor]:
    """Every floating-point array of an npz, or the one of an npy, with points of ``input_shape``.

    Raises
    ------
    ValueError
        For a file that is neither, or has no such array.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        members = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded.items())
        # A study's data set holds its stamp, too.
        arrays = {n: array for n, array in members.items() if isinstance(array, np.ndarray)}
        if not arrays:
            raise ValueError("an archive of something else")
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"--data {path}: not a readable npz or npy file ({error})") from error
    fitting = {
        name.removesuffix("_inputs"): torch.from_numpy(array)
        for name, array in arrays.items()
        if array.dtype.kind == "f" and array.shape[1:] == tuple(input_shape)
    }
    if not fitting:
        found = ", ".join(f"{n} {a.dtype} {a.shape}".lstrip() for n, a in arrays.items())
        shape = ", ".join(map(str, input_shape))
        raise ValueError(f"--data {path}: no floating-point array (n, {shape}) in it, only {found}")
    return fitting


def _file(where: str) -> Path | None:
    """The file of ``FILE.py:NAME``, None for a module."""
    source = where.rpartition(":")[0]
    return Path(source).resolve() if source.endswith(".py") else None


def _executed(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None, "the file's name ends with .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _neighbours(path: Path | None) -> Iterator[None]:
    """The file may import its neighbours: first while it loads, then only what is not there."""
    if path is None:
        yield
        return
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        sys.path.append(folder)


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Whatever the code at ``where`` raises, as one ValueError with the line."""
    try:
        yield
    except Exception as error:  # it is not our code: anything can be raised
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = frame.filename in (__file__, importlib.__file__) or "<frozen" in frame.filename
        line = "" if ours else f" ({Path(frame.filename).name}, line {frame.lineno})"
        raise ValueError(f"{where}: {type(error).__name__}: {error}{line}") from error


def _load_weights(
    model: nn.Module,
    path: str,
    prefix: str | None = None,
    report: Callable[[str], None] | None = None,
) -> None:
    try:
        state, notes = fitted(read_weights(path), model.state_dict(), prefix=prefix)
        model.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        said = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"--weights {path}: {said}{_extra_state(model)}") from error
    for note in notes:
        if report is not None:
            report(f"--weights {path}: {note}")


def _extra_state(model: nn.Module) -> str:
    """What a file of weights leaves out, as the end of an error; "" if nothing."""
    names = [m or "the network" for m in _owners(model, "_extra_state")]
    if not names:
        return ""
    return (
        f"; {', '.join(names)}: what get_extra_state keeps no file of tensors holds, load it in "
        "FUNCTION, without --weights"
    )


def _owners(model: nn.Module, last: str) -> list[str]:
    """Paths of the modules whose entry in the state_dict has this last name."""
    pairs = (name.rpartition(".") for name in model.state_dict())
    return [path for path, _, own in pairs if own == last]
