"""CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32 x 32, 100 classes in 20.

Every superclass ("coarse" label) holds five of the classes ("fine" labels).
"""

from pathlib import Path
from typing import Literal

import numpy as np

from lipdescent.datasets import Dataset
from lipdescent.datasets._cifar import Archive, load_cifar
from lipdescent.datasets._images import Normalisation, prepare

INPUT_SHAPE = (3, 32, 32)
NUM_TRAIN = 50_000
NUM_TEST = 10_000
ARCHIVE = Archive(
    what="CIFAR100",
    name="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    label_bytes=2,
    train_members=("train.bin",),
    test_members=("test.bin",),
    python_folder="cifar-100-python",
)
NUM_CLASSES = {"fine": 100, "coarse": 20}
# The superclass of each class, as the dataset's page lists them: torchvision drops the column.
SUPERCLASS = np.fromstring(
    """4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16
    9 11 5 5 19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1
    16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13""",
    dtype=np.uint8,
    sep=" ",
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
    labels: Literal["fine", "coarse"] = "fine",
) -> Dataset:
    """``num_train`` of the 50,000 and ``num_test`` of the 10,000 images, drawn by ``seed``.

    Parameters
    ----------
    data_dir : folder with cifar-100-binary.tar.gz, or with torchvision's cifar-100-python;
        by default ./data.
    download : fetch the dataset through torchvision into ``data_dir`` where it is missing.
    normalise : "channel" (zero mean and unit variance over the training set) or "none" ([0, 1]).
    image_size : average blocks of pixels down to this side, a divisor of 32.
    labels : "fine" (100 classes) or "coarse" (20 superclasses).

    Raises
    ------
    FileNotFoundError
        If the files are missing; ValueError if one is corrupt or an option is out of range.
    """
    if labels not in NUM_CLASSES:
        raise ValueError(f"labels = {labels!r}: allowed are {', '.join(NUM_CLASSES)}")
    train_x, train_y, test_x, test_y = load_cifar(ARCHIVE, data_dir=data_dir, download=download)
    fine_train, fine_test = train_y[:, -1], test_y[:, -1]  # a record is coarse, fine, pixels
    chosen = (
        (fine_train, fine_test)
        if labels == "fine"
        else (SUPERCLASS[fine_train], SUPERCLASS[fine_test])
    )
    return prepare(
        (train_x, chosen[0], test_x, chosen[1]),
        num_classes=NUM_CLASSES[labels],
        num_train=num_train,
        num_test=num_test,
        seed=seed,
        normalise=normalise,
        image_size=image_size,
    )
