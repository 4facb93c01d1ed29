"""What the networks of a study take, counted from the networks themselves, and kept.

Counting needs PyTorch (:mod:`lipdescent.stacks.operation_counts`): it is done in a process of its
own, once per network and code, and the counts are kept in Snakemake's folder. Never imports torch.
"""

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipdescent.storage import npz_header
from lipdescent.study import asked_once, axes, dataset_checks, machine
from lipdescent.study.code_digest import code_versions
from lipdescent.study.sections import build_options
from lipdescent.study.sections import module as module_of
from lipdescent.study.sizes import input_shape_of

KEPT = "networks"
# Widths of a grid that are counted; what lies between follows from a cubic, as products of weights
# grow at most.
COUNTED_WIDTHS = 4
# Where nothing says it: a data set of small colour images.
USUAL_SHAPE, USUAL_CLASSES, USUAL_POINTS = (3, 32, 32), 10, 60_000


@dataclass(frozen=True)
class Cost:
    """What one forward pass of one network takes.

    Attributes
    ----------
    parameters : trained values.
    products, activations : multiply-adds, and values that operations write, per sample.
    fixed_products, fixed_values : the same per pass, whatever the batch: what makes constrained
        weights.
    operations : PyTorch's operations in a pass.
    """

    parameters: int
    products: int
    fixed_products: int
    activations: int
    fixed_values: int
    operations: int


# Where a network could not be counted (no PyTorch beside Snakemake): on images a ResNet18's counts
# in the width w, as w and w**2; whether it is more or less than the network, nobody knows.
UNKNOWN_ON_IMAGES = {
    "parameters": (213, 2724),
    "products": (27_728, 135_168),
    "activations": (29_712, 0),
}
UNKNOWN_OPERATIONS = 94


@dataclass(frozen=True)
class Network:
    """A network of the study: what ``build`` is given."""

    module: str
    width: int
    input_shape: tuple[int, ...]
    num_classes: int
    options: str  # JSON of the options of build

    def key(self) -> str:
        """Changes with the network, its code, the code that counts and PyTorch."""
        code = code_versions("count_networks.py", f"lipdescent/architectures/{self.module}.py")
        versions = [machine.version(package) for package in ("torch", "torchvision")]
        text = json.dumps([dataclasses.astuple(self), code, versions])
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Count:
    """What was found of a network: its cost, BatchNorm layers that need two samples, a mistake."""

    cost: Cost | None
    single: tuple[str, ...] = ()
    mistake: str = ""


def network(config: dict[str, Any], dataset: str, architecture: str, width: int) -> Network:
    """The network of a run."""
    shape, classes, _ = shape_and_classes(config, dataset)
    return Network(
        module=module_of(config, architecture),
        width=width,
        input_shape=tuple(shape or USUAL_SHAPE),
        num_classes=classes or USUAL_CLASSES,
        options=json.dumps(build_options(config, architecture), sort_keys=True),
    )


def shape_and_classes(
    config: dict[str, Any], dataset: str
) -> tuple[tuple[int, ...] | None, int | None, int | None]:
    """Shape of an input, classes and training points: by the data set's file, or its data.

    None of what neither says: the data have not been prepared yet. ``config`` is one at a point of
    the study's axes (:func:`lipdescent.study.axes.at`), if it has some.
    """
    file = axes.data_file(config, dataset)
    if file in LOADED:
        return LOADED[file]
    shape = input_shape_of(config, dataset)
    classes = dataset_checks.num_classes(config, dataset)
    points = dataset_checks.split_size(config, dataset, "num_train")
    if shape is None or classes is None or points is None:
        prepared = Path("results", config["study"], "datasets", f"{file}.npz")
        found = npz_header.read(prepared)
        shape = shape or (found.input_shape if found else None)
        classes = classes or (found.num_classes if found else None)
        points = points or (found.num_train if found else None)
    return shape, classes, points


def cost(
    config: dict[str, Any], dataset: str, architecture: str, width: int, *, count: bool = True
) -> Cost:
    """Of one network; where it could not be counted, that of a network nobody knows."""
    nodes = counted_widths([*config["grid"]["width"], width])
    networks = [network(config, dataset, architecture, w) for w in nodes]
    found = counts(networks, count=count)
    shape = networks[0].input_shape
    if width in nodes and found[nodes.index(width)].cost is None:
        return _unknown(width, shape)
    known = [(w, c.cost) for w, c in zip(nodes, found, strict=True) if c.cost is not None]
    return _between(width, known) if known else _unknown(width, shape)


def counted_widths(widths: Iterable[int]) -> list[int]:
    """The smallest, the largest and some between them."""
    ordered = sorted(set(widths))
    last = min(len(ordered), COUNTED_WIDTHS) - 1
    if last < 1:
        return ordered
    return sorted({ordered[round(i * (len(ordered) - 1) / last)] for i in range(last + 1)})


def _between(width: int, known: Sequence[tuple[int, Cost]]) -> Cost:
    """Lagrange's polynomial through the counted widths, kept between its neighbours' values."""
    exact = dict(known)
    if width in exact:
        return exact[width]
    values = {}
    for field in dataclasses.fields(Cost):
        total = 0.0
        for node, found in known:
            others = [w for w, _ in known if w != node]
            weight = 1.0
            for other in others:
                weight *= (width - other) / (node - other)
            total += weight * getattr(found, field.name)
        below = [getattr(c, field.name) for w, c in known if w < width]
        above = [getattr(c, field.name) for w, c in known if w > width]
        total = max(total, max(below, default=0))
        values[field.name] = round(min(total, min(above, default=total)))
    return Cost(**values)


def _unknown(width: int, input_shape: Sequence[int]) -> Cost:
    """On inputs that are no images, two hidden layers."""
    if len(input_shape) == 3:
        values = {name: a * width + b * width**2 for name, (a, b) in UNKNOWN_ON_IMAGES.items()}
    else:
        weights = width * (math.prod(input_shape) + width + 100)
        values = {"parameters": weights, "products": weights, "activations": 4 * width}
    return Cost(**values, fixed_products=0, fixed_values=0, operations=UNKNOWN_OPERATIONS)


_FOUND: dict[Network, Count] = {}
# Name of a data set's file -> shape, classes and points, where it was loaded because its plug-in
# does not say them.
LOADED: dict[str, tuple[tuple[int, ...], int, int]] = {}


def counts(networks: Sequence[Network], *, count: bool = True) -> list[Count]:
    """What is known of networks: from this process, from Snakemake's folder, or counted now.

    Without ``count`` nothing is counted now; what nobody has counted has no cost then.
    """
    missing = {network: network.key() for network in networks if network not in _FOUND}
    if missing:
        kept = asked_once.kept(KEPT)
        new = [network for network, key in missing.items() if key not in kept]
        if new and count:
            fresh = _count(new)
            kept |= {missing[network]: entry for network, entry in zip(new, fresh, strict=False)}
            if fresh:
                asked_once.keep(KEPT, kept)
        for network, key in missing.items():
            if count or key in kept:
                _FOUND[network] = _as_count(kept.get(key))
    return [_FOUND.get(network, Count(None)) for network in networks]


def _as_count(entry: dict[str, Any] | None) -> Count:
    if entry is None:
        return Count(None)
    cost = Cost(**entry["cost"]) if entry["cost"] else None
    return Count(cost, tuple(entry["single"]), entry["mistake"])


def _count(networks: Sequence[Network]) -> list[dict[str, Any]]:
    """Counted in another process; nothing where it has no PyTorch."""
    tasks = [dataclasses.asdict(network) for network in networks]
    found, why = asked_once.answer("count_networks.py", tasks)
    if found is None:
        print(
            f"the networks could not be counted ({why}): memory and time are guessed "
            "by their width, and mistakes in building them are found by the jobs",
            file=sys.stderr,
        )
    return found or []
