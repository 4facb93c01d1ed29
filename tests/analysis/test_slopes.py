"""Panels of a made-up study whose bounds are exact power laws."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import synthetic_study

from lipdescent.analysis import groups, point_slopes, power_law, slopes
from lipdescent.storage import table, variants

OPTIONS = {"confidence": 0.9, "interpolation_accuracy": 0.995}
EPOCHS = (0, 1, 2, 4, 8, 16, 32)


def group_of(change, name="mlp", **study):
    """A study whose values are those of ``change(row)``."""
    frame = synthetic_study.make(epochs=EPOCHS, scatter=0, **study).to_pandas()
    frame["value"] = [change(row) for row in frame.itertuples()]
    point = study.get("point") or {}
    columns = {name: frame[name].to_numpy() for name in frame if name not in point}
    rows = table.from_columns(len(frame), point=point or None, **columns)
    return groups.group_of(rows, dataset="mnist1d", architecture=variants.name(name, point))


def law(row):
    """Bounds grow as epoch^.5, the layer product as epoch^.9; before epoch 4 they bend."""
    if row.direction == "metric":
        return row.value
    ratio = {"lower_jacobian": 1.0, "upper_lipsdp": 1.3, "upper_layer_product": 2.0}[row.quantity]
    exponent = 0.9 if row.quantity == "upper_layer_product" else 0.5
    time = max(row.epoch, 1) if row.epoch >= 4 else 40.0
    return ratio * (1 + 0.01 * row.seed) * time**exponent * row.width**-0.25


def test_fits_start_where_all_curves_are_straight_and_the_bracket_excludes_the_layer_product():
    group = group_of(law)
    panels = slopes.panels(group, "epoch", norm="l2", options=OPTIONS)
    assert [panel.at for panel in panels] == [
        {"width": width, "label_noise": noise} for width in (16, 128) for noise in (0.0, 0.4)
    ]
    for panel in panels:
        assert panel.x[panel.start] == 4
        assert len(panel.seeds) == 3
        exponents = {name: fit.exponent.value for name, fit in panel.fits.items()}
        assert exponents == pytest.approx(
            {"Jacobian (lower)": 0.5, "LipSDP (upper)": 0.5, "layer product (upper)": 0.9}
        )
        assert panel.constant["average"].low == pytest.approx(0.5 - np.log(1.3) / np.log(8))
        assert panel.constant["average"].high == pytest.approx(0.5 + np.log(1.3) / np.log(8))
        assert panel.excluded == ["layer product (upper)"]


def test_over_width_at_the_last_epoch():
    (clean, _) = slopes.panels(group_of(law), "width", norm="l2", options=OPTIONS)
    assert clean.at == {"label_noise": 0.0, "epoch": 32}
    assert clean.start == 0
    assert [fit.exponent.value for fit in clean.fits.values()] == pytest.approx([-0.25] * 3)


def test_the_user_chooses_the_start():
    options = OPTIONS | {"fit_from": {"epoch": 2}}
    panel = slopes.panels(group_of(law), "epoch", norm="l2", options=options)[0]
    assert panel.x[panel.start] == 2
    assert panel.fits["LipSDP (upper)"].r_squared < 0.9
    late = slopes.panels(
        group_of(law), "epoch", norm="l2", options=OPTIONS | {"fit_from": {"epoch": 10}}
    )[0]
    assert late.start is None
    assert late.reason == "2 points from 10 on, a fit needs 3"
    assert not late.fits


def test_a_seed_that_lacks_a_point_is_left_out_of_all_fits():
    group = group_of(law, diverged=((128, 0.0, 1),))
    panel = slopes.panels(group, "epoch", norm="l2", options=OPTIONS)[2]
    assert panel.seeds.tolist() == [0, 2]
    assert panel.fits["LipSDP (upper)"].exponent.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"bounds": ()}, "no bound and no Jacobian norm"),
        ({"widths": (4, 8)}, "2 points, a fit needs 3"),
        ({"widths": (8,)}, "1 point, a fit needs 3"),
    ],
)
def test_where_there_is_no_fit_it_is_said_why(study, said):
    panel = slopes.panels(group_of(law, **study), "width", norm="l2", options=OPTIONS)[0]
    assert panel.start is None
    assert panel.reason == said


def test_no_start_is_chosen_where_nothing_is_straight():
    group = group_of(lambda row: row.value if row.direction == "metric" else 1 + row.width % 3)
    panel = slopes.panels(group, "width", norm="l2", options=OPTIONS)[0]
    assert panel.reason == "the last 3 points are not within a factor 1.1 of a line"


def test_without_an_upper_bound_nothing_is_proved():
    lower = tuple(bound for bound in synthetic_study.BOUNDS if bound[1] == "lower")
    panel = slopes.panels(group_of(law, bounds=lower), "epoch", norm="l2", options=OPTIONS)[0]
    assert panel.constant is None
    assert panel.excluded == []
    assert list(panel.fits) == ["Jacobian (lower)"]


def test_one_of_the_two_exponents_outside_excludes_a_curve():
    inside = dict.fromkeys(("least_squares", "average"), power_law.Range(0.0, 1.0, 0.0, 1.0))
    fits = {
        f"{line} {ends}": power_law.Fit(
            *(SimpleNamespace(value=value) for value in (line, ends)), r_squared=1.0
        )
        for line in (0.0, 2.0)
        for ends in (1.0, -1.0)
    }
    panel = slopes.Panel("epoch", {}, np.ones(3), {}, np.arange(1), 0, "", fits, inside)
    assert panel.excluded == ["0.0 -1.0", "2.0 1.0", "2.0 -1.0"]
    assert panel._replace(constant=None).excluded == []


def at_points(values, change, **study):
    """A group at each point of a further axis; every bound is multiplied by ``change(point)``."""
    found = []
    for point in values:
        group = group_of(law, point=point, name="mlp", **study)
        series = {key: array * change(point) for key, array in group.series.items()}
        found.append(dataclasses.replace(group, series=series))
    return found


def test_over_a_further_axis_of_numbers_whatever_the_order_of_its_values():
    points = [{"depth": d, "kind": kind} for d in (4, 1, 2) for kind in ("a", "b")]
    groups_at = at_points(points, lambda point: 3.0 * point["depth"] ** 1.5)
    panels = point_slopes.panels(groups_at, norm="l2", options=OPTIONS)
    assert [(panel.axis, panel.at["kind"], panel.at["label_noise"]) for panel in panels] == [
        ("depth", kind, noise) for kind in "ab" for noise in (0.0, 0.4)
    ]
    for panel in panels:
        assert panel.x.tolist() == [1, 2, 4]
        assert (panel.at["width"], panel.at["epoch"]) == (128, 32)
        assert [fit.exponent.value for fit in panel.fits.values()] == pytest.approx([1.5] * 3)
        assert panel.constant["average"].low == pytest.approx(1.5 - np.log(1.3) / np.log(4))


def test_a_further_axis_starts_where_the_user_says_and_zero_has_no_logarithm():
    points = [{"decay": d} for d in (0.0, 0.1, 0.2, 0.4, 0.8)]
    groups_at = at_points(points, lambda point: 5.0 if point["decay"] < 0.2 else point["decay"])
    options = OPTIONS | {"fit_from": {"decay": 0.2}}
    panel = point_slopes.panels(groups_at, norm="l2", options=options)[0]
    assert panel.x.tolist() == [0.1, 0.2, 0.4, 0.8]
    assert panel.start == 1
    assert [fit.exponent.value for fit in panel.fits.values()] == pytest.approx([1.0] * 3)
    words = at_points([{"kind": "a"}, {"kind": "b"}], lambda point: 1.0)
    assert point_slopes.panels(words, norm="l2", options=OPTIONS) == []
