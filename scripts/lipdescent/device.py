"""Which device a job computes on."""

from __future__ import annotations

import torch


def choose(name: str) -> torch.device:
    """``auto`` takes CUDA where there is one; else the device named.

    Raises
    ------
    ValueError
        If CUDA or a CUDA device is asked for that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(
                f"device = {name!r}: this machine has {count} usable CUDA devices; "
                "allowed here: auto, cpu" + "".join(f", cuda:{i}" for i in range(count))
            )
    return device


def describe(device: torch.device) -> str:
    """The device's name for logs and provenance."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def set_precision(precision: str) -> torch.dtype:
    """Set how this process multiplies float32 matrices; the dtype of weights and inputs.

    ``float32`` is IEEE throughout, ``tf32`` lets CUDA round the factors of products and
    convolutions to 10 bits, ``bfloat16`` keeps float32 weights and leaves products to autocast.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.float64 if precision == "float64" else torch.float32
