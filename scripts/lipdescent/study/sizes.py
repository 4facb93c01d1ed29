"""Do the widths of the grid and the inputs of the data sets fit the architectures?

Asked without building anything, so without PyTorch: a data set's file may say ``INPUT_SHAPE``, an
architecture's ``SIZES`` (:mod:`lipdescent.architectures._sizes`). Where one of them says nothing,
``build`` is the first to find a mistake, in the training job.
"""

import itertools
from typing import Any

from lipdescent.plugins import signatures
from lipdescent.study.schema import ConfigError
from lipdescent.study.sections import build_options, data_module, data_options
from lipdescent.study.sections import module as module_of


def check_sizes(config: dict[str, Any]) -> None:
    """Groups that are sorted divide every width; every width fits every data set.

    Raises
    ------
    ConfigError
        Naming the architecture, the width, the data set and what is allowed.
    """
    _check_groups(config)
    _check_inputs(config)


def _check_groups(config: dict[str, Any]) -> None:
    """Groups that are sorted make up every width of the grid."""
    for name in config["grid"]["architecture"]:
        module = module_of(config, name)
        options = signatures.defaults("architectures", module) | build_options(config, name)
        size, activation = options.get("group_size"), options.get("activation")
        for width in config["grid"]["width"]:
            if size and activation in (None, "groupsort") and width % size:
                raise ConfigError(
                    f"config: architectures.{name}.group_size = {size} does not divide "
                    f"grid.width = {width}"
                )


def _check_inputs(config: dict[str, Any]) -> None:
    """Architectures fit the inputs, where a data set says theirs and an architecture its sizes."""
    grid, mistakes = config["grid"], []
    for dataset, name in itertools.product(grid["dataset"], grid["architecture"]):
        module = module_of(config, name)
        fit = signatures.function("architectures", module, "SIZES")
        shape = input_shape_of(config, dataset)
        if shape is None or fit is None:
            continue
        options = signatures.defaults("architectures", module) | build_options(config, name)
        found: dict[str, int] = {}
        for width in grid["width"]:
            try:
                fit(width, input_shape=shape, **options)
            except ValueError as error:
                found.setdefault(str(error), width)
        mistakes += [
            f"config: architectures.{name} ({module}) of width {width} does not fit data set "
            f"{dataset} with inputs {shape}: {error}"
            for error, width in found.items()
        ]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def input_shape_of(config: dict[str, Any], dataset: str) -> tuple[int, ...] | None:
    """Of one input, if the data set's file says so."""
    shape = signatures.constant("datasets", data_module(config, dataset), "INPUT_SHAPE")
    size = data_options(config, dataset).get("image_size")
    if shape is None or size is None:
        return shape
    if shape[-1] % size:
        raise ConfigError(
            f"config: datasets.{dataset}.image_size = {size}: allowed are the divisors of "
            f"{shape[-1]}"
        )
    return (*shape[:-2], size, size)
