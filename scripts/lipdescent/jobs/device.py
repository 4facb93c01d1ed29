"""Which device a job computes on."""

import fcntl
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from lipdescent.jobs.words import counted
from lipdescent.study.machine import cpu_model

# Lock of the CUDA device that this process has taken; it is free again when the process ends.
_taken: dict[int, int] = {}


def choose(name: str) -> torch.device:
    """``auto`` takes CUDA where there is one; else the device named.

    Of several CUDA devices, ``auto`` and ``cuda`` take one that no other process has chosen, until
    this process ends. The device becomes torch's current one, on which graphs are captured.

    Raises
    ------
    ValueError
        If CUDA or a CUDA device is asked for that is not there, or if the one that would be taken
        is there but cannot compute.
    """
    if name == "auto":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    else:
        device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(
                f"device = {name!r}: this machine has {count} usable CUDA devices; "
                "allowed here: auto, cpu" + "".join(f", cuda:{i}" for i in range(count))
            )
        if device.index is None:
            # torch's types do not know that a device may have no index.
            device = torch.device("cuda", _free(count))  # type: ignore[unreachable]
        _try(device, name)
        torch.cuda.set_device(device)
    return device


def _free(count: int) -> int:
    """Index of a CUDA device that no other process of this user holds; any if all are held.

    Any too where no lock can be had: processes then may share a device, which is only slower.
    """
    if count == 1:
        return 0
    if _taken:
        return next(iter(_taken))
    for index in range(count):
        # By its serial number: which index it has depends on CUDA_VISIBLE_DEVICES.
        try:
            lock = _lock(str(torch.cuda.get_device_properties(index).uuid))
        except BlockingIOError:
            continue
        except OSError as error:
            print(f"no lock of a CUDA device, jobs may share one: {error}")
            break
        _taken[index] = lock
        return index
    return os.getpid() % count


def _lock(name: str) -> int:
    """Descriptor of a locked file; OSError, BlockingIOError if another process has locked it."""
    folder = Path(tempfile.gettempdir()) / f"lipdescent-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is not this user's")
    # Opened for reading, and no link: whatever lies there stays as it is.
    found = os.open(folder / name, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(found)
        raise
    return found


def _try(device: torch.device, name: str) -> None:
    """One sum on the device: it may be too old for this PyTorch, taken, or broken."""
    try:
        usable = torch.ones(2, device=device).sum().item() == 2
        reason = "it computes 1 + 1 wrongly"
    except RuntimeError as error:
        usable, reason = False, str(error).splitlines()[0]
    if not usable:
        raise ValueError(
            f"device = {name!r}: the CUDA device is there but unusable ({reason}); "
            "allowed is a device that computes, or cpu"
        )


def describe(device: torch.device) -> str:
    """The device's name for logs and provenance."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({counted(torch.get_num_threads(), 'thread')})"


def described(device: torch.device) -> dict[str, str]:
    """What else a number's last digits depend on, for the stamps of results."""
    return {"device": describe(device), "cpu": cpu_model(), "torch": str(torch.__version__)}


def set_precision(precision: str) -> torch.dtype:
    """Set how this process multiplies float32 matrices; the dtype of weights and inputs.

    ``float32`` is IEEE throughout, ``tf32`` lets CUDA round the factors of products and
    convolutions to 10 bits, ``bfloat16`` keeps float32 weights and leaves products to autocast.
    Of cuDNN's algorithms only those are taken that give the same bits again: a training that was
    interrupted must end as it would have.
    """
    torch.backends.cudnn.deterministic = True
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.float64 if precision == "float64" else torch.float32


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; CUDA's goes through pinned memory, so that nothing waits for it."""
    if device.type != "cuda":
        return tensor.to(device)
    # Pinned memory has the strides of what it copies: one row for all models would overlap.
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)
