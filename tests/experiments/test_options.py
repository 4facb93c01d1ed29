"""What does not fit is named, before any job and by the experiment itself."""

import re
from inspect import signature

import configurations
import pytest

from lipdescent.plugins import lookup, signatures
from lipdescent.study.schema import ConfigError

CHECKED = [
    name
    for name in lookup.known("experiments")
    if signatures.function("experiments", name, "CHECK") is not None
]


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficients": [0.9, -1.0]}, "coefficient = -1.0: allowed are positive numbers"),
        ({"coefficients": [0.0]}, "coefficient = 0.0: allowed are positive numbers, or null"),
        ({"coefficients": [0.9, 0.9]}, "coefficients = [0.9, 0.9]: allowed is at least one"),
        ({"steps": 0}, "steps = 0: allowed are numbers >= 1"),
    ],
)
def test_what_does_not_fit_residual_networks_on_images(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lookup.resolve("experiments", name).run(**options)
    wanted = configurations.DEFAULT | {"experiments": {name: options}}
    with pytest.raises(ConfigError, match=f"experiments.{name}: {re.escape(message)}"):
        configurations.checked(wanted)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("distance_uncertainty", {"width": 0}, "width = 0: allowed are numbers >= 1"),
        ("distance_preservation_images", {"widths": [2, 0]}, "width = 0: allowed are"),
        (
            "distance_preservation_images",
            {"downsampling": ["max"]},
            "downsampling = 'max': allowed are none, average, strided",
        ),
        (
            "distance_uncertainty",
            {"datasets": ["digits", "mnist"]},
            "datasets = 'mnist': allowed are digits, fashion_mnist",
        ),
    ],
)
def test_what_one_of_them_refuses(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lookup.resolve("experiments", name).run(**options)


def test_the_defaults_fit():
    for name in CHECKED:
        defaults = signature(lookup.resolve("experiments", name).run).parameters
        check = signatures.function("experiments", name, "CHECK")
        assert check(**{key: option.default for key, option in defaults.items()}) is None
