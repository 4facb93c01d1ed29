"""Small files in the published formats of MNIST and CIFAR, for tests that read them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np

from lipdescent.datasets import _cifar, cifar10, cifar100, mnist


def md5(contents: bytes) -> str:
    return hashlib.md5(contents, usedforsecurity=False).hexdigest()


def idx(array: np.ndarray) -> bytes:
    """A gzipped idx file of unsigned bytes."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def records(n: int, label_bytes: int, rng: np.random.Generator) -> np.ndarray:
    """CIFAR's binary records with random labels below 10 and random pixels."""
    labels = rng.integers(0, 20, (n, label_bytes), np.uint8) % 10
    return np.concatenate([labels, rng.integers(0, 256, (n, _cifar.PIXELS), np.uint8)], axis=1)


def write_archive(folder: Path, archive: _cifar.Archive, members: dict) -> _cifar.Archive:
    """A binary archive of these members; the description with its md5."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, table in members.items():
            info = tarfile.TarInfo(f"folder/{name}")
            info.size = table.nbytes
            tar.addfile(info, io.BytesIO(table.tobytes()))
    (folder / archive.name).write_bytes(buffer.getvalue())
    return dataclasses.replace(archive, md5=md5(buffer.getvalue()))


def write_mnist(folder: Path, patch, *, counts: tuple[int, int], modules=(mnist,)) -> list:
    """Four idx files; ``modules`` are told their md5s. The arrays in the files' order."""
    rng = np.random.default_rng(0)
    arrays = []
    for n in counts:
        arrays += [rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n, np.uint8)]
    for name, array in zip(mnist.FILES, arrays, strict=True):
        (folder / name).write_bytes(idx(array))
    md5s = {name: [md5((folder / name).read_bytes())] for name in mnist.FILES}
    for module in modules:
        patch.setattr(module, "FILES", md5s)
    return arrays


def write_cifar(folder: Path, patch, *, per_file: int = 3) -> dict:
    """Both CIFARs' binary archives; the members' tables by module."""
    rng = np.random.default_rng(1)
    tables = {}
    for module in (cifar10, cifar100):
        archive = module.ARCHIVE
        members = {
            name: records(per_file, archive.label_bytes, rng)
            for name in (*archive.train_members, *archive.test_members)
        }
        patch.setattr(module, "ARCHIVE", write_archive(folder, archive, members))
        tables[module] = members
    return tables
