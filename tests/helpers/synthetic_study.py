"""A table of a made-up study with known peaks, for tests of what is computed from tables."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa

from lipdescent.storage import table

WIDTHS = (4, 8, 16, 32, 64, 128)
METRICS = {
    "test_loss": "test",
    "train_loss": "train",
    "test_accuracy": "test",
    "train_accuracy": "train",
    "test_loss_calibrated": "test",
    "num_train": "",
    "num_classes": "",
}
BOUNDS = (
    ("lower_jacobian", "lower", "l2", "train", 0.8),
    ("lower_jacobian", "lower", "l2", "test", 0.7),
    ("lower_jacobian", "lower", "linf", "train", 0.8),
    ("upper_lipsdp", "upper", "l2", "", 1.25),
    ("upper_layer_product", "upper", "l2", "", 3.0),
    ("upper_layer_product", "upper", "linf", "", 9.0),
)


def hump(width: float, peak: float) -> float:
    """1 at ``peak``, falling to both sides on a log scale; never below 0.4."""
    return 0.4 + 0.6 * np.exp(-(np.log2(width / peak) ** 2) / 2)


def make(
    *,
    widths=WIDTHS,
    noises=(0.0, 0.2, 0.4),
    seeds=(0, 1, 2),
    epochs=(0, 10, 100),
    bounds=BOUNDS,
    diverged=(),
    not_applicable=(),
    scatter=0.01,
    growth=1.0,
    dataset="mnist1d",
    architecture="mlp",
    point=None,
) -> pa.Table:
    """Test error, test loss and constant peak at width 16 without noise, at 32 with 20 % and more.

    There are as many parameters as training points at width 32.

    The true constant is 40 x hump x growth at the last noise level; every bound is its factor
    times that. ``diverged`` lists (width, noise, seed) whose last epoch is NaN, ``not_applicable``
    upper bounds that no network has; ``point`` is of further axes.
    """
    rows = {name: [] for name in table.COLUMNS.names}
    draws = np.random.default_rng(7)
    for width, noise, seed, epoch in itertools.product(widths, noises, seeds, epochs):
        peak = 16 if noise < 0.2 else 32
        grown = growth if noise == noises[-1] else 1.0
        time = 0.1 + 0.9 * epoch / max(epochs[-1], 1)
        factor = 1 + scatter * draws.standard_normal()
        constant = 40 * hump(width, peak) * grown * time * factor
        interpolates = width >= peak and epoch == epochs[-1]
        values = {
            "test_loss": 5 * hump(width, peak) * time * factor,
            "train_loss": 0.01 if interpolates else 1.0,
            "test_accuracy": 1 - 0.5 * hump(width, peak) * time * factor,
            "train_accuracy": 1.0 if interpolates else 0.7,
            "test_loss_calibrated": 1 + 0.2 * hump(width, peak) * time * factor,
            "num_train": 1600,
            "num_classes": 10,
        }
        measured = [(name, "metric", "", METRICS[name], value) for name, value in values.items()]
        measured += [
            (name, side, norm, split, constant * ratio) for name, side, norm, split, ratio in bounds
        ]
        measured += [(name, "upper", "l2", "", np.nan) for name in not_applicable]
        bad = (width, noise, seed) in diverged and epoch == epochs[-1]
        for quantity, direction, norm, split, value in measured:
            cell = {
                "study": "made-up",
                "dataset": dataset,
                "architecture": architecture,
                "width": width,
                "num_parameters": 50 * width,
                "label_noise": noise,
                "seed": seed,
                "epoch": epoch,
                "split": split,
                "quantity": quantity,
                "direction": direction,
                "norm": norm,
                "value": np.nan if bad else value,
                "status": "diverged" if bad else "ok",
            }
            if quantity in not_applicable:
                cell["status"] = "not_applicable"
            for name, item in cell.items():
                rows[name].append(item)
    return table.from_columns(len(rows["value"]), point=point, **rows)


def diverged(**study) -> pa.Table:
    """A study whose every network diverged: rows of what was asked for, as no metric is known."""
    frame = make(epochs=(100,), bounds=(), **study).to_pandas()
    frame = frame[frame["quantity"] == "test_loss"].astype({"quantity": str, "status": str})
    frame = frame.assign(quantity="metrics", value=np.nan, status="diverged")
    return table.from_columns(len(frame), **{name: frame[name].to_numpy() for name in frame})
