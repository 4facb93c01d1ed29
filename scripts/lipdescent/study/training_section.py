"""The ``training`` section of a configuration: its keys, their types and their defaults.

The only place of the defaults: the schema has the ranges and takes them from here, a training is
given a :class:`TrainingSection`. No torch here: every dry run reads it.
"""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stopping:
    """When a model ends before the last epoch: its weights stay as they are from there on.

    Attributes
    ----------
    gradient_norm : l2 norm of the gradient of the mean training loss at or below which it ends.
    min_epochs : epochs before which it does not.
    check_every : epochs between two looks.
    """

    gradient_norm: float
    min_epochs: int = 0
    check_every: int = 10


@dataclass(frozen=True)
class Augmentation:
    """Random crops after padding with zeros, ``padding`` pixels a side, and mirror images."""

    padding: int
    flip: bool = True


@dataclass(frozen=True)
class TrainingSection:
    """How a network is trained; units are in config/config.yaml.

    ``stopping`` and ``augmentation`` may be given as the mappings that a file holds.
    """

    learning_rate: float
    batch_size: int
    loss: str = "cross_entropy"
    loss_options: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "sgd"
    momentum: float = 0.0
    betas: Sequence[float] = (0.9, 0.999)
    weight_decay: float = 0.0
    batch_order: str = "shuffled"
    schedule: str = "constant"
    schedule_options: dict[str, Any] = field(default_factory=dict)
    gradient_clip: float | None = None
    layer_clip: float | None = None
    augmentation: Augmentation | None = None
    precision: str = "float32"
    channels_last: bool = False
    fused_step: bool = False
    stopping: Stopping | None = None
    penalty: dict[str, Any] | None = None
    adversary: dict[str, Any] | None = None
    parseval: float | None = None

    def __post_init__(self) -> None:
        for name, kind in NESTED.items():
            given = getattr(self, name)
            if isinstance(given, dict):
                object.__setattr__(self, name, kind(**given))


NESTED = {"augmentation": Augmentation, "stopping": Stopping}


def defaults(kind: type) -> dict[str, Any]:
    """Key -> default of a dataclass's fields that have one, as a YAML file writes it."""
    found: dict[str, Any] = {}
    for one in dataclasses.fields(kind):
        if one.default is not dataclasses.MISSING:
            found[one.name] = list(one.default) if type(one.default) is tuple else one.default
        elif one.default_factory is not dataclasses.MISSING:
            found[one.name] = one.default_factory()
    return found


def with_defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a configuration with the defaults of its ``training`` section."""
    schema = copy.deepcopy(schema)
    training = schema["properties"]["training"]
    sections = {name: training["properties"][name] for name in NESTED}
    for section, kind in [(training, TrainingSection), *((sections[n], NESTED[n]) for n in NESTED)]:
        for key, default in defaults(kind).items():
            section["properties"][key]["default"] = default
    return schema
