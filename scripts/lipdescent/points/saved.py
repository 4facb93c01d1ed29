"""Points of a file: an array in ``.npy``, or one or more, by name, in ``.safetensors``."""

import io
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from lipdescent.points._parts import Points, of_tensor
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.storage import stamps


def draw(
    stack: ModelStack,
    inputs: Mapping[str, Tensor],
    *,
    labels: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    path: str | Path,
    path_digest: str = "",
) -> dict[str, Points]:
    """The split ``saved``, or one for each array of a ``.safetensors`` file.

    Parameters
    ----------
    path : of the file, from the folder of the study's ``results``; floating-point
        (n, *input_shape), finite.
    path_digest : of the file's bytes, which a study fills in; empty: whatever is there.

    Raises
    ------
    OSError
        If there is no such file, or it is another than ``path_digest`` says.
    ValueError
        If it holds something else.
    """
    path = Path(path)
    if path.suffix not in (".npy", ".safetensors"):
        raise ValueError(f"path = {str(path)!r}: allowed are files .npy and .safetensors")
    content = path.read_bytes()
    if path_digest and stamps.digest(content) != path_digest:
        # No fault of the bound's: the job ends, and its rows do not say "error".
        raise OSError(
            f"{path}: its digest is {stamps.digest(content)}, and {path_digest} is asked for: the "
            f"file is another than when the study was started; {stamps.START_AGAIN}"
        )
    if path.suffix == ".npy":
        found = {"saved": torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))}
    else:
        found = load(content)
    for name, points in found.items():
        shape = tuple(points.shape)
        if not points.is_floating_point() or shape[1:] != tuple(stack.input_shape) or not shape[0]:
            wanted = ", ".join(map(str, ["n", *stack.input_shape]))
            raise ValueError(
                f"{path}: {name} is {points.dtype} {shape}, expected floating-point ({wanted})"
            )
        if not bool(points.isfinite().all()):
            raise ValueError(f"{path}: {name} has NaN or infinity; allowed are finite numbers")
    return {
        name: Points(len(points), partial(_parts, points, stack.device))
        for name, points in found.items()
    }


def _parts(points: Tensor, device: torch.device) -> Iterator[Tensor]:
    for part in of_tensor(points):
        yield part.to(device, torch.float64)
