"""Do the data sets have what is asked of them: so many points, these files, images to crop?

A data set's file may say ``NUM_TRAIN``, ``NUM_TEST``, ``INPUT_SHAPE`` and ``NUM_CLASSES`` (a
number, or one for each value of an option, ``{"fine": 100, "coarse": 20}``). Nothing is imported.
"""

from pathlib import Path
from typing import Any

from lipdescent.plugins import signatures
from lipdescent.study.schema import ConfigError
from lipdescent.study.sections import data_module, data_options, training_key, training_options

# Options whose values are counts, and the constant that says how many there are.
COUNTS = {"num_train": "NUM_TRAIN", "num_test": "NUM_TEST"}


def check(config: dict[str, Any]) -> None:
    """Every data set that is described or used.

    Raises
    ------
    ConfigError
        One line per mistake, naming the option, its value and what is allowed.
    """
    mistakes = []
    for dataset in config["datasets"]:
        module, options = data_module(config, dataset), data_options(config, dataset)
        mistakes += _counts(dataset, module, options)
        mistakes += _paths(dataset, module, options)
    mistakes += _augmentation(config)
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _counts(dataset: str, module: str, options: dict[str, Any]) -> list[str]:
    """No more points are asked for than there are."""
    mistakes = []
    for option, name in COUNTS.items():
        most, wanted = signatures.constant("datasets", module, name), options.get(option)
        if wanted is not None and most is not None and wanted > most:
            mistakes.append(
                f"config: datasets.{dataset}.{option} = {wanted}: allowed are 1 to {most}, "
                "all that there are"
            )
    return mistakes


def _paths(dataset: str, module: str, options: dict[str, Any]) -> list[str]:
    """What an option names as a file or a folder is there."""
    return [
        f"config: datasets.{dataset}.{option} = {str(options[option])!r}: there is no such "
        f"file or folder in {Path.cwd()}; make it, or name one that exists"
        for option in signatures.paths("datasets", module)
        if options.get(option) is not None and not Path(options[option]).exists()
    ]


def _augmentation(config: dict[str, Any]) -> list[str]:
    """Only images are cropped and flipped."""
    mistakes = []
    for dataset in config["grid"]["dataset"]:
        shape = signatures.constant("datasets", data_module(config, dataset), "INPUT_SHAPE")
        for name in config["grid"]["architecture"]:
            wanted = training_options(config, name)["augmentation"]
            if wanted is not None and shape is not None and len(shape) != 3:
                key = training_key(config, name, "augmentation")
                mistakes.append(
                    f"config: {key} = {wanted}: inputs of grid.dataset = {dataset} "
                    f"are {shape}; allowed are images (channels, height, width), or null"
                )
    return mistakes


def split_size(config: dict[str, Any], dataset: str, option: str) -> int | None:
    """``num_train`` or ``num_test`` of a data set; None where nothing says it."""
    wanted = data_options(config, dataset).get(option)
    return wanted or signatures.constant("datasets", data_module(config, dataset), COUNTS[option])


def num_classes(config: dict[str, Any], dataset: str) -> int | None:
    """Classes of a data set, by its file; None where it says nothing."""
    module = data_module(config, dataset)
    found = signatures.constant("datasets", module, "NUM_CLASSES")
    if not isinstance(found, dict):
        return found
    options = signatures.defaults("datasets", module) | data_options(config, dataset)
    chosen = [found[value] for value in options.values() if value in found]
    return chosen[0] if chosen else None
