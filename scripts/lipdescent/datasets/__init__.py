"""One dataset per file: ``load(*, num_train, num_test, seed, **options) -> Dataset``."""

import hashlib
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from lipdescent.storage import atomic, stamps


@dataclass(frozen=True)
class Dataset:
    """Train and test points in memory, labels as they are before any label noise.

    Attributes
    ----------
    train_inputs, test_inputs : float32 (n, *input_shape).
    train_labels, test_labels : int64 (n,), in 0..num_classes-1.
    """

    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    num_classes: int

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            labels, inputs = getattr(self, f"{split}_labels"), getattr(self, f"{split}_inputs")
            if labels.shape != inputs.shape[:1]:
                raise ValueError(f"{split}: {len(inputs)} points, labels of shape {labels.shape}")
            check_labels(labels, self.num_classes, f"{split}_labels")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.train_inputs.shape[1:]

    def checksum(self) -> str:
        """sha256 over shapes, types and contents."""
        digest = hashlib.sha256(str(self.num_classes).encode())
        for field in fields(self)[:4]:
            array = np.ascontiguousarray(getattr(self, field.name))
            digest.update(f"{field.name}{array.shape}{array.dtype}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path, made: stamps.Stamp | None = None) -> None:
        """Write an npz with its checksum and a stamp; the file appears only when complete."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        checksum = self.checksum()
        with atomic.complete(path) as partial:
            with partial.open("wb") as file:
                np.savez(file, **arrays, checksum=checksum)
            if made is not None:
                with zipfile.ZipFile(partial, "a") as archive:
                    stamp = stamps.with_content(made, checksum)
                    archive.writestr(stamps.MEMBER, stamps.dumps(stamp))


def check_labels(labels: np.ndarray, num_classes: int, what: str) -> None:
    """Raise TypeError for labels that are no integers, ValueError for those of no class."""
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{what}: {labels.dtype}; allowed are integers, int64")
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ValueError(
            f"{what}: {wrong[0]}, and {len(wrong)} in all; allowed are 0 to {num_classes - 1} "
            f"(num_classes = {num_classes})"
        )


def read(path: str | Path) -> Dataset:
    """Read what :meth:`Dataset.save` wrote.

    Raises
    ------
    ValueError
        If the file is truncated, foreign, or its contents do not match the checksum.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {f.name: archive[f.name] for f in fields(Dataset)}
            checksum = str(archive["checksum"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a complete dataset file ({error})") from error
    arrays["num_classes"] = int(arrays["num_classes"])
    dataset = Dataset(**arrays)
    if dataset.checksum() != checksum:
        raise ValueError(f"{path}: contents do not match the stored checksum")
    return dataset


def take(
    inputs: np.ndarray, labels: np.ndarray, count: int | None, *, seed: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """A random subset of ``count`` points (all, in their order, if None), drawn by ``seed``.

    Raises
    ------
    ValueError
        If ``count`` is not between 1 and the number of points.
    """
    if count is None or count == len(labels):
        return inputs, labels
    if not 1 <= count <= len(labels):
        raise ValueError(f"{what} = {count}: allowed are 1 to {len(labels)}")
    index = np.sort(np.random.default_rng(seed).permutation(len(labels))[:count])
    return inputs[index], labels[index]
