"""Axes of a figure: what is said, what is taken where nothing is, what is refused."""

import pytest

from lipdescent.analysis.axis_choice import Choice, axes_of, choose

GRID = {"label_noise": [0.2, 0], "width": [8, 4], "epoch": [0, 10]}
ONE = {"label_noise": [0], "width": [8, 4], "epoch": [0, 10]}
BOTH = [
    (name, {"optimizer": optimizer, "depth": depth})
    for name in ("mlp",)
    for optimizer in ("sgd", "adam")
    for depth in (3, 1, 2)
]
TWO = [(name, point) for name in ("mlp", "cnn") for _, point in BOTH]


@pytest.mark.parametrize(
    ("of", "grid", "said", "wanted"),
    [
        (BOTH, GRID, {}, ("depth", "optimizer", "label_noise", {"width": 8, "epoch": 10})),
        (TWO, GRID, {}, ("depth", "optimizer", "architecture",
                         {"label_noise": 0, "width": 8, "epoch": 10})),
        ([("mlp", {})], ONE, {}, ("width", None, None, {"label_noise": 0, "epoch": 10})),
        (BOTH, ONE, {"x": "width"},
         ("width", "optimizer", "depth", {"label_noise": 0, "epoch": 10})),
        (BOTH, ONE, {"x": "num_parameters", "at": {"depth": 2.0}},
         ("num_parameters", "optimizer", None, {"depth": 2, "label_noise": 0, "epoch": 10})),
        (BOTH, ONE, {"colour": "epoch", "at": {"optimizer": "adam"}},
         ("depth", "epoch", None, {"optimizer": "adam", "label_noise": 0, "width": 8})),
    ],
)  # fmt: skip
def test_what_is_chosen(of, grid, said, wanted):
    assert choose(axes_of(of, grid), **said) == Choice(*wanted)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"x": "dept"}, "unknown axis x 'dept'.*'depth'"),
        ({"x": "optimizer"}, "unknown axis x 'optimizer'.*known: depth, label_noise, width, epoch"),
        ({"colour": "seed"}, "unknown axis colour 'seed'"),
        ({"panel": "num_parameters"}, "unknown axis panel 'num_parameters'"),
        ({"at": {"depht": 1}}, "unknown axis at 'depht'.*'depth'"),
        ({"at": {"depth": 9}}, "at.depth = 9: allowed is one of 3, 1, 2"),
        ({"x": "num_parameters", "colour": "width"}, "width is chosen twice"),
        ({"x": "width", "colour": "label_noise"}, "axis depth has 3 values.*allowed.*depth: 3"),
    ],
)
def test_what_is_refused(said, message):
    with pytest.raises(ValueError, match=message):
        choose(axes_of(TWO if "x" in said and said["x"] == "width" else BOTH, GRID), **said)
