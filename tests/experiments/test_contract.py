"""Every experiment keeps the contract of experiments/_contract.py, with options that are small."""

from functools import partial

import contracts
import numpy as np
import pandas as pd
import printed
import pytest
from image_files import write_mnist

from lipdescent.datasets import Dataset, fashion_mnist, mnist1d
from lipdescent.experiments import distance_preservation, two_points, wasserstein
from lipdescent.experiments._contract import ExperimentPlugin
from lipdescent.study.code_digest import caption

EXPERIMENTS = contracts.plugins("experiments")
# A second of each; one that is not named here runs with its defaults.
SMALL = {
    "distance_preservation": {
        "widths": [2], "constants": [0.5], "bounded": [0.1], "seeds": [0], "steps": 2,
        "num_points": 3, "num_searches": 1,
    },
    "distance_preservation_images": {
        "datasets": ["digits"], "downsampling": ["strided"], "coefficients": [0.5], "seeds": [0],
        "steps": 2, "num_points": 3, "num_searches": 1, "search_steps": 2,
    },
    "distance_uncertainty": {
        "datasets": ["digits"], "coefficients": [0.5], "seeds": [0], "width": 2, "steps": 2,
    },
    "generated_distances": {
        "images": ["digits"], "seeds": [0], "num_points": 20, "width": 8, "generator_steps": 2,
        "looks": [0, 2],
    },
    "geolip": {"networks": ["4 plain"], "steps": 2, "num_train": 60, "num_points": 20},
    "isometry": {"seeds": [0], "depths": [2], "width": 8, "num_points": 5},
    "koch_snowflakes": {
        "seeds": [0], "order": 1, "width": 8, "depth": 1, "steps": 2, "num_train": 50,
        "num_rows": 7,
    },
    "margin_class": {"seeds": [0], "counts": [2], "steps": 2},
    "temperature": {"tasks": ["mixture"], "taus": [1, 4], "seeds": [0], "steps": 2},
    "trained_gradients": {
        "constraints": ["none", "bjorck"],  # of a spectral norm: test_trained_gradients.py
        "seeds": [0], "width": 8, "num_train": 60, "num_points": 20, "looks": [0, 2],
    },
    "two_points": {"seeds": [0], "taus": [1], "times": [1, 2]},
    "wasserstein_critic": {"seeds": [0], "taus": [8], "steps": 2},
    "wasserstein": {"seeds": [0], "tasks": ["absolute_value"]},
}  # fmt: skip
every_experiment = pytest.mark.parametrize("name", EXPERIMENTS)


def few_signals(*, num_train: int, num_test: int, seed: int) -> Dataset:
    """In the place of MNIST1D, whose 5000 points take a second to make."""
    draws = np.random.default_rng(seed)
    train, test = (draws.normal(size=(count, 40)).astype(np.float32) for count in (100, 20))
    return Dataset(train, np.arange(100) % 10, test, np.arange(20) % 10, 10)


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Small files in the place of Fashion-MNIST; what has no option for it is small too."""
    monkeypatch.setattr(mnist1d, "load", few_signals)
    few = partial(distance_preservation.measure_stack, search_steps=2)
    monkeypatch.setattr(distance_preservation, "measure_stack", few)
    monkeypatch.setattr(two_points, "fit", partial(two_points.fit, steps=2))
    monkeypatch.setattr(wasserstein, "fit", partial(wasserstein.fit, steps=2, width=8))
    write_mnist(tmp_path, monkeypatch, counts=(60, 20), modules=(fashion_mnist,))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)


@every_experiment
def test_signature(name):
    contracts.check(EXPERIMENTS[name], ExperimentPlugin)
    assert not contracts.needed(EXPERIMENTS[name].run), "options have defaults"
    assert caption(f"lipdescent/experiments/{name}.py")


@every_experiment
def test_the_same_table_twice_and_a_figure_of_what_is_read_back(name, quick, tmp_path):
    with contracts.no_global_draws():
        frame, again = (EXPERIMENTS[name].run(**SMALL.get(name, {})) for _ in range(2))
    assert len(frame)
    unnamed = frame.drop(columns="seconds", errors="ignore")
    pd.testing.assert_frame_equal(unnamed, again[unnamed.columns])
    frame.to_parquet(tmp_path / "table.parquet", index=False)
    read = pd.read_parquet(tmp_path / "table.parquet")
    figure = contracts.check_drawing(lambda: EXPERIMENTS[name].draw(read))
    printed.check_without_colour(figure)
    for axes in figure.axes:  # what a line across is, is said
        names = {line.get_label() for line in axes.lines if line.get_linestyle() == ":"}
        unnamed = any(label.startswith("_") for label in names)
        assert not unnamed or axes.texts or "exact: " in axes.figure.axes[0].get_ylabel()
