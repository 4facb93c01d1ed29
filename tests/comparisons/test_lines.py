"""Figures whose lines run along a further axis show the table's numbers."""

import numpy as np
import pytest
import synthetic_study

from lipdescent.analysis import groups
from lipdescent.comparisons import _lines, accuracy_front, generalisation, layer_norms
from lipdescent.storage import variants

STATISTICS = {"confidence": 0.9, "interpolation_accuracy": 0.995}


def group(architecture="mlp", **options):
    point = options.get("point") or {}
    rows = synthetic_study.make(widths=(16,), noises=(0.0,), architecture=architecture, **options)
    name = variants.name(architecture, point)
    return name, groups.group_of(rows, dataset="mnist1d", architecture=name)


def draw(figure, *found):
    shown = dict(found)
    losses = dict.fromkeys(shown, "cross_entropy")
    return figure.draw(shown, statistics=STATISTICS, losses=losses)


def accuracies(factor):
    return [
        (f"{kind}_accuracy@{radius}", "metric", "l2", "test", factor * share)
        for kind, shares in {"certified": (0.02, 0.01), "pgd": (0.02, 0.015)}.items()
        for radius, share in zip((0, 0.1), shares, strict=True)
    ]


def mean(of, quantity):
    (values,) = (v for key, v in of.series.items() if key.quantity == quantity)
    return values[-1, 0, -1].mean()


def test_groups_that_differ_along_one_axis_are_a_line_in_its_order():
    found = dict(
        group(point={"tau": tau, "num_train": n}) for tau in (4, 1) for n in (300, 100, 200)
    ) | dict([group("other")])
    along = _lines.lines(found, axis="num_train")
    sizes = {name: [g.point.get("num_train") for g in line] for name, line in along.items()}
    whole = [100, 200, 300]
    assert sizes == {"mlp, tau 4": whole, "mlp, tau 1": whole, "other": [None]}
    first = _lines.lines(found)
    assert [g.point.get("tau") for g in first["mlp, num train 200"]] == [1, 4]


def test_the_front_shows_accuracy_over_certified_and_attacked_accuracy():
    taus = {1: 0.5, 4: 1.0}
    found = [group(point={"tau": t}, bounds=accuracies(f)) for t, f in taus.items()]
    (axes,) = draw(accuracy_front, *found).axes
    certified, attacked = axes.lines
    for line, kind in ((certified, "certified"), (attacked, "pgd")):
        own = [g for _, g in found]
        x, y = ([mean(g, f"{kind}_accuracy@{r}") for g in own] for r in ("0.1", "0"))
        np.testing.assert_allclose(line.get_xdata(), x)
        np.testing.assert_allclose(line.get_ydata(), y)
    assert attacked.get_linestyle() == "--"
    assert [text.get_text() for text in axes.texts] == ["tau 1", "tau 4"]


def test_losses_and_their_gap_over_the_size_of_the_data():
    found = [group(point={"num_train": n}, growth=g) for n, g in ((400, 1.0), (100, 2.0))]
    found.append(group("other"))
    left, right = draw(generalisation, *found).axes
    test, train = left.lines[:2]
    (gap,) = right.lines
    own = [found[1][1], found[0][1]]
    for line, split in ((test, "test"), (train, "train")):
        np.testing.assert_allclose(line.get_xdata(), [100, 400])
        np.testing.assert_allclose(line.get_ydata(), [mean(g, f"{split}_loss") for g in own])
    np.testing.assert_allclose(gap.get_ydata(), test.get_ydata() - train.get_ydata())
    assert len(left.lines) == 2  # the other architecture has no such axis


@pytest.mark.parametrize("measured", [True, False])
def test_norms_of_layers_over_epochs(measured):
    weights = ("0.weight", "10.weight", "2.weight")
    kinds = {"layer_frobenius_norm": "", "layer_spectral_norm": "l2"}
    bounds = [
        (f"{kind}@{name}", "metric", norm, "", 1.0 + place)
        for kind, norm in kinds.items()
        for place, name in enumerate(weights)
    ] if measured else ()  # fmt: skip
    name, of = group(bounds=bounds)
    loss, frobenius, _ = (figure := draw(layer_norms, (name, of))).axes
    if not measured:
        assert "quantities has no layer_norms" in frobenius.texts[0].get_text()
        return
    (values,) = (v for key, v in of.series.items() if key.quantity == "test_loss")
    curve = np.exp(np.log(values[0, 0]).mean(-1))
    best = loss.lines[-1].get_xdata()[0]
    assert best == of.epoch[curve.argmin()]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["layer 0", "layer 2", "layer 10", "least test loss"]
    (second,) = (v for k, v in of.series.items() if k.quantity == "layer_frobenius_norm@2.weight")
    np.testing.assert_allclose(frobenius.lines[1].get_ydata(), second[0, 0].mean(-1))
