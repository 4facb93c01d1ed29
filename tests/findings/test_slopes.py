"""What findings say of power laws."""

import pytest

from lipdescent.findings import slopes

FACTS = {
    "over": "width",
    "at": {"label_noise": 0.0, "epoch": 500},
    "from": 64.0,
    "to": 512.0,
    "fits": {
        "ours": {
            "exponent": {"value": -0.2517, "low": -0.267, "high": -0.236},
            "average": {"value": -0.2612, "low": -0.283, "high": -0.239},
        }
    },
    "constant": {
        "least_squares": {"low": -0.2605, "high": -0.1407},
        "average": {"low": -0.2578, "high": -0.1576},
    },
    "excluded": ["ours"],
}


def test_what_is_excluded_is_told_with_the_exponents_that_were_compared():
    told = slopes.headline([FACTS], "l2")
    assert "between -0.26 and -0.15" in told
    assert "ours -0.25 [-0.27, -0.24]. Excluded" in told
    assert told.endswith("ours (on average -0.261, the constant's -0.258 to -0.157).")


def test_least_squares_are_compared_with_least_squares():
    constant = FACTS["constant"] | {"least_squares": {"low": -0.1995, "high": 0.0}}
    told = slopes.headline([FACTS | {"constant": constant}], "l2")
    assert "ours (by least squares -0.252, the constant's -0.200 to 0.000)" in told


def test_what_is_not_excluded_is_not_told_to_be():
    inside = FACTS | {"constant": {n: {"low": -1.0, "high": 0.0} for n in FACTS["constant"]}}
    with pytest.raises(ValueError, match="ours is not excluded"):
        slopes.headline([inside], "l2")
    assert "Excluded" not in slopes.headline([inside | {"excluded": []}], "l2")
