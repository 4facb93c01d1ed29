"""Can the networks of a study be built and trained? Found by building them, before any job.

What :mod:`lipdescent.study.sizes` asks of the architectures' files is asked here of the networks
themselves, one's own included. Never imports torch: see :mod:`lipdescent.study.network_costs`.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

from lipdescent.plugins import signatures
from lipdescent.study import axes, network_costs
from lipdescent.study.network_costs import Count, Network
from lipdescent.study.schema import ConfigError
from lipdescent.study.sections import data_module, training_key, training_options


def check(config: dict[str, Any]) -> None:
    """Networks can be built, give a value per class, and have no batch that BatchNorm cannot take.

    Only where the inputs' shape is known: by the data set's file, or once it has been prepared.

    Raises
    ------
    ConfigError
        One line per architecture and data set, naming the keys, their values and what is allowed.
    """
    grid, mistakes, wanted = config["grid"], [], []
    widths = network_costs.counted_widths(grid["width"])
    for dataset, name in itertools.product(grid["dataset"], grid["architecture"]):
        for point in axes.points(config, dataset, name):
            here = axes.at(config, point)
            shape, classes, points = network_costs.shape_and_classes(here, dataset)
            if shape is not None and classes is not None:
                networks = [network_costs.network(here, dataset, name, w) for w in widths]
                wanted.append((here, name, dataset, points, networks))
    # All in one process, whatever their number.
    network_costs.counts([network for *_, networks in wanted for network in networks])
    for here, name, dataset, points, networks in wanted:
        found = list(zip(networks, network_costs.counts(networks), strict=True))
        mistakes += _not_built(name, dataset, found)
        if points is not None and not config.get("checkpoints"):  # else nothing is trained
            mistakes += _last_batch(here, name, dataset, points, found)
    if mistakes:
        raise ConfigError("\n".join(dict.fromkeys(mistakes)))


def _not_built(name: str, dataset: str, found: list[tuple[Network, Count]]) -> list[str]:
    """The first network that cannot be built or applied."""
    for network, count in found:
        if count.mistake:
            return [
                f"config: architectures.{name} ({network.module}) of width {network.width} cannot "
                f"be built or applied to data set {dataset} with inputs {network.input_shape} and "
                f"{network.num_classes} classes: {count.mistake}"
            ]
    return []


def _last_batch(
    config: dict[str, Any], name: str, dataset: str, points: int, found: list[tuple[Network, Count]]
) -> list[str]:
    """No batch of one sample where BatchNorm sees one value per channel: it has no variance.

    Elsewhere a batch of one has the variance of its image, and is trained on as PyTorch does it.
    """
    batch = training_options(config, name)["batch_size"]
    layers = next((count.single for _, count in found if count.single), ())
    if not layers or not leaves_one(points, batch):
        return []
    key = training_key(config, name, "batch_size")
    named = f"{layers[0]}" + (f" and {len(layers) - 1} more" if len(layers) > 1 else "")
    sizes = _next_to(batch, lambda size: size > 1 and not leaves_one(points, size))
    most = signatures.constant("datasets", data_module(config, dataset), "NUM_TRAIN") or math.inf
    counts = _next_to(points, lambda n: 1 < n <= most and not leaves_one(n, batch))
    ways = [f"{key} = {_either(sizes)}"] if sizes else []
    if counts:
        ways.append(f"datasets.{dataset}.num_train = {_either(counts)}")
    which = "the batches have" if batch == 1 else "the last batch of an epoch has"
    return [
        f"config: {key} = {batch} and datasets.{dataset}.num_train = {points}: {which} one sample, "
        f"of which BatchNorm has no variance where it sees one value per channel "
        f"(architectures.{name}: {named}); allowed next to them are {' or '.join(ways)}"
    ]


def leaves_one(points: int, batch: int) -> bool:
    """True if some batch of an epoch has one sample."""
    return batch == 1 or points % batch == 1


def _next_to(value: int, allowed: Callable[[int], bool]) -> list[int]:
    """The nearest allowed numbers below and above."""
    below = next((n for n in range(value - 1, 0, -1) if allowed(n)), None)
    above = next((n for n in range(value + 1, 2 * value + 4) if allowed(n)), None)
    return [n for n in (below, above) if n is not None]


def _either(values: list[int]) -> str:
    return " or ".join(map(str, values))
