"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32 x 32.

Read from the published archive of the binary version, which needs no unpickling; where there is
none, through torchvision, which compares the md5 of each file of the python version.
"""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipdescent.datasets._images import DEFAULT_FOLDER, missing, verified

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Archive:
    """A binary version: ``label_bytes`` label bytes, then 3072 pixels, per image.

    Attributes
    ----------
    what : torchvision's name of the dataset.
    python_folder : where torchvision keeps the python version, below its root.
    """

    what: str
    name: str
    md5: str
    label_bytes: int
    train_members: tuple[str, ...]
    test_members: tuple[str, ...]
    python_folder: str


def parse(records: bytes, label_bytes: int, *, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n, label_bytes), uint8, of a binary file.

    Raises
    ------
    ValueError
        If the file is not a whole number of records.
    """
    size = label_bytes + PIXELS
    if not records or len(records) % size:
        raise ValueError(f"{where}: {len(records)} bytes, not a multiple of {size}")
    table = np.frombuffer(records, np.uint8).reshape(-1, size)
    return table[:, label_bytes:].reshape(-1, 3, 32, 32), table[:, :label_bytes]


def read_archive(path: Path, archive: Archive) -> tuple[np.ndarray, ...]:
    """Images and label columns of the training and of the test set.

    Raises
    ------
    ValueError
        If the md5 differs from the published one, or a member is missing or malformed.
    """
    contents = verified(path, [archive.md5])
    arrays: list[np.ndarray] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(contents), mode="r:gz") as tar:
            files = {Path(m.name).name: m for m in tar.getmembers() if m.isfile()}
            for names in (archive.train_members, archive.test_members):
                found = (tar.extractfile(files[name]) for name in names)
                records = b"".join(file.read() for file in found if file is not None)
                arrays += parse(records, archive.label_bytes, where=str(path))
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not the archive {archive.name} ({error!r})") from error
    return tuple(arrays)


def read_python(root: Path, archive: Archive, *, download: bool) -> tuple[np.ndarray, ...]:
    """The same through torchvision, with the one label column that it gives (fine labels)."""
    import torchvision

    make = getattr(torchvision.datasets, archive.what)
    sets = [make(root=str(root), train=train, download=download) for train in (True, False)]
    return tuple(
        array
        for s in sets
        for array in (s.data.transpose(0, 3, 1, 2), np.asarray(s.targets, np.uint8)[:, None])
    )


def load_cifar(
    archive: Archive, *, data_dir: str | Path | None, download: bool
) -> tuple[np.ndarray, ...]:
    """uint8 images and label columns (n, columns) of the training and of the test set.

    Raises
    ------
    FileNotFoundError
        If neither version is in ``data_dir`` (default ./data) and none could be downloaded;
        ValueError if what is there is corrupt.
    """
    root = DEFAULT_FOLDER if data_dir is None else Path(data_dir)
    if (root / archive.name).is_file():
        return read_archive(root / archive.name, archive)
    python = (root / archive.python_folder).is_dir()
    if not python and not download:
        files = [f"{archive.name} or torchvision's folder {archive.python_folder}"]
        raise missing(archive.what, files, [root], "download is off")
    try:
        return read_python(root, archive, download=download and not python)
    except (OSError, RuntimeError) as error:
        if python:
            folder = root / archive.python_folder
            raise ValueError(f"{folder}: incomplete or corrupt ({error})") from error
        raise missing(archive.what, [archive.name], [root], f"download failed: {error}") from None
