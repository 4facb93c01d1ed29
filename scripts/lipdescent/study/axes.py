"""Further axes of a study: which keys of the configuration vary, and what each point of them asks.

``vary`` maps the name of an axis to the values of one key, or to named points that set several::

    vary:
      depth: {architectures.mlp.depth: [1, 2, 3]}
      optimizer:
        sgd: {training.optimizer: sgd}
        adam: {training.optimizer: adam, training.learning_rate: 0.001}

A network is of the point that it depends on: an axis that changes another architecture, or another
data set, is none of its own. Everything that depends on a point reads the configuration by
:func:`at`, which is one without ``vary``. No torch here; mistakes are found by ``axis_checks``.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lipdescent.storage import variants
from lipdescent.storage.variants import Point, Value

# What may vary: a key of its own, or the beginning of one.
SECTIONS = ("datasets", "architectures", "training")
KEYS = ("noise_maker", "noise_seed")
# In a configuration at a point: data set -> the name of its file.
DATA_NAMES = "data_names"

Changes = Mapping[str, Any]
Path = tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes
    ----------
    points : number or word -> key with dots -> value.
    """

    name: str
    points: dict[Value, Changes]

    @property
    def kind(self) -> str:
        """``integer``, ``number`` or ``text``: the type of its column."""
        if any(isinstance(value, str) for value in self.points):
            return "text"
        return "integer" if all(isinstance(value, int) for value in self.points) else "number"

    @property
    def keys(self) -> list[str]:
        """Every key that some point sets."""
        return list(dict.fromkeys(key for changes in self.points.values() for key in changes))


def axes(config: Mapping[str, Any]) -> list[Axis]:
    """Axes of a checked configuration, in its order."""
    return [Axis(name, _points(entry)) for name, entry in (config.get("vary") or {}).items()]


def is_list(entry: Mapping[str, Any]) -> bool:
    """Whether an axis is the values of one key, not named points."""
    return len(entry) == 1 and isinstance(next(iter(entry.values())), list)


def _points(entry: Mapping[str, Any]) -> dict[Value, Changes]:
    found: dict[Value, Changes]
    if is_list(entry):
        ((key, values),) = entry.items()
        found = {named(value): {key: value} for value in values}
    else:
        found = {_number(name): changes for name, changes in entry.items()}
    if any(isinstance(value, str) for value in found):
        return {variants.label(value): changes for value, changes in found.items()}
    return found


def named(value: Any) -> Value:
    """A number as it is, anything else by its name in YAML."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return value


def _number(name: str) -> Value:
    """Points named by numbers are those numbers."""
    for kind in (int, float):
        try:
            number = kind(name)
        except ValueError:
            continue
        if variants.label(number) == name:
            return number
    return name


def points(config: Mapping[str, Any], dataset: str, architecture: str) -> list[dict[str, Value]]:
    """Points of the axes that networks of a data set and an architecture depend on."""
    return products(
        [axis for axis in axes(config) if concerns(config, axis, dataset, architecture)]
    )


def products(of: Sequence[Axis]) -> list[dict[str, Value]]:
    """Every point of some axes; one, of none, where there are none."""
    values = itertools.product(*(axis.points for axis in of))
    return [dict(zip((axis.name for axis in of), point, strict=True)) for point in values]


def concerns(config: Mapping[str, Any], axis: Axis, dataset: str, architecture: str) -> bool:
    """Whether an axis changes networks of a data set and an architecture; without keys, all."""
    own = ("datasets", dataset), ("architectures", architecture)
    places = [path(config, key) for key in axis.keys]
    of_all = not places or any(place[0] in ("training", *KEYS) for place in places)
    return of_all or any(place[:2] in own for place in places)


def at(config: Mapping[str, Any], point: Point) -> dict[str, Any]:
    """The configuration at a point, without ``vary``; ``config`` stays as it is.

    It shares with ``config`` what the point does not change, and names the files of the data sets.
    """
    found = {key: value for key, value in config.items() if key != "vary"}
    own = [axis for axis in axes(config) if axis.name in point]
    if not own:  # none, or it is at this point already
        return found
    for axis in own:
        for key, value in changes(axis, point).items():
            _put(found, path(config, key), value)
    found[DATA_NAMES] = {name: data_name(config, name, point) for name in config["grid"]["dataset"]}
    for name, file in found[DATA_NAMES].items():
        if file != name:  # whose name no longer says which file loads it
            module = config["datasets"].get(name, {}).get("module", name)
            _put(found, ("datasets", name), {"module": module} | found["datasets"][name])
    return found


def changes(axis: Axis, point: Point) -> Changes:
    """Key -> value, of an axis at a point."""
    value = point[axis.name]
    return axis.points[value if value in axis.points else variants.label(value)]


def data_name(config: Mapping[str, Any], dataset: str, point: Point) -> str:
    """Name of a data set's file at a point: of the axes that change the data set alone."""
    return variants.name(dataset, data_point(config, dataset, point))


def data_point(config: Mapping[str, Any], dataset: str, point: Point) -> dict[str, Value]:
    """The part of a point that changes a data set."""
    changing = {
        axis.name
        for axis in axes(config)
        if any(path(config, key)[:2] == ("datasets", dataset) for key in axis.keys)
    }
    return {name: value for name, value in point.items() if name in changing}


def data_file(config: Mapping[str, Any], dataset: str) -> str:
    """Name of a data set's file under a configuration at a point."""
    return config.get(DATA_NAMES, {}).get(dataset, dataset)


def path(config: Mapping[str, Any], key: str) -> Path:
    """The parts of a key with dots; names of data sets and architectures may hold some."""
    section, _, rest = key.partition(".")
    if section in ("datasets", "architectures"):
        for name in sorted(_names(config, section), key=len, reverse=True):
            if rest.startswith(f"{name}."):
                return (section, name, *rest.removeprefix(f"{name}.").split("."))
    return tuple(key.split("."))


def _names(config: Mapping[str, Any], section: str) -> Iterable[str]:
    return {*config.get(section, {}), *config["grid"][section.removesuffix("s")]}


def _put(config: dict[str, Any], place: Path, value: Any) -> None:
    """Set a value; the mappings on the way to it are copied."""
    for part in place[:-1]:
        config[part] = dict(config.get(part) or {})
        config = config[part]
    config[place[-1]] = value
