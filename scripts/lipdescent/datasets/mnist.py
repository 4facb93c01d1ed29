"""MNIST (LeCun et al. 1998): 60,000 + 10,000 grey 28 x 28 images of digits, 10 classes."""

from pathlib import Path

from lipdescent.datasets import Dataset
from lipdescent.datasets._images import Normalisation, load_idx, prepare

INPUT_SHAPE = (1, 28, 28)
NUM_TRAIN = 60_000
NUM_TEST = 10_000
NUM_CLASSES = 10
FILES = {  # name -> md5
    "train-images-idx3-ubyte.gz": ["f68b3c2dcbeaaa9fbdd348bbdeb94873"],
    "train-labels-idx1-ubyte.gz": ["d53e105ee54ea40749a09fcbcd1e9432"],
    "t10k-images-idx3-ubyte.gz": ["9fb629c4189551a2d022fa330f9573f3"],
    "t10k-labels-idx1-ubyte.gz": ["ec29112dd5afa0611ce80d1b7f02629c"],
}


def load(
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    download: bool = True,
    normalise: Normalisation = "channel",
    image_size: int | None = None,
) -> Dataset:
    """``num_train`` of the 60,000 and ``num_test`` of the 10,000 images, drawn by ``seed``.

    Parameters
    ----------
    data_dir : folder with the four files; by default ./data.
    download : fetch them through torchvision into ``data_dir`` where they are missing.
    normalise : "channel" (zero mean and unit variance over the training set) or "none" ([0, 1]).
    image_size : average blocks of pixels down to this side, a divisor of 28.

    Raises
    ------
    FileNotFoundError
        If the files are missing; ValueError if one is corrupt or an option is out of range.
    """
    arrays = load_idx("MNIST", FILES, data_dir=data_dir, download=download)
    return prepare(
        arrays,
        num_classes=NUM_CLASSES,
        num_train=num_train,
        num_test=num_test,
        seed=seed,
        normalise=normalise,
        image_size=image_size,
    )
