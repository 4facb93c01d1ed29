"""A network from an ONNX file, compared with what onnxruntime makes of the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

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
_ERRORS_ONLY = 3


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
        _check(read, path)
    return read


def _check(read: OnnxNetwork, path: str | Path) -> None:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "ONNX files are compared with onnxruntime: pip install 'lipdescent[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    x, places = own_call.random_inputs(read.input_shape, torch.device("cpu"))
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        x = x.to(_TYPES[session.get_inputs()[0].type])
        found = [session.run([read.output_name], _feeds(read, one)) for one in x]
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
        return 64 * own_call.gap(reading, x, x.dtype, torch.float64)

    message = f"{path}: onnxruntime and what is read of the file"
    own_call.compare(called, reading(x, x.dtype), places, message, rounding, cause="")


def _feeds(read: OnnxNetwork, x: Tensor) -> dict[str, np.ndarray]:
    """One example as the file's inputs."""
    counts = [math.prod(size) for size in read.inputs.values()]
    pairs = zip(read.inputs.items(), x.flatten().split(counts), strict=True)
    return {name: part.reshape(size).numpy() for (name, size), part in pairs}
