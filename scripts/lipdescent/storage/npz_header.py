"""Shapes of a prepared data set (an npz), read from its headers without NumPy."""

import ast
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Header:
    """What the headers say of a data set."""

    num_train: int
    input_shape: tuple[int, ...]
    num_classes: int


def read(path: str | Path) -> Header | None:
    """Of what ``Dataset.save`` wrote; None where there is no such file, or a broken one."""
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open("train_inputs.npy") as file:
                num_train, *shape = _header(file)["shape"]
            with archive.open("num_classes.npy") as file:
                kind = _header(file)["descr"]
                (classes,) = struct.unpack({"<i8": "<q", "<i4": "<i"}[kind], file.read())
    except (OSError, KeyError, ValueError, SyntaxError, zipfile.BadZipFile, struct.error):
        return None
    return Header(num_train, tuple(shape), classes)


def _header(file: IO[bytes]) -> dict[str, Any]:
    """The dictionary at the start of an npy file (NumPy's format 1 to 3)."""
    if file.read(6) != b"\x93NUMPY":
        raise ValueError("not an npy file")
    major, _ = file.read(2)
    size = struct.unpack("<H", file.read(2)) if major == 1 else struct.unpack("<I", file.read(4))
    return ast.literal_eval(file.read(size[0]).decode("latin1"))
