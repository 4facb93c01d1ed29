"""Figures with several architectures, of whole and of degenerate studies."""

import numpy as np
import pyarrow as pa
import pytest
import synthetic_study

from lipdescent.analysis import groups
from lipdescent.figures import _style as style
from lipdescent.plugins import lookup
from lipdescent.storage import table

COMPARISONS = lookup.known("comparisons")
CERTIFICATES = (
    ("certified_accuracy@0", "metric", "l2", "test", 0.02),
    ("certified_accuracy@0.1", "metric", "l2", "test", 0.01),
    ("pgd_accuracy@0", "metric", "l2", "test", 0.02),
    ("pgd_accuracy@0.1", "metric", "l2", "test", 0.015),
    ("certified_accuracy@0.05", "metric", "linf", "test", 0.01),
    ("mean_certified_radius", "metric", "l2", "train", 0.001),
)
WHOLE = {"bounds": synthetic_study.BOUNDS + CERTIFICATES}
STUDIES = {
    "whole": WHOLE,
    "no_certificates": {},
    "no_bound": {"bounds": ()},
    "one_of_each": WHOLE | {"widths": (16,), "seeds": (3,), "noises": (0.0,), "epochs": (0,)},
    "one_seed": WHOLE | {"seeds": (0,)},
    "all_diverged": WHOLE
    | {"widths": (16,), "noises": (0.2,), "seeds": (0,), "diverged": ((16, 0.2, 0),)},
}


def draw(comparison, study, folder, patch, names=("mlp", "one_lipschitz")):
    del patch
    parts = [synthetic_study.make(**STUDIES[study], architecture=name) for name in names]
    table.write(folder / "table.parquet", pa.concat_tables(parts).unify_dictionaries())
    found = {
        name: groups.load_group(folder / "table.parquet", dataset="mnist1d", architecture=name)
        for name in names
    }
    drawn = lookup.resolve("comparisons", comparison).draw(
        found,
        statistics={"bootstrap": 50, "confidence": 0.9, "interpolation_accuracy": 0.995},
        losses=dict.fromkeys(names, "cross_entropy"),
    )
    drawn.canvas.draw()
    return drawn


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("comparison", COMPARISONS)
def test_nothing_is_clipped_or_covered(comparison, study, tmp_path, monkeypatch):
    drawn = draw(comparison, study, tmp_path, monkeypatch)
    renderer = drawn.canvas.get_renderer()
    width, height = drawn.get_size_inches()
    assert width == style.TWO_COLUMNS
    whole = drawn.get_tightbbox(renderer)
    assert min(whole.x0, whole.y0) >= -0.01
    assert whole.x1 <= width + 0.01
    assert whole.y1 <= height + 0.01
    for legend in drawn.legends:
        box = legend.get_window_extent(renderer)
        assert not any(box.overlaps(axes.get_window_extent(renderer)) for axes in drawn.axes)
    assert "one lipschitz" in [text.get_text() for text in drawn.legends[0].get_texts()]
    if study == "all_diverged":
        assert "2 diverged models left out" in drawn.get_suptitle()


def test_certified_accuracy_is_drawn_over_its_radii(tmp_path, monkeypatch):
    drawn = draw("certified_accuracy", "whole", tmp_path, monkeypatch)
    lines = drawn.axes[0].lines
    np.testing.assert_array_equal(lines[0].get_xdata(), [0, 0.1])
    assert (lines[0].get_ydata()[1] < lines[1].get_ydata()[1]).all()
    assert lines[1].get_linestyle() == "--"


def test_what_was_not_measured_has_no_row(tmp_path, monkeypatch):
    rows = {
        study: len(draw("over_width", study, tmp_path, monkeypatch).axes) // 3
        for study in ("whole", "no_certificates")
    }
    assert rows == {"whole": 4, "no_certificates": 3}
