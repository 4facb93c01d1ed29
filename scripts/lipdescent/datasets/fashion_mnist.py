"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): MNIST's format, 10 classes of clothing.

Debian's package dataset-fashion-mnist works as it is.
"""

from pathlib import Path

from lipdescent.datasets import Dataset
from lipdescent.datasets._images import Normalisation, load_idx, prepare

INPUT_SHAPE = (1, 28, 28)
NUM_TRAIN = 60_000
NUM_TEST = 10_000
NUM_CLASSES = 10
FILES = {  # name -> md5 as published, and as compressed again by Debian
    "train-images-idx3-ubyte.gz": [
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "cf8536b0aa1a6ac5fa3f23001093305c",
    ],
    "train-labels-idx1-ubyte.gz": [
        "25c81989df183df01b3e8a0aad5dffbe",
        "10bea18fdb374794d4bb42e356e600c9",
    ],
    "t10k-images-idx3-ubyte.gz": [
        "bef4ecab320f06d8554ea6380940ec79",
        "f78720b4224f21cce2f2ccf2d7a94c9a",
    ],
    "t10k-labels-idx1-ubyte.gz": [
        "bb300cfdad3c16e7a12a480ee83cd310",
        "0d30e22e447f3c33dab9ed536400ac01",
    ],
}
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


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
    data_dir : folder with the four files; by default ./data, then Debian's folder.
    download : fetch them through torchvision into ``data_dir`` where they are missing.
    normalise : "channel" (zero mean and unit variance over the training set) or "none" ([0, 1]).
    image_size : average blocks of pixels down to this side, a divisor of 28.

    Raises
    ------
    FileNotFoundError
        If the files are missing; ValueError if one is corrupt or an option is out of range.
    """
    arrays = load_idx(
        "FashionMNIST", FILES, data_dir=data_dir, download=download, system_folders=[DEBIAN_FOLDER]
    )
    return prepare(
        arrays,
        num_classes=NUM_CLASSES,
        num_train=num_train,
        num_test=num_test,
        seed=seed,
        normalise=normalise,
        image_size=image_size,
    )
