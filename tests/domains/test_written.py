"""Domains as a configuration, the command line and Python write them."""

import re

import pytest

from lipdescent.domains import written


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("everywhere", "everywhere"),
        ("box:0,1", {"box": [0.0, 1.0]}),
        ("box:-.5,.5", {"box": [-0.5, 0.5]}),
        ("ball:l2:0.1", {"ball": {"radius": 0.1, "norm": "l2"}}),
        ("ball:linf:0", {"ball": {"radius": 0.0, "norm": "linf"}}),
        ("{box: [0, 1]}", {"box": [0.0, 1.0]}),
        ("{ball: {radius: 0.5}}", {"ball": {"radius": 0.5, "norm": "l2"}}),
    ],
)
def test_words_mean_what_a_mapping_says(text, meant):
    assert written.checked(text) == meant == written.checked(meant)


def test_the_ball_of_a_configuration_is_l2_unless_it_says_otherwise():
    assert written.checked({"ball": {"radius": 1}}) == {"ball": {"radius": 1.0, "norm": "l2"}}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"box": [1, 0]}, "empty"),
        ({"box": [0, float("nan")]}, "finite"),
        ({"box": [0]}, "low, high"),
        ({"box": [0, float("inf")]}, "finite"),
        ({"ball": {"radius": -1}}, "radius"),
        ({"ball": {"radius": float("inf")}}, "everywhere"),
        ({"ball": {"radius": float("nan")}}, "radius"),
        ({"ball": {"radius": 1, "norm": "l3"}}, "l3"),
        ({"ball": 3}, "radius"),
        ({"box": [0, 1], "ball": {"radius": 1}}, "allowed"),
        ({"cube": 3}, "cube"),
        (3, "allowed"),
    ],
)
def test_what_is_no_domain_is_refused_with_what_is_allowed(value, named):
    with pytest.raises(ValueError, match=named):
        written.checked(value)


@pytest.mark.parametrize(
    "text",
    [
        "box:1,0",
        "box:a,b",
        "ball:l2",
        "ball:0.1",
        "sphere:1",
        "box",
        "",
        "{box: [0, 1]",
        "{box: 0}",
    ],
)
def test_wrong_words_are_refused_by_name(text):
    with pytest.raises(ValueError, match=f"domain {re.escape(text)}.*(allowed|could not|expected)"):
        written.checked(text)
