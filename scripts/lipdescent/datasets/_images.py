"""What the image datasets share: finding and checking the published files, scaling, subsets.

Only the published archives are read, and only after their md5 was compared.
"""

import gzip
import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from lipdescent.datasets import Dataset, take

DEFAULT_FOLDER = Path("data")
Normalisation = Literal["channel", "none"]


def missing(
    what: str, names: Sequence[str], folders: Sequence[Path], reason: str
) -> FileNotFoundError:
    """The error for a dataset that is not there: which files to put where."""
    places = " or ".join(str(folder) for folder in folders)
    return FileNotFoundError(
        f"{what} is not here: put {', '.join(names)} into {places}, or name the folder that has "
        f"{'them' if len(names) > 1 else 'it'} by data_dir ({reason})"
    )


def fetch(what: str, names: Sequence[str], folders: Sequence[Path], root: Path) -> None:
    """Let torchvision download the dataset ``what`` into ``root``; it compares the md5.

    Raises
    ------
    FileNotFoundError
        If the download fails; the message says which files to put where.
    """
    import torchvision

    try:
        getattr(torchvision.datasets, what)(root=str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise missing(what, names, folders, f"download failed: {error}") from None


def verified(path: Path, md5s: Sequence[str]) -> bytes:
    """Contents of a file whose md5 is one of the published ``md5s``.

    Raises
    ------
    ValueError
        If the file is another one than published (truncated, altered).
    """
    contents = path.read_bytes()
    found = hashlib.md5(contents, usedforsecurity=False).hexdigest()
    if found not in md5s:
        raise ValueError(f"{path}: corrupt, its md5 is {found}, published is {' or '.join(md5s)}")
    return contents


def read_idx(path: Path, md5s: Sequence[str]) -> np.ndarray:
    """Array of unsigned bytes in a gzipped idx file (the format of MNIST).

    Raises
    ------
    ValueError
        If the md5 differs, or the file is not a gzipped idx file of unsigned bytes.
    """
    contents = verified(path, md5s)
    try:
        raw = gzip.decompress(contents)
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: not a complete gzip file ({error})") from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: not an idx file of unsigned bytes")
    start = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:start])
    if len(raw) - start != np.prod(shape):
        raise ValueError(f"{path}: {len(raw) - start} bytes of data, its header says {shape}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def load_idx(
    what: str,
    files: Mapping[str, Sequence[str]],
    *,
    data_dir: str | Path | None,
    download: bool,
    system_folders: Sequence[Path] = (),
) -> tuple[np.ndarray, ...]:
    """Images and labels of MNIST or of a dataset published in its format.

    Parameters
    ----------
    what : torchvision's name of it, e.g. "FashionMNIST".
    files : name -> published md5s of training images, training labels, test images, test labels.
    data_dir : folder with the files, or torchvision's root above ``what``/raw.
    download : fetch the files through torchvision where they are not found.
    system_folders : where else they may be (a distribution's package).

    Returns
    -------
    uint8 images (n, 1, height, width) and labels (n,) of the training and of the test set.

    Raises
    ------
    FileNotFoundError
        If the files are nowhere; ValueError if one of them is corrupt.
    """
    root = DEFAULT_FOLDER if data_dir is None else Path(data_dir)
    folders = [root, root / what / "raw", *(system_folders if data_dir is None else [])]
    names = list(files)
    folder = next((f for f in folders if all((f / n).is_file() for n in names)), None)
    if folder is None:
        if not download:
            raise missing(what, names, folders, "download is off")
        fetch(what, names, folders, root)
        folder = folders[1]
    train_x, train_y, test_x, test_y = (read_idx(folder / n, md5s) for n, md5s in files.items())
    return train_x[:, None], train_y, test_x[:, None], test_y


def shrink(images: np.ndarray, image_size: int | None) -> np.ndarray:
    """Square images (n, channels, side, side) averaged over blocks to ``image_size``, float32.

    Raises
    ------
    ValueError
        If the side is not a multiple of ``image_size``.
    """
    images = images.astype(np.float32)
    n, channels, side, _ = images.shape
    if image_size is None or image_size == side:
        return images
    if not 1 <= image_size <= side or side % image_size:
        raise ValueError(f"image_size = {image_size}: allowed are the divisors of {side}")
    blocks = images.reshape(n, channels, image_size, side // image_size, image_size, -1)
    return blocks.mean(axis=(3, 5))


def prepare(
    arrays: tuple[np.ndarray, ...],
    *,
    num_classes: int,
    num_train: int | None,
    num_test: int | None,
    seed: int,
    normalise: Normalisation,
    image_size: int | None = None,
    brightest: float = 255.0,
) -> Dataset:
    """Scale to [0, 1], normalise, and draw the subsets.

    Parameters
    ----------
    arrays : images (n, channels, side, side) and labels of the training and of the test set.
    normalise : "channel" subtracts each channel's mean and divides by its standard deviation,
        both over the whole training set, so that a subset does not move the inputs; "none"
        leaves [0, 1].
    image_size : average blocks of pixels down to this side; None leaves the images as they are.
    brightest : the value that becomes 1.
    """
    if normalise not in get_args(Normalisation):
        allowed = ", ".join(get_args(Normalisation))
        raise ValueError(f"normalise = {normalise!r}: allowed are {allowed}")
    train_y, test_y = arrays[1], arrays[3]
    train_x, test_x = (shrink(images, image_size) / np.float32(brightest) for images in arrays[::2])
    if normalise == "channel":
        mean = train_x.mean(axis=(0, 2, 3), dtype=np.float64, keepdims=True)
        std = train_x.std(axis=(0, 2, 3), dtype=np.float64, keepdims=True)
        train_x, test_x = ((x - mean) / np.where(std > 0, std, 1) for x in (train_x, test_x))
    train = take(train_x, train_y, num_train, seed=seed, what="num_train")
    test = take(test_x, test_y, num_test, seed=seed, what="num_test")
    return Dataset(
        train_inputs=train[0].astype(np.float32),
        train_labels=train[1].astype(np.int64),
        test_inputs=test[0].astype(np.float32),
        test_labels=test[1].astype(np.int64),
        num_classes=num_classes,
    )
