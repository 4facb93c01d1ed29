"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32 x 32, 10 classes."""

from pathlib import Path

from lipdescent.datasets import Dataset
from lipdescent.datasets._cifar import Archive, load_cifar
from lipdescent.datasets._images import Normalisation, prepare

INPUT_SHAPE = (3, 32, 32)
NUM_TRAIN = 50_000
NUM_TEST = 10_000
NUM_CLASSES = 10
ARCHIVE = Archive(
    what="CIFAR10",
    name="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    label_bytes=1,
    train_members=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test_members=("test_batch.bin",),
    python_folder="cifar-10-batches-py",
)


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
    """``num_train`` of the 50,000 and ``num_test`` of the 10,000 images, drawn by ``seed``.

    Parameters
    ----------
    data_dir : folder with cifar-10-binary.tar.gz, or with torchvision's cifar-10-batches-py;
        by default ./data.
    download : fetch the dataset through torchvision into ``data_dir`` where it is missing.
    normalise : "channel" (zero mean and unit variance over the training set) or "none" ([0, 1]).
    image_size : average blocks of pixels down to this side, a divisor of 32.

    Raises
    ------
    FileNotFoundError
        If the files are missing; ValueError if one is corrupt or an option is out of range.
    """
    train_x, train_y, test_x, test_y = load_cifar(ARCHIVE, data_dir=data_dir, download=download)
    return prepare(
        (train_x, train_y[:, 0], test_x, test_y[:, 0]),
        num_classes=NUM_CLASSES,
        num_train=num_train,
        num_test=num_test,
        seed=seed,
        normalise=normalise,
        image_size=image_size,
    )
