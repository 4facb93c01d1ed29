"""A network from an ONNX file, compared with what onnxruntime makes of the file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipdescent.networks.onnx_file.file import OnnxNetwork, Operators, read_onnx
from lipdescent.stacks import own_call

_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
}
_ERRORS_ONLY, _NOTHING = 3, 4


def load_onnx(
    path: str | Path,
    input_shape: Sequence[int] | None = None,
    *,
    output: str | None = None,
    operators: Operators | None = None,
) -> OnnxNetwork:
    """The network in a file, as :func:`lipdescent.networks.onnx_file.file.read_onnx` reads it.

    ``bracket(net.network, net.input_shape)`` takes it. Without ``operators``, which onnxruntime
    does not know, it is compared with onnxruntime at random inputs of eight scales.

    Raises
    ------
    ImportError, ValueError, Unreadable
        As reading it; ValueError where onnxruntime gives something else, or does not run it.
    """
    read = read_onnx(path, input_shape, output=output, operators=operators)
    if not operators:
        sizes = [len(size) for size in read.inputs.values()]
        _check(read, path, given=input_shape is not None and [len(input_shape)] == sizes)
    return read


def _check(read: OnnxNetwork, path: str | Path, *, given: bool) -> None:
    """Compare what is read, and an open batch axis with its examples unless it is ``given``."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "ONNX files are compared with onnxruntime: pip install 'lipdescent[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # Beyond that, products with integers that become weights round their other side, too.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    x, places = own_call.random_inputs(read.input_shape, torch.device("cpu"))
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        kinds = [_TYPES[one.type] for one in session.get_inputs()]
        x = x.to(min(kinds, key=lambda kind: torch.finfo(kind).bits))
        found = [session.run([read.output_name], _feeds(session, read, one)) for one in x]
    except Exception as error:  # of another library: anything can be raised
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: onnxruntime does not run it: {said}") from error
    called = torch.from_numpy(np.stack([outputs[0].reshape(-1) for outputs in found]))
    kept = called.isfinite().all(1)  # elsewhere its own rounding overflowed
    if bool(kept.any()):
        places = [place for place, own in zip(places, kept.tolist(), strict=True) if own]
        x, called = x[kept], called[kept]

    def reading(points: Tensor, dtype: torch.dtype) -> Tensor:
        own = {name: t.to(dtype) for name, t in read.network.state_dict().items()}
        with torch.no_grad():
            return torch.func.functional_call(read.network, own, (points.to(dtype),)).flatten(1)

    def rounding() -> Tensor:
        # What runtimes approximate, as exp, is right to that of its largest values, not of each.
        floor = torch.finfo(x.dtype).eps * called[0].abs().max().nan_to_num(0.0)
        return 64 * own_call.gap(reading, x, x.dtype, torch.float64) + floor

    message = f"{path}: onnxruntime and what is read of the file"
    own_call.compare(called, reading(x, x.dtype), places, message, rounding, cause="")
    opened = [one.shape and not isinstance(one.shape[0], int) for one in session.get_inputs()]
    if given or not all(opened) or len(x) < 2:
        return
    chosen = [len(x) // 2, len(x) // 2 - 1]  # of sizes in which neither is lost beside the other
    both = _of_two(session, read, x[chosen], found[0][0].shape)
    if both is not None:
        message = (
            f"{path}: its first axis is open, but its examples influence each other (if it is no "
            "axis of examples, give an input_shape that begins with its length): outputs "
            f"{read.output_name} of two at once and of each alone"
        )
        names = ["of the first", "of the second"]
        own_call.compare(both, called[chosen], names, message, lambda: rounding()[chosen], cause="")


def _of_two(session: Any, read: OnnxNetwork, x: Tensor, single: tuple[int, ...]) -> Tensor | None:
    """Outputs of two examples at once: (2, n) along whichever axis is twice that of a ``single``.

    (1, m) where none is; None where the file has its sizes for one example alone.
    """
    import onnxruntime

    quiet = onnxruntime.RunOptions()
    quiet.log_severity_level = _NOTHING
    pair = [_feeds(session, read, one) for one in x]
    feeds = {name: np.concatenate([one[name] for one in pair]) for name in read.inputs}
    try:
        both = np.asarray(session.run([read.output_name], feeds, quiet)[0])
    except Exception:  # of another library: anything can be raised
        return None
    longer = [k for k, n in enumerate(single) if both.ndim == len(single) and both.shape[k] != n]
    apart = len(longer) == 1 and both.shape[longer[0]] == 2 * single[longer[0]]
    parts = np.split(both, 2, longer[0]) if apart else [both]
    return torch.from_numpy(np.stack([part.reshape(-1) for part in parts]))


def _feeds(session: Any, read: OnnxNetwork, x: Tensor) -> dict[str, np.ndarray]:
    """One example as the file's inputs, each in its own type."""
    kinds = {one.name: _TYPES[one.type] for one in session.get_inputs()}
    counts = [math.prod(size) for size in read.inputs.values()]
    pairs = zip(read.inputs.items(), x.flatten().split(counts), strict=True)
    return {name: part.reshape(size).to(kinds[name]).numpy() for (name, size), part in pairs}
