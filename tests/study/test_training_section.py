"""The schema's training section and its dataclasses say the same, and defaults stand once."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path

import pytest
import yaml

from lipdescent.study import training_section
from lipdescent.study.config import prepare
from lipdescent.study.schema import ConfigError, check_schema
from lipdescent.study.training_section import Augmentation, Stopping, TrainingSection
from lipdescent.training.options import TrainingOptions

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "workflow/schemas/config.schema.yaml"
SCHEMA = yaml.safe_load(PLACE.read_text())
TRAINING = SCHEMA["properties"]["training"]
SECTIONS = {
    TrainingSection: TRAINING,
    Stopping: TRAINING["properties"]["stopping"],
    Augmentation: TRAINING["properties"]["augmentation"],
}
NAMES = {int: "integer", float: "number", str: "string", bool: "boolean", types.NoneType: "null"}
WRITTEN = {"learning_rate": 0.1, "batch_size": 5}


def names_of(hint) -> set[str]:
    """JSON schema's names of a type annotation."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return set().union(*map(names_of, typing.get_args(hint)))
    if dataclasses.is_dataclass(hint) or origin is dict:
        return {"object"}
    return {"array"} if origin else {NAMES[hint]}


def types_in(entry: dict) -> set[str]:
    """Types that an entry of the schema takes."""
    if "$ref" in entry:
        entry = SCHEMA["$defs"][entry["$ref"].rsplit("/", 1)[1]]
    if "enum" in entry:
        return {NAMES[type(value)] for value in entry["enum"]}
    return {entry["type"]} if isinstance(entry["type"], str) else set(entry["type"])


@pytest.mark.parametrize("kind", SECTIONS)
def test_keys_types_and_what_is_needed_agree(kind):
    section, hints = SECTIONS[kind], typing.get_type_hints(kind)
    assert set(section["properties"]) == set(hints)
    assert not section["additionalProperties"]
    assert set(section["required"]) == set(hints) - set(training_section.defaults(kind))
    for key, hint in hints.items():
        assert types_in(section["properties"][key]) == names_of(hint), key


def test_the_schema_has_no_default_of_its_own_here():
    assert "default" not in str(TRAINING)
    filled = training_section.with_defaults(SCHEMA)["properties"]["training"]
    assert str(filled).count("'default'") == sum(
        len(training_section.defaults(kind)) for kind in SECTIONS
    )
    assert "default" not in str(TRAINING)  # a copy was filled


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"stopping": {"gradient_norm": 0.1}, "augmentation": {"padding": 2}},
        {"stopping": {"gradient_norm": 1, "check_every": 3}, "augmentation": None},
        {"betas": [0.5, 0.6], "loss_options": {"a": 1}},
    ],
)
def test_a_configuration_gets_the_defaults_of_a_training(written):
    """Whether they are filled in before the jobs or by the training itself."""
    section = training_section.with_defaults(SCHEMA)
    filled = WRITTEN | written
    check_schema(
        filled, {**section["properties"]["training"], "$defs": section["$defs"]}, place="training"
    )
    assert set(filled) == {field.name for field in dataclasses.fields(TrainingSection)}
    early, late = TrainingOptions(**filled), TrainingOptions(**WRITTEN | written)
    early, late = (dataclasses.asdict(options) for options in (early, late))
    assert early | {"betas": tuple(early["betas"])} == late | {"betas": tuple(late["betas"])}


def test_mappings_become_what_they_are():
    options = TrainingOptions(
        **WRITTEN, stopping={"gradient_norm": 0.1}, augmentation={"padding": 2}
    )
    assert options.stopping == Stopping(0.1, min_epochs=0, check_every=10)
    assert options.augmentation == Augmentation(2, flip=True)
    assert dataclasses.replace(options, momentum=0.5).stopping is options.stopping
    with pytest.raises(TypeError, match="check_evry"):
        TrainingOptions(**WRITTEN, stopping={"gradient_norm": 0.1, "check_evry": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stopping": {"gradient_norm": 0.1, "check_evry": 1}},
         r"unknown key 'training.stopping.check_evry' \(did you mean .*stopping.check_every"),
        ({"stopping": {"min_epochs": 3}}, "training.stopping: 'gradient_norm' is a required"),
        ({"stopping": {"gradient_norm": 0.1, "check_every": 0}}, "every = 0: allowed is at least"),
        ({"augmentation": {"padding": -1}}, "augmentation.padding = -1: allowed is at least 0"),
        ({"batch_order": "sorted"}, "batch_order = 'sorted': allowed is one of shuffled, fixed"),
    ],
)  # fmt: skip
def test_mistakes_are_named_as_ever(change, message):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["training"] |= change
    with pytest.raises(ConfigError, match=message):
        prepare(config, schema=PLACE, figures=config["figures"], comparisons=[])
