"""``Resize`` and ``Upsample`` by constant scales or sizes: a linear map of each axis."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lipdescent.networks.onnx_file.calls import Call, Rule


def _resampled(c: Call, x: Tensor, *_: Any) -> Tensor:
    """Each axis by its own matrix: neighbours of the places that outputs have in the input."""
    if c.get("antialias", 0) or c.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise c.refusal("antialias and keep_aspect_ratio_policy are unknown; allowed are none")
    axes = [axis % x.ndim for axis in c.get("axes", range(x.ndim))]
    old = c.node.op_type == "Upsample" or len(c.inputs) < 2 or c.opset < 11
    scales, sizes = c.argument(1 if old else 2, "scales"), None if old else c.argument(3)
    for i, axis in enumerate(axes):
        before = x.shape[axis]
        given = scales is None or not scales.size
        scale = sizes[i] / before if given else float(scales[i])  # type: ignore[index]
        after = int(sizes[i] if given else math.floor(before * scale))  # type: ignore[index]
        if after == before and scale == 1:
            continue
        matrix = _resampling(c, before, after, scale, old=old)
        if c.get("mode", "nearest") == "nearest":
            x = x.index_select(axis, torch.from_numpy(matrix.argmax(1)))
        else:
            turned = F.linear(x.movedim(axis, -1), torch.from_numpy(matrix).to(x.dtype))
            x = turned.movedim(-1, axis)
    return x


def _resampling(c: Call, before: int, after: int, scale: float, *, old: bool) -> np.ndarray:
    """The matrix (after, before) of one axis, by ONNX's definition."""
    mode, kind = c.get("mode", "nearest"), c.get("coordinate_transformation_mode", "half_pixel")
    # In the precision in which runtimes find the nearest: it decides ties.
    precision = np.float32 if mode == "nearest" else np.float64
    j: Any = np.arange(after, dtype=precision)
    step: Any = precision(scale)
    half = (j + 0.5) / step - 0.5
    symmetric = before / 2 * (1 - after / (before * step)) + half
    places = {
        "half_pixel": half,
        "half_pixel_symmetric": symmetric,
        "pytorch_half_pixel": half if after > 1 else half * 0,
        "align_corners": j * (before - 1) / max(after - 1, 1),
        "asymmetric": j / step,
    }
    kind = "asymmetric" if old else kind
    if kind not in places:
        raise c.refusal(f"{kind} is unknown; allowed are {', '.join(places)}")
    place = places[kind]
    how = c.get("nearest_mode", "")
    if old:  # which onnxruntime's first version of both rounded up where there are fewer
        how = "ceil" if scale < 1 else "floor"
    if mode == "nearest":
        nearest: Any = {
            "floor": np.floor,
            "ceil": np.ceil,
            "round_prefer_ceil": lambda p: np.floor(p + 0.5),
        }.get(how, lambda p: np.ceil(p - 0.5))
        return np.eye(before)[nearest(place).astype(int).clip(0, before - 1)]
    reach = 2 if mode == "cubic" else 1
    matrix, low = np.zeros((after, before)), np.floor(place).astype(int)
    for k in range(1 - reach, reach + 1):
        weight = _kernel(place - (low + k), c.get("cubic_coeff_a", -0.75), cubic=reach == 2)
        inside = (low + k >= 0) & (low + k < before)
        weight = weight * inside if c.get("exclude_outside", 0) else weight
        np.add.at(matrix, (np.arange(after), (low + k).clip(0, before - 1)), weight)
    return matrix / matrix.sum(1, keepdims=True)


def _kernel(x: np.ndarray, a: float, *, cubic: bool) -> np.ndarray:
    x = abs(x)
    if not cubic:
        return (1 - x).clip(0)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    return np.where(x <= 1, near, np.where(x < 2, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a, 0))


RULES: dict[str, Rule] = {"Resize": _resampled, "Upsample": _resampled}
